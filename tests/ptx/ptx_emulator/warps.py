"""What the threads of a warp do together: PTX ISA, "Parallel Synchronization" and "Warp-level Matrix"."""

from __future__ import annotations

import numpy as np

from ptx_emulator.faults import UnknownInstruction
from ptx_emulator.formats import FLOATS, Array, cut_to_tf32
from ptx_emulator.machine import (
    WARP,
    Block,
    Step,
    address_reader,
    bits_reader,
    predicate_writer,
    vector,
    writer,
)
from ptx_emulator.program import Program
from ptx_emulator.table import opcode

_LANE = np.arange(WARP)


def _whole_warps(word: str) -> None:
    if word not in ("-1", "0xffffffff", "4294967295"):
        raise UnknownInstruction(f"members {word}: expected whole warps")


@opcode(r"shfl\.sync\.(bfly|up|down|idx)\.b32")
def _shuffle(program: Program, words: tuple[str, ...], how: str) -> Step:
    """Lanes outside the warp's range keep their own value; segments narrower than a warp are not known."""
    names = [word.strip() for word in words[0].split("|")]
    out = writer(program, names[0], "b32")
    valid = predicate_writer(program, names[1]) if len(names) > 1 else None
    a, by = bits_reader(program, words[1], "b32"), bits_reader(program, words[2], "s32")
    if words[3] not in ("31", "0x1f") and not (how == "up" and words[3] == "0"):
        raise UnknownInstruction(f"segments of {words[3]}")
    _whole_warps(words[4])

    def step(block: Block) -> None:
        block.active_warps()
        offset = by(block).reshape(-1, WARP)
        lane = {
            "bfly": _LANE ^ offset,
            "up": _LANE - offset,
            "down": _LANE + offset,
            "idx": offset & WARP - 1,
        }[how]
        inside = (lane >= 0) & (lane < WARP)
        source = np.where(inside, lane, _LANE)
        moved = np.take_along_axis(a(block).reshape(-1, WARP), source, 1)
        out(block, moved.reshape(-1))
        if valid is not None:
            valid(block, inside.reshape(-1))

    return step


@opcode(r"redux\.sync\.add\.([su])32")
def _redux(program: Program, words: tuple[str, ...], _sign: str) -> Step:
    a, out = bits_reader(program, words[1], "u32"), writer(program, words[0], "u32")
    members = bits_reader(program, words[2], "u32")

    def step(block: Block) -> None:
        block.active_warps()
        if (members(block)[block.active] != 0xFFFFFFFF).any():
            raise UnknownInstruction("a sum over a part of a warp")
        out(block, np.repeat(a(block).reshape(-1, WARP).sum(1, dtype=np.uint32), WARP))

    return step


@opcode(r"elect\.sync")
def _elect(program: Program, words: tuple[str, ...]) -> Step:
    """The leader may be any lane; here it is the first."""
    leader, chosen = (word.strip() for word in words[0].split("|"))
    out, flag = writer(program, leader, "b32"), predicate_writer(program, chosen)
    _whole_warps(words[1])

    def step(block: Block) -> None:
        block.active_warps()
        out(block, np.zeros(block.threads, np.uint32))
        flag(block, block.thread % WARP == 0)

    return step


@opcode(r"bar\.warp\.sync")
def _warp_barrier(_: Program, words: tuple[str, ...]) -> Step:
    """The lanes run together as it is."""
    _whole_warps(words[0])
    return lambda block: None


# Matrices of 8 by 8 values of 16 bits: lane l has values 2 (l mod 4) and the next one of row l / 4.
_ROW, _COLUMN = _LANE // 4, _LANE % 4 * 2


