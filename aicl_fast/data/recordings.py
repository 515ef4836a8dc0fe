"""What paths mean: the recordings in them, their names, and how each is read."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from aicl_fast.config import DataConfig
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.dataset import SPLITS, features_folder, read_split
from aicl_fast.data.feature_file import VideoFeatures, check_recipes, load_video_features, read_header
from aicl_fast.data.feature_folder import (
    ARRAY,
    FeatureFiles,
    FeatureFolder,
    is_extracted,
    missing_features,
    read_files,
    streams_of,
)
from aicl_fast.data.feature_formats import other_format
from aicl_fast.data.features import Floats
from aicl_fast.data.stream_names import common_name, split_stream
from aicl_fast.data.timing import check_durations
from aicl_fast.errors import AiclError, AiclWarning, ConfigError, DataError, ModelError
from aicl_fast.files import is_video, require_file, video_name, visible
from aicl_fast.text import listed, require_name


class Recording(NamedTuple):
    """Features as the model reads them, and what they say of themselves."""

    streams: tuple[Floats, ...]
    origin: VideoFeatures | None = None

    @property
    def features(self) -> Floats | tuple[Floats, Floats]:
        """As a detector takes them: two streams, or one array of all there is."""
        return (self.streams[0], self.streams[1]) if len(self.streams) == 2 else self.streams[0]


Load = Callable[[], Recording]


class Inputs:
    """What paths mean to a model.

    Args:
        data: the model's settings.
        split: of a data set folder: train, test, or a subset of its annotations.
        extractor: opens the networks, and returns what turns a video into features. Called once, if there is
            a video.
        name: of the only recording; by its files if None.
        allow_missing: skip videos of a data set that have no features.
    Attributes:
        videos: the video files among them.
        sources: the file of each recording, by its name.
    """

    def __init__(
        self,
        data: DataConfig,
        split: str,
        extractor: Callable[[DataConfig], Callable[[Path], VideoFeatures]],
        *,
        name: str | None = None,
        allow_missing: bool = False,
    ) -> None:
        self.videos: list[Path] = []
        self.sources: dict[str, Path] = {}
        self._extracted: list[Path] = []
        self._annotated: list[tuple[GroundTruth, tuple[str, ...]]] = []
        self._data, self._split, self._extractor = data, split, extractor
        self._name, self._allow_missing = name, allow_missing

    def find(self, features: list[Path], rgb: Path | None, flow: Path | None) -> list[tuple[str, Load]]:
        """(name, how to read it) of every recording.

        Raises:
            DataError, ConfigError: arguments that mean no recording, or two of one name.
        """
        if rgb is not None or flow is not None:
            if features:
                raise DataError(
                    "give either --rgb and --flow, which are .npy files, or feature files, folders and "
                    "videos, not both. How optical flow is computed is said by --flow-algorithm."
                )
            recordings = [self._pair({"rgb": rgb, "flow": flow})]
        elif not features:
            raise DataError(
                "nothing to detect in: give --rgb and --flow, .npy files, a folder of features, or videos."
            )
        else:
            recordings = list(self._all(features))
        if self._name is None:
            return recordings
        if len(recordings) != 1:
            raise ConfigError(
                f"--name: names one recording, and there are {len(recordings)}. Leave --name out."
            )
        name = require_name(self._name, "--name", "video")
        self.sources = {name: self.sources[recordings[0][0]]}
        return [(name, recordings[0][1])]

    def check_extracted(self, fps: float | None) -> None:
        """Refuse features of different networks, and another frame rate than features record.

        A file that cannot be read is left to its own turn.
        """
        if not self._extracted:
            return
        recipes = {}
        for path in self._extracted:
            try:
                recipes[path] = read_header(path).recipe
            except AiclError:
                continue
        for path, recipe in recipes.items():
            if fps not in (None, recipe.fps):
                raise DataError(
                    f"--fps: {path.stem} has features of {recipe.fps:g} frames a second, as their file says, "
                    f"not of {fps:g}. Leave --fps out."
                )
        if recipes:
            check_recipes(recipes)

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

    def check_durations(self, seconds: Mapping[str, float], fps: float | None) -> None:
        """Warn of recordings of a data set whose length contradicts its annotations."""
        data = self._data if fps is None else replace(self._data, fps=fps)
        for truth, names in self._annotated:
            there = {name: seconds[name] for name in names if name in seconds}
            known = any(is_extracted(self.sources[name]) for name in there)
            check_durations(truth, there, data, "--fps ", known=known)

    def _all(self, paths: Sequence[Path]) -> Iterator[tuple[str, Load]]:
        arrays = [path for path in paths if path.suffix.lower() == ARRAY and not os.path.isdir(path)]
        pairs: dict[tuple[Path, str], dict[str, Path | None]] = {}
        for path in arrays:
            rest, stream = split_stream(video_name(path))
            pairs.setdefault((path.parent, rest), {})[stream] = path
        for path in paths:
            rest, stream = split_stream(video_name(path))
            pair = pairs.get((path.parent, rest), {}) if path in arrays else {}
            if {"rgb", "flow"} <= pair.keys() and stream and self._data.streams == "both":
                if path == pair["rgb"]:
                    yield self._pair({"rgb": pair["rgb"], "flow": pair["flow"]})
            elif os.path.isdir(path / "features"):
                yield from self._data_set(path)
            elif os.path.isdir(path):
                yield from self._folder(path)
            else:
                yield self._file(path)

    def _file(self, path: Path) -> tuple[str, Load]:
        if is_extracted(path) or path.suffix.lower() == ARRAY:
            return self._features(FeatureFiles((path,)))
        require_file(path, "video" if is_video(path) else "video or folder")
        if not is_video(path):
            with path.open("rb") as file:
                if file.read(6) == b"\x93NUMPY":
                    return self._features(FeatureFiles((path,)))
            if text := other_format(path):
                raise DataError(
                    f"{path}: is no .npy file, no file of `aicl-fast features` and no video. {text}"
                )
            _require_video(path)
        return self._video(path)

    def _pair(self, paths: Mapping[str, Path | None]) -> tuple[str, Load]:
        """One recording by a file a stream."""
        wanted = streams_of(self._data)
        given = {stream: path for stream, path in paths.items() if path is not None}
        if self._data.streams == "both" and len(given) < 2:
            raise DataError("--rgb and --flow go together: give both streams of the recording.")
        if list(given) != wanted:
            raise DataError(
                f"--rgb, --flow: the model reads {wanted[0]} alone; give --{wanted[0]} and no other stream."
            )
        name = common_name(given, named=self._name is not None)
        return self._recording(given[wanted[0]], functools.partial(_load, FeatureFiles(
            tuple(given.values()), apart=True), self._data), name)  # fmt: skip

    def _features(self, files: FeatureFiles, name: str | None = None) -> tuple[str, Load]:
        path = files.paths[0]
        if files.extracted:
            self._extracted.append(path)
        return self._recording(path, functools.partial(_load, files, self._data), name or video_name(path))

    def _recording(self, path: Path, load: Load, name: str) -> tuple[str, Load]:
        """Refuse the second one of a name: detections are kept by it."""
        try:
            name = require_name(name, path, "video")
        except DataError as error:
            if self._name is None:
                load = functools.partial(_refuse, error)
        other = self.sources.setdefault(name, path)
        if other != path:
            raise DataError(
                f"{other} and {path}: would both be written as {name!r}. Rename one of them, or detect in "
                "them one after the other with two --out."
            )
        return name, load

    def _data_set(self, root: Path) -> Iterator[tuple[str, Load]]:
        """The recordings of a data set's split."""
        split = self._split_of(root)
        folder = FeatureFolder(features_folder(root, split))
        truth = _truth(root, split)
        names = self._split_names(root, split, folder, truth)
        if names and not os.path.isdir(folder.path):
            # A subset by its own name: its files are among those of train or test.
            others = (FeatureFolder(features_folder(root, other)) for other in SPLITS)
            folder = next((other for other in others if other.find(names[0], self._data).paths), folder)
        if truth is not None:
            self._annotated.append((truth, tuple(names)))
        if not names:
            yield from self._videos_in(root, folder)
        yield from self._found(root, folder, names)

    def _folder(self, path: Path) -> Iterator[tuple[str, Load]]:
        """The recordings of a folder of features, or of videos."""
        folder = FeatureFolder(path)
        listed = path / f"split_{self._split}.txt"
        names = read_split(listed) if os.path.isfile(listed) else folder.videos(self._data)
        if not names:
            yield from self._videos_in(path, folder)
        yield from self._found(path, folder, names)

    def _found(self, root: Path, folder: FeatureFolder, names: Sequence[str]) -> Iterator[tuple[str, Load]]:
        files = {name: folder.find(name, self._data) for name in names}
        lost = {name: own for name, own in files.items() if own.missing}
        extracted = any(own.extracted for own in files.values())
        if lost and (len(lost) == len(names) or not self._allow_missing):
            every = sum(len(own.paths) + len(own.missing) for own in files.values())
            raise missing_features(root, lost, dict.fromkeys(lost, folder), every, extracted=extracted)
        if lost:
            warnings.warn(
                f"{root}: {len(lost)} of {len(names)} videos have no features and are skipped: "
                f"{listed(list(lost))}",
                AiclWarning,
                stacklevel=2,
            )
        for name, own in files.items():
            if not own.missing:
                yield self._features(own, name)

    def _videos_in(self, path: Path, folder: FeatureFolder) -> Iterator[tuple[str, Load]]:
        videos = videos_in(path)
        if not videos:
            splits = [split for split in SPLITS if os.path.isdir(path / split)]
            if splits and not os.path.isdir(path / "features"):
                raise DataError(
                    f"{path}: holds no features itself, but {' and '.join(splits)}/. Name the data set's "
                    f"folder, {path.parent}, or one of them: {path / splits[-1]}."
                )
            raise DataError(
                f"{path}: holds no features. Expected .npy files, files of `aicl-fast features`, rgb/ "
                "and flow/ with .npy files in them, a data set folder with features/, or videos."
                f"{folder.others()}"
            )
        yield from map(self._video, videos)

    def _split_of(self, root: Path) -> str:
        """``train`` or ``test``, also by the annotations' name of it; or another split of this data set."""
        data = self._data
        names = {data.train_subset: SPLITS[0], data.test_subset: SPLITS[1]}
        return self._split if self._split in SPLITS else names.get(self._split, self._split)

    def _split_names(
        self, root: Path, split: str, folder: FeatureFolder, truth: GroundTruth | None
    ) -> Sequence[str]:
        listed = root / f"split_{split}.txt"
        if os.path.isfile(listed):
            return read_split(listed)
        own = folder.path.name == split and os.path.isdir(folder.path)
        data = self._data
        named: dict[str, str] = {SPLITS[0]: data.train_subset, SPLITS[1]: data.test_subset}
        subset = named.get(split, split)
        subsets = sorted({video.subset for video in truth.videos.values()}) if truth else []
        if truth is not None and subset in subsets:
            return list(truth.subset(subset).videos)
        if not own and (truth is not None or split not in SPLITS):
            there = f"; the subsets of its gt.json are {', '.join(map(repr, subsets))}" if subsets else ""
            raise DataError(
                f"--split: {root} has no {split!r}: expected features/{split}/ or split_{split}.txt in it, "
                f"or a subset {subset!r} of its annotations. The splits of a data set are "
                f"{' and '.join(SPLITS)}{there}."
            )
        names = folder.videos(data)
        if truth is not None:
            annotated = {folder.find(name, data).paths: name for name in truth.videos}
            names = [annotated.get(folder.find(name, data).paths, name) for name in names]
        if names and not own:
            warnings.warn(
                f"{root}: has no split_{split}.txt and no gt.json that says which videos are of the split "
                f"{split!r}: all {len(names)} are taken.",
                AiclWarning,
                stacklevel=2,
            )
        return names

    def _video(self, path: Path) -> tuple[str, Load]:
        self.videos.append(path)

        def load() -> Recording:
            features = self._extract(path)
            return Recording(features.streams(self._data, str(path)), features)

        return self._recording(path, load, video_name(path))

    @functools.cached_property
    def _extract(self) -> Callable[[Path], VideoFeatures]:
        """Opens the networks when the first video is read, and keeps them."""
        return self._extractor(self._data)


