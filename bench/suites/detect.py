"""What localising costs, features to detections, against the reference pipeline.

    python -m aicl_fast.bench detect --json detect.json
    python -m aicl_fast.bench detect --model m.onnx --batch 1,8 --seconds 5

Warm: recordings in memory to detections, by every file that can be exported and opened here, or by the
exported file that is given, one batch after another. The reference runs a batch's recordings one by one, as
test scripts do. Without a model, one of THUMOS14's size is trained on synthetic recordings (`models.py`), and
each row has the mAP of its file. Cold: fresh processes, as the `load` suite measures them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from aicl_fast.bench.baselines.detect import ReferenceDetector
from aicl_fast.bench.harness import machine, suite
from aicl_fast.bench.harness.arguments import count_or_none, seconds
from aicl_fast.bench.harness.measure import FILL, PAUSE, Call, rotating, sustained, take_turns
from aicl_fast.bench.harness.models import Recording, Subject, given_subject, subject
from aicl_fast.bench.harness.record import warn_if_busy
from aicl_fast.bench.suites import load
from aicl_fast.bench.suites.engines import (
    BASELINE,
    LONGEST,
    Contender,
    exact_accuracy,
    open_all,
    working_folder,
)
from aicl_fast.detector import Detector
from aicl_fast.errors import AiclError
from aicl_fast.weights import load_model

BATCHES = (1, 8)


def check_agreement(what: Subject, reference: ReferenceDetector, ours: Detector) -> float:
    """A figure for a wrong answer is worth nothing: float32 has to find what the reference finds.

    Sums in another order may bring a curve over a threshold that it grazes: one detection in a hundred.

    Returns:
        Detections a recording.
    Raises:
        AiclError: another number of detections, or other scores.
    """
    count = 0
    for recording in what.recordings[:4]:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            expected, found = reference(*recording)[1], ours(*recording)
        half = len(expected) // 2
        apart = np.abs(found.scores[:half] - expected[:half, 2]) if len(found) >= half else np.ones(1)
        if abs(len(found) - len(expected)) > len(expected) // 100 or apart.max(initial=0) > 1e-3:
            raise AiclError("the two pipelines' detections differ, so their times mean nothing")
        count += len(found)
    return count / len(what.recordings[:4])


def measure(
    what: Subject,
    running: Sequence[Contender],
    reference: ReferenceDetector,
    batch: int,
    seconds: float,
    back_to_back: float = 0.0,
) -> list[dict[str, Any]]:
    """One batch size: every contender in turn with the reference.

    Then each alone for ``back_to_back`` seconds, one call right after the other: recordings a second.
    """

    def one_by_one(recordings: Sequence[Recording]) -> object:
        return [reference(*recording) for recording in recordings]

    def ours(detector: Detector) -> Callable[[Sequence[Recording]], object]:
        if batch == 1:
            return lambda recordings: detector(*recordings[0])
        return detector.batch

    inputs = what.batches(batch)
    calls: dict[str, Call] = {BASELINE: rotating(one_by_one, inputs)}
    calls |= {each.name: rotating(ours(each.detector), inputs) for each in running}
    timings = take_turns(calls, BASELINE, seconds=seconds, least=5, pause=PAUSE, fill=FILL)
    exact = exact_accuracy(running)
    rows: list[dict[str, Any]] = []
    for each in (None, *running):
        name = BASELINE if each is None else each.name
        timing = timings[name]
        time.sleep(PAUSE)
        rows.append(
            {
                "subject": what.name,
                "pipeline": BASELINE if each is None else each.pipeline,
                "batch": batch,
                # The reference computes what the weights in torch do: their detections were compared.
                "mAP": exact if each is None else each.mAP,
                **timing.row(),
                "videos_per_second": batch * sustained(calls[name], back_to_back),
                "sustained_seconds": back_to_back,
                "open_ms": None if each is None else each.open_ms,
                "first_ms": None if each is None else each.first_ms,
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, and record where ``--json`` says."""
    parser = suite.parser(
        __doc__, model=None, weights=None, data=None, folder=None, batch=BATCHES, seconds=30.0,
        threads=torch.get_num_threads(), device="cpu",
    )  # fmt: skip
    parser.add_argument(
        "--sustained", type=seconds, default=1.0, help="of each pipeline back to back, at each batch (1)"
    )
    parser.add_argument("--rounds", type=count_or_none, default=5, help="of the cold start, 0 for none (5)")
    options = parser.parse_args(arguments)
    machine.require(options.device)
    warn_if_busy()
    torch.set_num_threads(options.threads)
    if options.model is not None:
        what = given_subject(options.model.resolve(), options.data, options.weights)
    else:
        what = subject("thumos14", options.device)
    rows: list[dict[str, Any]] = []
    cold: list[dict[str, Any]] = []

    def keep() -> None:
        more = {"threads": options.threads, "detections": found, "cold": cold, "left_out": left_out}
        suite.record(options.json, "detect", rows, **more)

    with working_folder(options.folder) as folder:
        running, left_out = open_all(what, folder, options.threads, options.device)
        reference = ReferenceDetector(load_model(what.weights)[0], what.config, options.device)
        with Detector(what.weights, threads=options.threads) as exact:
            found = check_agreement(what, reference, exact)
        longest = 0.0
        for batch in sorted(options.batch):
            if batch * longest > LONGEST and options.device == "cpu":
                why = f"batch {batch}: the reference would take over {LONGEST:g} s a turn"
                left_out.append({"subject": what.name, "format": "", "precision": "", "why": why})
                continue
            each = options.seconds / len(options.batch)
            part = measure(what, running, reference, batch, each, options.sustained)
            longest = part[0]["p50_ms"] / 1e3 / batch
            rows += part
            suite.show("detect-batches", part)
            keep()
        cold = load.measure(what, options.rounds, options.threads, folder) if options.rounds else []
    if cold:
        suite.show("load", cold)
    for row in left_out:
        print(f"skipped: {row['format']} {row['precision']} {row['why']}")
    keep()
