"""How much memory a file may ask for: a few times its own size, unless the user allows more.

A small file can claim to hold a huge array, by compression or by a size in its header. Every reader compares
what a file would need with what the file's size warrants, before anything is allocated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.text import error_text

MAX_UNPACKED = "AICL_FAST_MAX_UNPACKED"
"""The environment variable, set by ``aicl-fast --max-unpacked``, that allows more: bytes, or 4GiB."""
_ALWAYS = 64 << 20
"""Bytes that any file may ask for."""
_TIMES = 16
"""Bytes for each byte of the file."""
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def parse_size(text: str, name: str = MAX_UNPACKED) -> int:
    """``4GiB``, ``512M`` or a number, in bytes; units are powers of 1024.

    Raises:
        ConfigError: something else.
    """
    match = re.fullmatch(r"\s*(\d{1,18})\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ConfigError(f"{name}: expected a size as 4GiB, 512MiB or bytes, got {text!r}.")
    return int(match[1]) << _UNITS[match[2].lower()]


def allowed_size(on_disk: int, times: int = 1) -> int:
    """Bytes of memory that a file of so many bytes may ask for: 64 MiB, 16 times the file, or the user's.

    Args:
        times: how many times more than that it may be, but for the user's.
    """
    own = os.environ.get(MAX_UNPACKED)
    return max(times * _ALWAYS, times * _TIMES * on_disk, parse_size(own) if own else 0)


def require_size(
    needed: int,
    on_disk: int,
    source: object,
    what: str,
    *,
    error: type[AiclError] = DataError,
    times: int = 1,
) -> None:
    """Refuse what would need much more memory than its file's size warrants.

    Args:
        needed: bytes in memory.
        on_disk: bytes of the file.
        source: the file, for the message.
        what: what in it needs them, as a noun phrase.
        error: what is raised.
        times: as :func:`allowed_size`.
    Raises:
        AiclError: more than 64 MiB, more than 16 times the file, and more than the user allows.
    """
    if needed <= allowed_size(on_disk, times):
        return
    raise error(
        f"{source}: {what} would take {needed / 2**20:,.0f} MiB of memory, and the file has "
        f"{on_disk / 2**20:,.1f} MiB. If you trust where it comes from: aicl-fast --max-unpacked "
        f"{-(-needed // 2**20)}MiB …, or {MAX_UNPACKED} in the environment."
    )


@contextmanager
def reading(
    source: object,
    what: str,
    *,
    verb: str = "read",
    error: type[AiclError] = DataError,
    advice: str = "If it was cut off while being copied, copy it again.",
) -> Iterator[None]:
    """Whatever a library raises over a file's content, as one error that names the file.

    Args:
        source: the file or argument.
        what: what it is, as a noun phrase ("feature file").
        verb: what the block does with it ("read", "run").
        error: what is raised.
        advice: the next step.
    Raises:
        AiclError: the block's own, or ``error`` in place of any other exception.
    """
    try:
        yield
    except AiclError:
        raise
    except MemoryError as failure:
        raise error(f"{source}: there is not enough memory to {verb} the {what}. {advice}") from failure
    except RecursionError as failure:
        raise error(f"{source}: the {what} is nested too deep to be {verb}.") from failure
    except Exception as failure:  # damaged bytes bring out whatever a parser did not think of
        raise error(f"{source}: the {what} cannot be {verb} ({error_text(failure)}). {advice}") from failure
