"""Tuning on a few annotated recordings: mAP on the test recordings before and after.

    python -m aicl_fast.bench tune --seeds 3 --draws 3 --json bench/results/tune-demo.json
    python -m aicl_fast.bench tune --data FOLDER --set fps=1 --json bench/results/tune-data.json

For each seed a model is trained with the settings that `aicl-fast train` chooses by itself. For each draw the
times of a share of the training recordings tune it. Nothing of the test recordings is used before they are
measured. The models of all seeds are merged into an ensemble, which is tuned likewise. Without ``--data`` the
data set is the demo's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.bench.harness.arguments import count
from aicl_fast.bench.harness.suite import data_of, parser, record, show
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.own_settings import chosen_config
from aicl_fast.evaluate import mean_average_precision
from aicl_fast.train.ensemble import merge_networks
from aicl_fast.train.trainer import train
from aicl_fast.tune import timed_videos, tune, weights_curves
from aicl_fast.tune.search import TRIALS, Recordings
from aicl_fast.weights import load_model, save_model

DEMO = ("fps=50",)
TIOUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SHARE = 0.2


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, tune, and record the mAP on the test recordings."""
    made = parser(__doc__, data=None, folder=Path("runs/bench/tune"))
    made.add_argument("--seeds", type=count, default=3)
    made.add_argument("--draws", type=count, default=3)
    made.add_argument("--trials", type=count, default=TRIALS)
    made.add_argument("--share", type=float, default=SHARE, help=f"of the training recordings ({SHARE})")
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    options = made.parse_args(arguments)
    folder, settings = data_of(options, DEMO)
    rows: list[dict[str, Any]] = []
    members, names = [], []
    for seed in range(1, options.seeds + 1):
        config, _ = chosen_config(folder, None, None, [*settings, f"train.seed={seed}"])
        config = replace(config, evaluate=replace(config.evaluate, tious=TIOUS))
        dataset = Dataset.open(folder, config)
        out = options.folder / f"{folder.name}-{seed}"
        train(dataset, out, overwrite=True)
        weights = out / "model.safetensors"
        members.append(load_model(weights))
        names.append(str(weights))
        rows += _tuned_rows(dataset, weights, "one model", seed, options)
    if len(members) > 1:
        merged = options.folder / f"{folder.name}-merged.safetensors"
        save_model(merged, *merge_networks(members, names))
        rows += _tuned_rows(dataset, merged, f"ensemble of {len(members)}", 0, options)
    show("tune", rows)
    record(options.json, "tune", rows, data=folder.name, share=options.share, trials=options.trials,
           settings=settings)  # fmt: skip


def _tuned_rows(dataset: Dataset, weights: Path, name: str, seed: int, options: Any) -> list[dict[str, Any]]:
    truth = dataset.truth("train")
    timed = timed_videos(truth)
    _, config = load_model(weights)
    train_curves = weights_curves(weights, dataset, "train", timed)
    test_curves = weights_curves(weights, dataset, "test", dataset.videos["test"])
    test = Recordings(test_curves, dataset.truth("test"), config)
    untuned = mean_average_precision(test.truth, test.detections(config), TIOUS)
    rows = [
        {"name": name, "seed": seed, "draw": 0, "mAP": untuned.mAP.tolist(), "average_mAP": untuned.average}
    ]
    for draw in range(1, options.draws + 1):
        drawn = np.random.default_rng(draw).permutation(len(timed))[: round(options.share * len(timed))]
        curves = {timed[i]: train_curves[timed[i]] for i in drawn.tolist()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tuned = tune(curves, truth, config, trials=options.trials, seed=draw)
        measured = mean_average_precision(test.truth, test.detections(tuned.config), TIOUS)
        rows.append({
            "name": name, "seed": seed, "draw": draw, "videos": tuned.videos, "instances": tuned.instances,
            "mAP": measured.mAP.tolist(), "average_mAP": measured.average,
            "before": float(np.mean(tuned.before)), "held_out": float(np.mean(tuned.held_out)),
            "searched": tuned.searched,
            "chosen": {choice.name: choice.after for choice in tuned.choices},
        })  # fmt: skip
    print(*rows, sep="\n", flush=True)
    return rows
