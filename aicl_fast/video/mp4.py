"""How many samples an .mp4 or .mov claims to have. FFmpeg takes memory for each before it reads one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_INSIDE = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
_DEEPEST = 8
SAMPLE_BYTES = 64
"""What FFmpeg takes for each."""


def claimed_samples(path: Path) -> int:
    """The samples in all tracks, but for plain sound, which FFmpeg reads in pieces; of other files 0."""
    with path.open("rb") as file:
        total = count = 0
        plain = False
        for kind, body in _boxes(file, 0, path.stat().st_size, 0):
            if kind == b"trak":
                total, count, plain = total + count * (not plain), 0, False
            elif kind in (b"stsz", b"stz2"):
                count = _number(body, 8)
            elif kind == b"stts":
                plain = _number(body, 4) == _number(body, 12) == 1
            elif kind == b"trun":
                total += _number(body, 4)
        return total + count * (not plain)


def _boxes(file: IO[bytes], start: int, end: int, depth: int) -> Iterator[tuple[bytes, bytes]]:
    """Every box's kind and the first 16 bytes in it, those of containers before what is inside."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        begin = start + 8
        if size == 1:
            size, begin = _number(file.read(8), 0, ">Q"), begin + 8
        stop = end if size == 0 else start + size
        if stop < begin:
            return
        yield kind, file.read(16)
        if kind in _INSIDE and depth < _DEEPEST:
            yield from _boxes(file, begin, min(stop, end), depth + 1)
        start = stop


def _number(data: bytes, place: int, form: str = ">I") -> int:
    length = struct.calcsize(form)
    part = data[place : place + length]
    return int(struct.unpack(form, part)[0]) if len(part) == length else 0
