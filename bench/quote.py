"""Puts recorded results into the documentation, so that no number there is typed by hand.

    python -m aicl_fast.bench.quote README.md docs/training.md

A block that begins with ``<!-- quote: demo-accuracy.json accuracy -->`` and ends with ``<!-- end -->`` is
replaced by the table that the named function makes of the named file under ``bench/results/``. Of a file with
several suites it takes the one that the table's name begins with. Times of a busy machine are left out, with
a sentence. A test runs the same and finds nothing to change.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.bench.arguments import program
from aicl_fast.bench.compare import joined, usable
from aicl_fast.bench.record import BUSY, RESULTS, read_result
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.files import write_text

TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
"""What engines are called in tables."""
_TIMED = frozenset(("p50_ms", "native_us", "milliseconds", "kernels", "replay_us"))
"""What rows that hold times have one of."""
_BUSY_WITH_IT = 2.0
"""Load a core from which a machine is busy, with the suite itself."""
_STEADY = (0.8, 1.25)
"""The drift of a row that is not marked."""
_FEW = 100
"""Turns below which one in a hundred cannot be told."""
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
    rows = [row for row in result["rows"] if row.get("batch", 1) == 1]
    tails = [_tail(row) for row in rows]
    tail, line = (" p99, ms |", "---:|") if any(tails) else ("", "")
    lines = [
        "One recording of THUMOS14's size (T 750, 2 x 1024 features, 20 classes), features to detections:",
        "",
        f"| | p50, ms |{tail} times the textbook's speed | mAP, % |",
        f"|---|---:|---:|---:|{line}",
    ]
    for row, last in zip(rows, tails, strict=True):
        times = [f"{row['p50_ms']:.1f}", *([last] if any(tails) else []), _ratio(row)]
        lines.append(f"| {row['pipeline']}{_mark(row)} | {' | '.join(times)} | {_percent(row.get('mAP'))} |")
    return [*lines, *_drifted(rows)]


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
        cells = [
            f"{own[b]['videos_per_second']:.1f} ({own[b]['times_faster']:.2f}x){_mark(own[b])}"
            if b in own
            else ""
            for b in batches
        ]
        accuracy = next(iter(own.values())).get("mAP")
        lines.append(f"| {name} | {_percent(accuracy)} | {' | '.join(cells)} |")
    return [*lines, *_drifted(rows)]


def engines(result: Mapping[str, Any], subject: str = "thumos14") -> list[str]:
    """Every engine and precision: mAP of the file, then milliseconds and ratio by batch; THUMOS14's size."""
    rows = [row for row in result["rows"] if row["subject"] == subject]
    if not rows:
        raise ConfigError(f"engines: no row is of the {subject} model.")
    batches = sorted({row["batch"] for row in rows})
    headings = [f"batch {batch}, ms (ratio, its interval)" for batch in batches]
    lines = [
        "Features to scores, milliseconds and times the textbook network's speed on the same batch:",
        "",
        "| | precision | mAP, % | " + " | ".join(headings) + f" | share of the floor, batch {batches[-1]} |",
        "|---|---|---:|" + "---:|" * (len(batches) + 1),
    ]
    for name in dict.fromkeys((row["engine"], row["format"], row["precision"]) for row in rows):
        own = {row["batch"]: row for row in rows if (row["engine"], row["format"], row["precision"]) == name}
        first = next(iter(own.values()))
        cells = [_cell(own[batch]) if batch in own else "" for batch in batches]
        share = own.get(batches[-1], {}).get("share_of_floor")
        lines.append(
            f"| {TITLES.get(name[0], name[0])} | {name[2]} | {_percent(first.get('mAP'))} "
            f"| {' | '.join(cells)} | {'' if share is None else f'{100 * share:.0f} %'} |"
        )
    return [*lines, *_drifted(rows)]


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
            f"| {row['program']}{_mark(row)} | {row['p50_ms']:.0f} | {' | '.join(parts)} "
            f"| {row['peak_mb']:.0f} | {_ratio(row)} |"
        )
    return [*lines, *_drifted(result["rows"])]


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
                f"{row['case']}: p50 {ours['p50_ms'] * 1e3:.0f} µs"
                + (f", p99 {ours['p99_ms'] * 1e3:.0f} µs" if _tail(ours) else "")
                + f", {ours['times_faster']:.1f}x the textbook.",
            ]
    return lines


