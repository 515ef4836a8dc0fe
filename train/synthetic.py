"""Synthetic data shaped like THUMOS14's I3D features, for speed, scale and ablations without the real ones.

It is generated, it says so in every file, and a result on it says nothing of real videos. What it has in
common with them is the shape (videos, lengths, instances, two streams of non-negative features) and the two
kinds of error that AICL is about (the paper's Fig. 1), each with a knob:

- The first stream shows a class by its *scene*, which is also there before and after the action
  (``scene_confusion``): a branch that looks for the class calls background action.
- The second stream shows it by its *motion*, of which a part is common to all motion, and people also move
  when nothing of interest happens (``motion_confusion``): a branch that looks for action calls that action.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.data.dataset import SPLITS, Split
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.files import atomic_folder, read_json, write_json, write_text

Floats = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Called with (videos done, all videos)."""

MARKER = "synthetic.json"
"""The file that tells a synthetic set from others; it holds the settings."""
SETTINGS = "settings.toml"
"""Settings for ``aicl-fast train --config``: the set's classes and widths over the preset thumos14."""
_VERSION = 1

# Measured on THUMOS14's annotations (200 training videos with 3007 instances, 210 test videos with 3311):
# instances a video: median 8 and 9, mean 15.0 and 15.8, log-deviation 1.18 and 1.14, most 128 and 218;
# seconds an instance: median 2.9 and 3.2, log-mean 1.05 and 1.16, log-deviation 0.83, 98 % in 0.5 to 18.2 s;
# of which within one video 0.50, between videos 0.74 to 0.81 (mostly between classes: medians 1.1 to 9.7);
# log-correlation of instances and last annotated second 0.68 and 0.71; gaps: median 2.5 s, 95 % below 30 s;
# two classes in 27 of 200 and 34 of 210 videos.
_COUNT_LOG_MEAN, _COUNT_LOG_DEVIATION, _COUNT_LENGTH_CORRELATION = 2.25, 1.15, 0.68
_MAX_COUNT = 218
_SECONDS_LOG_MEAN, _SECONDS_BETWEEN_CLASSES, _SECONDS_BETWEEN_VIDEOS, _SECONDS_WITHIN = 1.22, 0.6, 0.25, 0.5
_SECONDS_RANGE = (0.2, 118.0)
_GAP_LOG_DEVIATION = 1.3
_MOST_COVERED = 0.85
# Lengths are not annotated; the last annotated second has log-mean 4.73 and 4.84. Drawn until in the range.
_LENGTH_LOG_MEAN, _LENGTH_LOG_DEVIATION = 5.1, 0.85

# The last layer of an RGB I3D trained on Kinetics normalises each channel to deviation 1 around a bias, which
# is -0.40 ± 0.07 over its 1024 channels, and rectifies: with normal inputs 34 % of its values are positive
# and their mean is 0.23. A segment's feature averages 2 x 7 x 7 such values, which are far from independent;
# here it averages four.
_BIAS = (-0.40, 0.07)
_POSITIONS = 4
# How the deviation of 1 divides: what a whole recording looks like, what drifts over seconds, and the rest.
_VARIANCE_VIDEO, _VARIANCE_DRIFT, _VARIANCE_REST = 0.25, 0.25, 0.5
_DRIFT_SEGMENTS = 6
_GAIN_DEVIATION = 0.2
# A cue raises one channel in twenty, by different amounts.
_CUE_CHANNELS = 0.05
_BACKGROUNDS = 12
_UNRELATED = 8
_BACKGROUND_SECONDS = 15.0
_UNRELATED_SECONDS = 4.0
# Limits of what may be asked for. The product of two strengths still fits into float16.
_STRONGEST = 50.0
_DAY = 86400.0


