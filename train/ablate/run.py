"""Train every arm of an experiment over several seeds, run by run, and sum up."""

from __future__ import annotations

import csv
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.files import read_json, write_json
from aicl_fast.limits import reading
from aicl_fast.locks import locked_folder
from aicl_fast.train.ablate.experiments import Arm, Experiment
from aicl_fast.train.finished import data_id_of, require_same, slug
from aicl_fast.train.trainer import train

RunProgress = Callable[[int, int, str, int, int, float], None]
"""Called with (run, runs, "arm, seed", step, steps, loss)."""


@dataclass(frozen=True)
class Run:
    """One finished training.

    Attributes:
        arm: the arm's name.
        seed: of weights, order and samples.
        measured: ``average_mAP``, ``mAP_<tIoU>``, ``accuracy_A_bin``, ``accuracy_A_ca_bin`` and
            ``consistent`` of the last step's weights on the test videos, as fractions.
        curve: (step, value) of what the experiment draws over training.
    """

    arm: str
    seed: int
    measured: dict[str, float]
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Ablation:
    """All runs of an experiment.

    Attributes:
        experiment, arms, runs: what was compared, and its results.
        config: the settings that the arms change.
        data: what the data is, for titles: synthetic data says so.
        synthetic: whether it is generated.
        missing: videos that were skipped because they have no features.
    """

    experiment: Experiment
    arms: tuple[Arm, ...]
    runs: tuple[Run, ...]
    config: Config
    data: str
    synthetic: bool
    missing: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The experiment's; and that the data set is incomplete, where it is."""
        return self.experiment.title + (", on an incomplete data set" if self.missing else "")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every arm was trained with."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def with_paper(self) -> bool:
        """Whether the paper's numbers are of the same setting, and so belong beside these."""
        return self.config.preset == "thumos14" and not self.synthetic

    def of(self, arm: Arm) -> tuple[Run, ...]:
        """The arm's runs, by seed."""
        return tuple(sorted((run for run in self.runs if run.arm == arm.name), key=lambda run: run.seed))

    def mean(self, arm: Arm, measure: str) -> float:
        """Mean over the seeds."""
        return float(np.mean([run.measured[measure] for run in self.of(arm)]))

    def spread(self, arm: Arm, measure: str) -> float:
        """Sample standard deviation over the seeds; 0 of a single one."""
        values = [run.measured[measure] for run in self.of(arm)]
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. The paper's numbers are in it where they belong beside."""
        measures = sorted({name for run in self.runs for name in run.measured})
        return {
            "experiment": self.experiment.name,
            "data": self.data,
            "synthetic": self.synthetic,
            "missing": list(self.missing),
            "preset": self.config.preset,
            "steps": self.config.train.steps,
            "seeds": list(self.seeds),
            "arms": [
                {
                    "name": arm.name,
                    "changes": dict(arm.changes),
                    "network": "method" if arm.make_net is None else arm.make_net.__name__,
                    "mean": {name: self.mean(arm, name) for name in measures},
                    "spread": {name: self.spread(arm, name) for name in measures},
                    **({"paper": dict(arm.paper)} if self.with_paper and arm.paper else {}),
                    "runs": [
                        {"seed": run.seed, **run.measured, "curve": [list(point) for point in run.curve]}
                        for run in self.of(arm)
                    ],
                }
                for arm in self.arms
            ],
            "config": self.config.to_dict(),
        }


def run_ablation(
    dataset: Dataset,
    experiment: Experiment,
    out: str | os.PathLike[str],
    *,
    seeds: int = 3,
    device: str = "cpu",
    progress: RunProgress | None = None,
) -> Ablation:
    """Train each arm with each seed, keep every finished run, and write ``out/ablation.json``.

    A run that ``out/runs`` already holds with the same settings and data is not trained again; one that was
    cut off resumes from its last checkpoint, unless its network is a variant.

    Args:
        dataset: opened with both splits; its config is what the arms change.
        experiment: of :data:`aicl_fast.train.ablate.EXPERIMENTS`.
        out: folder for the runs.
        seeds: how many, from the config's ``train.seed`` upwards.
        device: ``cpu`` or ``cuda``.
        progress: see :data:`RunProgress`.
    Raises:
        DataError: ``out`` holds runs of other settings or of another data set; one is named. Or another
            process writes to it.
    """
    with locked_folder(out):
        return _run(dataset, experiment, Path(out), seeds, device, progress)


