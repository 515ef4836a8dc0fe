"""``scores.npz``: the curves of many recordings in one file, for plots and reports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from aicl_fast.data.arrays import open_archive
from aicl_fast.data.scores import Scores
from aicl_fast.errors import DataError
from aicl_fast.files import atomic_path
from aicl_fast.text import require_label, require_name

_ARRAYS = {
    "names": ("U", "V"),
    "classes": ("U", "C"),
    "fused": ("f", "VTC"),
    "video_scores": ("f", "VC"),
    "actionness": ("f", "VT"),
    "actionness_agnostic": ("f", "VT"),
    "num_segments": ("iu", "V"),
    "fps": ("f", "V"),
    "frames_per_segment": ("iu", "V"),
}
"""What each array holds, text, whole numbers or others, and its axes: recordings, segments, classes."""
_LENGTHS = ("iu", "V")
"""``lengths``: where recordings have curves of different lengths, these stand one after the other, so many
segments of each, and T is their sum."""
_BY_SEGMENT = ("fused", "actionness", "actionness_agnostic")
_CURVES = ("fused", "video_scores", "actionness", "actionness_agnostic")
_NUMBERS = ("num_segments", "fps", "frames_per_segment")


def save_scores(path: str | os.PathLike[str], scores: Mapping[str, Scores]) -> None:
    """Write the curves of V recordings, whole or not at all.

    The arrays: ``names`` (V,), ``classes`` (C,), ``fused`` (V, T, C), ``video_scores`` (V, C), ``actionness``
    and ``actionness_agnostic`` (V, T) as float32; ``num_segments``, ``fps`` and ``frames_per_segment`` (V,).
    Where recordings differ in T, as those that were scored in windows do, their curves stand one after the
    other, (S, C) and (S,) for S segments in all, and ``lengths`` (V,) has the T of each.
    No Python objects: nothing in it is ever unpickled.

    Args:
        path: ends in .npz.
        scores: by recording, all of one model (the same classes).
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
        if item.classes != first.classes:
            raise DataError(
                f"scores: '{name}' has {len(item.classes)} classes, the first recording {len(first.classes)} "
                "or others. Write the scores of one model to one file."
            )
    lengths = [len(item.fused) for item in scores.values()]
    apart = len(set(lengths)) > 1
    arrays: dict[str, Any] = {"lengths": np.array(lengths)} if apart else {}
    for key in (*_CURVES, *_NUMBERS):
        join = np.concatenate if apart and key in _BY_SEGMENT else np.stack
        arrays[key] = join([getattr(item, key) for item in scores.values()])
    arrays |= {key: arrays[key].astype(np.float32) for key in _CURVES}
    arrays["fps"] = arrays["fps"].astype(np.float64)
    with atomic_path(target) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(
            handle, names=np.array(list(scores), np.str_), classes=np.array(first.classes, np.str_), **arrays
        )


def load_scores(path: str | os.PathLike[str]) -> dict[str, Scores]:
    """Read what :func:`save_scores` wrote.

    Raises:
        DataError: no such file, not such a file, truncated, or arrays that do not belong together.
    """
    with open_archive(path, "scores file") as archive:
        target = archive.path
        # Version 0.1.0 called the video scores "video".
        stored = {key: key if key in archive.names else key.removesuffix("_scores") for key in _ARRAYS}
        missing = [key for key, name in stored.items() if name not in archive.names]
        if missing:
            raise DataError(
                f"{target}: is no scores file (lacks {', '.join(missing)}); expected one written by "
                "save_scores, as runs/demo/scores.npz."
            )
        arrays = {key: archive.read(name) for key, name in stored.items()}
        lengths = archive.read("lengths") if "lengths" in archive.names else None
    actionness = arrays["actionness"]
    axes = {
        "V": arrays["names"].size,
        "C": arrays["classes"].size,
        "T": actionness.shape[-1] if actionness.ndim else 0,
    }
    expected = dict(_ARRAYS)
    if lengths is not None:
        arrays["lengths"], expected["lengths"] = lengths, _LENGTHS
        expected |= {key: (_ARRAYS[key][0], _ARRAYS[key][1].removeprefix("V")) for key in _BY_SEGMENT}
    for key, (kinds, letters) in expected.items():
        array, shape = arrays[key], tuple(axes[letter] for letter in letters)
        if array.dtype.kind not in kinds:
            raise DataError(
                f"{target}: {key!r} is an array of {array.dtype}. Write it again with save_scores."
            )
        if array.shape != shape:
            raise DataError(f"{target}: '{key}' has shape {array.shape}; expected {shape}.")
        if key in _CURVES and not np.isfinite(array).all():
            raise DataError(f"{target}: '{key}' has values that are NaN or infinite. Detect again.")
        if key in _NUMBERS and not ((array > 0) & np.isfinite(array)).all():
            row = int(np.argmin((array > 0) & np.isfinite(array)))
            raise DataError(
                f"{target}: of {str(arrays['names'][row])!r}: {key} is {array[row]:g}; expected a "
                "positive, finite number. Write it again with save_scores."
            )
    shortest = axes["T"]
    if lengths is not None:
        shortest = int(lengths.min(initial=axes["T"]))
        if shortest >= 2 and sum(lengths.tolist()) != axes["T"]:
            raise DataError(f"{target}: 'lengths' do not add up to {axes['T']} segments. Detect again.")
    if shortest < 2:
        raise DataError(f"{target}: holds {shortest} segments; expected at least 2. Detect again.")
    names = [require_name(name, target, "video") for name in arrays["names"].tolist()]
    classes = tuple(require_label(name, target, "class") for name in arrays["classes"].tolist())
    for what, items in (("video", names), ("class", classes)):
        if len(set(items)) != len(items):
            raise DataError(f"{target}: names a {what} twice. Write it again with save_scores.")
    curves = {key: arrays[key].astype(np.float32, copy=False) for key in _CURVES}
    by_recording: dict[str, Any] = dict(curves)
    if lengths is not None:
        ends = np.cumsum(lengths)[:-1]
        by_recording |= {key: np.split(curves[key], ends) for key in _BY_SEGMENT}
    numbers = {key: arrays[key].tolist() for key in _NUMBERS}
    return {
        name: Scores(
            **{key: curve[row] for key, curve in by_recording.items()},
            **{key: values[row] for key, values in numbers.items()},
            classes=classes,
            name=name,
        )
        for row, name in enumerate(names)
    }
