"""What one thread does on its own: PTX ISA, "Integer Arithmetic" to "Data Movement and Conversion".

A builder (see :mod:`ptx_emulator.table`) looks at the operands once and returns what the instruction does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx_emulator.faults import OutOfBounds, UnknownInstruction
from ptx_emulator.formats import (
    TYPES,
    UNSIGNED,
    Array,
    bits_of,
    from_bf16,
    from_f16,
    to_bf16,
    to_e4m3,
    to_f16,
)
from ptx_emulator.machine import (
    PARAMETER_BASE,
    PARAMETER_SPAN,
    Block,
    Reader,
    Step,
    address_reader,
    bits_reader,
    float_reader,
    float_writer,
    predicate_reader,
    predicate_writer,
    vector,
    writer,
)
from ptx_emulator.program import Program
from ptx_emulator.table import opcode

_INTEGERS = r"[su](?:16|32|64)"
_BITS = r"b(?:16|32|64)"
_FLOATS = r"f32|f16|bf16"


# Integers

_WIDE = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}
_PLAIN: dict[str, Callable[[Array, Array], Array]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "min": np.minimum,
    "max": np.maximum,
}


@opcode(rf"(add|sub|min|max)\.({_INTEGERS})")
def _integer(program: Program, words: tuple[str, ...], name: str, kind: str) -> Step:
    a, b = (bits_reader(program, word, kind) for word in words[1:])
    out, compute = writer(program, words[0], kind), _PLAIN[name]
    return lambda block: out(block, compute(a(block), b(block)))


@opcode(rf"(mul|mad)\.(lo|hi|wide)\.({_INTEGERS})")
def _multiply(program: Program, words: tuple[str, ...], name: str, part: str, kind: str) -> Step:
    result = _WIDE[kind] if part == "wide" else kind
    a, b = (bits_reader(program, word, kind) for word in words[1:3])
    c = bits_reader(program, words[3], result) if name == "mad" else None
    out = writer(program, words[0], result)
    if part == "hi" and kind not in ("s32", "u32"):
        raise UnknownInstruction(f"the high half of .{kind}")

    def step(block: Block) -> None:
        left, right = a(block), b(block)
        if part == "lo":
            value = left * right
        else:
            wide = TYPES[_WIDE[kind]]
            value = left.astype(wide) * right.astype(wide)
            if part == "hi":
                value = (value >> value.dtype.type(32)).astype(TYPES[kind])
        out(block, value if c is None else value + c(block))

    return step


@opcode(r"(div|rem)\.([su]32)")
def _divide(program: Program, words: tuple[str, ...], name: str, kind: str) -> Step:
    a, b = (bits_reader(program, word, kind) for word in words[1:])
    out = writer(program, words[0], kind)

    def step(block: Block) -> None:
        left, right = a(block).astype(np.int64), b(block).astype(np.int64)
        right = np.where(right == 0, 1, right)  # unspecified by the ISA; of threads that do not look at it
        quotient = np.abs(left) // np.abs(right) * np.sign(left) * np.sign(right)  # towards zero
        out(block, (quotient if name == "div" else left - quotient * right).astype(TYPES[kind]))

    return step


@opcode(r"(neg|abs)\.(s(?:16|32|64))")
def _one_integer(program: Program, words: tuple[str, ...], name: str, kind: str) -> Step:
    a, out = bits_reader(program, words[1], kind), writer(program, words[0], kind)
    return lambda block: out(block, -a(block) if name == "neg" else np.abs(a(block)))


@opcode(r"popc\.b32")
def _popc(program: Program, words: tuple[str, ...]) -> Step:
    a, out = bits_reader(program, words[1], "b32"), writer(program, words[0], "u32")
    return lambda block: out(block, np.bitwise_count(a(block)).astype(np.uint32))


@opcode(r"bfe\.([su])32")
def _bfe(program: Program, words: tuple[str, ...], sign: str) -> Step:
    a, out = bits_reader(program, words[1], "u32"), writer(program, words[0], f"{sign}32")
    start, length = (_constant(word) for word in words[2:])
    if not 0 < length <= 32 - start:
        raise UnknownInstruction("a field beyond the register")

    def step(block: Block) -> None:
        high = a(block) << np.uint32(32 - start - length)  # the field's sign is now the register's
        shift = 32 - length
        out(block, high >> np.uint32(shift) if sign == "u" else high.view(np.int32) >> np.int32(shift))

    return step


@opcode(r"bfi\.b32")
def _bfi(program: Program, words: tuple[str, ...]) -> Step:
    a, b = (bits_reader(program, word, "b32") for word in words[1:3])
    out = writer(program, words[0], "b32")
    start, length = (_constant(word) for word in words[3:])
    mask = np.uint32((((1 << length) - 1) << start) & 0xFFFFFFFF)
    return lambda block: out(block, (a(block) << np.uint32(start)) & mask | b(block) & ~mask)


def _constant(word: str) -> int:
    try:
        return int(word.rstrip("U"), 0)
    except ValueError:
        raise UnknownInstruction(f"{word} where a constant is expected") from None


# Bits and predicates

_LOGIC: dict[str, Callable[[Array, Array], Array]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}


@opcode(rf"(and|or|xor|not)\.({_BITS}|pred)")
def _logic(program: Program, words: tuple[str, ...], name: str, kind: str) -> Step:
    if kind == "pred":
        sources = [predicate_reader(program, word) for word in words[1:]]
        out = predicate_writer(program, words[0])
    else:
        sources = [bits_reader(program, word, kind) for word in words[1:]]
        out = writer(program, words[0], kind)
    if name == "not":
        return lambda block: out(block, ~sources[0](block))
    a, b, compute = *sources, _LOGIC[name]
    return lambda block: out(block, compute(a(block), b(block)))


@opcode(r"(shl|shr)\.([bsu])(16|32|64)")
def _shift(program: Program, words: tuple[str, ...], way: str, sign: str, size: str) -> Step:
    kind = ("s" if sign == "s" else "u") + size
    a, out = bits_reader(program, words[1], kind), writer(program, words[0], kind)
    by, bits = bits_reader(program, words[2], "u32"), int(size)

    def step(block: Block) -> None:
        value, amount = a(block), by(block)
        near = np.minimum(amount, bits - 1).astype(value.dtype)
        shifted = value << near if way == "shl" else value >> near
        # Beyond the width all bits are the sign's, or 0.
        out(
            block,
            shifted
            if sign == "s" and way == "shr"
            else np.where(amount < bits, shifted, 0).astype(value.dtype),
        )

    return step


@opcode(r"prmt\.b32")
def _prmt(program: Program, words: tuple[str, ...]) -> Step:
    a, b = (bits_reader(program, word, "b32") for word in words[1:3])
    out, selection = writer(program, words[0], "b32"), _constant(words[3])

    def step(block: Block) -> None:
        source = np.stack([a(block), b(block)], 1).view(np.uint8)
        result = np.zeros((block.threads, 4), np.uint8)
        for place in range(4):
            pick = selection >> 4 * place & 15
            byte = source[:, pick & 7]
            result[:, place] = np.where(byte & 128, 255, 0) if pick & 8 else byte
        out(block, result.view(np.uint32)[:, 0])

    return step


_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


@opcode(rf"setp\.(eq|ne|lt|le|gt|ge)\.({_INTEGERS}|{_BITS})")
def _compare(program: Program, words: tuple[str, ...], how: str, kind: str) -> Step:
    a, b = (bits_reader(program, word, kind) for word in words[1:])
    out, compare = predicate_writer(program, words[0]), _COMPARE[how]
    return lambda block: out(block, compare(a(block), b(block)))


@opcode(rf"setp\.(eq|ne|lt|le|gt|ge)(u?)\.({_FLOATS})")
def _compare_floats(program: Program, words: tuple[str, ...], how: str, unordered: str, kind: str) -> Step:
    a, b = (float_reader(program, word, kind) for word in words[1:])
    out = predicate_writer(program, words[0])
    return lambda block: out(block, _ordered(how, bool(unordered), a(block), b(block)))


def _ordered(how: str, unordered: bool, left: Array, right: Array) -> Array:
    """Without NaN as usual; with NaN what ``unordered`` says, which is not numpy's rule for ``ne``."""
    nan = np.isnan(left) | np.isnan(right)
    found = _COMPARE[how](left, right)
    return found | nan if unordered else found & ~nan


