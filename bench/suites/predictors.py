"""What tells good trainings from bad ones without test recordings: of a contest that `aicl-fast auto` made.

    python -m aicl_fast.bench auto --json auto.json
    python -m aicl_fast.bench predictors --data runs/bench/auto/watch --run runs/bench/auto/watch-labels

Every training of the contest that left recordings out is measured on these and on the test recordings. Each
row is a measure on the recordings left out: how its order of the trainings agrees with that of their mAP on
the test recordings (Spearman's rank correlation), and what choosing the best by it loses there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.bench.harness.suite import parser, record, show
from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import DataError
from aicl_fast.files import read_json
from aicl_fast.train.auto.jobs import RECORD, WEIGHTS
from aicl_fast.train.auto.judge import HeldOut, by_agreement, curves_of
from aicl_fast.train.sampling import Videos
from aicl_fast.train.trainer import evaluate
from aicl_fast.tune import Curves
from aicl_fast.weights import load_model

TIOUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every training, and record how well each measure predicts."""
    made = parser(__doc__, data=Path("runs/bench/auto/watch"))
    made.add_argument("--run", type=Path, required=True, help="the --out of `aicl-fast auto`")
    options = made.parse_args(arguments)
    held = HeldOut(tuple(read_json(options.run / "auto.json", "contest")["held_out"]), False)
    folders = sorted(
        folder
        for folder in (options.run / "trainings").iterdir()
        if (folder / RECORD).is_file() and not folder.name.endswith("all-recordings")
    )
    if len(folders) < 3:
        raise DataError(f"{options.run}: holds {len(folders)} trainings; expected at least 3.")
    measures: dict[str, dict[str, float]] = {}
    curves: dict[str, Mapping[str, Curves]] = {}
    configs: dict[str, Config] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for folder in folders:
            net, config = load_model(folder / WEIGHTS)
            config = replace(config, evaluate=replace(config.evaluate, tious=TIOUS))
            dataset = Dataset.open(options.data, config)
            configs[folder.name] = config
            curves[folder.name] = curves_of(folder / WEIGHTS, dataset, held)
            left_out = evaluate(net, Videos(dataset, "train", held.videos), dataset)
            test = evaluate(net, Videos(dataset, "test"), dataset)
            assert left_out.localization is not None
            assert left_out.accuracy is not None
            assert test.localization is not None
            measures[folder.name] = {
                "test": test.localization.average,
                "mAP, by the times": left_out.localization.average,
                "mAP of the video scores": left_out.classification.mAP,
                "accuracy of the video scores": left_out.classification.accuracy,
                "segments on which the branches agree": left_out.accuracy.consistent,
            }
            print(folder.name, measures[folder.name], flush=True)
    for name, judgement in by_agreement(curves, configs, dataset.ground_truth).items():
        measures[name]["agreement of the trainings"] = judgement.value
    rows = predictions(list(measures.values()))
    more = {"data": options.data.name, "trainings": measures, "held_out": len(held.videos)}
    show("predictors", rows, **more)
    record(options.json, "predictors", rows, **more)


def predictions(measures: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row for each measure but ``test``, the best predictor first."""
    test = np.array([each["test"] for each in measures])
    rows = []
    for name in measures[0]:
        if name != "test":
            values = np.array([each[name] for each in measures])
            rows.append({
                "name": name,
                "rank_correlation": _correlation(_ranks(values), _ranks(test)),
                "lost": float(test.max() - test[values.argmax()]),
            })  # fmt: skip
    return sorted(rows, key=lambda row: -row["rank_correlation"])


def _correlation(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """0 of a measure that is the same for all: it tells nothing."""
    if not (np.ptp(first) and np.ptp(second)):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Places in rising order; equal values share theirs."""
    return np.array([(values < each).sum() + ((values == each).sum() - 1) / 2 for each in values])
