"""The checksum in ``.onnx`` and ``.safetensors`` files: over every byte of the file but its own digits.

The file is cut into pieces of 4 MiB. Of each, 64-bit words that are 32 KiB apart are added up, modulo 2**64,
and SHA-256 is taken of these sums and of the rest at the end. Any one changed bit changes the result, and so
does any damage in one place of up to 32 KiB. SHA-256 of the whole file would take longer than opening it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from aicl_fast.errors import ModelError

NAME = "aicl_fast_checksum"
"""The property that holds the digits."""
KIND = "aicl_fast_checksum_kind"
"""The property that says how they are computed. With two of them, no one damaged bit hides the checksum."""
ALGORITHM = "sum64-sha256"
PLACEHOLDER = "0" * 64
"""The digits, while they are not known."""
_ROW = 4096
_PIECE = 128 * _ROW * 8


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """A file's bytes, mapped into memory.

    Raises:
        ModelError: it is empty.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ModelError(f"{path}: is empty. Copy it again, or export it again.")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        yield memoryview(content)
    finally:
        with suppress(BufferError):  # an exception on its way up may still hold a part
            content.close()


def checksum(data: memoryview | bytearray, at: int) -> str:
    """The checksum of a file in hexadecimal.

    Args:
        data: its bytes.
        at: where its own 64 digits are, which count as zeros.
    """
    digest = hashlib.sha256(str(len(data)).encode())
    own = range(at, at + len(PLACEHOLDER))
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        shared = range(max(own.start, start), min(own.stop, start + len(piece)))
        if shared:
            piece = bytearray(piece)
            piece[shared.start - start : shared.stop - start] = b"0" * len(shared)
        whole = len(piece) // (8 * _ROW) * 8 * _ROW
        words = np.frombuffer(piece, "<u8", whole // 8).reshape(-1, _ROW)
        digest.update(words.sum(0, dtype="<u8").tobytes())
        digest.update(piece[whole:])
    return digest.hexdigest()


def properties() -> dict[str, str]:
    """What a file is written with, for :func:`write_checksum` to complete."""
    return {NAME: PLACEHOLDER, KIND: ALGORITHM}


def write_checksum(path: Path) -> None:
    """Put the checksum into a file that was written with :func:`properties`."""
    with mapped(path) as data:
        match = re.search(NAME.encode() + b".{2,3}(0{64})", data, re.DOTALL)
        assert match is not None, f"{path} was written without a place for its checksum"
        at = match.start(1)
        digits = checksum(data, at)
        del match  # it holds the memory
    with path.open("r+b") as file:
        file.seek(at)
        file.write(digits.encode())


def check_checksum(data: memoryview, found: Mapping[str, str], at: int, source: object) -> None:
    """Compare a file with the checksum in it. A file of an earlier version has none.

    Args:
        data: the file's bytes.
        found: its properties.
        at: where the digits among them are.
        source: the file's name, for messages.
    Raises:
        ModelError: they differ.
    """
    digits, kind = found.get(NAME), found.get(KIND)
    if digits is None and kind is None:
        return
    if kind == ALGORITHM and digits is not None and checksum(data, at) == digits:
        return
    raise ModelError(
        f"{source}: is damaged, or was changed after it was written: its checksum differs. Copy the file "
        "again, or export it again."
    )
