"""How good the model is that `aicl-fast auto` finds: mAP on test recordings, beside every single choice.

    python -m aicl_fast.bench auto --json bench/results/auto-demo.json
    python -m aicl_fast.bench auto --data FOLDER --set fps=1 --json bench/results/auto-data.json

The contest runs twice: with the times of the training recordings that it holds out, and with labels alone.
Each candidate is then trained on all training recordings by itself, with its decoding as configured, and as
chosen on the times of the recordings that were held out. Test recordings choose nothing. Without ``--data``
the data set is the demo's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aicl_fast.bench.harness.arguments import count
from aicl_fast.bench.harness.suite import data_of, parser, record, show
from aicl_fast.config import Config
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.own_settings import chosen_config
from aicl_fast.model import TwoBranchNet
from aicl_fast.train.auto import Contest, find_model
from aicl_fast.train.auto.candidates import candidates
from aicl_fast.train.auto.jobs import WEIGHTS
from aicl_fast.train.auto.judge import HeldOut, by_times, curves_of
from aicl_fast.train.sampling import Videos
from aicl_fast.train.trainer import evaluate, train
from aicl_fast.tune.search import TRIALS
from aicl_fast.weights import load_model

DEMO = ("fps=50",)
TIOUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both contests, train every candidate, and record the mAP on the test recordings."""
    made = parser(__doc__, data=None, folder=Path("runs/bench/auto"))
    made.add_argument("--processes", type=count, default=1, help="of a contest (1)")
    made.add_argument("--single-seeds", type=count, default=1, help="of each candidate by itself (1)")
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    options = made.parse_args(arguments)
    folder, settings = data_of(options, DEMO)
    config, _ = chosen_config(folder, None, None, settings)
    config = replace(config, evaluate=replace(config.evaluate, tious=TIOUS))
    dataset = Dataset.open(folder, config)
    config = dataset.config
    rows: list[dict[str, Any]] = []
    held = HeldOut((), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, known in (("times", dataset), ("labels", _labels_only(dataset))):
            out = options.folder / f"{folder.name}-{name}"
            found = find_model(known, out, processes=options.processes)
            rows.append({"name": f"auto, by {name}", **_found(found, dataset)})
            print(rows[-1], flush=True)
            held = found.held if known is dataset else held
        for candidate in candidates(config, dataset.truth("train")):
            for seed in range(1, options.single_seeds + 1):
                changed = config.with_values({**candidate.changes, "train.seed": seed})
                weights = options.folder / f"{folder.name}-single" / WEIGHTS
                train(replace(dataset, config=changed), weights.parent, overwrite=True)
                rows.append({**_single(candidate.name, weights, dataset, held), "seed": seed})
                print(rows[-1], flush=True)
    show("auto", rows)
    record(options.json, "auto", rows, data=folder.name, settings=settings)


def _labels_only(dataset: Dataset) -> Dataset:
    """The same without the times of its training recordings."""
    videos = dict(dataset.ground_truth.videos)
    for name in dataset.videos["train"]:
        videos[name] = videos[name].without_times()
    return replace(dataset, ground_truth=GroundTruth(videos, dataset.ground_truth.source))


def _found(found: Contest, dataset: Dataset) -> dict[str, Any]:
    """The model of a contest, and the contest."""
    net, config = load_model(found.weights)
    document = found.to_dict()
    kept = ("entries", "best", "members", "seconds")
    return {"average_mAP": _average(net, config, dataset), **{name: document[name] for name in kept}}


def _single(name: str, weights: Path, dataset: Dataset, held: HeldOut) -> dict[str, Any]:
    """One training by itself, as configured and tuned on the recordings that a contest holds out."""
    net, config = load_model(weights)
    known = replace(dataset, config=config)
    tuned = by_times(curves_of(weights, known, held), known, TRIALS).config
    return {
        "name": name,
        "average_mAP": _average(net, config, dataset),
        "tuned": _average(net, replace(config, decode=tuned.decode, model=tuned.model), dataset),
    }


def _average(net: TwoBranchNet, config: Config, dataset: Dataset) -> float:
    """On the test recordings."""
    tested = replace(dataset, config=config)
    merged = TwoBranchNet(config)
    merged.load_state_dict(net.state_dict())
    measured = evaluate(merged.eval(), Videos(tested, "test"), tested).localization
    assert measured is not None
    return float(measured.average)
