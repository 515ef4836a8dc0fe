"""What the Triton kernels cost on a GPU, against torch as it is written and as it is compiled.

    python -m aicl_fast.bench.kernels                        # everything; JSON into $OUT or bench/results/
    python -m aicl_fast.bench.kernels --only contrast        # one family
    python -m aicl_fast.bench.kernels --sanitize             # compute-sanitizer on every kernel
    python -m aicl_fast.bench.kernels --dry-run              # no GPU: every contender once, at small sizes

Contenders: ``kernels``, the public functions; ``eager``, their references; ``compiled``,
``torch.compile(mode="max-autotune")`` of the same references. All are checked against the reference in
float64 before they are timed.

Times are medians of graph replays, so that they are the device's own. A graph runs through several input
sets, together three times the second-level cache. ``call_us`` is what the same calls take when launched one
by one, events around them: what a program that captures no graph sees. ``max-autotune`` captures a graph of
its own and copies its inputs into it; its replay here is of the same compiled code without those copies, and
its ``call_us`` is of ``max-autotune`` itself. Floors are computed from a copy and a matrix product measured
in the same run. Every figure is taken twice; ``spread`` is how far the two differ.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aicl_fast.bench.record import device_name, write_result
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
from aicl_fast.kernels._triton_graph import TwoBranchRunner
from aicl_fast.kernels.contrast import segment_contrast_reference
from aicl_fast.kernels.embed import two_branch_infer_reference
from aicl_fast.kernels.fusion import score_fusion_reference
from aicl_fast.kernels.mining import mine_segments_reference
from aicl_fast.kernels.pooling import topk_pool_reference
from aicl_fast.model import TwoBranchNet

Inputs = list[Tensor]
Call = Callable[[Inputs], Sequence[Tensor]]
_FAMILIES = ("fusion", "pooling", "mining", "contrast", "network", "latency")
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
    compiles: bool = True
    tolerance: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


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
        name = f"B {batch} T {length} C {classes} {_short(dtype)} {layout}"
        once = (2 * values + 4 * rows) * size
        yield Case("fusion", f"forward {name}", dtype, make, kernels, reference, bytes=once)
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
            f"forward+backward x3 B {batch} T {length} De {width} {_short(dtype)} {layout}",
            dtype,
            make,
            kernels,
            reference,
            leaves=3,
            outputs=(0,),
            bytes=floor,
        )


def _network_cases(small: bool, device: torch.device) -> Iterator[Case]:
    overrides = ["rgb_width=32", "flow_width=32"] if small else []
    config = load_config("thumos14", overrides=overrides)
    length, features = (40, 64) if small else (config.data.segments, 2048)
    torch.manual_seed(0)
    net = TwoBranchNet(config).to(device).eval()
    state = net.state_dict()
    float8 = torch.float8_e4m3fn
    exact_weights = pack_two_branch(state, torch.float64)
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
                outputs = rival(inputs[0])
            return outputs.CAS, outputs.A_score, outputs.A, outputs.A_ca

        def exact(inputs: Inputs) -> Sequence[Tensor]:
            return two_branch_infer_reference(inputs[0], exact_weights, net.gamma)

        width = config.model.embedding_width
        operations = 2 * batch * length * 3 * features * 2 * width
        moved = batch * length * (features * plain.itemsize + 2 * config.model.num_classes * 4 + 8)
        yield Case(
            "network",
            f"B {batch} T {length} De {width} {_short(dtype)}",
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
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def _error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative error of any output, by norm; infinite where there is a NaN."""
    worst = 0.0
    for ours, theirs in zip(actual, expected, strict=True):
        difference = float((ours.double() - theirs.double()).norm())
        share = difference / max(float(theirs.double().norm()), 1e-12)
        worst = max(worst, share if share == share else float("inf"))
    return worst


def check(case: Case, forward: Call, inputs: Inputs) -> float:
    """Relative error of outputs and gradients against the reference in float64."""
    raised = [value.double() if value.is_floating_point() else value for value in inputs]
    expected = _complete(case, case.exact or case.reference)(raised)
    return _error(_complete(case, forward)(inputs), expected)


