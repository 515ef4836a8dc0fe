"""One label, and the checks that hold for labels of every format."""

from __future__ import annotations

import math
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from aicl_fast.data.annotations import FIRST_POINT, require_class
from aicl_fast.errors import DataError
from aicl_fast.files import video_name
from aicl_fast.text import clean_text, require_name

Split = Literal["train", "test"]
Bad = list[tuple[int, str]]
"""Rows that cannot be used: number and reason."""
_SHOWN = 10
_LATE = 1.0
"""Seconds that an annotation may end after its video's end: it is cut there."""


class Row(NamedTuple):
    """A label as a file has it, nothing checked.

    Attributes:
        line: its number in the file, from 1.
        video: the video's name or file.
        label: the class.
        start, end: seconds, both empty where only the video is labelled.
        split: empty where the file does not say.
        duration: seconds of the video, where the file says.
        fault: why this is no row, empty for one that is.
        time: seconds of a point, one time in the instance; empty where there is none.
    """

    line: int
    video: str
    label: str = ""
    start: str = ""
    end: str = ""
    split: str = ""
    duration: float | None = None
    fault: str = ""
    time: str = ""


class Reader(NamedTuple):
    """A format of labels.

    Attributes:
        recognises: whether a text is of this format.
        rows: the rows of such a text; its second argument is the file, for messages.
        unit: what a row is called in messages.
    """

    recognises: Callable[[str], bool]
    rows: Callable[[str, str], Iterable[Row]]
    unit: str = "line"


@dataclass(frozen=True)
class Label:
    """One row.

    Attributes:
        line: its number in the file, from 1.
        video: the video's name, without folder and ending.
        label: the class.
        segment: start and end in seconds, which are the same for a point, or None where only the video is
            labelled.
        split: None where the row does not say.
        duration: seconds of the video, where the file says.
        unit: what the file's rows are called.
    """

    line: int
    video: str
    label: str
    segment: tuple[float, float] | None
    split: Split | None
    duration: float | None = None
    unit: str = "line"

    @property
    def timed(self) -> bool:
        """Whether it has a start and an end."""
        return self.segment is not None and self.segment[0] < self.segment[1]


def checked(
    rows: Sequence[Row], source: object, unit: str, duration: Callable[[str], float | None]
) -> list[Label]:
    """The rows as labels.

    Raises:
        DataError: rows that cannot be used; each is named with its number.
    """
    bad: Bad = []
    labels: list[Label] = []
    for row in rows:
        try:
            labels.append(_label(row, unit))
        except (DataError, ValueError) as error:
            bad.append((row.line, str(error)))
    bad += _other_files(rows, unit)
    bad += _contradictions(labels, unit)
    refuse([*bad, *unusable(labels, duration)], source, unit)
    return labels


def _label(row: Row, unit: str) -> Label:
    if row.fault:
        raise ValueError(row.fault)
    for name in ("video", "label"):
        text = getattr(row, name)
        if not clean_text(text).strip():
            raise ValueError(f"the {name} is empty")
        if any(unicodedata.category(character) == "Cc" for character in text):
            raise ValueError(f"the {name} {text!r} has a control character")
    if row.split and row.split.lower() not in ("train", "test"):
        raise ValueError(f"the split is {row.split!r}, expected train or test")
    return Label(
        row.line,
        require_name(video_name(row.video.replace("\\", "/")), "the name", "video"),
        require_class(row.label, "the row"),
        _segment(row.start, row.end, row.time),
        cast(Split, row.split.lower()) if row.split else None,
        row.duration,
        unit,
    )


def _segment(start: str, end: str, time: str) -> tuple[float, float] | None:
    if time:
        if start or end:
            raise ValueError("has a time beside start and end, expected the one or the other")
        return _point(time)
    if not start and not end:
        return None
    if not start or not end:
        raise ValueError(f"has {'an end' if end else 'a start'} alone, expected start and end or neither")
    try:
        times = float(start), float(end)
    except ValueError:
        raise ValueError(f"start and end are {start!r} and {end!r}, expected seconds, as 3.8") from None
    if not (math.isfinite(times[0]) and 0 <= times[0] < times[1] < math.inf):
        raise ValueError(f"goes from {start} to {end} s, expected 0 <= start < end")
    return times


