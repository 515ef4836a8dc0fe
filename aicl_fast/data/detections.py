"""Detections of one recording, and the ActivityNet JSON form they are stored in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from aicl_fast.errors import DataError
from aicl_fast.files import read_json, write_json
from aicl_fast.text import as_number, as_segment, clean_text, named_videos, parse_json, require_label

FORMAT_VERSION = "VERSION 1.3"
"""What ActivityNet's own tools write in the ``version`` field, and expect there."""


class Detection(NamedTuple):
    """One action instance: what, how sure, and from when to when (seconds)."""

    label: str
    score: float
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Detections:
    """The action instances found in one recording. What decoding gives has the best score first.

    It iterates over :class:`Detection`. An index gives one of them; a slice, an array of indices or a
    boolean mask gives Detections.

    Attributes:
        labels: (N,) class names, a NumPy array of strings.
        scores: (N,) float64. Not probabilities: contrast of inside and outside plus a share of the
            video score, so they may be negative or exceed 1.
        segments: (N, 2) float64, start and end in seconds.
        video: the recording's name, used as the key in JSON.
    Raises:
        DataError: arrays that do not fit each other, or hold something else; a detection that ends before it
            starts.
    """

    labels: npt.NDArray[np.str_]
    scores: npt.NDArray[np.float64]
    segments: npt.NDArray[np.float64]
    video: str = "video"

    def __post_init__(self) -> None:
        try:
            given = self.labels if isinstance(self.labels, np.ndarray) else np.array(self.labels, object)
            others = () if given.dtype.kind == "U" else given.astype(object).flat
            if (other := next((label for label in others if not isinstance(label, str)), "")) != "":
                raise TypeError(f"a label is {other!r}, which is no text")
            labels = given.astype(np.str_, copy=False).reshape(-1)
            scores = np.asarray(self.scores, dtype=np.float64).reshape(-1)
            segments = np.asarray(self.segments, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"detections: expected (N,) labels, (N,) scores and (N, 2) segments in seconds: {error}."
            ) from error
        if not len(labels) == len(scores) == len(segments):
            raise DataError(
                f"detections: {len(labels)} labels, {len(scores)} scores and {len(segments)} segments; "
                "expected one of each a detection."
            )
        backwards = segments[:, 1] < segments[:, 0]
        if np.count_nonzero(backwards):
            index = int(backwards.argmax())
            start, end = segments[index].tolist()
            raise _backwards(f"detections: detection {index} of '{self.video}'", start, end)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "segments", segments)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for label, score, (start, end) in zip(
            self.labels.tolist(), self.scores.tolist(), self.segments.tolist(), strict=True
        ):
            yield Detection(label, score, start, end)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | npt.NDArray[Any]) -> Detections: ...

    def __getitem__(
        self, index: int | np.integer[Any] | slice | Sequence[int] | npt.NDArray[Any]
    ) -> Detection | Detections:
        if not isinstance(index, (int, np.integer)):
            return Detections(self.labels[index], self.scores[index], self.segments[index], self.video)
        start, end = self.segments[index].tolist()
        return Detection(str(self.labels[index]), float(self.scores[index]), start, end)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            np.array_equal(self.labels, other.labels)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.segments, other.segments)
        )

    def __repr__(self) -> str:
        if not len(self):
            return f"Detections(0 of '{self.video}')"
        best = self[np.argmax(self.scores)]
        return f"Detections({len(self)} of '{self.video}', best {best.label} {best.score:.3f})"

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        return self[self.scores >= score]

    def to_list(self) -> list[dict[str, Any]]:
        """ActivityNet's list of ``{"label", "score", "segment"}``."""
        return [{"label": d.label, "score": d.score, "segment": [d.start, d.end]} for d in self]

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The ActivityNet document for this one recording; also written to ``path`` when given.

        Folders on the way to ``path`` are made.

        Raises:
            DataError: a score or time is NaN or infinite, or ``path`` cannot be written.
        """
        check_detections({self.video: self})
        document = activitynet_document({self.video: self})
        if path is not None:
            write_json(path, document)
        return json.dumps(document, allow_nan=False)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str], video: str | None = None) -> Detections:
        """Read what :meth:`to_json` gave: its text, or the path of a file.

        Args:
            source: JSON text (begins with ``{``) or a path.
            video: which recording, needed only when the document holds several.
        Raises:
            DataError: no such file, not the ActivityNet form, or not exactly one recording to choose.
        """
        if isinstance(source, str) and source.lstrip("\ufeff \t\r\n").startswith("{"):
            by_video = _parse(parse_json(source, "detections", "detection document"), "detections")
        else:
            by_video = load_detections(source)
        if video is None and len(by_video) == 1:
            return next(iter(by_video.values()))
        video = None if video is None else clean_text(video).strip()
        if video is None or video not in by_video:
            some = ", ".join(list(by_video)[:5])
            raise DataError(
                f"detections: holds {len(by_video)} recordings ({some}{', …' if len(by_video) > 5 else ''}); "
                f"{'name one with video=' if video is None else f'{video!r} is not among them'}."
            )
        return by_video[video]

    @classmethod
    def empty(cls, video: str = "video") -> Detections:
        """No detections."""
        return cls(np.empty(0, np.str_), np.empty(0), np.empty((0, 2)), video)


class LoadedDetections(dict[str, Detections]):
    """Detections by the recordings' names, with the file that they were read from.

    Attributes:
        source: the file, for messages.
    """

    def __init__(self, detections: Mapping[str, Detections], source: str) -> None:
        super().__init__(detections)
        self.source = source


def load_detections(path: str | os.PathLike[str]) -> LoadedDetections:
    """Read an ActivityNet document; ``score300`` (the released program's field) is read as ``score``.

    Raises:
        DataError: no such file, not JSON, or not the ActivityNet form; the recording is named.
    """
    source = str(Path(path))
    return LoadedDetections(_parse(read_json(path, "detection file"), source), source)


def activitynet_document(detections: Mapping[str, Detections]) -> dict[str, Any]:
    """The detections as ActivityNet's JSON value."""
    results = {video: items.to_list() for video, items in detections.items()}
    return {"version": FORMAT_VERSION, "results": results, "external_data": {}}


def check_detections(detections: Mapping[str, Detections]) -> None:
    """Refuse what cannot be written to a file.

    Raises:
        DataError: no mapping of names to Detections, or a score or time that is NaN or infinite.
    """
    if not isinstance(detections, Mapping):
        raise DataError(
            f"detections: expected a mapping of names to Detections, got {type(detections).__name__}. Write "
            "{each.video: each for each in detections}."
        )
    for video, items in detections.items():
        if not isinstance(items, Detections):
            raise DataError(f"detections: expected Detections of '{video}', got {type(items).__name__}.")
        _check_finite(items, f"detections: '{video}'")


def _parse(document: Any, source: str) -> dict[str, Detections]:
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict):
        raise DataError(
            f"{source}: expected an ActivityNet detection document with a 'results' object; "
            "ground truth files have 'database' instead. Check which file was given."
        )
    return {video: _parse_video(video, items, source) for video, items in named_videos(results, source)}


def _parse_video(video: str, items: Any, source: str) -> Detections:
    labels: list[str] = []
    scores: list[float] = []
    segments: list[tuple[float, float]] = []
    names: dict[Any, str] = {}
    for number, item in enumerate(items if isinstance(items, list) else [items]):
        try:
            score = item["score"] if "score" in item else item["score300"]
            start, end = as_segment(item["segment"])
            labels.append(item["label"])
            scores.append(as_number(score))
            segments.append((start, end))
            names[item["label"]] = ""
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{source}: detection {number} of '{video}' is not an object with 'label', 'score' and "
                f"'segment': [start, end] in seconds ({type(error).__name__}: {error})."
            ) from error
        if end < start:
            raise _backwards(f"{source}: detection {number} of '{video}'", start, end)
    names = {label: require_label(label, f"{source}: '{video}'") for label in names}
    clean = np.array([names[label] for label in labels], np.str_)
    detections = Detections(clean, np.array(scores), np.array(segments), video)
    _check_finite(detections, f"{source}: '{video}'")
    return detections


def _backwards(name: str, start: float, end: float) -> DataError:
    return DataError(
        f"{name} ends before it starts ({start} to {end} s). Swap the two times, or leave it out."
    )


def _check_finite(detections: Detections, name: str) -> None:
    if not (np.isfinite(detections.scores).all() and np.isfinite(detections.segments).all()):
        raise DataError(
            f"{name} has a score or time that is NaN or infinite, which JSON has no numbers for. Leave these "
            "detections out, or look at what made them."
        )
