"""What a run's folder shows: one self-contained HTML page, timelines, and the file of curves they read.

from aicl_fast.report import write_report
write_report("runs/demo")
"""

from __future__ import annotations

from aicl_fast.data.scores_file import load_scores, save_scores
from aicl_fast.report.build import write_report
from aicl_fast.report.pictures import plot_run
from aicl_fast.report.run import Run, load_run, write_run

__all__ = ["Run", "load_run", "load_scores", "plot_run", "save_scores", "write_report", "write_run"]
