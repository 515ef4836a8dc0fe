"""What goes on beside the threads: PTX ISA, "Asynchronous Operations", "Data Movement" and "wgmma".

Each operation has two ends, its start and the wait that makes its effect visible. *Eager* blocks let the
effect happen at the start, *lazy* ones at the wait; the checks are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ptx_emulator.faults import (
    InFlight,
    Misaligned,
    OutOfBounds,
    Race,
    Uninitialised,
    UnknownInstruction,
)
from ptx_emulator.formats import E4M3, Array, cut_to_tf32, from_bf16, from_f16
from ptx_emulator.machine import (
    PARAMETER_BASE,
    PARAMETER_SPAN,
    WARP,
    WARPGROUP,
    Block,
    Step,
    address_reader,
    bits_reader,
    predicate_reader,
    predicate_writer,
    vector,
)
from ptx_emulator.memory import COPY_ENGINE
from ptx_emulator.program import Program, operands
from ptx_emulator.table import opcode
from ptx_emulator.warps import a_fragment

_GROUP_READER = 1000
"""Stands for a warp where warpgroup 0 reads by wgmma; the next numbers for the others."""


def _fill_later(block: Block, places: Array) -> None:
    """Until a copy arrives there is nothing to be read where it goes."""
    if block.lazy:
        block.shared.initialised[places] = False


def _commit(started: list[list[Any]], groups: list[list[list[Any]]], owners: Iterable[int]) -> None:
    """What each of these warps or warpgroups has started becomes a group that it can wait for."""
    for owner in owners:
        groups[owner].append(started[owner])
        started[owner] = []


# cp.async: "Data Movement and Conversion Instructions: Non-bulk copy"


@dataclass(frozen=True)
class _Copy:
    warp: int
    places: Array
    data: Array

    def arrive(self, block: Block) -> None:
        block.shared.put(self.places, self.data, self.warp)


@opcode(r"cp\.async\.c[ag]\.shared(?:::cta)?\.global")
def _copy(program: Program, words: tuple[str, ...]) -> Step:
    """The source's size is the copy's or 0, which fills with zeros."""
    to, source = (address_reader(program, word) for word in words[:2])
    size = int(words[2], 0)
    given = bits_reader(program, words[3], "u32") if len(words) > 3 else None

    def step(block: Block) -> None:
        chosen = block.active
        count = given(block) if given is not None else np.full(block.threads, size)
        if not np.isin(count[chosen], (0, size)).all():
            raise UnknownInstruction("a copy of a part")
        data = np.zeros((block.threads, size), np.uint8)
        reads = chosen & (count > 0)
        data[reads] = block.memory.read(source(block)[reads], size, block.warp[reads])
        places = np.zeros((block.threads, size), np.int64)
        places[chosen] = block.shared.locate(to(block)[chosen], size)
        block.shared.check_overwrite(places[chosen], block.warp[chosen][:, None])
        _fill_later(block, places[chosen])
        for warp in np.unique(block.warp[chosen]).tolist():
            mine = chosen & (block.warp == warp)
            copy = _Copy(warp, places[mine], data[mine])
            if not block.lazy:
                copy.arrive(block)
            block.work.copies[warp].append(copy)

    return step


@opcode(r"cp\.async\.commit_group")
def _copy_commit(_: Program, words: tuple[str, ...]) -> Step:
    def step(block: Block) -> None:
        _commit(block.work.copies, block.work.copy_groups, block.active_warps())

    return step


@opcode(r"cp\.async\.wait_group")
def _copy_wait(_: Program, words: tuple[str, ...]) -> Step:
    left = int(words[0], 0)

    def step(block: Block) -> None:
        for warp in block.active_warps():
            groups = block.work.copy_groups[warp]
            while len(groups) > left:
                for copy in groups.pop(0):
                    copy.arrive(block)  # to the other warps it is a write by this one, at this moment

    return step


# mbarrier: "Parallel Synchronization and Communication Instructions: mbarrier"


@dataclass
class Barrier:
    """An mbarrier: its phase ends when all have arrived and all bytes have come."""

    expected: int
    pending: int
    made: int
    """When it was initialised, in barriers, and by which warp."""
    maker: int
    bytes: int = 0
    phase: int = 0

    def settle(self) -> None:
        """End the phase if nothing is missing."""
        if self.pending == 0 and self.bytes == 0:
            self.pending = self.expected
            self.phase ^= 1


def _barrier(block: Block, address: int, warp: int) -> Barrier:
    found: Barrier | None = block.work.barriers.get(address)
    if found is None:
        raise Uninitialised(f"there is no mbarrier at {hex(address)}")
    if found.made == block.shared.now and found.maker != warp:
        raise Race("mbarrier initialised by another warp, no barrier between")
    return found


@opcode(r"mbarrier\.(init|inval)\.shared(?:::cta)?\.b64")
def _barrier_life(program: Program, words: tuple[str, ...], what: str) -> Step:
    address = address_reader(program, words[0])

    def step(block: Block) -> None:
        where = address(block)
        for thread in np.nonzero(block.active)[0].tolist():
            place, warp = int(where[thread]), thread // WARP
            block.shared.locate(where[thread : thread + 1], 8)
            if what == "init":
                arrivals = int(words[1])
                block.work.barriers[place] = Barrier(arrivals, arrivals, block.shared.now, warp)
            else:
                if _barrier(block, place, warp).bytes:
                    raise InFlight("mbarrier ends while copies are on their way")
                del block.work.barriers[place]

    return step


@opcode(r"mbarrier\.arrive\.expect_tx\.shared(?:::cta)?\.b64")
def _arrive(program: Program, words: tuple[str, ...]) -> Step:
    if words[0] != "_":
        raise UnknownInstruction("an arrival whose state is kept")
    address, count = address_reader(program, words[1]), bits_reader(program, words[2], "u32")

    def step(block: Block) -> None:
        where, expected = address(block), count(block)
        for thread in np.nonzero(block.active)[0].tolist():
            barrier = _barrier(block, int(where[thread]), thread // WARP)
            if barrier.pending == 0:
                raise Race("more arrivals than the mbarrier expects")
            barrier.bytes += int(expected[thread])
            barrier.pending -= 1
            barrier.settle()

    return step


@opcode(r"mbarrier\.try_wait\.parity\.shared(?:::cta)?\.b64")
def _try_wait(program: Program, words: tuple[str, ...]) -> Step:
    """True where the phase of that parity has ended."""
    out = predicate_writer(program, words[0])
    address, parity = address_reader(program, words[1]), bits_reader(program, words[2], "u32")

    def step(block: Block) -> None:
        where, phase = address(block), parity(block)
        ended = np.zeros(block.threads, bool)
        for thread in np.nonzero(block.active)[0].tolist():
            place = int(where[thread])
            barrier = _barrier(block, place, thread // WARP)
            if barrier.phase == phase[thread]:
                # Waiting is what makes a lazy block's boxes arrive.
                due = [box for box in block.work.boxes if box.barrier == place]
                block.work.boxes = [box for box in block.work.boxes if box.barrier != place]
                for box in due:
                    box.arrive(block)
            ended[thread] = barrier.phase != phase[thread]
        out(block, ended)
        if ended.any():
            block.asked = 0
        block.stalled |= block.active & ~ended

    return step


# The copy engine: "Data Movement and Conversion Instructions: Tensor copy", and "Tensors" for swizzling


@dataclass(frozen=True)
class TensorMap:
    """A tensor as the copy engine sees it; dimensions outermost first, as Triton gives them."""

    base: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements; the last is 1."""
    element: int
    """Bytes."""
    box: tuple[int, ...]
    swizzle: int
    """Bytes of an inner row, 32, 64 or 128, whose 16-byte parts are exchanged; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse what the driver refuses to encode.

        Raises:
            Misaligned: the base or a stride is no multiple of 16 bytes.
            UnknownInstruction: a box that does not fit the swizzle.
        """
        if self.base % 16 or any(stride * self.element % 16 for stride in self.strides[:-1]):
            raise Misaligned(f"tensor map: base {hex(self.base)}, strides {self.strides} x {self.element}")
        inner = self.box[-1] * self.element
        if self.strides[-1] != 1 or max(self.box) > 256 or (self.swizzle and inner != self.swizzle):
            raise UnknownInstruction(f"tensor map: box {self.box}, swizzle of {self.swizzle} bytes")


