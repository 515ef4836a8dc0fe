"""The table of instructions, which the modules of instructions fill as they are imported."""

from __future__ import annotations

import re
from collections.abc import Callable

from ptx_emulator.machine import Step

Builder = Callable[..., Step]
"""Takes the program, an instruction's operands and the groups of its pattern; returns what it does."""

TABLE: list[tuple[re.Pattern[str], Builder]] = []
"""A pattern of opcodes with its builder; what no pattern matches in full is not known."""


def opcode(pattern: str) -> Callable[[Builder], Builder]:
    """Put a builder into the table."""

    def note(build: Builder) -> Builder:
        TABLE.append((re.compile(pattern), build))
        return build

    return note
