"""Recordings far longer than those of training: mAP in windows and without, and what a day takes.

    python -m aicl_fast.bench long --seeds 3 --json bench/results/long-recordings.json

A model is trained, and the test recordings are joined end to end, each cut at a random place, so that neither
their number nor their joints are known. ``demo`` are the wrist-watch streams of 41 s; ``synthetic`` are
recordings of THUMOS14's lengths, joined to hours. ``gates`` are other class scores than those of the moment,
on the demo's streams joined by twenties. Nothing is chosen on any of them.
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aicl_fast.bench.harness.arguments import count
from aicl_fast.bench.harness.suite import parser, record, show
from aicl_fast.config import Config, WindowsConfig, load_config
from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.detections import Detections
from aicl_fast.data.features import Floats
from aicl_fast.data.sampling import sample
from aicl_fast.decode.decoder import Decoder
from aicl_fast.detector import Detector
from aicl_fast.evaluate import mean_average_precision
from aicl_fast.export.export import export_model
from aicl_fast.train.synthetic import SETTINGS, SyntheticConfig, write_synthetic
from aicl_fast.train.trainer import train
from aicl_fast.train.watch import prepare_watch
from aicl_fast.windows import Blend, Windows, class_scores

JOINED = (1, 5, 20, 80)
"""Of the demo's test streams, how many make one recording."""
WINDOW: tuple[Literal["auto", "off"], ...] = ("auto", "off")
_GATED = 20
HOUR = 3600.0
DAY = 135_000
"""Segments of 0.64 s."""
SYNTHETIC = SyntheticConfig(width=128, train_videos=120, test_videos=80)
_TRAINING = (
    "segments=512", "embedding_width=128", "steps=700", "ramp_steps=all", "standardize_input=true", "lr=5e-4",
)  # fmt: skip
_SHORTEST_SHARE = 0.3
"""An action that a cut leaves less of is not annotated."""

Joined = Mapping[str, tuple[Floats, VideoAnnotation]]