_SWIZZLE = {128: 7, 64: 3, 32: 1}
"""Bits of the address above the lowest seven that are mixed into bits 4 to 6."""


def swizzled(addresses: Array, row: int) -> Array:
    """Where the copy engine and wgmma keep what would be at these addresses; ``row`` in bytes, 0 for none."""
    if row == 0:
        return addresses
    places: Array = addresses ^ ((addresses >> 7 & _SWIZZLE[row]) << 4)
    return places


@dataclass(frozen=True)
class _Box:
    barrier: int
    places: Array
    data: Array

    def arrive(self, block: Block) -> None:
        block.shared.put(self.places, self.data, COPY_ENGINE)
        barrier = block.work.barriers[self.barrier]
        barrier.bytes -= self.data.size
        barrier.settle()


def _read_box(block: Block, tensor: TensorMap, first: list[int]) -> Array:
    """(elements, bytes) of a box; zeros beyond the tensor's ends on every side."""
    steps = np.indices(tensor.box).reshape(len(tensor.box), -1)
    at = steps + np.array(first)[:, None]
    inside = ((at >= 0) & (at < np.array(tensor.shape)[:, None])).all(0)
    offsets = (at * np.array(tensor.strides)[:, None]).sum(0) * tensor.element + tensor.base
    data = np.zeros((at.shape[1], tensor.element), np.uint8)
    if inside.any():
        data[inside] = block.memory.read(offsets[inside], tensor.element, COPY_ENGINE)
    return data


