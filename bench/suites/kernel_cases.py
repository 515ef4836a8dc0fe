"""What is measured of the Triton kernels: each operation at each size, and whether its answer is right."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aicl_fast.config import load_config
from aicl_fast.kernels.cases import F8, Spec, specs
from aicl_fast.kernels.fusion import score_fusion_reference
from aicl_fast.kernels.harness import GAMMA, Call, Case, Inputs, build, complete, expected
from aicl_fast.kernels.two_branch_weights import plain_dtype
from aicl_fast.model import TwoBranchNet

FAMILIES = tuple(dict.fromkeys(spec.operation for spec in specs("bench")))
"""Of operations."""
_LEAST = 0.1
"""The share of the videos' mean norm that an error is at least related to."""


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device has products of a type: float8's are a GPU's, from compute capability 8.9 on."""
    if dtype != F8:
        return True
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _small(spec: Spec) -> Spec:
    """The same at a size for a rehearsal."""
    batch, _, *widths = spec.shape
    if spec.operation == "contrast":
        widths = [32]
    if spec.operation == "network":
        widths[:2] = [32, 32]
    return replace(spec, shape=(min(batch, 2), 60, *widths))


def case_of(spec: Spec, small: bool, device: torch.device) -> Case:
    """A row of the table as it is measured: the network against the model as it is written."""
    spec = _small(spec) if small else spec
    case = build(spec, device)
    if spec.operation == "fusion":
        case.outputs = (1, 2)  # as in training, where the scores are detached
    if spec.operation == "network":
        case.reference = _plain_network(case, device)
    return case


def variants(case: Case) -> Iterator[Case]:
    """Forward, and forward and backward, where either is measured alone."""
    if not case.leaves:
        yield case
        return
    if case.bytes:
        yield replace(case, name=f"forward {case.name}", leaves=0)
    yield replace(case, name=f"forward+backward {case.name}", bytes=case.bytes + case.backward_bytes)


def _plain_network(case: Case, device: torch.device) -> Call:
    """The network of two streams as the model computes it, but without a kernel of ours."""
    _, _, rgb, flow, width, classes = case.spec.shape
    config = load_config("thumos14", overrides=[f"rgb_width={rgb}", f"flow_width={flow}"])
    config = replace(config, classes=()).with_values({"embedding_width": width, "num_classes": classes})
    net = TwoBranchNet(config).to(device, plain_dtype(case.dtype)).eval()
    net.load_state_dict(case.state)

    @torch.no_grad()
    def run(inputs: Inputs) -> Sequence[Tensor]:
        e, e_rgb, e_flow = net._embed_direct(inputs[0])
        cas = net._head(net.classify, e)
        rgb, flow = net._head(net.actionness_rgb, e_rgb), net._head(net.actionness_flow, e_flow)
        return cas, *score_fusion_reference(cas, rgb.squeeze(2), flow.squeeze(2), GAMMA)

    return run


def cases(only: str, small: bool, device: torch.device) -> Iterator[Case]:
    """The cases of the families whose name contains ``only``."""
    for spec in specs("bench", only):
        if multiplies(spec.dtype, device):
            yield from variants(case_of(spec, small, device))


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
