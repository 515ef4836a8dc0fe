"""A kernel that runs: PTX text, decoded once, and its blocks one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# These fill the table of instructions.
from ptx_emulator import asynchronous, instructions, warps  # noqa: F401
from ptx_emulator.machine import Block, decode
from ptx_emulator.memory import Memory
from ptx_emulator.program import parse


class Kernel:
    """One kernel.

    Args:
        text: its PTX.
        shared: bytes of dynamic shared memory.
    Raises:
        UnknownInstruction: there is something in it that is not emulated.
    """

    def __init__(self, text: str, shared: int = 0) -> None:
        self.program = parse(text)
        self.shared = shared
        self._steps = decode(self.program)

    def run(self, memory: Memory, grid: Sequence[int], arguments: Sequence[Any], *, lazy: bool) -> int:
        """Run every block.

        Args:
            memory: global memory, which the arguments' addresses are of.
            grid: up to three dimensions.
            arguments: one a parameter: addresses and other integers, floats, tensor maps.
            lazy: whether asynchronous work takes effect when it is waited for instead of at once.
        Returns:
            How many blocks there were.
        Raises:
            Fault: the kernel broke a rule; the message names the instruction and the block.
        """
        wanted = len(self.program.parameters)
        if len(arguments) != wanted:
            raise ValueError(f"{self.program.name}: expected {wanted} arguments, got {len(arguments)}")
        x, y, z = (*grid, 1, 1)[:3]
        with np.errstate(all="ignore"):  # a device does not warn of infinities either
            for index in np.ndindex(z, y, x):
                memory.next_block()
                of_grid = (index[2], index[1], index[0])
                Block(
                    self.program, self._steps, arguments, memory, self.shared, of_grid, (x, y, z), lazy
                ).run()
        return x * y * z
