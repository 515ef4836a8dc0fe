"""The curves of an endless recording: the last stretch of them, in memory that does not grow.

They come from the same windows as :mod:`aicl_fast.windows` cuts, so what is settled is what a recording of
the same segments gets offline. What no whole window covers yet comes from the last segments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.config import Config, DecodeConfig
from aicl_fast.data.features import Floats
from aicl_fast.errors import DataError
from aicl_fast.kernels.outputs import NetworkOutputs
from aicl_fast.windows import Blend, Windows, class_scores

Array = npt.NDArray[Any]
RunWindow = Callable[[Floats], NetworkOutputs]
"""Scores one window of (length, D) features, sampled to T: one row."""
RunRows = Callable[[Floats], NetworkOutputs]
"""Scores (m, D) features as they are, m at least the least that the file takes: one row."""

_MOVE = 16
"""Segments by which the beginning of what is decoded moves on."""


class Rolling:
    """The last rows of an endless array.

    Attributes:
        first, stop: numbers of the first row that is kept, and of the next one.
    """

    def __init__(self, width: int) -> None:
        self.first = self.stop = 0
        self._place = 0
        self._rows = np.empty((64, width), np.float32)

    def append(self, rows: Floats) -> None:
        """Add (k, D) rows."""
        kept = self.stop - self.first
        if self._place + kept + len(rows) > len(self._rows):
            size = max(len(self._rows), 2 * (kept + len(rows)))
            moved = np.empty((size, self._rows.shape[1]), np.float32)
            moved[:kept] = self.rows(self.first, self.stop)
            self._rows, self._place = moved, 0
        low = self._place + kept
        self._rows[low : low + len(rows)] = rows
        self.stop += len(rows)

    def rows(self, low: int, high: int) -> Floats:
        """Rows ``low`` to before ``high``, without a copy."""
        shift = self._place - self.first
        return self._rows[low + shift : high + shift]

    def drop(self, before: int) -> None:
        """Forget the rows before this one."""
        before = min(max(before, self.first), self.stop)
        self._place += before - self.first
        self.first = before


class StreamScores:
    """Features in, curves of the last stretch out.

    Args:
        windows: how the recording is cut.
        config: the model's.
        settings: how curves are weighted by class scores.
        run_window: scores a window.
        run_rows: scores the last segments alone; None where the model takes nothing shorter than T.
        shortest: rows that ``run_rows`` takes at the least.
        step: segments from one :meth:`look` to the next.

    Attributes:
        features: of the segments that are still needed.
        first: the stretch's first segment.
        scored: the segment after the last that has a score.
        settled: segments whose scores can no longer change, however the recording goes on.
    """

    def __init__(
        self,
        windows: Windows,
        config: Config,
        settings: DecodeConfig,
        run_window: RunWindow,
        run_rows: RunRows | None,
        shortest: int,
        step: int,
    ) -> None:
        self._windows, self._settings, self._gamma = windows, settings, config.model.fusion_gamma
        self._run_window, self._run_rows, self._shortest = run_window, run_rows, max(3, shortest)
        self._reach = settings.class_span // 2
        self._kept = windows.length + windows.hop + 2 * self._reach + 2
        self._step = step
        capacity = self._kept + windows.hop + step
        classes = config.model.num_classes
        self.features = Rolling(config.data.input_width)
        self.first = self.scored = self.settled = 0
        self._next_start = 0
        self._blend = Blend(capacity, windows, classes, self._gamma)
        # What the last segments gave, blended or not; and the curves that are decoded.
        self._latest = {name: np.zeros_like(sums) for name, sums in self._blend.sums.items()}
        self._classes = np.zeros((capacity, classes), np.float32)
        self._fused = np.zeros((capacity, classes), np.float32)
        self._actionness = np.zeros(capacity, np.float32)
        self._agnostic = np.zeros(capacity, np.float32)

    def look(self) -> None:
        """Score the segments that are new. At least one is. Features that no window needs are forgotten, if
        the recording is longer than ``windows.limit``."""
        stop, windows = self.features.stop, self._windows
        self._make_room(stop)
        low = self.scored
        ends_here = False
        while self._next_start + windows.length <= stop:
            low = min(low, self._next_start)
            outputs = self._run_window(self._window(self._next_start))
            self._blend.add([self._next_start - self.first], outputs)
            ends_here = self._next_start + windows.length == stop
            self._next_start += windows.hop
        if not ends_here:
            low = min(low, self._score_last(stop))
        self.scored = stop
        self._blended(low, stop)
        self.settled = max(0, stop - windows.length - self._reach)
        if stop > windows.limit:
            self.features.drop(min(self._next_start, stop - windows.length))

    def end(self) -> None:
        """Score the last window of a recording that is longer than one."""
        stop, windows = self.features.stop, self._windows
        start = stop - windows.length
        if self.scored < stop:
            self.look()
        if start != self._next_start - windows.hop:
            outputs = self._run_window(self._window(start))
            self._blend.add([start - self.first], outputs)
            self._blended(start, stop)
        self.settled = stop

    def curves(self, begin: int) -> NetworkOutputs:
        """The stretch from segment ``begin`` on, in views: ``scores`` (L, C), ``video_scores`` their greatest
        class scores (C,), both actionness (L,)."""
        part = slice(begin - self.first, self.scored - self.first)
        return NetworkOutputs(
            self._fused[part], self._classes[part].max(0), self._actionness[part], self._agnostic[part]
        )

    def state(self) -> dict[str, Array]:
        """All that is kept, as plain arrays."""
        features = self.features
        kept = features.rows(features.first, features.stop)
        arrays: dict[str, Array] = {"counts": np.array([features.stop, self.first], np.int64)}
        arrays["features"] = kept
        return {name: array.copy() for name, array in (arrays | self._arrays()).items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from :meth:`state`, whose shapes have been checked, but for the number of features.

        Raises:
            DataError: the counts fit neither each other nor the features.
        """
        windows = self._windows
        stop, first = state["counts"].tolist()
        scored = stop // self._step * self._step
        scored = scored if scored > 1 else 0
        next_start = max(0, (scored - windows.length) // windows.hop + 1) * windows.hop
        needed = min(next_start, scored - windows.length) if scored > windows.limit else 0
        kept = scored - first
        if not (
            0 <= first <= stop
            and (first == 0 or (kept >= self._kept and first % windows.hop == 0))
            and kept <= len(self._fused)
            and len(state["features"]) == stop - needed
        ):
            raise DataError("stream: the counts of the state do not fit its arrays.")
        self.first, self.scored, self._next_start = first, scored, next_start
        self.settled = max(0, scored - windows.length - self._reach)
        self.features = Rolling(state["features"].shape[1])
        self.features.first = self.features.stop = needed
        self.features.append(state["features"])
        for name, array in self._arrays().items():
            array[:] = state[name]

    def _arrays(self) -> dict[str, Array]:
        return {
            **{f"sum_{name}": array for name, array in self._blend.sums.items()},
            **{f"latest_{name}": array for name, array in self._latest.items() if name != "weight"},
            "curve_classes": self._classes,
            "curve_fused": self._fused,
            "curve_actionness": self._actionness,
            "curve_agnostic": self._agnostic,
        }

    def _make_room(self, stop: int) -> None:
        """Move the stretch on, by whole hops, so that it holds the segments up to ``stop``."""
        if stop - self.first <= len(self._fused):
            return
        hop = self._windows.hop
        shift = (stop - self._kept) // hop * hop - self.first
        for array in self._arrays().values():
            array[:-shift] = array[shift:]
            array[-shift:] = 0
        self.first += shift

    def _window(self, start: int) -> Floats:
        return self.features.rows(start, start + self._windows.length)

    def _score_last(self, stop: int) -> int:
        """Score the last segments alone; from which one on it did."""
        if self._run_rows is None:
            low = max(0, stop - self._windows.length)
            outputs = self._run_window(_padded(self.features.rows(low, stop), self._windows.length))
            spread = self._windows.spread
            curves = [spread(each[0]) for each in (outputs.scores, outputs.actionness, *outputs[3:])]
            skip = 0
        else:
            # The last segment that has a score saw no segment after it.
            low = max(0, self.scored - 1)
            begin = max(0, min(low - 1, stop - self._shortest))
            outputs = self._run_rows(_padded(self.features.rows(begin, stop), self._shortest))
            curves = [outputs.scores[0], outputs.actionness[0], outputs.actionness_agnostic[0]]
            skip = low - begin
        part = slice(low - self.first, stop - self.first)
        for name, curve in zip(("fused", "actionness", "agnostic"), curves, strict=True):
            self._latest[name][part] = curve[skip : skip + stop - low]
        if "classes" in self._latest:
            self._latest["classes"][part] = outputs.video_scores[0]
        return max(low, min(self._covered, self.scored))

    @property
    def window_begin(self) -> int:
        """The first segment of the last window, or a few before: it moves on by several at a time."""
        begin = (self.scored - self._windows.length) // _MOVE * _MOVE
        return max(self.first, begin)

    @property
    def _covered(self) -> int:
        """The segment after those that whole windows cover."""
        return self._next_start - self._windows.hop + self._windows.length if self._next_start else 0

    def _blended(self, low: int, stop: int) -> None:
        """Compute the curves of the segments from ``low`` on, whose sums or last scores are new."""
        start = max(0, low - self._reach - self.first)
        wide = slice(max(0, start - self._reach), stop - self.first)
        sums = self._blend.sums
        weight = sums["weight"][wide]
        raw = {name: self._latest[name][wide] for name in sums if name != "weight"}
        if weight[0] > 0:
            count = int(np.count_nonzero(weight))  # they come first
            for name, latest in raw.items():
                total, divisor = sums[name][wide][:count], weight[:count]
                mean = total / divisor.reshape(-1, *[1] * (total.ndim - 1))
                raw[name] = mean if count == len(latest) else np.concatenate([mean, latest[count:]])
        classes = class_scores(raw["fused"], raw["agnostic"], raw.get("classes"), self._gamma, self._settings)
        skip, part = start - wide.start, slice(start, wide.stop)
        self._classes[part] = classes[skip:]
        power = self._settings.power_in_windows
        self._fused[part] = raw["fused"][skip:] * classes[skip:] ** power if power else raw["fused"][skip:]
        self._actionness[part], self._agnostic[part] = raw["actionness"][skip:], raw["agnostic"][skip:]


def _padded(rows: Floats, count: int) -> Floats:
    """At least ``count`` rows: the last one again and again, as the network sees a recording that pauses."""
    missing = count - len(rows)
    return rows if missing <= 0 else np.concatenate([rows, np.repeat(rows[-1:], missing, 0)])
