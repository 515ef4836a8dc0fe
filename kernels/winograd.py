"""Kernel-3 convolution along time by Winograd's F(4, 3): half the products of the direct one.

Four neighbouring outputs take twelve products a pair of channels when each is computed by itself. They are
also the coefficients of a product of polynomials, and evaluating those at six points, multiplying there and
interpolating takes six (Toom 1963, Winograd 1980; for convolutions Lavin and Gray, CVPR 2016). What is
multiplied are matrices, six of them, so all the work stays in matrix products.

The points are 0, ±5/8, ±3/2 and ∞. The usual 0, ±1, ±2, ∞ lose more in a narrow type, and with these every
constant of the input's and the output's transform is exact in bfloat16.

Plain torch: autograd, torch.compile and the exporters take it apart like anything else. The reference is
:func:`torch.nn.functional.conv1d`.
"""

from __future__ import annotations

from collections.abc import Sequence

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor
    from torch.nn import functional

__all__ = ["conv3_winograd", "filter_transform", "input_transform", "multiply", "output_transform"]

TILE = 4
"""Outputs that six products give."""
_P, _Q = 5 / 8, 3 / 2
_P2, _Q2 = _P * _P, _Q * _Q
# What interpolation divides by at 0, ±p and ±q: the product of the distances to the other points.
_AT_0, _AT_P, _AT_Q = 1 / (_P2 * _Q2), 1 / (2 * _P2 * (_P2 - _Q2)), 1 / (2 * _Q2 * (_Q2 - _P2))


def filter_transform(weight: Tensor) -> tuple[Tensor, ...]:
    """Six (E, D) matrices: the (E, D, 3) kernels at the points, divided as interpolation needs it."""
    w0, w1, w2 = weight.unbind(2)
    even_p, odd_p = _AT_P * (w0 + _P2 * w2), _AT_P * _P * w1
    even_q, odd_q = _AT_Q * (w0 + _Q2 * w2), _AT_Q * _Q * w1
    return _AT_0 * w0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, w2


def input_transform(x: Tensor) -> tuple[Tensor, ...]:
    """Six (B, tiles, D) tensors: what the tiles of six rows of x (B, T, D) are multiplied as.

    Tile i reads rows 4i-1 to 4i+4; rows before the first and after the last are 0.
    """
    batch, length, width = x.shape
    tiles = (length + TILE - 1) // TILE
    x = functional.pad(x, (0, 0, 1, TILE * (tiles + 1) - 1 - length))
    x = x.reshape(batch, tiles + 1, TILE, width)
    d0, d1, d2, d3 = x[:, :tiles].unbind(2)
    d4, d5, _, _ = x[:, 1:].unbind(2)
    # ±p and ±q differ in the sign of the odd terms only.
    even_p, odd_p = d4 - _Q2 * d2, _P * (d3 - _Q2 * d1)
    even_q, odd_q = d4 - _P2 * d2, _Q * (d3 - _P2 * d1)
    return (
        _P2 * _Q2 * d0 - (_P2 + _Q2) * d2 + d4,
        even_p + odd_p,
        even_p - odd_p,
        even_q + odd_q,
        even_q - odd_q,
        _P2 * _Q2 * d1 - (_P2 + _Q2) * d3 + d5,
    )


def output_transform(products: Sequence[Tensor], length: int) -> Tensor:
    """(B, length, E) from the six (B, tiles, E) products."""
    at_0, at_p, at_minus_p, at_q, at_minus_q, at_infinity = products
    even_p, odd_p = at_p + at_minus_p, _P * (at_p - at_minus_p)
    even_q, odd_q = at_q + at_minus_q, _Q * (at_q - at_minus_q)
    rows = (
        at_0 + even_p + even_q,
        odd_p + odd_q,
        _P2 * even_p + _Q2 * even_q,
        _P2 * odd_p + _Q2 * odd_q + at_infinity,
    )
    return torch.stack(rows, 2).flatten(1, 2).narrow(1, 0, length)


def multiply(parts: Sequence[Tensor], filters: Sequence[Tensor], length: int) -> Tensor:
    """The convolution (B, length, E) of a transformed input with transformed kernels.

    Products are computed in the parts' type, what follows at least in float32.
    """
    dtype = parts[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    pairs = zip(parts, filters, strict=True)
    products = [functional.linear(part, each.to(dtype)).to(wide) for part, each in pairs]
    return output_transform(products, length)


def conv3_winograd(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dtype: torch.dtype | None = None
) -> Tensor:
    """``conv1d(x, weight, bias, padding=1)`` along time, channels last.

    Args:
        x: (B, T, D) floating point, T >= 1.
        weight: (E, D, 3).
        bias: (E,).
        dtype: what the products are computed in; None is x's own. Transforms stay in x's type and sums are
            at least float32.
    Returns:
        (B, T, E). In float32 within 1e-6 of the direct convolution relative to its spread; in bfloat16 and
        float16 its error is below three times the direct one's (a test holds it there).
    """
    parts = [part.to(x.dtype if dtype is None else dtype) for part in input_transform(x)]
    result = multiply(parts, filter_transform(weight), x.shape[1])
    return result if bias is None else result + bias
