"""What the Triton kernels cost on a GPU, against torch as it is written and as it is compiled.

    python -m aicl_fast.bench kernels                        # everything; JSON into $OUT or bench/results/
    python -m aicl_fast.bench kernels --only contrast        # one family
    python -m aicl_fast.bench kernels --sanitize             # compute-sanitizer on every kernel
    python -m aicl_fast.bench kernels --sanitize --tool memcheck --limit 140
    python -m aicl_fast.bench kernels --dry-run              # no GPU: the same steps on the CPU, small

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
(unless ``--again`` is given): a run that is cut off resumes where it stopped.
"""

from __future__ import annotations

import argparse
import collections
import copy
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from aicl_fast.bench.baselines.detect import ReferenceDetector
from aicl_fast.bench.harness import machine
from aicl_fast.bench.harness.measure import Clock, device_events, median_interval, rotating, take_turns, wall
from aicl_fast.bench.harness.record import RESULTS, UNKNOWN, device_name, environment, slug, write_result
from aicl_fast.bench.suites.kernel_cases import FAMILIES, cases, check, finite, reason
from aicl_fast.bench.suites.sanitize import TOOLS, run_once, sanitize
from aicl_fast.config import Config, load_config
from aicl_fast.decode.decoder import Decoder, default_backend
from aicl_fast.errors import AiclError, UnavailableError
from aicl_fast.files import read_json
from aicl_fast.kernels import pack_two_branch
from aicl_fast.kernels.harness import Call, Case, Inputs, complete
from aicl_fast.kernels.runner import TwoBranchRunner
from aicl_fast.model import TwoBranchNet

_Key = tuple[str, str, int]
_Found = TypeVar("_Found")


class Effort(NamedTuple):
    """How long contenders take turns."""

    seconds: float
    least: int
    """Turns."""


