"""Record what `aicl-fast ablate` measured, on the machine that measured it.

    aicl-fast ablate selection
    python -m aicl_fast.bench ablation runs/ablate-selection --json bench/results/ablate-selection-demo.json

A row is an arm: mean and spread of every measure over the seeds, and each run with its curve. Device,
versions, commit and date are those of the recording, so record at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from aicl_fast.bench.harness.record import write_result
from aicl_fast.files import read_json


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy an experiment's results into a record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the --out of `aicl-fast ablate`")
    parser.add_argument("--json", type=Path, required=True, help="where to record")
    options = parser.parse_args(arguments)
    found = read_json(options.folder / "ablation.json", "experiment's results")
    rows = found.pop("arms")
    experiment = found.pop("experiment")
    write_result(options.json, f"ablation, {experiment}", rows, **found)