def _run(
    dataset: Dataset,
    experiment: Experiment,
    folder: Path,
    seeds: int,
    device: str,
    progress: RunProgress | None,
) -> Ablation:
    config = dataset.config
    if experiment.evaluations and not config.train.eval_every:
        every = max(1, config.train.steps // experiment.evaluations)
        config = config.with_values({"train.eval_every": every})
    arms = experiment.arms(config)
    first = config.train.seed
    # Seed after seed, so that a table of fewer seeds is complete early.
    plan = [(arm, seed) for seed in range(first, first + seeds) for arm in arms]
    settings = [
        config.with_values({**arm.changes, "train.seed": seed, "train.keep": "last", "train.patience": 0})
        for arm, seed in plan
    ]
    files = [folder / "runs" / f"{slug(arm.name)}-seed{seed}.json" for arm, seed in plan]
    data_id = data_id_of(dataset)
    stored = [_stored(file, wanted, data_id) for file, wanted in zip(files, settings, strict=True)]

    runs: list[Run] = []
    for number, (arm, seed) in enumerate(plan):
        found = stored[number]
        if found is None:

            def training(step: int, steps: int, loss: float, number: int = number) -> None:
                if progress is not None:
                    name, seed = plan[number][0].name, plan[number][1]
                    progress(number + 1, len(plan), f"{name}, seed {seed}", step, steps, loss)

            variant = replace(dataset, config=settings[number])
            if arm.annotate is not None:
                variant = arm.annotate(variant, seed)
            found = _train(variant, arm, seed, experiment, files[number], device, training, data_id)
        runs.append(found)

    info = _info(dataset)
    result = Ablation(experiment, arms, tuple(runs), config, *info, missing=dataset.missing)
    write_json(folder / "ablation.json", result.to_dict())
    return result


def _train(
    dataset: Dataset,
    arm: Arm,
    seed: int,
    experiment: Experiment,
    file: Path,
    device: str,
    training: Callable[[int, int, float], None],
    data_id: str,
) -> Run:
    started = time.perf_counter()
    if arm.make_net is None:
        # The run's folder gives it checkpoints to resume from, and the curves.
        home = file.with_suffix("")
        result = train(dataset, home, device=device, resume=True, training=training)
        curve = _read_curve(home / "log.csv", experiment.curve) if experiment.curve else ()
    else:
        result = train(dataset, device=device, training=training, make_net=arm.make_net)
        curve = tuple(result.history) if experiment.curve == "average_mAP" else ()
    measured = {
        "average_mAP": result.localization.average,
        **{
            f"mAP_{tiou:g}": float(value)
            for tiou, value in zip(result.localization.tious, result.localization.mAP, strict=True)
        },
        "accuracy_A_bin": result.accuracy.aware,
        "accuracy_A_ca_bin": result.accuracy.agnostic,
        "consistent": result.accuracy.consistent,
    }
    document = {
        "arm": arm.name,
        "seed": seed,
        "measured": measured,
        "curve": [list(point) for point in curve],
        "seconds": round(time.perf_counter() - started, 1),
        "data": data_id,
        "config": dataset.config.to_dict(),
    }
    write_json(file, document)
    # Only now: until the record is whole, a run that is cut off still resumes from its last checkpoint.
    if arm.make_net is None:
        shutil.rmtree(home / "checkpoints", ignore_errors=True)
    return Run(arm.name, seed, measured, curve)


def _stored(file: Path, wanted: Config, data_id: str) -> Run | None:
    """The finished run in this file, if there is one and it answers the same question."""
    if not file.is_file():
        return None
    document = read_json(file, "record of a run")
    with reading(file, "record of a run", advice="Remove it: the run is then done again."):
        require_same(file, document, wanted, data_id)
        curve = tuple((int(step), float(value)) for step, value in document["curve"])
        measured = {str(name): float(value) for name, value in document["measured"].items()}
        return Run(str(document["arm"]), int(document["seed"]), measured, curve)


def _info(dataset: Dataset) -> tuple[str, bool]:
    """(what the data is, whether it is synthetic)."""
    counts = " and ".join(f"{len(names)} {split}" for split, names in dataset.videos.items())
    document = read_json(dataset.root / "gt.json", "annotation file")
    synthetic = bool(document.get("synthetic", False))
    kind = "synthetic data" if synthetic else f"{dataset.config.preset} data"
    if (dataset.root / "prepared.json").is_file() and not synthetic:
        kind = "demo data (wrist-watch recordings)"
    missing = len(dataset.missing)
    left_out = f", {missing} more skipped: no features" if missing else ""
    return f"{kind}, {counts} videos{left_out}", synthetic


def _read_curve(path: Path, column: str) -> tuple[tuple[int, float], ...]:
    with reading(path, "log of a run"), path.open(newline="", encoding="utf-8") as file:
        return tuple((int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row[column])


def mean_curve(runs: Sequence[Run]) -> tuple[list[int], list[float], list[float], list[float]]:
    """(steps, mean, lowest, highest) of the runs' curves, at the steps that all of them have."""
    if not runs or not all(run.curve for run in runs):
        return [], [], [], []
    tables = [dict(run.curve) for run in runs]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    values = np.array([[table[step] for step in steps] for table in tables])
    return steps, values.mean(0).tolist(), values.min(0).tolist(), values.max(0).tolist()
