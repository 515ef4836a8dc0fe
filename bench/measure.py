"""Timing that survives a noisy machine: contenders take turns in one process; ratios are of the same turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Call = Callable[[], object]


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

    def interval(self, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Bootstrap interval of :attr:`ratio` over the turns."""
        ratios = np.array(self.baseline) / np.array(self.seconds)
        drawn = np.random.default_rng(seed).choice(ratios, (draws, len(ratios)))
        low, high = np.quantile(np.median(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def row(self) -> dict[str, float | list[float]]:
        """What is recorded: milliseconds by quantile, and the ratio with its interval."""
        ordered = np.sort(np.array(self.seconds)) * 1e3
        low, high = self.interval()
        return {
            "p50_ms": float(np.quantile(ordered, 0.5)),
            "p90_ms": float(np.quantile(ordered, 0.9)),
            "p99_ms": float(np.quantile(ordered, 0.99)),
            "max_ms": float(ordered[-1]),
            "times_faster": self.ratio,
            "times_faster_interval": [low, high],
            "turns": len(ordered),
        }


def take_turns(
    contenders: Mapping[str, Call], baseline: str, *, seconds: float = 10.0, least: int = 7, seed: int = 0
) -> dict[str, Timing]:
    """Time every contender once a turn, in an order drawn anew each turn, until the time is up.

    Each is warmed up first: it runs until a call is no longer faster than the one before, at most five times.

    Args:
        contenders: by name, the baseline among them.
        baseline: whose times the ratios are against.
        seconds: of wall time for the turns.
        least: turns taken however long they last.
    """
    for call in contenders.values():
        _warm_up(call)
    rng = np.random.default_rng(seed)
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times[baseline]) < least:
        for number in rng.permutation(len(names)):
            name = names[number]
            start = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - start)
    return {name: Timing(times[name], times[baseline]) for name in names}


def _warm_up(call: Call, most: int = 5) -> None:
    before = float("inf")
    for _ in range(most):
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        if took > 0.9 * before:
            return
        before = took