def sweep(result: Mapping[str, Any]) -> list[str]:
    """Launch settings: the shipped ones of each kernel and size, and the fastest other ones."""
    lines = [
        "Launch settings, replayed: the shipped ones, and of those tried the fastest, in turns with them:",
        "",
        "| | kernel | shipped | µs | fastest other | times the shipped speed | |",
        "|---|---|---|---:|---|---:|---|",
    ]
    for row in result["rows"]:
        start = f"| {row['family']}: {row['case']} | {row['launch']}"
        if "failed" in row:
            lines.append(f"{start} | failed: {row['failed']} |  |  |  |  |")
            continue
        right = sum(candidate["correct"] for candidate in row["candidates"])
        cells = [in_words(row["shipped"]), f"{row['replay_us']:.1f}", "none", "", ""]
        if "best" in row:
            told = "faster" if row["faster"] else "no faster"
            cells[2:] = [in_words(row["best"], row["shipped"]), _ratio(row), f"{told}, of {right}"]
        lines.append(f"{start} | {' | '.join(cells)} |")
    return lines


def in_words(settings: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> str:
    """``split, block_m 128, …``.

    Args:
        settings: by the field's name.
        others: says only in what the settings differ from these.
    """
    words = []
    for name, value in settings.items():
        if others is not None and others.get(name) == value:
            continue
        words.append((name if value else f"no {name}") if isinstance(value, bool) else f"{name} {value}")
    return ", ".join(words)


def decode(result: Mapping[str, Any]) -> list[str]:
    """Fused scores to detections: microseconds and ratios by number of proposals."""
    lines = [
        "Fused scores to detections, T 750, one thread:",
        "",
        "| NMS | proposals | C++, µs | numba, µs | C++ over textbook NumPy | C++ over the naive twin |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        times = [f"{row[name]:.0f}" if name in row else "" for name in ("native_us", "numba_us")]
        ratios = [
            f"{row[name]:.0f}x" if name in row else "" for name in ("native_x_textbook", "native_x_naive")
        ]
        lines.append(f"| {row['nms']} | {row['proposals']:.0f} | {' | '.join(times + ratios)} |")
    if not any("native_us" in row for row in result["rows"]):
        # Without the compiled decoder, what there is to say of numba's.
        lines += ["", "The C++ decoder was not compiled there; numba over textbook NumPy: "
                  + ", ".join(f"{row['numba_x_textbook']:.0f}x" for row in result["rows"]
                              if "numba_x_textbook" in row) + "."]  # fmt: skip
    cold = {row["backend"]: row["seconds"] for row in result.get("cold_start", [])}
    return (
        lines
        if not cold
        else [
            *lines,
            "",
            "Cold start, import to first result: "
            + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in cold.items())
            + ".",
        ]
    )


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
        if "failed" in row:
            lines.append(f"| {row['step']} | not timed: {row['failed']} |  |")
        else:
            lines.append(f"| {row['step']}{_mark(row)} | {row['p50_ms']:.0f} | {_ratio(row)} |")
    return [*lines, *_drifted(result["rows"])]


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
        lines.append(f"| {row['stage']} | {row['way']}{_mark(row)} | {row['batch']} | {speed} |")
    for row in result["rows"]:
        if "network_share" in row:
            parts = ("decode", "decoding"), ("flow", "flow by DIS"), ("network", "the two networks")
            said = ", ".join(f"{what} {100 * row[f'{name}_share']:.0f} %" for name, what in parts)
            lines += ["", f"Of the whole, {row['way']}: {said}."]
    return [*lines, *_drifted(result["rows"])]


def _cell(row: Mapping[str, Any]) -> str:
    """Milliseconds, and the ratio with its interval."""
    low, high = row["times_faster_interval"]
    return f"{row['p50_ms']:.1f} ({row['times_faster']:.2f}x, {low:.2f} to {high:.2f}){_mark(row)}"


def _tail(row: Mapping[str, Any]) -> str:
    """The 99th percentile, where there were turns enough for one."""
    return f"{row['p99_ms']:.1f}" if "p99_ms" in row and row.get("turns", _FEW) >= _FEW else ""


def _mark(row: Mapping[str, Any]) -> str:
    """A dagger, where the machine was not the same from the first third of the turns to the last."""
    return "" if _STEADY[0] <= row.get("drift", 1.0) <= _STEADY[1] else " †"


def _drifted(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not any(_mark(row) for row in rows):
        return []
    limits = f"under {_STEADY[0]:g} or over {_STEADY[1]:g} times"
    return ["", f"† In the last third of its turns it took {limits} what it took in the first."]


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
    "sweep": sweep,
    "train": train,
    "video": video,
}


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
    for name in sys.argv[1:] if arguments is None else arguments:
        path = Path(name)
        write_text(path, quoted(path.read_text(encoding="utf-8"), RESULTS, name))


if __name__ == "__main__":
    program(main)