@opcode(rf"setp\.(nan|num)\.({_FLOATS})")
def _is_nan(program: Program, words: tuple[str, ...], how: str, kind: str) -> Step:
    a, b = (float_reader(program, word, kind) for word in words[1:])
    out = predicate_writer(program, words[0])

    def step(block: Block) -> None:
        nan = np.isnan(a(block)) | np.isnan(b(block))
        out(block, nan if how == "nan" else ~nan)

    return step


@opcode(r"setp\.(eq|ne|lt|le|gt|ge)(u?)\.(bf16|f16)x2")
def _compare_pairs(program: Program, words: tuple[str, ...], how: str, unordered: str, kind: str) -> Step:
    a, b = (bits_reader(program, word, "b32") for word in words[1:])
    outs = [predicate_writer(program, word.strip()) for word in words[0].split("|")]
    widen = from_bf16 if kind == "bf16" else from_f16

    def step(block: Block) -> None:
        left, right = (
            widen(np.ascontiguousarray(side(block)).view(np.uint16)).reshape(-1, 2) for side in (a, b)
        )
        for half, out in enumerate(outs):
            out(block, _ordered(how, bool(unordered), left[:, half], right[:, half]))

    return step


@opcode(rf"selp\.({_BITS}|{_INTEGERS}|f32)")
def _select(program: Program, words: tuple[str, ...], kind: str) -> Step:
    a, b = (bits_reader(program, word, kind) for word in words[1:3])
    which, out = predicate_reader(program, words[3]), writer(program, words[0], kind)
    return lambda block: out(block, np.where(which(block), a(block), b(block)))


