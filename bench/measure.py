"""Timing that survives a noisy machine: contenders take turns in one process; ratios are of the same turn."""

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
    """Seconds between two events on the current CUDA stream, around what the call launches."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


@dataclass(frozen=True)
class Timing:
    """One contender's times.

    Attributes:
        seconds: of every turn.
        baseline: the baseline's seconds in the same turns.
    """

    seconds: Sequence[float]
    baseline: Sequence[float]

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
        return {
            "p50_ms": float(np.quantile(ordered, 0.5)),
            "p50_ms_interval": list(median_interval(ordered)),
            "p90_ms": float(np.quantile(ordered, 0.9)),
            "p99_ms": float(np.quantile(ordered, 0.99)),
            "max_ms": float(ordered[-1]),
            "times_faster": self.ratio,
            "times_faster_interval": list(self.interval()),
            "turns": len(ordered),
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
) -> dict[str, Timing]:
    """Time every contender once a turn, in an order drawn anew each turn, until the time is up.

    Each is warmed up first, until its calls take as long as one another.

    Args:
        contenders: by name, the baseline among them.
        baseline: whose times the ratios are against.
        seconds: of wall time for the turns.
        least: turns taken however long they last.
        clock: what times a call.
        pause: seconds before each call, for contenders with threads of their own, which spin on for a while
            after their work and would take a core from the next.
    """
    for call in contenders.values():
        _warm_up(call, clock)
    rng = np.random.default_rng(seed)
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times[baseline]) < least:
        for number in rng.permutation(len(names)):
            name = names[number]
            if pause:
                time.sleep(pause)
            times[name].append(clock(contenders[name]))
    return {name: Timing(times[name], times[baseline]) for name in names}


def rotating(call: Callable[[Input], object], inputs: Sequence[Input]) -> Call:
    """A call that takes the next of the inputs each time."""
    number = -1

    def run() -> object:
        nonlocal number
        number = (number + 1) % len(inputs)
        return call(inputs[number])

    return run


def _warm_up(call: Call, clock: Clock) -> None:
    taken: list[float] = []
    while len(taken) < _WARM_CALLS and sum(taken) < _WARM_SECONDS:
        taken.append(clock(call))
        last = taken[-3:]
        if len(last) == 3 and max(last) < _STEADY * min(last):
            return
    if len(taken) < 2:  # however long it takes: a first call is never timed
        clock(call)
