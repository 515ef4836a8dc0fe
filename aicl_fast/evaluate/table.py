"""Ground truth and detections as flat columns: what counts, in which order, and what was odd about it.

Every measure in this package starts here, so all of them agree on which videos, classes, annotations and
detections take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aicl_fast.data.annotations import AMBIGUOUS, GroundTruth, VideoAnnotation
from aicl_fast.data.detections import Detections
from aicl_fast.data.timing import late_detections
from aicl_fast.errors import DataError
from aicl_fast.evaluate.inputs import (
    DetectionsLike,
    GroundTruthLike,
    as_detections,
    as_ground_truth,
    touched_subsets,
)
from aicl_fast.evaluate.matching import Floats, Integers, Pairs, match, overlapping_pairs
from aicl_fast.evaluate.names import excluded_videos, label_cause, likely_cause
from aicl_fast.evaluate.protocol import Protocol
from aicl_fast.text import clean_text

DUPLICATE_SECONDS = 1e-3
"""Two annotations of one class whose starts and whose ends differ by at most this are the same one."""


@dataclass(frozen=True, eq=False)
class Table:
    """What is measured, as columns.

    Attributes:
        videos: V names: those of the ground truth, in its order, then those that only detections name.
        classes: C names.
        gt_video, gt_class: (G,) indices, sorted by video, then class, then the file's order.
        gt_segments: (G, 2) seconds.
        video, label: (D,) indices of the detections, by falling score.
        scores: (D,).
        segments: (D, 2) seconds.
        forgiven: (D,) true where the detection overlaps an Ambiguous segment and those forgive.
        durations: seconds of each annotated video, None where the annotations do not say.
        subset: the subset's name, or several joined by ``+``.
        protocol: what it was made by.
        counts: whole numbers for the reader, by name.
        warnings: what was odd, as sentences.
    """

    videos: tuple[str, ...]
    classes: tuple[str, ...]
    gt_video: Integers
    gt_class: Integers
    gt_segments: Floats
    video: Integers
    label: Integers
    scores: Floats
    segments: Floats
    forgiven: npt.NDArray[np.bool_]
    durations: tuple[float | None, ...]
    subset: str
    protocol: Protocol
    counts: Mapping[str, int]
    warnings: tuple[str, ...]

    @property
    def instances(self) -> Integers:
        """(C,) annotated instances of each class."""
        return np.bincount(self.gt_class, minlength=len(self.classes)).astype(np.int64)

    def match(self, tious: Floats) -> Integers:
        """(K, G) detection that takes each annotation at each threshold, D where none does."""
        many = len(self.classes)
        return match(
            self.video * many + self.label,
            self.segments,
            self.gt_video * many + self.gt_class,
            self.gt_segments,
            tious,
            self.protocol.ties,
        )

    def pairs(self, minimum: float) -> Pairs:
        """Detections and annotations of one video, of any classes, whose tIoU is at least ``minimum``."""
        # Annotations are sorted by video, then class: sorted for the search by video, too.
        lowest = np.full(len(self.gt_video), minimum)
        return overlapping_pairs(self.video, self.segments, self.gt_video, self.gt_segments, lowest, "file")


class _Selection(NamedTuple):
    """The videos and classes that are measured, and what is noticed on the way."""

    protocol: Protocol
    everything: GroundTruth
    videos: dict[str, VideoAnnotation]
    excluded: set[str]
    classes: tuple[str, ...]
    subset: str
    source: str
    """Of the detections, for messages."""
    counts: dict[str, int]
    warnings: list[str]


def build_table(
    ground_truth: GroundTruthLike, detections: DetectionsLike, protocol: Protocol | None = None
) -> Table:
    """Collect what takes part.

    Raises:
        DataError: a file that cannot be read, no such subset, no instance left, a score or time that is not
            finite, not one detected video among those that are measured, or not one label among the classes
            for a reason that can be seen.
        ConfigError: ``exclude`` names a video that there is not.
    """
    protocol = protocol or Protocol()
    truth, by_video = as_ground_truth(ground_truth), as_detections(detections)
    selection = _select(truth, by_video, protocol, by_video.source)
    gt_video, gt_class, gt_segments = _annotations(selection)
    videos, video, label, scores, segments = _detections(selection, by_video)
    known = np.nonzero(label >= 0)[0]
    if protocol.ties == "file":
        order = known[np.argsort(-scores[known], kind="stable")]
    else:
        order = known[np.argsort(scores[known], kind="stable")[::-1]]
    video, segments = video[order], segments[order]
    forgiven = np.zeros(len(order), dtype=np.bool_)
    for number, entry in enumerate(selection.videos.values() if protocol.ambiguous == "forgive" else ()):
        vague = entry.segments[np.array(entry.labels) == AMBIGUOUS] if AMBIGUOUS in entry.labels else ()
        inside = np.nonzero(video == number)[0]
        for start, end in vague:
            overlap = np.minimum(segments[inside, 1], end) - np.maximum(segments[inside, 0], start)
            forgiven[inside] |= overlap > 0
    return Table(
        videos=videos,
        classes=selection.classes,
        gt_video=gt_video,
        gt_class=gt_class,
        gt_segments=gt_segments,
        video=video,
        label=label[order],
        scores=scores[order],
        segments=segments,
        forgiven=forgiven,
        durations=tuple(entry.duration for entry in selection.videos.values()),
        subset=selection.subset,
        protocol=protocol,
        counts=selection.counts,
        warnings=tuple(selection.warnings),
    )


def _select(
    everything: GroundTruth, by_video: Mapping[str, Detections], protocol: Protocol, source: str
) -> _Selection:
    warnings: list[str] = []
    subset = protocol.subset
    touched, every = (touched_subsets(everything, names) for names in (by_video, everything.videos))
    if subset is None and touched and touched != every:
        subset = touched
        warnings.append(
            f"measured on subset {'+'.join(touched)}, the only one with detections (the file has "
            f"{', '.join(every)}); name it with subset (--subset)."
        )
    truth = everything if subset is None else everything.subset(subset)
    joined = "all" if subset is None else subset if isinstance(subset, str) else "+".join(subset)
    excluded = excluded_videos(protocol.exclude, {*everything.videos, *by_video}, warnings)
    videos = {name: video for name, video in truth.videos.items() if name not in excluded}
    _check_videos(by_video.keys() - excluded, videos, everything, joined, source)
    left = GroundTruth(videos, truth.source)
    warnings.extend(left.remarks())
    classes = left.classes if protocol.classes is None else tuple(protocol.classes)
    counts = {"excluded_videos": len(excluded & {*truth.videos, *by_video})}
    return _Selection(protocol, everything, videos, excluded, classes, joined, source, counts, warnings)


def _annotations(selection: _Selection) -> tuple[Integers, Integers, Floats]:
    """Video, class and segment of every instance, as :class:`Table` has them."""
    videos, names, source = selection.videos, selection.classes, selection.everything.source
    code = {name: number for number, name in enumerate(names)}
    labels = [label for video in videos.values() for label in video.labels]
    codes = np.array([code.get(label, -1) for label in labels], np.int64)
    numbers = np.repeat(np.arange(len(videos)), [len(video.labels) for video in videos.values()])
    spans = np.concatenate([np.empty((0, 2)), *(video.segments for video in videos.values())])
    if not (np.isfinite(spans).all() and (spans[:, 1] >= spans[:, 0]).all()):
        raise DataError(f"{source}: an annotation has a time that is not finite, or ends before it starts.")
    others = sum(label not in code and label != AMBIGUOUS for label in labels)
    taking = np.nonzero(codes >= 0)[0]
    if not len(taking):
        raise DataError(
            f"{source}: no annotated instance is left to measure against (subset {selection.subset}, "
            f"{len(names)} classes, {len(selection.excluded)} videos excluded). Check subset, classes and "
            "exclude."
        )
    # By video, then class, then the file's order.
    rows = taking[np.lexsort((taking, codes[taking], numbers[taking]))]
    repeated = _repeated(numbers[rows] * len(names) + codes[rows], spans[rows])
    count = selection.counts["duplicate_annotations"] = int(repeated.sum())
    if count:
        kept = "kept: each needs its own detection" if selection.protocol.duplicates == "keep" else "dropped"
        selection.warnings.append(
            f"{count} annotations repeat another of the same video and class (both times within "
            f"{DUPLICATE_SECONDS:g} s) and are {kept}."
        )
        if selection.protocol.duplicates == "drop":
            rows = rows[~repeated]
    if others:
        selection.warnings.append(f"{others} annotations are of classes not asked for and are skipped.")
    selection.counts.update(videos=len(videos), instances=len(rows))
    segments = spans[rows]
    if empty := int((segments[:, 0] == segments[:, 1]).sum()):
        selection.warnings.append(f"{empty} annotations have no length; their tIoU with anything is 0.")
    present = np.bincount(codes[rows], minlength=len(names)) > 0
    if absent := [name for name, has in zip(names, present, strict=True) if not has]:
        selection.warnings.append(
            f"{len(absent)} classes have no annotated instance, so no AP, and are not part of the mean: "
            f"{_some(absent)}."
        )
    return numbers[rows], codes[rows], segments


def _detections(
    selection: _Selection, by_video: Mapping[str, Detections]
) -> tuple[tuple[str, ...], Integers, Integers, Floats, Floats]:
    """Names of all videos; each detection's video, class (-1: another), score and segment, in file order."""
    place = {name: number for number, name in enumerate(selection.videos)}
    taken: list[tuple[int, Detections]] = []
    elsewhere: list[int] = []
    strangers: list[str] = []
    for name, items in by_video.items():
        if name in selection.excluded:
            continue
        if name not in place:
            if name in selection.everything.videos:
                elsewhere.append(len(items))
                continue
            if not len(items):
                continue
            strangers.append(name)
            place[name] = len(place)
        taken.append((place[name], items))
    code = {name: number for number, name in enumerate(selection.classes)}
    names = [label for _, items in taken for label in items.labels.tolist()]
    codes = {label: code.get(" ".join(clean_text(label).split()), -1) for label in set(names)}
    labels = np.array([codes[label] for label in names], dtype=np.int64)
    scores = np.concatenate([np.empty(0), *(items.scores for _, items in taken)])
    segments = np.concatenate([np.empty((0, 2)), *(items.segments for _, items in taken)])
    video = np.repeat(np.array([index for index, _ in taken], np.int64), [len(items) for _, items in taken])
    finite = np.isfinite(scores) & np.isfinite(segments).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{selection.source}: {int((~finite).sum())} detections have a score or time that is NaN or "
            f"infinite, the first in '{list(place)[video[~finite][0]]}'. Remove them, or find out where they "
            "came from."
        )
    missed = [name for name in selection.videos if name not in by_video]
    ignored = int((labels < 0).sum())
    selection.counts.update(
        detections=len(labels) - ignored,
        ignored_detections=ignored + sum(elsewhere),
        videos_only_detected=len(strangers),
        videos_not_detected=len(missed),
    )
    if ignored:
        unknown = list(dict.fromkeys(label for label in names if codes[label] < 0))
        selection.warnings.append(_unknown_labels(selection, unknown, ignored, len(labels)))
    if strangers:
        cause = likely_cause(strangers, selection.videos) or "Leave them out with exclude."
        selection.warnings.append(
            f"{len(strangers)} videos are detected in but not annotated ({_some(strangers)}); every "
            f"detection in them is a false positive. {cause}"
        )
    selection.warnings.extend(late_detections(selection.videos, by_video))
    if elsewhere:
        selection.warnings.append(
            f"{len(elsewhere)} videos with {sum(elsewhere)} detections are of other subsets and are ignored."
        )
    if missed:
        selection.warnings.append(
            f"{len(missed)} annotated videos are missing from the detections ({_some(missed)}); their "
            "instances count as missed."
        )
    return tuple(place), video, labels, scores, segments


