"""Labels as an ActivityNet annotation document, the form of a data set's own ``gt.json``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.labels.label import Reader, Row
from aicl_fast.text import parse_json

_SPLITS = {"training": "train", "testing": "test", "validation": "test"}
"""Subsets by other names. In a file without ``training``, as THUMOS14's, ``validation`` is for training."""


def _rows(text: str, source: str) -> Iterator[Row]:
    truth = GroundTruth.parse(parse_json(text, source, "annotation file"), source)
    subsets = {video.subset.lower() for video in truth.videos.values()}
    splits = _SPLITS if subsets & {"train", "training"} else {**_SPLITS, "validation": "train"}
    number = 0
    for name, video in truth.videos.items():
        split = splits.get(video.subset.lower(), video.subset)
        for label, (start, end) in zip(video.labels, video.segments.tolist(), strict=True):
            number += 1
            if start < end:
                yield Row(number, name, label, str(start), str(end), split, video.duration)
            else:
                # A point; at 0 a label without times.
                time = str(start) if start else ""
                yield Row(number, name, label, split=split, duration=video.duration, time=time)


READER = Reader(lambda text: re.match(r"\s*\{\s*[\"}]", text) is not None, _rows, "annotation")
