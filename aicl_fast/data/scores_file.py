"""``scores.npz``: the curves of many recordings in one file, for plots and reports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from aicl_fast.config import DataConfig
from aicl_fast.data.arrays import open_archive
from aicl_fast.data.scores import Scores
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.files import atomic_path
from aicl_fast.text import require_label, require_name

_FLOATS = ("fused", "video", "actionness", "actionness_agnostic")
_KEYS = (
    "names",
    "classes",
    "num_segments",
    "fps",
    "frames_per_segment",
    "rgb_width",
    "flow_width",
    *_FLOATS,
)
_KINDS = {
    **dict.fromkeys(("names", "classes"), "U"),
    **dict.fromkeys(("num_segments", "frames_per_segment", "rgb_width", "flow_width"), "iu"),
    **dict.fromkeys(("fps", *_FLOATS), "f"),
}
"""What each array holds: text, whole numbers or others."""


def save_scores(path: str | os.PathLike[str], scores: Mapping[str, Scores]) -> None:
    """Write the curves of V recordings, whole or not at all.

    The arrays: ``names`` (V,), ``classes`` (C,), ``fused`` (V, T, C), ``video`` (V, C), ``actionness`` and
    ``actionness_agnostic`` (V, T) as float32; ``num_segments``, ``fps`` and ``frames_per_segment`` (V,);
    ``rgb_width`` and ``flow_width``. No Python objects: nothing in it is ever unpickled.

    Args:
        path: ends in .npz.
        scores: by recording, all of one model (the same T and classes).
    Raises:
        DataError: nothing to write, recordings of different models, another suffix, or a folder that cannot
            be written to.
    """
    target = os.fspath(path)
    if not target.endswith(".npz"):
        raise DataError(f"{target}: expected a name that ends in .npz.")
    if not scores:
        raise DataError(f"{target}: no scores to write; expected those of at least one recording.")
    first = next(iter(scores.values()))
    for name, item in scores.items():
        if item.classes != first.classes or item.fused.shape != first.fused.shape:
            raise DataError(
                f"scores: '{name}' has {item.fused.shape[0]} segments and {len(item.classes)} classes, the "
                f"first recording {first.fused.shape[0]} and {len(first.classes)} or others. Write the "
                "scores of one model to one file."
            )
    items = list(scores.values())
    arrays: dict[str, Any] = {
        key: np.stack([getattr(item, key) for item in items]).astype(np.float32) for key in _FLOATS
    }
    with atomic_path(target) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(
            handle,
            names=np.array(list(scores), np.str_),
            classes=np.array(first.classes, np.str_),
            num_segments=np.array([item.num_segments for item in items], np.int64),
            fps=np.array([item.data.fps for item in items], np.float64),
            frames_per_segment=np.array([item.data.frames_per_segment for item in items], np.int64),
            rgb_width=np.array(first.data.rgb_width),
            flow_width=np.array(first.data.flow_width),
            **arrays,
        )


def load_scores(path: str | os.PathLike[str]) -> dict[str, Scores]:
    """Read what :func:`save_scores` wrote.

    Raises:
        DataError: no such file, not such a file, truncated, or arrays that do not belong together.
    """
    with open_archive(path, "scores file") as archive:
        target = archive.path
        missing = [key for key in _KEYS if key not in archive.names]
        if missing:
            raise DataError(
                f"{target}: is no scores file (lacks {', '.join(missing)}); expected one written by "
                "save_scores, as runs/demo/scores.npz."
            )
        arrays = {key: archive.read(key) for key in _KEYS}
    for key, kinds in _KINDS.items():
        if arrays[key].dtype.kind not in kinds:
            raise DataError(
                f"{target}: {key!r} is an array of {arrays[key].dtype}. Write it again with save_scores."
            )
    length = arrays["actionness"].shape[-1] if arrays["actionness"].ndim else 0
    count, many = arrays["names"].size, arrays["classes"].size
    expected = {
        "names": (count,),
        "classes": (many,),
        "fused": (count, length, many),
        "video": (count, many),
        "actionness": (count, length),
        "actionness_agnostic": (count, length),
        "num_segments": (count,),
        "fps": (count,),
        "frames_per_segment": (count,),
        "rgb_width": (),
        "flow_width": (),
    }
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise DataError(f"{target}: '{key}' has shape {arrays[key].shape}; expected {shape}.")
    names = [require_name(name, target, "video") for name in arrays["names"].tolist()]
    classes = tuple(require_label(name, target, "class") for name in arrays["classes"].tolist())
    for what, items in (("video", names), ("class", classes)):
        if len(set(items)) != len(items):
            raise DataError(f"{target}: names a {what} twice. Write it again with save_scores.")
    if (arrays["num_segments"] < 1).any():
        raise DataError(f"{target}: 'num_segments' has a number below 1. Write it again with save_scores.")
    for key in _FLOATS:
        if not np.isfinite(arrays[key]).all():
            raise DataError(f"{target}: '{key}' has values that are NaN or infinite. Detect again.")
    curves = {key: arrays[key].astype(np.float32, copy=False) for key in _FLOATS}
    found = {}
    for row, name in enumerate(names):
        try:
            data = DataConfig(
                segments=length,
                fps=float(arrays["fps"][row]),
                frames_per_segment=int(arrays["frames_per_segment"][row]),
                rgb_width=int(arrays["rgb_width"]),
                flow_width=int(arrays["flow_width"]),
            )
        except ConfigError as error:
            raise DataError(f"{target}: of {name!r}: {error} Write it again with save_scores.") from error
        found[name] = Scores(
            **{key: curve[row] for key, curve in curves.items()},
            num_segments=int(arrays["num_segments"][row]),
            data=data,
            classes=classes,
            name=name,
        )
    return found
