"""What is measured of the Triton kernels: each operation at each size, and whether its answer is right."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aicl_fast.bench import machine
from aicl_fast.config import load_config
from aicl_fast.kernels import (
    Mining,
    mine_segments,
    pack_two_branch,
    score_fusion,
    segment_contrast,
    topk_pool,
    two_branch_infer,
)
from aicl_fast.kernels.contrast import segment_contrast_reference
from aicl_fast.kernels.fusion import score_fusion_reference
from aicl_fast.kernels.mining import mine_segments_reference
from aicl_fast.kernels.pooling import topk_pool_reference
from aicl_fast.kernels.two_branch import two_branch_infer_reference
from aicl_fast.model import TwoBranchNet

Inputs = list[Tensor]
Call = Callable[[Inputs], Sequence[Tensor]]
FAMILIES = ("fusion", "pooling", "mining", "contrast", "network")
"""Of operations."""
FUSION = (
    (256, 20, torch.float32, "planar"),
    (256, 20, torch.float32, "rows"),
    (256, 20, torch.bfloat16, "rows"),
    (256, 200, torch.float32, "planar"),
    (16, 20, torch.float32, "planar"),
)
"""B, C, dtype and layout."""
POOLING = ((16, 750, 20, "planar"), (32, 50, 200, "planar"), (64, 750, 20, "rows"))
"""B, T, C and layout."""
MINING = ((16, 750), (256, 750), (32, 50))
"""B and T."""
CONTRAST = (
    (16, 750, 512, torch.float32, "planar"),
    (16, 750, 512, torch.float32, "rows"),
    (16, 750, 512, torch.bfloat16, "rows"),
    (32, 50, 1024, torch.float32, "planar"),
)
"""B, T, De, dtype and layout."""
NETWORK = (
    (1, torch.bfloat16),
    (64, torch.bfloat16),
    (1, torch.float16),
    (1, torch.float32),
    (64, torch.float32),
    (1, torch.float8_e4m3fn),
    (64, torch.float8_e4m3fn),
)
"""B and dtype."""
_LAST = 9
"""The rank of a case that may be measured last."""
_LEAST = 0.1
"""The share of the videos' mean norm that an error is at least related to."""
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float8_e4m3fn: 8e-2}
"""The largest relative error of a video that is right."""


@dataclass
class Case:
    """One operation at one size: how to make its inputs, and who computes it."""

    family: str
    name: str
    dtype: torch.dtype
    make: Callable[[torch.Generator], Inputs]
    """A fresh set of inputs, on the device."""
    kernels: Call
    reference: Call
    """Plain torch; timed as it is and compiled."""
    exact: Call | None = None
    """What to check by, given the inputs raised to float64; None takes ``reference``."""
    leaves: int = 0
    """How many inputs, from the first, a backward pass sends gradients to; 0 is forward alone."""
    outputs: tuple[int, ...] = ()
    """The outputs that gradients come from."""
    bytes: int = 0
    """The least that must move through memory: each input read once, each output written once."""
    operations: int = 0
    """Multiplications and additions of matrix products."""
    videos: int = 0
    segments: int = 0
    """Of each video, where there are videos."""
    tolerance: float | None = None
    rank: int = _LAST
    """Cases are measured in this order, so that a run that is cut off has what is asked for first."""

    @property
    def allowed(self) -> float:
        """The largest relative error that is right."""
        return _TOLERANCE[self.dtype] if self.tolerance is None else self.tolerance


def complete(case: Case, forward: Call) -> Call:
    """The forward pass, and the backward where the case has one."""
    if not case.leaves:
        return forward
    # A gradient that is already there, as a training step's is; making it is no work of the operation's.
    seeds: dict[Any, Tensor] = {}

    def seed(value: Tensor) -> Tensor:
        key = (value.shape, value.stride(), value.dtype, value.device)
        if key not in seeds:
            seeds[key] = torch.ones_like(value.detach())
        return seeds[key]

    def run(inputs: Inputs) -> Sequence[Tensor]:
        leaves = [value.detach().requires_grad_() for value in inputs[: case.leaves]]
        values = forward([*leaves, *inputs[case.leaves :]])
        chosen = [values[i] for i in case.outputs]
        gradients = torch.autograd.grad(chosen, leaves, [seed(value) for value in chosen])
        return [*(value.detach() for value in values), *gradients]

    return run


