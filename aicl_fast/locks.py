"""One process at a time in a folder that many files are written to."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from aicl_fast.errors import DataError
from aicl_fast.files import is_stdout
from aicl_fast.text import clean_text

LOCK = ".lock"
"""The file in the folder that is locked. It holds the process and the time, and is removed at the end."""
_LARGEST = 1000
_held: ContextVar[frozenset[str]] = ContextVar("_held", default=frozenset())


@contextmanager
def locked_folder(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep a folder to this process for the length of the block; it is made if it is not there.

    The system releases the lock when the process ends, in whatever way. Within the block, the same thread may
    lock the folder again. On file systems that have no locks, nothing is locked.

    Raises:
        DataError: another process has the folder (which one and since when), or it cannot be made or written
            to.
    """
    folder = Path(path)
    if is_stdout(folder):
        raise DataError(f"{folder}: is standard output; expected a folder. Name one.")
    real = os.path.realpath(folder)
    if real in _held.get():
        yield
        return
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(folder / LOCK)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be made or written to ({error.strerror}). Choose a folder that you may write "
            "to (--out)."
        ) from error
    token = _held.set(_held.get() | {real})
    try:
        yield
    finally:
        _held.reset(token)
        if handle is not None:
            # While it is locked, so that no other process' lock is removed.
            (folder / LOCK).unlink(missing_ok=True)
            os.close(handle)
        if made:
            with suppress(OSError):  # something was written to it
                folder.rmdir()


def _lock(file: Path) -> int | None:
    """The open, locked file; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # not a system of the Unix kind
        return None
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(handle, file):
                os.ftruncate(handle, 0)
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                os.write(handle, json.dumps({"process": os.getpid(), "since": since}).encode())
                return handle
        except BlockingIOError:
            who = _owner(handle)
            os.close(handle)
            raise DataError(
                f"{file.parent}: another aicl-fast writes to this folder{who}. Wait until it has ended, or "
                "name another folder (--out)."
            ) from None
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                os.close(handle)
                return None
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return handle  # it is locked, without saying by whom
            os.close(handle)
            raise
        # The process that had it removed the file in between.
        os.close(handle)


def _is_same(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _owner(handle: int) -> str:
    try:
        found = json.loads(os.pread(handle, _LARGEST, 0))
        return f" (process {int(found['process'])}, since {clean_text(str(found['since']))})"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ""
