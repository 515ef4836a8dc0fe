"""A table of labels to a data set's annotations: ``gt.json``, the split files and settings for training.

video,label[,start,end][,split]     one row an instance; a header may give the columns in any order
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import posixpath
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from aicl_fast.data.annotations import AMBIGUOUS, remarks_on_classes, require_class
from aicl_fast.errors import AiclWarning, DataError
from aicl_fast.files import read_text, video_name, write_json, write_text
from aicl_fast.text import clean_text, require_name

Split = Literal["train", "test"]
COLUMNS = ("video", "label", "start", "end", "split")
_BY_COUNT = {
    2: COLUMNS[:2],
    3: ("video", "label", "split"),
    4: COLUMNS[:4],
    5: COLUMNS,
}
SETTINGS = "settings.toml"
"""Settings for ``aicl-fast train --config``: the classes, and which streams there are."""
_SHOWN = 10
_LATE = 1.0
"""Seconds that an annotation may end after its video's end: it is cut there."""


@dataclass(frozen=True)
class Label:
    """One row.

    Attributes:
        line: its number in the file, from 1.
        video: the video's name, without folder and ending.
        label: the class.
        segment: start and end in seconds, or None where only the video is labelled.
        split: None where the row does not say.
    """

    line: int
    video: str
    label: str
    segment: tuple[float, float] | None
    split: Split | None


@dataclass(frozen=True)
class Summary:
    """What :func:`write_annotations` wrote.

    Attributes:
        train: names of the training videos.
        test: of the test videos.
        classes: sorted.
        without_duration: videos whose length is not known.
        only_tested: classes that no training video has.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: tuple[str, ...]
    without_duration: tuple[str, ...]
    only_tested: tuple[str, ...]


def read_labels(
    path: str | os.PathLike[str], *, duration: Callable[[str], float | None] = lambda video: None
) -> list[Label]:
    """Read a table of labels: comma, semicolon or tab between columns, UTF-8.

    A header with ``video`` and ``label`` may put the columns in any order; without one they are ``video,
    label[, start, end][, split]``. Times are in seconds; a split is ``train`` or ``test``. A
    video may be written with its folder and ending: its name is what is left without them.

    Args:
        path: the table.
        duration: a video's length in seconds, or None where it is not known.
    Raises:
        DataError: no such file, not text, no rows, or rows that cannot be used: each is named with its line.
    """
    target = Path(path)
    text = read_text(target, "table of labels", advice="Save it as CSV in UTF-8.")
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError(
            f"{target}, line {reader.line_num}: cannot be read as a table ({error}). Look for a quote "
            "that is not closed, here or before."
        ) from error
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if not rows:
        raise DataError(f"{target}: holds no rows; expected video,label[,start,end][,split].")
    columns, rows = _columns(rows, target)
    bad: list[tuple[int, str]] = []
    found: list[Label] = []
    for line, cells in rows:
        try:
            found.append(_label(line, cells, columns))
        except (DataError, ValueError) as error:
            bad.append((line, str(error)))
    bad += _other_files(rows, columns.index("video"))
    _check_together(found, bad)
    bad += _unusable(found, duration)
    _refuse(bad, target)
    if not found:
        raise DataError(f"{target}: has a header and no rows.")
    return found


def write_annotations(
    labels: Sequence[Label],
    folder: str | os.PathLike[str],
    *,
    duration: Callable[[str], float | None] = lambda video: None,
    modal: str = "both",
    test_share: float = 0.2,
    seed: int = 0,
    overwrite: bool = False,
    source: str = "labels",
) -> Summary:
    """Write ``gt.json``, ``split_train.txt``, ``split_test.txt`` and ``settings.toml`` of a data set.

    A video that only has labels, and no times, is annotated from 0 to its end, or to 0 if its length is not
    known: training reads the labels alone. What is tested on must have times.

    Args:
        labels: from :func:`read_labels`.
        folder: of the data set; made if it is absent.
        duration: a video's length in seconds, or None where it is not known.
        modal: which streams the settings say the features have.
        test_share: of the videos whose rows do not say their split, this share becomes test videos, drawn
            from those with times.
        seed: of that draw.
        overwrite: replace the four files if they are there.
        source: the table's name, for messages.
    Raises:
        DataError: annotations that end after the video does, a test video without times, no training or no
            test video, or files that are there already.
    """
    root = Path(folder)
    names = [root / name for name in ("gt.json", "split_train.txt", "split_test.txt", SETTINGS)]
    there = [path for path in names if path.exists()]
    if there and not overwrite:
        raise DataError(
            f"{there[0]}: is there already. Replace it with --overwrite, or choose another folder."
        )
    videos: dict[str, list[Label]] = {}
    for label in labels:
        videos.setdefault(label.video, []).append(label)
    durations = {video: duration(video) for video in videos}
    _refuse(_unusable(labels, durations.__getitem__), source)
    splits = _splits(videos, test_share, seed, source)
    classes = tuple(sorted({label.label for label in labels} - {AMBIGUOUS}))
    for remark in remarks_on_classes(classes):
        warnings.warn(f"{source}: {remark}", AiclWarning, stacklevel=2)
    database = {video: _entry(rows, durations[video], splits[video]) for video, rows in videos.items()}
    write_json(names[0], {"version": Path(source).name, "database": database})
    by_split = {split: tuple(v for v, s in splits.items() if s == split) for split in ("train", "test")}
    for split, path in zip(("train", "test"), names[1:3], strict=True):
        write_text(path, "\n".join(by_split[split]) + "\n")
    lines = [
        "# For aicl-fast train --config, over the preset thumos14.",
        "classes = " + json.dumps(classes, ensure_ascii=False),
    ]
    if modal != "both":
        lines.append(f'modal = "{modal}"')
    write_text(names[3], "\n".join(lines) + "\n")
    trained = {label.label for label in labels if splits[label.video] == "train"}
    return Summary(
        by_split["train"],
        by_split["test"],
        classes,
        tuple(video for video, seconds in durations.items() if seconds is None),
        tuple(name for name in classes if name not in trained),
    )


def _columns(
    rows: list[tuple[int, list[str]]], source: Path
) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """The columns' names, and the rows without a header."""
    line, first = rows[0]
    header = tuple(cell.lower() for cell in first)
    if "video" in header and "label" in header:
        unknown = [name for name in header if name not in COLUMNS]
        twice = [name for name in header if header.count(name) > 1]
        if unknown or twice or ("start" in header) != ("end" in header):
            raise DataError(
                f"{source}, line {line}: the header is {', '.join(first)}; expected video and label, and "
                "where there are any start and end, and split, each once."
            )
        return header, rows[1:]
    columns = _BY_COUNT.get(len(first))
    if columns is None:
        raise DataError(
            f"{source}, line {line}: has {len(first)} columns; expected video,label[,start,end][,split]."
        )
    return columns, rows


