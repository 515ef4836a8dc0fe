"""Segments of a live source: a thread reads, drops what is too much, and opens the source again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.video.extract import Cutter, Extraction, Prepared, Segment
from aicl_fast.video.failures import FAILURES
from aicl_fast.video.live_features import Later
from aicl_fast.video.live_source import Source, open_source, reason
from aicl_fast.video.reader import Image, pictures, steady, timed_frames

if TYPE_CHECKING:
    from typing import Self

_FIRST_PAUSE = 0.5
_GRACE = 1.0
"""Seconds that a thread has to end in, when it is asked to. One that waits for a network may need longer."""
_LOOK = 0.1
"""Seconds from one look at whether to stop to the next."""


@dataclass(frozen=True)
class Limits:
    """How a source is read.

    Attributes:
        drop: drop segments when they come faster than they are used and the source would fall behind the
            clock; None: of a camera or an address alone.
        queue: segments that wait at most.
        reconnect: how often in a row a camera or an address is opened again without a segment from it; None:
            for ever.
        patient: open it again even if it never was there; else that is an error, since it may be mistyped.
        pause: seconds of the longest pause before it is opened again. The first one is half a second, each
            further one twice as long.
        timeout: seconds without data after which an address counts as broken.
        idle: seconds without growth after which a file counts as whole.
        clock: seconds that go on as the source does.
    """

    drop: bool | None = None
    queue: int = 4
    reconnect: int | None = None
    patient: bool = False
    pause: float = 30.0
    timeout: float = 10.0
    idle: float = 5.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        for name in ("queue", "pause", "timeout", "idle"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: expected a positive number, got {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class LiveSegment:
    """One segment of a connection.

    Attributes:
        number: of the connection's, from 0 on; those that are missing were dropped.
        segment: for the networks.
        seconds: of the connection that were read with it.
        pictures: what was new in it, as it is shown; none unless asked for.
    """

    number: int
    segment: Segment
    seconds: float
    pictures: tuple[Image, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A source was opened; ``time`` on the reader's clock."""

    time: float


@dataclass(frozen=True)
class Ended:
    """A connection ended.

    Attributes:
        why: in words; empty where the source ended by itself.
        segments: it had, those that were dropped among them.
        seconds: it had.
        pause: seconds until the source is opened again; None: it is not.
        lost: it was tried as often as allowed.
    """

    why: str
    segments: int
    seconds: float
    pause: float | None = None
    lost: bool = False


Item = LiveSegment | Opened | Ended


class LiveReader:
    """Reads a source in a thread, and gives what comes: ``with LiveReader(…) as reader: for item in reader``.

    Segments are cut as :func:`aicl_fast.video.extract_features` cuts a file. When more than ``limits.queue``
    wait and the source would fall behind the clock, the oldest one is dropped. A source that sends faster
    than the clock runs is not dropped from: it waits.

    Args:
        source: from :func:`aicl_fast.video.live_source.parse_source`.
        plan: how segments are cut; its networks are not run here.
        limits: when to drop, and when to give up.
        show: keep the pictures, too.
    """

    def __init__(
        self,
        source: Source,
        plan: Extraction,
        limits: Limits = Limits(),
        *,
        show: bool = False,
    ) -> None:
        self.source = source
        self._plan, self._limits, self._show = plan, limits, show
        self._drop = source.live if limits.drop is None else limits.drop
        self._waiting: deque[Item | BaseException] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._grace = float("inf")
        self._thread = threading.Thread(target=self._work, name="live", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """A thread that waits for the network ends by itself, after the timeout at the latest."""
        self.stop()
        self._thread.join(timeout=_GRACE)

    def stop(self) -> None:
        """End the reading. What was read is still given. May be called from a signal's handler."""
        self._grace = min(self._grace, time.monotonic() + _GRACE)
        self._stop.set()

    def __iter__(self) -> Iterator[Item]:
        """What comes, until the source has ended for good or :meth:`stop` was called.

        Raises:
            DataError: the source could not be opened the first time, or is no video.
        """
        while True:
            with self._changed:
                if not self._waiting:
                    if not self._thread.is_alive() or time.monotonic() > self._grace:
                        return
                    self._changed.wait(_LOOK)
                    continue
                item = self._waiting.popleft()
                self._changed.notify_all()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Ended) and item.pause is None:
                return

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stop.is_set()

    def waiting(self, most: int) -> list[LiveSegment]:
        """The segments that wait, up to what is no segment; they are taken."""
        found: list[LiveSegment] = []
        with self._changed:
            while len(found) < most and self._waiting and isinstance(self._waiting[0], LiveSegment):
                item = self._waiting.popleft()
                assert isinstance(item, LiveSegment)
                found.append(item)
            self._changed.notify_all()
        return found

    def _work(self) -> None:
        try:
            self._read_again_and_again()
        except BaseException as error:  # the other thread raises it
            self._put(error)

    def _read_again_and_again(self) -> None:
        limits = self._limits
        tries, ever = 0, False
        while not self._stop.is_set():
            connection = _Connection(self.source, self._plan, limits, self._stop, self._put, self._show)
            try:
                connection.read()
            except AiclError as error:
                if not ever and not (limits.patient and self.source.live):
                    raise
                connection.why = str(error)
            ever = ever or connection.segments > 0
            tries = 0 if connection.segments else tries
            spent = limits.reconnect is not None and tries >= limits.reconnect
            if self._stop.is_set() or not self.source.live or spent:
                lost = spent and tries > 0
                self._put(Ended(connection.why, connection.segments, connection.seconds, lost=lost))
                return
            pause = min(limits.pause, _FIRST_PAUSE * 2.0 ** min(tries, 60))
            tries += 1
            self._put(Ended(connection.why, connection.segments, connection.seconds, pause))
            self._stop.wait(pause)

    def _put(self, item: Item | BaseException, behind: Callable[[], float] | None = None) -> None:
        """Have an item wait. A segment waits for room, or drops the oldest when the source falls behind.

        Args:
            behind: seconds that the clock is ahead of the source.
        """
        with self._changed:
            while isinstance(item, LiveSegment) and not self._stop.is_set():
                segments = [each for each in self._waiting if isinstance(each, LiveSegment)]
                if len(segments) < self._limits.queue:
                    break
                if self._drop and behind is not None and behind() >= 0:
                    self._waiting.remove(segments[0])
                    break
                self._changed.wait(_LOOK / 4)
            self._waiting.append(item)
            self._changed.notify_all()


