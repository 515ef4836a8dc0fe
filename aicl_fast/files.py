"""Reading and writing files so that nothing is ever half-written and every failure names its file."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aicl_fast.errors import DataError

VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
)  # fmt: skip
"""What a folder of videos is searched for. A file that is named itself may end in anything."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an exception.

    The temporary name keeps the suffix, since several writers choose their format by it. Missing parent
    folders are made. On an exception the temporary file is removed and ``path`` is left as it was.

    Raises:
        DataError: the folder cannot be made or written to, ``path`` is a folder, or there is no room.
    """
    target = require_place(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not the whole name: it may be as long as the file system allows.
        prefix = f".{target.stem[:20]}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror}). Choose a folder you may write to."
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        with _room(target):
            yield temporary
        try:
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except OSError as error:
            raise DataError(
                f"{target}: cannot be written ({error.strerror}): its place changed meanwhile."
            ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside ``path`` that becomes it when the block ends without an exception.

    ``path`` must not be there, or be empty. On an exception the temporary folder is removed.

    Raises:
        DataError: the folder cannot be made, there is no room, or ``path`` was filled meanwhile.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be made ({error.strerror}). Choose a folder you may write to."
        ) from error
    with scratch as name:
        whole = Path(name) / "whole"
        with _room(target):
            whole.mkdir()
            yield whole
        try:
            os.replace(whole, target)
        except OSError as error:
            raise DataError(
                f"{target}: another process filled this folder meanwhile. Run the command again."
            ) from error


@contextmanager
def _room(target: Path) -> Iterator[None]:
    """A disk or quota that is full, as an error that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DataError(
            f"{target}: cannot be written ({os.strerror(error.errno)}). Make room or choose another place."
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def require_file(path: str | os.PathLike[str], what: str) -> Path:
    """``path`` as a Path to a file that exists.

    Args:
        what: what the file is for, as a noun phrase that a message can begin with ("annotation file").
    Raises:
        DataError: nothing there, or a folder.
    """
    target = Path(path)
    if target.is_file():
        return target
    if target.is_dir():
        raise DataError(f"{target}: expected the {what}, found a folder. Name the file itself.")
    raise DataError(f"{target}: the {what} does not exist. Check the path (working folder: {Path.cwd()}).")


def require_place(path: str | os.PathLike[str]) -> Path:
    """``path`` as a Path that a file can be written to; for what takes long before it writes.

    Raises:
        DataError: a folder has this name, or the one it would be in cannot be made or written to.
    """
    target = Path(path)
    if os.path.isdir(target):
        raise DataError(f"{target}: cannot be written, a folder has this name. Choose another one.")
    home = next(each for each in target.absolute().parents if os.path.exists(each))
    if not (os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK)):
        raise DataError(
            f"{target}: cannot be written ({home} is not a folder you may write to). Choose another place."
        )
    return target


def visible(paths: Iterable[Path]) -> list[Path]:
    """The paths by name, without those that begin with a dot: temporary files, and what systems leave."""
    return sorted(path for path in paths if not path.name.startswith("."))


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a text file that are not empty, without space around them.

    Raises:
        DataError: no such file, or not UTF-8.
    """
    target = require_file(path, what)
    try:
        lines = target.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{target}: the {what} is not a text file (byte {error.start}).") from error
    return [line.strip() for line in lines if line.strip()]


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """The JSON value in a file.

    Raises:
        DataError: no such file, not UTF-8, or not JSON (with line and column).
    """
    target = require_file(path, what)
    try:
        return json.loads(target.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{target}: the {what} is not a text file (byte {error.start}).") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{target}: the {what} is not valid JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno}. If it was cut off while being copied, copy it again."
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