@opcode(r"cp\.async\.bulk\.tensor\.([1-5])d\.shared::(?:cta|cluster)\.global\.mbarrier::complete_tx::bytes")
def _copy_box(program: Program, words: tuple[str, ...], rank: str) -> Step:
    to, barrier = address_reader(program, words[0]), address_reader(program, words[2])
    where, _, coordinates = words[1].strip("[] ").partition(",")
    pointer = bits_reader(program, where.strip(), "u64")
    first = [bits_reader(program, name, "s32") for name in reversed(operands(coordinates.strip(" {}")))]
    if len(first) != int(rank):
        raise UnknownInstruction(f"{len(first)} coordinates")

    def step(block: Block) -> None:
        target, who, source = to(block), barrier(block), pointer(block)
        corner = [read(block) for read in first]
        for thread in np.nonzero(block.active)[0].tolist():
            position, rest = divmod(int(source[thread]) - PARAMETER_BASE, PARAMETER_SPAN)
            known = 0 <= position < len(block.arguments) and rest == 0
            tensor = block.arguments[position] if known else None
            if not isinstance(tensor, TensorMap) or len(tensor.shape) != int(rank):
                raise OutOfBounds(f"no tensor map of {rank} dimensions at {hex(int(source[thread]))}")
            if target[thread] % 128:
                raise Misaligned(f"a box goes to {hex(int(target[thread]))}: expected multiples of 128")
            _barrier(block, int(who[thread]), thread // WARP)
            data = _read_box(block, tensor, [int(value[thread]) for value in corner])
            addresses = int(target[thread]) + np.arange(data.shape[0]) * tensor.element
            places = block.shared.locate(swizzled(addresses, tensor.swizzle), tensor.element)
            # The engine is none of the warps: what any of them read must lie before a barrier.
            block.shared.check_overwrite(places, COPY_ENGINE)
            _fill_later(block, places)
            box = _Box(int(who[thread]), places, data)
            if block.lazy:
                block.work.boxes.append(box)
            else:
                box.arrive(block)

    return step


@opcode(r"fence\.proxy\.async(?:\.shared::cta)?")
def _proxy_fence(_: Program, words: tuple[str, ...]) -> Step:
    return lambda block: block.shared.fence(np.unique(block.warp[block.active]))


# wgmma: "Asynchronous Warpgroup Level Matrix Instructions"

_MATRIX_SWIZZLE = {1: 128, 2: 64, 3: 32}
_BYTES = {"bf16": 2, "f16": 2, "tf32": 4, "e4m3": 1}


def _values(raw: Array, kind: str) -> Array:
    raw = np.ascontiguousarray(raw)
    if kind == "bf16":
        return from_bf16(raw.view(np.uint16))
    if kind == "f16":
        return from_f16(raw.view(np.uint16))
    if kind == "tf32":
        return cut_to_tf32(raw.view(np.float32))
    return E4M3[raw]


@cache
def _tile_offsets(rows: int, row_bytes: int, stride: int, pitch: int) -> Array:
    row = np.arange(rows)[:, None]
    offsets: Array = (row // 8 * stride + row % 8 * pitch + np.arange(row_bytes)).reshape(-1)
    return offsets


def _tile_places(block: Block, descriptor: int, rows: int, row_bytes: int) -> Array:
    """(rows, bytes) places of a K-major operand: "Matrix Descriptor", and "Strides" for what lies where."""
    start, stride = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    mode = descriptor >> 62 & 3
    if mode == 0 or descriptor >> 49 & 7:
        raise UnknownInstruction(f"a matrix descriptor without swizzle or with an offset: {hex(descriptor)}")
    pitch = _MATRIX_SWIZZLE[mode]
    # A KiB aligned pattern: the swizzle looks at the address itself.
    flat = swizzled(start + _tile_offsets(rows, row_bytes, stride, pitch), pitch)
    return block.shared.locate(flat, 1).reshape(rows, row_bytes)


@cache
def _fragment_places(registers: int) -> tuple[Array, Array]:
    """Row and column in the product of each (register, thread) of a warpgroup."""
    lane = np.arange(WARPGROUP) % WARP
    eight, part = (each[:, None] for each in divmod(np.arange(registers), 4))
    row = np.arange(WARPGROUP) // WARP * 16 + lane // 4
    return row + 8 * (part // 2), 8 * eight + 2 * (lane % 4) + part % 2


@dataclass
class _Product:
    """One wgmma: what it reads and where its result goes."""

    group: int
    kind: str
    results: list[str]
    fragments: list[str]
    """Registers of A; empty where it is in shared memory."""
    left: Array
    """(64, K) float32 of A where it is in registers, else its places."""
    right: Array
    """Places of B."""
    seen: list[Array]
    """The shared operands' bytes at the start."""
    adds: bool
    applied: bool = False

    @property
    def threads(self) -> slice:
        return slice(WARPGROUP * self.group, WARPGROUP * (self.group + 1))

    def read(self, block: Block) -> list[Array]:
        """The shared operands' bytes, as they are now."""
        found = []
        for places in [self.right] if self.fragments else [self.right, self.left]:
            if block.shared.unfenced[places].any():
                raise InFlight("wgmma reads what was stored without a proxy fence since")
            block.shared.note_read(places, _GROUP_READER + self.group)
            found.append(block.shared.data[places])
        return found

    def apply(self, block: Block, operands: list[Array]) -> None:
        """Put the product into the results."""
        right = _values(operands[0], self.kind)
        left = self.left if self.fragments else _values(operands[1], self.kind)
        product = left @ right.T
        # "Register Fragments": warp w has rows 16 w on, each lane two neighbouring columns of each eight.
        values, threads = product[_fragment_places(len(self.results))], self.threads
        registers = [block.registers[name] for name in self.results]
        if self.adds:
            values += np.array([whole[threads] for whole in registers]).view(np.float32)
        for name, whole, own in zip(self.results, registers, values.view(np.uint32), strict=True):
            changed = whole.copy()
            changed[threads] = own
            block.registers[name] = changed
        self.applied = True


@opcode(r"wgmma\.fence\.sync\.aligned")
def _product_fence(_: Program, words: tuple[str, ...]) -> Step:
    return lambda block: block.unfenced.clear()


@opcode(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(\d+)\.f32\.(bf16|f16|tf32|e4m3)\.(bf16|f16|tf32|e4m3)")
def _start_product(
    program: Program, words: tuple[str, ...], width: str, inner: str, kind: str, other: str
) -> Step:
    results = vector(words[0])
    fragments = vector(words[1]) if words[1].startswith("{") else []
    a = [bits_reader(program, name, "b32") for name in fragments]
    left = None if fragments else bits_reader(program, words[1], "u64")
    right = bits_reader(program, words[2], "u64")
    adds = predicate_reader(program, words[3])
    row_bytes = int(inner) * _BYTES[kind]
    if kind != other or row_bytes != 32 or len(results) != int(width) // 2:
        raise UnknownInstruction("types or a shape that do not go together")
    if words[4:6] != ("1", "1") or any(flag != "0" for flag in words[6:]) or (fragments and kind == "e4m3"):
        raise UnknownInstruction(f"operands negated or transposed: {words[4:]}")

    def step(block: Block) -> None:
        for name in (*results, *fragments):
            if name in block.unfenced:
                raise InFlight(f"register {name} was written and no wgmma.fence followed")
        for group in sorted(block.active_groups()):
            threads = slice(WARPGROUP * group, WARPGROUP * (group + 1))
            if not block.active[threads].all():
                raise UnknownInstruction("wgmma by a part of a warpgroup")
            scale = adds(block)[threads]
            if scale.any() != scale.all():
                raise UnknownInstruction("wgmma that adds in some threads only")
            _start(block, group, threads, bool(scale[0]))

    def _start(block: Block, group: int, threads: slice, scale: bool) -> None:
        if scale:
            for name in results:
                _result(block, name, group)
        for name in results:
            if name not in block.registers:
                block.registers[name] = np.zeros(block.threads, np.uint32)
        if fragments:
            registers = [read(block)[threads].reshape(4, WARP) for read in a]
            operand = a_fragment(registers, kind).reshape(64, int(inner))
        else:
            assert left is not None
            operand = _tile_places(block, int(left(block)[threads][0]), 64, row_bytes)
        places = _tile_places(block, int(right(block)[threads][0]), int(width), row_bytes)
        product = _Product(group, kind, results, fragments, operand, places, [], scale)
        product.seen = product.read(block)
        if not block.lazy:
            product.apply(block, product.seen)
        block.work.products[group].append(product)
        for role, names in (("operand", fragments), ("result", results)):
            for name in names:
                if name not in block.in_flight:
                    block.in_flight[name] = role, set()
                block.in_flight[name][1].add(group)

    return step


def _result(block: Block, name: str, group: int) -> None:
    """A result that is added to has to be there; one product may follow another on the same registers."""
    if name not in block.registers:
        raise Uninitialised(f"register {name} is added to and was never written")
    role, groups = block.in_flight.get(name, ("result", set()))
    if role != "result" and group in groups:
        raise InFlight(f"register {name} is an operand of an unfinished wgmma")


@opcode(r"wgmma\.commit_group\.sync\.aligned")
def _product_commit(_: Program, words: tuple[str, ...]) -> Step:
    def step(block: Block) -> None:
        _commit(block.work.products, block.work.product_groups, block.active_groups())

    return step


@opcode(r"wgmma\.wait_group\.sync\.aligned")
def _product_wait(_: Program, words: tuple[str, ...]) -> Step:
    left = int(words[0], 0)

    def step(block: Block) -> None:
        for group in block.active_groups():
            groups = block.work.product_groups[group]
            while len(groups) > left:
                for product in groups.pop(0):
                    _finish(block, product)
            unfinished = [one for batch in (*groups, block.work.products[group]) for one in batch]
            busy = {name for one in unfinished for name in (*one.results, *one.fragments)}
            for name, (_role, owners) in list(block.in_flight.items()):
                if name not in busy:
                    owners.discard(group)
                    if not owners:
                        del block.in_flight[name]

    return step


def _finish(block: Block, product: _Product) -> None:
    now = product.read(block)
    if any(not np.array_equal(before, after) for before, after in zip(product.seen, now, strict=True)):
        raise InFlight("shared memory that a wgmma reads has changed before it is waited for")
    if not product.applied:
        product.apply(block, now)
