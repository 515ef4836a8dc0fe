"""A data set on disk: features, splits and annotations, in the layout that published features come in.

features/{train,test}/                          files of features, see feature_folder.py
or features/                                    those of all videos in one place
split_train.txt, split_test.txt                 one video a line
gt.json                                         ActivityNet annotations
"""

from __future__ import annotations

import difflib
import functools
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from aicl_fast.config import Config
from aicl_fast.data.annotations import GroundTruth, remarks_on_classes
from aicl_fast.data.feature_file import check_recipes, read_header
from aicl_fast.data.feature_folder import FeatureFiles, FeatureFolder, is_extracted, missing_features
from aicl_fast.data.feature_folder import features_folder as features_folder
from aicl_fast.data.feature_folder import read_streams as read_streams
from aicl_fast.data.features import EXTRACTED as EXTRACTED
from aicl_fast.data.features import Floats, looks_transposed
from aicl_fast.data.timing import check_durations
from aicl_fast.errors import AiclWarning, DataError
from aicl_fast.files import read_lines
from aicl_fast.text import listed, require_name

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
        missing: videos that were skipped because they have no features (``allow_missing``).
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
        may_lack_test: bool = False,
    ) -> Dataset:
        """Read the lists and annotations and check that every feature file is there.

        Args:
            root: the folder.
            config: settings; where its ``classes`` is empty, the classes are the annotations' labels,
                sorted.
            splits: which splits must be complete; another is left out of ``videos``.
            allow_missing: leave out videos without features, and list them in ``missing``, instead of
                refusing.
            may_lack_test: accept a data set all of whose videos are training videos.
        Raises:
            DataError: a file is missing (all that are missing are counted, the first hundred listed), a
                video has no annotation, a label is not among the classes, a training video has no label,
                a split has no video left, one file is that of two videos, or features that say how they
                were made were made differently.
        Warns:
            AiclWarning: a video is in both splits, a class has no training video, or what
                :meth:`GroundTruth.remarks` finds.
        """
        folder = Path(root)
        require_folder(folder)
        truth = GroundTruth.load(folder / "gt.json")
        subsets = {"train": config.data.train_subset, "test": config.data.test_subset}
        videos: dict[Split, tuple[str, ...]] = {}
        for split in splits:
            # Not where annotations of other videos are left, which another setting may make test videos.
            if may_lack_test and split == "test" and _all_trained(folder, truth, videos.get("train", ())):
                videos[split] = ()
            else:
                videos[split] = split_videos(folder, split, truth, subsets[split])
        if not config.classes:
            config = config.with_classes(truth.classes)
        dataset = cls(folder, truth, videos, config)
        dataset._check_labels()
        dataset = dataset._check_features(allow_missing)
        for text in dataset._remarks():
            warnings.warn(text, AiclWarning, stacklevel=2)
        return dataset

    def folder(self, split: Split) -> Path:
        """Where a split's features are kept."""
        return features_folder(self.root, split)

    @functools.cached_property
    def _folders(self) -> dict[Path, FeatureFolder]:
        return {path: FeatureFolder(path) for path in map(self.folder, SPLITS)}

    def files(self, split: Split, video: str) -> FeatureFiles:
        """The feature files of one video."""
        return self._folders[self.folder(split)].find(video, self.config.data)

    def features(self, split: Split, video: str) -> Floats:
        """(n, D) float32 features of one video: the streams that the model reads, side by side.

        Raises:
            DataError: see :func:`aicl_fast.data.features.load_features`; or the streams differ in length.
        """
        streams = self.streams(split, video)
        return streams[0] if len(streams) == 1 else np.concatenate(streams, axis=1)

    def streams(self, split: Split, video: str, *, mapped: bool = False) -> tuple[Floats, ...]:
        """The arrays that :meth:`features` puts side by side, (n, width) each.

        Args:
            mapped: leave float32 files on disk and read what is used (see
                :func:`aicl_fast.data.features.map_features`).
        """
        return self._folders[self.folder(split)].read(video, self.config.data, mapped=mapped)

    def labels(self, video: str) -> npt.NDArray[np.float32]:
        """(C,) float32, 1 for each class that the video contains."""
        present = set(self.ground_truth.videos[video].classes)
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
                if split == "train" and not entry.classes:
                    but = " but Ambiguous, which is no class" if entry.labels else ""
                    raise DataError(
                        f"{self.ground_truth.source}: the training video '{video}' has no label{but}. Add "
                        "one, or take the video off split_train.txt."
                    )
                for label in entry.classes:
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
        wanted = {
            (split, video): self.files(split, video)
            for split, names in self.videos.items()
            for video in names
        }
        owners: dict[Path, str] = {}
        for (_, video), files in wanted.items():
            for path in files.paths:
                if owners.setdefault(path, video) != video:
                    raise DataError(
                        f"{path}: would be read for two videos, {owners[path]!r} and {video!r}. Each needs "
                        "features of its own: add the other's, or take it off the split files."
                    )
        lost = {key: files for key, files in wanted.items() if files.missing}
        found = [files.paths[0] for files in wanted.values() if not files.missing]
        if not lost:
            return self._with_recipe(found)
        if not allow_missing:
            raise missing_features(
                self.root,
                {video: files for (_, video), files in lost.items()},
                {video: self._folders[self.folder(split)] for split, video in lost},
                sum(len(files.paths) + len(files.missing) for files in wanted.values()),
                extracted=bool(found) and is_extracted(found[0]),
            )
        videos = {
            split: tuple(video for video in names if (split, video) not in lost)
            for split, names in self.videos.items()
        }
        for split, names in videos.items():
            if self.videos[split] and not names:
                raise DataError(f"{self.root}: not one video of split_{split} has features.")
        kept = replace(self, videos=videos, missing=tuple(video for _, video in lost))
        return kept._with_recipe(found)

    def _remarks(self) -> Iterable[str]:
        """What is odd and can be right, as sentences."""
        used = self.truth([video for names in self.videos.values() for video in dict.fromkeys(names)])
        remarks = used.remarks()
        yield from (f"{self.ground_truth.source}: {remark}" for remark in remarks)
        classes = remarks_on_classes(sorted(self.config.classes))
        yield from (f"classes: {remark}" for remark in classes if remark not in remarks)
        tests = self.videos.get("test", ())
        if tests and not any(self.ground_truth.videos[video].classes for video in tests):
            yield f"{self.root}: not one test video has a label, so nothing can be measured on them."
        if "train" not in self.videos:
            return
        train = set(self.videos["train"])
        both = [video for video in self.videos.get("test", ()) if video in train]
        if both:
            yield (
                f"{self.root}: {len(both)} of the test videos are training videos, too ({listed(both)}): "
                "what is measured on them says nothing of new videos. Take them off one of the splits."
            )
        learned = {label for video in train for label in self.ground_truth.videos[video].classes}
        never = [name for name in self.config.classes if name not in learned]
        if never:
            tested = {label for video in used.videos.values() for label in video.classes}
            more = [name for name in never if name in tested]
            which = f"; test videos have {listed(more)}" if more else ""
            yield (
                f"{self.root}: {len(never)} of {len(self.config.classes)} classes have no training video, so "
                f"they cannot be learned: {listed(never)}{which}."
            )

    def check_counts(self, split: Split, segments: Mapping[str, int]) -> None:
        """Look at the numbers of segments of a split's videos together.

        Warns:
            AiclWarning: they contradict the annotations' durations or frame rates, or look like widths.
        """
        data = self.config.data
        seconds = {name: count * data.frames_per_segment / data.fps for name, count in segments.items()}
        check_durations(self.ground_truth, seconds, data, "--set fps=", known=bool(data.recipe))
        width = data.rgb_width if data.streams != "flow" else data.flow_width
        counts = set(segments.values())
        if len(segments) > 1 and len(counts) == 1 and looks_transposed((*counts, width)):
            warnings.warn(
                f"{self.folder(split)}: every video has {counts.pop()} rows of {width} values, which looks "
                "transposed: features have one row a segment. If so, turn each array, "
                "numpy.save(path, numpy.load(path).T), and put the settings of the widths right.",
                AiclWarning,
                stacklevel=2,
            )

    def _with_recipe(self, paths: list[Path]) -> Dataset:
        """With what features record of how they were made, which must be alike and as the model's were."""
        extracted = [path for path in paths if is_extracted(path)]
        if not extracted:
            return self
        if len(extracted) < len(paths):
            other = next(path for path in paths if not is_extracted(path))
            raise DataError(
                f"{self.root}: {len(extracted)} videos have features that `aicl-fast features` made, as "
                f"{extracted[0]}, and {len(paths) - len(extracted)} have others, as {other}, which may be of "
                "another network. Use the ones or the others for all videos."
            )
        recipe = check_recipes({path: read_header(path).recipe for path in extracted})
        data = self.config.data
        recipe.check(data, str(extracted[0]))
        made = recipe.text(data.streams)
        data = replace(data, fps=recipe.fps, frames_per_segment=recipe.stride, recipe=made)
        return replace(self, config=replace(self.config, data=data))


