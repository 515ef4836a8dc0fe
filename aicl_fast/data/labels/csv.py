"""Labels as a table: comma, semicolon or tab between columns.

video,label[,start,end][,split]     one row per instance; a header may give the columns in any order
video,label,time[,split]            with a header: one time in each instance
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from aicl_fast.data.labels.label import Reader, Row
from aicl_fast.errors import DataError

COLUMNS = ("video", "label", "start", "end", "split", "time")
_BY_COUNT = {
    2: COLUMNS[:2],
    3: ("video", "label", "split"),
    4: COLUMNS[:4],
    5: COLUMNS[:5],
}
_USUAL = frozenset(
    [
        "file",
        "filename",
        "file_name",
        "name",
        "path",
        "clip",
        "id",
        "video_name",
        "video_id",
        "class",
        "class_name",
        "action",
        "activity",
        "category",
        "annotation",
        "begin",
        "stop",
        "stop_time",
        "start_time",
        "end_time",
        "t_start",
        "t_end",
        "subset",
        "set",
    ]
)
"""Other names of columns. A first row of two of these is a header, not a video and its label."""
_EXPECTED = "expected video,label[,start,end][,split]"


def _rows(text: str, source: str) -> Iterator[Row]:
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError(
            f"{source}, line {reader.line_num}: cannot be read as a table ({error}). Look for a quote "
            "that is not closed, here or before."
        ) from error
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if not rows:
        raise DataError(f"{source}: holds no rows; {_EXPECTED}.")
    columns, headed = _columns(*rows[0], source)
    if headed and len(rows) == 1:
        raise DataError(f"{source}: has a header and no rows.")
    for line, cells in rows[headed:]:
        fault = ""
        if len(cells) != len(columns):
            fault = f"has {len(cells)} columns, expected {len(columns)} ({', '.join(columns)})"
        row = dict(zip(columns, cells, strict=False))
        video, label, start, end, split, time = (row.get(name, "") for name in COLUMNS)
        yield Row(line, video, label, start, end, split, time=time, fault=fault)


def _columns(line: int, first: list[str], source: str) -> tuple[tuple[str, ...], bool]:
    """The columns' names, and whether the first row is a header."""
    header = tuple(cell.lower() for cell in first)
    if "video" in header and "label" in header:
        unknown = [name for name in header if name not in COLUMNS]
        twice = [name for name in header if header.count(name) > 1]
        if unknown or twice or ("start" in header) != ("end" in header):
            raise DataError(
                f"{source}, line {line}: the header is {', '.join(first)}; expected video and label, and "
                "where there are any start and end, time, and split, each once."
            )
        return header, True
    if len([name for name in header if name in COLUMNS or name in _USUAL]) > 1:
        raise DataError(
            f"{source}, line {line}: looks like a header with other names ({', '.join(first)}). Name the "
            "columns video and label and, where there are any, start and end, time, and split."
        )
    if len(first) not in _BY_COUNT:
        raise DataError(f"{source}, line {line}: has {len(first)} columns; {_EXPECTED}.")
    return _BY_COUNT[len(first)], False


READER = Reader(lambda text: True, _rows)
"""Takes any text: what is no table is refused with its line."""
