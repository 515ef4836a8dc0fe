"""Timing beside other work: contenders take turns in one process; ratios are of the same turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Call = Callable[[], object]
Clock = Callable[[Call], float]
"""Runs a call and says how many seconds it took."""
Input = TypeVar("Input")

LEVEL = 0.95
"""Of every interval."""
_DRAWS = 2000
PAUSE = 0.005
"""Seconds after which an engine's threads have stopped spinning."""
FILL = 0.005
"""Seconds that a turn of a short call is filled up to, by repeating it: below, it is mostly noise."""
_MOST_CALLS = 1000
_SLEEP_CYCLES = 400_000
"""Of a GPU's clock, a fifth of a millisecond: longer than a graph takes to be launched."""
_KEEP_EVERY = 5.0
"""Seconds between two intermediate results."""
_STEADY = 1.1
"""Warm-up ends when the last three calls lie within this factor of one another …"""
_WARM_CALLS, _WARM_SECONDS = 30, 3.0
"""… or after so many calls or seconds."""


def wall(call: Call) -> float:
    """Seconds on the wall, of a call that ends when its work does."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def device_events(call: Call) -> float:
    """Seconds between two events on the current CUDA stream, around what the call launches.

    Of a graph's replay they are the device's own: it is launched while the device waits.
    """
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    if replays_a_graph(call):
        torch.cuda._sleep(_SLEEP_CYCLES)  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def replays_a_graph(call: Call) -> bool:
    """Whether a call is ``replay`` of a CUDA graph, or a function that holds one."""
    held = [cell.cell_contents for cell in getattr(call, "__closure__", None) or ()]
    return any(type(each).__name__ == "CUDAGraph" for each in (*held, getattr(call, "__self__", None)))


@dataclass(frozen=True)
class Timing:
    """One contender's times.

    Attributes:
        seconds: a call, of every turn.
        baseline: the baseline's seconds in the same turns.
        calls: in a turn, of which its time is the mean.
    """

    seconds: Sequence[float]
    baseline: Sequence[float]
    calls: int = 1

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        """How many times faster than the baseline: the median of the turns' own ratios."""
        return statistics.median(b / s for b, s in zip(self.baseline, self.seconds, strict=True))

    @property
    def drift(self) -> float:
        """Median of the last third of the turns over that of the first: above 1, the machine slowed down."""
        third = max(1, len(self.seconds) // 3)
        return statistics.median(self.seconds[-third:]) / statistics.median(self.seconds[:third])

    def interval(self) -> tuple[float, float]:
        """Bootstrap interval of :attr:`ratio` over the turns."""
        return median_interval(np.array(self.baseline) / np.array(self.seconds))

    def row(self) -> dict[str, Any]:
        """What is recorded: milliseconds by quantile, and the ratio, each with its interval."""
        ordered = np.sort(np.array(self.seconds)) * 1e3
        # A mean of several calls says nothing of the slowest.
        tail = {"p90_ms": 0.9, "p99_ms": 0.99, "max_ms": 1.0} if self.calls == 1 else {}
        return {
            "p50_ms": float(np.quantile(ordered, 0.5)),
            "p50_ms_interval": list(median_interval(ordered)),
            **{name: float(np.quantile(ordered, share)) for name, share in tail.items()},
            "times_faster": self.ratio,
            "times_faster_interval": list(self.interval()),
            "turns": len(ordered),
            "calls_a_turn": self.calls,
            "drift": self.drift,
        }


def median_interval(values: Any, *, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the median."""
    drawn = np.random.default_rng(seed).choice(np.asarray(values, np.float64), (_DRAWS, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def take_turns(
    contenders: Mapping[str, Call],
    baseline: str,
    *,
    seconds: float = 10.0,
    least: int = 7,
    seed: int = 0,
    clock: Clock = wall,
    pause: float = 0.0,
    fill: float = 0.0,
    keep: Callable[[dict[str, Timing]], None] | None = None,
) -> dict[str, Timing]:
    """Time every contender once a turn, in an order drawn for each turn, until the time is up.

    Each is warmed up first, until its calls take as long as one another.

    Args:
        contenders: by name, the baseline among them.
        baseline: whose times the ratios are against.
        seconds: of wall time for the turns.
        least: turns taken however long they last.
        clock: what times a call.
        pause: seconds before each call, for contenders with threads of their own, which spin on for a while
            after their work and would take a core from the next.
        fill: seconds that a turn of each contender takes at least, by as many calls.
        keep: is given what there is every few seconds, between turns.
    """
    calls = {name: _calls(fill, _warm_up(call, clock)) for name, call in contenders.items()}
    timed = {name: _repeated(call, calls[name]) for name, call in contenders.items()}
    rng = np.random.default_rng(seed)
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    kept = time.perf_counter()
    stop = kept + seconds

    def found() -> dict[str, Timing]:
        return {name: Timing(times[name], times[baseline], calls[name]) for name in names}

    while time.perf_counter() < stop or len(times[baseline]) < least:
        for number in rng.permutation(len(names)):
            name = names[number]
            if pause:
                time.sleep(pause)
            times[name].append(clock(timed[name]) / calls[name])
        if keep is not None and time.perf_counter() > kept + _KEEP_EVERY:
            keep(found())
            kept = time.perf_counter()
    return found()


def sustained(call: Call, seconds: float) -> float:
    """Calls a second, one right after the other, for so long and twice at least."""
    done, start = 0, time.perf_counter()
    while done < 2 or time.perf_counter() < start + seconds:
        call()
        done += 1
    return done / (time.perf_counter() - start)


def _calls(fill: float, once: float) -> int:
    """How many calls fill a turn."""
    return max(1, min(_MOST_CALLS, round(fill / max(once, 1e-9)))) if fill else 1


def _repeated(call: Call, times: int) -> Call:
    if times == 1:
        return call

    def run() -> None:
        for _ in range(times):
            call()

    return run


def rotating(call: Callable[[Input], object], inputs: Sequence[Input]) -> Call:
    """A call that takes the next of the inputs each time."""
    number = -1

    def run() -> object:
        nonlocal number
        number = (number + 1) % len(inputs)
        return call(inputs[number])

    return run


def _warm_up(call: Call, clock: Clock) -> float:
    """Seconds of the fastest call."""
    taken: list[float] = []
    while len(taken) < _WARM_CALLS and sum(taken) < _WARM_SECONDS:
        taken.append(clock(call))
        last = taken[-3:]
        if len(last) == 3 and max(last) < _STEADY * min(last):
            return min(taken)
    if len(taken) < 2:  # however long it takes: a first call is never timed
        taken.append(clock(call))
    return min(taken)