def _guarded(family: str, case: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row; one that says why, if it raises: a kernel that does not compile is a result too."""
    try:
        return measured()
    except Exception as failure:
        return {"family": family, "case": case, "correct": False, "failed": reason(failure)}


def input_sets(case: Case, device: torch.device) -> list[Inputs]:
    """Input sets that are three times the last cache before memory, two at least, 64 at most.

    What a call gives back counts too: each set has its own place for it.
    """
    generator = torch.Generator(device).manual_seed(1)
    first = case.make(generator)
    size = sum(value.nbytes for value in [*first, *complete(case, case.kernels)(first)])
    on_gpu = device.type == "cuda"
    cache = torch.cuda.get_device_properties(device).L2_cache_size if on_gpu else 0
    count = machine.sets_beyond_cache(size, cache)
    return [first, *(case.make(generator) for _ in range(count - 1))]


def clock_of(device: torch.device) -> Clock:
    """What times a call there."""
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


def measure(case: Case, rates: dict[str, float], device: torch.device, effort: Effort) -> dict[str, Any]:
    """One row: kernels and eager torch, their errors and times, in turn."""
    sets = input_sets(case, device)
    error = check(case, case.kernels, sets[0], device)
    floor = machine.floor_seconds(rates, case.bytes, case.operations, machine.short(case.dtype))
    row: dict[str, Any] = {
        "family": case.family,
        "case": case.name,
        "floor_us": None if floor is None else floor * 1e6,
        "bytes": case.bytes,
        "operations": case.operations,
        "input_sets": len(sets),
        "correct": error <= case.allowed,
        "kernels": {"error": finite(error)},
    }
    _time(row, case, ("eager", case.reference), sets, device, effort)
    ours = row["kernels"]
    if floor is not None:
        row["share_of_floor"] = row["floor_us"] / ours["replay_us"]
    if case.operations:
        row["videos_per_s"] = case.spec.shape[0] / (ours["replay_us"] * 1e-6)
    return row


def measure_compiled(row: dict[str, Any], case: Case, device: torch.device, effort: Effort) -> None:
    """Add what ``torch.compile`` makes of the reference to a row; a rival that fails is a result too."""
    torch._dynamo.reset()
    row["compiled"] = {}
    row.setdefault("kernels", {})
    try:
        whole = torch.compile(case.reference, mode="max-autotune-no-cudagraphs", dynamic=False)
        _time(row, case, ("compiled", whole), input_sets(case, device), device, effort)
    except Exception as failure:
        row["compiled"].setdefault("failed", reason(failure))


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
        theirs["error"] = finite(check(case, call, sets[0], device))
    except Exception as failure:
        theirs["failed"] = reason(failure)
    ours = complete(case, case.kernels)
    for kind in ("replay", "call"):

        def passes(call: Call, kind: str = kind) -> Callable[[], object]:
            found = replay(call, sets, device) if kind == "replay" else launches(call, sets)
            found()
            return found

        contenders = {"kernels": passes(ours)}
        if "failed" not in theirs:
            try:
                contenders[rival] = passes(complete(case, call))
            except Exception as failure:
                theirs["failed"] = reason(failure)
        baseline = rival if rival in contenders else "kernels"
        timings = take_turns(
            contenders, baseline, seconds=effort.seconds, least=effort.least, clock=clock_of(device)
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

    Beside it the reference: eager float32 torch on the device, its scores copied back, NumPy on the grid.
    """
    config = _latency_config(small)
    classes = tuple(f"class {i}" for i in range(config.model.num_classes))
    torch.manual_seed(0)
    net = TwoBranchNet(config).eval()
    weights = pack_two_branch(net.state_dict(), torch.bfloat16, device=device)
    length, width = config.data.segments, config.data.input_width
    runner = TwoBranchRunner(weights, net.gamma, length, config.topk)
    reference = ReferenceDetector(copy.deepcopy(net), config, str(device))
    sets = [torch.rand(1, length, width, device=device) for _ in range(2 if small else 32)]
    narrow = [features.to(torch.bfloat16) for features in sets]

    decoder, data = Decoder(config.decode, classes), config.data

    def ours(features: Tensor) -> object:
        found = runner(features, copy=False)
        return decoder.decode(found.scores[0], found.video_scores[0], 900, data.fps, data.frames_per_segment)

    contenders = {
        "kernels": rotating(ours, narrow),
        "scores on the host": rotating(lambda features: runner(features, copy=False), narrow),
        "reference": rotating(lambda features: reference.decoded(features, 900), sets),
    }
    timings = take_turns(contenders, "reference", seconds=20 * effort.seconds, least=effort.least)
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
        ours, reference = row["kernels"], row["reference"]
        print(
            f"latency   {row['case']}: p50 {ours['p50_ms'] * 1e3:.1f} us, p99 {ours['p99_ms'] * 1e3:.1f} us, "
            f"reference {reference['p50_ms'] * 1e3:.1f} us",
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


def default_path(suite: str) -> Path:
    """Where a suite of this device is written if nobody says."""
    return Path(os.environ.get("OUT", RESULTS)) / f"{suite}-{slug(device_name())}.json"


def measured_before(path: Path | None) -> list[dict[str, Any]]:
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
    rates = machine.gpu_rates(device, clock_of(device), size=64 if small else 8192)
    print(" ".join(f"{name} {value:.3g}" for name, value in rates.items()))
    before = [] if options.again else measured_before(path)
    rows = dict(numbered(before, lambda row: (row["family"], row["case"])))
    # Sorting keeps cases of one rank in their order.
    chosen = sorted(cases(options.only, small, device), key=lambda case: case.rank)
    keyed = numbered(chosen, lambda case: (case.family, case.name))

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
            (case.rank, functools.partial(all_of, key, case)) for key, case in keyed
        ]
        if options.only in "latency":
            jobs.append((1, latency))
        for _, job in sorted(jobs, key=lambda job: job[0]):
            job()
    if options.no_compile:
        return list(rows.values())
    for key, case in _first_of_each(keyed):
        row = rows.get(key, {"family": case.family, "case": case.name})
        if "failed" in row or "compiled" in row:
            continue
        if time.perf_counter() > stop:
            break
        measure_compiled(row, case, device, effort)
        keep(key, row)
    return list(rows.values())


def numbered(found: Sequence[_Found], name: Callable[[_Found], tuple[str, str]]) -> list[tuple[_Key, _Found]]:
    """Each with its family, its name, and how many before it have the same: small cases may."""
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    keyed = []
    for one in found:
        keyed.append(((*name(one), seen[name(one)]), one))
        seen[name(one)] += 1
    return keyed


def status(rows: Sequence[dict[str, Any]]) -> int:
    """0 if all is right; else 1, with a line that says what is not."""
    wrong = [row for row in rows if not row.get("correct", True)]
    for row in wrong:
        names = (row[name] for name in ("family", "case", "launch") if name in row)
        print(f"wrong or failed: {' '.join(names)}")
    return 1 if wrong else 0


def _first_of_each(numbered: Sequence[tuple[_Key, Case]]) -> list[tuple[_Key, Case]]:
    """The cases in turns of the families, so that each has one compiled before any has two."""
    families: dict[str, list[tuple[_Key, Case]]] = {}
    for key, case in numbered:
        families.setdefault(case.family, []).append((key, case))
    return [one for turn in itertools.zip_longest(*families.values()) for one in turn if one is not None]


def common_arguments(description: str | None, families: Sequence[str]) -> argparse.ArgumentParser:
    """A command line that chooses among families, and writes a file that it resumes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help=f"families whose name contains this: {', '.join(families)}"
    )
    parser.add_argument("--json", type=Path, help="where to write; else $OUT or bench/results/")
    parser.add_argument("--again", action="store_true", help="measure again what the file already has")
    return parser


def cuda_device() -> torch.device:
    """The GPU.

    Raises:
        UnavailableError: there is none.
    """
    if not torch.cuda.is_available():
        raise UnavailableError("there is no CUDA device here (--dry-run tries the script without one).")
    return torch.device("cuda")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a row a case, write the JSON; 1 if a kernel is wrong.

    Raises:
        UnavailableError: there is no CUDA device.
    """
    parser = common_arguments(__doc__, (*FAMILIES, "latency"))
    rivals = parser.add_mutually_exclusive_group()
    rivals.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    rivals.add_argument("--compiled", action="store_true", help="torch.compile alone beside the kernels")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="after which nothing more is compiled (no limit)"
    )
    parser.add_argument("--once", action="store_true", help="run every kernel once, check it, time nothing")
    parser.add_argument("--sanitize", action="store_true", help="compute-sanitizer on every kernel")
    parser.add_argument("--tool", choices=TOOLS, help="of compute-sanitizer; all, in turn, by default")
    parser.add_argument("--limit", type=float, help="seconds a tool, compiling included (600 for all)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small: that the script works")
    options = parser.parse_args(arguments)
    if options.dry_run:
        return status(measure_all(options, torch.device("cpu"), options.json, small=True))
    device = cuda_device()
    if options.once:
        return run_once(options.only, device)
    if options.sanitize:
        tools = TOOLS if options.tool is None else (options.tool,)
        limit = min(options.seconds, 600.0) / len(tools) if options.limit is None else options.limit
        return sanitize(options.only, options.json, limit, tools)
    path = options.json or default_path("kernels")
    rows = measure_all(options, device, path)
    print(f"written to {path}")
    return status(rows)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AiclError as error:
        sys.exit(f"not measured: {error}")
