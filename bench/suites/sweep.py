"""Which launch settings of the Triton kernels are fastest on a GPU: the shipped ones against candidates.

    python -m aicl_fast.bench sweep                     # everything; JSON into $OUT or bench/results/
    python -m aicl_fast.bench sweep --only network      # one family
    python -m aicl_fast.bench sweep --compile 90        # no GPU: registers, spills and shared memory of all
    python -m aicl_fast.bench sweep --dry-run           # no GPU: the same steps on the CPU, small

First every candidate is compiled and checked against the reference in float64, in several processes: one that
does not compile, ends its process, hangs or is wrong is recorded so, and is not timed. Then, an operation and
size after the other, those that are right take turns with the shipped settings, as replays of graphs with
rotating inputs; each has its ratio to the shipped one's speed. Of so many some would seem faster by chance:
the fastest takes turns with the shipped settings once more, alone, and that is the ratio that counts.

The file is written after every row, and what it holds of the same commit and device is not measured again
(unless ``--again`` is given). What is swept: ``launches.py``.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aicl_fast.bench.harness.measure import Timing, median_interval, take_turns
from aicl_fast.bench.harness.record import write_result
from aicl_fast.bench.harness.tables import in_words
from aicl_fast.bench.suites.attempts import Attempts, Found, attempt, compiled, in_processes, jobs_of
from aicl_fast.bench.suites.kernel_cases import FAMILIES, multiplies, reason
from aicl_fast.bench.suites.kernels import (
    Effort,
    clock_of,
    common_arguments,
    cuda_device,
    default_path,
    input_sets,
    measured_before,
    numbered,
    replay,
    status,
)
from aicl_fast.bench.suites.launches import Swept, fields, launched_with, replaced, swept
from aicl_fast.kernels import launch as launching
from aicl_fast.kernels.aot import TARGETS
from aicl_fast.kernels.harness import Inputs, complete


def measure(row: Swept, tried: Sequence[Found], device: torch.device, effort: Effort) -> dict[str, Any]:
    """One row: every candidate that is right, in turns with the shipped settings; then the fastest alone.

    Args:
        row: what is swept.
        tried: what is known of each choice, the shipped one first.
        device: where.
        effort: of either measurement.
    """
    launch, ours = row.launch, complete(row.case, row.case.kernels)
    result: dict[str, Any] = {"family": row.case.family, "case": row.case.name, "launch": launch.name}
    result["shipped"] = fields(launch.shipped)
    result["correct"] = tried[0]["correct"]
    candidates = [
        {"settings": fields(settings), **found}
        for settings, found in zip(launch.candidates, tried[1:], strict=True)
    ]
    result["candidates"] = candidates
    if not result["correct"]:
        why = tried[0].get("failed", f"an error of {tried[0].get('error')}")
        return {**result, "failed": f"the shipped settings: {why}"}
    sets = input_sets(row.case, device)

    def passes(choice: int) -> Callable[[], object]:
        def call(inputs: Inputs) -> Sequence[torch.Tensor]:
            with launched_with(launch, launch.choices[choice]):
                return ours(inputs)

        found = replay(call, sets, device)
        found()
        return found

    contenders = {"shipped": passes(0)}
    for number, candidate in enumerate(candidates):
        if not candidate["correct"]:
            continue
        try:
            contenders[str(number)] = passes(1 + number)
        except Exception as failure:
            candidate |= {"correct": False, "failed": reason(failure)}

    def turns(names: Sequence[str]) -> dict[str, Timing]:
        chosen = {name: contenders[name] for name in ("shipped", *names)}
        clock = clock_of(device)
        return take_turns(chosen, "shipped", seconds=effort.seconds, least=effort.least, clock=clock)

    timings = turns([name for name in contenders if name != "shipped"])
    shipped = timings.pop("shipped")
    result |= {"input_sets": len(sets), "turns": len(shipped.seconds), "drift": shipped.drift}
    result |= _times(shipped, len(sets))
    for name, timing in timings.items():
        candidates[int(name)] |= _times(timing, len(sets)) | _ratio(timing)
    if timings:
        best = max(timings, key=lambda name: timings[name].ratio)
        alone = turns([best])[best]
        result |= {"best": candidates[int(best)]["settings"], **_ratio(alone)}
        result["faster"] = alone.interval()[0] > 1
    return result


def _times(timing: Timing, calls: int) -> dict[str, Any]:
    ends = [1e6 * end / calls for end in median_interval(timing.seconds)]
    return {"replay_us": 1e6 * timing.median / calls, "replay_us_interval": ends}


def _ratio(timing: Timing) -> dict[str, Any]:
    return {"times_faster": timing.ratio, "times_faster_interval": list(timing.interval())}


def measure_all(
    rows: Sequence[Swept],
    tried: Callable[[Sequence[int]], dict[int, list[Found]]],
    device: torch.device,
    path: Path | None,
    effort: Effort,
    again: bool,
) -> list[dict[str, Any]]:
    """Every row; what there is is written after each.

    Args:
        rows: what is swept.
        tried: gives what came of jobs, by their numbers.
        device: where.
        path: of the file; None writes none.
        effort: of a row.
        again: measure what the file has, too.
    """
    jobs = jobs_of(rows)
    keyed = numbered(rows, lambda row: row.name)
    before = [] if again else measured_before(path)
    done = dict(numbered(before, lambda row: (row["family"], f"{row['case']}: {row['launch']}")))
    # The network's, which others wait for, are measured before the others are compiled.
    for first in (True, False):
        todo = {
            number
            for number, (key, row) in enumerate(keyed)
            if key not in done and first == (row.case.family == "network")
        }
        wanted = [number for number, job in enumerate(jobs) if any(at in todo for at, _ in job.at)]
        found: dict[tuple[int, int], Found] = {}
        for number, outcomes in tried(wanted).items() if wanted else ():
            places = jobs[number].at
            # One for all, where the process ended.
            every = outcomes * len(places) if len(outcomes) == 1 else outcomes
            found |= dict(zip(places, every, strict=True))
        for number in sorted(todo):
            key, row = keyed[number]
            known = [found[number, choice] for choice in range(len(row.launch.choices))]
            try:
                done[key] = measure(row, known, device, effort)
            except Exception as failure:
                names = {"family": row.case.family, "case": row.case.name, "launch": row.launch.name}
                done[key] = {**names, "correct": False, "failed": reason(failure)}
            _print(done[key])
            if path is not None:
                write_result(path, "sweep", list(done.values()))
    return list(done.values())


def _print(row: Mapping[str, Any]) -> None:
    start = f"{row['family']:<9} {row['case']:<58} {row['launch']:<9}"
    candidates = row.get("candidates", ())
    left_out = sum(not candidate["correct"] for candidate in candidates)
    counted = f"{len(candidates)} candidates, {left_out} failed or wrong"
    if "failed" in row:
        print(f"{start} FAILED {row['failed']}", flush=True)
    elif "best" not in row:
        print(f"{start} shipped {row['replay_us']:8.1f} us  ({counted})", flush=True)
    else:
        low, high = row["times_faster_interval"]
        told = "faster" if row["faster"] else "no faster"
        print(
            f"{start} shipped {row['replay_us']:8.1f} us  best {row['times_faster']:5.2f}x "
            f"({low:.2f} to {high:.2f}) {told}: {in_words(row['best'], row['shipped'])}  ({counted})",
            flush=True,
        )


def compile_all(rows: Sequence[Swept], only: str, target: int) -> int:
    """Compile every choice for a GPU that need not be here and print what it takes; 1 if one does not fit."""
    jobs = jobs_of(rows)
    found = in_processes(range(len(jobs)), ["--only", only, "--compile", str(target)])
    bad = 0
    line = "{:<10} {:<9} {:<76} {:<20} {:>4} {:>6} {:>7} {}"
    print(line.format("family", "launch", "settings", "kernel", "reg", "stack", "shared", ""))
    for number, job in enumerate(jobs):
        at, choice = job.at[0]
        row = rows[at]
        settings = in_words(fields(row.launch.choices[choice])) + ("" if choice else " (shipped)")
        for each in found[number]:
            bad += not each.get("fits", False)
            if "failed" in each:
                columns = ("", "", "", "", f"FAILED {each['failed']}")
            else:
                told = (
                    ""
                    if each["fits"]
                    else "SPILLS"
                    if each["stack"]
                    else "WAITS"
                    if each["serialised"]
                    else "NO ROOM"
                )
                columns = (each["kernel"], each["registers"], each["stack"], each["shared"], told)
            print(line.format(row.case.family, row.launch.name, settings, *columns), flush=True)
    print(f"{len(jobs)} settings compiled for {target}, {bad} spill, wait, do not fit or fail")
    return 1 if bad else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep, print a row an operation and size, write the JSON; 1 if shipped settings are wrong or fail.

    Raises:
        UnavailableError: there is no CUDA device.
    """
    parser = common_arguments(__doc__, FAMILIES)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--compile", type=int, choices=TARGETS, metavar="TARGET",
        help="compute capability, times ten: compile all for it and print what each takes; times nothing",
    )  # fmt: skip
    modes.add_argument("--dry-run", action="store_true", help="on the CPU, small: that the script works")
    parser.add_argument("--attempt", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    target, small = options.compile, options.dry_run
    if options.attempt is None:
        # `timeout` asks to end: what was started ends too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    device = torch.device("cpu") if small or target is not None else cuda_device()
    float8 = target >= 89 if target is not None else multiplies(torch.float8_e4m3fn, device)
    with replaced(launching, "CAPABILITY", target):
        rows = list(swept(options.only, small, device, float8=float8))
    attempts, jobs = Attempts(rows, device), jobs_of(rows)
    if options.attempt is not None:
        numbers = [int(number) for number in options.attempt.split(",")]
        if target is not None:
            launches = attempts.recorded([jobs[number] for number in numbers], target)
            by_number = dict(zip(numbers, launches, strict=True))
            attempt(numbers, lambda number: compiled(by_number[number], target))
        else:
            attempt(
                numbers,
                lambda number: attempts.checked(jobs[number]),
                lambda number: attempts.prepare(jobs[number]),
            )
        return 0
    if target is not None:
        return compile_all(rows, options.only, target)
    if small:
        effort = Effort(0.0, 2)
        found = measure_all(
            rows, lambda numbers: {number: attempts.checked(jobs[number]) for number in numbers},
            device, options.json, effort, options.again,
        )  # fmt: skip
    else:
        path = options.json or default_path("sweep")
        same = ["--only", options.only]
        found = measure_all(
            rows,
            lambda numbers: in_processes(numbers, same),
            device,
            path,
            Effort(0.6, 20),
            options.again,
        )
        print(f"written to {path}")
    return status(found)
