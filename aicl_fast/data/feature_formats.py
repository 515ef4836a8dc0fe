"""Features in formats that are not read: what a file is, and the command that makes a ``.npy`` of it."""

from __future__ import annotations

import re
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aicl_fast.text import short_text

_HEAD = 4096


class _Format(NamedTuple):
    what: str
    modules: str
    value: str
    """A Python expression of the array; the file is sys.argv[1]."""


_FORMATS = {
    "pickle": _Format(
        "a Python pickle, which can run code when it is read, so only if you trust it",
        "pickle, ",
        "pickle.load(open(sys.argv[1], 'rb'))",
    ),
    "torch": _Format(
        "a file of torch.save", "torch, ", "torch.load(sys.argv[1], 'cpu', weights_only=True).float()"
    ),
    "hdf5": _Format(
        "an HDF5 file; choose its array", "h5py, ", "next(iter(h5py.File(sys.argv[1]).values()))[()]"
    ),
    "mat": _Format(
        "a MATLAB file; choose its array",
        "scipy.io, ",
        "[v for k, v in scipy.io.loadmat(sys.argv[1]).items() if k[0] != '_'][0]",
    ),
    "json": _Format("JSON", "json, ", "json.load(open(sys.argv[1]))"),
    "csv": _Format(
        "text, as a table of numbers is stored", "", "numpy.loadtxt(sys.argv[1], delimiter=',', ndmin=2)"
    ),
    "text": _Format("text, as a table of numbers is stored", "", "numpy.loadtxt(sys.argv[1], ndmin=2)"),
}
_SUFFIXES = {
    ".pkl": "pickle", ".pickle": "pickle", ".pt": "torch", ".pth": "torch", ".h5": "hdf5", ".hdf5": "hdf5",
    ".mat": "mat", ".json": "json", ".csv": "csv", ".tsv": "text", ".txt": "text",
}  # fmt: skip


def other_format(path: Path) -> str | None:
    """What a file is that holds features in a format that is not read, and how to convert it.

    Returns:
        Sentences for a message; None for a ``.npy`` file, or one that nothing is known of, as a video.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return None
    if head.startswith(b"PK"):
        names = _members(path)
        if names and all(name.endswith(".npy") for name in names):
            return from_archive(path, [name.removesuffix(".npy") for name in names])
    name = _format(path, head)
    if name is None:
        return None
    form = _FORMATS[name]
    return f"It is {form.what}. {_command(path, form.modules, form.value)}"


def from_archive(path: Path, names: Sequence[str]) -> str:
    """How to make a ``.npy`` of an archive of several arrays."""
    if {"rgb", "flow"} <= set(names):
        value = "numpy.concatenate([a['rgb'], a['flow']], 1)"
    else:
        # What is pasted into a shell has none of its signs in it.
        plain = [name for name in names if re.fullmatch(r"[\w.-]{1,80}", name, re.ASCII)]
        value = f"a[{next((name for name in plain if 'feat' in name.lower()), (*plain, 'NAME')[0])!r}]"
    archive = f"It is an archive of the arrays {short_text(', '.join(names)) or 'none'}."
    return f"{archive} {_command(path, '', value.replace('a[', 'numpy.load(sys.argv[1])['))}"


def _format(path: Path, head: bytes) -> str | None:
    if head.startswith(b"\x93NUMPY"):
        return None
    if head.startswith(b"\x89HDF") or head.startswith(b"MATLAB 7.3"):
        return "hdf5"
    if head.startswith(b"MATLAB"):
        return "mat"
    by_suffix = _SUFFIXES.get(path.suffix.lower())
    if head.startswith(b"PK"):
        return "torch" if any(name.endswith("data.pkl") for name in _members(path)) else by_suffix
    if by_suffix is None and head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if by_suffix is None and _is_text(head):
        by_suffix = "csv" if b"," in head else "text"
    return "csv" if by_suffix == "text" and b"," in head else by_suffix


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # damaged bytes: then nothing is known of it
        return []


def _is_text(head: bytes) -> bool:
    return bool(head) and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)


def _command(path: Path, modules: str, value: str) -> str:
    code = f"import sys, {modules}numpy; numpy.save(sys.argv[2], numpy.asarray({value}, 'float32'))"
    files = f"{shlex.quote(str(path))} {shlex.quote(str(path.with_suffix('.npy')))}"
    return (
        "Features are read from .npy files of shape (segments, features); to make one: "
        f'python -c "{code}" {files}'
    )
