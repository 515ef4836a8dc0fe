"""Settings for one's own data that its features tell: streams, widths, T and the number of steps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aicl_fast.config import PRESETS, Config, DataConfig, Streams, load_config
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.arrays import load_array, open_archive
from aicl_fast.data.dataset import require_folder, split_videos
from aicl_fast.data.feature_folder import FeatureFiles, FeatureFolder, features_folder, streams_of
from aicl_fast.data.labels import SETTINGS
from aicl_fast.data.stream_names import STREAMS

PRESET = "own"
BOTH_WIDTHS = {2 * 1024: {"rgb": 1024, "flow": 1024}}
"""Arrays of both streams side by side, by their width: only I3D's are told from one stream's."""
_SHARE = 0.9
"""Of the training recordings, how many have at most T segments."""
_LEAST_SEGMENTS, _MOST_SEGMENTS = 32, 750
_VIEWS = 8
"""How often a recording is seen in training."""
_LEAST_STEPS, _MOST_STEPS = 300, 3000


@dataclass(frozen=True)
class Measured:
    """What features say.

    Attributes:
        widths: features a segment by stream, of the streams that every video has.
        segments: by video; those without features are left out.
        undivided: the width of arrays that may hold one stream or both side by side; 0 where it is known.
    """

    widths: Mapping[str, int]
    segments: Mapping[str, int]
    undivided: int = 0

    @property
    def streams(self) -> Streams:
        """Which streams a model can read."""
        rgb, flow = ("rgb" in self.widths), ("flow" in self.widths)
        return "both" if rgb and flow else "rgb" if rgb else "flow"

    def settings(self) -> dict[str, str | int]:
        """The settings that differ from the preset's, by name.

        Nine tenths of the recordings have at most T segments, and each recording is seen 8 times or more.
        """
        counts = np.array(list(self.segments.values()))
        length = int(np.quantile(counts, _SHARE, method="higher"))
        steps = _VIEWS * len(counts) // PRESETS[PRESET].train.batch_size
        found: dict[str, str | int] = {
            "streams": self.streams,
            **{f"{stream}_width": self.widths[stream] for stream in STREAMS if stream in self.widths},
            "segments": min(max(length, _LEAST_SEGMENTS), _MOST_SEGMENTS),
            "steps": min(max(steps, _LEAST_STEPS), _MOST_STEPS),
        }
        default = PRESETS[PRESET].to_dict()
        known = {**default["data"], **default["train"]}
        return {name: value for name, value in found.items() if known[name] != value}


def measure_features(root: str | os.PathLike[str], videos: Iterable[str]) -> Measured | None:
    """Look at the features of a data set's training videos, in every layout that is read.

    Args:
        root: the data set's folder.
        videos: their names.
    Returns:
        None if not one of them has features.
    Raises:
        DataError: features that cannot be read, or a name that two files have.
    """
    folder = FeatureFolder(features_folder(Path(root), "train"))
    shapes = {video: found for video in videos if (found := _shapes(_find(folder, video)))}
    if not shapes:
        return None
    segments = {video: next(iter(found.values()))[0] for video, found in shapes.items()}
    widths: dict[str, int] = {}
    undivided = 0
    for stream in ("", *STREAMS):
        seen = Counter(found[stream][-1] for found in shapes.values() if stream in found)
        if seen.total() == len(shapes):
            # Of several widths the wrong ones are refused by their files' names when the data set is opened.
            (width, _), *_ = seen.most_common(1)
            if stream:
                widths[stream] = width
            elif width in BOTH_WIDTHS:
                widths |= BOTH_WIDTHS[width]
            else:
                widths["rgb"] = undivided = width
    return Measured(widths, segments, undivided) if widths else None


def chosen_config(
    root: str | os.PathLike[str],
    preset: str | None,
    file: str | os.PathLike[str] | None,
    overrides: Sequence[str] = (),
) -> tuple[Config, str]:
    """The settings to train on a data set with.

    Where neither a preset nor a file is named, they are those of its ``settings.toml`` or, without one, of
    the preset for one's own data with what the features say.

    Args:
        root: the data set's folder.
        preset: as of :func:`aicl_fast.load_config`; None if none is named.
        file: a settings file; None if none is named.
        overrides: ``name=value``, over all others.
    Returns:
        The settings, and a sentence of where they come from if they were not named.
    Raises:
        ConfigError: as :func:`aicl_fast.load_config`.
        DataError: no such data set, or features that cannot be read.
    """
    folder = Path(root)
    if preset is not None or file is not None:
        return load_config(preset, file=file, overrides=overrides), ""
    own = folder / SETTINGS
    if own.exists():
        config = load_config(file=own, overrides=overrides)
        return config, f"settings: {own}, over the preset {config.preset}"
    # Other settings may be possible only with what the features say.
    subsets = [each for each in overrides if each.partition("=")[0].strip().endswith("train_subset")]
    subset = load_config(PRESET, overrides=subsets).data.train_subset
    require_folder(folder)
    truth = GroundTruth.load(folder / "gt.json")
    measured = measure_features(folder, split_videos(folder, "train", truth, subset))
    found = [f"{name}={value}" for name, value in measured.settings().items()] if measured else []
    said = f" with {', '.join(found)} from the features" if found else ""
    return load_config(PRESET, overrides=[*found, *overrides]), f"settings: preset {PRESET}{said}"


def _find(folder: FeatureFolder, video: str) -> tuple[FeatureFiles, Sequence[str]]:
    """A video's files, and the streams that they hold if each holds one."""
    wanted: tuple[Streams, ...] = ("both", "rgb", "flow")
    for streams in wanted:
        data = replace(DataConfig(), streams=streams)
        files = folder.find(video, data)
        if not files.missing:
            return files, streams_of(data)
    return FeatureFiles(()), ()


def _shapes(found: tuple[FeatureFiles, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """Shapes by stream; by ``""`` where one array may hold both."""
    files, streams = found
    if files.extracted:
        with open_archive(files.paths[0], "feature file") as archive:
            return {stream: archive.shape(stream) for stream in STREAMS if stream in archive.names}
    names = streams if files.apart else ("",)
    shapes = (
        {
            name: load_array(path, "feature file", mapped=True).shape
            for name, path in zip(names, files.paths, strict=True)
        }
        if files.paths
        else {}
    )
    return shapes if all(len(shape) == 2 for shape in shapes.values()) else {}
