"""Makes a row of the table of cases runnable: its inputs, the kernels and their reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels import two_branch
from aicl_fast.kernels.cases import BF16, F8, F16, F32, Spec
from aicl_fast.kernels.contrast import segment_contrast, segment_contrast_reference
from aicl_fast.kernels.fusion import score_fusion, score_fusion_reference
from aicl_fast.kernels.mining import Mining, mine_segments, mine_segments_reference
from aicl_fast.kernels.pooling import topk_pool, topk_pool_reference
from aicl_fast.kernels.two_branch_weights import pack_two_branch, plain_dtype

Inputs = list[Tensor]
Call = Callable[[Inputs], Sequence[Tensor]]

GAMMA, TAU = 1 / 3, 0.1
ROUNDING = {F32: 1e-5, F16: 2e-3, BF16: 1.6e-2, F8: 6e-2}
"""Norm of an output's error over its norm: what rounding inputs and outputs once can cost."""
TF32 = 3e-3
"""The same where products are in tf32: they keep ten bits of their operands."""
ALLOWED = {F32: 1e-4, F16: 5e-3, BF16: 3e-2, F8: 8e-2}
"""The same of the worst video, of benchmarks' larger sizes."""


@dataclass
class Case:
    """An operation at one size, ready to run."""

    spec: Spec
    make: Callable[[torch.Generator | None], Inputs]
    """A fresh set of inputs, where the generator is; without one zeros, which cost no time."""
    kernels: Call
    reference: Call
    """Plain torch."""
    exact: Call | None = None
    """What to check by, given the inputs raised to float64; None takes ``reference``."""
    leaves: int = 0
    """How many inputs, from the first, a backward pass sends gradients to; 0 is forward alone."""
    outputs: tuple[int, ...] = ()
    """The outputs that gradients come from."""
    bytes: int = 0
    """The least that the forward pass must move through memory: inputs read once, outputs written once."""
    backward_bytes: int = 0
    operations: int = 0
    """Multiplications and additions of matrix products."""
    tolerance: float | None = None
    """In place of the dtype's in :data:`ALLOWED`."""
    state: dict[str, Tensor] = field(default_factory=dict)
    """The network's weights."""
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or self.spec.name
        self.family, self.dtype, self.rank = self.spec.operation, self.spec.dtype, self.spec.rank

    @property
    def allowed(self) -> float:
        """The largest relative error of a video that is right."""
        return ALLOWED[self.dtype] if self.tolerance is None else self.tolerance


def _rand(generator: torch.Generator | None, *shape: int) -> Tensor:
    if generator is None:
        return torch.zeros(shape)
    return torch.rand(shape, generator=generator, device=generator.device)


def _rows(spec: Spec, generator: torch.Generator | None, shape: tuple[int, ...] = ()) -> Tensor:
    """A (B, T, C) tensor of normal values, which lies in memory as the case asks."""
    batch, length, width = shape or spec.shape
    size = (batch, width, length) if spec.layout == "planar" else (batch, length, width)
    if generator is None:
        values = torch.zeros(size, dtype=spec.dtype)
    else:
        values = torch.randn(size, generator=generator, device=generator.device).to(spec.dtype)
    if spec.layout == "planar":
        return values.transpose(1, 2)
    if spec.layout == "strided":
        wide = values.new_full((batch, 2 * length, width + 3), float("nan"))
        wide[:, ::2, 1:-2] = values
        return wide[:, ::2, 1:-2]
    return values


def _fusion(spec: Spec, device: torch.device) -> Case:
    batch, length, classes = spec.shape

    def make(generator: torch.Generator | None) -> Inputs:
        logits = [_rows(replace(spec, layout="rows"), generator, (batch, length, 1)) for _ in range(2)]
        return [_rows(spec, generator), *(logit.squeeze(2) for logit in logits)]

    def kernels(inputs: Inputs) -> Sequence[Tensor]:
        return score_fusion(*inputs, GAMMA)  # type: ignore[call-arg, arg-type]

    def reference(inputs: Inputs) -> Sequence[Tensor]:
        return score_fusion_reference(*inputs, GAMMA)  # type: ignore[call-arg, arg-type]

    values, rows, size = batch * length * classes, batch * length, spec.dtype.itemsize
    least = (2 * values + 4 * rows) * size, (2 * values + 6 * rows) * size
    return Case(spec, make, kernels, reference, None, 3, (0, 1, 2), *least)


