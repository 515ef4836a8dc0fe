"""One block of threads and how it runs: PTX ISA, "Machine Model" and "Parallel Synchronization".

All threads of a block take each instruction together, as numpy arrays with an element a thread; where they
branch apart, those at the earliest instruction go first, until all meet again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptx_emulator.faults import Deadlock, Divergence, Fault, InFlight, Uninitialised, UnknownInstruction
from ptx_emulator.formats import FLOATS, TYPES, UNSIGNED, Array, bits_of
from ptx_emulator.memory import Memory
from ptx_emulator.program import Instruction, Program

WARP = 32
WARPGROUP = 128

SHARED_BASE = 1024
"""Where shared memory begins; Hopper keeps its first KiB for itself."""
PARAMETER_BASE = 0x5000_0000_0000
PARAMETER_SPAN = 4096
"""Addresses of a parameter, so that a tensor map can be passed by its address."""

_GARBAGE = 0x7F7F7F7F7F7F7F7F  # what a thread's register holds that only other threads have written
_MOST_STEPS = 3_000_000
_NOBODY = np.zeros(0, bool)

Step = Callable[["Block"], None]
Reader = Callable[["Block"], Array]
Writer = Callable[["Block", Array], None]


@dataclass
class Asynchronous:
    """What a block has started and not yet waited for; see :mod:`ptx_emulator.asynchronous`."""

    barriers: dict[int, Any] = field(default_factory=dict)
    """mbarriers by their address."""
    boxes: list[Any] = field(default_factory=list)
    """The copy engine's copies that have not arrived."""
    copies: list[list[Any]] = field(default_factory=list)
    """cp.async of each warp, not yet committed."""
    copy_groups: list[list[list[Any]]] = field(default_factory=list)
    products: list[list[Any]] = field(default_factory=list)
    """wgmma of each warpgroup, not yet committed."""
    product_groups: list[list[list[Any]]] = field(default_factory=list)