def _rows(shape: tuple[int, int, int], layout: str, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    batch, length, width = shape
    size = (batch, width, length) if layout == "planar" else shape
    value = torch.randn(size, generator=generator, device=generator.device).to(dtype)
    return value.transpose(1, 2) if layout == "planar" else value


def fusion_cases(small: bool, sizes: Sequence[tuple[int, int, torch.dtype, str]] = FUSION) -> Iterator[Case]:
    """Forward, and forward and backward, of each size."""
    for batch, classes, dtype, layout in sizes:
        rank = 3 if (batch, classes) == (256, 20) else _LAST
        batch, length = (2, 40) if small else (batch, 750)
        shape = (batch, length, classes)

        def make(generator: torch.Generator, shape=shape, dtype=dtype, layout=layout) -> Inputs:  # type: ignore[no-untyped-def]
            logits = [_rows((*shape[:2], 1), "rows", dtype, generator).squeeze(2) for _ in range(2)]
            return [_rows(shape, layout, dtype, generator), *logits]

        def kernels(inputs: Inputs) -> Sequence[Tensor]:
            cas, rgb, flow = inputs
            return score_fusion(cas, rgb, flow, 1 / 3)

        def reference(inputs: Inputs) -> Sequence[Tensor]:
            cas, rgb, flow = inputs
            return score_fusion_reference(cas, rgb, flow, 1 / 3)

        values, rows, size = batch * length * classes, batch * length, dtype.itemsize
        name = f"B {batch} T {length} C {classes} {machine.short(dtype)} {layout}"
        once = (2 * values + 4 * rows) * size
        yield Case("fusion", f"forward {name}", dtype, make, kernels, reference, bytes=once, rank=rank)
        # As in training, where the scores are detached: the two actionnesses alone send gradients.
        both = once + (2 * values + 6 * rows) * size
        yield Case(
            "fusion",
            f"forward+backward {name}",
            dtype,
            make,
            kernels,
            reference,
            leaves=3,
            outputs=(1, 2),
            bytes=both,
            rank=rank,
        )


def pooling_cases(small: bool, sizes: Sequence[tuple[int, int, int, str]] = POOLING) -> Iterator[Case]:
    """Forward, and forward and backward, of each size."""
    for batch, length, classes, layout in sizes:
        batch, length = (2, 40) if small else (batch, length)
        shape, k, dtype = (batch, length, classes), max(1, length // 8), torch.float32

        def make(generator: torch.Generator, shape=shape, layout=layout) -> Inputs:  # type: ignore[no-untyped-def]
            return [_rows(shape, layout, torch.float32, generator) for _ in range(2)]

        def kernels(inputs: Inputs, k: int = k) -> Sequence[Tensor]:
            return topk_pool(inputs[0], inputs[1], k)

        def reference(inputs: Inputs, k: int = k) -> Sequence[Tensor]:
            return topk_pool_reference(inputs[0], inputs[1], k)

        values = batch * length * classes
        name = f"B {batch} T {length} C {classes} k {k} float32 {layout}"
        # All scores, the selected values, the mask; then the mask again and the whole gradient.
        once = values * 4 + batch * k * classes * 4 + values
        yield Case("pooling", f"forward {name}", dtype, make, kernels, reference, bytes=once)
        yield Case(
            "pooling",
            f"forward+backward {name}",
            dtype,
            make,
            kernels,
            reference,
            leaves=1,
            outputs=(0,),
            bytes=once + values * 5,
        )


def mining_cases(small: bool, sizes: Sequence[tuple[int, int]] = MINING) -> Iterator[Case]:
    """One of each size."""
    for batch, length in sizes:
        rank = 4 if batch == 16 else _LAST
        batch, length = (2, 40) if small else (batch, length)
        k = max(1, length // 20)

        def make(generator: torch.Generator, shape=(batch, length)) -> Inputs:  # type: ignore[no-untyped-def]
            return [torch.rand(shape, generator=generator, device=generator.device) for _ in range(2)]

        def kernels(inputs: Inputs, k: int = k) -> Sequence[Tensor]:
            return mine_segments(inputs[0], inputs[1], k)

        def reference(inputs: Inputs, k: int = k) -> Sequence[Tensor]:
            return mine_segments_reference(inputs[0], inputs[1], k)

        def exact(inputs: Inputs, k: int = k) -> Sequence[Tensor]:
            # A median is rounded to its inputs' type; in float64 another segment could be above it.
            return mine_segments_reference(inputs[0].float(), inputs[1].float(), k)

        yield Case(
            "mining",
            f"B {batch} T {length} K {k} float32",
            torch.float32,
            make,
            kernels,
            reference,
            exact=exact,
            bytes=batch * length * 12,
            tolerance=0.0,
            rank=rank,
        )


def contrast_cases(
    small: bool, sizes: Sequence[tuple[int, int, int, torch.dtype, str]] = CONTRAST
) -> Iterator[Case]:
    """Forward and backward of three embeddings, of each size."""
    for batch, length, width, dtype, layout in sizes:
        batch, length, width = (2, 60, 32) if small else (batch, length, width)
        shape, k = (batch, length, width), max(1, length // 20)

        def make(generator: torch.Generator, shape=shape, dtype=dtype, layout=layout, k=k) -> Inputs:  # type: ignore[no-untyped-def]
            embeddings = [_rows(shape, layout, dtype, generator).relu() for _ in range(3)]
            a, a_ca = torch.rand((2, *shape[:2]), generator=generator, device=generator.device)
            return [*embeddings, *mine_segments_reference(a, a_ca, k)]

        def kernels(inputs: Inputs) -> Sequence[Tensor]:
            return [segment_contrast(inputs[:3], Mining(*inputs[3:]), 0.1)]

        def reference(inputs: Inputs) -> Sequence[Tensor]:
            mining = Mining(*inputs[3:])
            return [torch.stack([segment_contrast_reference(value, mining, 0.1) for value in inputs[:3]])]

        # Four sets of K forward, the negatives again backward, and three dense gradients.
        size, rows = dtype.itemsize, 3 * batch * width
        floor = rows * (4 * k + 2 * k + length) * size + 8 * batch * length
        yield Case(
            "contrast",
            f"forward+backward x3 B {batch} T {length} De {width} {machine.short(dtype)} {layout}",
            dtype,
            make,
            kernels,
            reference,
            leaves=3,
            outputs=(0,),
            bytes=floor,
            # The reference rounds what its gradients are made of several times over.
            tolerance=6e-2 if dtype == torch.bfloat16 else None,
            rank=2,
        )


def _plain_network(net: TwoBranchNet, x: Tensor) -> Sequence[Tensor]:
    """The network of two streams as the model computes it, but without a kernel of ours."""
    e, e_rgb, e_flow = net._embed_direct(x)
    cas = net._head(net.classify, e)
    rgb = net._head(net.actionness_rgb, e_rgb).squeeze(2)
    flow = net._head(net.actionness_flow, e_flow).squeeze(2)
    return cas, *score_fusion_reference(cas, rgb, flow, net.gamma)


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device has products of a type: float8's are a GPU's, from compute capability 8.9 on."""
    if dtype != torch.float8_e4m3fn:
        return True
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def network_cases(
    small: bool, device: torch.device, sizes: Sequence[tuple[int, torch.dtype]] = NETWORK
) -> Iterator[Case]:
    """The network for inference, of each size."""
    overrides = ["rgb_width=32", "flow_width=32"] if small else []
    config = load_config("thumos14", overrides=overrides)
    length, features = (40, 64) if small else (config.data.segments, 2048)
    torch.manual_seed(0)
    net = TwoBranchNet(config).to(device).eval()
    state = net.state_dict()
    float8 = torch.float8_e4m3fn
    exact_weights = {
        place: pack_two_branch(state, torch.float64, device=place) for place in {"cpu", device.type}
    }
    for batch, dtype in sizes:
        batch = min(batch, 2) if small else batch
        plain = torch.bfloat16 if dtype == float8 else dtype
        weights = pack_two_branch(state, dtype, input_scale=1 / 64 if dtype == float8 else 1.0)
        rival = copy.deepcopy(net).to(plain)

        def make(generator: torch.Generator, batch: int = batch, dtype: torch.dtype = plain) -> Inputs:
            size = (batch, length, features)
            return [torch.rand(size, generator=generator, device=generator.device).to(dtype)]

        def kernels(inputs: Inputs, weights: Any = weights) -> Sequence[Tensor]:
            return two_branch_infer(inputs[0], weights, net.gamma)

        def reference(inputs: Inputs, rival: TwoBranchNet = rival) -> Sequence[Tensor]:
            with torch.no_grad():
                return _plain_network(rival, inputs[0])

        def exact(inputs: Inputs) -> Sequence[Tensor]:
            return two_branch_infer_reference(inputs[0], exact_weights[inputs[0].device.type], net.gamma)

        width = config.model.embedding_width
        operations = 2 * batch * length * 3 * features * 2 * width
        moved = batch * length * (features * plain.itemsize + 2 * config.model.num_classes * 4 + 8)
        yield Case(
            "network",
            f"B {batch} T {length} De {width} {machine.short(dtype)}",
            dtype,
            make,
            kernels,
            reference,
            exact=exact,
            bytes=moved + weights.rgb.numel() * weights.rgb.element_size() * 2,
            operations=operations,
            videos=batch,
            segments=length,
            # tf32 keeps ten bits of a product's operands.
            tolerance=5e-3 if dtype == torch.float32 else None,
            rank=0 if dtype == torch.bfloat16 else _LAST,
        )


def cases(only: str, small: bool, device: torch.device) -> Iterator[Case]:
    """The cases of the families whose name contains ``only``."""
    makers: dict[str, Callable[[], Iterator[Case]]] = {
        "fusion": lambda: fusion_cases(small),
        "pooling": lambda: pooling_cases(small),
        "mining": lambda: mining_cases(small),
        "contrast": lambda: contrast_cases(small),
        "network": lambda: network_cases(
            small, device, [size for size in NETWORK if multiplies(size[1], device)]
        ),
    }
    for family, make in makers.items():
        if only in family:
            yield from make()


def reason(failure: Exception) -> str:
    """Its first line: a compiler's goes on for pages."""
    lines = str(failure).splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0][:200]}"


def finite(error: float) -> float | None:
    """JSON has no infinity."""
    return error if math.isfinite(error) else None


def _error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative error of any output's video, by norm; infinite where there is a NaN."""
    worst = 0.0
    for ours, theirs in zip(actual, expected, strict=True):
        # An error's share of a whole batch would shrink with the batch.
        videos = theirs.shape[0] if theirs.dim() else 1
        difference = (ours.double() - theirs.double()).reshape(videos, -1).norm(dim=1)
        norms = theirs.double().reshape(videos, -1).norm(dim=1)
        # Of a video that is nearly zero, rounding is a large share.
        share = float((difference / norms.clamp(min=max(_LEAST * float(norms.mean()), 1e-12))).max())
        worst = max(worst, share if share == share else float("inf"))
    return worst


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is given out uninitialised holds NaN, the largest integer or True.

    Else an output that a kernel leaves unwritten may lie where an earlier call's right one lay.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*determinis", category=UserWarning)
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            settings.fill_uninitialized_memory = True
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            settings.fill_uninitialized_memory = filled


def _as_checked(case: Case, forward: Call) -> contextlib.AbstractContextManager[None]:
    """Poisoned for the kernels; not for a rival, which torch would compute, or compile, in another way."""
    # Without torch's cache nothing is handed on, and initcheck is to see what was not written.
    cached = not os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING")
    return poisoned() if forward is case.kernels and cached else contextlib.nullcontext()


def expected(case: Case, inputs: Inputs) -> Sequence[Tensor]:
    """Outputs and gradients by the reference in float64.

    It runs where the inputs are, so that a sanitizer sees the kernels alone if that is the CPU.
    """
    raised = [value.double() if value.is_floating_point() else value for value in inputs]
    return complete(case, case.exact or case.reference)(raised)


def check(
    case: Case, forward: Call, inputs: Inputs, device: torch.device, right: Sequence[Tensor] | None = None
) -> float:
    """Relative error of outputs and gradients on ``device``; the kernels' in memory that is poisoned.

    Args:
        case: the operation.
        forward: of whom.
        inputs: what to compute on.
        device: where.
        right: the inputs' :func:`expected`; None computes it.
    """
    right = expected(case, inputs) if right is None else right
    own = [value.to(device) for value in inputs]
    with _as_checked(case, forward):
        actual = complete(case, forward)(own)
    return _error([value.to(inputs[0].device) for value in actual], right)
