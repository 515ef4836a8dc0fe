"""Accuracy of the demo over several seeds, each loss setting beside the others.

    python -m aicl_fast.bench accuracy --seeds 3 --json bench/results/demo-accuracy.json

    python -m aicl_fast.bench accuracy --no-ablate --set precision=bf16 --set convolution=winograd

The rows are what `aicl-fast demo --seeds N --ablate` measures: the first row's file is the exported model
in ONNX Runtime, the others are the networks in torch, decoded alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from aicl_fast.bench.harness.arguments import count
from aicl_fast.bench.harness.record import write_result
from aicl_fast.cli import demo
from aicl_fast.files import read_json


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo with its ablation and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=count, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    parser.add_argument("--no-ablate", action="store_true", help="the method's own losses only")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    parser.add_argument("--json", type=Path, help="where to record the rows")
    options = parser.parse_args(arguments)
    demo.run(options.folder, seeds=options.seeds, ablate=not options.no_ablate, set_=options.set)
    if options.json is not None:
        metrics = read_json(options.folder / "metrics.json", "metrics file")
        kept = {name: metrics[name] for name in ("data", "preset", "tious", "average_mAP", "config")}
        write_result(options.json, "accuracy", metrics["runs"], **kept)
