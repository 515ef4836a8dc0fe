"""A live source to events: segments, their features, and a stream for each connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aicl_fast.errors import DataError
from aicl_fast.stream_events import Event
from aicl_fast.video.extract import Extraction
from aicl_fast.video.live import Ended, LiveReader, LiveSegment, Opened
from aicl_fast.video.live_features import SegmentFeatures

if TYPE_CHECKING:
    from aicl_fast.data.features import Floats
    from aicl_fast.detector import Detector
    from aicl_fast.stream import Stream
    from aicl_fast.video.reader import Image


@dataclass(frozen=True)
class Notice:
    """What happened to the source.

    Attributes:
        kind: ``opened``, ``dropped`` or ``ended``.
        time: seconds since the watch began.
        segments: that were dropped; of a source that ended, all that it had.
        seconds: that these are.
        why: of a source that broke, in words.
        pause: seconds until it is opened again; None: it is not.
        lost: it was tried as often as allowed.
    """

    kind: str
    time: float
    segments: int = 0
    seconds: float = 0.0
    why: str = ""
    pause: float | None = None
    lost: bool = False


Show = Callable[[tuple["Image", ...], float], None]
"""Called with what is new of a segment, in pictures, and the seconds since the watch began at its end."""


class Watch:
    """Events of a live source, in seconds since the watch began.

    Each connection is a recording of its own: what goes on when it ends becomes final, and a detection never
    reaches over a time that nobody saw. The times go on by the reader's clock. The features of a segment that
    was dropped are those of the segment before, so that times stay true.

    Args:
        detector: of the model; its frame rate and stride are the plan's.
        plan: the networks.
        reader: of the source, not entered yet.
        batch: segments that the networks take at a time, of those that wait.
        show: gets the pictures.
        stream: what :meth:`aicl_fast.Detector.stream` is called with.
    """

    def __init__(
        self,
        detector: Detector,
        plan: Extraction,
        reader: LiveReader,
        *,
        batch: int = 8,
        show: Show | None = None,
        **stream: Any,
    ) -> None:
        self._detector, self._plan, self._reader = detector, plan, reader
        self._batch, self._show, self._options = batch, show, stream
        self._began: float | None = None
        self._end = 0.0
        self._ids = 0
        self.dropped = 0

    def events(self) -> Iterator[Event | Notice]:
        """What becomes known, until the source has ended for good or the reader was stopped.

        What is known then is final. A segment whose features are NaN gets those of the one before, with a
        warning.

        Raises:
            DataError: the source cannot be opened the first time, or a file has fewer than two segments.
        """
        with ExitStack() as stack:
            reader = stack.enter_context(self._reader)
            features = stack.enter_context(SegmentFeatures(self._plan))
            one: _Recording | None = None
            for item in reader:
                if isinstance(item, Opened):
                    one = self._open(item)
                    yield Notice("opened", one.offset)
                elif isinstance(item, LiveSegment):
                    assert one is not None  # a source is opened before
                    segments = [item, *reader.waiting(self._batch - 1)]
                    yield from self._take(one, segments, features([each.segment for each in segments]))
                else:
                    if one is not None:
                        yield from self._finish(one, item.segments)
                    self._refuse_short(item, one)
                    one = None
                    yield Notice(
                        "ended", self._end, item.segments, item.seconds, item.why, item.pause, item.lost
                    )
            if one is not None:  # the reader waits for the network, and was stopped
                yield from self._finish(one, one.count)

    def _open(self, item: Opened) -> _Recording:
        if self._began is None:
            self._began = item.time
        offset = max(self._end, item.time - self._began)
        stream = self._detector.stream(fps=self._plan.fps, skip_damaged=True, **self._options)
        second = self._plan.fps / self._plan.stride
        return _Recording(stream, offset, second, self._ids)

    def _take(self, one: _Recording, segments: list[LiveSegment], rows: Floats) -> Iterator[Event | Notice]:
        for segment, row in zip(segments, rows, strict=True):
            yield from self._fill(one, segment.number, row)
            one.seconds = segment.seconds
            yield from self._timed(one, one.push(row))
            self._end = one.offset + one.seconds
            if self._show is not None and segment.pictures:
                self._show(segment.pictures, self._end)

    def _fill(
        self, one: _Recording, number: int, row: npt.NDArray[Any] | None = None
    ) -> Iterator[Event | Notice]:
        """Push what stands in for the segments dropped before segment ``number``."""
        missing = number - one.count
        before = one.last if one.last is not None else row
        if missing <= 0 or before is None:
            return
        self.dropped += missing
        start = one.count / one.second
        one.seconds = number / one.second
        yield Notice("dropped", one.offset + start, missing, one.seconds - start)
        yield from self._timed(one, one.push(np.repeat(before[None], missing, axis=0)))

    def _finish(self, one: _Recording, segments: int) -> Iterator[Event | Notice]:
        yield from self._fill(one, segments)
        self._end = max(self._end, one.offset + one.seconds)
        yield from self._timed(one, one.stream.finish())
        self._ids = one.highest

    def _timed(self, one: _Recording, events: list[Event]) -> Iterator[Event]:
        """Events in seconds of the watch, and of nothing after the last frame."""
        for event in events:
            one.highest = max(one.highest, one.ids + event.id)
            # The last segment may be filled up, as a file's: what is found in it ends with the video.
            if event.start < one.seconds or event.kind == "withdrawn":
                yield replace(
                    event,
                    id=one.ids + event.id,
                    start=one.offset + min(event.start, one.seconds),
                    end=one.offset + min(event.end, one.seconds),
                    time=one.offset + min(event.time, one.seconds),
                )

    def _refuse_short(self, item: Ended, one: _Recording | None) -> None:
        if not self._reader.source.live and not self._reader.stopped and one is not None and one.count < 2:
            raise DataError(
                f"{self._reader.source.name}: has {item.segments} segment; expected at least 2 to localise "
                "anything in."
            )


@dataclass(eq=False)
class _Recording:
    """A connection's stream."""

    stream: Stream
    offset: float
    """Seconds from the watch's beginning to its own."""
    second: float
    """Segments a second."""
    ids: int
    """What is added to its events' numbers."""
    count: int = 0
    seconds: float = 0.0
    last: npt.NDArray[Any] | None = None
    highest: int = 0

    def __post_init__(self) -> None:
        self.highest = self.ids

    def push(self, rows: npt.NDArray[Any]) -> list[Event]:
        """Push one row or many."""
        rows = rows.reshape(-1, rows.shape[-1])
        events = self.stream.push(rows)
        self.count += len(rows)
        self.last = rows[-1]
        return events


__all__ = ["Notice", "Show", "Watch"]