@dataclass(frozen=True)
class SyntheticConfig:
    """What is generated. The defaults are THUMOS14's size."""

    train_videos: int = 200
    test_videos: int = 210
    classes: int = 20
    width: int = 1024
    """Features a segment in each stream."""
    shortest: float = 31.0
    """Seconds of the shortest recording that may be."""
    longest: float = 658.0
    fps: float = 25.0
    frames_per_segment: int = 16
    two_class_share: float = 0.15
    """Videos that hold two classes; the others hold one."""
    strength: float = 1.0
    """How far a cue raises its channels, in deviations of a channel."""
    scene_confusion: float = 0.7
    """Strength of a class's scene outside its actions, as a share of that inside; 0 removes this error."""
    scene_seconds: float = 8.0
    """How long the scene lasts before and after an action, on average."""
    motion_confusion: float = 0.7
    """Strength of unrelated motion, as a share of an action's; 0 removes this error."""
    motion_share: float = 0.25
    """Share of the background with unrelated motion."""
    background: float = 0.7
    """Strength of what else is seen in both streams, as a share of an action's: how lively background is."""
    dtype: str = "float32"
    """On disk: float32, or float16 for half the size."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_videos", "test_videos", "classes", "width", "frames_per_segment"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(1 <= self.fps <= 1000, "fps", "from 1 to 1000", self.fps)
        _require(self.shortest >= 5, "shortest", "at least 5 seconds", self.shortest)
        _require(self.longest > self.shortest, "longest", "more than shortest", self.longest)
        _require(self.longest <= _DAY, "longest", f"at most {_DAY:g} seconds", self.longest)
        for name in ("two_class_share", "motion_share"):
            _require(0 <= getattr(self, name) <= 1, name, "between 0 and 1", getattr(self, name))
        for name in ("strength", "scene_confusion", "motion_confusion", "background"):
            value = getattr(self, name)
            _require(0 <= value <= _STRONGEST, name, f"from 0 to {_STRONGEST:g}", value)
        _require(0 <= self.scene_seconds <= _DAY, "scene_seconds", f"from 0 to {_DAY:g}", self.scene_seconds)
        _require(self.seed >= 0, "seed", "at least 0", self.seed)
        _require(self.dtype in ("float32", "float16"), "dtype", "float32 or float16", self.dtype)

    @classmethod
    def with_values(cls, values: Mapping[str, str]) -> SyntheticConfig:
        """The defaults with fields replaced by values from the command line.

        Raises:
            ConfigError: no such field (the nearest are named), or a value of the wrong kind.
        """
        kinds: dict[str, type[Any]] = {f.name: type(f.default) for f in fields(cls)}
        parsed: dict[str, Any] = {}
        for name, text in values.items():
            if name not in kinds:
                close = difflib.get_close_matches(name, list(kinds), n=3, cutoff=0.5)
                hint = f" Did you mean {' or '.join(close)}?" if close else ""
                raise ConfigError(f"{name}: there is no such setting.{hint} ({', '.join(kinds)})")
            try:
                parsed[name] = kinds[name](text)
            except ValueError:
                words = {int: "a whole number", float: "a number"}
                raise ConfigError(f"{name}: expected {words[kinds[name]]}, got {text!r}.") from None
        return cls(**parsed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """``synthetic_00`` and so on."""
        return tuple(f"synthetic_{number:02d}" for number in range(self.classes))

    @property
    def segment_seconds(self) -> float:
        """Seconds a segment."""
        return self.frames_per_segment / self.fps


@dataclass(frozen=True)
class Timeline:
    """When what happens in one video.

    Attributes:
        duration: seconds.
        labels: (N,) class numbers of the instances, in the order of time.
        segments: (N, 2) their starts and ends in seconds; they do not overlap.
    """

    duration: float
    labels: npt.NDArray[np.int64]
    segments: Times


@dataclass(frozen=True)
class SyntheticSet:
    """What a folder holds. As text, a line about it."""

    root: Path
    videos: dict[Split, int]
    classes: int
    instances: int
    segments: int
    bytes: int

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {split}" for split, count in self.videos.items())
        return (
            f"synthetic data, {counts} videos, {self.classes} classes, {self.instances} instances, "
            f"{self.segments} segments, {self.bytes / 1e9:.2f} GB; train with --config {self.root / SETTINGS}"
        )


def draw_timeline(config: SyntheticConfig, split: Split, number: int) -> Timeline:
    """When what happens in one video; the same for the same settings.

    Numbers, lengths and gaps are drawn log-normally, as measured on THUMOS14. A recording too short for what
    was drawn keeps as many instances as fit in 85 % of it.
    """
    rng = _generator(config, split, number, "timeline")
    segment = config.segment_seconds
    while True:
        z = rng.standard_normal()
        length = np.exp(_LENGTH_LOG_MEAN + _LENGTH_LOG_DEVIATION * z)
        if config.shortest <= length <= config.longest:
            break
        # A narrow range that the usual lengths seldom meet is drawn from evenly.
        if rng.random() < 0.02:
            length = rng.uniform(config.shortest, config.longest)
            break
    # A whole number of segments, so that the annotated duration is what the features cover.
    duration = max(2, round(float(length) / segment)) * segment

    own = _COUNT_LENGTH_CORRELATION * z + np.sqrt(1 - _COUNT_LENGTH_CORRELATION**2) * rng.standard_normal()
    count = int(np.clip(np.rint(np.exp(_COUNT_LOG_MEAN + _COUNT_LOG_DEVIATION * own)), 1, _MAX_COUNT))

    # Classes take turns, so that each is in every split that has as many videos.
    first = number % config.classes
    chosen = np.array([first])
    if config.classes > 1 and rng.random() < config.two_class_share:
        chosen = np.array([first, (first + rng.integers(1, config.classes)) % config.classes])
    labels = chosen[rng.integers(0, len(chosen), count)]
    labels[: len(chosen)] = chosen[: len(labels)]
    rng.shuffle(labels)

    video = _SECONDS_BETWEEN_VIDEOS * rng.standard_normal()
    logs = _SECONDS_LOG_MEAN + _class_effects(config)[labels] + video
    seconds = np.exp(logs + _SECONDS_WITHIN * rng.standard_normal(count))
    seconds = np.clip(seconds, *_SECONDS_RANGE)
    kept = max(1, int(np.searchsorted(np.cumsum(seconds), _MOST_COVERED * duration, side="right")))
    labels, seconds = labels[:kept], np.minimum(seconds[:kept], _MOST_COVERED * duration)

    gaps = np.exp(_GAP_LOG_DEVIATION * rng.standard_normal(kept + 1))
    gaps *= (duration - seconds.sum()) / gaps.sum()
    starts = np.cumsum(gaps[:-1]) + np.concatenate([[0.0], np.cumsum(seconds[:-1])])
    # Tenths of a second, as the real annotations.
    ends = np.round(np.minimum(starts + seconds, duration), 1)
    starts = np.minimum(np.round(starts, 1), ends - 0.1)
    starts[1:] = np.maximum(starts[1:], ends[:-1])
    long_enough = ends - starts >= 0.05
    times = np.stack([starts, ends], axis=1)[long_enough].clip(0.0, duration)
    return Timeline(float(duration), labels[long_enough].astype(np.int64), times)


def draw_features(config: SyntheticConfig, split: Split, number: int) -> tuple[Floats, Floats]:
    """Both streams of one video, (n, width) float32 each, non-negative; n follows from the duration."""
    timeline = draw_timeline(config, split, number)
    rng = _generator(config, split, number, "features")
    cues = _Cues(config)
    count = round(timeline.duration / config.segment_seconds)
    action = _covered(timeline.segments, count, config.segment_seconds)  # (N, n)
    present = action.max(axis=0)
    strength = config.strength

    # Instances differ in how clearly they show.
    clarity = np.exp(0.35 * rng.standard_normal(len(action))).astype(np.float32)[:, None]
    shown = action * clarity
    rgb = np.zeros((count, config.width), np.float32)
    flow = np.zeros_like(rgb)
    for label in np.unique(timeline.labels):
        mine = timeline.labels == label
        inside = shown[mine].max(axis=0)
        widened = _widened(timeline.segments[mine], config, rng)
        around = _covered(widened, count, config.segment_seconds).max(axis=0)
        # Not during another class's action: that one has its own scene.
        around = np.where(present > 0, 0.0, around) * config.scene_confusion
        scene = np.maximum(inside, around.astype(np.float32))
        rgb += strength * (scene[:, None] * cues.scene[label] + 0.5 * inside[:, None] * cues.pose[label])
        flow += strength * inside[:, None] * (0.7 * cues.motion[label] + 0.7 * cues.any_motion)

    quiet = 1 - present
    unrelated = _bouts(count, config, rng, _UNRELATED_SECONDS, config.motion_share)
    kinds = rng.integers(0, _UNRELATED, len(unrelated))
    for (start, end), kind in zip(unrelated, kinds, strict=True):
        level = strength * config.motion_confusion * quiet[start:end, None]
        flow[start:end] += level * (0.7 * cues.unrelated[kind] + 0.7 * cues.any_motion)

    # Each recording has a few backgrounds that follow one another, seen in both streams.
    places = rng.choice(_BACKGROUNDS, size=3, replace=False)
    for start, end in _bouts(count, config, rng, _BACKGROUND_SECONDS, 1.0):
        place = rng.choice(places)
        level = strength * config.background * np.exp(0.35 * rng.standard_normal())
        rgb[start:end] += level * cues.background_rgb[place]
        flow[start:end] += 0.5 * level * cues.background_flow[place]
    return _rectified(rgb, cues.bias_rgb, rng), _rectified(flow, cues.bias_flow, rng)


def write_synthetic(
    root: str | os.PathLike[str], config: SyntheticConfig | None = None, progress: Progress | None = None
) -> SyntheticSet:
    """Write a synthetic data set, unless it is there already.

    Args:
        root: the folder to make, in the layout that :class:`aicl_fast.data.dataset.Dataset` reads.
        config: what is generated; the same settings give the same files. None is THUMOS14's size.
        progress: called with (videos done, all videos).
    Returns:
        What the folder holds.
    Raises:
        DataError: ``root`` holds something else, or a synthetic set of other settings; nothing is
            overwritten.
    """
    config = SyntheticConfig() if config is None else config
    target = Path(root)
    stamp = {"synthetic": True, "made_by": "aicl_fast.train.synthetic", "version": _VERSION}
    stamp["settings"] = asdict(config)
    if (target / MARKER).is_file():
        return _existing(target, stamp)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: holds files that are not a synthetic set. Choose another folder.")
    with atomic_folder(target) as scratch:
        database: dict[str, Any] = {}
        counts: dict[Split, int] = {"train": config.train_videos, "test": config.test_videos}
        written = segments = instances = 0
        for split in SPLITS:
            for stream in ("rgb", "flow"):
                (scratch / "features" / split / stream).mkdir(parents=True)
            names = [f"synthetic_{split}_{number:04d}" for number in range(counts[split])]
            for number, video in enumerate(names):
                for stream, array in zip(("rgb", "flow"), draw_features(config, split, number), strict=True):
                    file = scratch / "features" / split / stream / f"{video}.npy"
                    np.save(file, array.astype(config.dtype))
                    written += file.stat().st_size
                timeline = draw_timeline(config, split, number)
                database[video] = _annotation(timeline, split, config)
                segments += len(array)
                instances += len(timeline.labels)
                if progress is not None:
                    progress(len(database), sum(counts.values()))
            write_text(scratch / f"split_{split}.txt", "\n".join(names) + "\n")
        write_json(scratch / "gt.json", {"synthetic": True, "database": database})
        write_text(scratch / SETTINGS, _settings(config))
        stamp["holds"] = {"instances": instances, "segments": segments, "bytes": written}
        write_json(scratch / MARKER, stamp)
    return SyntheticSet(target, counts, config.classes, instances, segments, written)


def _existing(target: Path, stamp: dict[str, Any]) -> SyntheticSet:
    found = read_json(target / MARKER, "record of a synthetic set")
    try:
        settings, holds = found["settings"], found["holds"]
        wanted = stamp["settings"]
        differing = [name for name, value in wanted.items() if settings.get(name) != value]
        if found["version"] != _VERSION:
            differing.append("the generator's version")
        if differing:
            raise DataError(
                f"{target}: holds a synthetic set of other settings ({', '.join(differing)}). Remove the "
                "folder, or choose another."
            )
        counts: dict[Split, int] = {"train": wanted["train_videos"], "test": wanted["test_videos"]}
        return SyntheticSet(
            target, counts, wanted["classes"], holds["instances"], holds["segments"], holds["bytes"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{target / MARKER}: is damaged ({error!r}). Remove the folder.") from error


class _Cues:
    """What the network may learn: which channels each scene, pose and motion raises. (…, width) each."""

    def __init__(self, config: SyntheticConfig) -> None:
        rng = np.random.default_rng([config.seed, 1])
        width = config.width
        channels = max(1, round(_CUE_CHANNELS * width))

        def patterns(count: int) -> Floats:
            found = np.zeros((count, width), np.float32)
            for row in found:
                chosen = rng.choice(width, channels, replace=False)
                row[chosen] = rng.gamma(2.0, 0.5, channels)  # mean 1
            return found

        self.scene, self.pose, self.motion = (patterns(config.classes) for _ in range(3))
        self.any_motion = patterns(1)[0]
        self.unrelated = patterns(_UNRELATED)
        self.background_rgb, self.background_flow = patterns(_BACKGROUNDS), patterns(_BACKGROUNDS)
        self.bias_rgb, self.bias_flow = (rng.normal(*_BIAS, width).astype(np.float32) for _ in range(2))


def _rectified(drive: Floats, bias: Floats, rng: np.random.Generator) -> Floats:
    """(n, width) features: the mean of rectified normal values around bias and drive."""
    count, width = drive.shape
    base = drive + bias + np.float32(_VARIANCE_VIDEO**0.5) * _normal(rng, 1, width)
    knots = _normal(rng, count // _DRIFT_SEGMENTS + 2, width)
    place = np.arange(count, dtype=np.float32) / _DRIFT_SEGMENTS + np.float32(rng.random())
    left = np.minimum(place.astype(np.int64), len(knots) - 2)
    share = np.minimum(place - left, 1)[:, None]
    # Between two knots the variance is 2/3 on average.
    drift = (1 - share) * knots[left] + share * knots[left + 1]
    base += np.float32((1.5 * _VARIANCE_DRIFT) ** 0.5) * drift
    total = np.zeros_like(base)
    for _ in range(_POSITIONS):
        total += np.maximum(base + np.float32(_VARIANCE_REST**0.5) * _normal(rng, count, width), 0)
    gain = np.exp(_GAIN_DEVIATION * _normal(rng, count, 1)) / np.float32(_POSITIONS)
    result: Floats = total * gain
    return result


def _covered(segments: Times, count: int, seconds: float) -> Floats:
    """(N, n) the share of each of n segments that each of N time intervals covers."""
    edges = np.arange(count + 1) * seconds
    overlap = np.minimum(segments[:, 1:], edges[1:]) - np.maximum(segments[:, :1], edges[:-1])
    share: Floats = (overlap.clip(0) / seconds).astype(np.float32)
    return share


def _widened(segments: Times, config: SyntheticConfig, rng: np.random.Generator) -> Times:
    margins = rng.exponential(1.0, segments.shape) * config.scene_seconds
    widened: Times = segments + margins * np.array([-1.0, 1.0])
    return widened


def _bouts(
    count: int, config: SyntheticConfig, rng: np.random.Generator, seconds: float, share: float
) -> list[tuple[int, int]]:
    """Stretches of segments that last ``seconds`` on average and together about ``share`` of all."""
    mean = seconds / config.segment_seconds
    bouts: list[tuple[int, int]] = []
    place = 0
    while place < count:
        size = max(1, round(rng.exponential(mean)))
        if rng.random() < share:
            bouts.append((place, min(place + size, count)))
        place += size
    return bouts


def _annotation(timeline: Timeline, split: Split, config: SyntheticConfig) -> dict[str, Any]:
    names = config.class_names
    return {
        "subset": split,
        "duration": round(timeline.duration, 3),
        "synthetic": True,
        "annotations": [
            {"label": names[label], "segment": [round(float(start), 1), round(float(end), 1)]}
            for label, (start, end) in zip(timeline.labels, timeline.segments, strict=True)
        ],
    }


def _settings(config: SyntheticConfig) -> str:
    names = ", ".join(f'"{name}"' for name in config.class_names)
    return (
        "# Settings that fit this synthetic data set; made with it.\n"
        f'preset = "thumos14"\nclasses = [{names}]\n\n[data]\nfps = {config.fps}\n'
        f"frames_per_segment = {config.frames_per_segment}\n"
        f"rgb_width = {config.width}\nflow_width = {config.width}\n"
    )


def _class_effects(config: SyntheticConfig) -> Times:
    """Log-factors of the classes' lengths: normal quantiles, so that their mean is 0 whatever the seed."""
    from statistics import NormalDist

    ranks = (np.arange(config.classes) + 0.5) / config.classes
    quantiles = np.array([NormalDist().inv_cdf(float(rank)) for rank in ranks])
    order = np.random.default_rng([config.seed, 2]).permutation(config.classes)
    effects: Times = _SECONDS_BETWEEN_CLASSES * quantiles[order]
    return effects


def _generator(config: SyntheticConfig, split: Split, number: int, what: str) -> np.random.Generator:
    """Apart for each video, so that a set of fewer videos holds the first of a larger one."""
    return np.random.default_rng([config.seed, 3 + SPLITS.index(split), number, len(what)])


def _normal(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    return rng.standard_normal((rows, columns), dtype=np.float32)


def _require(condition: bool, name: str, expected: str, came: object) -> None:
    if not condition:
        raise ConfigError(f"{name}: expected {expected}, got {came!r}.")


__all__ = ["SyntheticConfig", "SyntheticSet", "Timeline", "draw_features", "draw_timeline", "write_synthetic"]