# Floating point. ``approx`` and ``full`` are computed exactly, ``ftz`` flushes nothing: both differences are
# far below what the kernels are compared to.


_FLOAT: dict[str, Callable[[Array, Array], Array]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": np.fmax,  # of a number and NaN the number
    "min": np.fmin,
    "max.NaN": np.maximum,
    "min.NaN": np.minimum,
}


@opcode(
    rf"(add|sub|mul)(?:\.rn)?(?:\.ftz)?\.({_FLOATS})|(max|min)(\.NaN)?\.({_FLOATS})|div\.(?:full|rn)()\.(f32)"
)
def _floats(program: Program, words: tuple[str, ...], *groups: str | None) -> Step:
    given = [group for group in groups if group]
    kind = given[-1]
    name = "".join(given[:-1]) or "div"
    a, b = (float_reader(program, word, kind) for word in words[1:])
    out, compute = float_writer(program, words[0], kind), _FLOAT[name]
    return lambda block: out(block, compute(a(block), b(block)))


@opcode(rf"fma\.rn(?:\.ftz)?\.({_FLOATS})")
def _fma(program: Program, words: tuple[str, ...], kind: str) -> Step:
    a, b, c = (float_reader(program, word, kind) for word in words[1:])
    out = float_writer(program, words[0], kind)

    def step(block: Block) -> None:
        # The product is exact in float64; rounding twice differs in rare last bits only.
        exact = a(block).astype(np.float64) * b(block) + c(block)
        out(block, exact.astype(np.float32))

    return step


