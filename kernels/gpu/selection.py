"""Selecting the k highest by counting: what pooling and mining share."""

from __future__ import annotations

from aicl_fast.extras import needs

with needs("triton"):
    import triton
    import triton.language as tl

# mypy: disable-error-code="no-untyped-def,untyped-decorator"


@triton.jit
def order_key(b_x, SHIFT: tl.constexpr):
    """uint32 keys in the order of float32 values, equal where they are (-0.0 is 0.0), without low bits.

    A float's bits grow with its magnitude, so the negative ones are flipped and the others put above them.
    Dropping SHIFT low bits is exact for values that were raised from a narrower type.
    """
    b_bits = tl.where(b_x == 0.0, 0.0, b_x).to(tl.uint32, bitcast=True)
    b_sign = b_bits >> 31
    b_key = tl.where(b_sign != 0, b_bits ^ 0xFFFFFFFF, b_bits | 0x80000000)
    return b_key >> SHIFT


@triton.jit
def kth_key(b_key, b_k, AXIS: tl.constexpr, SHIFT: tl.constexpr):
    """The k-th highest key along an axis, found bit by bit: one count a bit, no sort.

    Args:
        b_key: 2D uint32 keys of at most 32 - SHIFT bits; what is to be passed over has key 0.
        b_k: how many keys are to be at or above the result, of the shape that remains.
    """
    b_kth = tl.zeros_like(b_k).to(tl.uint32)
    b_bit = tl.full(b_k.shape, 0x80000000 >> SHIFT, tl.uint32)
    for _ in range(32 - SHIFT):
        b_try = b_kth | b_bit
        b_count = tl.sum((b_key >= tl.expand_dims(b_try, AXIS)).to(tl.int32), AXIS)
        b_kth = tl.where(b_count >= b_k, b_try, b_kth)
        b_bit = b_bit >> 1
    return b_kth


@triton.jit
def highest(b_key, b_member, b_k, AXIS: tl.constexpr, SHIFT: tl.constexpr):
    """Mask of the ``b_k`` members of highest key along an axis, ties by lowest index.

    ``b_k`` is at most the number of members, whose keys are above 0; all others have key 0.
    """
    b_kth = tl.expand_dims(kth_key(b_key, b_k, AXIS, SHIFT), AXIS)
    b_above = b_key > b_kth
    b_room = tl.expand_dims(b_k - tl.sum(b_above.to(tl.int32), AXIS), AXIS)
    b_tied = (b_key == b_kth) & b_member
    b_rank = tl.cumsum(b_tied.to(tl.int32), AXIS)
    return b_above | (b_tied & (b_rank <= b_room))
