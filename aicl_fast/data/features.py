"""Feature arrays: reading them, checking them, and sampling a recording's segments to the model's T."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Sized

import numpy as np
import numpy.typing as npt

from aicl_fast.data.arrays import Array as Array
from aicl_fast.data.arrays import load_array
from aicl_fast.errors import DataError

Floats = npt.NDArray[np.float32]
EXTRACTED = ".npz"
"""What files of ``aicl-fast features`` end in."""
_USUAL_WIDTHS = frozenset((512, 1024, 2048, 4096))
"""Widths of the networks that features come from."""


def check_features(features: Array, name: str, *, width: int | None = None) -> Floats:
    """``features`` as a C-contiguous float32 ``(n, width)`` array, or a clear refusal.

    Args:
        features: ``(n, D)`` floating-point array, one row a segment, n >= 1.
        name: the file or argument, for messages.
        width: the D that the model expects; None accepts any.
    Raises:
        DataError: not an array, not 2-D, empty, integers, the wrong width, or NaN or infinity in it.
    """
    if isinstance(features, (str, os.PathLike)):
        raise DataError(
            f"{name}: expected a NumPy array of shape (segments, {width or 'features'}), got the path "
            f"{str(features)!r}. Read a .npy file with numpy.load(path, allow_pickle=False); for a video use "
            "`aicl-fast detect`, or aicl_fast.video.extract_features and then detect_features."
        )
    if not isinstance(features, np.ndarray):
        raise DataError(
            f"{name}: expected a NumPy array of shape (segments, {width or 'features'}), got "
            f"{type(features).__name__}. Convert it with numpy.asarray."
        )
    floating = bool(np.issubdtype(features.dtype, np.floating))
    check_rows(features.shape, floating, str(features.dtype), name, width=width)
    # One pass and no temporary in the usual case: a sum is finite only if no addend is NaN, and an
    # infinite sum of finite values (overflow) is told apart by the slow test.
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.ascontiguousarray(features, dtype=np.float32)
        total = float(result.sum())
    if not np.isfinite(total):
        bad = ~np.isfinite(result)
        if bad.any():
            row, column = (int(index[0]) for index in np.nonzero(bad))
            raise DataError(
                f"{name}: {int(bad.sum())} values are NaN or infinite, the first in row {row}, column "
                f"{column}. Extract these features again, or replace the values if you know what they mean."
            )
    return result


def load_features(path: str | os.PathLike[str], *, width: int | None = None) -> Floats:
    """Read one stream of one recording from a ``.npy`` file, checked by :func:`check_features`.

    Raises:
        DataError: missing, truncated, pickled, not a .npy file, or not usable as features.
    """
    return check_features(load_array(path, "feature file"), str(path), width=width)


def map_features(path: str | os.PathLike[str], *, width: int | None = None) -> Floats:
    """The same without reading a float32 file into memory: its pages come from disk when they are used.

    Values are checked once, here, by a pass over the file that keeps nothing.
    """
    array = load_array(path, "feature file", mapped=True)
    checked = check_features(array, str(path), width=width)
    return array if array.dtype == np.float32 and array.flags.c_contiguous else checked


def check_rows(
    shape: tuple[int, ...], floating: bool, dtype: str, name: str, *, width: int | None = None
) -> None:
    """Check what can be told of features without looking at their values.

    Args:
        shape: expected to be ``(n, D)``, n >= 1.
        floating: whether their type is a floating-point one.
        dtype: the type's name, for messages.
        name: the file or argument, for messages.
        width: the D that the model expects; None accepts any.
    Raises:
        DataError: not 2-D, empty, integers, or the wrong width.
    """
    if len(shape) != 2:
        raise DataError(
            f"{name}: expected shape (segments, {width or 'features'}), got {shape}. "
            "One recording at a time has two axes: drop a batch axis, or add the segment axis."
        )
    if shape[0] == 0 or shape[1] == 0:
        raise DataError(f"{name}: the array is empty (shape {shape}); expected one row a segment.")
    if not floating:
        raise DataError(
            f"{name}: expected floating-point features, got {dtype}. If the values are right, "
            "convert them with .astype('float32')."
        )
    if width is not None:
        check_width(shape, [width], name)


def check_width(
    shape: Sequence[int],
    widths: Sequence[int],
    name: str,
    *,
    spoken: str = "",
    advice: str = "Use the features that the model was trained on.",
) -> None:
    """Check the number of features a segment.

    Args:
        shape: ``(n, D)``.
        widths: of the streams that are side by side: D is their sum.
        name: the file or argument, for messages.
        spoken: how the sum comes about, for the message.
        advice: what to do about another width.
    Raises:
        DataError: another D; where n is a usual width and D is none, that the array looks transposed.
    """
    expected = sum(widths)
    if shape[1] == expected:
        return
    if looks_transposed(shape, (*widths, expected)):
        raise DataError(
            f"{name}: expected shape (segments, {expected}), got {tuple(shape)}, which looks transposed: "
            "features have one row a segment. Turn the array: numpy.save(path, numpy.load(path).T)."
        )
    raise DataError(f"{name}: expected {expected} features a segment{spoken}, got {shape[1]}. {advice}")


def looks_transposed(shape: Sequence[int], widths: Iterable[int] = ()) -> bool:
    """Whether the number of rows is one of these widths, or a usual one, and that of columns is none."""
    known = frozenset(widths)
    return any(shape[0] in each and shape[1] not in known | each for each in (known, _USUAL_WIDTHS))


def check_lengths(*streams: Sized, name: str) -> None:
    """Check that the streams of one recording have the same number of segments.

    Raises:
        DataError: they differ.
    """
    counts = [len(stream) for stream in streams]
    if len(set(counts)) > 1:
        raise DataError(
            f"{name}: rgb has {counts[0]} segments and flow {counts[1]}; expected the same number. "
            "Extract both streams from the same frames, or cut the longer one if it only has a tail more."
        )