@opcode(rf"(neg|abs)\.({_FLOATS})")
def _sign(program: Program, words: tuple[str, ...], name: str, kind: str) -> Step:
    size = "32" if kind == "f32" else "16"
    a, out = bits_reader(program, words[1], f"b{size}"), writer(program, words[0], f"b{size}")
    top = UNSIGNED[int(size) // 8](1 << int(size) - 1)
    return lambda block: out(block, a(block) ^ top if name == "neg" else a(block) & ~top)


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": lambda value: 1 / np.sqrt(value),
    "rcp": lambda value: 1 / value,
}


@opcode(r"(ex2|lg2|rsqrt|sqrt|rcp)\.(?:approx|rn)(?:\.ftz)?\.f32")
def _function(program: Program, words: tuple[str, ...], name: str) -> Step:
    a, out = float_reader(program, words[1], "f32"), float_writer(program, words[0], "f32")
    compute = _FUNCTIONS[name]
    return lambda block: out(block, compute(a(block).astype(np.float64)).astype(np.float32))


# Moves and conversions


@opcode(r"mov\.pred")
def _move_predicate(program: Program, words: tuple[str, ...]) -> Step:
    a, out = predicate_reader(program, words[1]), predicate_writer(program, words[0])
    return lambda block: out(block, a(block))


@opcode(rf"mov\.({_BITS}|{_INTEGERS}|f32)")
def _move(program: Program, words: tuple[str, ...], kind: str) -> Step:
    size = np.dtype(TYPES[kind]).itemsize
    if words[0].startswith("{"):
        outs = vector(words[0])
        part = f"b{8 * size // len(outs)}"
        a, writers = bits_reader(program, words[1], kind), [writer(program, out, part) for out in outs]

        def unpack(block: Block) -> None:
            parts = np.ascontiguousarray(a(block)).view(TYPES[part]).reshape(block.threads, -1)
            for column, out in enumerate(writers):
                out(block, parts[:, column].copy())

        return unpack
    out = writer(program, words[0], kind)
    if words[1].startswith("{"):
        names = vector(words[1])
        part = f"b{8 * size // len(names)}"
        readers = [_half(program, name, part) for name in names]

        def pack(block: Block) -> None:
            columns = np.stack([read(block) for read in readers], 1)
            out(block, columns.view(TYPES[kind])[:, 0].copy())

        return pack
    a = bits_reader(program, words[1], kind)
    return lambda block: out(block, a(block))


def _half(program: Program, name: str, kind: str) -> Reader:
    """One part of a register that is put together; LLVM leaves parts undefined that nobody looks at."""
    read = bits_reader(program, name, kind)
    garbage = np.full(program.threads, 0x7F7F7F7F, np.uint64).astype(TYPES[kind])
    return lambda block: read(block) if not name.startswith("%") or name in block.registers else garbage


@opcode(r"cvta(?:\.to)?\.(?:param|global|shared)\.u64")
def _address_space(program: Program, words: tuple[str, ...]) -> Step:
    a, out = bits_reader(program, words[1], "u64"), writer(program, words[0], "u64")
    return lambda block: out(block, a(block))


@opcode(rf"cvt\.({_INTEGERS}|[su]8)\.({_INTEGERS}|[su]8)")
def _convert(program: Program, words: tuple[str, ...], to: str, source: str) -> Step:
    a, out = bits_reader(program, words[1], source), writer(program, words[0], to)
    return lambda block: out(block, a(block).astype(TYPES[to]))


@opcode(rf"cvt\.rn\.f32\.({_INTEGERS})")
def _to_float(program: Program, words: tuple[str, ...], source: str) -> Step:
    a, out = bits_reader(program, words[1], source), writer(program, words[0], "f32")
    return lambda block: out(block, a(block).astype(np.float32))


@opcode(r"cvt(?:\.rn)?\.(f32|f16|bf16)\.(f32|f16|bf16)")
def _convert_floats(program: Program, words: tuple[str, ...], to: str, source: str) -> Step:
    a, out = float_reader(program, words[1], source), float_writer(program, words[0], to)
    return lambda block: out(block, a(block))


