"""What is watched while it goes on: a camera, an address, a growing file or a pipe, and how each is opened.

Nothing else in the package opens an address. FFmpeg is told which protocols and formats may follow from it.
"""

from __future__ import annotations

import os
import re
import select
import ssl
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from aicl_fast.errors import ConfigError, DataError
from aicl_fast.extras import needs
from aicl_fast.files import require_file, video_name
from aicl_fast.limits import require_size
from aicl_fast.text import clean_text
from aicl_fast.video.mp4 import SAMPLE_BYTES, claimed_samples
from aicl_fast.video.opening import FORMATS, METADATA, most_pixels, reading_video, said, video_stream

with needs("video"):
    import av

Kind = Literal["camera", "address", "file", "pipe"]

PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "http": "http,https,tls,tcp",
    "https": "http,https,tls,tcp",
    "tcp": "tcp",
    "udp": "udp",
}
"""The protocols of addresses, and for each the protocols of FFmpeg that it may lead to."""
_MORE_FORMATS = {"rtsp": ",rtsp,rtp,sdp", "http": ",hls", "https": ",hls"}
"""Formats that no file may have, since they name addresses."""
_OPTIONS = {"rtsp": {"rtsp_flags": "prefer_tcp"}, "udp": {"overrun_nonfatal": "1"}}
"""UDP loses what is late, and that is no reason to end."""
_NO_PROTOCOL = "none"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_CAMERAS = ("/dev/video", "/dev/v4l/")
_MP4 = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
"""The first box of an .mp4, whose index may be at its end."""
_FRAGMENTED, _HEAD = b"mvex", 1 << 20
"""What the index of one says that is written piece by piece, and where it is."""
_LOOK = 0.05
"""Seconds from one look at a growing file, or at whether to stop, to the next."""
PIPE = "-"


@dataclass(frozen=True)
class Source:
    """What is watched.

    Attributes:
        target: as it is opened.
        kind: what it is.
        name: as it may be printed: of an address, no user, password or query.
        video: the name that its detections carry.
    """

    target: str
    kind: Kind
    name: str
    video: str

    @property
    def live(self) -> bool:
        """Whether it goes on without waiting for its reader, and may come back when it broke."""
        return self.kind in ("camera", "address")


def parse_source(text: str) -> Source:
    """What a user names: ``-``, ``/dev/video0``, a file, or an address of :data:`PROTOCOLS`.

    Raises:
        ConfigError: another protocol, or an address without a host.
        DataError: no such file.
    """
    if text == PIPE:
        return Source(text, "pipe", "standard input", "stdin")
    scheme = _SCHEME.match(text)
    if scheme is not None and not os.path.exists(text):
        return _address(text, scheme[1].lower())
    if text.startswith(_CAMERAS):
        return Source(text, "camera", clean_text(text), clean_text(Path(text).name))
    try:
        if stat.S_ISFIFO(os.stat(text).st_mode):
            return Source(text, "pipe", clean_text(text), clean_text(Path(text).name))
    except (OSError, ValueError):
        pass  # said in the next line
    path = require_file(text, "video")
    return Source(text, "file", clean_text(text), video_name(path))


