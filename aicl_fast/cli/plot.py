"""plot: timelines of a run's videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from aicl_fast.cli.console import show
from aicl_fast.cli.options import Baseline, GroundTruthFile
from aicl_fast.files import inputs_kept


@inputs_kept()
def run(
    run: Annotated[Path, Argument(help="Folder of a run, with detections.json and scores.npz.")],
    out: Annotated[Path, Option("--out", "-o", help=".png, .svg or .pdf.")] = Path("timeline.png"),
    video: Annotated[
        list[str] | None, Option(help="Draw this video; may be repeated. Every video by default.")
    ] = None,
    worst: Annotated[int | None, Option(help="Draw the N videos of the lowest AP.")] = None,
    baseline: Baseline = None,
    gt: GroundTruthFile = None,
    min_score: Annotated[float | None, Option(help="Draw detections from this score.")] = None,
) -> None:
    """Draw timelines: both branches, the fused score, detections and ground truth.

    Examples:

      aicl-fast plot runs/demo --video watch_test_002 -o timeline.png

      aicl-fast plot runs/aicl --worst 6 --baseline runs/baseline -o worst.svg
    """
    from aicl_fast.report import plot_run

    drawn = plot_run(
        run, out, videos=video or [], worst=worst, baseline=baseline, ground_truth=gt, min_score=min_score
    )
    show(f"{out}: {len(drawn)} drawn")