def _truth(root: Path, split: str) -> GroundTruth | None:
    """A data set's annotations; where its split is listed it does not need them."""
    path = root / "gt.json"
    if not os.path.exists(path):
        return None
    try:
        return GroundTruth.load(path)
    except DataError as error:
        if not os.path.isfile(root / f"split_{split}.txt"):
            raise
        warnings.warn(f"{error} Detecting goes on without it.", AiclWarning, stacklevel=2)
        return None


def _load(files: FeatureFiles, data: DataConfig) -> Recording:
    if files.extracted:
        features = load_video_features(files.paths[0])
        return Recording(features.streams(data, str(files.paths[0])), features)
    return Recording(read_files(files, data))


def _require_video(path: Path) -> None:
    """Refuse a file that is not named as a video and is none, before weights for it are asked for."""
    from aicl_fast.video import probe

    try:
        probe(path)
    except (DataError, ModelError) as error:
        raise DataError(
            f"{path}: is no .npy file of features, no file of `aicl-fast features`, and no video: {error}"
        ) from error


def _refuse(error: DataError) -> Recording:
    raise error


def videos_in(folder: Path) -> list[Path]:
    """The video files of a folder, by name.

    Raises:
        DataError: no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: the folder of videos does not exist. Check the path.")
    # A link to nothing stays: the failure names it.
    return visible(path for path in folder.iterdir() if is_video(path) and not path.is_dir())