class Block:
    """A block while it runs.

    Args:
        program: the kernel.
        arguments: by position: integers, floats, or tensor maps.
        memory: the global one.
        shared: bytes of shared memory.
        index, grid: of three dimensions.
        lazy: whether asynchronous work takes effect when it is waited for instead of at once.
    """

    def __init__(
        self,
        program: Program,
        steps: Sequence[tuple[Instruction, Step]],
        arguments: Sequence[Any],
        memory: Memory,
        shared: int,
        index: tuple[int, int, int],
        grid: tuple[int, int, int],
        lazy: bool,
    ) -> None:
        self.program, self.steps, self.arguments = program, steps, arguments
        self.memory, self.index, self.grid, self.lazy = memory, index, grid, lazy
        self.shared = Memory("shared memory", SHARED_BASE, shared)
        self.shared.allocated[:] = True
        self.threads = program.threads
        self.warps = self.threads // WARP
        self.thread = np.arange(self.threads)
        self.warp = self.thread // WARP
        self.registers: dict[str, Array] = {}
        self.active = np.ones(self.threads, bool)
        """The threads that take the present instruction."""
        self.all_active = True
        self.in_flight: dict[str, tuple[str, set[int]]] = {}
        """Registers of unfinished products: their role, ``result`` or ``operand``, and the warpgroups."""
        self.unfenced: set[str] = set()
        """Registers written since the last wgmma.fence."""
        self.stalled = np.zeros(self.threads, bool)
        """Threads whose wait has just failed; they go on when no other can."""
        self.asked = 0
        """Times that all threads waited, since a wait last succeeded."""
        groups = max(1, self.threads // WARPGROUP)
        self.work = Asynchronous(
            copies=[[] for _ in range(self.warps)],
            copy_groups=[[] for _ in range(self.warps)],
            products=[[] for _ in range(groups)],
            product_groups=[[] for _ in range(groups)],
        )

    # Registers

    def register(self, name: str) -> Array:
        """A register's bits (or booleans) in every thread."""
        found = self.registers.get(name)
        if found is None:
            raise Uninitialised(f"register {name} is read and was never written")
        if name in self.in_flight:
            role, groups = self.in_flight[name]
            if role == "result" and groups & self.active_groups():
                raise InFlight(f"register {name} is read before the wgmma that writes it is waited for")
        return found

    def set_register(self, name: str, bits: Array) -> None:
        """Write a register in the active threads."""
        if name in self.in_flight and self.in_flight[name][1] & self.active_groups():
            raise InFlight(f"register {name} is written while a wgmma has it as {self.in_flight[name][0]}")
        if not self.all_active:
            old = self.registers.get(name)
            if old is None:
                garbage = _GARBAGE & ((1 << 8 * bits.dtype.itemsize) - 1)
                old = np.full(self.threads, 0 if bits.dtype == bool else garbage, bits.dtype)
            bits = np.where(self.active, bits, old)
        self.registers[name] = bits
        self.unfenced.add(name)

    def active_groups(self) -> set[int]:
        """Warpgroups of the active threads."""
        return set((self.thread[self.active] // WARPGROUP).tolist())

    def active_warps(self) -> list[int]:
        """Warps that take the instruction as a whole.

        Raises:
            Divergence: only a part of a warp is active.
        """
        lanes = self.active.reshape(-1, WARP)
        if (lanes.any(1) != lanes.all(1)).any():
            raise Divergence("expected whole warps")
        return [int(warp) for warp in np.nonzero(lanes.all(1))[0]]

    # Running

    def run(self) -> None:
        """Run until every thread has returned.

        Raises:
            Fault: the program broke a rule; the message names the instruction and the block.
        """
        position = np.zeros(self.threads, np.int64)
        waiting = np.zeros(self.threads, bool)
        everyone = np.ones(self.threads, bool)
        together, here = True, 0
        for _ in range(_MOST_STEPS):
            group = everyone
            if not together:
                found = self._next(position, waiting)
                if found is None:
                    return
                here, group = found
                if group is _NOBODY:
                    continue
            elif here == len(self.steps):
                return
            instruction, step = self.steps[here]
            try:
                if together and instruction.guard is None and step is not _control:
                    self.active, self.all_active = everyone, True
                    step(self)
                    here += 1
                    if self.stalled.any():
                        together = False
                        position[:] = here
                    continue
                if together:
                    position[:] = here
                self._one(instruction, step, group, position, waiting)
            except Fault as fault:
                raise type(fault)(f"{fault} | {instruction.text} | block {self.index}") from fault
            here = int(position[0])
            together = not (self.stalled.any() or waiting.any() or (position != here).any())
        raise Deadlock(f"no end after {_MOST_STEPS} instructions, block {self.index}")

    def _next(self, position: Array, waiting: Array) -> tuple[int, Array] | None:
        """The instruction that comes next and who takes it; None where all have returned.

        Nobody takes one while all pass a barrier.
        """
        live = position < len(self.steps)
        if not live.any():
            return None
        ready = live & ~waiting
        if not ready.any():
            at = np.unique(position[live])
            if at.size > 1:
                texts = sorted({self.steps[int(one)][0].text for one in at})
                raise Divergence(f"threads wait at different barriers: {texts}, block {self.index}")
            waiting[:] = False
            position[live] += 1
            self.shared.now += 1
            self.memory.now += 1
            return int(at[0]), _NOBODY
        if (ready & ~self.stalled).any():
            ready &= ~self.stalled
        else:
            # All wait for something: each asks once more.
            self.stalled[:] = False
            self.asked += 1
            if self.asked > 2:
                text = self.steps[int(position[ready].min())][0].text
                raise Deadlock(f"nothing ends the wait | {text} | block {self.index}")
        here = int(position[ready].min())
        return here, ready & (position == here)

    def _one(
        self, instruction: Instruction, step: Step, group: Array, position: Array, waiting: Array
    ) -> None:
        self.active = group
        if instruction.guard is not None:
            guard = self.register(instruction.guard)
            self.active = group & (~guard if instruction.negated else guard)
        self.all_active = bool(self.active.all())
        opcode = instruction.opcode
        if opcode in ("bra", "bra.uni"):
            if opcode == "bra.uni":
                stays = (group & ~self.active).reshape(-1, WARP).any(1)
                if (stays & self.active.reshape(-1, WARP).any(1)).any():
                    raise Divergence("expected the threads of a warp to branch alike")
            position[group] += 1
            position[self.active] = instruction.target
        elif opcode == "ret":
            position[group] += 1
            position[self.active] = len(self.steps)
        elif opcode == "bar.sync":
            waiting |= self.active
            position[group & ~self.active] += 1
        else:
            if self.active.any():
                step(self)
            position[group] += 1


def decode(program: Program) -> list[tuple[Instruction, Step]]:
    """Every instruction with the function that takes it.

    Raises:
        UnknownInstruction: there is one, reached or not, that is not emulated.
    """
    from ptx_emulator.table import TABLE

    found: list[tuple[Instruction, Step]] = []
    for instruction in program.instructions:
        if instruction.opcode in ("bra", "bra.uni", "ret"):
            found.append((instruction, _control))
            continue
        if instruction.opcode == "bar.sync" and instruction.operands == ("0",):
            found.append((instruction, _control))
            continue
        for pattern, build in TABLE:
            match = pattern.fullmatch(instruction.opcode)
            if match is not None:
                try:
                    found.append((instruction, build(program, instruction.operands, *match.groups())))
                except UnknownInstruction as unknown:
                    raise UnknownInstruction(f"{unknown} | {instruction.text}") from unknown
                break
        else:
            raise UnknownInstruction(instruction.text)
    return found


def _control(_: Block) -> None:
    """Branches, returns and barriers are the block's own."""


# Operands: PTX ISA, "Instruction Operands" and "Operand Size Exceeding Instruction-Type Size"


def bits_reader(program: Program, operand: str, kind: str) -> Reader:
    """Reads an operand as an array of a fundamental type; wider registers are cut to it."""
    wanted = TYPES[kind]
    threads = program.threads
    if operand.startswith("%tid."):
        values = np.arange(threads).astype(wanted) if operand == "%tid.x" else np.zeros(threads, wanted)
        return lambda block: values
    if operand.startswith(("%ctaid.", "%nctaid.")):
        axis = "xyz".index(operand[-1])
        of_grid = operand.startswith("%n")
        return lambda block: np.full(threads, (block.grid if of_grid else block.index)[axis], wanted)
    if operand == program.shared and operand:
        values = np.full(threads, SHARED_BASE, wanted)
        return lambda block: values
    if operand in program.parameters:
        values = np.full(threads, PARAMETER_BASE + PARAMETER_SPAN * program.parameters[operand], wanted)
        return lambda block: values
    literal = _literal(operand, wanted)
    if literal is not None:
        values = np.full(threads, literal, UNSIGNED[np.dtype(wanted).itemsize]).view(wanted)
        return lambda block: values
    width = program.width(operand)
    size = np.dtype(wanted).itemsize
    if width == size:
        return lambda block: block.register(operand).view(wanted)
    if width > size:
        narrow = UNSIGNED[size]
        return lambda block: block.register(operand).astype(narrow).view(wanted)
    raise UnknownInstruction(f"{operand} of {width} bytes as .{kind}")


def _literal(operand: str, wanted: Any) -> int | None:
    bits = 8 * int(np.dtype(wanted).itemsize)
    if operand[:2] in ("0f", "0F") and bits == 32:
        return int(operand[2:], 16)
    if operand[:1].isdigit() or operand[:1] == "-":
        return int(operand.rstrip("U"), 0) & ((1 << bits) - 1)
    return None


def writer(program: Program, operand: str, kind: str) -> Writer:
    """Writes values of a fundamental type; narrower ones are extended as their type's sign says."""
    if operand == "_":
        return lambda block, values: None
    width = program.width(operand)
    size = np.dtype(TYPES[kind]).itemsize
    if width == size:
        return lambda block, values: block.set_register(operand, bits_of(values))
    if width > size:
        wide = {2: np.int16, 4: np.int32, 8: np.int64}[width] if kind[0] == "s" else UNSIGNED[width]
        return lambda block, values: block.set_register(operand, bits_of(values.astype(wide)))
    raise UnknownInstruction(f"{operand} of {width} bytes for .{kind}")


def float_reader(program: Program, operand: str, kind: str) -> Reader:
    """Reads float32, float16 or bfloat16 as float32."""
    bits, widen, _ = FLOATS[kind]
    read = bits_reader(program, operand, bits)
    return lambda block: widen(read(block))


def float_writer(program: Program, operand: str, kind: str) -> Writer:
    """Rounds float32 to float32, float16 or bfloat16 and writes it."""
    bits, _, narrow = FLOATS[kind]
    write = writer(program, operand, bits)
    return lambda block, values: write(block, narrow(values))


def predicate_reader(program: Program, operand: str) -> Reader:
    """Reads a predicate, or 0 or not 0, as booleans."""
    if operand.startswith("!"):
        inner = predicate_reader(program, operand[1:])
        return lambda block: ~inner(block)
    if operand.lstrip("-").isdigit():
        values = np.full(program.threads, int(operand) != 0)
        return lambda block: values
    if program.width(operand) != 0:
        raise UnknownInstruction(f"{operand} is no predicate")
    return lambda block: block.register(operand)


def predicate_writer(program: Program, operand: str) -> Writer:
    """Writes a predicate."""
    if operand == "_":
        return lambda block, values: None
    if program.width(operand) != 0:
        raise UnknownInstruction(f"{operand} is no predicate")
    return lambda block, values: block.set_register(operand, values)


def address_reader(program: Program, operand: str) -> Reader:
    """Reads ``[register]``, ``[register+offset]`` or the like as int64."""
    if not (operand.startswith("[") and operand.endswith("]")):
        raise UnknownInstruction(f"{operand} is no address")
    base, _, offset = operand[1:-1].replace(" ", "").partition("+")
    add = int(offset, 0) if offset else 0
    wide = base == program.shared or program.width(base) == 8
    read = bits_reader(program, base, "u64" if wide else "u32")
    return lambda block: read(block).astype(np.int64) + add


def vector(operand: str) -> list[str]:
    """The registers of ``{a, b}``, or the one."""
    return [word.strip() for word in operand.strip("{} ").split(",")]
