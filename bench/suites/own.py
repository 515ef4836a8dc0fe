"""The preset for one's own data: mAP on a data set, with its decoding and with that of THUMOS14.

    python -m aicl_fast.bench own --seeds 3 --json bench/results/own-demo.json
    python -m aicl_fast.bench own --data FOLDER --set fps=1 --json bench/results/own-data.json

One model is trained a seed, with the preset ``own``, and decoded in both ways. Without ``--data`` the data
set is the demo's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aicl_fast.bench.harness.arguments import count
from aicl_fast.bench.harness.suite import data_of, parser, record, show
from aicl_fast.config import PRESETS, load_config
from aicl_fast.data.dataset import Dataset
from aicl_fast.train.sampling import Videos
from aicl_fast.train.trainer import evaluate, train

DEMO = ("segments=128", "fps=50", "rgb_width=57", "flow_width=57")
TIOUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, decode in both ways, and record the rows."""
    made = parser(__doc__, data=None, folder=Path("runs/bench/own"))
    made.add_argument("--seeds", type=count, default=3)
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    options = made.parse_args(arguments)
    folder, settings = data_of(options, DEMO)
    rows: list[dict[str, Any]] = []
    for seed in range(1, options.seeds + 1):
        config = load_config("own", overrides=[*settings, f"train.seed={seed}"])
        config = replace(config, evaluate=replace(config.evaluate, tious=TIOUS))
        dataset = Dataset.open(folder, config)
        trained = train(dataset)
        # The authors' added second is left out, since here a second need not be one.
        released = replace(PRESETS["thumos14"].decode, nms_added_seconds=0.0)
        for name, decode in (("own", config.decode), ("thumos14", released)):
            decoded = Dataset(
                dataset.root, dataset.ground_truth, dataset.videos, replace(trained.config, decode=decode)
            )
            result = evaluate(trained.net, Videos(decoded, "test"), decoded).localization
            assert result is not None
            rows.append({
                "name": f"decoding of {name}", "seed": seed,
                "mAP": result.mAP.tolist(), "average_mAP": result.average,
            })  # fmt: skip
            print(rows[-1], flush=True)
    show("accuracy", rows, tious=TIOUS)
    record(options.json, "accuracy", rows, data=folder.name, preset="own", tious=TIOUS, settings=settings)