@opcode(r"cvt\.rn\.(bf16|f16)x2\.f32")
def _convert_pair(program: Program, words: tuple[str, ...], to: str) -> Step:
    high, low = (float_reader(program, word, "f32") for word in words[1:])
    out, narrow = writer(program, words[0], "b32"), to_bf16 if to == "bf16" else to_f16

    def step(block: Block) -> None:
        out(block, narrow(low(block)).astype(np.uint32) | narrow(high(block)).astype(np.uint32) << 16)

    return step


@opcode(r"cvt\.rn\.satfinite\.e4m3x2\.f32")
def _convert_float8(program: Program, words: tuple[str, ...]) -> Step:
    high, low = (float_reader(program, word, "f32") for word in words[1:])
    out = writer(program, words[0], "b16")

    def step(block: Block) -> None:
        out(block, to_e4m3(low(block)).astype(np.uint16) | to_e4m3(high(block)).astype(np.uint16) << 8)

    return step


# Memory


@opcode(r"ld\.param\.(b32|b64|u32|u64|s32|f32)")
def _parameter(program: Program, words: tuple[str, ...], kind: str) -> Step:
    out, wanted = writer(program, words[0], kind), TYPES[kind]
    size = np.dtype(wanted).itemsize
    name = words[1].strip("[] ")
    position = program.parameters.get(name)

    def bits(block: Block, position: int) -> int:
        value: Any = block.arguments[position]
        return int(np.float32(value).view(np.uint32)) if isinstance(value, float) else int(value)

    def whole(block: Block, position: int) -> Array:
        found = bits(block, position) & (1 << 8 * size) - 1
        return np.full(block.threads, found, UNSIGNED[size]).view(wanted)

    if position is not None:
        return lambda block: out(block, whole(block, position))
    # Of several parameters, the one whose address was chosen.
    address = address_reader(program, words[1])

    def step(block: Block) -> None:
        chosen = address(block)
        result = np.zeros(block.threads, wanted)
        for one in np.unique(chosen[block.active]).tolist():
            position, rest = divmod(one - PARAMETER_BASE, PARAMETER_SPAN)
            if rest or not 0 <= position < len(block.arguments):
                raise OutOfBounds(f"no parameter begins at {hex(one)}")
            result = np.where(chosen == one, whole(block, position), result)
        out(block, result)

    return step


@opcode(rf"(ld|st)\.(global|shared)(?:\.v([24]))?\.(b8|{_BITS}|[su]8|{_INTEGERS}|f32)")
def _memory(
    program: Program, words: tuple[str, ...], way: str, space: str, count: str | None, kind: str
) -> Step:
    address = address_reader(program, words[way == "ld"])
    names = vector(words[way == "st"])
    size = np.dtype(TYPES[kind]).itemsize
    if len(names) != int(count or 1):
        raise UnknownInstruction(f"{len(names)} registers")

    def placed(block: Block) -> Any:
        return block.memory if space == "global" else block.shared

    if way == "ld":
        outs = [writer(program, name, kind) for name in names]

        def load(block: Block) -> None:
            chosen = block.active
            # A vector is aligned and read as a whole.
            data = placed(block).read(address(block)[chosen], size * len(outs), block.warp[chosen])
            whole = np.zeros((block.threads, size * len(outs)), np.uint8)
            whole[chosen] = data
            columns = whole.view(TYPES[kind])
            for column, out in enumerate(outs):
                out(block, columns[:, column].copy())

        return load
    values = [bits_reader(program, name, kind) for name in names]

    def store(block: Block) -> None:
        chosen = block.active
        columns = np.stack([bits_of(read(block)) for read in values], 1)
        data = columns.view(np.uint8).reshape(block.threads, -1)[chosen]
        placed(block).write(address(block)[chosen], data, block.warp[chosen])

    return store
