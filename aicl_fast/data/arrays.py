"""Reading .npy and .npz: never a pickle, and never more memory than the file's size warrants."""

from __future__ import annotations

import math
import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from aicl_fast.errors import AiclError, DataError
from aicl_fast.files import require_file
from aicl_fast.limits import reading, require_size

Array = npt.NDArray[Any]
_MAGIC = b"\x93NUMPY"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK = 1 << 18
"""Bytes read at a time: an archive's reader copies them, which is cheap while they stay in the cache."""
_ADVICE = "It is truncated or of another format: copy it or write it again."


def load_array(path: str | os.PathLike[str], what: str, *, mapped: bool = False) -> Array:
    """The array of a ``.npy`` file.

    Args:
        what: what the file is for, as a noun phrase ("feature file").
        mapped: leave it on disk; its pages are read when they are used.
    Raises:
        DataError: no such file, truncated, pickled, or another format.
    """
    target = require_file(path, what)
    with reading(target, what, advice=_ADVICE), target.open("rb") as file:
        head = file.read(len(_MAGIC))
        file.seek(0)
        if head[:1] == b"\x80":
            raise _pickled(target)
        if head[:2] == b"PK":
            raise DataError(f"{target}: is an archive of several arrays (.npz); expected one .npy array.")
        return _array(file, target, target.stat().st_size, mapped=mapped)


class Archive:
    """An open ``.npz``. Make one with :func:`open_archive`.

    Attributes:
        path: the file.
        names: of its arrays, in the file's order.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, what: str, error: type[AiclError]) -> None:
        self.path, self._archive, self._what, self._error = path, archive, what, error
        self._size = path.stat().st_size
        members = archive.infolist()
        if any(member.compress_type not in _METHODS for member in members):
            # Of these a piece is unpacked whole, however large it becomes.
            raise error(f"{path}: is compressed by a method that numpy.savez never uses. Save it again.")
        names = [member.filename for member in members]
        self.names = tuple(name.removesuffix(".npy") for name in names)
        if len(set(self.names)) != len(names):
            raise error(f"{path}: holds two arrays of one name.")
        unpacked = sum(member.file_size for member in members)
        require_size(unpacked, self._size, path, "its arrays", error=error)

    def read(self, name: str, *, mapped: bool = False) -> Array:
        """One array.

        Args:
            name: one of :attr:`names`.
            mapped: leave it on disk, if it is stored there as it is in memory.
        Raises:
            AiclError: no such array, damaged, or pickled.
        """
        with reading(self.path, self._what, error=self._error, advice=_ADVICE):
            member = self._archive.getinfo(f"{name}.npy")
            if mapped and member.compress_type == zipfile.ZIP_STORED:
                with self.path.open("rb") as file:
                    # The local header's own lengths: its extra field may differ from the directory's.
                    file.seek(member.header_offset + 26)
                    name_length, extra_length = struct.unpack("<2H", file.read(4))
                    file.seek(name_length + extra_length, os.SEEK_CUR)
                    return _array(file, self.path, file.tell() + member.file_size, mapped=True)
            with self._archive.open(member) as file:
                return _array(file, self.path, member.file_size)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one array, without reading it. Raises as :meth:`read`."""
        with (
            reading(self.path, self._what, error=self._error, advice=_ADVICE),
            self._archive.open(f"{name}.npy") as file,
        ):
            return _header(file, self.path)[0]


@contextmanager
def open_archive(
    path: str | os.PathLike[str], what: str, *, error: type[AiclError] = DataError
) -> Iterator[Archive]:
    """A ``.npz`` file to read arrays from.

    Args:
        what: what the file is for, as a noun phrase ("scores file").
        error: what is raised for a file that cannot be used.
    Raises:
        DataError: no such file.
        AiclError: no archive, damaged, or of arrays that together need far more memory than the file's size
            warrants (see :mod:`aicl_fast.limits`).
    """
    target = require_file(path, what)
    with reading(target, what, error=error, advice=_ADVICE):
        archive = zipfile.ZipFile(target)
    with archive:
        with reading(target, what, error=error, advice=_ADVICE):
            opened = Archive(target, archive, what, error)
        yield opened


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type; the file is then at the first value."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise DataError(
            f"{path}: is a .npy array of version {version}, which is for names that are not used."
        )
    shape, fortran, dtype = read[version](file)
    if dtype.hasobject:
        raise _pickled(path)
    if any(isinstance(size, bool) or size < 0 for size in shape):
        raise DataError(f"{path}: says that it holds an array of shape {shape}. {_ADVICE}")
    return shape, fortran, dtype


def _array(file: IO[bytes], path: Path, end: int, *, mapped: bool = False) -> Array:
    """The array that begins here, in a file of ``end`` bytes."""
    shape, fortran, dtype = _header(file, path)
    count = math.prod(shape)
    needed = count * dtype.itemsize
    if needed > end - file.tell():
        raise DataError(
            f"{path}: says that it holds an array of shape {shape}, which is {needed} bytes, and has "
            f"{max(0, end - file.tell())}. {_ADVICE}"
        )
    order: Literal["F", "C"] = "F" if fortran else "C"
    if mapped and needed:
        return np.memmap(path, dtype, "r", file.tell(), shape, order)
    if not needed:
        return np.empty(shape, dtype, order)
    array = np.empty(count, dtype)
    left = array.view(np.uint8).data
    while left:
        got = file.readinto(left[:_CHUNK])  # type: ignore[attr-defined]
        if not got:
            raise DataError(f"{path}: ends before its array of shape {shape} does. {_ADVICE}")
        left = left[got:]
    file.read(1)  # an archive compares its checksum where a member ends
    if dtype.kind == "U" and array.view(dtype.byteorder.replace("|", "=") + "u4").max() > sys.maxunicode:
        raise DataError(f"{path}: holds text with characters that do not exist. {_ADVICE}")
    return array.reshape(shape, order=order)


def _pickled(path: Path) -> DataError:
    return DataError(
        f"{path}: holds pickled Python objects, which are never loaded because they can run code. Expected a "
        "plain array of numbers: save it again with numpy.save(path, array)."
    )
