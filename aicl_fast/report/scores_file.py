"""``scores.npz``: the curves of many recordings in one file, for plots and reports."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aicl_fast.config import DataConfig
from aicl_fast.errors import AiclError, DataError
from aicl_fast.files import atomic_path, require_file
from aicl_fast.scores import Scores

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
    target = require_file(path, "scores file")
    try:
        with np.load(target, allow_pickle=False) as archive:
            missing = [key for key in _KEYS if key not in archive.files]
            if missing:
                raise DataError(
                    f"{target}: is no scores file (lacks {', '.join(missing)}); expected one written by "
                    "save_scores, as runs/demo/scores.npz."
                )
            arrays = {key: archive[key] for key in _KEYS}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
        # TypeError: a plain .npy is an array and no archive.
        if isinstance(error, AiclError):
            raise
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{target}: cannot be read as a scores file ({text}). It is truncated or another format: write "
            "it again with save_scores."
        ) from error
    names = [str(name) for name in arrays["names"].reshape(-1)]
    classes = tuple(str(name) for name in arrays["classes"].reshape(-1))
    count, length = len(names), arrays["actionness"].shape[-1]
    expected = {
        "fused": (count, length, len(classes)),
        "video": (count, len(classes)),
        "actionness": (count, length),
        "actionness_agnostic": (count, length),
        "num_segments": (count,),
        "fps": (count,),
        "frames_per_segment": (count,),
    }
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise DataError(f"{target}: '{key}' has shape {arrays[key].shape}; expected {shape}.")
    for key in _FLOATS:
        if not np.isfinite(arrays[key]).all():
            raise DataError(f"{target}: '{key}' has values that are NaN or infinite. Detect again.")
    data = DataConfig(
        segments=length, rgb_width=int(arrays["rgb_width"]), flow_width=int(arrays["flow_width"])
    )
    return {
        name: Scores(
            fused=arrays["fused"][row],
            video=arrays["video"][row],
            actionness=arrays["actionness"][row],
            actionness_agnostic=arrays["actionness_agnostic"][row],
            num_segments=int(arrays["num_segments"][row]),
            data=replace(
                data,
                fps=float(arrays["fps"][row]),
                frames_per_segment=int(arrays["frames_per_segment"][row]),
            ),
            classes=classes,
            name=name,
        )
        for row, name in enumerate(names)
    }
