"""What got slower, less accurate or lost between two result files.

    aicl-fast bench compare old.json new.json

Rows are matched by what they are of. Compared are the ratios to the baseline of the same run, peak memory,
and mAP. A ratio is worse if it lost at least a twentieth, and more than both intervals and the number of
figures account for: of so many, some would differ by chance. Where no interval was recorded, it is worse if
it lost more than a tenth. A row or a suite that was measured and is no longer, or whose answer is now wrong,
is worse too. Exits with 1 if anything got worse.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

from aicl_fast.bench.harness.measure import LEVEL
from aicl_fast.bench.harness.record import read_result
from aicl_fast.errors import ConfigError, DataError

LEAST = 0.05
"""What a ratio with an interval loses at least to be worse: runs differ by more than their turns do."""
MARGIN = 0.1
"""What a figure without an interval may lose."""
MAP_MARGIN = 0.005
"""What a mAP may lose, as a share: the exports' own tolerance."""
IDENTITY = {
    "detect": ("subject", "pipeline", "batch"),
    "engines": ("subject", "engine", "format", "precision", "batch"),
    "decode": ("nms", "classes", "target"),
    "train": ("step",),
    "evaluate": ("evaluator",),
    "load": ("program",),
    "video": ("stage", "way", "batch"),
    "kernels": ("family", "case"),
    "accuracy": ("name", "seed"),
    "long": ("subject", "seed", "joined", "window", "gate"),
    "tune": ("name", "seed", "draw"),
    "auto": ("name", "seed"),
    "proposals": ("nms", "min_seconds", "density_weight"),
    "stream": ("engine", "retract", "wait_s", "segments", "pushed"),
}
COMPILED = "-compiled"
"""How a step's name ends that measures a suite's rivals compiled by torch."""
_HIGHER = (
    "times_faster",
    "native_x_reference",
    "numba_x_reference",
    "aicl_fast_times_faster",
    "eager_replay_ratio",
    "eager_call_ratio",
    "compiled_replay_ratio",
    "compiled_call_ratio",
)
"""Ratios; the more the better."""
_LOWER = ("peak_mb",)
_ACCURACY = ("mAP", "average_mAP")
_NESTED = ("kernels", "scores_on_the_host")
"""What a row of the kernels' latency holds ratios of its own for."""


