"""What a program can do wrong, each fault a type of its own so that a test can ask for it."""

from __future__ import annotations


class Fault(Exception):
    """A program broke a rule of the PTX ISA; the message ends with the instruction and the block."""


class UnknownInstruction(Fault):
    """The emulator does not know this form of an instruction; nothing is ever skipped."""


class OutOfBounds(Fault):
    """An address outside everything that was allocated."""


class Misaligned(Fault):
    """An address that is no multiple of the access's size."""


class Uninitialised(Fault):
    """A register or a byte read before anything was written there."""


class Race(Fault):
    """Two warps, or two blocks, meet in a byte and nothing orders them."""


class InFlight(Fault):
    """A register or an operand of asynchronous work touched before that was waited for."""


class Divergence(Fault):
    """An instruction for whole warps or blocks that only some of the threads reach."""


class Deadlock(Fault):
    """Threads wait, and nothing that is left can end it."""
