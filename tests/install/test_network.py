"""No command uses the network: Python's own calls are refused and noted, and the system counts all others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from calls import CALLS, run_calls

HERE = Path(__file__).resolve().parent
# A network of its own, in which every address is this machine's: what is sent anywhere is sent, and counted.
OWN_NETWORK = """
ip link set lo up && ip route add local default dev lo && { ip -6 route add local default dev lo || true; }
"$@"; status=$?
cat /proc/net/snmp /proc/net/snmp6 >"$AICL_FAST_COUNTS"
exit $status
"""
COUNTED = ("Tcp:ActiveOpens", "Udp:OutDatagrams", "Udp6OutDatagrams")
LOOKUP = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('example.org', 80)"


def own_network() -> tuple[str, ...]:
    """What a command is started with to be in a network of its own; skips where that is not allowed."""
    start = ("unshare", "--net", "--map-root-user", "bash", "-c", OWN_NETWORK, "bash")
    tried = shutil.which("unshare") and shutil.which("ip")
    if not tried or subprocess.run([*start[:-3], "-c", "ip link set lo up"], capture_output=True).returncode:
        pytest.skip("networks of one's own are not allowed here (unshare --net)")
    return start


def sent(counts: Path) -> dict[str, int]:
    """Connections that were begun, and datagrams sent, by the counters of the system."""
    found: dict[str, int] = {}
    rows = [line.split() for line in counts.read_text().splitlines()]
    for names, values in pairwise(rows):
        if names[0] == values[0]:  # a line of names, and one of values
            pairs = zip(names[1:], values[1:], strict=True)
            found |= {names[0] + name: int(value) for name, value in pairs}
        elif len(values) == 2:
            found[values[0]] = int(values[1])
    return {name: found[name] for name in COUNTED}


def test_the_guards_see_a_lookup(tmp_path: Path) -> None:
    notes, counts = tmp_path / "notes.txt", tmp_path / "counts.txt"
    own = {
        "AICL_FAST_GUARD": str(notes),
        "AICL_FAST_COUNTS": str(counts),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    guarded = {**own, "PYTHONPATH": str(HERE / "guard")}
    subprocess.run([sys.executable, "-c", LOOKUP], env=guarded, check=True)
    assert "example.org" in notes.read_text()
    start = own_network()
    # The system's own resolver, which asks no server where none is set, is not what is tried here.
    send = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'?', ('192.0.2.1', 53))"
    subprocess.run([*start, sys.executable, "-c", send], env=own, check=True)
    assert sent(counts)["Udp:OutDatagrams"] == 1


@pytest.mark.slow
def test_no_command_uses_the_network(inputs: Path, tmp_path: Path) -> None:
    notes, counts = tmp_path / "notes.txt", tmp_path / "counts.txt"
    home = tmp_path / "home"
    home.mkdir()
    try:
        before = own_network()
    except pytest.skip.Exception:
        before = ()
    done = run_calls(
        Path(sys.executable),
        tmp_path / "work",
        inputs,
        list(CALLS),
        before=before,
        PYTHONPATH=str(HERE / "guard"),
        AICL_FAST_GUARD=str(notes),
        AICL_FAST_COUNTS=str(counts),
        HOME=str(home),
    )
    assert {name: output for name, (code, output) in done.items() if code} == {}
    assert not notes.exists(), notes.read_text()
    if before:
        assert not any(sent(counts).values()), sent(counts)
    # Whoever reports keeps an identifier first.
    kept = {path.relative_to(home).as_posix() for path in home.glob(".*/*")}
    assert kept <= {".cache/matplotlib", ".config/matplotlib"}, kept
