"""What the suites' command lines share: numbers that make sense, and errors without a traceback."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import NoReturn

from aicl_fast.errors import AiclError


def batches(text: str) -> tuple[int, ...]:
    """``1,8,64`` as numbers.

    Raises:
        argparse.ArgumentTypeError: another form.
    """
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected sizes such as 1,8,64, got {text!r}")
    return tuple(int(part) for part in parts)


def count(text: str) -> int:
    """A number of rounds, threads or videos.

    Raises:
        argparse.ArgumentTypeError: not a whole number from 1.
    """
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def count_or_none(text: str) -> int:
    """The same, or 0.

    Raises:
        argparse.ArgumentTypeError: not a whole number from 0.
    """
    if not text.strip().isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A time.

    Raises:
        argparse.ArgumentTypeError: not a finite number from 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return value


def program(main: Callable[[], int | None]) -> NoReturn:
    """Run a module's ``main`` as the process: our errors are one line, and the exit status 2."""
    try:
        sys.exit(main())
    except AiclError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