def _label(line: int, cells: list[str], columns: tuple[str, ...]) -> Label:
    if len(cells) != len(columns):
        raise ValueError(f"has {len(cells)} columns, expected {len(columns)} ({', '.join(columns)})")
    row = dict(zip(columns, cells, strict=True))
    for name in ("video", "label"):
        if not clean_text(row[name]).strip():
            raise ValueError(f"the {name} is empty")
        if any(unicodedata.category(character) == "Cc" for character in row[name]):
            raise ValueError(f"the {name} {row[name]!r} has a control character")
    start, end, split = (row.get(name, "") for name in ("start", "end", "split"))
    if split and split.lower() not in ("train", "test"):
        raise ValueError(f"the split is {split!r}, expected train or test")
    return Label(
        line,
        require_name(video_name(row["video"].replace("\\", "/")), "the name", "video"),
        require_class(row["label"], "the row"),
        _segment(start, end),
        cast(Split, split.lower()) if split else None,
    )


def _other_files(rows: list[tuple[int, list[str]]], column: int) -> list[tuple[int, str]]:
    """Rows whose video has the name of another file's, in another folder or with another ending."""
    bad = []
    first: dict[str, tuple[str, str, int]] = {}
    for line, cells in rows:
        if column >= len(cells):
            continue
        file = posixpath.normpath(cells[column].replace("\\", "/"))
        name = video_name(file)
        ending = posixpath.basename(file).removeprefix(name).lower()
        ending = "" if ending in (".npy", ".npz") else ending
        place, known, number = first.setdefault(name, (posixpath.dirname(file), ending, line))
        if place != posixpath.dirname(file) or (ending and known and ending != known):
            bad.append(
                (line, f"{cells[column]!r} is another file than that in line {number}, and both are the "
                 f"video {name!r}: give each a name of its own")
            )  # fmt: skip
    return bad


