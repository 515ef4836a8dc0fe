"""Puts recorded results into the documentation, so that no number there is typed by hand.

    python -m aicl_fast.bench.quote README.md docs/training.md

A block that begins with ``<!-- quote: demo-accuracy.json accuracy -->`` and ends with ``<!-- end -->`` is
replaced by the table that the named function makes of the named file under ``bench/results/``. Of a file with
several suites it takes the one that the table's name begins with. Times of a machine that others took most of
are left out, with a sentence. A test runs the same and finds nothing to change.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.bench.compare import joined
from aicl_fast.bench.record import RESULTS
from aicl_fast.errors import ConfigError
from aicl_fast.files import read_json, write_text

TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
"""What engines are called in tables."""
_TIMED = frozenset(("p50_ms", "native_us", "milliseconds", "eager"))
"""What rows that hold times have one of."""
BLOCK = re.compile(r"(<!-- quote: (\S+) (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


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
    """Features to detections, one recording at a time: latency and ratio by file, with the file's mAP."""
    lines = [
        "One recording of THUMOS14's size (T 750, 2 x 1024 features, 20 classes), features to detections:",
        "",
        "| | p50, ms | p99, ms | times the textbook's speed | mAP, % |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        if row.get("batch", 1) == 1:
            times = f"{row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {_ratio(row)}"
            lines.append(f"| {row['pipeline']} | {times} | {_percent(row.get('mAP'))} |")
    return lines


def detect_batches(result: Mapping[str, Any]) -> list[str]:
    """Features to detections by batch: recordings a second, and ratio."""
    rows = result["rows"]
    batches = sorted({row["batch"] for row in rows})
    lines = [
        "Recordings of THUMOS14's size a second, features to detections, and times the textbook's speed:",
        "",
        "| | mAP, % | " + " | ".join(f"batch {batch}" for batch in batches) + " |",
        "|---|---:|" + "---:|" * len(batches),
    ]
    for name in dict.fromkeys(row["pipeline"] for row in rows):
        own = {row["batch"]: row for row in rows if row["pipeline"] == name}
        cells = [f"{own[b]['videos_per_second']:.1f} ({own[b]['times_faster']:.2f}x)" for b in batches]
        lines.append(f"| {name} | {_percent(own[batches[0]]['mAP'])} | {' | '.join(cells)} |")
    return lines


def engines(result: Mapping[str, Any], subject: str = "thumos14") -> list[str]:
    """Every engine and precision: mAP of the file, then milliseconds and ratio by batch; THUMOS14's size."""
    rows = [row for row in result["rows"] if row["subject"] == subject]
    if not rows:
        raise ConfigError(f"engines: no row is of the {subject} model.")
    batches = sorted({row["batch"] for row in rows})
    headings = [f"batch {batch}, ms (ratio)" for batch in batches]
    lines = [
        "Features to scores, milliseconds and times the textbook network's speed on the same batch:",
        "",
        "| | precision | mAP, % | " + " | ".join(headings) + f" | share of the floor, batch {batches[-1]} |",
        "|---|---|---:|" + "---:|" * (len(batches) + 1),
    ]
    for name in dict.fromkeys((row["engine"], row["format"], row["precision"]) for row in rows):
        own = {row["batch"]: row for row in rows if (row["engine"], row["format"], row["precision"]) == name}
        first = next(iter(own.values()))
        cells = [f"{own[batch]['p50_ms']:.1f} ({own[batch]['times_faster']:.2f}x)" for batch in batches]
        share = own[batches[-1]]["share_of_floor"]
        lines.append(
            f"| {TITLES.get(name[0], name[0])} | {name[2]} | {_percent(first['mAP'])} | {' | '.join(cells)} "
            f"| {'' if share is None else f'{100 * share:.0f} %'} |"
        )
    return lines


def engines_demo(result: Mapping[str, Any]) -> list[str]:
    """The same of the demo's small model."""
    return engines(result, "demo")


def load(result: Mapping[str, Any]) -> list[str]:
    """Fresh processes: from start to end, its parts, and the most memory."""
    lines = [
        "Fresh processes, from start to end:",
        "",
        "| | ms | import | open | first call | peak, MiB | times the textbook's speed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        parts = [f"{row[name]:.0f}" if name in row else "" for name in ("import_ms", "open_ms", "first_ms")]
        lines.append(
            f"| {row['program']} | {row['p50_ms']:.0f} | {' | '.join(parts)} | {row['peak_mb']:.0f} "
            f"| {_ratio(row)} |"
        )
    return lines


def kernels(result: Mapping[str, Any]) -> list[str]:
    """The Triton kernels: microseconds as replayed, share of the floor, and ratios."""
    lines = [
        "Microseconds a call, replayed; ratios are of replays, in brackets of calls launched one by one:",
        "",
        "| | µs | of the floor | over eager | over torch.compile |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        if row["family"] == "latency" and "failed" not in row:
            continue
        if "failed" in row:
            lines.append(f"| {row['family']}: {row['case']} | failed: {row['failed']} |  |  |  |")
            continue
        share, ours = row.get("share_of_floor"), row["kernels"].get("replay_us")
        ratios = [
            f"{row[f'{rival}_replay_ratio']:.2f}x ({row[f'{rival}_call_ratio']:.2f}x)"
            if f"{rival}_call_ratio" in row
            else ""
            for rival in ("eager", "compiled")
        ]
        lines.append(
            f"| {row['family']}: {row['case']} | {'' if ours is None else f'{ours:.1f}'} "
            f"| {'' if share is None else f'{100 * share:.0f} %'} | {ratios[0]} | {ratios[1]} |"
        )
    for row in result["rows"]:
        if row["family"] == "latency" and "failed" not in row:
            ours = row["kernels"]
            lines += [
                "",
                f"{row['case']}: p50 {ours['p50_ms'] * 1e3:.0f} µs, p99 {ours['p99_ms'] * 1e3:.0f} µs, "
                f"{ours['times_faster']:.1f}x the textbook.",
            ]
    return lines


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
    lines += [f"| {row['step']} | {row['p50_ms']:.0f} | {_ratio(row)} |" for row in result["rows"]]
    return lines


def video(result: Mapping[str, Any]) -> list[str]:
    """Segments of video a second, by stage, way and batch."""
    lines = [
        f"Segments of 16 frames of 224 x 224, {result['threads']} threads:",
        "",
        "| stage | way | batch | segments a second | times the first's speed |",
        "|---|---|---:|---:|---:|",
    ]
    for row in result["rows"]:
        speed = f"{row['segments_per_second']:.2f} | {_ratio(row)}"
        lines.append(f"| {row['stage']} | {row['way']} | {row['batch']} | {speed} |")
    return lines


def _ratio(row: Mapping[str, Any]) -> str:
    low, high = row["times_faster_interval"]
    return f"{row['times_faster']:.2f} ({low:.2f} to {high:.2f})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def quantisation(result: Mapping[str, Any]) -> list[str]:
    """Quantisers: mAP and the largest error of any output, over draws of the calibration recordings."""
    draws = f"{result['seeds']} draws of {result['videos']} calibration recordings"
    lines = [
        f"mAP in percent over {draws}; float32 has {100 * result['rows'][0]['fp32_mAP']:.2f}:",
        "",
        "| quantiser | type | mAP, mean | lowest | largest error |",
        "|---|---|---:|---:|---:|",
    ]
    for row in result["rows"]:
        maps = 100 * np.array(row["mAP"])
        worst = f"{max(row['largest_error'].values()):.3f}"
        cells = (row["quantiser"], row["precision"], f"{maps.mean():.2f}", f"{maps.min():.2f}", worst)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


TABLES: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "ablation": ablation,
    "accuracy": accuracy,
    "decode": decode,
    "detect": detect,
    "detect-batches": detect_batches,
    "engines": engines,
    "engines-demo": engines_demo,
    "evaluate": evaluate,
    "kernels": kernels,
    "load": load,
    "quantisation": quantisation,
    "train": train,
    "video": video,
}


def part(result: Mapping[str, Any], suite: str, source: str) -> Mapping[str, Any]:
    """One suite's record, of a file with one or several.

    Raises:
        ConfigError: it is not in the file, or was not measured; with the reason.
    """
    if "suites" not in result:
        return result
    found = joined(suite, result["suites"]) or {"status": "not measured", "reason": "it was not run"}
    if found["status"] != "measured":
        raise ConfigError(f"{source}: '{suite}' is {found['status']}: {found['reason']}")
    return {**result, **found}


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
        result = part(read_json(results / file, "result file"), table.partition("-")[0], file)
        reason = busy(result)
        if reason:
            return f"{opening}{reason}\n{closing}"
        lines = TABLES[table](result)
        where = f"{result['device']}, {result['cores']} cores, {result['date']}, commit {result['commit']}"
        return "\n".join([f"{opening}{lines[0]}", *lines[1:], "", f"Measured on {where}.", closing])

    return BLOCK.sub(fill, text)


def busy(result: Mapping[str, Any]) -> str:
    """Why times are left out of a document: more waited than twice the cores. Empty if they are not."""
    load, cores = result.get("load_average") or 0.0, result.get("cores") or 1
    if load <= 2 * cores or not any(_TIMED.intersection(row) for row in result["rows"]):
        return ""
    return (
        f"Left out: the machine was busy while this was measured (load average {load:.1f} on {cores} cores). "
        "Threads suffer from that unequally, so the ratios mean nothing either."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the documents named, from the results beside this file."""
    for name in sys.argv[1:] if arguments is None else arguments:
        path = Path(name)
        write_text(path, quoted(path.read_text(encoding="utf-8"), RESULTS, name))


if __name__ == "__main__":
    main()
