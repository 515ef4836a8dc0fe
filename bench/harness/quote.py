"""Puts recorded results into the documentation, so that no number there is typed by hand.

    python -m aicl_fast.bench quote README.md docs/training.md

A block that begins with ``<!-- quote: demo-accuracy.json accuracy -->`` and ends with ``<!-- end -->`` is
replaced by the table that the named function makes of the named file under ``bench/results/``. Of a file with
several suites it takes the one that the table's name begins with. Times of a busy machine are skipped, with
a sentence. A test runs the same and finds nothing to change.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aicl_fast.bench.harness.compare import joined, usable
from aicl_fast.bench.harness.record import BUSY, RESULTS, read_result
from aicl_fast.bench.harness.tables import TABLES
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.files import read_text, write_text

_TIMED = frozenset(("p50_ms", "native_us", "milliseconds", "kernels", "replay_us"))
"""What rows that hold times have one of."""
_BUSY_WITH_IT = 2.0
"""Load a core from which a machine is busy, with the suite itself."""
BLOCK = re.compile(r"(<!-- quote: (\S+) (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def part(result: Mapping[str, Any], suite: str, source: str) -> Mapping[str, Any]:
    """One suite's record, of a file with one or several.

    Raises:
        ConfigError: it is not in the file, or nothing of it was measured; with the reason.
    """
    if "suites" not in result:
        return result
    found = joined(suite, result["suites"]) or {"status": "not measured", "reason": "it was not run"}
    if not usable(found):
        raise ConfigError(f"{source}: '{suite}' is {found['status']}: {found['reason']}")
    return {**result, **found}


def quoted(text: str, results: Path, source: str = "document") -> str:
    """``text`` with every block's table made again.

    Args:
        text: of a document.
        results: the folder of result files.
        source: the document's name, for messages.
    Raises:
        ConfigError: a block names a table that there is not.
        DataError: a result file is missing or not JSON.
    """

    def fill(match: re.Match[str]) -> str:
        opening, file, table, _, closing = match.groups()
        if table not in TABLES:
            raise ConfigError(f"{source}: there is no table '{table}'; there are {', '.join(TABLES)}.")
        result = part(read_result(results / file), table.partition("-")[0], file)
        reason = busy(result)
        if reason:
            return f"{opening}{reason}\n{closing}"
        lines = made(table, result, file)
        where = f"{result['device']}, {result['cores']} cores, {result['date']}, commit {result['commit']}"
        return "\n".join([f"{opening}{lines[0]}", *lines[1:], "", f"Measured on {where}.", closing])

    return BLOCK.sub(fill, text)


def made(table: str, result: Mapping[str, Any], source: str) -> list[str]:
    """A table's lines; of a suite that was stopped, with a sentence that says so.

    Args:
        table: its name.
        result: one suite's record.
        source: the file's name, for messages.
    Raises:
        DataError: the record lacks what the table shows.
    """
    try:
        lines = TABLES[table](result)
    except AiclError:
        raise
    except Exception as error:  # a record may hold anything
        raise DataError(
            f"{source}: the table '{table}' cannot be made of this record ({type(error).__name__}: {error})."
        ) from error
    if result.get("status") == "cut off":
        lines = [*lines, "", f"This is a part: {result['reason']}."]
    return lines


def busy(result: Mapping[str, Any]) -> str:
    """Why times are left out of a document: other programs waited for the cores. Empty if they are not.

    What counts is the minute before the suite. Older records have only the load at its end, in which its own
    threads are.
    """
    cores = result.get("cores") or 1
    after = result.get("load_average") or 0.0
    before = result.get("load_before", after) or 0.0
    if not any(_TIMED.intersection(row) for row in result["rows"]):
        return ""
    load = before if before > BUSY * cores else after
    if before <= BUSY * cores and after <= _BUSY_WITH_IT * cores:
        return ""
    return (
        f"Left out: the machine was busy while this was measured (load average {load:.1f} on {cores} cores). "
        "Threads suffer from that unequally, so the ratios mean nothing either."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the documents named, from the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("documents", nargs="+", type=Path, metavar="DOCUMENT", help="Markdown with blocks")
    for path in parser.parse_args(arguments).documents:
        write_text(path, quoted(read_text(path, "document"), RESULTS, str(path)))
