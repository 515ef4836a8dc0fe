"""Reading and writing files so that nothing is ever half-written and every failure names its file."""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from aicl_fast.errors import AiclError, AiclWarning, DataError
from aicl_fast.limits import reading
from aicl_fast.text import clean_text, error_text, parse_json

VIDEO_SUFFIXES = (
    ".264", ".265", ".266", ".3g2", ".3gp", ".amv", ".asf", ".avc", ".avi", ".divx", ".dv", ".f4v", ".flv",
    ".gif", ".gxf", ".h261", ".h263", ".h264", ".h265", ".h266", ".hevc", ".ivf", ".m1v", ".m2p", ".m2t",
    ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg",
    ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod",
    ".trp", ".ts", ".vc1", ".vob", ".vvc", ".webm", ".wm", ".wmv", ".wtv", ".y4m",
)  # fmt: skip
"""What a folder of videos is searched for, in any case. A file that is named itself may end in anything."""
_NO_PART_OF_A_NAME = frozenset((*VIDEO_SUFFIXES, ".npy", ".npz"))

STDOUT = "-"
"""In place of an output file: standard output."""
_STDOUT_NAMES = (STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRIES = 100
_for_results: ContextVar[TextIO | None] = ContextVar("_for_results", default=None)
"""Standard output, while what is printed goes elsewhere."""
_inputs: ContextVar[set[tuple[int, int]] | None] = ContextVar("_inputs", default=None)
"""Device and inode of each file that was read within :func:`inputs_kept`."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an exception.

    The temporary name keeps the suffix, since several writers choose their format by it. Missing parent
    folders are made. On an exception the temporary file is removed and ``path`` is left as it was. What was
    written is on the disk before it has the name, so that a power cut leaves the old file or the new one.

    ``-`` and ``/dev/stdout`` are standard output; a device or FIFO gets what was written, when it is whole;
    of a symbolic link the file that it points at is replaced.

    Raises:
        DataError: the folder cannot be made or written to, ``path`` is a folder, a disk or a socket, or there
            is no room.
    """
    target = require_place(path)
    if is_stream(target):
        with tempfile.TemporaryDirectory() as scratch, _room(target):
            whole = Path(scratch) / (target.name if target.suffix else "whole")
            yield whole
            _write_through(whole, target)
        return
    target = Path(os.path.realpath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, mode = _temporary_file(target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror}). Choose a folder you may write to."
        ) from error
    try:
        with _room(target):
            yield temporary
            _sync(temporary)
        try:
            # Some writers replace the file by one of their own, which only the owner may read.
            os.chmod(temporary, mode)
            os.replace(temporary, target)
        except OSError as error:
            raise DataError(
                f"{target}: cannot be written ({error.strerror}): its place changed meanwhile."
            ) from error
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_file(target: Path) -> tuple[Path, int]:
    """An empty file beside ``target``, and the permissions of ``target``, or of any new file there."""
    stem = _short_stem(target)
    before = stat.S_IMODE(os.stat(target).st_mode) & 0o777 if target.exists() else None
    for _ in range(_TRIES):
        temporary = target.parent / f".{stem}.{secrets.token_hex(6)}{target.suffix}"
        try:
            handle = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666
            )
        except FileExistsError:
            continue
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        return temporary, mode if before is None else before
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


def remove_temporary(path: str | os.PathLike[str]) -> None:
    """Remove what processes left beside ``path`` that were killed while they wrote it. None may write now."""
    target = Path(path)
    stem = re.escape(_short_stem(target))
    pattern = re.compile(rf"\.{stem}\.[0-9a-f]{{12}}{re.escape(target.suffix)}")
    for each in target.parent.glob(".*"):
        if pattern.fullmatch(each.name) and each.is_file():
            each.unlink(missing_ok=True)


def _short_stem(target: Path) -> str:
    """Not the whole name: it may be as long as the file system allows."""
    return target.stem.encode(errors="surrogateescape")[:40].decode(errors="ignore")


