"""One self-contained HTML page about a run, and the file of curves that it reads.

from aicl_fast.report import write_report
write_report("runs/demo")
"""

from __future__ import annotations

from aicl_fast.report.build import Run, load_run, write_report
from aicl_fast.report.scores_file import load_scores, save_scores

__all__ = ["Run", "load_run", "load_scores", "save_scores", "write_report"]
