"""Every kernel at small shapes, emulated and compared with its reference.

    PYTHONPATH=tests/ptx .venv/bin/python -m ptx_emulator.cases [group or case ...]

Prints a line of JSON a case: its name, the mode, the kernels that ran, and what was wrong (null if nothing).
Exits with 1 if something was. Needs a process without ``TRITON_INTERPRET``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aicl_fast.config import load_config
from aicl_fast.kernels import two_branch, two_branch_weights
from aicl_fast.kernels.contrast import segment_contrast, segment_contrast_reference
from aicl_fast.kernels.fusion import score_fusion, score_fusion_reference
from aicl_fast.kernels.mining import mine_segments, mine_segments_reference
from aicl_fast.kernels.pooling import topk_pool, topk_pool_reference
from aicl_fast.kernels.two_branch_weights import FLOAT8, TwoBranchWeights, pack_two_branch
from aicl_fast.model import TwoBranchNet
from ptx_emulator.faults import Fault
from ptx_emulator.groups import GROUPS
from ptx_emulator.launch import emulation

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16

# As in tests/kernels: norm of the error over norm of the reference.
TOLERANCE = {F32: 1e-5, F16: 2e-3, BF16: 1.6e-2}
TF32 = 3e-3
FLOAT8_NETWORK = 6e-2
FLOAT8_SUMS = 3e-3


@dataclass(frozen=True)
class Case:
    """One comparison, made once in each mode; ``run`` raises AssertionError or a Fault."""

    group: str
    name: str
    run: Callable[[], None]


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Compare by norm with a reference of higher precision; NaN never passes."""
    assert actual.shape == expected.shape, what
    difference = (actual.double() - expected.double()).norm().item()
    scale = expected.double().norm().item()
    assert difference <= tolerance * max(scale, 1e-6), f"{what}: off by {difference:.3g} of {scale:.3g}"


def _rows(shape: tuple[int, int, int], dtype: torch.dtype, layout: str, seed: int = 0) -> Tensor:
    batch, length, width = shape
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    if layout == "planar":
        return values.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "strided":
        wide = torch.full((batch, 2 * length, width + 3), float("nan"), dtype=dtype)
        wide[:, ::2, 1:-2] = values
        return wide[:, ::2, 1:-2]
    return values


