"""``<video>.npz``: the features of one video and how they were made, as ``aicl-fast features`` writes it.

The arrays are ``rgb`` and ``flow`` (n, width) float32, one of which may be absent, and ``meta``, a JSON text.
They are stored uncompressed, so that a data set larger than memory can be mapped.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.config import DataConfig, Streams
from aicl_fast.data.arrays import Archive, open_archive
from aicl_fast.data.feature_formats import from_archive
from aicl_fast.data.features import EXTRACTED, Floats, check_features, check_lengths, check_width
from aicl_fast.errors import AiclWarning, DataError
from aicl_fast.files import atomic_path
from aicl_fast.limits import reading
from aicl_fast.text import parse_json, short_text

FORMAT = 1
_WHAT = "feature file"
_MOST = 2**53
"""Whole numbers below are exact as seconds."""


@dataclass(frozen=True)
class Recipe:
    """How features were made. Files of one data set must have the same, but for ``precision``.

    Attributes:
        fps: frames a second that the video was read at.
        stride: frames from one segment's start to the next one's.
        frames_per_segment: frames that the networks see of a segment.
        transform: resizing and crop, in words.
        rgb_weights: SHA-256 of the RGB network's weights; empty without that stream.
        flow_weights: of the flow network's.
        flow_algorithm: ``tvl1`` or ``dis``; empty without that stream.
        precision: what the networks computed in.
    """

    fps: float
    stride: int
    frames_per_segment: int
    transform: str
    rgb_weights: str = ""
    flow_weights: str = ""
    flow_algorithm: str = ""
    precision: str = "fp32"

    def differences(self, other: Recipe) -> list[str]:
        """What is not the same in ``other``, each as ``name: this and that``; precision is left aside."""
        names = [field.name for field in fields(self) if field.name != "precision"]
        return _differences(*({name: getattr(each, name) for name in names} for each in (self, other)))

    def text(self, streams: Streams) -> str:
        """What a model of these streams keeps of it, beside the frame rate and stride: ``name: value; …``."""
        names = ["frames_per_segment", "transform"]
        names += ["rgb_weights"] * (streams != "flow") + ["flow_weights", "flow_algorithm"] * (
            streams != "rgb"
        )
        return "; ".join(f"{name.replace('_', ' ')}: {getattr(self, name)}" for name in names)

    def check(self, data: DataConfig, name: str) -> None:
        """Refuse what was not made as a model's training features; one that does not know them takes all.

        Args:
            data: the model's settings.
            name: of the file or option, for the message.
        Raises:
            DataError: another network, flow algorithm or transform; each is named with both values.
        """
        if not data.recipe or data.recipe == (mine := self.text(data.streams)):
            return
        differences = _differences(_parts(mine), _parts(data.recipe))
        raise DataError(
            f"{name}: not as the features that the model was trained on ({'; '.join(differences)}). Extract "
            "with the weights and the flow algorithm of the training features."
        )


@dataclass(frozen=True, eq=False)
class VideoFeatures:
    """The features of one video.

    Attributes:
        video: its name.
        rgb: (n, width) float32, one row a segment, or None.
        flow: the same of the flow stream.
        recipe: how they were made.
        frames: of the video, at ``recipe.fps``.
        source: name and size in bytes of the video file.
    """

    video: str
    rgb: Floats | None
    flow: Floats | None
    recipe: Recipe
    frames: int
    source: tuple[str, int] = ("", 0)

    def __len__(self) -> int:
        stream = self.rgb if self.rgb is not None else self.flow
        return 0 if stream is None else len(stream)

    @property
    def duration(self) -> float:
        """Seconds of the video."""
        return self.frames / self.recipe.fps

    def streams(self, data: DataConfig, name: str | None = None) -> tuple[Floats, ...]:
        """The streams that a model with these settings reads.

        Args:
            name: of the file, for messages.
        Raises:
            DataError: a stream is absent, has another width, or was made otherwise than the model's training
                features.
        """
        name = name or self.video
        found = []
        for stream, width in (("rgb", data.rgb_width), ("flow", data.flow_width)):
            if data.streams not in ("both", stream):
                continue
            array: Floats | None = getattr(self, stream)
            if array is None:
                there = "rgb" if stream == "flow" else "flow"
                raise DataError(
                    f"{name}: holds {there} features alone, and the model reads "
                    f"{'rgb and flow' if data.streams == 'both' else stream}. Extract them again with "
                    f"--{stream}-weights, or train a model with --set streams={there}."
                )
            check_width(
                array.shape,
                [width],
                f"{name}: {stream}",
                advice="Use the network that the model's training features were extracted with.",
            )
            found.append(array)
        self.recipe.check(data, name)
        return tuple(found)


def save_video_features(path: str | os.PathLike[str], features: VideoFeatures) -> None:
    """Write one video's features, whole or not at all.

    Raises:
        DataError: another suffix than .npz, no stream, streams that cannot be used, or a folder that cannot
            be written to.
    """
    target = Path(path)
    if target.suffix != EXTRACTED:
        raise DataError(f"{target}: expected a name that ends in {EXTRACTED}.")
    arrays = {name: array for name in ("rgb", "flow") if (array := getattr(features, name)) is not None}
    if not arrays:
        raise DataError(f"{target}: no features to write; expected rgb, flow or both.")
    checked = {name: check_features(array, f"{target}: {name}") for name, array in arrays.items()}
    if len(checked) == 2:
        check_lengths(*checked.values(), name=str(target))
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.savez(file, meta=np.array(_to_json(features)), **checked)  # type: ignore[arg-type]


def load_video_features(path: str | os.PathLike[str], *, mapped: bool = False) -> VideoFeatures:
    """Read what :func:`save_video_features` wrote.

    Args:
        path: the file.
        mapped: leave the arrays on disk; their pages are read when they are used.
    Raises:
        DataError: no such file, not such a file, truncated, or arrays that do not belong together.
    """
    with open_archive(path, _WHAT) as archive:
        meta = _meta(archive)
        arrays: dict[str, Floats] = {
            name: check_features(archive.read(name, mapped=mapped), f"{archive.path}: {name}")
            for name in ("rgb", "flow")
            if name in archive.names
        }
    if not arrays:
        raise DataError(f"{archive.path}: holds neither rgb nor flow features. Extract them again.")
    if len(arrays) == 2:
        check_lengths(*arrays.values(), name=str(archive.path))
    features = VideoFeatures(rgb=arrays.get("rgb"), flow=arrays.get("flow"), **meta)
    _check_frames(features, archive.path)
    return features


def read_header(path: str | os.PathLike[str]) -> VideoFeatures:
    """What a file says about its features, without reading them: both streams are None.

    Raises:
        DataError: as :func:`load_video_features`.
    """
    with open_archive(path, _WHAT) as archive:
        return VideoFeatures(rgb=None, flow=None, **_meta(archive))


def check_recipes(recipes: Mapping[Path, Recipe]) -> Recipe:
    """The one recipe of several files.

    Raises:
        DataError: two files were made differently; both are named, and what differs.
    """
    (first, recipe), *others = recipes.items()
    for path, other in others:
        if differences := recipe.differences(other):
            raise DataError(
                f"{first} and {path}: were not extracted alike ({'; '.join(differences)}), so they cannot be "
                "used together. Extract one of them again with the other's settings."
            )
    return recipe


def _to_json(features: VideoFeatures) -> str:
    from aicl_fast import __version__

    name, size = features.source
    document = {
        "format": FORMAT,
        "version": __version__,
        "video": features.video,
        "frames": features.frames,
        "source": {"name": name, "bytes": size},
        **asdict(features.recipe),
    }
    return json.dumps(document)


def _meta(archive: Archive) -> dict[str, Any]:
    """What a file says of its features, as arguments of :class:`VideoFeatures`."""
    source = archive.path
    text = archive.read("meta") if "meta" in archive.names else None
    if text is None or text.dtype.kind != "U" or text.ndim:
        names = short_text(", ".join(archive.names)) or "none"
        raise DataError(
            f"{source}: is an archive of several arrays ({names}) that does not say how they were made; "
            "expected one that `aicl-fast features` wrote, or a single .npy array. "
            f"{from_archive(source, archive.names)}"
        )
    what = "record of how its features were made"
    with reading(source, what, advice="Extract them again."):
        document = parse_json(str(text), source, what)
        if document["format"] != FORMAT:
            raise DataError(
                f"{source}: has format {document['format']}, written by aicl_fast {document.get('version')}; "
                f"this version reads format {FORMAT}. Upgrade aicl_fast."
            )
        recipe = Recipe(**{field.name: document[field.name] for field in fields(Recipe)})
        if type(recipe.fps) not in (int, float) or not 0 < recipe.fps < math.inf:
            raise ValueError(f"fps {recipe.fps!r}")
        for name in ("stride", "frames_per_segment", "frames"):
            if not (type(document[name]) is int and 1 <= document[name] < _MOST):
                raise ValueError(f"{name} {document[name]!r}")
        for field in fields(Recipe)[3:]:
            if not isinstance(document[field.name], str):
                raise TypeError(f"{field.name} {document[field.name]!r}")
        origin = (str(document["source"]["name"]), int(document["source"]["bytes"]))
        return {
            "video": str(document["video"]),
            "frames": document["frames"],
            "recipe": recipe,
            "source": origin,
        }


def _check_frames(features: VideoFeatures, source: Path) -> None:
    """Warn of more or fewer segments than a video of so many frames has: their times would be wrong."""
    recipe, count = features.recipe, len(features)
    last = (count - 1) * recipe.stride
    if not last < features.frames <= last + max(recipe.stride, recipe.frames_per_segment):
        warnings.warn(
            f"{source}: says that its video has {features.frames} frames, and holds {count} segments that "
            f"begin {recipe.stride} frames apart. The two contradict each other: extract them again.",
            AiclWarning,
            stacklevel=3,
        )


def _parts(text: str) -> dict[str, str]:
    """The inverse of :meth:`Recipe.text`."""
    return dict(part.partition(": ")[::2] for part in text.split("; "))


def _differences(mine: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    return [
        f"{name.replace('_', ' ')}: {_short(value)} and {_short(theirs.get(name, ''))}"
        for name, value in mine.items()
        if value != theirs.get(name)
    ]


def _short(value: object) -> str:
    """A hash by its beginning, which is enough to tell two apart."""
    if value == "":
        return "none"
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