def _check_videos(
    detected: Set[str],
    videos: Mapping[str, VideoAnnotation],
    everything: GroundTruth,
    subset: str,
    source: str,
) -> None:
    """Refuse detections of other videos than those that are measured: mAP would be 0, whatever they are."""
    if not detected or not detected.isdisjoint(videos):
        return
    others = touched_subsets(everything, detected)
    if others:
        raise DataError(
            f"{source}: not one of its {len(detected)} videos is of subset {subset}; they are of "
            f"{', '.join(others)}. Name another subset (--subset), or detect in these videos."
        )
    cause = likely_cause(sorted(detected), everything.videos) or "Check that both are of the same data set."
    raise DataError(
        f"{source}: not one of its {len(detected)} videos ({_some(sorted(detected))}) is among the "
        f"{len(everything.videos)} that {everything.source} annotates ({_some(everything.videos)}). {cause}"
    )


def _unknown_labels(selection: _Selection, unknown: list[str], ignored: int, count: int) -> str:
    """A sentence on the ``ignored`` of ``count`` detections whose labels are no classes.

    Raises:
        DataError: they are all, for a reason that can be seen.
    """
    names = selection.classes
    cause = label_cause(unknown, names)
    strange = selection.protocol.classes is None and min(len(unknown), len(names)) > 1
    if ignored == count and (cause or (strange and not set(unknown) & set(selection.everything.classes))):
        raise DataError(
            f"{selection.source}: not one detection has a label of the {len(names)} classes "
            f"({_some(names)}), the labels are {_some(unknown)}. "
            f"{cause or 'Check that both are of the same data set.'}"
        )
    return (
        f"{ignored} detections have labels that are not among the {len(names)} classes ({_some(unknown)}) "
        f"and are ignored.{cause and ' ' + cause}"
    )


def _repeated(group: Integers, segments: Floats) -> npt.NDArray[np.bool_]:
    """(G,) true where an earlier annotation of the same group (video and class) has the same two times."""
    repeated = np.zeros(len(group), dtype=np.bool_)
    # Sorted by start inside each group, so a repetition can only be among the next few rows.
    order = np.lexsort((segments[:, 0], group))
    rows, spans = group[order], segments[order]
    for step in range(1, len(order)):
        near = (rows[step:] == rows[:-step]) & (spans[step:, 0] - spans[:-step, 0] <= DUPLICATE_SECONDS)
        if not near.any():
            break
        same = near & (np.abs(spans[step:, 1] - spans[:-step, 1]) <= DUPLICATE_SECONDS)
        first, second = order[:-step][same], order[step:][same]
        repeated[np.maximum(first, second)] = True
    return repeated


def _some(names: Iterable[str], limit: int = 3) -> str:
    every = list(names)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")
