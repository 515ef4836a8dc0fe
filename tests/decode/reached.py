"""Which lines of decode_numba.py the tests reach, with numba's compilation off: reported, not gated.

    NUMBA_DISABLE_JIT=1 .venv/bin/python tests/decode/reached.py [arguments of pytest]

Those with random inputs or large ones are skipped: they would take an hour without being compiled.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
FILE = HERE.parents[1] / "kernels" / "decode_numba.py"
SKIPPED = (
    "nothing_can_be_written",
    "are_the_grids",
    "is_the_naive_one",
    "backends_agree",
    "shrink",
    "many_classes",
    "room_was_made",
    "long_and_a_wide",
    "lock_is_released",
    "eight_callers",
    "number_of_threads",
)


def functions(code: CodeType) -> Iterator[CodeType]:
    """A file's code and that of every function in it."""
    yield code
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from functions(part)


def main(arguments: list[str]) -> int:
    """Run the tests, then name the lines that they did not reach."""
    if os.environ.get("NUMBA_DISABLE_JIT") != "1":
        sys.exit("set NUMBA_DISABLE_JIT=1: compiled code cannot be traced")
    text = FILE.read_text(encoding="utf-8")
    left = {
        (code.co_name, code.co_firstlineno): {line for _, _, line in code.co_lines() if line}
        for code in functions(compile(text, str(FILE), "exec"))
    }

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        missing = left.get((code.co_name, code.co_firstlineno)) if code.co_filename == str(FILE) else None
        if not missing:  # another file's, or all of it was reached
            return None
        missing.discard(frame.f_lineno)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    chosen = ["-q", "-o", "faulthandler_timeout=0", "-k", f"numba and not ({' or '.join(SKIPPED)})"]
    status = pytest.main([*chosen, str(HERE), *arguments])
    sys.settrace(None)
    lines = sorted(set().union(*left.values()))
    print(f"{FILE.name}: {len(lines)} lines not reached")  # noqa: T201
    for line in lines:
        print(f"{line:5} {text.splitlines()[line - 1]}")  # noqa: T201
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
