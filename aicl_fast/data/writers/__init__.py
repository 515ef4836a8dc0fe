"""Detections to a file, in the format that its name ends in.

A format is one file of this folder and one line in :data:`WRITERS`; other packages add theirs as entry points
of the group ``aicl_fast.writers``, each a :data:`Writer` whose name is the ending without its dot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from aicl_fast import plugins
from aicl_fast.data.detections import Detections, check_detections
from aicl_fast.data.writers import csv, json
from aicl_fast.files import write_text

Writer = Callable[[Mapping[str, Detections]], str]
"""What a file holds, from detections by the recordings' names: scores and times are finite."""

WRITERS: dict[str, Writer] = {
    "json": json.text,
    "csv": csv.text,
}
"""Formats by the ending of a file's name. Any other ending is ``json``."""
GROUP = "aicl_fast.writers"


def save_detections(path: str | os.PathLike[str], detections: Mapping[str, Detections]) -> None:
    """Write many recordings' detections to one file, whole or not at all.

    Args:
        path: ends in ``.csv``, or in anything else for ActivityNet's JSON, which :func:`load_detections`
            reads. Folders on the way to it are made.
        detections: by the recordings' names.
    Raises:
        DataError: not such a mapping, a score or time is NaN or infinite, or ``path`` cannot be written.
    """
    check_detections(detections)
    ending = Path(path).suffix.lower().removeprefix(".")
    writer = WRITERS.get(ending) or (plugins.load(GROUP).get(ending) if ending else None) or json.text
    write_text(path, writer(detections))
