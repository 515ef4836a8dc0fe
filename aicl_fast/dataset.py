"""A data set on disk: features, splits and annotations, in the layout that published features come in.

features/{train,test}/{rgb,flow}/<video>.npy    (n, width) float, one row a segment
or features/{train,test}/<video>.npy            both streams side by side, or the one that is read
or features/{train,test}/<video>.npz            what `aicl-fast features` wrote, see feature_file.py
or any of these without {train,test}/           all videos in one place
split_train.txt, split_test.txt                 one video a line
gt.json                                         ActivityNet annotations
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from aicl_fast.annotations import GroundTruth
from aicl_fast.config import Config, DataConfig
from aicl_fast.errors import DataError
from aicl_fast.features import Floats, check_lengths, load_features, map_features
from aicl_fast.files import read_lines

_LISTED = 100
"""Missing files that an error lists."""
EXTRACTED = ".npz"
"""What files of ``aicl-fast features`` end in."""
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class Dataset:
    """A checked data set. Make one with :meth:`open`.

    Attributes:
        root: its folder.
        ground_truth: all of ``gt.json``.
        videos: the videos of each split that can be used, in the split files' order.
        config: the settings, with the data set's classes filled in, and the frame rate and stride that its
            features record where they do.
        missing: videos that were left out because they have no features (``allow_missing``).
    """

    root: Path
    ground_truth: GroundTruth
    videos: dict[Split, tuple[str, ...]]
    config: Config
    missing: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        config: Config,
        *,
        splits: Sequence[Split] = SPLITS,
        allow_missing: bool = False,
    ) -> Dataset:
        """Read the lists and annotations and check that every feature file is there.

        Args:
            root: the folder.
            config: settings; where its ``classes`` is empty, the classes are the annotations' labels,
                sorted.
            splits: which splits must be complete; another is left out of ``videos``.
            allow_missing: leave out videos without features, and list them in ``missing``, instead of
                refusing.
        Raises:
            DataError: a file is missing (all that are missing are counted, the first hundred listed), a
                video has no annotation, a label is not among the classes, a training video has no label,
                a split has no video left, or features that say how they were made were made differently.
        """
        folder = Path(root)
        if not folder.is_dir():
            raise DataError(
                f"{folder}: the data set folder does not exist. Expected a folder with gt.json, "
                "split_train.txt, split_test.txt and features/."
            )
        truth = GroundTruth.load(folder / "gt.json")
        subsets = {"train": config.data.train_subset, "test": config.data.test_subset}
        videos = {split: _split(folder / f"split_{split}.txt", truth, subsets[split]) for split in splits}
        if not config.classes:
            config = config.with_classes(truth.classes)
        dataset = cls(folder, truth, videos, config)
        dataset._check_labels()
        return dataset._check_features(allow_missing)

    def folder(self, split: Split) -> Path:
        """Where a split's features are kept."""
        return features_folder(self.root, split)

    def features(self, split: Split, video: str) -> Floats:
        """(n, D) float32 features of one video: the streams that the model reads, side by side.

        Raises:
            DataError: see :func:`aicl_fast.features.load_features`; or the streams differ in length.
        """
        streams = self.streams(split, video)
        return streams[0] if len(streams) == 1 else np.concatenate(streams, axis=1)

    def streams(self, split: Split, video: str, *, mapped: bool = False) -> tuple[Floats, ...]:
        """The arrays that :meth:`features` puts side by side, (n, width) each.

        Args:
            mapped: leave float32 files on disk and read what is used (see
                :func:`aicl_fast.features.map_features`).
        """
        return read_streams(self.folder(split), video, self.config.data, mapped=mapped)

    def labels(self, video: str) -> npt.NDArray[np.float32]:
        """(C,) float32, 1 for each class that the video contains: all that training is told."""
        present = set(self.ground_truth.videos[video].labels)
        return np.array([name in present for name in self.config.classes], dtype=np.float32)

    def truth(self, videos: Split | Sequence[str]) -> GroundTruth:
        """The annotations of one split's videos, or of those named."""
        names = self.videos[cast(Split, videos)] if isinstance(videos, str) else videos
        return GroundTruth(
            {video: self.ground_truth.videos[video] for video in names}, self.ground_truth.source
        )

    def _check_labels(self) -> None:
        classes = set(self.config.classes)
        for split, names in self.videos.items():
            for video in names:
                entry = self.ground_truth.videos.get(video)
                if entry is None:
                    raise DataError(
                        f"{self.ground_truth.source}: has no annotation of '{video}', which "
                        f"split_{split}.txt lists. Add it, or take the video off the list."
                    )
                if split == "train" and not entry.labels:
                    raise DataError(
                        f"{self.ground_truth.source}: the training video '{video}' has no label. Add one, or "
                        "take the video off split_train.txt."
                    )
                for label in entry.labels:
                    if label not in classes:
                        close = difflib.get_close_matches(label, list(classes), n=1)
                        hint = f" Did you mean '{close[0]}'?" if close else ""
                        raise DataError(
                            f"{self.ground_truth.source}: '{video}' has the label '{label}', which is not "
                            f"among the {len(classes)} classes.{hint} For other classes choose the preset "
                            "of this data set (--preset), or name them all: --set classes=A,B,… or a "
                            "settings file (--config) with classes = […]."
                        )

    def _check_features(self, allow_missing: bool) -> Dataset:
        data = self.config.data
        wanted = {
            (split, video): feature_files(self.folder(split), video, data)
            for split, names in self.videos.items()
            for video in names
        }
        lost = {key: [path for path in paths if not path.is_file()] for key, paths in wanted.items()}
        lost = {key: paths for key, paths in lost.items() if paths}
        found = [paths[0] for key, paths in wanted.items() if key not in lost]
        if not lost:
            return self._with_recipe(found)
        if not allow_missing:
            raise DataError(self._missing(lost, found, sum(len(paths) for paths in wanted.values())))
        videos = {
            split: tuple(video for video in names if (split, video) not in lost)
            for split, names in self.videos.items()
        }
        for split, names in videos.items():
            if not names:
                raise DataError(f"{self.root}: not one video of split_{split} has features.")
        kept = replace(self, videos=videos, missing=tuple(video for _, video in lost))
        return kept._with_recipe(found)

    def _missing(self, lost: dict[tuple[Split, str], list[Path]], found: list[Path], every: int) -> str:
        files = [path for paths in lost.values() for path in paths]
        if found and found[0].suffix == EXTRACTED:
            files = [path.with_suffix(EXTRACTED) for path in files]
        shown = "".join(f"\n  {path}" for path in files[:_LISTED])
        more = f"\n  … and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
        are = "is" if len(files) == 1 else "are"
        return (
            f"{self.root}: {len(files)} of {every} feature files {are} missing:{shown}{more}\n"
            "Download or extract them, take the videos off the split files, or allow missing ones "
            "(--allow-missing): the run's record then names every video that was left out."
        )

    def _with_recipe(self, paths: list[Path]) -> Dataset:
        """With what features record of how they were made, which must be alike and as the model's were."""
        extracted = [path for path in paths if path.suffix == EXTRACTED]
        if not extracted:
            return self
        if len(extracted) < len(paths):
            other = next(path for path in paths if path.suffix != EXTRACTED)
            raise DataError(
                f"{self.root}: {len(extracted)} videos have features that `aicl-fast features` made, as "
                f"{extracted[0]}, and {len(paths) - len(extracted)} have others, as {other}, which may be of "
                "another network. Use the ones or the others for all videos."
            )
        from aicl_fast.feature_file import check_recipes, read_header

        recipe = check_recipes({path: read_header(path).recipe for path in extracted})
        data = self.config.data
        recipe.check(data, str(extracted[0]))
        made = recipe.text(data.modal)
        data = replace(data, fps=recipe.fps, frames_per_segment=recipe.stride, recipe=made)
        return replace(self, config=replace(self.config, data=data))