def _segment(start: str, end: str) -> tuple[float, float] | None:
    if not start and not end:
        return None
    if not start or not end:
        raise ValueError(f"has {'an end' if end else 'a start'} alone, expected start and end or neither")
    try:
        times = float(start), float(end)
    except ValueError:
        raise ValueError(f"start and end are {start!r} and {end!r}, expected seconds as numbers") from None
    if not (math.isfinite(times[0]) and 0 <= times[0] < times[1] < math.inf):
        raise ValueError(f"goes from {start} to {end} s, expected 0 <= start < end")
    return times


def _check_together(found: list[Label], bad: list[tuple[int, str]]) -> None:
    """Rows that are there twice, and videos in both splits."""
    seen: dict[tuple[object, ...], int] = {}
    splits: dict[str, tuple[str | None, int]] = {}
    for label in found:
        line = seen.setdefault((label.video, label.label, label.segment), label.line)
        if line != label.line:
            bad.append((label.line, f"repeats line {line}"))
        split, line = splits.setdefault(label.video, (label.split, label.line))
        if split != label.split:
            bad.append(
                (label.line, f"{label.video!r} is {label.split or 'of no split'}, in line {line} "
                 f"{split or 'of no split'}")
            )  # fmt: skip


def _unusable(labels: Sequence[Label], duration: Callable[[str], float | None]) -> list[tuple[int, str]]:
    """Rows of test videos without times, and times after their video's end."""
    bad = []
    for label in labels:
        if label.segment is None:
            if label.split == "test":
                bad.append((label.line, f"{label.video!r} is a test video, whose rows need start and end"))
            continue
        seconds = duration(label.video)
        if seconds is None:
            continue
        start, end = label.segment
        fault = (
            f"ends at {end:g}" if end > seconds + _LATE
            else f"starts at {start:g}" if start >= _rounded(seconds)
            else ""
        )  # fmt: skip
        if fault:
            bad.append((label.line, f"{fault} s, and {label.video!r} is {seconds:.1f} s long"))
    return bad


def _splits(videos: Mapping[str, list[Label]], test_share: float, seed: int, source: str) -> dict[str, Split]:
    if not 0 <= test_share < 1:
        raise DataError(f"test_share: expected a share from 0 to below 1, got {test_share:g}.")
    timed = {video for video, rows in videos.items() if all(row.segment is not None for row in rows)}
    free = [video for video, rows in videos.items() if rows[0].split is None]
    candidates = [video for video in free if video in timed]
    count = min(len(candidates), math.ceil(test_share * len(free)))
    drawn = np.random.default_rng(seed).permutation(len(candidates))[:count]
    chosen = {candidates[index] for index in drawn.tolist()}
    found: dict[str, Split] = {
        video: rows[0].split or ("test" if video in chosen else "train") for video, rows in videos.items()
    }
    for split, need in (
        ("train", "labels"),
        ("test", "start and end in all their rows, since mAP is measured against these"),
    ):
        if split not in found.values():
            raise DataError(f"{source}: leaves no {split} video. Label some more, with {need}.")
    return found


def _entry(rows: list[Label], seconds: float | None, split: Split) -> dict[str, object]:
    end = _rounded(seconds) if seconds is not None else None
    annotations = []
    for row in rows:
        segment = row.segment or (0.0, end or 0.0)
        annotations.append(
            {"label": row.label, "segment": [segment[0], segment[1] if end is None else min(segment[1], end)]}
        )
    entry: dict[str, object] = {"subset": split, "annotations": annotations}
    return entry if end is None else {**entry, "duration": end}


def _rounded(seconds: float) -> float:
    """A duration as it is written."""
    return round(seconds, 3)


def _refuse(bad: list[tuple[int, str]], source: str | os.PathLike[str]) -> None:
    if bad:
        lines = [f"\n  line {line}: {text}" for line, text in sorted(bad)[:_SHOWN]]
        more = f"\n  … and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        rows = len({line for line, _ in bad})
        count = f"{rows} rows" if rows > 1 else "a row"
        raise DataError(f"{source}: {count} cannot be used:{''.join(lines)}{more}")