def _sets(case: Case, device: torch.device) -> list[Inputs]:
    """Input sets that together are three times the second-level cache, two at least, 64 at most."""
    generator = torch.Generator(device).manual_seed(1)
    first = case.make(generator)
    size = sum(value.numel() * value.element_size() for value in first)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    count = min(64, max(2, -(-3 * cache // size)))
    return [first, *(case.make(generator) for _ in range(count - 1))]


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _median_us(run: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begin, end = _event(), _event()
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return float(statistics.median(times))


def replay_us(call: Call, sets: Sequence[Inputs], rounds: int = 50) -> float:
    """Microseconds a call inside a replayed graph of one pass over all sets."""
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for inputs in [*sets, sets[0]]:
            call(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for inputs in sets:
            call(inputs)
    for _ in range(5):
        graph.replay()
    torch.cuda.synchronize()
    return _median_us(graph.replay, rounds) / len(sets)


def call_us(call: Call, sets: Sequence[Inputs], rounds: int = 20) -> float:
    """Microseconds a call, launched one by one."""
    for inputs in sets:
        call(inputs)

    def run() -> None:
        for inputs in sets:
            call(inputs)

    torch.cuda.synchronize()
    return _median_us(run, rounds) / len(sets)


def measure_floors(device: torch.device) -> dict[str, float]:
    """Bytes a second of a large copy (read plus written), operations a second of large products."""
    source = torch.randn(1 << 28, device=device)
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    copied = _median_us(lambda: target.copy_(source), 20)
    floors = {"copy_bytes_per_s": 2 * source.numel() * 4 / (copied * 1e-6)}
    size = 8192
    torch.backends.cuda.matmul.allow_tf32 = True
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty(size, size, device=device, dtype=dtype)
        for _ in range(3):
            torch.matmul(a, b, out=out)
        taken = _median_us(lambda a=a, b=b, out=out: torch.matmul(a, b, out=out), 10)  # type: ignore[misc]
        floors[f"{_short(dtype)}_operations_per_s"] = 2 * size**3 / (taken * 1e-6)
    if torch.cuda.get_device_capability(device) >= (8, 9):
        float8 = torch.float8_e4m3fn
        a = torch.randn(size, size, device=device).to(float8)
        b = torch.randn(size, size, device=device).to(float8).t()
        one = torch.ones((), device=device)

        def product() -> Tensor:
            return torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

        for _ in range(3):
            product()
        floors[f"{_short(float8)}_operations_per_s"] = 2 * size**3 / (_median_us(product, 10) * 1e-6)
    return floors


def _floor_us(case: Case, floors: dict[str, float]) -> float:
    moved = case.bytes / floors["copy_bytes_per_s"]
    worked = case.operations / floors.get(f"{_short(case.dtype)}_operations_per_s", float("inf"))
    return 1e6 * max(moved, worked)


def measure(case: Case, floors: dict[str, float], compiled: bool, device: torch.device) -> dict[str, Any]:
    """One row: every contender's error and times."""
    sets = _sets(case, device)
    floor = _floor_us(case, floors)
    row: dict[str, Any] = {
        "family": case.family,
        "case": case.name,
        "floor_us": floor,
        "bytes": case.bytes,
        "operations": case.operations,
        "input_sets": len(sets),
        **case.extra,
    }
    contenders: dict[str, tuple[Call, Call]] = {
        "kernels": (case.kernels, case.kernels),
        "eager": (case.reference, case.reference),
    }
    if compiled and case.compiles:
        torch._dynamo.reset()
        replayed = torch.compile(case.reference, mode="max-autotune-no-cudagraphs", dynamic=False)
        called = torch.compile(case.reference, mode="max-autotune", dynamic=False)
        contenders["compiled"] = (replayed, called)
    tolerance = _TOLERANCE[case.dtype] if case.tolerance is None else case.tolerance
    for name, (replayed, called) in contenders.items():
        result: dict[str, Any]
        try:
            error = check(case, replayed, sets[0])
            whole = _complete(case, replayed)
            first, second = replay_us(whole, sets), replay_us(whole, sets)
            result = {
                "error": error,
                "replay_us": min(first, second),
                "spread": abs(first - second) / min(first, second),
                "call_us": call_us(_complete(case, called), sets),
            }
        except Exception as failure:  # a rival that does not compile is a result, not the end of the run
            if name == "kernels":
                raise
            result = {"failed": f"{type(failure).__name__}: {str(failure).splitlines()[0][:200]}"}
        row[name] = result
    ours = row["kernels"]
    row["correct"] = ours["error"] <= tolerance
    row["share_of_floor"] = floor / ours["replay_us"]
    for rival in ("eager", "compiled"):
        for kind in ("replay_us", "call_us"):
            theirs = row.get(rival, {}).get(kind)
            if theirs is not None:
                row[f"{rival}_{kind.removesuffix('_us')}_ratio"] = theirs / ours[kind]
    if case.videos:
        row["videos_per_s"] = case.videos / (ours["replay_us"] * 1e-6)
    return row


def measure_latency(device: torch.device, rounds: int = 2000) -> dict[str, Any]:
    """Features on the GPU to detections on the host, one video: a graph replay, one wait, one decode."""
    from aicl_fast.decode import decode, default_backend

    config = load_config("thumos14")
    torch.manual_seed(0)
    net = TwoBranchNet(config).eval()
    weights = pack_two_branch(net.state_dict(), torch.bfloat16, device=device)
    length = config.data.segments
    runner = TwoBranchRunner(weights, net.gamma, length, length // config.model.topk_divisor)
    sets = [torch.rand(1, length, 2048, device=device).to(torch.bfloat16) for _ in range(32)]
    classes = [f"class {i}" for i in range(config.model.num_classes)]
    times, network = [], []
    for number in range(rounds + 50):
        features = sets[number % len(sets)]
        torch.cuda.synchronize()
        begin = time.perf_counter()
        scores = runner(features, copy=False)
        middle = time.perf_counter()
        decode(
            scores.scores[0],
            scores.video_scores[0],
            num_segments=900,
            classes=classes,
            config=config.decode,
            data=config.data,
        )
        times.append((time.perf_counter() - begin) * 1e6)
        network.append((middle - begin) * 1e6)
    times, network = sorted(times[50:]), sorted(network[50:])
    return {
        "family": "latency",
        "case": f"features on the GPU to detections on the host, B 1 T {length} bfloat16",
        "decoder": default_backend(),
        "p50_us": times[len(times) // 2],
        "p99_us": times[int(0.99 * len(times))],
        "scores_on_host_p50_us": network[len(network) // 2],
        "rounds": rounds,
    }


def _print(row: dict[str, Any]) -> None:
    if row["family"] == "latency":
        print(f"latency   {row['case']}: p50 {row['p50_us']:.1f} us, p99 {row['p99_us']:.1f} us")
        return
    columns = [f"{row['family']:<9}", f"{row['case']:<58}", f"floor {row['floor_us']:8.1f}"]
    for name in ("kernels", "eager", "compiled"):
        found = row.get(name, {})
        shown = f"{found['replay_us']:8.1f} /{found['call_us']:8.1f}" if "replay_us" in found else "failed"
        columns.append(f"{name} {shown:>18}")
    columns.append(f"error {row['kernels']['error']:.1e}{'' if row['correct'] else ' WRONG'}")
    print("  ".join(columns), flush=True)


def _default_path() -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
    folder = Path(os.environ.get("OUT", "bench/results"))
    return folder / f"kernels-{slug}.json"


def run_once(only: str, device: torch.device) -> int:
    """Every kernel once at modest sizes, for a sanitizer or a check; 1 if one is wrong."""
    generator = torch.Generator(device).manual_seed(0)
    wrong = 0
    for case in cases(only, True, device):
        inputs = case.make(generator)
        error = check(case, case.kernels, inputs)
        right = error <= (_TOLERANCE[case.dtype] if case.tolerance is None else case.tolerance)
        wrong += not right
        print(f"{case.family:<9} {case.name:<58} error {error:.1e}{'' if right else ' WRONG'}")
    return 1 if wrong else 0


def sanitize(only: str) -> int:
    """Run every kernel once under compute-sanitizer's three tools; 1 if any finds something."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        print("compute-sanitizer is not on the PATH; it comes with the CUDA toolkit", file=sys.stderr)
        return 2
    # Without torch's cache every tensor is an allocation, so that a step beyond its end is seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    bad = 0
    for tool in ("memcheck", "racecheck", "initcheck"):
        for family in _FAMILIES[:-1]:
            if only not in family:
                continue
            command = [program, "--tool", tool, "--error-exitcode", "9"]
            command += [sys.executable, "-P", "-m", "aicl_fast.bench.kernels", "--once", "--only", family]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            print(
                f"{tool:<10} {family:<10} {'clean' if done.returncode == 0 else 'FOUND SOMETHING'}",
                flush=True,
            )
            if done.returncode != 0:
                bad += 1
                print((done.stdout + done.stderr)[-3000:])
    return 1 if bad else 0


def dry_run(only: str) -> int:
    """Every contender but the compiler once on the CPU, at small sizes: that the script itself works."""
    device = torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    for case in cases(only, True, device):
        inputs = case.make(generator)
        errors = [check(case, call, inputs) for call in (case.kernels, case.reference)]
        print(f"{case.family:<9} {case.name:<58} errors " + " ".join(f"{error:.1e}" for error in errors))
        if max(errors) > max(_TOLERANCE[case.dtype], case.tolerance or 0.0):
            return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a row a case, write the JSON; 1 if a kernel is wrong, 2 without a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help=f"families whose name contains this: {', '.join(_FAMILIES)}"
    )
    parser.add_argument("--json", type=Path, help="where to write; else $OUT or bench/results/")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out (it takes minutes)"
    )
    parser.add_argument("--once", action="store_true", help="run every kernel once, check it, time nothing")
    parser.add_argument("--sanitize", action="store_true", help="compute-sanitizer on every kernel")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small, untimed")
    options = parser.parse_args(arguments)
    if options.dry_run:
        return dry_run(options.only)
    if not torch.cuda.is_available():
        print("not measured: no CUDA device here (--dry-run checks the script without one)", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    if options.once:
        return run_once(options.only, device)
    if options.sanitize:
        return sanitize(options.only)

    path = options.json or _default_path()
    floors = measure_floors(device)
    print(" ".join(f"{name} {value:.3g}" for name, value in floors.items()))
    rows: list[dict[str, Any]] = []
    for case in cases(options.only, False, device):
        rows.append(measure(case, floors, not options.no_compile, device))
        _print(rows[-1])
        # After every case, so that a run that is cut off leaves what it had.
        write_result(path, "kernels", rows, floors=floors)
    if options.only in "latency":
        rows.append(measure_latency(device))
        _print(rows[-1])
        write_result(path, "kernels", rows, floors=floors)
    print(f"written to {path}")
    return 0 if all(row.get("correct", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
