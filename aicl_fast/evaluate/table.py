"""Ground truth and detections as flat columns: what counts, in which order, and what was odd about it.

Every measure in this package starts here, so all of them agree on which videos, classes, annotations and
detections take part.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from aicl_fast.data.annotations import AMBIGUOUS, GroundTruth, require_class
from aicl_fast.data.detections import Detections, load_detections
from aicl_fast.data.timing import late_detections
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.evaluate.names import clean_names, excluded_videos, label_cause, likely_cause
from aicl_fast.text import clean_text, require_label

GroundTruthLike = GroundTruth | str | os.PathLike[str]
DetectionsLike = Mapping[str, Detections] | str | os.PathLike[str]
Duplicates = Literal["keep", "drop"]
Ambiguous = Literal["drop", "forgive"]
Ties = Literal["activitynet", "file"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

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
        missed_videos: names of ground-truth videos that the detections do not mention.
        subset: the subset's name, or several joined by ``+``.
        ties: how equal scores and equal tIoUs are ordered.
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
    missed_videos: tuple[str, ...]
    subset: str
    ties: Ties
    counts: Mapping[str, int]
    warnings: tuple[str, ...]

    @property
    def instances(self) -> Integers:
        """(C,) annotated instances of each class."""
        return np.bincount(self.gt_class, minlength=len(self.classes)).astype(np.int64)


def as_ground_truth(source: GroundTruthLike) -> GroundTruth:
    """The annotations in a file, or those given, with clean names and labels."""
    if not isinstance(source, GroundTruth):
        return GroundTruth.load(source)
    labels = {label for video in source.videos.values() for label in video.labels}
    clean = {label: require_class(label, source.source) for label in labels}
    videos = clean_names(source.videos, source.source)
    if any(label != name for label, name in clean.items()):
        videos = {
            name: replace(video, labels=tuple(clean[label] for label in video.labels))
            for name, video in videos.items()
        }
    return replace(source, videos=videos)


def as_detections(source: DetectionsLike) -> Mapping[str, Detections]:
    """The detections in a file, or those given, by clean names.

    Raises:
        DataError: neither a path nor a mapping from video names to detections.
    """
    if isinstance(source, (str, os.PathLike)):
        return load_detections(source)
    if not isinstance(source, Mapping) or not all(isinstance(item, Detections) for item in source.values()):
        raise DataError(
            "detections: expected a path or a mapping from video names to Detections, got "
            f"{type(source).__name__}. For one recording give {{name: detections}}."
        )
    return clean_names(source, "detections")


def build_table(
    ground_truth: GroundTruthLike,
    detections: DetectionsLike,
    *,
    subset: str | Iterable[str] | None = None,
    classes: Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    duplicates: Duplicates = "keep",
    ambiguous: Ambiguous = "drop",
    ties: Ties = "activitynet",
) -> Table:
    """Collect what takes part; the arguments are those of ``mean_average_precision``.

    Raises:
        DataError: a file that cannot be read, no such subset, no instance left, a score or time that is not
            finite, not one detected video among those that are measured, or not one label among the classes
            for a reason that can be seen.
        ConfigError: ``duplicates``, ``ambiguous`` or ``ties`` is not one of its values, or ``exclude`` names
            a video that there is not.
    """
    for name, value, kind in (
        ("duplicates", duplicates, Duplicates),
        ("ambiguous", ambiguous, Ambiguous),
        ("ties", ties, Ties),
    ):
        if value not in get_args(kind):
            raise ConfigError(f"{name}: expected {' or '.join(map(repr, get_args(kind)))}, got {value!r}.")
    truth = as_ground_truth(ground_truth)
    found = as_detections(detections)
    warnings: list[str] = []
    counts: dict[str, int] = {}

    everything = truth
    if subset is None:
        subset = _infer_subset(truth, found, warnings)
    if subset is not None:
        subset = (subset,) if isinstance(subset, str) else tuple(subset)
        truth = truth.subset(subset)
    excluded = excluded_videos(exclude, {*everything.videos, *found}, warnings)
    there = {name: video for name, video in truth.videos.items() if name not in excluded}
    counts["excluded_videos"] = len(excluded & (set(truth.videos) | set(found)))
    source = "detections" if isinstance(detections, Mapping) else str(detections)
    _check_videos(found.keys() - excluded, there, everything, _joined(subset), source)
    warnings.extend(GroundTruth(there).remarks())

    names = _class_names(there.values(), classes, truth.source)
    class_index = {name: number for number, name in enumerate(names)}

    # Ground truth.
    videos = list(there)
    index_of = class_index.get
    gt_codes = np.array([index_of(label, -1) for video in there.values() for label in video.labels], np.int64)
    gt_videos = np.repeat(np.arange(len(there)), [len(video.labels) for video in there.values()])
    gt_spans = np.concatenate([np.empty((0, 2)), *(video.segments for video in there.values())])
    if not (np.isfinite(gt_spans).all() and (gt_spans[:, 1] >= gt_spans[:, 0]).all()):
        raise DataError(
            f"{truth.source}: an annotation has a time that is not finite, or ends before it starts."
        )
    vague: dict[int, Floats] = {}
    vague_labels = 0
    for number, video in enumerate(there.values()):
        if AMBIGUOUS in video.labels:
            vague[number] = video.segments[np.array(video.labels) == AMBIGUOUS]
            vague_labels += len(vague[number])
    taking = gt_codes >= 0
    other_labels = int((~taking).sum()) - (0 if AMBIGUOUS in class_index else vague_labels)
    if not taking.any():
        raise DataError(
            f"{truth.source}: no annotated instance is left to measure against (subset "
            f"{_joined(subset)}, {len(names)} classes, {len(excluded)} videos excluded). Check subset, "
            "classes and exclude."
        )
    columns = np.stack([gt_videos, gt_codes, np.arange(len(gt_codes))], axis=1)[taking]
    gt_segments = gt_spans[taking]
    order = np.lexsort((columns[:, 2], columns[:, 1], columns[:, 0]))
    columns, gt_segments = columns[order], gt_segments[order]
    repeated = _repeated(columns, gt_segments)
    counts["duplicate_annotations"] = int(repeated.sum())
    if repeated.any():
        kept = "kept: each needs its own detection" if duplicates == "keep" else "dropped"
        warnings.append(
            f"{int(repeated.sum())} annotations repeat another of the same video and class (both times "
            f"within {DUPLICATE_SECONDS:g} s) and are {kept}."
        )
        if duplicates == "drop":
            columns, gt_segments = columns[~repeated], gt_segments[~repeated]
    if other_labels:
        warnings.append(f"{other_labels} annotations are of classes not asked for and are left out.")
    empty = int((gt_segments[:, 0] == gt_segments[:, 1]).sum())
    if empty:
        warnings.append(f"{empty} annotations have no length; their tIoU with anything is 0.")
    present = np.bincount(columns[:, 1], minlength=len(names)) > 0
    absent = [name for name, has in zip(names, present, strict=True) if not has]
    if absent:
        warnings.append(
            f"{len(absent)} classes have no annotated instance, so no AP, and are not part of the mean: "
            f"{_some(absent)}."
        )

    # Detections.
    video_index = {name: number for number, name in enumerate(videos)}
    taken: list[tuple[int, Detections]] = []
    elsewhere = dropped_elsewhere = 0
    strangers: list[str] = []
    for name, items in found.items():
        if name in excluded:
            continue
        if name not in video_index:
            if name in everything.videos:
                elsewhere += 1
                dropped_elsewhere += len(items)
                continue
            if not len(items):
                continue
            strangers.append(name)
            video_index[name] = len(videos)
            videos.append(name)
        taken.append((video_index[name], items))
    label_names = [label for _, items in taken for label in items.labels.tolist()]
    codes = {label: index_of(" ".join(clean_text(label).split()), -1) for label in set(label_names)}
    label_column = np.array([codes[label] for label in label_names], dtype=np.int64)
    score_column = np.concatenate([np.empty(0), *(items.scores for _, items in taken)])
    segment_column = np.concatenate([np.empty((0, 2)), *(items.segments for _, items in taken)])
    video_column = np.repeat(
        np.array([index for index, _ in taken], dtype=np.int64), [len(items) for _, items in taken]
    )
    unknown = list(dict.fromkeys(label_names[i] for i in np.nonzero(label_column < 0)[0]))
    if not (np.isfinite(score_column).all() and np.isfinite(segment_column).all()):
        bad = ~(np.isfinite(score_column) & np.isfinite(segment_column).all(axis=1))
        raise DataError(
            f"detections: {int(bad.sum())} have a score or time that is NaN or infinite, the first in "
            f"'{videos[video_column[bad][0]]}'. Remove them, or find out where they came from."
        )
    known = np.nonzero(label_column >= 0)[0]
    if ties == "file":
        order = known[np.argsort(-score_column[known], kind="stable")]
    else:
        order = known[np.argsort(score_column[known], kind="stable")[::-1]]

    counts["videos"] = len(there)
    counts["instances"] = len(columns)
    counts["detections"] = len(order)
    counts["ignored_detections"] = len(label_column) - len(known) + dropped_elsewhere
    counts["videos_only_detected"] = len(strangers)
    missed = tuple(name for name in there if name not in found)
    counts["videos_not_detected"] = len(missed)
    if unknown:
        cause = label_cause(unknown, names)
        strange = classes is None and min(len(unknown), len(names)) > 1
        if not len(known) and (cause or (strange and not set(unknown) & set(everything.classes))):
            raise DataError(
                f"{source}: not one detection has a label of the {len(names)} classes ({_some(names)}), the "
                f"labels are {_some(unknown)}. {cause or 'Check that both are of the same data set.'}"
            )
        warnings.append(
            f"{len(label_column) - len(known)} detections have labels that are not among the {len(names)} "
            f"classes ({_some(unknown)}) and are ignored.{cause and ' ' + cause}"
        )
    if strangers:
        cause = likely_cause(strangers, there) or "Leave them out with exclude."
        warnings.append(
            f"{len(strangers)} videos are detected in but not annotated ({_some(strangers)}); every "
            f"detection in them is a false positive. {cause}"
        )
    warnings.extend(late_detections(there, found))
    if elsewhere:
        warnings.append(
            f"{elsewhere} videos with {dropped_elsewhere} detections are of other subsets and are ignored."
        )
    if missed:
        warnings.append(
            f"{len(missed)} annotated videos are missing from the detections ({_some(missed)}); their "
            "instances count as missed."
        )

    forgiven = np.zeros(len(order), dtype=np.bool_)
    for number, vague_segments in vague.items() if ambiguous == "forgive" else ():
        inside = np.nonzero(video_column[order] == number)[0]
        start, end = segment_column[order[inside]].T
        overlap = np.minimum(end[:, None], vague_segments[:, 1]) - np.maximum(
            start[:, None], vague_segments[:, 0]
        )
        forgiven[inside] = (overlap > 0).any(axis=1)

    return Table(
        videos=tuple(videos),
        classes=names,
        gt_video=columns[:, 0].copy(),
        gt_class=columns[:, 1].copy(),
        gt_segments=gt_segments,
        video=video_column[order],
        label=label_column[order],
        scores=score_column[order],
        segments=segment_column[order],
        forgiven=forgiven,
        missed_videos=missed,
        subset=_joined(subset),
        ties=ties,
        counts=counts,
        warnings=tuple(warnings),
    )


def check_tious(tious: Iterable[float], name: str = "tiou_thresholds") -> Floats:
    """(K,) thresholds.

    Raises:
        ConfigError: none, or one that is not above 0 and at most 1.
    """
    values = np.array([float(value) for value in tious], dtype=np.float64)
    if not len(values) or not ((values > 0) & (values <= 1)).all():
        raise ConfigError(f"{name}: expected numbers above 0 and at most 1, got {values.tolist()}.")
    return values


def _infer_subset(
    truth: GroundTruth, found: Mapping[str, Detections], warnings: list[str]
) -> str | tuple[str, ...] | None:
    """The subsets that the detections touch, where the file has more than these."""
    every = {video.subset for video in truth.videos.values()}
    touched = {truth.videos[name].subset for name in found if name in truth.videos}
    if touched and touched != every:
        chosen = tuple(sorted(touched))
        warnings.append(
            f"measured on subset {_joined(chosen)}, the only one with detections (the file has "
            f"{', '.join(sorted(every))}); name it with subset (--subset)."
        )
        return chosen
    return None


def _check_videos(
    detected: Set[str], there: Collection[str], everything: GroundTruth, subset: str, source: str
) -> None:
    """Refuse detections of other videos than those that are measured: mAP would be 0, whatever they are."""
    if not detected or not detected.isdisjoint(there):
        return
    others = sorted({everything.videos[name].subset for name in detected if name in everything.videos})
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


def _class_names(videos: Iterable[Any], classes: Iterable[str] | None, source: str) -> tuple[str, ...]:
    if classes is None:
        return tuple(sorted({label for video in videos for label in video.labels} - {AMBIGUOUS}))
    given = (classes,) if isinstance(classes, str) else tuple(classes)
    names = tuple(require_label(name, "classes", error=ConfigError) for name in given)
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"classes: expected class names, each once, got {names!r} (measuring {source}).")
    return names


def _repeated(columns: Integers, segments: Floats) -> npt.NDArray[np.bool_]:
    """(G,) true where an earlier annotation of the same video and class has the same two times."""
    repeated = np.zeros(len(columns), dtype=np.bool_)
    # Sorted by start inside each group, so a repetition can only be among the next few rows.
    order = np.lexsort((columns[:, 2], segments[:, 0], columns[:, 1], columns[:, 0]))
    rows, spans = columns[order], segments[order]
    for step in range(1, len(order)):
        near = (
            (rows[step:, :2] == rows[:-step, :2]).all(axis=1)
            & (spans[step:, 0] - spans[:-step, 0] <= DUPLICATE_SECONDS)
        )  # fmt: skip
        if not near.any():
            break
        same = near & (np.abs(spans[step:, 1] - spans[:-step, 1]) <= DUPLICATE_SECONDS)
        first, second = order[:-step][same], order[step:][same]
        repeated[np.maximum(first, second)] = True
    return repeated


def _joined(subset: str | Iterable[str] | None) -> str:
    if subset is None:
        return "all"
    return subset if isinstance(subset, str) else "+".join(subset)


def _some(names: Iterable[str], limit: int = 3) -> str:
    every = list(names)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")
