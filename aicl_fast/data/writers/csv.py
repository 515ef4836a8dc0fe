"""Detections as a table for spreadsheets and scripts: one row per detection, times in seconds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from aicl_fast.data.detections import Detections

COLUMNS = ("video", "label", "start", "end", "score")
"""The first four are the columns that a table of labels has."""


def text(detections: Mapping[str, Detections]) -> str:
    """The table with its header."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for video, items in detections.items():
        writer.writerows((video, d.label, d.start, d.end, d.score) for d in items)
    return table.getvalue()