@dataclass(eq=False)
class _Connection:
    """A source from its opening to its end."""

    source: Source
    plan: Extraction
    limits: Limits
    stop: threading.Event
    put: Callable[..., None]
    show: bool
    segments: int = 0
    seconds: float = 0.0
    why: str = ""
    _began: float | None = None
    _pictures: deque[Image] = field(default_factory=deque)

    def read(self) -> None:
        """Hand on all segments.

        Raises:
            DataError: it cannot be opened.
        """
        limits, plan = self.limits, self.plan
        with open_source(self.source, self.stop, timeout=limits.timeout, idle=limits.idle) as (
            container,
            stream,
        ):

            def frames(prepared: Callable[[Image], Prepared]) -> Iterator[Prepared]:
                timed = timed_frames(
                    container,
                    stream,
                    allow_damaged=True,
                    source=self.source.name,
                    noticed=self._notice,
                    live=self.source.live,
                )
                for item in pictures(
                    steady(timed, Fraction(plan.fps)),
                    lambda image: self._shown(image, prepared),
                    self.source.name,
                ):
                    if self._began is None:
                        self._began = limits.clock()
                        self.put(Opened(self._began))
                    if self.stop.is_set():
                        return
                    if self.show:
                        self._pictures.append(item[1])
                    yield item[0]

            cutter = Cutter(plan, self.source.name, Later, frames)
            try:
                for segment in cutter.segments():
                    self.seconds = cutter.frames / plan.fps
                    self.put(self._live(segment, cutter.frames), self._behind)
                    self.segments += 1
            except DataError as error:
                if self._began is None:
                    raise
                self.why = str(error)
            except FAILURES as error:
                self.why = f"{self.source.name}: {reason(error, limits.timeout)}"
            self.seconds = cutter.frames / plan.fps
        if self._began is None:
            raise DataError(
                f"{self.source.name}: not one frame of its video can be decoded. {self.why}".strip()
            )

    def _live(self, segment: Segment, frames: int) -> LiveSegment:
        # One frame more than the segment's has been read, which is the next one's.
        stop = self.segments * self.plan.stride + 16
        count = len(self._pictures) if frames <= stop else min(len(self._pictures), self.plan.stride)
        shown = tuple(self._pictures.popleft() for _ in range(count))
        return LiveSegment(self.segments, segment, min(frames, stop) / self.plan.fps, shown)

    def _shown(self, image: Image, prepared: Callable[[Image], Prepared]) -> tuple[Prepared, Any]:
        return prepared(image), self.plan.transform.resized(image).copy() if self.show else None

    def _behind(self) -> float:
        return self.limits.clock() - (self._began or 0.0) - self.seconds

    def _notice(self, what: str) -> None:
        silent = "Immediate exit requested"
        self.why = (
            f"{self.source.name}: {what.replace(silent, f'nothing came for {self.limits.timeout:g} s')}"
        )
