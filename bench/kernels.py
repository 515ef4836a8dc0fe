"""What the Triton kernels cost on a GPU, against torch as it is written and as it is compiled.

    python -m aicl_fast.bench.kernels                        # everything; JSON into $OUT or bench/results/
    python -m aicl_fast.bench.kernels --only contrast        # one family
    python -m aicl_fast.bench.kernels --sanitize             # compute-sanitizer on every kernel
    python -m aicl_fast.bench.kernels --sanitize --tool memcheck --limit 140
    python -m aicl_fast.bench.kernels --dry-run              # no GPU: the same steps on the CPU, small

Contenders: ``kernels``, the public functions; ``eager``, their references; ``compiled``,
``torch.compile(mode="max-autotune-no-cudagraphs")`` of the same references. All are checked against the
reference in float64 before they are timed.

Times are medians of graph replays that take turns, by device events, so that they are the device's own. A
graph runs through several sets of inputs and outputs, together three times the second-level cache.
``call_us`` is what the same calls take when launched one by one, events around them: what a program that
captures no graph sees. Floors are computed from a copy and a matrix product measured in the same run. Kernels
and eager come first, for every case, the most wanted figures before the others; compiling takes minutes, so
it comes last, a case of each family at a time, while ``--seconds`` last.

The file is written after every case, and what it holds of the same commit and device is not measured again
(unless ``--again`` is given): a run that is cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import copy
import functools
import itertools
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from aicl_fast.bench import machine
from aicl_fast.bench.all import watched
from aicl_fast.bench.measure import Clock, device_events, median_interval, rotating, take_turns, wall
from aicl_fast.bench.record import RESULTS, UNKNOWN, device_name, environment, slug, write_result
from aicl_fast.bench.textbook_detect import TextbookDetector
from aicl_fast.config import Config, load_config
from aicl_fast.decode import decode, default_backend
from aicl_fast.errors import AiclError, UnavailableError
from aicl_fast.files import read_json
from aicl_fast.kernels import (
    Mining,
    mine_segments,
    pack_two_branch,
    score_fusion,
    segment_contrast,
    topk_pool,
    two_branch_infer,
)
from aicl_fast.kernels._triton_graph import TwoBranchRunner
from aicl_fast.kernels.contrast import segment_contrast_reference
from aicl_fast.kernels.embed import two_branch_infer_reference
from aicl_fast.kernels.fusion import score_fusion_reference
from aicl_fast.kernels.mining import mine_segments_reference
from aicl_fast.kernels.pooling import topk_pool_reference
from aicl_fast.model import TwoBranchNet

Inputs = list[Tensor]
Call = Callable[[Inputs], Sequence[Tensor]]
_Key = tuple[str, str, int]
_Found = TypeVar("_Found")
_FAMILIES = ("fusion", "pooling", "mining", "contrast", "network", "latency")
_TOOLS = ("memcheck", "racecheck", "initcheck")
_FOUND = 9
"""What compute-sanitizer is told to exit with when it finds something."""
_LAST = 9
"""The rank of a case that may be measured last."""
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float8_e4m3fn: 8e-2}


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
    tolerance: float | None = None
    rank: int = _LAST
    """Cases are measured in this order, so that a run that is cut off has what is asked for first."""


class Effort(NamedTuple):
    """How long contenders take turns."""

    seconds: float
    least: int
    """Turns."""


def _complete(case: Case, forward: Call) -> Call:
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


def _fusion_cases(small: bool) -> Iterator[Case]:
    for batch, classes, dtype, layout in (
        (256, 20, torch.float32, "planar"),
        (256, 20, torch.float32, "rows"),
        (256, 20, torch.bfloat16, "rows"),
        (256, 200, torch.float32, "planar"),
        (16, 20, torch.float32, "planar"),
    ):
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


def _pooling_cases(small: bool) -> Iterator[Case]:
    for batch, length, classes, layout in (
        (16, 750, 20, "planar"),
        (32, 50, 200, "planar"),
        (64, 750, 20, "rows"),
    ):
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


def _mining_cases(small: bool) -> Iterator[Case]:
    for batch, length in ((16, 750), (256, 750), (32, 50)):
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


def _contrast_cases(small: bool) -> Iterator[Case]:
    for batch, length, width, dtype, layout in (
        (16, 750, 512, torch.float32, "planar"),
        (16, 750, 512, torch.float32, "rows"),
        (16, 750, 512, torch.bfloat16, "rows"),
        (32, 50, 1024, torch.float32, "planar"),
    ):
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
            rank=2,
        )


def _plain_network(net: TwoBranchNet, x: Tensor) -> Sequence[Tensor]:
    """The network of two streams as the model computes it, but without a kernel of ours."""
    e, e_rgb, e_flow = net._embed_direct(x)
    cas = net._head(net.classify, e)
    rgb = net._head(net.actionness_rgb, e_rgb).squeeze(2)
    flow = net._head(net.actionness_flow, e_flow).squeeze(2)
    return cas, *score_fusion_reference(cas, rgb, flow, net.gamma)


def _network_cases(small: bool, device: torch.device) -> Iterator[Case]:
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
    for batch, dtype in (
        (1, torch.bfloat16),
        (64, torch.bfloat16),
        (1, torch.float16),
        (1, torch.float32),
        (64, torch.float32),
        (1, float8),
        (64, float8),
    ):
        if dtype == float8 and (device.type != "cuda" or torch.cuda.get_device_capability() < (8, 9)):
            continue
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
            # tf32 keeps ten bits of a product's operands.
            tolerance=5e-3 if dtype == torch.float32 else None,
            rank=0 if dtype == torch.bfloat16 else _LAST,
        )


def cases(only: str, small: bool, device: torch.device) -> Iterator[Case]:
    """The cases of the families whose name contains ``only``."""
    makers: dict[str, Callable[[], Iterator[Case]]] = {
        "fusion": lambda: _fusion_cases(small),
        "pooling": lambda: _pooling_cases(small),
        "mining": lambda: _mining_cases(small),
        "contrast": lambda: _contrast_cases(small),
        "network": lambda: _network_cases(small, device),
    }
    for family, make in makers.items():
        if only in family:
            yield from make()


def _failure(failure: Exception) -> str:
    lines = str(failure).splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0][:200]}"


def _guarded(family: str, case: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row; one that says why, if it raises: a kernel that does not compile is a result too."""
    try:
        return measured()
    except Exception as failure:
        return {"family": family, "case": case, "correct": False, "failed": _failure(failure)}


