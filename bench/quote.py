"""Puts recorded results into the documentation, so that no number there is typed by hand.

    python -m aicl_fast.bench.quote README.md docs/training.md

A block that begins with ``<!-- quote: demo-accuracy.json accuracy -->`` and ends with ``<!-- end -->`` is
replaced by the table that the named function makes of the named file under ``bench/results/``. A test runs
the same and finds nothing to change.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.errors import ConfigError
from aicl_fast.files import read_json, write_text

_BLOCK = re.compile(r"(<!-- quote: (\S+) (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def accuracy(result: Mapping[str, Any]) -> list[str]:
    """The demo's mAP by loss setting, mean over seeds and their standard deviation."""
    names = list(dict.fromkeys(row["name"] for row in result["rows"]))
    seeds = len(result["rows"]) // len(names)
    lines = [
        f"mAP in percent at tIoU, mean of {seeds} seeds:",
        "",
        "| | " + " | ".join(f"{tiou:g}" for tiou in result["tious"]) + " | average |",
        "|---|" + "---:|" * (len(result["tious"]) + 1),
    ]
    for name in names:
        runs = [row for row in result["rows"] if row["name"] == name]
        means = 100 * np.mean([row["mAP"] for row in runs], axis=0)
        averages = 100 * np.array([row["average_mAP"] for row in runs])
        cells = " | ".join(f"{value:.1f}" for value in means)
        lines.append(f"| {name} | {cells} | {averages.mean():.1f} ± {averages.std(ddof=1):.1f} |")
    return lines


def detect(result: Mapping[str, Any]) -> list[str]:
    """Features to detections: latency and ratio by engine; cold start."""
    lines = [
        "One recording of THUMOS14's size (T 750, 2 x 1024 features, 20 classes), features to detections:",
        "",
        "| | p50, ms | times the textbook's speed |",
        "|---|---:|---:|",
    ]
    for row in result["rows"]:
        low, high = row["times_faster_interval"]
        ratio = f"{row['times_faster']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {row['pipeline']} | {row['p50_ms']:.1f} | {ratio} |")
    seconds = result["cold"]["detect_command_ms"] / 1e3
    return [*lines, "", f"From process start to written JSON, `aicl-fast detect` takes {seconds:.2f} s."]


def decode(result: Mapping[str, Any]) -> list[str]:
    """Fused scores to detections: microseconds and ratios by number of proposals."""
    lines = [
        "Fused scores to detections, T 750, one thread:",
        "",
        "| NMS | proposals | C++, µs | numba, µs | C++ over textbook NumPy | C++ over the naive twin |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['nms']} | {row['proposals']:.0f} | {row['native_us']:.0f} | {row['numba_us']:.0f} "
        f"| {row['native_x_textbook']:.0f}x | {row['native_x_naive']:.0f}x |"
        for row in result["rows"]
    ]
    cold = {row["backend"]: row["seconds"] for row in result["cold_start"]}
    return [
        *lines,
        "",
        "Cold start, import to first result: "
        + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in cold.items())
        + ".",
    ]


def evaluate(result: Mapping[str, Any]) -> list[str]:
    """mAP of real detections: milliseconds and ratio by evaluator."""
    return [
        "| evaluator | median, ms | fastest, ms | aicl_fast is faster by |",
        "|---|---:|---:|---:|",
        *(
            f"| {row['evaluator']} | {row['milliseconds']:.1f} | {row['fastest_milliseconds']:.1f} "
            f"| {row['aicl_fast_times_faster']:.1f}x |"
            for row in result["rows"]
        ),
    ]


def ablation(result: Mapping[str, Any]) -> list[str]:
    """An experiment's arms: mAP, agreement of the branches and accuracy of both, mean and deviation."""
    measures = {
        "average_mAP": "average mAP",
        "consistent": "consistent segments",
        "accuracy_A_bin": "A_bin right",
        "accuracy_A_ca_bin": "A_ca_bin right",
    }
    seeds = len(result["seeds"])
    lines = [
        f"In percent, {result['steps']} steps, mean of {seeds} seeds ± their standard deviation:",
        "",
        "| | " + " | ".join(measures.values()) + " |",
        "|---|" + "---:|" * len(measures),
    ]
    for row in result["rows"]:
        cells = [f"{100 * row['mean'][name]:.1f} ± {100 * row['spread'][name]:.1f}" for name in measures]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return lines


def train(result: Mapping[str, Any]) -> list[str]:
    """A training step: milliseconds and ratio by variant."""
    lines = [
        f"A training step at batch {result['batch']}, T {result['segments']}, {result['threads']} threads:",
        "",
        "| | ms | times the textbook's speed |",
        "|---|---:|---:|",
    ]
    for row in result["rows"]:
        low, high = row["times_faster_interval"]
        lines.append(
            f"| {row['step']} | {row['p50_ms']:.0f} | {row['times_faster']:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return lines


TABLES: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "ablation": ablation,
    "accuracy": accuracy,
    "decode": decode,
    "detect": detect,
    "evaluate": evaluate,
    "train": train,
}


def quoted(text: str, results: Path, source: str = "document") -> str:
    """``text`` with every block's table made anew.

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
        result = read_json(results / file, "result file")
        lines = TABLES[table](result)
        where = f"{result['device']}, {result['cores']} cores, {result['date']}, commit {result['commit']}"
        return "\n".join([f"{opening}{lines[0]}", *lines[1:], "", f"Measured on {where}.", closing])

    return _BLOCK.sub(fill, text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the documents named, from the results beside this file."""
    results = Path(__file__).resolve().parent / "results"
    for name in sys.argv[1:] if arguments is None else arguments:
        path = Path(name)
        write_text(path, quoted(path.read_text(encoding="utf-8"), results, name))


if __name__ == "__main__":
    main()