class Change(NamedTuple):
    """One figure of one row in both files, or what one of them lacks."""

    row: str
    figure: str
    before: float
    after: float
    verdict: str
    """``worse``, ``better`` or ``same``."""
    why: str = ""
    """Instead of the figure, where there is none now."""


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every figure that both files have, and what the later one has lost.

    Raises:
        ConfigError: they have no suite, or no figure, in common.
        DataError: two rows of a file are of the same thing.
    """
    old, new = _suites(before), _suites(after)
    whole = "suites" in before and "suites" in after
    common = [name for name in old if name in new and name in IDENTITY]
    gone = [name for name in old if name not in new and name in IDENTITY] if whole else []
    if not common:
        raise ConfigError(
            f"the files have no suite in common that can be compared: {_listed(old)}; {_listed(new)}."
        )
    pairs: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
    found: list[Change] = []
    for suite in common:
        earlier, later = (_by_identity(suite, rows[suite]) for rows in (old, new))
        for key, row in earlier.items():
            name = f"{suite}: {' '.join(map(str, key))}"
            why = _lost(row, later.get(key))
            if why:
                found.append(_gone(name, why))
            elif key in later:
                pairs += _pairs(name, row, later[key])
    for name in gone:
        part = after["suites"].get(name)
        found.append(_gone(name, "is missing" if part is None else f"is {part['status']}: {part['reason']}"))
    number = sum(figure in row for _, row, _ in pairs for figure in _HIGHER)
    figures = [change for name, one, other in pairs for change in _compared(name, one, other, number)]
    if not figures and not found:
        raise ConfigError("the files have no figure in common, so nothing was compared.")
    return figures + found


def _listed(suites: Mapping[str, Any]) -> str:
    return ", ".join(suites) or "none measured"


def _gone(row: str, why: str) -> Change:
    return Change(row, "", math.nan, math.nan, "worse", why)


def _lost(old: Mapping[str, Any], new: Mapping[str, Any] | None) -> str:
    """Why there is nothing to compare any more; empty if there is, or never was."""
    if "failed" in old or old.get("correct") is False:
        return ""
    if new is None:
        return "is missing"
    if "failed" in new:
        return f"failed: {new['failed']}"
    return "gives wrong results" if new.get("correct") is False else ""


def _pairs(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """The row in both files, and the parts of it that hold ratios of their own."""
    yield name, old, new
    for part in _NESTED:
        inner = old.get(part), new.get(part)
        if all(isinstance(each, Mapping) and "times_faster" in each for each in inner):
            yield f"{name}, {part}", *inner  # type: ignore[misc]


def _suites(result: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    if "suites" not in result:
        return {result.get("suite", ""): result.get("rows", [])}
    every = [name for name, part in result["suites"].items() if usable(part)]
    names = dict.fromkeys(name.removesuffix(COMPILED) for name in every)
    return {name: joined(name, result["suites"])["rows"] for name in names}


def usable(part: Mapping[str, Any]) -> bool:
    """Whether a suite was measured, or some of it before it was stopped."""
    status = part.get("status")
    return status == "measured" or (status == "cut off" and bool(part.get("rows")))


def joined(suite: str, suites: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """A suite's part with what the step that compiles its rivals found: columns of the same rows, and rows.

    Args:
        suite: its name, without the ending.
        suites: of a file.
    """
    plain, more = suites.get(suite, {}), suites.get(suite + COMPILED, {})
    if not usable(more):
        return plain
    if not usable(plain):
        return more
    rows = _by_identity(suite, plain["rows"])
    for key, row in _by_identity(suite, more["rows"]).items():
        rows[key] = {**row, **rows.get(key, {})}
    cut = {} if more["status"] == "measured" else {name: more[name] for name in ("status", "reason")}
    return {**plain, **cut, "rows": list(rows.values())}


def _by_identity(suite: str, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        key = _identity(suite, row)
        if key in found:
            raise DataError(f"{suite}: two rows are of {' '.join(map(str, key)) or 'nothing'}.")
        found[key] = row
    return found


def _identity(suite: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    if suite == "decode" and "target" not in row and "proposals" in row:
        # Older records say how many proposals there were, and not how many were asked for.
        row = {**row, "target": round(row["proposals"] / 10) * 10}
    key = tuple(row[name] for name in IDENTITY[suite] if row.get(name, "") != "")
    if not all(isinstance(part, (str, int, float)) for part in key):
        raise DataError(f"{suite}: expected texts or numbers to name a row, got {key}.")
    return key


def _compared(name: str, old: Mapping[str, Any], new: Mapping[str, Any], number: int) -> Iterator[Change]:
    for figure in _HIGHER:
        if figure in old and figure in new:
            yield Change(name, figure, old[figure], new[figure], _verdict(old, new, figure, number))
    for figure in _LOWER:
        if figure in old and figure in new:
            yield Change(name, figure, old[figure], new[figure], _by_margin(new[figure], old[figure]))
    for figure in _ACCURACY:
        if isinstance(old.get(figure), float) and isinstance(new.get(figure), float):
            lost = old[figure] - new[figure]
            verdict = "worse" if lost > MAP_MARGIN else "better" if lost < -MAP_MARGIN else "same"
            yield Change(name, figure, old[figure], new[figure], verdict)


def _by_margin(before: float, after: float) -> str:
    """Of figures without intervals; the more the better."""
    if after < before * (1 - MARGIN):
        return "worse"
    return "better" if before < after * (1 - MARGIN) else "same"


def _verdict(old: Mapping[str, Any], new: Mapping[str, Any], figure: str, number: int) -> str:
    """Beyond chance, for one of ``number`` figures: errors add up as squares, on a scale of shares."""
    before, after = old[figure], new[figure]
    if f"{figure}_interval" not in old or f"{figure}_interval" not in new:
        return _by_margin(before, after)
    if max(before, after) * (1 - LEAST) <= min(before, after):
        return "same"
    fell = after < before
    upper, lower = (old, new) if fell else (new, old)
    # The sides that face each other.
    sides = (
        math.log(upper[figure] / max(upper[f"{figure}_interval"][0], 1e-9)),
        math.log(max(lower[f"{figure}_interval"][1], 1e-9) / lower[figure]),
    )
    normal = NormalDist()
    wide = normal.inv_cdf(1 - (1 - LEVEL) / 2 / max(1, number)) / normal.inv_cdf((1 + LEVEL) / 2)
    if abs(math.log(after / before)) <= wide * math.hypot(*sides):
        return "same"
    return "worse" if fell else "better"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what changed; 1 if anything got worse."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    before, after = (read_result(path) for path in (options.old, options.new))
    if before.get("device") != after.get("device"):
        print(f"note: measured on {before.get('device')}, and then on {after.get('device')}")
    found = changes(before, after)
    for change in found:
        if change.why:
            print(f"{change.verdict:7} {change.row} {change.why}")
        elif change.verdict != "same":
            print(
                f"{change.verdict:7} {change.row}: {change.figure} {change.before:.4g} -> {change.after:.4g}"
            )
    worse = sum(change.verdict == "worse" for change in found)
    print(f"{sum(not change.why for change in found)} figures compared, {worse} worse")
    return 1 if worse else 0