def features_folder(root: Path, split: str) -> Path:
    """Where a data set keeps a split's features: ``features/<split>``, or ``features`` for all splits."""
    features = root / "features"
    apart = any((features / each).is_dir() for each in SPLITS)
    return features / split if apart else features


def feature_files(folder: Path, video: str, data: DataConfig) -> tuple[Path, ...]:
    """The files of one video in a folder of features: one a stream that the model reads, or one with both.

    ActivityNet's feature files often have ``v_`` before the annotations' name; either is found. A file of
    ``aicl-fast features`` (.npz) is looked for where there is no .npy.
    """
    if is_apart(folder):
        homes = [folder / stream for stream in ("rgb", "flow") if data.modal in ("both", stream)]
    else:
        homes = [folder]
    found = []
    for home in homes:
        names = [f"{video}.npy", f"v_{video}.npy", f"{video}{EXTRACTED}", f"v_{video}{EXTRACTED}"]
        there = (home / name for name in (names if home is folder else names[:2]))
        found.append(next((path for path in there if path.is_file()), home / names[0]))
    return tuple(found)


def read_streams(folder: Path, video: str, data: DataConfig, *, mapped: bool = False) -> tuple[Floats, ...]:
    """The streams of one video that the model reads, (n, width) each; or both in one array.

    Args:
        folder: with ``rgb/`` and ``flow/`` in it, or with files of both streams side by side or, for a model
            of one stream, of that one.
        mapped: leave float32 files on disk and read what is used.
    Raises:
        DataError: see :func:`aicl_fast.features.load_features`; another width than the settings'; or the
            streams differ in length.
    """
    paths = feature_files(folder, video, data)
    if paths[0].suffix == EXTRACTED:
        from aicl_fast.feature_file import load_video_features

        return load_video_features(paths[0], mapped=mapped).streams(data, str(paths[0]))
    read = map_features if mapped else load_features
    loaded = tuple(read(path) for path in paths)
    streams = [stream for stream in ("rgb", "flow") if data.modal in ("both", stream)]
    if not is_apart(folder):
        (one,) = loaded
        if data.modal != "both" and one.shape[1] == data.rgb_width + data.flow_width:
            return (one[:, : data.rgb_width] if data.modal == "rgb" else one[:, data.rgb_width :],)
        _check_width(paths[0], one, data, streams)
        return loaded
    for path, array, stream in zip(paths, loaded, streams, strict=True):
        _check_width(path, array, data, [stream])
    check_lengths(*loaded, name=" and ".join(map(str, paths)))
    return loaded


