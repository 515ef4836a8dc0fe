"""Python imports this first where its folder is in PYTHONPATH: use of the network fails and is noted."""

import os
import sys

_NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
_SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind")


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _NAMES + _SENDS:
        return
    if event in _SENDS:
        family = getattr(arguments[0], "family", None)
        if family is not None and family.name in ("AF_UNIX", "AF_NETLINK"):
            return
    with open(os.environ["AICL_FAST_GUARD"], "a", encoding="utf-8") as notes:
        notes.write(f"{event} {arguments[1:] if event in _SENDS else arguments} in {sys.argv}\n")
    raise OSError(f"{event}: the network is not to be used")


sys.addaudithook(_refuse)
