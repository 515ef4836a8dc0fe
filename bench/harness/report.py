"""Tables and pictures of a result file, and the documents that quote it.

    aicl-fast bench report bench/results/amd-epyc-2026-11-23.json            # prints every table
    aicl-fast bench report bench/results/amd-epyc-2026-11-23.json --write    # and fills README and docs

``--write`` draws `docs/bench-cpu.png` (or `-gpu`), and in README.md, docs/ and bench/ it turns every block
that quotes a suite which the file has, from an earlier file of the same kind of device, to this one. All
blocks are then made again.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aicl_fast.bench.harness.compare import joined, usable
from aicl_fast.bench.harness.quote import BLOCK, busy, made, part, quoted
from aicl_fast.bench.harness.record import RESULTS, read_result
from aicl_fast.bench.harness.tables import TABLES
from aicl_fast.errors import AiclError, ConfigError, UnavailableError
from aicl_fast.files import atomic_path, write_text

_ROOT = RESULTS.parents[1]


def documents() -> list[Path]:
    """Those that may quote results."""
    return [_ROOT / "README.md", *sorted(_ROOT.glob("docs/*.md")), *sorted(_ROOT.glob("bench/*.md"))]


def target(result: Mapping[str, Any], name: str) -> str:
    """``cpu`` or ``gpu``; files of one suite say it in their names."""
    said = result.get("target")
    if said is not None:
        return "cpu" if said == "cpu" else "gpu"
    return "gpu" if Path(name).stem.endswith("gpu") else "cpu"


def has(result: Mapping[str, Any], table: str) -> bool:
    """Whether a file with several suites holds what a table shows."""
    return usable(joined(table.partition("-")[0], result.get("suites", {})))


def redirected(text: str, file: str, results: Path = RESULTS) -> str:
    """``text`` with every block that quotes what ``file`` has, of the same kind of device, quoting ``file``.

    Args:
        text: of a document.
        file: a result file with several suites. Blocks that quote a file of one suite stay.
        results: the folder of result files.
    """
    result = read_result(results / file)
    kind = target(result, file)

    def turn(match: re.Match[str]) -> str:
        whole, earlier, table = match[0], match[2], match[3]
        path = results / earlier
        before = read_result(path) if path.is_file() else {"target": kind, "suites": {}}
        # A record of one suite was quoted for its own sake.
        if "suites" not in before or target(before, earlier) != kind or not has(result, table):
            return whole
        return whole.replace(f"quote: {earlier} ", f"quote: {file} ", 1)

    return BLOCK.sub(turn, text)


def picture(result: Mapping[str, Any], file: str, path: Path) -> None:
    """Draw latency and throughput over the batch, and the ladder: speed and accuracy of every pipeline.

    The picture's own text says which file, of which commit, it shows.

    Raises:
        UnavailableError: matplotlib is not installed.
        ConfigError: ``engines`` or ``detect`` was not measured, or on a busy machine.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator
    except ImportError as error:
        raise UnavailableError(
            f"matplotlib cannot be imported ({error}): pip install 'aicl-fast[plot]'"
        ) from error
    parts = [part(result, suite, file) for suite in ("engines", "detect")]
    for found in parts:
        if busy(found):
            raise ConfigError(busy(found))
    rows, ladder = (found["rows"] for found in parts)
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    latency, throughput, rungs = figure.subplots(1, 3)
    rows = [row for row in rows if row["subject"] == "demo"] or rows
    for key in dict.fromkeys((row["engine"], row["precision"]) for row in rows):
        own = sorted(
            (row for row in rows if (row["engine"], row["precision"]) == key), key=lambda row: row["batch"]
        )
        batches = [row["batch"] for row in own]
        accuracy = own[0].get("mAP")
        label = ", ".join(key) + (f" ({100 * accuracy:.1f})" if accuracy else "")
        style = {"marker": "o", "markersize": 3, "linewidth": 1.2, "label": label}
        latency.plot(batches, [row["p50_ms"] for row in own], **style)
        throughput.plot(batches, [row["videos_per_second"] for row in own], **style)
    for axes, title, unit in (
        (latency, "Latency of the network", "ms a batch"),
        (throughput, "Throughput of the network", "videos/s"),
    ):
        axes.set_xscale("log")
        axes.set_xticks(sorted({row["batch"] for row in rows}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yscale("log")
        axes.set_title(f"{title}, {rows[0]['subject']} model", fontsize=10)
        axes.set_xlabel("videos a batch")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
    throughput.legend(
        fontsize=6,
        title="engine, precision (mAP)",
        title_fontsize=6,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    _draw_ladder(rungs, [row for row in ladder if row["batch"] == 1] or ladder)
    where = f"{result['device']}, {result['cores']} cores, {result['date']}, commit {result['commit']}"
    figure.supxlabel(f"{where}.", fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Source": f"{file} {result['commit']}"})


def _draw_ladder(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: row["times_faster"], reverse=True)
    low = [row["times_faster"] - row["times_faster_interval"][0] for row in rows]
    high = [row["times_faster_interval"][1] - row["times_faster"] for row in rows]
    names = [row["pipeline"] for row in rows]
    error = [[max(0.0, value) for value in side] for side in (low, high)]
    axes.barh(names, [row["times_faster"] for row in rows], xerr=error, height=0.6, color="#4c78a8")
    for number, row in enumerate(rows):
        accuracy = "" if row["mAP"] is None else f", mAP {100 * row['mAP']:.1f}"
        end = max(row["times_faster"], row["times_faster_interval"][1])
        axes.text(end, number, f"  {row['times_faster']:.2f}x{accuracy}", va="center", fontsize=7)
    axes.set_xlim(0, 1.5 * max(row["times_faster_interval"][1] for row in rows))
    axes.set_title("Features to detections, one video", fontsize=10)
    axes.set_xlabel("times the reference's speed, THUMOS14's size")
    axes.tick_params(axis="y", labelsize=7)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a file's tables; with ``--write``, fill the documents; 1 if one could not be.

    Raises:
        ConfigError: the file is not under bench/results/, or has one suite only.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="a result file of `aicl-fast bench all`")
    parser.add_argument("--write", action="store_true", help="fill README.md, docs/ and bench/ from it")
    options = parser.parse_args(arguments)
    result = read_result(options.file)
    if "suites" not in result:
        raise ConfigError(f"{options.file}: holds one suite; expected a file of `aicl-fast bench all`.")
    for name, found in result["suites"].items():
        if found["status"] != "measured":
            print(f"{name}: {found['status']}, {found['reason']}\n")
    for table in (name for name in TABLES if has(result, name)):
        try:
            found = part(result, table.partition("-")[0], options.file.name)
            lines = [busy(found)] if busy(found) else made(table, found, options.file.name)
        except AiclError as error:
            lines = [str(error)]
        print("\n".join(lines), "\n")
    if not options.write:
        return 0
    if options.file.resolve().parent != RESULTS:
        raise ConfigError(f"{options.file}: documents quote files under bench/results/ only; copy it there.")
    kind = target(result, options.file.name)
    if has(result, "engines") and has(result, "detect"):
        try:
            picture(result, options.file.name, _ROOT / "docs" / f"bench-{kind}.png")
        except ConfigError as error:
            print(f"not drawn: {error}")
    failed = 0
    for path in documents():
        before = path.read_text(encoding="utf-8")
        try:
            after = quoted(redirected(before, options.file.name), RESULTS, path.name)
        except AiclError as error:  # another record of its is missing: the other documents are still filled
            print(f"left as it is: {path.relative_to(_ROOT)}: {error}")
            failed = 1
            continue
        if after != before:
            write_text(path, after)
            print(f"filled {path.relative_to(_ROOT)}")
    return failed
