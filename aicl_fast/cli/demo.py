"""demo: the whole product once, from recordings to a picture of what was found in them."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from aicl_fast.cli.console import map_table, progress, remark, show
from aicl_fast.cli.detect import BATCH
from aicl_fast.cli.options import Settings
from aicl_fast.cli.train import leak_note
from aicl_fast.files import write_json
from aicl_fast.locks import locked_folder

if TYPE_CHECKING:
    from aicl_fast.config import Config
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.data.detections import Detections
    from aicl_fast.data.scores import Scores
    from aicl_fast.detector import Detector
    from aicl_fast.evaluate import MapResult

ALL = "all five losses"
L_A = "L_a alone"
L_A_CLASS = "L_a alone, fusion_gamma 1"
_OFF = {
    f"loss.{name}": 0.0
    for name in ("weight_agnostic", "weight_contrast", "weight_modality", "weight_consistency")
}
VARIANTS: dict[str, dict[str, float]] = {
    ALL: {},
    # The class-agnostic branch is then never trained, yet is two thirds of the fused score …
    L_A: _OFF,
    # … so its own scores are shown too, the better baseline.
    L_A_CLASS: {**_OFF, "model.fusion_gamma": 1.0},
}


def run(
    out: Annotated[Path, Option("--out", "-o", help="Folder for everything the demo writes.")] = Path(
        "runs/demo"
    ),
    seeds: Annotated[int, Option(min=1, help="Train this many seeds and show their mean.")] = 1,
    ablate: Annotated[bool, Option("--ablate", help="Train L_a alone as well, for comparison.")] = False,
    set_: Settings = None,
) -> None:
    """Train, export, localise, evaluate and draw on real wrist-watch recordings.

    Examples:

      aicl-fast demo

      aicl-fast demo --seeds 3 --ablate
    """
    from aicl_fast.config import load_config

    config = load_config("demo", overrides=set_ or [])
    with locked_folder(out):
        _run(out, config, seeds=seeds, ablate=ablate)


def _run(folder: Path, config: Config, *, seeds: int, ablate: bool) -> None:
    from aicl_fast.evaluate import mean_average_precision
    from aicl_fast.report import write_report, write_run

    started = time.perf_counter()
    dataset = _prepare(folder / "data", config)
    detector, history = _train_and_export(folder, dataset)
    scores, detections = _detect(detector, dataset)
    write_run(folder, dataset.truth("test"), scores, detections)
    result = mean_average_precision(dataset.truth("test"), detections, config.evaluate.tious)

    first = config.train.seed
    runs: dict[str, list[MapResult]] = {ALL: [result]}
    for seed in range(first, first + seeds):
        for name in VARIANTS if ablate else (ALL,):
            if name != ALL or seed != first:
                runs.setdefault(name, []).append(_train_variant(dataset, name, seed))
    write_json(folder / "metrics.json", _metrics(dataset, runs, history, time.perf_counter() - started))

    picture = folder / "timeline.png"
    _draw(picture, dataset, scores, detections)
    page = write_report(folder, title="aicl_fast demo")
    rows = [(name, *_cells(results)) for name, results in runs.items()]
    spread = "" if seeds == 1 else f", mean of {seeds} seeds ± their standard deviation"
    leak = leak_note(config, history)
    title = f"{len(detections)} test streams, localised with {detector.path.name}{spread}{leak}"
    show(map_table(title, config.evaluate.tious, rows))
    show(f"page:    {page}\npicture: {picture}")


def _prepare(folder: Path, config: Config) -> Dataset:
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.train.watch import prepare_watch

    with progress("preparing") as bar:
        prepare_watch(folder, progress=bar)
        dataset = Dataset.open(folder, config)
        every = sum(len(videos) for videos in dataset.videos.values())
        bar(every, every)
    return dataset


def _train_and_export(folder: Path, dataset: Dataset) -> tuple[Detector, list[tuple[int, float]]]:
    from aicl_fast.detector import Detector
    from aicl_fast.export.export import export_model
    from aicl_fast.train.trainer import train

    with progress("training") as bar:
        trained = train(
            dataset,
            folder,
            overwrite=True,
            training=lambda step, steps, loss: bar(step, steps, f"loss {loss:.3f}"),
        )
    exported = export_model(folder / "model.safetensors")
    return Detector(exported), trained.history


def _detect(detector: Detector, dataset: Dataset) -> tuple[dict[str, Scores], dict[str, Detections]]:
    names = dataset.videos["test"]
    scores: dict[str, Scores] = {}
    detections: dict[str, Detections] = {}
    with progress("detecting") as bar:
        for start in range(0, len(names), BATCH):
            chunk = names[start : start + BATCH]
            for curves in detector.batch_scores([dataset.features("test", n) for n in chunk], videos=chunk):
                scores[curves.name] = curves
                detections[curves.name] = detector.decode(curves)
            bar(len(scores), len(names))
    return scores, detections


def _train_variant(dataset: Dataset, name: str, seed: int) -> MapResult:
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.train.trainer import train

    config = dataset.config.with_values({**VARIANTS[name], "train.seed": seed})
    variant = Dataset(dataset.root, dataset.ground_truth, dataset.videos, config)
    with progress("training") as bar:
        return train(
            variant,
            training=lambda step, steps, loss: bar(step, steps, f"{name}, seed {seed}, loss {loss:.3f}"),
        ).localization


def _cells(results: list[MapResult]) -> tuple[list[str], str]:
    import numpy as np

    table = 100 * np.array([[*result.mAP, result.average] for result in results])
    texts = [f"{value:.1f}" for value in table.mean(0)]
    if len(results) > 1:
        texts[-1] += f" ± {table[:, -1].std(ddof=1):.1f}"
    return texts[:-1], texts[-1]


def _metrics(
    dataset: Dataset, runs: dict[str, list[MapResult]], history: list[tuple[int, float]], seconds: float
) -> dict[str, Any]:
    import numpy as np

    versions = {
        name: importlib.metadata.version(name) for name in ("aicl-fast", "torch", "onnxruntime", "numpy")
    }
    first = dataset.config.train.seed
    return {
        "data": "seglearn wrist-watch recordings, composed; test streams",
        "preset": dataset.config.preset,
        "tious": list(dataset.config.evaluate.tious),
        "runs": [
            {"name": name, "seed": first + number, "mAP": result.mAP.tolist(), "average_mAP": result.average}
            for name, results in runs.items()
            for number, result in enumerate(results)
        ],
        "average_mAP": {name: float(np.mean([r.average for r in results])) for name, results in runs.items()},
        "history": [{"step": step, "average_mAP": average} for step, average in history],
        "seconds": round(seconds, 1),
        "config": dataset.config.to_dict(),
        "versions": {**versions, "python": platform.python_version()},
    }


def _draw(path: Path, dataset: Dataset, scores: dict[str, Scores], detections: dict[str, Detections]) -> None:
    """The first test stream that holds two kinds of action: the hardest kind there is here."""
    from aicl_fast.plot import plot_timeline

    truth = dataset.ground_truth.videos
    video = next((name for name in scores if len(set(truth[name].labels)) > 1), next(iter(scores)))
    plot_timeline(scores[video], detections[video], truth[video], path)
    remark(f"drew {video}")
