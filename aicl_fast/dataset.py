"""A data set on disk: features, splits and annotations, in the layout that published features come in.

features/{train,test}/{rgb,flow}/<video>.npy    (n, width) float, one row a segment
split_train.txt, split_test.txt                 one video a line
gt.json                                         ActivityNet annotations
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from aicl_fast.annotations import GroundTruth
from aicl_fast.config import Config
from aicl_fast.errors import DataError
from aicl_fast.features import Floats, join_streams, load_features
from aicl_fast.files import require_file

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class Dataset:
    """A checked data set. Make one with :meth:`open`.

    Attributes:
        root: its folder.
        ground_truth: all of ``gt.json``.
        videos: the videos of each split, in the split files' order.
        config: the settings, with the data set's classes filled in.
    """

    root: Path
    ground_truth: GroundTruth
    videos: dict[Split, tuple[str, ...]]
    config: Config

    @classmethod
    def open(
        cls, root: str | os.PathLike[str], config: Config, *, splits: Sequence[Split] = SPLITS
    ) -> Dataset:
        """Read the lists and annotations and check that every feature file is there.

        Args:
            root: the folder.
            config: settings; where its ``classes`` is empty, the classes are the annotations' labels,
                sorted.
            splits: which splits must be complete; another is left out of ``videos``.
        Raises:
            DataError: a file is missing (all that are missing are counted, the first are listed), a
                video has no annotation, a label is not among the classes.
        """
        folder = Path(root)
        if not folder.is_dir():
            raise DataError(
                f"{folder}: the data set folder does not exist. Expected a folder with gt.json, "
                "split_train.txt, split_test.txt and features/."
            )
        truth = GroundTruth.load(folder / "gt.json")
        videos = {split: _read_split(folder / f"split_{split}.txt") for split in splits}
        if not config.classes:
            config = config.with_classes(truth.classes)
        dataset = cls(folder, truth, videos, config)
        dataset._check()
        return dataset

    def path(self, split: Split, stream: Literal["rgb", "flow"], video: str) -> Path:
        """Where one stream of one video is kept."""
        return self.root / "features" / split / stream / f"{video}.npy"

    def features(self, split: Split, video: str) -> Floats:
        """(n, D_rgb + D_flow) float32 features of one video.

        Raises:
            DataError: see :func:`aicl_fast.features.load_features`; or the streams differ in length.
        """
        data = self.config.data
        rgb = load_features(self.path(split, "rgb", video), width=data.rgb_width)
        flow = load_features(self.path(split, "flow", video), width=data.flow_width)
        return join_streams(rgb, flow, f"{self.path(split, 'rgb', video)} and its flow")

    def labels(self, video: str) -> npt.NDArray[np.float32]:
        """(C,) float32, 1 for each class that the video contains: all that training is told."""
        present = set(self.ground_truth.videos[video].labels)
        return np.array([name in present for name in self.config.classes], dtype=np.float32)

    def truth(self, split: Split) -> GroundTruth:
        """The annotations of one split's videos."""
        kept = {video: self.ground_truth.videos[video] for video in self.videos[split]}
        return GroundTruth(kept, self.ground_truth.source)

    def _check(self) -> None:
        classes = set(self.config.classes)
        for split, names in self.videos.items():
            for video in names:
                entry = self.ground_truth.videos.get(video)
                if entry is None:
                    raise DataError(
                        f"{self.ground_truth.source}: has no annotation of '{video}', which "
                        f"split_{split}.txt lists. Add it, or take the video off the list."
                    )
                for label in entry.labels:
                    if label not in classes:
                        close = difflib.get_close_matches(label, list(classes), n=1)
                        hint = f" Did you mean '{close[0]}'?" if close else ""
                        raise DataError(
                            f"{self.ground_truth.source}: '{video}' has the label '{label}', which is not "
                            f"among the {len(classes)} classes.{hint}"
                        )
        streams: tuple[Literal["rgb", "flow"], ...] = ("rgb", "flow")
        wanted = [
            self.path(split, stream, video)
            for split, names in self.videos.items()
            for stream in streams
            for video in names
        ]
        missing = [path for path in wanted if not path.is_file()]
        if missing:
            shown = "".join(f"\n  {path}" for path in missing[:10])
            more = f"\n  … and {len(missing) - 10} more" if len(missing) > 10 else ""
            raise DataError(
                f"{self.root}: {len(missing)} of {len(wanted)} feature files are missing:{shown}{more}\n"
                "Download or extract them, or take the videos off the split files."
            )


def _read_split(path: Path) -> tuple[str, ...]:
    lines = require_file(path, "split file").read_text(encoding="utf-8").split()
    if not lines:
        raise DataError(f"{path}: is empty; expected one video name a line.")
    if len(set(lines)) != len(lines):
        twice = next(name for name in lines if lines.count(name) > 1)
        raise DataError(f"{path}: lists '{twice}' more than once; expected each video once.")
    return tuple(lines)
