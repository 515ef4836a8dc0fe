"""What got slower, or less accurate, between two result files.

    aicl-fast bench compare old.json new.json

Rows are matched by what they are of. Compared are the ratios to the baseline of the same run, which hold from
one busy hour to the next, and mAP. A row is slower if its whole interval lies below the earlier one's; where
no interval was recorded, if it lost more than a tenth. Exits with 1 if anything got worse.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aicl_fast.errors import ConfigError
from aicl_fast.files import read_json

MARGIN = 0.1
"""What a ratio without an interval may lose."""
MAP_MARGIN = 0.005
"""What a mAP may lose, as a share: the exports' own tolerance."""
IDENTITY = {
    "detect": ("subject", "pipeline", "batch"),
    "engines": ("subject", "engine", "format", "precision", "batch"),
    "decode": ("nms", "classes"),
    "train": ("step",),
    "evaluate": ("evaluator",),
    "load": ("program",),
    "video": ("stage", "way", "batch"),
    "kernels": ("family", "case"),
}
COMPILED = "-compiled"
"""How a step's name ends that measures a suite's rivals compiled by torch."""
_RATIOS = (
    "times_faster",
    "native_x_textbook",
    "numba_x_textbook",
    "eager_replay_ratio",
    "eager_call_ratio",
    "compiled_replay_ratio",
)


class Change(NamedTuple):
    """One figure of one row in both files."""

    row: str
    figure: str
    before: float
    after: float
    verdict: str
    """``worse``, ``better`` or ``same``."""


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every figure that both files have.

    Raises:
        ConfigError: they have no suite in common.
    """
    old, new = _suites(before), _suites(after)
    common = [name for name in new if name in old and name in IDENTITY]
    if not common:
        raise ConfigError(f"the files have no suite in common: {', '.join(old)}; {', '.join(new)}.")
    found: list[Change] = []
    for suite in common:
        earlier = {_identity(suite, row): row for row in old[suite]}
        for row in new[suite]:
            key = _identity(suite, row)
            if key in earlier:
                found += _compared(f"{suite}: {' '.join(map(str, key))}", earlier[key], row)
    return found


def _suites(result: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    if "suites" not in result:
        return {result.get("suite", ""): result.get("rows", [])}
    every = {name: part for name, part in result["suites"].items() if part["status"] == "measured"}
    names = dict.fromkeys(name.removesuffix(COMPILED) for name in every)
    return {name: joined(name, result["suites"])["rows"] for name in names}


def joined(suite: str, suites: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """A suite's part with what the step that compiles its rivals found: columns of the same rows, and rows.

    Args:
        suite: its name, without the ending.
        suites: of a file; one of the two was measured.
    """
    plain, more = suites.get(suite, {}), suites.get(suite + COMPILED, {})
    if more.get("status") != "measured":
        return plain
    if plain.get("status") != "measured":
        return more
    rows = {_identity(suite, row): row for row in plain["rows"]}
    for row in more["rows"]:
        key = _identity(suite, row)
        rows[key] = {**row, **rows.get(key, {})}
    return {**plain, "rows": list(rows.values())}


def _identity(suite: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in IDENTITY[suite] if row.get(name, "") != "")


def _compared(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for figure in _RATIOS:
        if figure not in old or figure not in new:
            continue
        low, high = _interval(old, figure), _interval(new, figure)
        verdict = "worse" if high[1] < low[0] else "better" if high[0] > low[1] else "same"
        yield Change(name, figure, old[figure], new[figure], verdict)
    if old.get("mAP") is not None and new.get("mAP") is not None:
        lost = old["mAP"] - new["mAP"]
        verdict = "worse" if lost > MAP_MARGIN else "better" if lost < -MAP_MARGIN else "same"
        yield Change(name, "mAP", old["mAP"], new["mAP"], verdict)


def _interval(row: Mapping[str, Any], figure: str) -> tuple[float, float]:
    found = row.get(f"{figure}_interval")
    if found is not None:
        return found[0], found[1]
    # Half of the margin on each side: two values apart by more than the whole do not meet.
    return row[figure] * (1 - MARGIN / 2), row[figure] * (1 + MARGIN / 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what changed; 1 if anything got worse."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    before, after = (read_json(path, "result file") for path in (options.old, options.new))
    if before.get("device") != after.get("device"):
        print(f"note: measured on {before.get('device')}, and then on {after.get('device')}")
    found = changes(before, after)
    for change in found:
        if change.verdict != "same":
            print(
                f"{change.verdict:7} {change.row}: {change.figure} {change.before:.4g} -> {change.after:.4g}"
            )
    worse = sum(change.verdict == "worse" for change in found)
    print(f"{len(found)} figures compared, {worse} worse")
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
