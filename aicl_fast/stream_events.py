"""Events: what changes between two looks at an endless recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aicl_fast.data.detections import Detection, Detections

Kind = Literal["started", "updated", "final", "withdrawn"]

SAME = 0.5
"""tIoU from which two detections of one class, in two looks, are one."""
MOVED = 0.9
"""tIoU with what was last announced below which a detection has changed."""
SCORED = 0.05
"""Difference from the announced score from which a detection has changed."""
_WIDE = 8
"""Looks from one comparison of all that is final to the next."""
_SLACK = 2
"""Segments before the last decided moment where detections are still compared with those that are final."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that became known about one detection.

    Attributes:
        kind: ``started``: it was seen for the first time, and may still change. ``updated``: it changed.
            ``final``: it is over. ``withdrawn``: it was an error; start, end and score are those announced.
        id: the detection's number, the same in all its events.
        label: the class.
        score: as of :class:`~aicl_fast.Detections`.
        start, end: seconds since the stream began. An action that goes on ends where the stream does.
        time: seconds since the stream began, when the event was announced: the end of the last segment then.
    """

    kind: Kind
    id: int
    label: str
    score: float
    start: float
    end: float
    time: float


def final_detections(events: Iterable[Event], video: str = "video") -> Detections:
    """The detections that events leave standing: those final and not withdrawn, best first.

    Args:
        events: of one stream, in order.
        video: the name that the detections carry.
    """
    standing: dict[int, Event] = {}
    for event in events:
        if event.kind == "final":
            standing[event.id] = event
        elif event.kind == "withdrawn":
            standing.pop(event.id, None)
    kept = sorted(standing.values(), key=lambda event: -event.score)
    return Detections(
        np.array([event.label for event in kept], np.str_),
        np.array([event.score for event in kept], np.float64),
        np.array([(event.start, event.end) for event in kept], np.float64).reshape(-1, 2),
        video,
    )


@dataclass(slots=True, eq=False)
class _Item:
    """A detection that was announced: as it was announced, and as it is now.

    Attributes:
        key: class and grid points of ``now``.
    """

    key: tuple[str, int, int]
    id: int
    told: Detection
    now: Detection
    final: bool = False


class Tracker:
    """Compares each look's detections with those announced.

    Args:
        segment: seconds of a segment.
        grid: seconds from one grid point of the decoder to the next.
        settling: seconds until a moment's curve is settled; what began later is not announced yet.
        outer_ratio: λ of the decoder, as far as a detection's score looks around it.
        retract: withdraw final detections that turn out otherwise.
    """

    def __init__(
        self, segment: float, grid: float, settling: float, outer_ratio: float, retract: bool
    ) -> None:
        self._slack, self._grid, self._retract = _SLACK * segment, grid, retract
        self._settling, self._outer = settling, outer_ratio
        self._items: list[_Item] = []
        self._next_id = 1
        self._looks = 0
        self._decided = 0.0

    def update(
        self,
        found: Detections,
        begin: float,
        now: float,
        decided: float,
        *,
        keep_all: bool = False,
        exact: bool = False,
    ) -> list[Event]:
        """The events that a look gives, in order of time.

        Args:
            found: the detections of the stretch, in seconds since its beginning.
            begin: seconds since the stream began, where the stretch does. What begins there was cut off.
            now: where it ends.
            decided: what ends up to here is final.
            keep_all: forget none that is final.
            exact: the last look. It takes detections as they are, and withdraws, if it may, all others.
        """
        news = _News(now, begin, decided, exact)
        self._looks += 1
        # What was decided long ago seldom changes, and need not be compared every time.
        wide = exact or (self._retract and self._looks % _WIDE == 0)
        oldest = begin if wide else max(begin, self._decided - self._slack)
        seen = self._seen(found, begin, oldest)
        pairs, fresh, gone = self._match(seen, begin, oldest - self._slack)
        for item, detection in pairs:
            self._follow(item, detection, news)
        for item in gone:
            near = item.now.end <= oldest + self._slack and not exact
            if not item.final or (self._may_retract(item, news) and not near):
                self._withdraw(item, news)
        latest = max(decided, now - self._settling)
        for detection in fresh:
            if detection.start < latest and not self._cut(detection.start, begin):
                self._begin(detection, news)
        self._decided = max(self._decided, decided)
        if not keep_all:
            oldest = begin if self._retract else self._decided - self._slack
            self._items = [item for item in self._items if not item.final or item.now.end > oldest]
        news.events.sort(key=lambda event: (event.end, event.start, event.id))
        return news.events

    def state(self, classes: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """All that is kept, as plain arrays."""
        number = {label: index for index, label in enumerate(classes)}
        rows = [(each.id, number[each.now.label], each.final) for each in self._items]
        times = [(*each.told[1:], *each.now[1:]) for each in self._items]
        return {
            "items": np.array(rows, np.int64).reshape(-1, 3),
            "item_times": np.array(times, np.float64).reshape(-1, 6),
            "numbers": np.array([self._next_id, self._looks], np.int64),
            "decided": np.array(self._decided, np.float64),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]], classes: Sequence[str]) -> None:
        """Go on from :meth:`state`, whose shapes have been checked."""
        self._items = []
        for (number, label, final), times in zip(
            state["items"].tolist(), state["item_times"].tolist(), strict=True
        ):
            told, now = (Detection(classes[label], *part) for part in (times[:3], times[3:]))
            self._items.append(_Item(self._key(now), number, told, now, bool(final)))
        self._next_id, self._looks = state["numbers"].tolist()
        self._decided = float(state["decided"])

    def _may_retract(self, item: _Item, news: _News) -> bool:
        """Whether what is seen now of a final detection counts: all of its surroundings must be there."""
        start, end = item.now.start, item.now.end
        outside = start - self._outer * (end - start) - self._slack < news.begin
        return self._retract and (news.exact or not outside)

    def _cut(self, start: float, begin: float) -> bool:
        return begin > 0 and start <= begin + self._grid / 2

    @staticmethod
    def _seen(found: Detections, begin: float, oldest: float) -> list[Detection]:
        ends = found.segments[:, 1] + begin
        labels, scores, segments = found.labels, found.scores, found.segments
        if len(ends) and ends.min() <= oldest:
            kept = ends > oldest
            labels, scores, segments = labels[kept], scores[kept], segments[kept]
        return [
            Detection(label, score, start + begin, end + begin)
            for label, score, (start, end) in zip(
                labels.tolist(), scores.tolist(), segments.tolist(), strict=True
            )
        ]

    def _key(self, detection: Detection) -> tuple[str, int, int]:
        return (detection.label, round(detection.start / self._grid), round(detection.end / self._grid))

    def _match(
        self, seen: Sequence[Detection], begin: float, oldest: float
    ) -> tuple[list[tuple[_Item, Detection]], list[Detection], list[_Item]]:
        """Pairs of the same detection, what is new, and what is not seen of what ended after ``oldest``."""
        at: dict[tuple[str, int, int], list[_Item]] = {}
        for item in reversed(self._items):
            if item.now.end > oldest or not item.final:
                at.setdefault(item.key, []).append(item)
        pairs: list[tuple[_Item, Detection]] = []
        fresh: list[Detection] = []
        for detection in seen:
            same = at.get(self._key(detection))
            if same:
                pairs.append((same.pop(), detection))
            else:
                fresh.append(detection)
        gone = [item for items in at.values() for item in items]
        if fresh and gone:
            fresh, gone = self._match_by_overlap(fresh, gone, begin, pairs)
        return pairs, fresh, gone

    def _match_by_overlap(
        self,
        fresh: list[Detection],
        gone: list[_Item],
        begin: float,
        pairs: list[tuple[_Item, Detection]],
    ) -> tuple[list[Detection], list[_Item]]:
        """Add to ``pairs`` those that overlap most; what is left of both."""
        by_label: dict[str, list[tuple[float, float, int]]] = {}
        for number, item in enumerate(gone):
            place = (max(item.now.start, begin), item.now.end, number)
            by_label.setdefault(item.now.label, []).append(place)
        overlaps = []
        for column, (label, _, start, end) in enumerate(fresh):
            for old_start, old_end, row in by_label.get(label, ()):
                if old_start < end and start < old_end:
                    both = (old_end if old_end < end else end) - (start if old_start < start else old_start)
                    share = both / (old_end - old_start + end - start - both)
                    if share >= SAME:
                        overlaps.append((-share, row, column))
        # The greatest overlap first; of equal ones, that which comes first.
        overlaps.sort()
        free_old, free_new = [True] * len(gone), [True] * len(fresh)
        for _, row, column in overlaps:
            if free_old[row] and free_new[column]:
                free_old[row] = free_new[column] = False
                item, detection = gone[row], fresh[column]
                if self._cut(detection.start, begin):
                    detection = detection._replace(start=min(item.now.start, detection.start))
                item.key = self._key(detection)
                pairs.append((item, detection))
        return (
            [detection for detection, free in zip(fresh, free_new, strict=True) if free],
            [item for item, free in zip(gone, free_old, strict=True) if free],
        )

    def _follow(self, item: _Item, detection: Detection, news: _News) -> None:
        """The events of a detection that is seen again."""
        if item.final:
            other = detection != item.told if news.exact else _changed(item.told, detection)
            if not (other and self._may_retract(item, news)):
                item.now = detection
                return
            self._withdraw(item, news)
            self._begin(detection, news)
            return
        item.now = detection
        if detection.end <= news.decided:
            item.told, item.final = detection, True
            news.add("final", item)
        elif _changed(item.told, detection):
            item.told = detection
            news.add("updated", item)

    def _begin(self, detection: Detection, news: _News) -> None:
        final = detection.end <= news.decided
        item = _Item(self._key(detection), self._next_id, detection, detection, final)
        self._next_id += 1
        self._items.append(item)
        news.add("final" if item.final else "started", item)

    def _withdraw(self, item: _Item, news: _News) -> None:
        self._items.remove(item)
        news.add("withdrawn", item)


class _News:
    """The events of one look."""

    def __init__(self, now: float, begin: float, decided: float, exact: bool) -> None:
        self.now, self.begin, self.decided, self.exact = now, begin, decided, exact
        self.events: list[Event] = []

    def add(self, kind: Kind, item: _Item) -> None:
        self.events.append(Event(kind, item.id, *item.told, self.now))


def _changed(told: Detection, now: Detection) -> bool:
    """Whether what was announced is no longer true enough."""
    if abs(told.score - now.score) > SCORED:
        return True
    both = min(told.end, now.end) - max(told.start, now.start)
    return both < MOVED * (max(told.end, now.end) - min(told.start, now.start))
