"""Streams: accuracy against waiting, microseconds a segment, and memory over a day.

    python -m aicl_fast.bench stream --model model.safetensors --data data --window 40.96 --json stream.json

The test recordings are joined end to end, each cut at a random place as the suite ``long`` does, and pushed
segment by segment. Without a model and data they are the demo's. ``range`` is an exported file that takes a
few segments (``--segments 8:T:2T``): such a stream looks at every segment. The others take T alone: such a
stream looks 32 times in a window. All of it runs in one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aicl_fast.bench.harness.arguments import count_or_none, seconds
from aicl_fast.bench.harness.models import demo_subject
from aicl_fast.bench.harness.record import warn_if_busy
from aicl_fast.bench.harness.suite import parser, record, show
from aicl_fast.bench.suites.long import DAY, join
from aicl_fast.config import WindowsConfig
from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.features import Floats
from aicl_fast.detector import Detector
from aicl_fast.evaluate import mean_average_precision
from aicl_fast.export.onnx import export_onnx
from aicl_fast.metadata import Range
from aicl_fast.stream import Event, final_detections
from aicl_fast.weights import load_model

WAITS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds of look-ahead."""
_LEAST = 8
"""Segments that the exported file of a range takes."""
_FOUND = 0.5
"""tIoU from which an action counts as found, when its delay is measured."""
_WARM = 2000
"""Segments before memory is measured first."""


def opened(weights: Path, folder: Path, window: float | None) -> dict[str, Detector]:
    """The engines by name: each in one thread."""
    net, config = load_model(weights)
    length = config.data.segments
    export_onnx(net, config, folder / "range.onnx", segments=Range(_LEAST, length, 2 * length))
    export_onnx(net, config, folder / "fixed.onnx")
    windows = None if window is None else WindowsConfig(window=window)
    files = {
        "onnxruntime, range": folder / "range.onnx",
        "onnxruntime": folder / "fixed.onnx",
        "torch": weights,
    }
    return {name: Detector(path, threads=1, windows=windows) for name, path in files.items()}


def streamed(
    detector: Detector, features: Floats, wait: float, retract: bool
) -> tuple[list[Event], Floats, Floats]:
    """All events, and the microseconds of each push: (n,) on the clock, and (n,) of the processor's time."""
    clock, processor = np.empty(len(features), np.float32), np.empty(len(features), np.float32)
    events: list[Event] = []
    stream = detector.stream(wait=wait, retract=retract)
    for number, row in enumerate(features):
        started, used = time.perf_counter_ns(), time.thread_time_ns()
        events += stream.push(row)
        processor[number] = (time.thread_time_ns() - used) / 1e3
        clock[number] = (time.perf_counter_ns() - started) / 1e3
    return events + stream.finish(), clock, processor


def announced(events: Sequence[Event], truth: VideoAnnotation) -> dict[str, float]:
    """How late actions are announced: the mean over those found of (time announced - true end), in seconds.

    An action is announced by the best detection of its class that overlaps it by half, of those that stand in
    the end.
    """
    standing = {event.id: event for event in events if event.kind == "final"}
    finals = len(standing)
    for event in events:
        if event.kind == "withdrawn":
            standing.pop(event.id, None)
    late = []
    for label, (start, end) in zip(truth.labels, truth.segments.tolist(), strict=True):
        best = None
        for event in standing.values():
            if event.label == label and event.start < end and start < event.end:
                both = min(end, event.end) - max(start, event.start)
                either = max(end, event.end) - min(start, event.start)
                if both >= _FOUND * either and (best is None or event.score > best.score):
                    best = event
        if best is not None:
            late.append(best.time - end)
    return {
        "share_retracted": (finals - len(standing)) / max(1, finals),
        "delay_s": float(np.mean(late)) if late else 0.0,
        "found_share": len(late) / max(1, len(truth.labels)),
    }


def accuracy_row(
    name: str, detector: Detector, features: Floats, truth: VideoAnnotation, wait: float, retract: bool
) -> dict[str, Any]:
    """mAP, the share of final detections withdrawn, and how late actions are announced."""
    events, _, _ = streamed(detector, features, wait, retract)
    return {
        "engine": name,
        "retract": retract,
        "wait_s": wait,
        "average_mAP": _mean(detector, truth, final_detections(events)),
        **announced(events, truth),
        "events": len(events),
    }


def cost_row(name: str, detector: Detector, features: Floats, retract: bool) -> dict[str, Any]:
    """Microseconds a segment: percentiles on the clock and of the processor's time, decoding included."""
    streamed(detector, features[:500], 2.0, retract)
    _, clock, processor = streamed(detector, features, 2.0, retract)
    row: dict[str, Any] = {"engine": name, "retract": retract, "segments": len(features)}
    for kind, times in (("clock", clock), ("processor", processor)):
        row |= {f"{kind}_p{share}_us": float(np.percentile(times, share)) for share in (50, 99)}
        row[f"{kind}_mean_us"] = float(times.mean())
    return row


def memory_row(name: str, detector: Detector, features: Floats, segments: int) -> dict[str, Any]:
    """Resident memory early in a day and at its end, in MiB."""
    stream = detector.stream(wait=2.0, retract=True)
    early = _resident_mb()
    started = time.perf_counter()
    for number in range(segments):
        stream.push(features[number % len(features)])
        if number == _WARM:
            early = _resident_mb()
    return {
        "engine": name,
        "pushed": segments,
        "early_mb": early,
        "late_mb": _resident_mb(),
        "state_mb": sum(array.nbytes for array in stream.state().values()) / 2**20,
        "seconds": time.perf_counter() - started,
    }


def _mean(detector: Detector, truth: VideoAnnotation, found: Any) -> float:
    tious = detector.config.evaluate.tious
    return float(mean_average_precision(GroundTruth({"joined": truth}), {"joined": found}, tious).average)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Join, push, and record the rows."""
    made = parser(__doc__, model=None, data=None, folder=Path("runs/bench/stream"))
    made.add_argument("--window", type=seconds, help="of weights that say no length of recordings")
    made.add_argument("--seed", type=int, default=1, help="of the order and the cuts (1)")
    made.add_argument("--pushed", type=count_or_none, default=DAY, help=f"segments of the day ({DAY})")
    options = made.parse_args(arguments)
    warn_if_busy()
    torch.set_num_threads(1)
    weights, data = options.model, options.data
    if weights is None or data is None:
        demo = demo_subject(options.folder)
        assert demo.dataset is not None
        weights, data = demo.weights, demo.dataset.root
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        detectors = opened(weights, Path(folder), options.window)
        dataset = Dataset.open(data, next(iter(detectors.values())).config)
        rng = np.random.default_rng(options.seed)
        names = dataset.videos["test"]
        features, truth = join(dataset, [names[i] for i in rng.permutation(len(names))], rng)
        name, detector = next(iter(detectors.items()))
        more = {
            "window_s": options.window,
            "seed": options.seed,
            "segments": len(features),
            "offline_mAP": _mean(detector, truth, detector(features)),
        }
        for engine in list(detectors)[:2]:
            for retract in (False, True):
                for wait in WAITS:
                    rows.append(accuracy_row(engine, detectors[engine], features, truth, wait, retract))
                    print(rows[-1], flush=True)
        for engine, opened_file in detectors.items():
            for retract in (False, True):
                rows.append(cost_row(engine, opened_file, features, retract))
                print(rows[-1], flush=True)
        if options.pushed:
            rows.append(memory_row(name, detector, features, options.pushed))
            print(rows[-1], flush=True)
    for table in ("stream", "stream-cost"):
        show(table, rows, **more)
    record(options.json, "stream", rows, **more)
