"""Pictures: timelines of videos and DETAD's figures, as PNG, SVG or PDF.

matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

from aicl_fast.plot.canvas import PALETTE
from aicl_fast.plot.diagnosis import plot_diagnosis
from aicl_fast.plot.layout import LANES, MAX_CLASSES, Bar, Layout, Panel, lay_out
from aicl_fast.plot.timeline import plot_comparison, plot_sheet, plot_timeline

__all__ = [
    "LANES",
    "MAX_CLASSES",
    "PALETTE",
    "Bar",
    "Layout",
    "Panel",
    "lay_out",
    "plot_comparison",
    "plot_diagnosis",
    "plot_sheet",
    "plot_timeline",
]
