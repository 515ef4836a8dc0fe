"""A data set's files that are made from labels: ``gt.json``, the split files and settings for training."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aicl_fast.data.annotations import AMBIGUOUS, remarks_on_classes
from aicl_fast.data.labels.label import Label, Split, known_duration, refuse, rounded, unusable
from aicl_fast.errors import AiclWarning, DataError
from aicl_fast.files import write_json, write_text

SETTINGS = "settings.toml"
"""Settings for ``aicl-fast train``: the classes, and what the features say."""


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


def write_annotations(
    labels: Sequence[Label],
    folder: str | os.PathLike[str],
    *,
    duration: Callable[[str], float | None] = lambda video: None,
    measure: Callable[[Sequence[str]], Mapping[str, str | int]] = lambda videos: {},
    test_share: float = 0.2,
    seed: int = 0,
    overwrite: bool = False,
    source: str = "labels",
) -> Summary:
    """Write ``gt.json``, ``split_train.txt``, ``split_test.txt`` and ``settings.toml`` of a data set.

    A video that only has labels, and no times, is annotated from 0 to its end, or to 0 if its length is not
    known. A point starts and ends at its time. Either all that is tested on has start and end, or nothing:
    then video scores alone can be measured. Without test videos there is no ``split_test.txt``.

    Args:
        labels: from :func:`read_labels`.
        folder: of the data set; made if it is missing.
        duration: a video's length in seconds, or None where it is not known.
        measure: what the features of these training videos say of the settings, by name.
        test_share: of the videos whose rows do not say their split, this share becomes test videos, drawn
            from those with times.
        seed: of that draw.
        overwrite: replace the four files if they are there.
        source: the table's name, for messages.
    Raises:
        DataError: annotations that end after the video does, a test video without times where others have
            them, no training video, or files that are there already.
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
    durations = {video: known_duration(rows[0], duration) for video, rows in videos.items()}
    refuse(unusable(labels, durations.__getitem__), source, labels[0].unit if labels else "line")
    splits = _splits(videos, test_share, seed, source)
    classes = tuple(sorted({label.label for label in labels} - {AMBIGUOUS}))
    for remark in remarks_on_classes(classes):
        warnings.warn(f"{source}: {remark}", AiclWarning, stacklevel=2)
    database = {video: _entry(rows, durations[video], splits[video]) for video, rows in videos.items()}
    write_json(names[0], {"version": Path(source).name, "database": database})
    by_split = {split: tuple(v for v, s in splits.items() if s == split) for split in ("train", "test")}
    for split, path in zip(("train", "test"), names[1:3], strict=True):
        if by_split[split]:
            write_text(path, "\n".join(by_split[split]) + "\n")
        else:
            path.unlink(missing_ok=True)
    lines = [
        "# For aicl-fast train. `aicl-fast info --preset own` lists the settings.",
        'preset = "own"',
        "classes = " + json.dumps(classes, ensure_ascii=False),
    ]
    lines += [f"{name} = {json.dumps(value)}" for name, value in measure(by_split["train"]).items()]
    write_text(names[3], "\n".join(lines) + "\n")
    trained = {label.label for label in labels if splits[label.video] == "train"}
    return Summary(
        by_split["train"],
        by_split["test"],
        classes,
        tuple(video for video, seconds in durations.items() if seconds is None),
        tuple(name for name in classes if name not in trained),
    )


def _splits(videos: Mapping[str, list[Label]], test_share: float, seed: int, source: str) -> dict[str, Split]:
    if not 0 <= test_share < 1:
        raise DataError(f"test_share: expected a share from 0 to below 1, got {test_share:g}.")
    timed = {video for video, rows in videos.items() if all(row.timed for row in rows)}
    free = [video for video, rows in videos.items() if rows[0].split is None]
    candidates = [video for video in free if video in timed]
    count = min(len(candidates), math.ceil(test_share * len(free)))
    drawn = np.random.default_rng(seed).permutation(len(candidates))[:count]
    test_videos = {candidates[index] for index in drawn.tolist()}
    splits: dict[str, Split] = {
        video: rows[0].split or ("test" if video in test_videos else "train")
        for video, rows in videos.items()
    }
    if "train" not in splits.values():
        raise DataError(f"{source}: leaves no training video. Label some more.")
    return splits


def _entry(rows: list[Label], seconds: float | None, split: Split) -> dict[str, object]:
    end = rounded(seconds) if seconds is not None else None
    annotations = []
    for row in rows:
        segment = row.segment or (0.0, end or 0.0)
        annotations.append(
            {"label": row.label, "segment": [segment[0], segment[1] if end is None else min(segment[1], end)]}
        )
    entry: dict[str, object] = {"subset": split, "annotations": annotations}
    return entry if end is None else {**entry, "duration": end}
