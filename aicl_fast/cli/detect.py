"""detect: recordings on disk to a detection file. Imports nothing that a single recording does not need."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aicl_fast.cli.recordings import Inputs, Load, Recording
from aicl_fast.config import DecodeConfig, locate_setting, parse_overrides
from aicl_fast.data.detections import Detections
from aicl_fast.data.features import Floats
from aicl_fast.data.scores import Scores
from aicl_fast.data.writers import save_detections
from aicl_fast.detect_features import decode_features
from aicl_fast.detector import Detector
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.files import require_place

if TYPE_CHECKING:
    from aicl_fast.cli.video import VideoOptions


class ModelOptions(NamedTuple):
    """The model file, and what runs it where; None is as the file has it."""

    path: Path
    engine: str | None
    device: str | None
    threads: int | None
    trust: bool = False
    """Run native code that the file carries."""


BATCH = 16
"""Recordings run at a time."""


def run_detect(
    model: ModelOptions,
    features: list[Path],
    rgb: Path | None,
    flow: Path | None,
    fps: float | None,
    split: str,
    file: Path,
    overrides: list[str],
    scores_file: Path | None,
    rendered: Path | None,
    video_options: Callable[[], VideoOptions],
    of_videos: Sequence[str],
    name: str | None = None,
    *,
    allow_missing: bool = False,
) -> None:
    """``aicl-fast detect``. Exits with 1 if one of several recordings could not be used.

    ``of_videos`` names the options that were given and mean nothing without a video.
    """
    targets = [target for target in (file, scores_file, rendered) if target is not None]
    for target in targets:
        require_place(target)
    if len({os.path.realpath(target) for target in targets}) != len(targets):
        raise ConfigError("--out, --scores, --render: name one file twice. Give each its own.")
    detector = Detector(
        model.path, engine=model.engine, device=model.device, threads=model.threads, trust=model.trust
    )
    if overrides:
        detector.decode_config = _decode_config(detector, overrides)
    inputs = Inputs(detector.config.data, split, video_options, name=name, allow_missing=allow_missing)
    recordings = inputs.find(features, rgb, flow)
    inputs.check_extracted(fps)
    _check_rendered(rendered, inputs, recordings)
    if of_videos and not inputs.videos:
        raise ConfigError(
            f"{', '.join(of_videos)}: how a video becomes features, and none of the recordings is a video. "
            "Features are taken as they are: leave such options out."
        )
    if inputs.videos and fps not in (None, detector.config.data.fps):
        raise ConfigError(
            f"--fps: videos are read at the model's {detector.config.data.fps:g} frames a second, got "
            f"{fps:g}. Leave --fps out; for another rate extract features with `aicl-fast features --fps`."
        )
    run = _Run(detector, inputs, fps, keep_scores=scores_file is not None)
    run.all(recordings)
    if run.detections:
        inputs.check_durations(run.seconds, fps)
        save_detections(file, run.detections)
        if scores_file is not None:
            from aicl_fast.data.scores_file import save_scores

            save_scores(scores_file, run.scores)
        _print_summary(run.detections, file)
    if run.bad:
        from aicl_fast.cli.console import print_failures

        print_failures(run.bad.values(), _counted(recordings, "recording"))
        sys.exit(1)
    if rendered is not None:
        from aicl_fast.cli.video import render

        (only,) = run.detections.values()
        render(inputs.videos[0], only, rendered, allow_damaged=video_options().allow_damaged)


def _decode_config(detector: Detector, overrides: list[str]) -> DecodeConfig:
    values = parse_overrides(overrides)
    fixed = [name for name in values if locate_setting(name)[0] != "decode"]
    if fixed:
        raise ConfigError(
            f"--set {', '.join(fixed)}: fixed in a model's file; only decode settings (class_threshold, "
            "thresholds, nms, …) can be changed when detecting."
        )
    return detector.config.with_values(values).decode


def _check_rendered(rendered: Path | None, inputs: Inputs, recordings: list[tuple[str, Load]]) -> None:
    if rendered is None:
        return
    if not (len(inputs.videos) == len(recordings) == 1):
        raise ConfigError(
            f"--render {rendered}: expected one video to draw on, got {_counted(recordings, 'recording')}, "
            f"{_counted(inputs.videos, 'video')} among them. Give one video."
        )
    from aicl_fast.cli.video import check_target

    check_target(inputs.videos[0], rendered)


class _Run:
    """Goes through recordings. The failure of one of several does not cost the others.

    Attributes:
        detections: by name.
        scores: by name, where they are kept.
        seconds: that each recording's features cover, by name.
        bad: the reason why a file could not be used.
    """

    def __init__(self, detector: Detector, inputs: Inputs, fps: float | None, *, keep_scores: bool) -> None:
        self.detections: dict[str, Detections] = {}
        self.scores: dict[str, Scores] = {}
        self.seconds: dict[str, float] = {}
        self.bad: dict[Path, str] = {}
        self._detector, self._inputs, self._fps, self._keep = detector, inputs, fps, keep_scores

    def all(self, recordings: Sequence[tuple[str, Load]]) -> None:
        """A batch at a time, whose features alone are in memory; videos one by one, as their features are
        long in coming.

        Raises:
            AiclError: the only recording cannot be used.
        """
        if len(recordings) == 1:
            ((name, load),) = recordings
            self._detect({name: self._checked(name, load)})
            return
        if self._inputs.videos:
            self.bad = self._inputs.check_videos()
            for recording in recordings:
                self._batch([recording])
            return
        from aicl_fast.cli.console import progress

        with progress("detecting") as bar:
            for start in range(0, len(recordings), BATCH):
                self._batch(recordings[start : start + BATCH])
                bar(min(start + BATCH, len(recordings)), len(recordings))

    def _batch(self, recordings: Sequence[tuple[str, Load]]) -> None:
        loaded = {}
        for name, load in recordings:
            if self._inputs.sources[name] not in self.bad:
                with self._noted(name):
                    loaded[name] = self._checked(name, load)
        try:
            self._detect(loaded)
        except AiclError:
            # One after the other, to tell which it is.
            for name, recording in loaded.items():
                with self._noted(name):
                    self._detect({name: recording})

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        try:
            yield
        except AiclError as error:
            self.bad[self._inputs.sources[name]] = str(error)

    def _checked(self, name: str, load: Load) -> Recording:
        recording = load()
        if len(recording.streams[0]) < 2:
            raise DataError(
                f"{self._inputs.sources[name]}: has 1 segment; expected at least 2 to localise anything in."
            )
        return recording

    def _detect(self, loaded: Mapping[str, Recording]) -> None:
        detector = self._detector
        batch = [_joined(each.streams) for each in loaded.values()]
        found = detector.batch_scores(batch, fps=self._fps, videos=list(loaded))
        for name, scores in zip(loaded, found, strict=True):
            origin = loaded[name].origin
            if origin is None:
                detections = detector.decode(scores)
            else:
                scores, detections = decode_features(detector, scores, origin)
            self.detections[name], self.seconds[name] = detections, scores.duration
            if self._keep:
                self.scores[name] = scores


def _joined(streams: tuple[Floats, ...]) -> Floats | tuple[Floats, Floats]:
    """As the detector takes them: two streams, or one array of all there is."""
    return (streams[0], streams[1]) if len(streams) == 2 else streams[0]


def _print_summary(found: dict[str, Detections], file: Path) -> None:
    if len(found) == 1:
        (only,) = found.values()
        for detection in list(only)[:5]:
            label, score, start, end = detection
            sys.stdout.write(f"{start:9.2f} s to {end:8.2f} s  {score:7.3f}  {label}\n")
    total = sum(len(each) for each in found.values())
    sys.stdout.write(f"{total} detections in {_counted(found, 'recording')}: {file}\n")


def _counted(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s'[: len(things) != 1]}"