@opcode(r"(ld|st)matrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16")
def _matrix(program: Program, words: tuple[str, ...], way: str, count: str, transposed: str | None) -> Step:
    """Lanes 8 i to 8 i + 7 give the addresses of matrix i's rows, of 16 bytes each."""
    names, place = (words[0], words[1]) if way == "ld" else (words[1], words[0])
    address, registers = address_reader(program, place), vector(names)
    if len(registers) != int(count):
        raise UnknownInstruction(f"{len(registers)} registers")

    def rows(block: Block, matrix: int, warps: list[int]) -> Array:
        return address(block).reshape(-1, WARP)[warps, 8 * matrix : 8 * matrix + 8].reshape(-1)

    if way == "ld":
        outs = [writer(program, name, "b32") for name in registers]

        def load(block: Block) -> None:
            warps = block.active_warps()
            who = np.repeat(np.array(warps), 8)
            for matrix, out in enumerate(outs):
                data = block.shared.read(rows(block, matrix, warps), 16, who)
                values = data.view(np.uint16).reshape(-1, 8, 8)
                if transposed:
                    values = values.transpose(0, 2, 1)
                pairs = np.stack([values[:, _ROW, _COLUMN], values[:, _ROW, _COLUMN + 1]], 2)
                result = np.zeros((block.warps, WARP), np.uint32)
                result[warps] = np.ascontiguousarray(pairs).view(np.uint32)[..., 0]
                out(block, result.reshape(-1))

        return load
    sources = [bits_reader(program, name, "b32") for name in registers]

    def store(block: Block) -> None:
        warps = block.active_warps()
        who = np.repeat(np.array(warps), 8)
        for matrix, source in enumerate(sources):
            pairs = np.ascontiguousarray(source(block).reshape(-1, WARP)[warps]).view(np.uint16)
            pairs = pairs.reshape(-1, WARP, 2)
            values = np.zeros((len(warps), 8, 8), np.uint16)
            values[:, _ROW, _COLUMN], values[:, _ROW, _COLUMN + 1] = pairs[..., 0], pairs[..., 1]
            if transposed:
                values = values.transpose(0, 2, 1)
            data = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 16)
            block.shared.write(rows(block, matrix, warps), data, who)

    return store


# Fragments of products: lane l holds row l / 4 and columns from l mod 4 on, in quarters of the tile.
_GROUP, _IN_GROUP = _LANE // 4, _LANE % 4


def a_fragment(registers: list[Array], kind: str) -> Array:
    """(n, 16, K) float32 from the four registers (n, 32) of A: K is 16 for 16 bits, 8 for tf32."""
    if kind == "tf32":
        tile = np.zeros((registers[0].shape[0], 16, 8), np.float32)
        for value, (row, k) in zip(registers, ((0, 0), (8, 0), (0, 4), (8, 4)), strict=True):
            tile[:, _GROUP + row, _IN_GROUP + k] = cut_to_tf32(value.view(np.float32))
        return tile
    tile = np.zeros((registers[0].shape[0], 16, 16), np.float32)
    for value, (row, k) in zip(registers, ((0, 0), (8, 0), (0, 8), (8, 8)), strict=True):
        low, high = _halves(value, kind)
        tile[:, _GROUP + row, 2 * _IN_GROUP + k] = low
        tile[:, _GROUP + row, 2 * _IN_GROUP + k + 1] = high
    return tile


def _halves(value: Array, kind: str) -> tuple[Array, Array]:
    widen = FLOATS[kind][1]
    pairs = np.ascontiguousarray(value).view(np.uint16).reshape(*value.shape, 2)
    return widen(pairs[..., 0].copy()), widen(pairs[..., 1].copy())


def _b_fragment(registers: list[Array], kind: str) -> Array:
    """(n, K, 8) float32 from the two registers (n, 32) of B."""
    if kind == "tf32":
        tile = np.zeros((registers[0].shape[0], 8, 8), np.float32)
        for value, k in zip(registers, (0, 4), strict=True):
            tile[:, _IN_GROUP + k, _GROUP] = cut_to_tf32(value.view(np.float32))
        return tile
    tile = np.zeros((registers[0].shape[0], 16, 8), np.float32)
    for value, k in zip(registers, (0, 8), strict=True):
        low, high = _halves(value, kind)
        tile[:, 2 * _IN_GROUP + k, _GROUP] = low
        tile[:, 2 * _IN_GROUP + k + 1, _GROUP] = high
    return tile


@opcode(r"mma\.sync\.aligned\.m16n8k(8|16)\.row\.col\.f32\.(tf32|f16|bf16)\.(tf32|f16|bf16)\.f32")
def _mma(program: Program, words: tuple[str, ...], inner: str, kind: str, other: str) -> Step:
    if kind != other or (inner == "8") != (kind == "tf32"):
        raise UnknownInstruction("types or a shape that do not go together")
    outs = [writer(program, name, "f32") for name in vector(words[0])]
    a, b = ([bits_reader(program, name, "b32") for name in vector(word)] for word in words[1:3])
    c = [bits_reader(program, name, "f32") for name in vector(words[3])]

    def step(block: Block) -> None:
        block.active_warps()
        left = a_fragment([read(block).reshape(-1, WARP) for read in a], kind)
        right = _b_fragment([read(block).reshape(-1, WARP) for read in b], kind)
        product = left @ right
        added = [read(block) for read in c]
        for out, value, (row, column) in zip(outs, added, ((0, 0), (0, 1), (8, 0), (8, 1)), strict=True):
            own = product[:, _GROUP + row, 2 * _IN_GROUP + column].reshape(-1)
            out(block, (own + value).astype(np.float32))

    return step
