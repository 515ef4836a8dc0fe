"""A kernel: doubles its input. Beside it, its reference and a case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from aicl_fast.kernels.cases import CASES, F32, Spec
from aicl_fast.kernels.dispatch import operation, use_kernels
from aicl_fast.kernels.harness import OPERATIONS, Case
from aicl_fast.kernels.launch import launch


@triton.jit
def _double_kernel(p_x, p_out, N, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    b_n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_out + b_n, 2 * tl.load(p_x + b_n, mask=b_n < N), mask=b_n < N)


@operation("toy_double")
def _double(x: Tensor) -> Iterator[Tensor]:
    out = torch.empty_like(x)
    yield out
    launch(_double_kernel, (triton.cdiv(x.numel(), 64),), x, out, x.numel(), BLOCK=64)


def double(x: Tensor) -> Tensor:
    return _double(x) if use_kernels(x) else 2 * x


def _case(spec: Spec, device: torch.device) -> Case:
    def make(generator: torch.Generator | None) -> list[Tensor]:
        return [torch.rand(spec.shape, generator=generator)]

    def kernels(inputs: Any) -> list[Tensor]:
        return [double(inputs[0])]

    def reference(inputs: Any) -> list[Tensor]:
        return [2 * inputs[0]]

    return Case(spec, make, kernels, reference)


OPERATIONS["toy"] = _case
CASES.append(Spec("toy", (3, 50), F32, "rows", "test"))
