"""How good trained models are on recordings that were held out of their training.

With times, a model's detections of them are measured, with the decoding chosen on the other held-out ones.
With labels alone, by how well its detections agree with those of the other models (docs/accuracy.md).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aicl_fast.config import Config
from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.detections import Detections
from aicl_fast.evaluate.matching import Floats
from aicl_fast.tune import Curves, timed_videos, tune, weights_curves
from aicl_fast.tune.search import LEAST_INSTANCES, Progress, Recordings, jackknife_error, parts_weights

FOLDS = 3
SHARE = 0.2
"""Of the training recordings, how many are held out."""
LEAST_SOURCES = 10
"""Sources that recordings were cut from, below which each recording counts as one."""
_LAST_NUMBER = re.compile(r"[_-]\d+$")
_CLEAR = 0.5
"""A detection counts as an action for other models if its score is this share of its class's best."""
_SEED = 0
"""Of the parts of the recordings: the same for all models."""


@dataclass(frozen=True)
class Judgement:
    """How good a model is.

    Attributes:
        value: average mAP, as a fraction: against the annotations, or against the other models.
        parts: (P,) the same without each part of the recordings, for the uncertainty.
        config: the model's settings, with the γ and the decoding that were chosen.
    """

    value: float
    parts: tuple[float, ...]
    config: Config

    def error(self, other: Judgement | None = None) -> float:
        """The standard error of the value or, with another judgement, of their difference."""
        before = np.zeros(len(self.parts)) if other is None else np.array(other.parts)
        return jackknife_error(np.array(self.parts) - before)


@dataclass(frozen=True)
class HeldOut:
    """The recordings that judge.

    Attributes:
        videos: their names.
        timed: whether their times judge, or only the agreement of the models.
    """

    videos: tuple[str, ...]
    timed: bool


def hold_out(dataset: Dataset, seed: int) -> HeldOut:
    """Choose training recordings to judge by: with times if there are enough of them.

    A fifth of the training recordings, as far as so many have times. Those of one source (:func:`sources`)
    are held out together. No class loses more than half of its training recordings.
    """
    rng = np.random.default_rng(seed)
    names = dataset.videos["train"]
    videos = dataset.ground_truth.videos
    wanted = max(FOLDS, round(SHARE * len(names)))
    timed = timed_videos(dataset.truth("train"))
    chosen = _drawn(timed, dataset, min(wanted, len(timed)), rng)
    instances = sum(int(videos[name].timed.sum()) for name in chosen)
    if instances >= LEAST_INSTANCES and len(chosen) >= FOLDS:
        return HeldOut(chosen, True)
    return HeldOut(_drawn(names, dataset, wanted, rng), False)


def sources(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Recordings by what they were cut from: what stands before the last number of their names.

    ``salad_01_00096`` and ``salad_01_00192`` are of one source, and may overlap. Where this gives fewer than
    ten sources, as with ``video_001``, ``video_002``, each recording is one of its own.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_LAST_NUMBER.sub("", name), []).append(name)
    if len(found) < LEAST_SOURCES:
        return {name: (name,) for name in names}
    return {source: tuple(cut) for source, cut in found.items()}


def _drawn(names: Sequence[str], dataset: Dataset, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """About so many of these recordings, those of one source together."""
    videos = dataset.ground_truth.videos
    every = dataset.videos["train"]
    left = Counter(label for name in every for label in videos[name].classes)
    least = {label: (number + 1) // 2 for label, number in left.items()}
    cut = list(sources(every).values())
    allowed = set(names)
    chosen: list[str] = []
    for index in rng.permutation(len(cut)).tolist():
        labels = Counter(label for name in cut[index] for label in videos[name].classes)
        fits = all(left[label] - number >= least[label] for label, number in labels.items())
        if len(chosen) < count and fits and allowed.issuperset(cut[index]):
            chosen += cut[index]
            left -= labels
    return tuple(sorted(chosen))


def curves_of(weights: str | os.PathLike[str], dataset: Dataset, held: HeldOut) -> dict[str, Curves]:
    """The held-out recordings' curves."""
    return weights_curves(weights, dataset, "train", held.videos)


def by_times(
    curves: Mapping[str, Curves], dataset: Dataset, trials: int, progress: Progress = lambda done, total: None
) -> Judgement:
    """A model by its curves and the annotated times.

    Its γ and decoding are chosen on all of the recordings, and each is measured with what was chosen without
    its fold. If that gains no more than the gain's standard error, they stay as they are.
    """
    truth, config = dataset.ground_truth, dataset.config
    recordings = _recordings(curves, truth, config)
    weights = parts_weights(len(curves), _SEED)
    before = recordings.averages(recordings.detections(config), weights)
    tuned = tune(curves, truth, config, trials=trials, folds=FOLDS, seed=_SEED, progress=progress)
    after = recordings.averages(tuned.left_out, weights)
    gain = after - before
    if gain[0] <= jackknife_error(gain[1:]):
        return _judgement(before, config)
    return _judgement(after, tuned.config)


def by_agreement(
    curves: Mapping[str, Mapping[str, Curves]], configs: Mapping[str, Config], truth: GroundTruth
) -> dict[str, Judgement]:
    """Models by how well their detections agree: the mean mAP of each one's against every other one's.

    The other one's detections of the classes that a recording has count as its actions, if their score is at
    least half of the class's best.

    Args:
        curves: of the same recordings, by the model's name.
        configs: the models' settings.
        truth: the recordings' labels.
    """
    found = {
        name: _recordings(each, truth, configs[name]).detections(configs[name])
        for name, each in curves.items()
    }
    actions = {name: _as_truth(each, truth) for name, each in found.items()}
    result = {}
    for name, each in curves.items():
        weights = parts_weights(len(each), _SEED)
        others = [
            _recordings(each, annotated, configs[name]).averages(found[name], weights)
            for other, annotated in actions.items()
            if other != name and annotated.classes
        ]
        averages = np.sum([np.zeros(len(weights)), *others], axis=0) / max(1, len(curves) - 1)
        result[name] = _judgement(averages, configs[name])
    return result


def _judgement(averages: Floats, config: Config) -> Judgement:
    """From the mAP on all recordings, and then without each part."""
    return Judgement(float(averages[0]), tuple(averages[1:].tolist()), config)


def _recordings(curves: Mapping[str, Curves], truth: GroundTruth, config: Config) -> Recordings:
    return Recordings(curves, truth, config).of(sorted(curves))


def _as_truth(found: Mapping[str, Detections], truth: GroundTruth) -> GroundTruth:
    """Detections as annotations."""
    return GroundTruth(
        {name: _annotated(each, truth.videos[name]) for name, each in found.items()}, "detections"
    )


def _annotated(found: Detections, video: VideoAnnotation) -> VideoAnnotation:
    kept = np.zeros(len(found), bool)
    for label in video.classes:
        mine = found.labels == label
        if mine.any():
            best = found.scores[mine].max()
            kept |= mine & (found.scores >= best - (1 - _CLEAR) * abs(best))
    return replace(
        video, labels=tuple(found.labels[kept].tolist()), segments=found.segments[kept].astype(np.float64)
    )
