"""Number formats as numpy arrays: PTX ISA, "Alternate Floating-Point Data Formats"."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TYPES: dict[str, Any] = {
    "b8": np.uint8, "u8": np.uint8, "s8": np.int8,
    "b16": np.uint16, "u16": np.uint16, "s16": np.int16,
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64,
}  # fmt: skip
"""The numpy type that a fundamental PTX type's bits are read as."""

UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
"""The type of raw bits, by bytes."""


def bits_of(values: Array) -> Array:
    """The same bits, unsigned."""
    return values.view(UNSIGNED[values.dtype.itemsize])


def from_bf16(bits: Array) -> Array:
    """uint16 bits of bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values: Array) -> Array:
    """float32 rounded to the nearest bfloat16, ties to even, as uint16 bits; NaN is 0x7fff."""
    wide = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def from_f16(bits: Array) -> Array:
    """uint16 bits of float16 as float32."""
    return bits.view(np.float16).astype(np.float32)


def to_f16(values: Array) -> Array:
    """float32 rounded to the nearest float16, ties to even, as uint16 bits."""
    return values.astype(np.float16).view(np.uint16)


def cut_to_tf32(values: Array) -> Array:
    """float32 without its lowest 13 bits, which products in tf32 do not look at."""
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def _e4m3_values() -> Array:
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    values[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -values, values).astype(np.float32)


E4M3 = _e4m3_values()
"""float32 of each of the 256 codes of float8 e4m3."""


def to_e4m3(values: Array) -> Array:
    """float32 rounded to the nearest e4m3, ties to even, clipped to 448 (``satfinite``), as uint8 codes."""
    positive = E4M3[:127].astype(np.float64)
    size = np.abs(values.astype(np.float64))
    above = np.clip(np.searchsorted(positive, size), 1, 126)
    middle = (positive[above - 1] + positive[above]) / 2
    even = np.where(above % 2 == 0, above, above - 1)
    code = np.where(size < middle, above - 1, np.where(size > middle, above, even))
    code = np.where(size >= 448, 126, code)
    code = np.where(np.isnan(values), 127, code)
    return (code | np.where(np.signbit(values), 128, 0)).astype(np.uint8)


FLOATS: dict[str, tuple[str, Any, Any]] = {
    "f32": ("f32", lambda values: values, lambda values: values.astype(np.float32)),
    "bf16": ("b16", from_bf16, to_bf16),
    "f16": ("b16", from_f16, to_f16),
}
"""A float type's bits, how they become float32, and how float32 becomes them."""