def _finite(error: float) -> float | None:
    """JSON has no infinity."""
    return error if math.isfinite(error) else None


def _error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative error of any output, by norm; infinite where there is a NaN."""
    worst = 0.0
    for ours, theirs in zip(actual, expected, strict=True):
        difference = float((ours.double() - theirs.double()).norm())
        share = difference / max(float(theirs.double().norm()), 1e-12)
        worst = max(worst, share if share == share else float("inf"))
    return worst


def check(case: Case, forward: Call, inputs: Inputs, device: torch.device) -> float:
    """Relative error of outputs and gradients on ``device`` against the reference in float64.

    The reference runs where the inputs are, so that a sanitizer sees the kernels alone if that is the CPU.
    """
    raised = [value.double() if value.is_floating_point() else value for value in inputs]
    expected = _complete(case, case.exact or case.reference)(raised)
    actual = _complete(case, forward)([value.to(device) for value in inputs])
    return _error([value.to(inputs[0].device) for value in actual], expected)


def _sets(case: Case, device: torch.device) -> list[Inputs]:
    """Input sets that are three times the last cache before memory, two at least, 64 at most.

    What a call gives back counts too: each set has its own place for it.
    """
    generator = torch.Generator(device).manual_seed(1)
    first = case.make(generator)
    size = sum(value.nbytes for value in [*first, *_complete(case, case.kernels)(first)])
    on_gpu = device.type == "cuda"
    cache = torch.cuda.get_device_properties(device).L2_cache_size if on_gpu else 0
    count = machine.sets_beyond_cache(size, cache)
    return [first, *(case.make(generator) for _ in range(count - 1))]


def _clock(device: torch.device) -> Clock:
    return device_events if device.type == "cuda" else wall


def replay(call: Call, sets: Sequence[Inputs], device: torch.device) -> Callable[[], object]:
    """One pass over all sets as the device alone sees it: a captured graph. On the CPU, the calls."""
    if device.type != "cuda":
        return launches(call, sets)
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for inputs in [*sets, sets[0]]:  # compiles what a capture must not
            call(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        # What is let go is given to the next call, whose writes would then never leave the cache.
        outputs = [call(inputs) for inputs in sets]

    def run() -> object:
        graph.replay()
        return outputs

    return run


def launches(call: Call, sets: Sequence[Inputs]) -> Callable[[], object]:
    """One pass over all sets, launched one by one; what they give back is kept until the pass ends."""
    return lambda: [call(inputs) for inputs in sets]


def _tolerance(case: Case) -> float:
    return _TOLERANCE[case.dtype] if case.tolerance is None else case.tolerance


def measure(case: Case, rates: dict[str, float], device: torch.device, effort: Effort) -> dict[str, Any]:
    """One row: kernels and eager torch, their errors and times, in turn."""
    sets = _sets(case, device)
    error = check(case, case.kernels, sets[0], device)
    floor = machine.floor_seconds(rates, case.bytes, case.operations, machine.short(case.dtype))
    row: dict[str, Any] = {
        "family": case.family,
        "case": case.name,
        "floor_us": None if floor is None else floor * 1e6,
        "bytes": case.bytes,
        "operations": case.operations,
        "input_sets": len(sets),
        "correct": error <= _tolerance(case),
        "kernels": {"error": _finite(error)},
    }
    _time(row, case, ("eager", case.reference), sets, device, effort)
    ours = row["kernels"]
    if floor is not None:
        row["share_of_floor"] = row["floor_us"] / ours["replay_us"]
    if case.videos:
        row["videos_per_s"] = case.videos / (ours["replay_us"] * 1e-6)
    return row


def measure_compiled(row: dict[str, Any], case: Case, device: torch.device, effort: Effort) -> None:
    """Add what ``torch.compile`` makes of the reference to a row; a rival that fails is a result too."""
    torch._dynamo.reset()
    row["compiled"] = {}
    row.setdefault("kernels", {})
    try:
        whole = torch.compile(case.reference, mode="max-autotune-no-cudagraphs", dynamic=False)
        _time(row, case, ("compiled", whole), _sets(case, device), device, effort)
    except Exception as failure:
        row["compiled"].setdefault("failed", _failure(failure))


def _time(
    row: dict[str, Any],
    case: Case,
    against: tuple[str, Call],
    sets: Sequence[Inputs],
    device: torch.device,
    effort: Effort,
) -> None:
    """Replays, then launches, of the kernels and a rival in turn; ratios are against the rival.

    A rival that fails is recorded so, and the kernels are timed alone.
    """
    rival, call = against
    theirs = row.setdefault(rival, {})
    try:
        theirs["error"] = _finite(check(case, call, sets[0], device))
    except Exception as failure:
        theirs["failed"] = _failure(failure)
    ours = _complete(case, case.kernels)
    for kind in ("replay", "call"):

        def passes(call: Call, kind: str = kind) -> Callable[[], object]:
            found = replay(call, sets, device) if kind == "replay" else launches(call, sets)
            found()
            return found

        contenders = {"kernels": passes(ours)}
        if "failed" not in theirs:
            try:
                contenders[rival] = passes(_complete(case, call))
            except Exception as failure:
                theirs["failed"] = _failure(failure)
        baseline = rival if rival in contenders else "kernels"
        timings = take_turns(
            contenders, baseline, seconds=effort.seconds, least=effort.least, clock=_clock(device)
        )
        for name, timing in timings.items():
            if f"{kind}_us" in row[name]:
                continue  # the kernels beside a second rival: their times stand already
            row[name][f"{kind}_us"] = 1e6 * timing.median / len(sets)
            row[name][f"{kind}_us_interval"] = [
                1e6 * value / len(sets) for value in median_interval(timing.seconds)
            ]
        if baseline == rival:
            row[f"{rival}_{kind}_ratio"] = timings["kernels"].ratio
            row[f"{rival}_{kind}_ratio_interval"] = list(timings["kernels"].interval())


def _latency_config(small: bool) -> Config:
    return load_config("thumos14", overrides=["rgb_width=32", "flow_width=32", "segments=64"] * small)


def _latency_name(small: bool) -> str:
    length = _latency_config(small).data.segments
    return f"features on the device to detections on the host, B 1 T {length} bfloat16"


def measure_latency(device: torch.device, effort: Effort, small: bool = False) -> dict[str, Any]:
    """Features on the device to detections on the host, one video: a graph replay, one wait, one decode.

    Beside it the textbook: eager float32 torch on the device, its scores copied back, NumPy on the grid.
    """
    config = _latency_config(small)
    classes = tuple(f"class {i}" for i in range(config.model.num_classes))
    torch.manual_seed(0)
    net = TwoBranchNet(config).eval()
    weights = pack_two_branch(net.state_dict(), torch.bfloat16, device=device)
    length, width = config.data.segments, config.data.input_width
    runner = TwoBranchRunner(weights, net.gamma, length, config.topk)
    textbook = TextbookDetector(copy.deepcopy(net), config, str(device))
    sets = [torch.rand(1, length, width, device=device) for _ in range(2 if small else 32)]
    narrow = [features.to(torch.bfloat16) for features in sets]

    def ours(features: Tensor) -> object:
        found = runner(features, copy=False)
        settings: dict[str, Any] = {"classes": classes, "config": config.decode, "data": config.data}
        return decode(found.scores[0], found.video_scores[0], num_segments=900, **settings)

    contenders = {
        "kernels": rotating(ours, narrow),
        "scores on the host": rotating(lambda features: runner(features, copy=False), narrow),
        "textbook": rotating(lambda features: textbook.decoded(features, 900), sets),
    }
    timings = take_turns(contenders, "textbook", seconds=20 * effort.seconds, least=effort.least)
    return {
        "family": "latency",
        "case": _latency_name(small),
        "decoder": default_backend(),
        **{name.replace(" ", "_"): timing.row() for name, timing in timings.items()},
    }


def _print(row: dict[str, Any]) -> None:
    if "failed" in row:
        print(f"{row['family']:<9} {row['case']:<58} FAILED {row['failed']}", flush=True)
        return
    if row["family"] == "latency":
        ours, textbook = row["kernels"], row["textbook"]
        print(
            f"latency   {row['case']}: p50 {ours['p50_ms'] * 1e3:.1f} us, p99 {ours['p99_ms'] * 1e3:.1f} us, "
            f"textbook {textbook['p50_ms'] * 1e3:.1f} us",
            flush=True,
        )
        return
    floor = row.get("floor_us")
    columns = [f"{row['family']:<9}", f"{row['case']:<58}"]
    columns.append("floor        ?" if floor is None else f"floor {floor:8.1f}")
    for name in ("kernels", "eager", "compiled"):
        found = row.get(name, {})
        if "failed" in found:
            columns.append(f"{name} {found['failed']}")
        elif "call_us" in found:
            columns.append(f"{name} {found['replay_us']:8.1f} /{found['call_us']:8.1f}")
        elif found:
            columns.append(f"{name} not timed")
    if "error" in row["kernels"]:
        error = row["kernels"]["error"]
        said = "not finite" if error is None else f"{error:.1e}"
        columns.append(f"error {said}{'' if row['correct'] else ' WRONG'}")
    print("  ".join(columns), flush=True)


def _default_path() -> Path:
    return Path(os.environ.get("OUT", RESULTS)) / f"kernels-{slug(device_name())}.json"


def run_once(only: str, device: torch.device) -> int:
    """Every kernel once at modest sizes, for a sanitizer or a check; 1 if one is wrong.

    Inputs and references are the processor's, so that nearly all that runs on the device is ours.
    """
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for case in cases(only, True, device):
        try:
            error = check(case, case.kernels, case.make(generator), device)
        except Exception as failure:
            wrong += 1
            print(f"{case.family:<9} {case.name:<58} FAILED {_failure(failure)}", flush=True)
            continue
        right = error <= _tolerance(case)
        wrong += not right
        print(f"{case.family:<9} {case.name:<58} error {error:.1e}{'' if right else ' WRONG'}", flush=True)
    return 1 if wrong else 0


def _once(only: str) -> list[str]:
    return [sys.executable, "-P", "-m", "aicl_fast.bench.kernels", "--once", "--only", only]


def _compile_all(only: str, seconds: float) -> None:
    """Fill Triton's cache on disk, a process a family: within a sanitizer compiling takes far longer."""
    families = [family for family in _FAMILIES if only in family and family != "latency"]
    with concurrent.futures.ThreadPoolExecutor(max(1, len(families))) as threads:
        ended = threads.map(lambda family: watched(_once(family), seconds, quiet=True), families)
        for family, (code, lines) in zip(families, ended, strict=True):
            if code:
                print(f"{family}: {''.join(lines)[-1000:]}")