def _check_width(path: Path, array: Floats, data: DataConfig, streams: Sequence[str]) -> None:
    """Refuse another width than that of these streams side by side."""
    widths = {f"{stream}_width": getattr(data, f"{stream}_width") for stream in streams}
    expected = sum(widths.values())
    if array.shape[1] != expected:
        spoken = " + ".join(f"{name} {width}" for name, width in widths.items())
        settings = " ".join(f"--set {name}=…" for name in widths)
        raise DataError(
            f"{path}: expected {expected} features a segment ({spoken}), got {array.shape[1]}. Use the "
            f"features that the model was trained on; to train one on these, {settings}."
        )


def is_apart(folder: Path) -> bool:
    """Whether a folder of features keeps the two streams in folders of their own."""
    return any((folder / stream).is_dir() for stream in ("rgb", "flow"))


def _split(path: Path, truth: GroundTruth, subset: str) -> tuple[str, ...]:
    if not path.exists():
        names = tuple(name for name, video in truth.videos.items() if video.subset == subset)
        if not names:
            raise DataError(
                f"{path}: the split file does not exist, and {truth.source} has no subset '{subset}' to "
                "use instead. Write the file, one video a line, or set train_subset and test_subset."
            )
        return names
    lines = read_lines(path, "split file")
    if not lines:
        raise DataError(f"{path}: is empty; expected one video name a line.")
    if len(set(lines)) != len(lines):
        twice = next(name for name, count in Counter(lines).items() if count > 1)
        raise DataError(f"{path}: lists '{twice}' more than once; expected each video once.")
    return tuple(lines)