def _point(time: str) -> tuple[float, float]:
    try:
        seconds = float(time)
    except ValueError:
        raise ValueError(f"time is {time!r}, expected seconds, as 3.8") from None
    if not 0 <= seconds < math.inf:  # nor NaN
        raise ValueError(f"has the time {time} s, expected 0 or more")
    seconds = max(seconds, FIRST_POINT)
    return seconds, seconds


def _other_files(rows: Iterable[Row], unit: str) -> Bad:
    """Rows whose video has the name of another file's, in another folder or with another ending."""
    bad: Bad = []
    first: dict[str, tuple[str, str, int]] = {}
    for row in rows:
        if not row.video:
            continue
        file = posixpath.normpath(row.video.replace("\\", "/"))
        name = video_name(file)
        ending = posixpath.basename(file).removeprefix(name).lower()
        ending = "" if ending in (".npy", ".npz") else ending
        place, known, number = first.setdefault(name, (posixpath.dirname(file), ending, row.line))
        if place != posixpath.dirname(file) or (ending and known and ending != known):
            bad.append(
                (row.line, f"{row.video!r} is another file than that in {unit} {number}, and both are the "
                 f"video {name!r}: give each a name of its own")
            )  # fmt: skip
    return bad


def _contradictions(labels: Iterable[Label], unit: str) -> Bad:
    """Rows that are there twice, and videos in both splits."""
    bad: Bad = []
    seen: dict[tuple[object, ...], int] = {}
    splits: dict[str, tuple[str | None, int]] = {}
    for label in labels:
        line = seen.setdefault((label.video, label.label, label.segment), label.line)
        if line != label.line:
            bad.append((label.line, f"repeats {unit} {line}"))
        split, line = splits.setdefault(label.video, (label.split, label.line))
        if split != label.split:
            bad.append(
                (label.line, f"{label.video!r} is {label.split or 'of no split'}, in {unit} {line} "
                 f"{split or 'of no split'}")
            )  # fmt: skip
    return bad


def unusable(labels: Iterable[Label], duration: Callable[[str], float | None]) -> Bad:
    """Rows of test videos without start and end where others have them, and times after a video's end."""
    bad: Bad = []
    labels = list(labels)
    measured = any(label.timed for label in labels if label.split == "test")
    for label in labels:
        if label.split == "test" and not label.timed and (measured or label.segment is not None):
            others = ", as others have" if label.segment is None else ", and not one time"
            bad.append(
                (label.line, f"{label.video!r} is a test video, whose rows need start and end{others}")
            )
            continue
        if label.segment is None:
            continue
        seconds = known_duration(label, duration)
        if seconds is None:
            continue
        start, end = label.segment
        fault = (
            f"ends at {end:g}" if end > seconds + _LATE
            else f"starts at {start:g}" if start >= rounded(seconds)
            else ""
        )  # fmt: skip
        if fault:
            bad.append((label.line, f"{fault} s, and {label.video!r} is {seconds:.1f} s long"))
    return bad


def known_duration(label: Label, duration: Callable[[str], float | None]) -> float | None:
    """Seconds of a label's video, as measured or else as its file says."""
    seconds = duration(label.video)
    return label.duration if seconds is None else seconds


def rounded(seconds: float) -> float:
    """A duration as it is written."""
    return round(seconds, 3)


def refuse(bad: Bad, source: object, unit: str = "line") -> None:
    """Raise a DataError that lists the rows, where there are any."""
    if bad:
        lines = [f"\n  {unit} {line}: {text}" for line, text in sorted(bad)[:_SHOWN]]
        more = f"\n  … and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        rows = len({line for line, _ in bad})
        count = f"{rows} rows" if rows > 1 else "a row"
        raise DataError(f"{source}: {count} cannot be used:{''.join(lines)}{more}")
