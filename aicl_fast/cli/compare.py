"""compare: two runs on the same videos."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

from typer import Argument

from aicl_fast.cli.console import note, show, titled_table
from aicl_fast.cli.options import (
    GroundTruthFile,
    JsonFile,
    RunPreset,
    Subset,
    Tious,
    parse_tious,
    run_settings,
)
from aicl_fast.errors import ConfigError
from aicl_fast.files import inputs_kept, write_json


@inputs_kept()
def run(
    first: Annotated[Path, Argument(help="Folder of a run, with detections.json.")],
    second: Annotated[Path, Argument(help="Folder of the run to compare with it.")],
    gt: GroundTruthFile = None,
    tiou: Tious = None,
    preset: RunPreset = None,
    subset: Subset = None,
    out: JsonFile = None,
) -> None:
    """Compare two runs on the same videos, and tell a difference from noise (paired bootstrap).

    Examples:

      aicl-fast compare runs/baseline runs/aicl

      aicl-fast compare runs/a runs/b --gt THUMOS14/gt.json --subset test
    """
    from aicl_fast.evaluate import compare
    from aicl_fast.report import load_run

    runs = [load_run(path) for path in (first, second)]
    truth = gt if gt is not None else runs[0].ground_truth or runs[1].ground_truth
    if truth is None:
        raise ConfigError(f"--gt: neither {first} nor {second} holds a gt.json; name the annotation file.")
    before, after = (run.detections for run in runs)
    names = (str(first), str(second))
    name, own_tious = run_settings(preset, *runs)
    tious = own_tious if tiou is None else parse_tious(tiou, name)
    comparison = compare(truth, before, after, tious, names=names, subset=subset)
    own = dict(zip(names, (comparison.first.warnings, comparison.second.warnings), strict=True))
    for warning in dict.fromkeys(chain(*own.values())):
        told_by = [name for name, warnings in own.items() if warning in warnings]
        note(warning if len(told_by) == len(own) else f"{told_by[0]}: {warning}")
    table = titled_table("Differences, second minus first")
    for column in ("mAP (%)", "first", "second", "difference", f"{100 * comparison.level:g} % interval", ""):
        table.add_column(column, justify="left" if column in ("mAP (%)", "") else "right")
    rows = {"average": comparison.average, **{f"at {tiou:g}": row for tiou, row in comparison.at.items()}}
    for name, row in rows.items():
        numbers = (f"{100 * row.first:.2f}", f"{100 * row.second:.2f}", f"{100 * row.value:+.2f}")
        table.add_row(name, *numbers, f"{100 * row.low:+.2f} to {100 * row.high:+.2f}", row.verdict)
    show(table)
    show(comparison.verdict)
    if out is not None:
        write_json(out, comparison.to_dict())