def _address(text: str, scheme: str) -> Source:
    known = ", ".join(f"{name}://" for name in PROTOCOLS)
    if scheme not in PROTOCOLS or not text[len(scheme) :].startswith("://"):
        raise ConfigError(
            f"{clean_text(scheme)}: is no protocol that is opened; expected {known}, /dev/video0, a file, "
            "or - for standard input. A file is named by its path alone."
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    listening = scheme in ("tcp", "udp") and port is not None
    if not host and not listening:
        raise ConfigError(
            f"{scheme}: expected an address such as {scheme}://host:port/path, without a space."
        )
    host = f"[{host}]" if host and ":" in host else host or ""
    name = f"{scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"
    return Source(text, "address", clean_text(name), clean_text(name))


@contextmanager
def open_source(
    source: Source, stop: threading.Event, *, timeout: float, idle: float
) -> Iterator[tuple[Any, Any]]:
    """PyAV's container of a source, and its video stream.

    Args:
        stop: set to end reading a file or a pipe.
        timeout: seconds without an answer or data after which an address counts as broken.
        idle: seconds without growth after which a file counts as whole.
    Raises:
        DataError: it cannot be opened, or is no video.
    """
    with ExitStack() as stack:
        options = {
            "protocol_whitelist": _NO_PROTOCOL,
            "format_whitelist": FORMATS,
            "max_pixels": str(most_pixels(0)),
        }
        more: dict[str, Any] = dict(METADATA)
        opened: Any = source.target
        if source.kind == "camera":
            options["format_whitelist"] = "video4linux2,v4l2"
            more["format"] = "v4l2"
        elif source.kind == "address":
            scheme = source.target.split(":", 1)[0].lower()
            # FFmpeg knows protocols by their small letters.
            opened = scheme + source.target[len(scheme) :]
            options["protocol_whitelist"] = PROTOCOLS[scheme]
            options["format_whitelist"] += _MORE_FORMATS.get(scheme, "")
            options |= _secure() if scheme in ("http", "https") else {}
            options |= _OPTIONS.get(scheme, {})
            more["timeout"] = (timeout, timeout)
        else:
            opened = stack.enter_context(_bytes(source, stop, idle))
        try:
            container = stack.enter_context(av.open(opened, options=options, **more))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DataError(
                f"{source.name}: cannot be opened as a video ({reason(error, timeout)}). Check that it is "
                "there, and that it sends video."
            ) from error
        with reading_video(source.name):
            stream = video_stream(container, source.name, 0)
            context = stream.codec_context
            context.options = {"max_pixels": str(most_pixels(0))}
            if av.logging.get_level() is not None:
                context.thread_count = 1  # as in opening.py
            else:
                context.thread_type = "SLICE"  # threads of frames would hold back as many pictures
        yield container, stream


def reason(error: BaseException, timeout: float) -> str:
    """What a library says of its error; where it was stopped for being silent, that."""
    if isinstance(error, av.error.ExitError):
        return f"nothing came for {timeout:g} s"
    return said(error) if isinstance(error, Exception) else type(error).__name__


def _secure() -> dict[str, str]:
    """Certificates are checked, by those that Python trusts."""
    authorities = ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1", **({"ca_file": authorities} if authorities else {})}


@contextmanager
def _bytes(source: Source, stop: threading.Event, idle: float) -> Iterator[Any]:
    """A growing file or a pipe, as PyAV reads it."""
    if source.kind == "pipe":
        handle = sys.stdin.fileno() if source.target == PIPE else _open_fifo(source, stop)
        try:
            yield _Pipe(handle, stop)
        finally:
            if source.target != PIPE:
                os.close(handle)
        return
    path = require_file(source.target, "video")
    with path.open("rb", buffering=0) as file, reading_video(path):
        # What has its index at its end is sought in; of all others FFmpeg would look at the end, and wait.
        head = file.read(_HEAD)
        if head[4:8] in _MP4 and _FRAGMENTED not in head:
            samples = claimed_samples(path)
            what = f"the index of its {samples:,} samples"
            require_size(samples * SAMPLE_BYTES, path.stat().st_size, path, what)
            growing: _Growing = _Sought(file, stop, idle)
        else:
            growing = _Growing(file, stop, idle)
        file.seek(0)
        yield growing


def _open_fifo(source: Source, stop: threading.Event) -> int:
    """Without waiting for the program that writes to it: its first bytes are waited for."""
    return os.open(source.target, os.O_RDONLY | os.O_NONBLOCK)


class _Growing:
    """A file that another program may still be writing to."""

    def __init__(self, file: Any, stop: threading.Event, idle: float) -> None:
        self._file, self._stop, self._idle = file, stop, idle
        self._whole = False

    def read(self, size: int) -> bytes:
        """The next bytes, when they are there; none after the end."""
        deadline = time.monotonic() + self._idle
        while True:
            found: bytes = self._file.read(size)
            if found or self._whole:
                return found
            if self._stop.is_set() or time.monotonic() >= deadline:
                self._whole = True
                return b""
            self._stop.wait(_LOOK)


class _Sought(_Growing):
    """The same for a format that is read from several places."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Where the next byte is."""
        return int(self._file.tell())

    def seekable(self) -> bool:
        return True


class _Pipe:
    """Standard input or a FIFO, whose reading can be stopped."""

    def __init__(self, handle: int, stop: threading.Event) -> None:
        self._handle, self._stop = handle, stop
        self._begun = False

    def read(self, size: int) -> bytes:
        """The next bytes; none after the end."""
        while not self._stop.is_set():
            ready, _, _ = select.select([self._handle], [], [], _LOOK)
            if not ready:
                continue
            try:
                found = os.read(self._handle, size)
            except BlockingIOError:
                continue
            if found or self._begun or not _is_fifo_without_writer(self._handle):
                self._begun = True
                return found
            self._stop.wait(_LOOK)  # nobody has opened the FIFO for writing yet
        return b""


def _is_fifo_without_writer(handle: int) -> bool:
    """Whether an empty read may only mean that no program writes to it yet."""
    return stat.S_ISFIFO(os.fstat(handle).st_mode) and not os.get_blocking(handle)
