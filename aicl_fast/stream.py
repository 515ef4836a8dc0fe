"""Stream: segments as they come, and events as they become known (docs/streaming.md)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aicl_fast.data.detections import Detections
from aicl_fast.data.features import Floats, check_rows
from aicl_fast.data.sampling import sample
from aicl_fast.data.scores import Scores
from aicl_fast.decode.decoder import Decoder
from aicl_fast.errors import AiclWarning, ConfigError, DataError
from aicl_fast.kernels.outputs import NetworkOutputs
from aicl_fast.stream_events import Event as Event
from aicl_fast.stream_events import Tracker
from aicl_fast.stream_events import final_detections as final_detections
from aicl_fast.stream_scores import StreamScores
from aicl_fast.windows import Windows

if TYPE_CHECKING:
    from aicl_fast.detector import Detector

_WITHOUT_WINDOWS = 2
"""Where no window is known, windows are of T segments, and a recording of so many times T fits."""
_LOOKS = 32
"""Looks in the time of a window, where the model takes nothing shorter than T."""


class Stream:
    """Finds actions in a recording while it goes on. Made by :meth:`aicl_fast.Detector.stream`.

    Memory does not grow with the recording. What is settled has the scores that the detector gives for the
    whole recording, in windows.

    Args:
        detector: which scores and decodes; open for as long as the stream is used.
        fps: the recording's frames a second.
        wait: seconds of look-ahead: a detection is final so long after its end, and the segments after that
            its curve needs (``decode.class_span // 2 + 1``).
        retract: a final detection that turns out otherwise is withdrawn; False: what is final never changes.
        skip_damaged: a segment with a NaN or an infinity gets the features of the one before it (zeros
            where there is none), and a warning; False: it is refused.
        every: seconds from one look to the next. None looks at every segment if the model file takes a few
            segments (exported with a range of ``--segments``), else 32 times in the time of a window.
    Raises:
        ConfigError: a time that is negative or no number, a flag that is no bool, or a window or hop that
            makes no sense.

    Attributes:
        num_segments: pushed so far.
        skipped: segments whose features were replaced.
        first: the first segment of :meth:`scores`.
        settled: the number of segments whose scores can no longer change. They are those of the whole
            recording, if that turns out to be longer than what fits a window.
        detections: after :meth:`finish`, for a recording that fits a window: what ``detector(rgb, flow)``
            gives, whatever ``retract`` is. None before, and for a longer one: see :func:`final_detections`.
    """

    def __init__(
        self,
        detector: Detector,
        fps: float,
        *,
        wait: float = 2.0,
        retract: bool = False,
        skip_damaged: bool = False,
        every: float | None = None,
    ) -> None:
        config, samples = detector.config, detector.segments
        self._detector, self._fps, self._data = detector, fps, config.data
        self._second = fps / config.data.frames_per_segment
        # What comes within the gap would still be joined to a detection.
        self._wait = _seconds(wait, "wait") + detector.decode_config.merge_gap
        self._retract, self._skip = _flag(retract, "retract"), _flag(skip_damaged, "skip_damaged")
        windows = Windows.of(config, detector.windows_config, fps, samples)
        if windows is None:
            windows = Windows(max(3, samples), max(1, samples // 2), _WITHOUT_WINDOWS * samples, samples)
        self._windows = windows
        least = detector.engine.info.segments[0]
        by_rows = windows.samples == windows.length and config.model.fusion_gamma > 0 and least < samples // 2
        if every is None:
            self._step = 1 if by_rows else max(1, windows.length // _LOOKS)
        else:
            self._step = max(1, round(_seconds(every, "every") * self._second))
            if self._step > windows.length // 2:
                raise ConfigError(
                    f"every: {every:g} s is more than half a window, {windows.length / self._second / 2:g} s."
                )
        self._scores = StreamScores(
            windows,
            config,
            detector.decode_config,
            self._run_window,
            self._run_rows if by_rows else None,
            least,
            self._step,
        )
        self._decoder = Decoder(detector.decode_config, detector.classes)
        grid = 1 / self._second / detector.decode_config.upscale
        # A moment's curve needs the segments of its class score, and the one after each.
        self._settling = (detector.decode_config.class_span // 2 + 1) / self._second
        ratio = detector.decode_config.outer_ratio
        self._tracker = Tracker(1 / self._second, grid, self._settling, ratio, self._retract)
        self.skipped = 0
        self._finished = self._left = False
        self.detections: Detections | None = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing can be pushed afterwards; :meth:`finish` may still be called."""
        self._left = True

    @property
    def num_segments(self) -> int:
        return self._scores.features.stop

    @property
    def first(self) -> int:
        return self._scores.first

    @property
    def settled(self) -> int:
        return max(0, self._scores.settled)

    @property
    def time(self) -> float:
        """Seconds of the recording that were pushed."""
        return self.num_segments / self._second

    def push(
        self, rgb: npt.NDArray[Any], flow: npt.NDArray[Any] | None = None, *, fps: float | None = None
    ) -> list[Event]:
        """Take the next segments, one or many. Many give the events that one after the other gives.

        Args:
            rgb: (D_rgb,) or (k, D_rgb) features of the first stream; or of both, (D_rgb + D_flow,) or
                (k, D_rgb + D_flow); or, for a model of one stream, that stream.
            flow: (D_flow,) or (k, D_flow) of the second stream; None if ``rgb`` is all there is.
            fps: the source's frames a second now, if it says so with each segment.
        Returns:
            What became known, in order. Times are seconds since the stream began.
        Raises:
            DataError: the stream has ended, another frame rate, features of the wrong width or type, or a NaN
                or an infinity, with the segment's number and time. Nothing of this call is taken then, and
                the stream goes on with the next one.
        """
        if self._finished or self._left:
            raise DataError("stream: it has ended. Make another with detector.stream().")
        if fps is not None and fps != self._fps:
            raise DataError(
                f"stream: the frame rate changed from {self._fps:g} to {fps} at segment "
                f"{self.num_segments} ({self.time:.2f} s). Finish this stream and make another."
            )
        rows = self._checked(rgb, flow)
        events: list[Event] = []
        for row in range(len(rows)):
            self._scores.features.append(rows[row : row + 1])
            if self.num_segments % self._step == 0 and self.num_segments > 1:
                events += self._look()
        return events

    def finish(self) -> list[Event]:
        """End the recording: the events that are left. Afterwards no detection is open.

        Of a recording that fits a window, :attr:`detections` is then what the detector gives for it as a
        whole. With ``retract`` the final detections are made those, exactly; without, those that were final
        stand, and the others are made those. A stream of fewer than two segments has no detections.

        Raises:
            DataError: it has ended before.
        """
        if self._finished:
            raise DataError("stream: finish was called before.")
        self._finished = True
        length, scores = self.num_segments, self._scores
        if length < 2:
            self.detections = Detections.empty()
            return []
        if length <= self._windows.limit:
            whole = scores.features.rows(0, length)
            self.detections = self._detector(whole, fps=self._fps)
            return self._tracker.update(self.detections, 0.0, self.time, math.inf, exact=True)
        scores.end()
        return self._compared(math.inf)

    def scores(self) -> Scores:
        """The curves of the last stretch, from segment :attr:`first` on: what is decoded at a look.

        Up to :attr:`settled` they can no longer change. ``video_scores`` are the stretch's.

        Raises:
            DataError: fewer than two segments were pushed.
        """
        if not self._scores.scored:
            raise DataError("stream: there are no scores yet. Push at least two segments.")
        curves = self._scores.curves(self.first)
        return Scores(
            fused=curves.scores.copy(),
            video_scores=curves.video_scores,
            actionness=curves.actionness.copy(),
            actionness_agnostic=curves.actionness_agnostic.copy(),
            num_segments=len(curves.scores),
            fps=self._fps,
            frames_per_segment=self._data.frames_per_segment,
            classes=self._detector.classes,
            name="stream",
        )

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that :meth:`restore` needs, as plain arrays: ``numpy.savez(path, **stream.state())``.

        Raises:
            DataError: the stream has ended.
        """
        if self._finished:
            raise DataError("stream: it has ended, and cannot go on.")
        return {
            "arguments": self._arguments(),
            "skipped": np.array(self.skipped, np.int64),
            **self._scores.state(),
            **self._tracker.state(self._detector.classes),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on where another stream was, in this process or in one before.

        Args:
            state: what :meth:`state` gave; or a ``.npz`` of it, opened with ``allow_pickle=False``.
        Raises:
            DataError: it is of a stream of another model, frame rate or arguments, or damaged.
        """
        if not isinstance(state, Mapping):
            raise DataError(
                f"stream: expected the arrays of state(), got {type(state).__name__}. Of a file: "
                "with numpy.load(path, allow_pickle=False) as state: stream.restore(state)."
            )
        own = self.state()
        given = {name: np.asarray(state[name]) for name in own if name in state}
        if len(given) < len(own):
            raise DataError(f"stream: the state lacks {', '.join(sorted(own.keys() - given.keys()))}.")
        if not np.array_equal(given["arguments"], own["arguments"]):
            raise DataError(
                "stream: the state is of a stream with another model, frame rate or other arguments. Make "
                "the stream as that one was made."
            )
        for name, array in given.items():
            free = name in ("features", "items", "item_times")
            shape = array.shape[1:] if free else array.shape
            if (
                array.dtype != own[name].dtype
                or shape != own[name].shape[free:]
                or (array.dtype.kind == "f" and not np.isfinite(array).all())
            ):
                raise DataError(f"stream: {name} of the state is damaged ({array.dtype} {array.shape}).")
        labels = given["items"][:, 1]
        known = (labels >= 0) & (labels < len(self._detector.classes))
        if len(labels) != len(given["item_times"]) or not known.all():
            raise DataError("stream: the items of the state are damaged.")
        self._scores.restore(given)
        self._tracker.restore(given, self._detector.classes)
        self.skipped = int(given["skipped"])

    def _arguments(self) -> npt.NDArray[np.float64]:
        """What two streams have to share for one to go on where the other was."""
        windows, settings = self._windows, self._detector.decode_config
        return np.array([
            self._fps, self._data.frames_per_segment, self._data.input_width, len(self._detector.classes),
            windows.length, windows.hop, windows.limit, windows.samples, self._step, settings.class_span,
            settings.power_in_windows, self._wait, self._retract,
            int(self._detector.engine.info.weights[:12] or "0", 16),
        ], np.float64)  # fmt: skip

    def _look(self) -> list[Event]:
        """Score and decode what is new."""
        self._scores.look()
        fits = self.num_segments <= self._windows.limit
        return self._compared(self.time - self._wait - self._settling, keep_all=fits)

    def _compared(self, decided: float, *, keep_all: bool = False) -> list[Event]:
        """Decode the last stretch and compare its detections with those announced."""
        begin, decode = self._scores.window_begin, self._decoder.decode
        curves = self._scores.curves(begin)
        found = decode(
            curves.scores, curves.video_scores, len(curves.scores), self._fps, self._data.frames_per_segment
        )
        return self._tracker.update(found, begin / self._second, self.time, decided, keep_all=keep_all)

    def _run_window(self, rows: Floats) -> NetworkOutputs:
        outputs: NetworkOutputs = self._detector.engine(sample([(rows,)], self._windows.samples))
        return outputs

    def _run_rows(self, rows: Floats) -> NetworkOutputs:
        engine = self._detector.engine
        # The rows were checked, and the file says that it takes so many: a check costs a tenth of the run.
        one = rows[None]
        outputs: NetworkOutputs = engine.run(one) if engine.info.batch.min == 1 else engine(one)
        return outputs

    def _checked(self, rgb: Any, flow: Any) -> Floats:
        """(k, D) features of both streams, or a refusal."""
        data = self._data
        both = flow is not None
        if both and data.streams != "both":
            raise DataError(
                f"stream: the model reads {data.streams} alone; expected one array of {data.input_width} "
                "features a segment, got two."
            )
        widths = (data.rgb_width, data.flow_width) if both else (data.input_width,)
        names = ("rgb", "flow") if both else ("features",)
        parts = [
            _rows(given, f"stream: {name}", width)
            for given, name, width in zip((rgb, flow) if both else (rgb,), names, widths, strict=True)
        ]
        if both and len(parts[0]) != len(parts[1]):
            raise DataError(
                f"stream: rgb has {len(parts[0])} segments and flow {len(parts[1])}; expected the same."
            )
        rows = np.concatenate(parts, axis=1, dtype=np.float32) if both else parts[0].astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            fine = math.isfinite(float(rows.sum()))
        return rows if fine else self._without_damage(rows)

    def _without_damage(self, rows: Floats) -> Floats:
        """Refuse segments with a NaN or an infinity, or replace their features by those before."""
        count = self.num_segments
        for row in np.flatnonzero(~np.isfinite(rows).all(1)).tolist():
            number = count + row
            bad = int(np.count_nonzero(~np.isfinite(rows[row])))
            text = (
                f"stream: segment {number} (at {number / self._second:.2f} s) has {bad} values that are NaN "
                "or infinite."
            )
            if not self._skip:
                raise DataError(
                    f"{text} Extract it again, leave it out, or make the stream with skip_damaged=True."
                )
            stand_in = "The features before it stand" if number else "Zeros stand"
            warnings.warn(f"{text} {stand_in} in.", AiclWarning, stacklevel=4)
            before = rows[row - 1] if row else self._scores.features.rows(count - 1, count)[0] if count else 0
            rows[row] = before
            self.skipped += 1
        return rows


def _rows(given: Any, name: str, width: int) -> npt.NDArray[Any]:
    """(k, width) features as they are given, of one segment or many."""
    if not isinstance(given, np.ndarray):
        raise DataError(
            f"{name}: expected a NumPy array of ({width},) or (segments, {width}) features, got "
            f"{type(given).__name__}."
        )
    rows = given[None] if given.ndim == 1 else given
    if rows.dtype == np.float32 and rows.ndim == 2 and len(rows) and rows.shape[1] == width:
        return rows
    check_rows(rows.shape, bool(np.issubdtype(rows.dtype, np.floating)), str(rows.dtype), name, width=width)
    return rows


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigError(f"{name}: expected True or False, got {value!r}.")
    return bool(value)


def _seconds(value: Any, name: str) -> float:
    try:
        seconds = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{name}: expected seconds, 0 or more, got {value!r}.")
    return seconds