def sanitize(only: str, path: Path | None, seconds: float, tools: Sequence[str] = _TOOLS) -> int:
    """Run every kernel once under compute-sanitizer; 1 unless each tool ran to its end and found nothing.

    All kernels are checked, torch's too: inputs and references are the processor's, so few are torch's.

    Args:
        only: families whose name contains this.
        path: where to record; None records nothing.
        seconds: that a tool may take; compiling counts for the first. One that takes longer is said not to
            have finished.
        tools: of memcheck, racecheck and initcheck.
    Raises:
        UnavailableError: there is no compute-sanitizer, or it refuses the device.
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise UnavailableError("compute-sanitizer is not on the PATH; it comes with the CUDA toolkit.")
    # Without torch's cache every tensor is an allocation, so that a step beyond its end is seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    _compile_all(only, seconds)
    for tool in tools:
        command = [program, "--tool", tool, "--error-exitcode", str(_FOUND), *_once(only)]
        left = max(1.0, seconds - (time.perf_counter() - start))
        code, lines = watched(command, left, environment, quiet=True)
        if any("Device not supported" in line for line in lines):
            raise UnavailableError("compute-sanitizer: it does not support this device.")
        if code:
            print("".join(lines)[-3000:])
        if code is None:
            found = f"not finished in {seconds:g} s"
        elif code in (0, _FOUND):
            found = "something" if code else "nothing"
        else:
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            found = f"failed: {last[:200] or f'exit status {code}'}"
        rows.append({"tool": tool, "found": found, "seconds": time.perf_counter() - start})
        print(f"{tool:<10} found {found}", flush=True)
        if path is not None:
            write_result(path, "sanitize", rows)
        start = time.perf_counter()
    return 0 if all(row["found"] == "nothing" for row in rows) else 1


def _measured_before(path: Path | None) -> list[dict[str, Any]]:
    """The rows that a file holds of this device and commit; none where the commit is not known."""
    if path is None or not path.is_file():
        return []
    here, before = environment(), read_json(path, "result file")
    commit = here["commit"]
    if commit == UNKNOWN or commit.endswith("-dirty"):
        return []
    if any(before.get(name) != here[name] for name in ("commit", "device")):
        return []
    # What failed is tried again.
    return [row for row in before.get("rows", []) if "failed" not in row]


def measure_all(
    options: argparse.Namespace, device: torch.device, path: Path | None, small: bool = False
) -> list[dict[str, Any]]:
    """Every case: first kernels and eager, and latency, then what compiling takes minutes for.

    What there is is written after every case, so that a run that is cut off leaves what it had.
    """
    stop = time.perf_counter() + options.seconds
    effort = Effort(0.0, 2) if small else Effort(0.3, 20)
    rates = machine.gpu_rates(device, _clock(device), size=64 if small else 8192)
    print(" ".join(f"{name} {value:.3g}" for name, value in rates.items()))
    before = [] if options.again else _measured_before(path)
    rows = dict(_numbered(before, lambda row: (row["family"], row["case"])))
    # Sorting keeps cases of one rank in their order.
    chosen = sorted(cases(options.only, small, device), key=lambda case: case.rank)
    numbered = _numbered(chosen, lambda case: (case.family, case.name))

    def keep(key: _Key, row: dict[str, Any]) -> None:
        rows[key] = row
        _print(row)
        if path is not None:
            write_result(path, "kernels", list(rows.values()), rates=rates)

    def all_of(key: _Key, case: Case) -> None:
        row = rows.get(key, {})
        if "eager" not in row:
            found = _guarded(case.family, case.name, lambda: measure(case, rates, device, effort))
            keep(key, {**row, **found})

    def latency() -> None:
        key = ("latency", _latency_name(small), 0)
        if key not in rows:
            keep(key, _guarded(*key[:2], lambda: measure_latency(device, effort, small)))

    if not options.compiled:
        jobs: list[tuple[int, Callable[[], None]]] = [
            (case.rank, functools.partial(all_of, key, case)) for key, case in numbered
        ]
        if options.only in "latency":
            jobs.append((1, latency))
        for _, job in sorted(jobs, key=lambda job: job[0]):
            job()
    if options.no_compile:
        return list(rows.values())
    for key, case in _first_of_each(numbered):
        row = rows.get(key, {"family": case.family, "case": case.name})
        if "failed" in row or "compiled" in row:
            continue
        if time.perf_counter() > stop:
            break
        measure_compiled(row, case, device, effort)
        keep(key, row)
    return list(rows.values())


def _numbered(
    found: Sequence[_Found], name: Callable[[_Found], tuple[str, str]]
) -> list[tuple[_Key, _Found]]:
    """Each with its family, its name, and how many before it have the same: small cases may."""
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    keyed = []
    for one in found:
        keyed.append(((*name(one), seen[name(one)]), one))
        seen[name(one)] += 1
    return keyed


def _status(rows: Sequence[dict[str, Any]]) -> int:
    """0 if all is right; else 1, with a line that says what is not."""
    wrong = [row for row in rows if not row.get("correct", True)]
    for row in wrong:
        print(f"wrong or failed: {row['family']} {row['case']}")
    return 1 if wrong else 0


def _first_of_each(numbered: Sequence[tuple[_Key, Case]]) -> list[tuple[_Key, Case]]:
    """The cases in turns of the families, so that each has one compiled before any has two."""
    families: dict[str, list[tuple[_Key, Case]]] = {}
    for key, case in numbered:
        families.setdefault(case.family, []).append((key, case))
    return [one for turn in itertools.zip_longest(*families.values()) for one in turn if one is not None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a row a case, write the JSON; 1 if a kernel is wrong.

    Raises:
        UnavailableError: there is no CUDA device.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help=f"families whose name contains this: {', '.join(_FAMILIES)}"
    )
    parser.add_argument("--json", type=Path, help="where to write; else $OUT or bench/results/")
    rivals = parser.add_mutually_exclusive_group()
    rivals.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    rivals.add_argument("--compiled", action="store_true", help="torch.compile alone beside the kernels")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="after which nothing more is compiled (no limit)"
    )
    parser.add_argument("--once", action="store_true", help="run every kernel once, check it, time nothing")
    parser.add_argument("--again", action="store_true", help="measure anew what the file already has")
    parser.add_argument("--sanitize", action="store_true", help="compute-sanitizer on every kernel")
    parser.add_argument("--tool", choices=_TOOLS, help="of compute-sanitizer; all, in turn, if left out")
    parser.add_argument("--limit", type=float, help="seconds a tool, compiling included (600 for all)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small: that the script works")
    options = parser.parse_args(arguments)
    if options.dry_run:
        return _status(measure_all(options, torch.device("cpu"), options.json, small=True))
    if not torch.cuda.is_available():
        raise UnavailableError("there is no CUDA device here (--dry-run tries the script without one).")
    device = torch.device("cuda")
    if options.once:
        return run_once(options.only, device)
    if options.sanitize:
        tools = _TOOLS if options.tool is None else (options.tool,)
        limit = min(options.seconds, 600.0) / len(tools) if options.limit is None else options.limit
        return sanitize(options.only, options.json, limit, tools)
    path = options.json or _default_path()
    rows = measure_all(options, device, path)
    print(f"written to {path}")
    return _status(rows)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AiclError as error:
        sys.exit(f"not measured: {error}")
