"""Labels of videos in any format, and the data set that is made from them.

A format is one file of this folder and one line in :data:`READERS`; other packages add theirs as entry points
of the group ``aicl_fast.readers``, each a :class:`Reader`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from aicl_fast import plugins
from aicl_fast.data.labels import activitynet, csv
from aicl_fast.data.labels.dataset_files import SETTINGS, Summary, write_annotations
from aicl_fast.data.labels.label import Label, Reader, Row, checked
from aicl_fast.errors import DataError
from aicl_fast.files import read_text

__all__ = ["READERS", "SETTINGS", "Label", "Reader", "Row", "Summary", "read_labels", "write_annotations"]

READERS: dict[str, Reader] = {
    "activitynet": activitynet.READER,
    "csv": csv.READER,
}
"""Formats by name. The last takes what no other recognises."""
GROUP = "aicl_fast.readers"


def read_labels(
    path: str | os.PathLike[str], *, duration: Callable[[str], float | None] = lambda video: None
) -> list[Label]:
    """Read labels from a table (see ``csv.py``) or an ActivityNet document, which their content tells apart.

    Times are in seconds; a split is ``train`` or ``test``. A video may be written with its folder and ending:
    its name is what is left without them.

    Args:
        path: the file, text in UTF-8.
        duration: a video's length in seconds, or None where it is not known.
    Raises:
        DataError: no such file, not text, no rows, or rows that cannot be used: each is named with its line.
    """
    text = read_text(path, "table of labels", advice="Save it as CSV in UTF-8.")
    *known, last = READERS.values()
    readers = (*known, *plugins.load(GROUP).values(), last)
    reader = next(reader for reader in readers if reader.recognises(text))
    labels = checked(list(reader.rows(text, str(path))), path, reader.unit, duration)
    if not labels:
        raise DataError(f"{path}: holds no labels. Check which file was given.")
    return labels
