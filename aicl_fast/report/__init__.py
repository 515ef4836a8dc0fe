"""One self-contained HTML page about a run, and the file of curves that it reads.

from aicl_fast.report import write_report
write_report("runs/demo")
"""

from __future__ import annotations

from aicl_fast.report.scores_file import load_scores, save_scores

__all__ = ["load_scores", "save_scores"]