def _exact(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def _fusion(shape: tuple[int, int, int], dtype: torch.dtype, layout: str) -> None:
    logits = _rows((*shape[:2], 2), dtype, "rows", seed=1)
    inputs = [_rows(shape, dtype, layout), logits[..., 0], logits[..., 1]]
    inputs = [value.detach().requires_grad_() for value in inputs]
    exact = _exact(inputs)
    outputs = score_fusion(*inputs, 1 / 3)  # type: ignore[call-arg, arg-type]
    expected = score_fusion_reference(*exact, 1 / 3)  # type: ignore[call-arg, arg-type]
    weights = [torch.linspace(1, 2, value.numel()).view(value.shape).to(dtype) for value in outputs]
    gradients = torch.autograd.grad(outputs, inputs, weights)
    exact_gradients = torch.autograd.grad(expected, exact, [weight.double() for weight in weights])
    for what, ours, theirs in zip(("scores", "a", "a_ca"), outputs, expected, strict=True):
        close(ours, theirs, TOLERANCE[dtype], what)
    for what, ours, theirs in zip(("cas", "rgb", "flow"), gradients, exact_gradients, strict=True):
        close(ours, theirs, TOLERANCE[dtype], f"gradient of {what}")


def _pooling(shape: tuple[int, int, int], k: int, dtype: torch.dtype, layout: str) -> None:
    cas = _rows(shape, dtype, layout).requires_grad_()
    scores = (_rows(shape, dtype, layout, seed=1) * 4).round() / 4  # the k-th is tied
    exact = cas.detach().double().requires_grad_()
    pooled, selected = topk_pool(cas, scores, k)
    expected, expected_selected = topk_pool_reference(exact, scores.double(), k)
    assert torch.equal(selected, expected_selected), "selected"
    close(pooled, expected, TOLERANCE[dtype], "pooled")
    weight = torch.linspace(1, 2, pooled.numel()).view(pooled.shape).to(dtype)
    (gradient,) = torch.autograd.grad(pooled, cas, weight)
    (exact_gradient,) = torch.autograd.grad(expected, exact, weight.double())
    close(gradient, exact_gradient, TOLERANCE[dtype], "gradient")


def _mining(length: int, k: int, dtype: torch.dtype) -> None:
    values = torch.rand(2, 2, length, generator=torch.Generator().manual_seed(length))
    values[:, 1] = (values[:, 1] * 6).round() / 6  # medians coincide with values, ranks are tied
    a, a_ca = values.to(dtype)
    expected = mine_segments_reference(a, a_ca, k)
    for what, ours, theirs in zip(expected._fields, mine_segments(a, a_ca, k), expected, strict=True):
        assert torch.equal(ours, theirs), what


def _contrast(shape: tuple[int, int, int], count: int, dtype: torch.dtype, layout: str) -> None:
    batch, length, _ = shape
    a, a_ca = torch.rand(2, batch, length, generator=torch.Generator().manual_seed(0))
    mining = mine_segments_reference(a, a_ca, max(1, length // 8))
    embeddings = [_rows(shape, dtype, layout, seed).requires_grad_() for seed in range(count)]
    exact = _exact(embeddings)
    losses = segment_contrast(embeddings, mining, 0.1)
    expected = torch.stack([segment_contrast_reference(value, mining, 0.1) for value in exact])
    weight = torch.linspace(1, 2, count).to(dtype)
    gradients = torch.autograd.grad(losses, embeddings, weight)
    exact_gradients = torch.autograd.grad(expected, exact, weight.double())
    close(losses, expected, TOLERANCE[dtype], "losses")
    for ours, theirs in zip(gradients, exact_gradients, strict=True):
        close(ours, theirs, TOLERANCE[dtype], "gradient")


def _network(shape: tuple[int, ...], standardised: bool) -> tuple[TwoBranchNet, Tensor]:
    """A network and features: B, T, D_rgb, D_flow, De, C."""
    batch, length, rgb, flow, width, classes = shape
    overrides = [f"rgb_width={rgb}", f"flow_width={flow}", f"segments={max(2, length)}"]
    config = load_config("thumos14", overrides=[*overrides, f"standardize_input={str(standardised).lower()}"])
    config = replace(config, classes=()).with_values({"embedding_width": width, "num_classes": classes})
    torch.manual_seed(0)
    net = TwoBranchNet(config).double().eval()
    if standardised:
        net.set_input_statistics(torch.rand(rgb + flow), torch.rand(rgb + flow) + 0.2)
    return net, torch.rand(batch, length, rgb + flow)


def _pack(net: TwoBranchNet, dtype: torch.dtype, input_scale: float = 1.0) -> TwoBranchWeights:
    """As for a GPU: products in tf32 take the nearest weights."""
    own = two_branch_weights._for_products
    two_branch_weights._for_products = _for_products
    try:
        return pack_two_branch(net.state_dict(), dtype, input_scale=input_scale)
    finally:
        two_branch_weights._for_products = own


def _for_products(weights: Tensor) -> Tensor:
    return two_branch_weights.nearest_tf32(weights) if weights.dtype == torch.float32 else weights


def _launches(split: bool, boxes: bool) -> dict[str, tuple[two_branch.EmbedLaunch, ...]]:
    """One way to launch the product, whatever the size would choose."""
    return {
        family: tuple(
            replace(launch, max_rows=1 << 62, boxes=boxes and launch.boxes)
            for launch in choices
            if launch.split == split
        )
        for family, choices in two_branch.LAUNCHES.items()
    }


def _infer(
    shape: tuple[int, ...], dtype: torch.dtype, *, split: bool, boxes: bool, standardised: bool = False
) -> None:
    net, x = _network(shape, standardised)
    weights = _pack(net, dtype, 1 / 64 if dtype == FLOAT8 else 1.0)
    x = x.to(BF16 if dtype == FLOAT8 else dtype)
    expected = two_branch.two_branch_infer_reference(
        x.double(), pack_two_branch(net.state_dict(), torch.float64), net.gamma
    )
    tolerance = {F32: TF32, FLOAT8: FLOAT8_NETWORK}.get(dtype) or TOLERANCE[dtype]
    table = two_branch.LAUNCHES
    two_branch.LAUNCHES = _launches(split, boxes)
    try:
        scores = two_branch.two_branch_infer(x, weights, net.gamma)
    finally:
        two_branch.LAUNCHES = table
    for what, ours, theirs in zip(scores._fields, scores, expected, strict=True):
        close(ours, theirs, tolerance, what)


def _embed(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    net, x = _network(shape, True)
    x = x.to(dtype)
    weights = _pack(net, dtype)
    embeddings = two_branch.two_branch_embed(x, weights)
    expected = two_branch.two_branch_embed_reference(
        x.double(), pack_two_branch(net.state_dict(), torch.float64)
    )
    for what, ours, theirs in zip(embeddings._fields, embeddings, expected, strict=True):
        close(ours, theirs, TF32 if dtype == F32 else TOLERANCE[dtype], what)


def _float8_sums(shape: tuple[int, ...], split_family: bool) -> None:
    """Many steps of the inner dimension: every one has to reach the sum."""
    net, x = _network(shape, False)
    weights = pack_two_branch(net.state_dict(), FLOAT8, input_scale=1 / 64)
    x = two_branch_weights.float8_features_reference(x, weights.input_scale)
    table = two_branch.LAUNCHES
    two_branch.LAUNCHES = _launches(split_family, True)
    try:
        embeddings = two_branch.two_branch_embed(x, weights)
    finally:
        two_branch.LAUNCHES = table
    scale = weights.scale
    assert scale is not None
    # What was rounded to float8, multiplied in float64: what is left is the embeddings' own rounding.
    own = replace(
        weights,
        rgb=weights.rgb.double(),
        flow=weights.flow.double(),
        bias=weights.bias.double(),
        scale=scale.double(),
    )
    expected = two_branch.two_branch_embed_reference(x.double() * weights.input_scale, own)
    for what, ours, theirs in zip(embeddings._fields, embeddings, expected, strict=True):
        close(ours, theirs, FLOAT8_SUMS, what)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def cases() -> Iterator[Case]:
    """Every kernel, layout, way to launch and dtype, not all of them with each other."""
    for shape, dtype, layout in (
        ((2, 13, 20), F32, "planar"),
        ((2, 13, 5), F32, "rows"),
        ((1, 21, 40), F16, "rows"),
        ((1, 9, 20), BF16, "planar"),
    ):
        run = partial(_fusion, shape, dtype, layout)
        yield Case("scores", f"fusion {shape} {_name(dtype)} {layout}", run)
    for shape, k, dtype, layout in (
        ((2, 63, 3), 7, F32, "planar"),
        ((1, 40, 2), 5, F16, "rows"),
        ((1, 63, 2), 63, BF16, "strided"),
    ):
        run = partial(_pooling, shape, k, dtype, layout)
        yield Case("scores", f"pooling {shape} k {k} {_name(dtype)} {layout}", run)
    for length, k, dtype in ((63, 5, F32), (130, 6, F16), (40, 40, BF16)):
        yield Case("scores", f"mining T {length} k {k} {_name(dtype)}", partial(_mining, length, k, dtype))
    for shape, count, dtype, layout in (
        ((2, 63, 33), 2, F32, "strided"),
        ((1, 40, 24), 3, F32, "planar"),
        ((1, 50, 64), 1, F16, "rows"),
        ((1, 40, 16), 1, BF16, "planar"),
    ):
        run = partial(_contrast, shape, count, dtype, layout)
        yield Case("contrast", f"contrast {shape} x{count} {_name(dtype)} {layout}", run)
    for split in (False, True):
        for boxes in (True, False):
            way = f"{'split' if split else 'whole'}, {'boxes' if boxes else 'pointers'}"
            for dtype in (F32, F16, BF16):
                # Two videos, the tile longer than they are; two steps of the features, the last in part.
                sizes = (2, 120, 72, 40, 24, 20) if boxes else (2, 75, 57, 30, 24, 20)
                run = partial(_infer, sizes, dtype, split=split, boxes=boxes, standardised=dtype == F32)
                yield Case(f"network, {way}", f"network {way} {sizes} {_name(dtype)}", run)
    for dtype in (F32, BF16):
        sizes = (1, 130, 64, 40, 24, 3)
        yield Case(
            "network, whole, boxes", f"embeddings {sizes} {_name(dtype)}", partial(_embed, sizes, dtype)
        )
    for split, boxes in ((False, True), (True, True), (True, False)):
        way = f"{'split' if split else 'whole'}, {'boxes' if boxes else 'pointers'}"
        sizes = (2, 120, 144, 64, 24, 20)
        run = partial(_infer, sizes, FLOAT8, split=split, boxes=boxes)
        yield Case("float8", f"network {way} {sizes} float8", run)
    sizes = (1, 100, 512, 128, 24, 5)
    yield Case("float8", f"sums {sizes} float8", partial(_float8_sums, sizes, False))


def run(chosen: list[Case]) -> Iterator[dict[str, Any]]:
    """Run cases in both modes; what was found, case by case."""
    with emulation() as emulated:
        for case in chosen:
            for mode in ("eager", "lazy"):
                emulated.lazy = mode == "lazy"
                emulated.launched.clear()
                error = None
                try:
                    case.run()
                except (Fault, AssertionError) as wrong:
                    error = f"{type(wrong).__name__}: {wrong}"
                emulated.forget()
                yield {"case": case.name, "mode": mode, "kernels": list(emulated.launched), "error": error}


def main(arguments: list[str] | None = None) -> int:
    """Run the groups or cases named, all without a name; 1 if something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="a group, or a part of a case's name")
    names = parser.parse_args(arguments).names
    every = list(cases())
    assert {case.group for case in every} == set(GROUPS), "tests/ptx/ptx_emulator/groups.py names them all"
    chosen = [
        case for case in every if not names or any(name == case.group or name in case.name for name in names)
    ]
    if not chosen:
        parser.error(f"no case of {names}; the groups are {sorted(GROUPS)}")
    failed = False
    for found in run(chosen):
        failed |= found["error"] is not None
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