def join(
    dataset: Dataset, names: Sequence[str], rng: np.random.Generator | None
) -> tuple[Floats, VideoAnnotation]:
    """Test recordings end to end, with their annotations.

    Args:
        rng: cuts up to half of each recording's beginning off; None leaves them whole.
    """
    data = dataset.config.data
    second = data.fps / data.frames_per_segment
    parts, labels, times = [], [], []
    length = 0
    for name in names:
        features, truth = dataset.features("test", name), dataset.ground_truth.videos[name]
        cut = 0 if rng is None else int(rng.integers(0, len(features) // 2))
        features = features[cut:]
        for label, (start, end) in zip(truth.labels, truth.segments, strict=True):
            kept = end - max(start, cut / second)
            if kept > _SHORTEST_SHARE * (end - start):
                labels.append(label)
                times.append([length / second + end - cut / second - kept, (length - cut) / second + end])
        parts.append(features)
        length += len(features)
    return np.concatenate(parts), VideoAnnotation("test", tuple(labels), np.array(times).reshape(-1, 2))


def measured(model: Path, window: Literal["auto", "off"], joined: Joined) -> dict[str, Any]:
    """Length and mAP of these recordings, in windows or not."""
    detector = Detector(model, windows=WindowsConfig(window=window))
    tious = detector.config.evaluate.tious
    found = {name: detector(features, video=name) for name, (features, _) in joined.items()}
    truth = GroundTruth({name: annotation for name, (_, annotation) in joined.items()})
    data = detector.config.data
    segments = float(np.mean([len(features) for features, _ in joined.values()]))
    return {
        "minutes": round(segments * data.frames_per_segment / data.fps / 60, 1),
        "recordings": len(joined),
        "average_mAP": mean_average_precision(truth, found, tious).average,
    }


def by_number(dataset: Dataset, number: int, seed: int) -> Joined:
    """The test recordings joined by so many; one alone is not cut."""
    rng = np.random.default_rng(seed)
    names = [dataset.videos["test"][i] for i in rng.permutation(len(dataset.videos["test"]))]
    groups = [names[first : first + number] for first in range(0, len(names), number)]
    return {
        f"{number} {i}": join(dataset, group, rng if number > 1 else None) for i, group in enumerate(groups)
    }


def by_hours(dataset: Dataset, seed: int) -> Joined:
    """The test recordings joined whole until an hour is full."""
    data = dataset.config.data
    rng = np.random.default_rng(seed)
    groups: list[list[str]] = [[]]
    seconds = 0.0
    for i in rng.permutation(len(dataset.videos["test"])):
        name = dataset.videos["test"][i]
        groups[-1].append(name)
        seconds += len(dataset.features("test", name)) * data.frames_per_segment / data.fps
        if seconds >= HOUR:
            groups.append([])
            seconds = 0.0
    return {f"hour {i}": join(dataset, group, None) for i, group in enumerate(groups) if group}


def _demo(folder: Path, seed: int) -> tuple[Dataset, Path]:
    """The demo's data, and its model of one seed, which is trained if it is not there."""
    prepare_watch(folder / "watch")
    config = load_config("demo", overrides=[f"train.seed={seed}"])
    dataset = Dataset.open(folder / "watch", config)
    weights = folder / f"demo-{seed}" / "model.safetensors"
    if not weights.exists():
        train(dataset, weights.parent)
    return dataset, export_model(weights)


def demo_rows(folder: Path, seed: int) -> list[dict[str, Any]]:
    """The demo of one seed, and a day of it."""
    dataset, model = _demo(folder, seed)
    config = dataset.config
    rows = []
    for number in JOINED:
        joined = by_number(dataset, number, seed)
        for window in WINDOW if number > 1 else WINDOW[:1]:
            row = measured(model, window, joined)
            rows.append({"subject": "demo", "seed": seed, "joined": number, "window": window, **row})
    day = np.resize(join(dataset, dataset.videos["test"], None)[0], (DAY, config.data.input_width))
    detector = Detector(model)
    detector(day[:1000])
    before, started = _peak_mb(), time.perf_counter()
    found = detector(day)
    seconds = time.perf_counter() - started
    rows.append({
        "subject": "demo", "seed": seed, "joined": "a day", "window": "auto", "segments": DAY,
        "seconds": round(seconds, 2), "more_mb": round(_peak_mb() - before), "detections": len(found),
    })  # fmt: skip
    return rows


def synthetic_rows(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Synthetic recordings of THUMOS14's lengths, alone and joined to hours."""
    data = folder / "synthetic"
    if not data.is_dir():
        write_synthetic(data, SYNTHETIC)
    config = load_config(file=data / SETTINGS, overrides=[*_TRAINING, f"train.seed={seed}"])
    dataset = Dataset.open(data, config)
    weights = folder / f"synthetic-{seed}"
    train(dataset, weights, overwrite=True)
    model = export_model(weights / "model.safetensors")
    rows = []
    for joined, recordings in (("alone", by_number(dataset, 1, seed)), ("hours", by_hours(dataset, seed))):
        for window in WINDOW if joined == "hours" else WINDOW[:1]:
            row = measured(model, window, recordings)
            rows.append({"subject": "synthetic", "seed": seed, "joined": joined, "window": window, **row})
    return rows


def gate_rows(folder: Path, seed: int) -> list[dict[str, Any]]:
    """The demo's streams joined by twenties, with other class scores than those of the moment.

    The fused score is multiplied by the square root of each. ``windows``: the network's video scores of the
    windows around the moment; ``windows so far``: their greatest since the recording began; ``true classes``:
    1 for the classes of the annotations within half a window; ``none``: 1 for all.
    """
    dataset, model = _demo(folder, seed)
    detector = Detector(model)
    config, settings = detector.config, detector.decode_config
    decoder = Decoder(settings, detector.classes)
    joined = by_number(dataset, _GATED, seed)
    truth = GroundTruth({name: annotation for name, (_, annotation) in joined.items()})
    found: dict[str, dict[str, Detections]] = {}
    for name, (features, annotation) in joined.items():
        windows = Windows.of(config, detector.windows_config, config.data.fps, detector.segments)
        assert windows is not None
        fused = replace(settings, class_power=0.0)
        curves = Blend(len(features), windows, config.model.num_classes, config.model.fusion_gamma)
        of_windows = np.zeros((len(features), config.model.num_classes), np.float32)
        weight = np.zeros((len(features), 1), np.float32)
        for start in windows.starts(len(features)):
            place = slice(start, start + windows.length)
            outputs = detector.engine(sample([(features[place],)], detector.segments))
            curves.add([start], outputs)
            of_windows[place] += windows.weights[:, None] * outputs.video_scores
            weight[place] += windows.weights[:, None]
        of_windows /= weight
        raw = curves.outputs(fused)
        gamma = config.model.fusion_gamma
        gates = {
            "moment": class_scores(raw.scores, raw.actionness_agnostic, None, gamma, settings),
            "windows": of_windows,
            "windows so far": np.maximum.accumulate(of_windows),
            "true classes": _true_classes(annotation, len(features), windows.length, config),
            "none": np.ones_like(of_windows),
        }
        for gate, scores in gates.items():
            found.setdefault(gate, {})[name] = decoder.decode(
                raw.scores * np.sqrt(scores), scores.max(0), len(features), config.data.fps,
                config.data.frames_per_segment,
            )  # fmt: skip
    return [
        {
            "subject": "gates", "seed": seed, "joined": _GATED, "gate": gate,
            "average_mAP": mean_average_precision(truth, by_name, config.evaluate.tious).average,
        }
        for gate, by_name in found.items()
    ]  # fmt: skip


def _true_classes(annotation: VideoAnnotation, length: int, window: int, config: Config) -> Floats:
    """(n, C) 1 where an action of the class lies within half a window."""
    second = config.data.fps / config.data.frames_per_segment
    near = np.zeros((length, config.model.num_classes), np.float32)
    for label, (start, end) in zip(annotation.labels, annotation.segments, strict=True):
        low, high = int(start * second) - window // 2, int(end * second) + window // 2 + 1
        near[max(0, low) : high, config.classes.index(label)] = 1
    return near


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


_SUBJECTS = {"demo": demo_rows, "synthetic": synthetic_rows, "gates": gate_rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, join, detect, and record the rows."""
    made = parser(__doc__, folder=Path("runs/bench/long"))
    made.add_argument("--seeds", type=count, default=3)
    made.add_argument("--subjects", default=",".join(_SUBJECTS), help="of these, comma-separated")
    options = made.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "off" is warned of, and it is what is compared
        for subject in options.subjects.split(","):
            for seed in range(1, options.seeds + 1):
                new = _SUBJECTS[subject](options.folder, seed)
                rows += new
                print(*new, sep="\n", flush=True)
    for table in ("long", "long-gates"):
        show(table, rows)
    record(options.json, "long", rows)