def _pooling(spec: Spec, device: torch.device) -> Case:
    batch, length, classes = spec.shape

    def make(generator: torch.Generator | None) -> Inputs:
        cas, scores = _rows(spec, generator), _rows(spec, generator)
        return [cas, (scores * 4).round() / 4 if spec.ties else scores]

    def kernels(inputs: Inputs) -> Sequence[Tensor]:
        return topk_pool(inputs[0], inputs[1], spec.selected)

    def reference(inputs: Inputs) -> Sequence[Tensor]:
        return topk_pool_reference(inputs[0], inputs[1], spec.selected)

    values, size = batch * length * classes, spec.dtype.itemsize
    # All scores, the selected values, the mask; then the mask again and the whole gradient.
    once = values * size + batch * spec.selected * classes * size + values
    return Case(spec, make, kernels, reference, None, 1, (0,), once, values * (1 + size))


def _mining(spec: Spec, device: torch.device) -> Case:
    batch, length = spec.shape

    def make(generator: torch.Generator | None) -> Inputs:
        values = _rand(generator, 2, batch, length)
        if spec.ties:
            values[:, batch // 2 :] = (values[:, batch // 2 :] * 6).round() / 6
        return list(values.to(spec.dtype))

    def kernels(inputs: Inputs) -> Sequence[Tensor]:
        return mine_segments(inputs[0], inputs[1], spec.selected)

    def reference(inputs: Inputs) -> Sequence[Tensor]:
        # A median is rounded to its inputs' type; in float64 another segment could be above it.
        a, a_ca = (value.to(spec.dtype) for value in inputs)
        return mine_segments_reference(a, a_ca, spec.selected)

    return Case(spec, make, kernels, reference, bytes=batch * length * 12, tolerance=0.0)


def _contrast(spec: Spec, device: torch.device) -> Case:
    batch, length, width = spec.shape
    count = spec.count

    def make(generator: torch.Generator | None) -> Inputs:
        embeddings = [_rows(spec, generator) for _ in range(count)]
        if spec.layout != "strided":
            embeddings = [embedding.relu() for embedding in embeddings]
        a, a_ca = _rand(generator, 2, batch, length)
        return [*embeddings, *mine_segments_reference(a, a_ca, spec.selected)]

    def kernels(inputs: Inputs) -> Sequence[Tensor]:
        return [segment_contrast(inputs[:count], Mining(*inputs[count:]), TAU)]

    def reference(inputs: Inputs) -> Sequence[Tensor]:
        mining = Mining(*inputs[count:])
        return [torch.stack([segment_contrast_reference(value, mining, TAU) for value in inputs[:count]])]

    # Four sets of K forward, the negatives again backward, and dense gradients. Not measured forward alone.
    size, rows = spec.dtype.itemsize, count * batch * width
    least = rows * (4 * spec.selected + 2 * spec.selected + length) * size + 8 * batch * length
    # In bfloat16 the reference rounds what its gradients are made of several times over.
    tolerance = 6e-2 if spec.dtype == BF16 else None
    return Case(spec, make, kernels, reference, None, count, (0,), backward_bytes=least, tolerance=tolerance)


def _state(spec: Spec) -> dict[str, Tensor]:
    """Weights as an untrained network's, by the names of ``TwoBranchNet``'s."""
    _, _, rgb, flow, width, classes = spec.shape
    generator = torch.Generator().manual_seed(0)
    shapes = {name: (width, size, 3) for name, size in
              (("embed", rgb + flow), ("embed_rgb", rgb), ("embed_flow", flow))}  # fmt: skip
    shapes |= {name: (size, width, 1) for name, size in
               (("classify", classes), ("actionness_rgb", 1), ("actionness_flow", 1))}  # fmt: skip
    state = {}
    for name, shape in shapes.items():
        bound = (shape[1] * shape[2]) ** -0.5
        state[f"{name}.weight"] = bound * (2 * _rand(generator, *shape) - 1)
        state[f"{name}.bias"] = bound * (2 * _rand(generator, shape[0]) - 1)
    if spec.standardised:
        state["input_mean"] = _rand(generator, rgb + flow)
        state["input_scale"] = 1 / (_rand(generator, rgb + flow) + 0.2)
    return state


@contextlib.contextmanager
def launched(way: str) -> Iterator[None]:
    """Within the block the network's product is launched one of ``cases.WAYS``, whatever its size."""
    table = two_branch.LAUNCHES
    if way:
        halves, source = way.split(", ")
        two_branch.LAUNCHES = {
            family: tuple(
                replace(choice, max_rows=1 << 62, boxes=choice.boxes and source == "boxes")
                for choice in choices
                if choice.split == (halves == "split")
            )
            for family, choices in table.items()
        }
    try:
        yield
    finally:
        two_branch.LAUNCHES = table


def _network(spec: Spec, device: torch.device) -> Case:
    batch, length, rgb, flow, width, classes = spec.shape
    state = {name: value.to(device) for name, value in _state(spec).items()}
    # Features come in bfloat16 where weights are float8, and are rounded on the way.
    plain = plain_dtype(spec.dtype)
    weights = pack_two_branch(state, spec.dtype, input_scale=1 / 64 if spec.dtype == F8 else 1.0)
    exact_weights: dict[torch.device, Any] = {}

    def make(generator: torch.Generator | None) -> Inputs:
        if generator is None:
            return [torch.zeros(batch, length, rgb + flow, dtype=plain)]
        return [_rand(generator, batch, length, rgb + flow).to(plain)]

    def kernels(inputs: Inputs) -> Sequence[Tensor]:
        with launched(spec.way):
            if spec.operation == "embeddings":
                return two_branch.two_branch_embed(inputs[0], weights)
            return two_branch.two_branch_infer(inputs[0], weights, GAMMA)

    def reference(inputs: Inputs) -> Sequence[Tensor]:
        x = inputs[0]
        if x.device not in exact_weights:
            exact_weights[x.device] = pack_two_branch(state, torch.float64, device=x.device)
        if spec.operation == "embeddings":
            return two_branch.two_branch_embed_reference(x.double(), exact_weights[x.device])
        return two_branch.two_branch_infer_reference(x.double(), exact_weights[x.device], GAMMA)

    return Case(
        spec, make, kernels, reference, reference, state=state,
        bytes=batch * length * ((rgb + flow) * plain.itemsize + 2 * classes * 4 + 8)
        + weights.rgb.nbytes + weights.flow.nbytes,
        operations=2 * batch * length * 3 * (rgb + flow) * 2 * width,
        # tf32 keeps ten bits of a product's operands.
        tolerance=5e-3 if spec.dtype == F32 else None,
    )  # fmt: skip


OPERATIONS: dict[str, Callable[[Spec, torch.device], Case]] = {
    "fusion": _fusion,
    "pooling": _pooling,
    "mining": _mining,
    "contrast": _contrast,
    "network": _network,
    "embeddings": _network,
}
"""What makes a case of each operation. Another package adds its own here, and rows to
:data:`aicl_fast.kernels.cases.CASES`."""


def build(spec: Spec, device: torch.device | str = "cpu") -> Case:
    """A case of a row; the network's weights are on ``device``."""
    return OPERATIONS[spec.operation](spec, torch.device(device))


def complete(case: Case, forward: Call, weigh: Callable[[Tensor], Tensor] = torch.ones_like) -> Call:
    """The forward pass, and the backward where the case has one.

    Args:
        case: the operation.
        forward: of whom.
        weigh: makes the gradient of an output.
    Returns:
        A call that gives outputs, then gradients.
    """
    if not case.leaves:
        return forward
    # A gradient that is already there, as a training step's is; making it is no work of the operation's.
    seeds: dict[Any, Tensor] = {}

    def seed(value: Tensor) -> Tensor:
        key = (value.shape, value.stride(), value.dtype, value.device)
        if key not in seeds:
            seeds[key] = weigh(value.detach())
        return seeds[key]

    def run(inputs: Inputs) -> Sequence[Tensor]:
        leaves = [value.detach().requires_grad_() for value in inputs[: case.leaves]]
        values = forward([*leaves, *inputs[case.leaves :]])
        chosen = [values[i] for i in case.outputs]
        gradients = torch.autograd.grad(chosen, leaves, [seed(value) for value in chosen])
        return [*(value.detach() for value in values), *gradients]

    return run


def expected(case: Case, inputs: Inputs, weigh: Callable[[Tensor], Tensor] = torch.ones_like) -> list[Tensor]:
    """Outputs and gradients by the reference in float64, computed where the inputs are."""
    raised = [value.double() if value.is_floating_point() else value for value in inputs]
    return list(complete(case, case.exact or case.reference, weigh)(raised))


def distinct(value: Tensor) -> Tensor:
    """A gradient of values from 1 to 1.875, which every type has exactly."""
    return (1 + torch.arange(value.numel(), device=value.device) % 8 / 8).view(value.shape).to(value.dtype)
