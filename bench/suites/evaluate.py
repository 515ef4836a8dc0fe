"""What measuring mAP costs, against evaluators that are easy to read.

    python -m aicl_fast.bench evaluate gt.json detections.json --json evaluate.json

Without files, the published detections on THUMOS14 beside the checkout are taken, or, where they are not,
those of the synthetic recordings that `models.py` makes.

Each round times every contender once, in one process and on one thread, so that a busy moment hits all of
them; the table has medians over the rounds, and a ratio is the median of the rounds' own ratios, with its
bootstrap interval; the input is the same each time. A call begins with annotations and detections in memory
and ends with the AP of every class at every tIoU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.bench.baselines import evaluate as reference_evaluate
from aicl_fast.bench.harness import suite
from aicl_fast.bench.harness.measure import median_interval
from aicl_fast.bench.harness.models import subject
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import load_detections
from aicl_fast.data.writers import save_detections
from aicl_fast.detector import Detector
from aicl_fast.errors import AiclError
from aicl_fast.evaluate import TIOUS, average_recall, compare, diagnose, mean_average_precision

AGREEMENT = 1e-3
"""How far average mAPs may lie apart: the references leave the order of equal scores and tIoUs to numpy."""

_COLD = """
import sys, time
begin = time.perf_counter()
from aicl_fast.evaluate import mean_average_precision
imported = time.perf_counter()
mean_average_precision(sys.argv[1], sys.argv[2], subset=sys.argv[3])
print(imported - begin, time.perf_counter() - begin)
"""


def time_rounds(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender in every round, taken in turn; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            begin = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def measure_map(truth: GroundTruth, found: Any, subset: str, rounds: int) -> list[dict[str, Any]]:
    """mAP at seven tIoUs by every contender, which must agree."""

    def ours() -> npt.NDArray[np.float64]:
        result = mean_average_precision(truth, found, subset=subset)
        return np.array(list(result.per_class.values()))

    contenders: dict[str, Callable[[], Any]] = {
        "reference, pandas rows": lambda: reference_evaluate.pandas_map(truth, found, subset, TIOUS),
        "reference, loop over arrays": lambda: reference_evaluate.loop_map(truth, found, subset, TIOUS),
        "aicl_fast": ours,
    }
    if importlib.util.find_spec("pandas") is None:
        del contenders["reference, pandas rows"]
        print("reference, pandas rows: skipped, pandas is not installed", file=sys.stderr)
    averages = {name: float(np.mean(call())) for name, call in contenders.items()}
    if max(averages.values()) - min(averages.values()) > AGREEMENT:
        raise AiclError(f"the evaluators differ, so their times mean nothing: {averages}")
    seconds = time_rounds(contenders, rounds)
    own = seconds["aicl_fast"]
    ratios = {name: [a / b for a, b in zip(values, own, strict=True)] for name, values in seconds.items()}
    return [
        {
            "evaluator": name,
            "average_mAP": averages[name],
            "milliseconds": statistics.median(values) * 1e3,
            "fastest_milliseconds": min(values) * 1e3,
            "aicl_fast_times_faster": statistics.median(ratios[name]),
            "aicl_fast_times_faster_interval": list(median_interval(ratios[name])),
        }
        for name, values in seconds.items()
    ]


def measure_rest(truth: GroundTruth, found: Any, subset: str, rounds: int) -> list[dict[str, Any]]:
    """The measures that no reference here has."""
    contenders: dict[str, Callable[[], object]] = {
        "diagnose": lambda: diagnose(truth, found, subset=subset),
        "compare, 2000 draws": lambda: compare(truth, found, found, subset=subset),
    }
    seconds = time_rounds(contenders, rounds)
    return [
        {"measure": name, "milliseconds": statistics.median(values) * 1e3} for name, values in seconds.items()
    ]


_REFERENCE = """
import sys
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.bench.baselines.evaluate import loop_map
from aicl_fast.data.detections import load_detections
from aicl_fast.evaluate import TIOUS
values = loop_map(GroundTruth.load(sys.argv[1]), load_detections(sys.argv[2]), sys.argv[3], TIOUS)
print(" ".join(map(repr, values.ravel().tolist())))
"""


def measure_ties(truth: Path, found: Path, subset: str) -> dict[str, float]:
    """What the order of equal scores and tIoUs moves: ours by option, the reference's by processor.

    The reference's order is numpy's argsort, whose vectorised and plain forms leave equal values differently;
    the plain one is had by switching numpy's processor features off.
    """
    core = importlib.import_module("numpy._core._multiarray_umath")
    dispatched = " ".join(name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name))
    command = [sys.executable, "-c", _REFERENCE, str(truth.resolve()), str(found.resolve()), subset]
    values = []
    for features in ("", dispatched):
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": features}
        printed = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd="/", env=environment
        )
        values.append(np.array([float(word) for word in printed.stdout.split()]))
    ours = {
        ties: mean_average_precision(truth, found, subset=subset, ties=ties).average
        for ties in ("activitynet", "file")
    }
    return {
        "average_mAP_ties_activitynet": ours["activitynet"],
        "average_mAP_ties_file": ours["file"],
        "reference_average_mAP": float(values[0].mean()),
        "reference_average_mAP_without_vector_instructions": float(values[1].mean()),
        "reference_largest_difference_of_a_class": float(np.abs(values[0] - values[1]).max()),
    }


def measure_cold(truth: Path, found: Path, subset: str, rounds: int) -> dict[str, float]:
    """From the first import to the result, files read, in fresh processes."""
    runs = []
    for _ in range(rounds + 1):
        # The folder of a checkout would shadow the installed package.
        command = [sys.executable, "-c", _COLD, str(truth.resolve()), str(found.resolve()), subset]
        printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
        runs.append([float(word) for word in printed.split()])
    imported, total = (statistics.median(column) for column in zip(*runs[1:], strict=True))
    return {"import_milliseconds": imported * 1e3, "total_milliseconds": total * 1e3}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results as JSON when asked."""
    parser = suite.parser(__doc__, rounds=7)
    parser.add_argument("ground_truth", type=Path, nargs="?")
    parser.add_argument("detections", type=Path, nargs="?")
    parser.add_argument("--subset", default="test")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        files = (options.ground_truth, options.detections)
        source, ground_truth, detections = ("given", *files) if all(files) else _files(Path(folder))
        truth, found = GroundTruth.load(ground_truth), load_detections(detections)
        counts = mean_average_precision(truth, found, subset=options.subset).counts
        rows = measure_map(truth, found, options.subset, options.rounds)
        more = {
            "data": {"source": source, **{key: counts[key] for key in ("videos", "instances", "detections")}},
            "tious": list(TIOUS),
            "rest": measure_rest(truth, found, options.subset, options.rounds),
            "ties": measure_ties(ground_truth, detections, options.subset),
            "diagnosis": diagnose(truth, found, subset=options.subset).to_dict(),
            "recall": average_recall(truth, found, subset=options.subset).to_dict(),
            "cold": measure_cold(ground_truth, detections, options.subset, options.rounds),
        }
    suite.show("evaluate", rows)
    suite.record(options.json, "evaluate", rows, **more)


def _files(folder: Path) -> tuple[str, Path, Path]:
    """What there is to evaluate: its source, annotations and detections."""
    real = Path(__file__).resolve().parents[3] / "shared" / "data" / "thumos14"
    if (real / "detections.json").is_file():
        return "published detections on THUMOS14", real / "gt.json", real / "detections.json"
    what = subject("thumos14")
    assert what.dataset is not None
    names = what.dataset.videos["test"]
    with Detector(what.weights) as detector:
        found = detector.batch(what.recordings, videos=names)
    save_detections(folder / "detections.json", dict(zip(names, found, strict=True)))
    return "synthetic recordings", what.dataset.root / "gt.json", folder / "detections.json"
