"""Windows: a recording longer than those of training is scored piece by piece (docs/windows.md).

The network was trained on recordings of some length, sampled to T segments. A recording that is much longer
loses its actions between the samples. So it is cut into overlapping windows of a length that training saw,
each window is scored as a recording of its own, and the curves are blended into one of every segment. A class
score of the whole recording would say nothing about a moment in it; each moment has its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from aicl_fast.config import Config, DataConfig, DecodeConfig, WindowsConfig
from aicl_fast.data.features import Floats
from aicl_fast.errors import AiclWarning, ConfigError
from aicl_fast.kernels.outputs import NetworkOutputs

Run = Callable[[Sequence[int]], NetworkOutputs]
"""Scores the windows that start at these segments: one row for each."""
Progress = Callable[[int, int], None]
"""Called with (windows done, all windows)."""

SHORTEST = 3
"""Segments of a window: the network looks one segment to each side."""
BATCH = 16
"""Windows that are sampled and scored at a time."""
_MOST_STRETCHED = 4
"""Samples that a segment of an automatic window may get: what windows cost is bounded by it."""
_SHORT = 16
"""Segments up to which an average is one product: a stream has a few new ones at a time."""
_FAR = 2
"""What is this many times as long as the longest training recording and T is warned of."""


class Windows:
    """How long recordings are cut.

    Args:
        length: segments of a window.
        hop: segments from one window's start to the next one's, at most ``length``.
        limit: recordings of up to this many segments are scored whole.
        samples: T, what a window is sampled to.
    """

    def __init__(self, length: int, hop: int, limit: int, samples: int) -> None:
        self.length, self.hop, self.limit, self.samples = length, hop, limit, samples

    @classmethod
    def of(cls, config: Config, settings: WindowsConfig, fps: float, samples: int) -> Windows | None:
        """What the settings mean for recordings of this frame rate; None where all are scored whole.

        Args:
            config: the model's, with the lengths of its training recordings.
            samples: T.
        Raises:
            ConfigError: a window of fewer than three segments, or a hop longer than the window.
        """
        data = config.data
        if settings.window == "off" or (settings.window == "auto" and not data.longest_segments):
            return None
        second = fps / data.frames_per_segment
        if settings.window == "auto":
            typical = data.typical_segments or data.longest_segments
            length = max(SHORTEST, min(max(typical, samples // _MOST_STRETCHED), data.longest_segments))
            limit = max(length, data.longest_segments, samples)
        else:
            length = limit = round(settings.window * second)
            if length < SHORTEST:
                raise ConfigError(
                    f"windows.window: {settings.window:g} s are {length} segments of {1 / second:g} s; "
                    f"expected at least {SHORTEST} segments, {SHORTEST / second:g} s."
                )
        if settings.hop == "auto":
            # Windows of T segments agree on what they share but for their ends: little needs to overlap.
            hop = length - max(1, length // 8) if length == samples else length // 2
        else:
            hop = max(1, round(settings.hop * second))
        if hop > length:
            raise ConfigError(
                f"windows.hop: {settings.hop} s is longer than the window, {length / second:g} s: segments "
                "in between would never be seen. Give at most the window's length; half of it is usual."
            )
        return cls(length, hop, limit, samples)

    def starts(self, num_segments: int) -> list[int]:
        """The first segment of every window of a recording; the last window ends with it."""
        last = num_segments - self.length
        return [*range(0, last, self.hop), last]

    @cached_property
    def weights(self) -> Floats:
        """(length,) how much each segment of a window counts in the blend: most in the middle."""
        rising = np.arange(1, self.length + 1, dtype=np.float32)
        return np.minimum(rising, rising[::-1])

    @cached_property
    def _places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
        """For each segment of a window the two samples around it, and how far it lies towards the second."""
        place = np.arange(self.length) * (self.samples / self.length)
        low = np.minimum(place.astype(np.int64), self.samples - 1)
        return low, np.minimum(low + 1, self.samples - 1), (place - low).astype(np.float32)

    def spread(self, curve: Floats) -> Floats:
        """(T, …) samples of a window as (length, …) segments, linear between the samples."""
        if self.samples == self.length:
            return curve
        low, high, share = self._places
        share = share.reshape(-1, *[1] * (curve.ndim - 1))
        return (1 - share) * curve[low] + share * curve[high]


def warn_if_long(num_segments: int, data: DataConfig, samples: int, name: str, *, window: int = 0) -> None:
    """Warn of a recording that is far longer than any in training, or of windows that are.

    Args:
        num_segments: n.
        samples: T.
        window: segments of a window, 0 for a recording that is scored whole.
    """
    longest = max(data.longest_segments, samples)
    if (window or num_segments) <= _FAR * longest:
        return
    known = (
        f"the longest recording in training had {data.longest_segments}"
        if data.longest_segments
        else "the model does not say how long its training recordings were"
    )
    cut = f"is scored in windows of {window}" if window else f"has {num_segments}"
    warnings.warn(
        f"{name}: {cut} segments. The network sees {samples} of them, and {known}, so actions are missed. "
        "Set a shorter window: --window SECONDS, or WindowsConfig(window=SECONDS).",
        AiclWarning,
        stacklevel=2,
    )


class Blend:
    """The curves of a recording, from those of its windows.

    Args:
        num_segments: n.
        windows: how it is cut.
        num_classes: C.
        fusion_gamma: γ of the fused score. At 0 that score has nothing of the classes, and each window's
            video scores stand in.
    """

    def __init__(self, num_segments: int, windows: Windows, num_classes: int, fusion_gamma: float) -> None:
        self._windows, self._gamma = windows, fusion_gamma
        self._weight = np.zeros(num_segments, np.float32)
        self._fused = np.zeros((num_segments, num_classes), np.float32)
        self._actionness = np.zeros(num_segments, np.float32)
        self._agnostic = np.zeros(num_segments, np.float32)
        self._classes = None if fusion_gamma > 0 else np.zeros_like(self._fused)

    def add(self, starts: Sequence[int], outputs: NetworkOutputs) -> None:
        """Add scored windows: one row of ``outputs`` for each start."""
        windows = self._windows
        weight = windows.weights
        for row, start in enumerate(starts):
            place = slice(start, start + windows.length)
            self._weight[place] += weight
            self._fused[place] += weight[:, None] * windows.spread(outputs.scores[row])
            self._actionness[place] += weight * windows.spread(outputs.actionness[row])
            self._agnostic[place] += weight * windows.spread(outputs.actionness_agnostic[row])
            if self._classes is not None:
                self._classes[place] += weight[:, None] * outputs.video_scores[row]

    def outputs(self, settings: DecodeConfig) -> NetworkOutputs:
        """The blended curves: ``scores`` (n, C), ``video_scores`` (C,), both actionness (n,).

        ``scores`` are weighted by the class scores of each moment, ``video_scores`` are their greatest. Every
        segment must have been added. Call it once.
        """
        for curve in self.sums.values():
            if curve is not self._weight:
                curve /= self._weight.reshape(-1, *[1] * (curve.ndim - 1))
        classes = class_scores(self._fused, self._agnostic, self._classes, self._gamma, settings)
        if settings.power_in_windows:
            self._fused *= classes**settings.power_in_windows
        return NetworkOutputs(self._fused, classes.max(0), self._actionness, self._agnostic)

    @property
    def sums(self) -> dict[str, Floats]:
        """The weighted sums of what was added, (n, …) each, and ``weight`` (n,), what they are divided by."""
        sums = {"fused": self._fused, "actionness": self._actionness, "agnostic": self._agnostic}
        return sums | ({} if self._classes is None else {"classes": self._classes}) | {"weight": self._weight}


def class_scores(
    fused: Floats, agnostic: Floats, classes: Floats | None, fusion_gamma: float, settings: DecodeConfig
) -> Floats:
    """(n, C) class scores of each moment, from blended curves.

    Args:
        fused: (n, C).
        agnostic: (n,).
        classes: (n, C) video scores of the windows, blended; None where γ is above 0.
        fusion_gamma: γ.
    """
    if classes is not None:
        return classes
    # γ·softmax(CAS) is what the fused score has beside the class-agnostic actionness.
    probability = (fused - (1 - fusion_gamma) * agnostic[:, None]) / fusion_gamma
    return smoothed(np.clip(probability, 0, 1), settings.class_span)


@lru_cache(maxsize=64)
def _weights(count: int, span: int) -> Floats:
    """(count, count) what each of a few segments counts in the average around each."""
    places = np.arange(count)
    weights = np.maximum(span // 2 + 1 - np.abs(places[:, None] - places), 0).astype(np.float32)
    result: Floats = weights / weights.sum(1, keepdims=True)
    return result


def smoothed(curves: Floats, span: int) -> Floats:
    """(n, C) curves averaged over ``span`` segments around each, with triangular weights.

    At the ends the segments that are there count.
    """
    if len(curves) <= _SHORT:
        return _weights(len(curves), span) @ curves
    reach = span // 2
    total = np.zeros_like(curves)
    weight = np.zeros(len(curves), np.float32)
    for offset in range(-reach, reach + 1):
        share = np.float32(reach + 1 - abs(offset))
        low, high = max(0, offset), min(len(curves), len(curves) + offset)
        if low < high:
            total[low - offset : high - offset] += share * curves[low:high]
            weight[low - offset : high - offset] += share
    return total / weight[:, None]


def weighted(outputs: NetworkOutputs, config: Config, settings: DecodeConfig) -> NetworkOutputs:
    """The curves of a recording that was scored whole, with its fused score weighted by the class scores.

    Where ``settings.class_power`` is ``auto`` or 0, and at γ = 0, nothing changes.

    Args:
        outputs: of one recording: (T, C), (C,), (T,), (T,).
        config: the model's.
    """
    gamma, power = config.model.fusion_gamma, settings.power_whole
    if not (power and gamma > 0):
        return outputs
    classes = class_scores(outputs.scores, outputs.actionness_agnostic, None, gamma, settings)
    return outputs._replace(scores=outputs.scores * classes**power)


def score_by_windows(
    num_segments: int, windows: Windows, config: Config, settings: DecodeConfig, run: Run, progress: Progress
) -> NetworkOutputs:
    """The curves of one long recording, blended from its windows.

    Args:
        num_segments: n, more than ``windows.limit``.
        config: the model's.
        settings: how class scores weight the curves.
        run: scores some windows.
        progress: called after each batch.
    """
    blend = Blend(num_segments, windows, config.model.num_classes, config.model.fusion_gamma)
    starts = windows.starts(num_segments)
    for first in range(0, len(starts), BATCH):
        batch = starts[first : first + BATCH]
        blend.add(batch, run(batch))
        progress(first + len(batch), len(starts))
    return blend.outputs(settings)