def require_folder(root: Path) -> None:
    """Refuse a data set that is not there."""
    if not os.path.isdir(root):
        raise DataError(
            f"{root}: the data set folder does not exist. Expected a folder with gt.json, "
            "split_train.txt, split_test.txt and features/."
        )


def _all_trained(root: Path, truth: GroundTruth, trained: Sequence[str]) -> bool:
    return not (root / "split_test.txt").exists() and truth.videos.keys() <= set(trained)


def split_videos(root: Path, split: str, truth: GroundTruth, subset: str) -> tuple[str, ...]:
    """The videos of a split: those that ``split_<split>.txt`` lists or, without one, an annotated subset's.

    Raises:
        DataError: an empty list, a video twice, a name that cannot be one; or there is neither.
    """
    path = root / f"split_{split}.txt"
    if not path.exists():
        names = tuple(name for name, video in truth.videos.items() if video.subset == subset)
        if not names:
            there = ", ".join(sorted({repr(video.subset) for video in truth.videos.values()})) or "none"
            raise DataError(
                f"{path}: the split file does not exist, and {truth.source} has no subset '{subset}' to "
                f"use instead (its subsets are {there}). Write the file, one video a line, or set "
                "train_subset and test_subset."
            )
        return names
    return read_split(path)


def read_split(path: Path) -> tuple[str, ...]:
    """The videos that a split file lists. Raises as :func:`split_videos`."""
    names = [require_name(line, path, "video") for line in read_lines(path, "split file")]
    if not names:
        raise DataError(f"{path}: is empty; expected one video name a line.")
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DataError(f"{path}: lists '{twice}' more than once; expected each video once.")
    return tuple(names)
