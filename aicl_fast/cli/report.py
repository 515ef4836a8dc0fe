"""report: a page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from aicl_fast.cli.console import note, show
from aicl_fast.cli.options import Baseline, GroundTruthFile, RunPreset, Subset, run_settings
from aicl_fast.files import inputs_kept, is_stdout


@inputs_kept()
def run(
    run: Annotated[Path, Argument(help="Folder of a run, with detections.json.")],
    out: Annotated[
        Path | None, Option("--out", "-o", help="The page; report.html in the run's folder by default.")
    ] = None,
    baseline: Baseline = None,
    gt: GroundTruthFile = None,
    media: Annotated[Path | None, Option(help="Folder of video files that the page plays.")] = None,
    preset: RunPreset = None,
    subset: Subset = None,
    title: Annotated[str | None, Option(help="Heading of the page.")] = None,
) -> None:
    """Write one self-contained HTML page about a run: tables, error analysis, interactive timelines.

    Examples:

      aicl-fast report runs/demo

      aicl-fast report runs/aicl --baseline runs/baseline -o page.html
    """
    from aicl_fast.report import load_run, write_report

    current = load_run(run)
    other = None if baseline is None else load_run(baseline)
    name, tious = run_settings(preset, current)
    page = write_report(
        current,
        run / "report.html" if out is None else out,
        baseline=other,
        ground_truth=gt,
        tious=tious,
        subset=subset,
        media=media,
        title=title,
        buckets="activitynet" if name.startswith("activitynet") else "thumos14",
    )
    if gt is None and not any(shown.ground_truth for shown in (current, other) if shown is not None):
        note("no annotations, so nothing is measured; name them with --gt")
    size = "" if is_stdout(page) else f": {page.stat().st_size / 1e6:.2f} MB"
    show(f"{page}{size}")