def is_stream(target: Path) -> bool:
    """Whether ``target`` is written to and not replaced: standard output, a device or a FIFO."""
    if is_stdout(target):
        return True
    try:
        return not stat.S_ISREG(os.stat(target).st_mode)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def is_stdout(path: str | os.PathLike[str] | None) -> bool:
    """Whether a path stands for standard output."""
    return path is not None and os.fspath(path) in _STDOUT_NAMES


@contextmanager
def only_results() -> Iterator[None]:
    """Keep standard output for the file written to ``-``: all else that is printed goes to standard error."""
    token = _for_results.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _for_results.reset(token)


@contextmanager
def inputs_kept() -> Iterator[None]:
    """Refuse, in this block, to replace a file that was read in it."""
    token = _inputs.set(set())
    try:
        yield
    finally:
        _inputs.reset(token)


def _write_through(whole: Path, target: Path) -> None:
    if is_stdout(target):
        stream = _for_results.get() or sys.stdout
        stream.flush()
        with whole.open("rb") as source:
            shutil.copyfileobj(source, stream.buffer)
        stream.flush()
        return
    with whole.open("rb") as source, os.fdopen(_opened(target), "wb") as sink:
        shutil.copyfileobj(source, sink)


def _opened(target: Path) -> int:
    """A stream to write to. Opening a FIFO takes until another program reads it, which is said."""
    try:
        handle = os.open(target, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        warnings.warn(f"{target}: waiting for a program that reads it", AiclWarning, stacklevel=1)
        return os.open(target, os.O_WRONLY)
    os.set_blocking(handle, True)
    return handle


def _sync(path: Path) -> None:
    """Have the system write a file or folder to the disk, where it can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return  # a folder, on systems that open none
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in _FULL:
            raise
    finally:
        os.close(handle)


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
            for each in (*whole.rglob("*"), whole):
                _sync(each)
        try:
            os.replace(whole, target)
            _sync(target.parent)
        except OSError as error:
            raise DataError(
                f"{target}: another process filled this folder meanwhile. Run the command again."
            ) from error


@contextmanager
def _room(target: Path) -> Iterator[None]:
    """A disk or quota that is full, as an error that names the file."""
    try:
        yield
    except AiclError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else _foreign_code(error)
        if code not in _FULL:
            raise
        raise DataError(
            f"{target}: cannot be written ({os.strerror(code)}). Make room or choose another place."
        ) from error


def _foreign_code(error: Exception) -> int | None:
    """The system's error number in an exception of a library in Rust, which is no OSError."""
    match = re.search(r"\(os error (\d{1,4})\)", str(error))
    return int(match[1]) if match else None


@contextmanager
def line_file(path: str | os.PathLike[str]) -> Iterator[Callable[[str], None]]:
    """A function that writes a line, which others can read when it returns. A file that is there is added to.

    Raises:
        DataError: ``path`` cannot be written to, or there is no room.
    """
    target = require_place(path)
    if is_stdout(target):
        stream = _for_results.get() or sys.stdout

        def printed(text: str) -> None:
            stream.write(text + "\n")
            stream.flush()

        yield printed
        return
    try:
        if is_stream(target):
            handle = _opened(target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            handle = os.open(target, flags, 0o666)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror}). Choose a folder you may write to."
        ) from error
    with os.fdopen(handle, "wb", buffering=0) as sink, _room(target):
        size = 0 if is_stream(target) else os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            sink.write(b"\n")  # a line that was cut off by a power cut

        def written(text: str) -> None:
            sink.write(text.encode() + b"\n")

        yield written


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
        DataError: nothing there, a folder, a device or FIFO, or a name that no file can have.
    """
    target = Path(path)
    try:
        found = os.stat(target)
    except FileNotFoundError:
        raise DataError(
            f"{target}: the {what} does not exist. Check the path (working folder: {Path.cwd()})."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(
            f"{clean_text(str(target))}: the {what} cannot be opened ({_reason(error)})."
        ) from None
    if stat.S_ISREG(found.st_mode):
        if (inputs := _inputs.get()) is not None:
            inputs.add((found.st_dev, found.st_ino))
        return target
    if stat.S_ISDIR(found.st_mode):
        raise DataError(f"{target}: expected the {what}, found a folder. Name the file itself.")
    raise DataError(f"{target}: expected the {what}, found a device or pipe. Write it to a file first.")


def require_place(path: str | os.PathLike[str]) -> Path:
    """``path`` as a Path that a file can be written to; for what takes long before it writes.

    Raises:
        DataError: a folder, disk or socket has this name, the folder it would be in cannot be made or written
            to, no file can have this name, or it was read (see :func:`inputs_kept`).
    """
    target = Path(path)
    if is_stdout(target):
        if sys.__stdout__ is None:
            raise DataError(f"{target}: standard output is closed. Name a file.")
        return target
    try:
        found = os.stat(target)
        mode, own = found.st_mode, (found.st_dev, found.st_ino)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        mode, own = 0, None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{clean_text(str(target))}: cannot be written ({_reason(error)}). Choose another name."
        ) from None
    if own in (_inputs.get() or ()):
        raise DataError(f"{target}: was read, and would be replaced by what is written. Name another file.")
    if stat.S_ISDIR(mode):
        raise DataError(f"{target}: cannot be written, a folder has this name. Choose another one.")
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise DataError(f"{target}: cannot be written, it is a disk or a socket. Choose a file.")
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        if not os.access(target, os.W_OK):
            raise DataError(f"{target}: cannot be written, it may only be read. Choose another place.")
        return target
    home = next(each for each in Path(os.path.realpath(target)).parents if os.path.exists(each))
    if not (os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK)):
        raise DataError(
            f"{target}: cannot be written ({home} is not a folder you may write to). Choose another place."
        )
    return target


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or error_text(error)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name ends as a video's does."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def video_name(path: str | os.PathLike[str]) -> str:
    """What every command calls the video in a file: the file's name, without an ending that is known.

    Another ending is left: names may have dots. The name is clean (see :func:`aicl_fast.text.clean_text`).
    """
    file = Path(path)
    return clean_text(file.stem if file.suffix.lower() in _NO_PART_OF_A_NAME else file.name)


def visible(paths: Iterable[Path]) -> list[Path]:
    """The paths by name, without those that begin with a dot: temporary files, and what systems leave."""
    return sorted(path for path in paths if not path.name.startswith("."))


def read_text(
    path: str | os.PathLike[str], what: str, *, largest: int | None = None, advice: str = "Save it as UTF-8."
) -> str:
    """A text file as it is, without a byte-order mark; one of UTF-16 is what Windows' editors write.

    Args:
        what: what the file is for, as a noun phrase.
        largest: the most bytes that such a file has.
        advice: what to do about another encoding.
    Raises:
        DataError: no such file, neither UTF-8 nor UTF-16 with its mark, or larger.
    """
    target = require_file(path, what)
    with reading(target, what):
        if largest is not None and target.stat().st_size > largest:
            raise DataError(
                f"{target}: has {target.stat().st_size} bytes; expected the {what}, of at most {largest}. "
                "Check which file was given."
            )
        try:
            with target.open("rb") as file:
                marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            return target.read_text(encoding="utf-16" if marked else "utf-8-sig")
        except UnicodeError as error:
            raise DataError(
                f"{target}: the {what} is no UTF-8 text (byte {getattr(error, 'start', 0)}). {advice}"
            ) from error


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a text file that are not empty, clean and without space around them.

    Raises:
        DataError: no such file, or not UTF-8.
    """
    lines = (clean_text(line).strip() for line in read_text(path, what).split("\n"))
    return [line for line in lines if line]


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """The JSON value in a file, every text in it clean (see :func:`aicl_fast.text.clean_text`).

    Raises:
        DataError: no such file, not UTF-8, not JSON (with line and column), or an object has a key twice.
    """
    text = read_text(path, what)
    with reading(path, what):
        return parse_json(text, Path(path), what)
