"""detect: recordings on disk to a detection file. Imports nothing that a single recording does not need."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aicl_fast.config import DataConfig, DecodeConfig, locate_setting, parse_overrides
from aicl_fast.dataset import EXTRACTED, SPLITS, feature_files, features_folder, read_streams
from aicl_fast.detect_features import decode_features
from aicl_fast.detections import Detections, save_detections
from aicl_fast.detector import Detector
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.features import Floats, check_lengths, load_features
from aicl_fast.files import is_video, read_lines, require_file, require_place, video_name, visible
from aicl_fast.scores import Scores

if TYPE_CHECKING:
    from aicl_fast.cli.video import VideoOptions
    from aicl_fast.feature_file import VideoFeatures


class Recording(NamedTuple):
    """Features as the model reads them, and what they say of themselves."""

    streams: tuple[Floats, ...]
    origin: VideoFeatures | None = None


class ModelOptions(NamedTuple):
    """The model file, and what runs it where; None is as the file has it."""

    path: Path
    engine: str | None
    device: str | None
    threads: int | None


Load = Callable[[], Recording]

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
) -> None:
    """``aicl-fast detect``. Exits with 1 if one of several videos could not be used.

    ``of_videos`` names the options that were given and mean nothing without a video.
    """
    for target in (file, scores_file, rendered):
        if target is not None:
            require_place(target)
    detector = Detector(model.path, engine=model.engine, device=model.device, threads=model.threads)
    if overrides:
        detector.decode_config = _decode_config(detector, overrides)
    inputs = Inputs(detector.config.data, split, video_options)
    recordings = list(inputs.find(features, rgb, flow))
    inputs.check_extracted()
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
    found: dict[str, tuple[Scores, Detections]] = {}
    bad: dict[Path, str] = {}
    if len(recordings) == 1:
        found |= _detect(detector, recordings, fps, inputs.sources)
    elif inputs.videos:
        bad = inputs.check_videos()
        # A video's features are long in coming: nothing is gained by waiting for several, and the failure
        # of one does not cost the others.
        for recording in recordings:
            source = inputs.sources[recording[0]]
            if source in bad:
                continue
            try:
                found |= _detect(detector, [recording], fps, inputs.sources)
            except AiclError as error:
                bad[source] = str(error)
    else:
        from aicl_fast.cli.console import progress

        with progress("detecting") as bar:
            for start in range(0, len(recordings), BATCH):
                found |= _detect(detector, recordings[start : start + BATCH], fps, inputs.sources)
                bar(len(found), len(recordings))
    if found:
        _write(found, file, scores_file)
    if bad:
        from aicl_fast.cli.video import print_failures

        print_failures(bad, f"{len(recordings)} recordings")
        sys.exit(1)
    if rendered is not None:
        from aicl_fast.cli.video import render

        ((_, only),) = found.values()
        render(inputs.videos[0], only, rendered, allow_damaged=video_options().allow_damaged)


def _write(found: dict[str, tuple[Scores, Detections]], file: Path, scores_file: Path | None) -> None:
    detections = {name: each for name, (_, each) in found.items()}
    save_detections(file, detections)
    if scores_file is not None:
        from aicl_fast.report.scores_file import save_scores

        save_scores(scores_file, {name: scores for name, (scores, _) in found.items()})
    _print_summary(detections, file)


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


def _detect(
    detector: Detector, recordings: list[tuple[str, Load]], fps: float | None, sources: Mapping[str, Path]
) -> dict[str, tuple[Scores, Detections]]:
    names = [name for name, _ in recordings]
    loaded = [load() for _, load in recordings]
    for name, each in zip(names, loaded, strict=True):
        if len(each.streams[0]) < 2:
            raise DataError(f"{sources[name]}: has 1 segment; expected at least 2 to localise anything in.")
    batch = [_joined(each.streams) for each in loaded]
    found = {}
    for scores, each in zip(detector.batch_scores(batch, fps=fps, videos=names), loaded, strict=True):
        if each.origin is None:
            found[scores.name] = scores, detector.decode(scores)
        else:
            _check_rate(scores.name, each.origin, fps)
            found[scores.name] = decode_features(detector, scores, each.origin)
    return found


def _joined(streams: tuple[Floats, ...]) -> Floats | tuple[Floats, Floats]:
    """As the detector takes them: two streams, or one array of all there is."""
    return (streams[0], streams[1]) if len(streams) == 2 else streams[0]


def _check_rate(name: str, origin: VideoFeatures, fps: float | None) -> None:
    """Refuse another frame rate than the features record."""
    if fps not in (None, origin.recipe.fps):
        raise DataError(
            f"--fps: {name} has features of {origin.recipe.fps:g} frames a second, as their file says, not "
            f"of {fps:g}. Leave --fps out."
        )


class Inputs:
    """What the arguments mean.

    Attributes:
        videos: the video files among them.
        sources: the file of each recording, by its name.
    """

    def __init__(self, data: DataConfig, split: str, video_options: Callable[[], VideoOptions]) -> None:
        self.videos: list[Path] = []
        self.sources: dict[str, Path] = {}
        self._extracted: list[Path] = []
        self._data, self._split, self._options = data, split, video_options

    def find(self, features: list[Path], rgb: Path | None, flow: Path | None) -> Iterator[tuple[str, Load]]:
        """(name, how to read it) of every recording."""
        data = self._data
        if rgb is not None or flow is not None:
            if features:
                raise DataError(
                    "give either --rgb and --flow, which are .npy files, or feature files, folders and "
                    "videos, not both. How optical flow is computed is said by --flow-algorithm."
                )
            if data.modal == "both" and (rgb is None or flow is None):
                raise DataError("--rgb and --flow go together: give both streams of the recording.")
            pair = [path for path in (rgb, flow) if path is not None]
            widths = [data.rgb_width] * (rgb is not None) + [data.flow_width] * (flow is not None)
            yield self._recording(pair[0], functools.partial(_load_files, pair, widths))
            return
        if not features:
            raise DataError(
                "nothing to detect in: give --rgb and --flow, .npy files, a folder of features, or videos."
            )
        for path in features:
            if path.is_dir():
                yield from self._folder(path)
            elif path.suffix == EXTRACTED:
                self._extracted.append(path)
                yield self._recording(path, functools.partial(_load_extracted, path, data))
            elif path.suffix == ".npy":
                yield self._recording(path, functools.partial(_load_joined, path, data))
            else:
                what = "video" if is_video(path) else "video or folder"
                yield self._video(require_file(path, what))

    def check_extracted(self) -> None:
        """Refuse features of different networks: one of them cannot be what the model was trained on."""
        if len(self._extracted) > 1:
            from aicl_fast.feature_file import check_recipes, read_header

            check_recipes({path: read_header(path).recipe for path in self._extracted})

    def check_videos(self) -> dict[Path, str]:
        """What is no video, with the reason, before the first one takes its time. Opens the networks.

        Raises:
            ConfigError: options that fit no video, unless there is none to read.
        """
        from aicl_fast.video import probe

        bad = {}
        for path in self.videos:
            try:
                probe(path)
            except AiclError as error:
                bad[path] = str(error)
        if len(bad) < len(self.videos):
            self._extract  # noqa: B018
        return bad

    def _recording(self, path: Path, load: Load, name: str | None = None) -> tuple[str, Load]:
        """Refuse the second one of a name: detections are kept by it."""
        name = name or video_name(path)
        other = self.sources.setdefault(name, path)
        if other != path:
            raise DataError(
                f"{other} and {path}: would both be written as {name!r}. Rename one of them, or detect in "
                "them one after the other with two --out."
            )
        return name, load

    def _folder(self, path: Path) -> Iterator[tuple[str, Load]]:
        folder = self._split_folder(path) if (path / "features").is_dir() else path
        names = _names(path, folder, self._split)
        for name in names:
            file = feature_files(folder, name, self._data)[0]
            if file.suffix == EXTRACTED:
                self._extracted.append(file)
                load: Load = functools.partial(_load_extracted, file, self._data)
            else:
                load = functools.partial(_load_video, folder, name, self._data)
            yield self._recording(file, load, name)
        if not names:
            from aicl_fast.cli.video import videos_in

            videos = videos_in(path)
            if not videos:
                raise DataError(
                    f"{path}: holds no features. Expected .npy files, files of `aicl-fast features`, rgb/ "
                    "and flow/ with .npy files in them, a data set folder with features/, or videos."
                )
            yield from map(self._video, videos)

    def _split_folder(self, root: Path) -> Path:
        split = self._split
        folder = features_folder(root, split)
        there = folder.is_dir() and (folder.name == split or split in SPLITS)
        if not there and not (root / f"split_{split}.txt").is_file():
            raise DataError(
                f"--split: {root} has no {split!r}: expected features/{split}/ or split_{split}.txt in it. "
                f"The splits of a data set are {' and '.join(SPLITS)}."
            )
        return folder

    def _video(self, path: Path) -> tuple[str, Load]:
        self.videos.append(path)

        def load() -> Recording:
            from aicl_fast.cli.video import named_failure

            with named_failure(path):
                found = self._extract(path)
            return Recording(found.streams(self._data, str(path)), found)

        return self._recording(path, load)

    @functools.cached_property
    def _extract(self) -> Callable[[Path], VideoFeatures]:
        """Opens the networks when the first video is read, and keeps them."""
        from aicl_fast.cli.video import extract_for

        return extract_for(self._data, self._options())


def _names(path: Path, folder: Path, split: str) -> list[str]:
    """The recordings of a data set's split file, or else of all the files in a folder of features."""
    listed = path / f"split_{split}.txt"
    if listed.is_file():
        return read_lines(listed, "split file")
    home = next((folder / stream for stream in ("rgb", "flow") if (folder / stream).is_dir()), folder)
    files = visible(home.glob("*.npy")) or visible(folder.glob(f"*{EXTRACTED}"))
    return [path.stem for path in files]


def _load_files(paths: list[Path], widths: list[int]) -> Recording:
    streams = [load_features(path, width=width) for path, width in zip(paths, widths, strict=True)]
    check_lengths(*streams, name=" and ".join(map(str, paths)))
    return Recording((np.concatenate(streams, axis=1),))


def _load_joined(path: Path, data: DataConfig) -> Recording:
    return Recording((load_features(path, width=data.input_width),))


def _load_extracted(path: Path, data: DataConfig) -> Recording:
    from aicl_fast.feature_file import load_video_features

    found = load_video_features(path)
    return Recording(found.streams(data, str(path)), found)


def _load_video(folder: Path, name: str, data: DataConfig) -> Recording:
    return Recording((np.concatenate(read_streams(folder, name, data), axis=1),))


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
