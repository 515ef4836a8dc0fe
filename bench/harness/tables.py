"""The tables that documents quote: one function per suite, from its recorded rows to lines of Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from aicl_fast.errors import ConfigError

Row = Mapping[str, Any]
Cell = str | Callable[[Row], str]
"""A format of a row's fields, or a function of the row. With ``?`` in front, a row may lack those fields."""
ENGINE_NAMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
}
_STEADY = (0.8, 1.25)
"""The drift of a row that is not marked."""
_FEW_TURNS = 100
"""Below, one turn in a hundred cannot be told."""
_RATIO = "{times_faster:.2f} ({times_faster_interval[0]:.2f} to {times_faster_interval[1]:.2f})"
_SPEED = "times the reference's speed"


def accuracy(result: Row) -> list[str]:
    """The demo's mAP by loss setting, mean over seeds and their standard deviation."""
    rows = []
    for (name,), runs in _grouped(result["rows"], "name").items():
        means = 100 * np.mean([run["mAP"] for run in runs], axis=0)
        rows.append({"name": name, "mAP": means, "average": _spread(runs), "seeds": len(runs)})
    columns = {f"{tiou:g}": f"{{mAP[{number}]:.1f}}" for number, tiou in enumerate(result["tious"])}
    title = f"mAP in percent at tIoU, mean of {max(row['seeds'] for row in rows)} seeds:"
    return _table(title, {"": "{name}", **columns, "average": "{average}"}, rows)


def detect(result: Row) -> list[str]:
    """Features to detections, one recording at a time: latency and ratio by file, with the file's mAP."""
    rows = [row for row in result["rows"] if row.get("batch", 1) == 1]
    tail: dict[str, Cell] = {"p99, ms": _tail} if any(map(_tail, rows)) else {}
    columns = {
        "": "{pipeline}{mark}",
        "p50, ms": "{p50_ms:.1f}",
        **tail,
        _SPEED: _RATIO,
        "mAP, %": "?{mAP:.1%}",
    }
    title = "One recording of THUMOS14's size (T 750, 2 x 1024 features, 20 classes), features to detections:"
    return _table(title, columns, rows)


def detect_batches(result: Row) -> list[str]:
    """Features to detections by batch: recordings per second, and ratio."""
    title = f"Recordings of THUMOS14's size per second, features to detections, and {_SPEED}:"
    columns = {"": "{pipeline}", "mAP, %": "?{mAP:.1%}"}
    cell = "{videos_per_second:.1f} ({times_faster:.2f}x){mark}"
    return _by_batch(title, columns, "batch {}", cell, result["rows"], ("pipeline",))


def engines(result: Row, subject: str = "thumos14") -> list[str]:
    """Every engine and precision: mAP of the file, then milliseconds and ratio by batch; THUMOS14's size."""
    rows = [row for row in result["rows"] if row["subject"] == subject]
    if not rows:
        raise ConfigError(f"engines: no row is of the {subject} model.")
    columns: dict[str, Cell] = {
        "": lambda row: str(ENGINE_NAMES.get(row["engine"], row["engine"])),
        "precision": "{precision}",
        "mAP, %": "?{mAP:.1%}",
    }
    cell = "{p50_ms:.1f} ({times_faster:.2f}x, " + _RATIO.partition("(")[2] + "{mark}"
    last = max(row["batch"] for row in rows)
    more = {f"share of the floor, batch {last}": f"?{{batch{last}[share_of_floor]:.0%}}"}
    title = f"Features to scores, milliseconds and {_SPEED} on the same batch:"
    keys = ("engine", "format", "precision")
    return _by_batch(title, columns, "batch {}, ms (ratio, its interval)", cell, rows, keys, more, "llr")


def engines_demo(result: Row) -> list[str]:
    """The same for the demo's small model."""
    return engines(result, "demo")


def load(result: Row) -> list[str]:
    """New processes: from start to end, its parts, and the most memory."""
    parts = {"import": "?{import_ms:.0f}", "open": "?{open_ms:.0f}", "first call": "?{first_ms:.0f}"}
    columns = {
        "": "{program}{mark}",
        "ms": "{p50_ms:.0f}",
        **parts,
        "peak, MiB": "{peak_mb:.0f}",
        _SPEED: _RATIO,
    }
    return _table("New processes, from start to end:", columns, result["rows"])


def kernels(result: Row) -> list[str]:
    """The Triton kernels: microseconds as replayed, share of the floor, and ratios."""
    latency = [row for row in result["rows"] if row["family"] == "latency" and "failed" not in row]
    over = "?{{{0}_replay_ratio:.2f}}x ({{{0}_call_ratio:.2f}}x)"
    columns: dict[str, Cell] = {
        "": "{family}: {case}",
        "µs": _unless_failed("?{kernels[replay_us]:.1f}"),
        "of the floor": "?{share_of_floor:.0%}",
        "over eager": over.format("eager"),
        "over torch.compile": over.format("compiled"),
    }
    title = "Microseconds per call, replayed; ratios are of replays, in brackets of single calls:"
    lines = _table(title, columns, [row for row in result["rows"] if row not in latency])
    for row in latency:
        ours = row["kernels"]
        tail = f", p99 {ours['p99_ms'] * 1e3:.0f} µs" if _tail(ours) else ""
        times = f"p50 {ours['p50_ms'] * 1e3:.0f} µs{tail}, {ours['times_faster']:.1f}x the reference."
        lines += ["", f"{row['case']}: {times}"]
    return lines


def sweep(result: Row) -> list[str]:
    """Launch settings: the shipped ones of each kernel and size, and the fastest other ones."""

    def other(row: Row) -> str:
        return in_words(row["best"], row["shipped"]) if "best" in row else "" if "failed" in row else "none"

    def verdict(row: Row) -> str:
        right = sum(candidate["correct"] for candidate in row.get("candidates", ()))
        return f"{'faster' if row['faster'] else 'no faster'}, of {right}" if "best" in row else ""

    columns: dict[str, Cell] = {
        "": "{family}: {case}",
        "kernel": "{launch}",
        "shipped": _unless_failed(lambda row: in_words(row["shipped"])),
        "µs": "?{replay_us:.1f}",
        "fastest other": other,
        "times the shipped speed": lambda row: _cell(_RATIO, row) if "best" in row else "",
        " ": verdict,
    }
    title = "Launch settings, replayed: the shipped ones, and of those tried the fastest, in turns with them:"
    return _table(title, columns, result["rows"], "lllrlrl")


def in_words(settings: Row, others: Row | None = None) -> str:
    """``split, block_m 128, …``.

    Args:
        settings: by the field's name.
        others: only what differs from these is said.
    """
    words = []
    for name, value in settings.items():
        if others is not None and others.get(name) == value:
            continue
        words.append((name if value else f"no {name}") if isinstance(value, bool) else f"{name} {value}")
    return ", ".join(words)


def decode(result: Row) -> list[str]:
    """Fused scores to detections: microseconds and ratios by number of proposals."""
    columns = {
        "NMS": "{nms}",
        "proposals": "{proposals:.0f}",
        "C++, µs": "?{native_us:.0f}",
        "numba, µs": "?{numba_us:.0f}",
        "C++ over NumPy": "?{native_x_reference:.0f}x",
        "C++ over the naive implementation": "?{native_x_naive:.0f}x",
    }
    rows = result["rows"]
    lines = _table("Fused scores to detections, T 750, one thread:", columns, rows)
    if not any("native_us" in row for row in rows):
        numba = ", ".join(filter(None, (_cell("?{numba_x_reference:.0f}x", row) for row in rows)))
        lines += ["", f"The C++ decoder was not compiled there; numba over NumPy: {numba}."]
    cold = ", ".join(f"{row['backend']} {row['seconds']:.2f} s" for row in result.get("cold_start", []))
    return [*lines, "", f"Cold start, import to first result: {cold}."] if cold else lines


def evaluate(result: Row) -> list[str]:
    """mAP of real detections: milliseconds and ratio by evaluator."""
    columns = {
        "evaluator": "{evaluator}",
        "median, ms": "{milliseconds:.1f}",
        "fastest, ms": "{fastest_milliseconds:.1f}",
        "aicl_fast is faster by": "{aicl_fast_times_faster:.1f}x",
    }
    return _table("", columns, result["rows"])


def ablation(result: Row) -> list[str]:
    """An experiment's arms: mAP, agreement of the branches and accuracy of both, mean and deviation."""
    measures = {
        "average mAP": "average_mAP",
        "consistent segments": "consistent",
        "A_bin right": "accuracy_A_bin",
        "A_ca_bin right": "accuracy_A_ca_bin",
    }
    rows = [
        {"name": row["name"]}
        | {
            name: f"{100 * row['mean'][name]:.1f} ± {100 * row['spread'][name]:.1f}"
            for name in measures.values()
        }
        for row in result["rows"]
    ]
    columns = {"": "{name}"} | {heading: f"{{{name}}}" for heading, name in measures.items()}
    seeds = f"mean of {len(result['seeds'])} seeds ± their standard deviation"
    return _table(f"In percent, {result['steps']} steps, {seeds}:", columns, rows)


def train(result: Row) -> list[str]:
    """A training step: milliseconds and ratio by variant."""
    columns: dict[str, Cell] = {
        "": "{step}{mark}",
        "ms": _unless_failed("{p50_ms:.0f}", "not timed"),
        _SPEED: lambda row: "" if "failed" in row else _cell(_RATIO, row),
    }
    title = (
        f"A training step at batch {result['batch']}, T {result['segments']}, {result['threads']} threads:"
    )
    return _table(title, columns, result["rows"])


def video(result: Row) -> list[str]:
    """Segments of video per second, by stage, way and batch."""
    columns = {
        "stage": "{stage}",
        "way": "{way}{mark}",
        "batch": "{batch}",
        "segments per second": "{segments_per_second:.2f}",
        "times the first's speed": _RATIO,
    }
    lines = _table(
        f"Segments of 16 frames of 224 x 224, {result['threads']} threads:", columns, result["rows"], "ll"
    )
    shares = "decoding {decode_share:.0%}, flow by DIS {flow_share:.0%}, the two networks {network_share:.0%}"
    for row in result["rows"]:
        if "network_share" in row:
            lines += ["", f"Of the whole, {row['way']}: {_cell(shares, row)}."]
    return lines


def quantisation(result: Row) -> list[str]:
    """Quantisers: mAP and the largest error of any output, over draws of the calibration recordings."""
    draws = f"{result['seeds']} draws of {result['videos']} calibration recordings"
    columns: dict[str, Cell] = {
        "quantiser": "{quantiser}",
        "type": "{precision}",
        "mAP, mean": lambda row: f"{100 * np.mean(row['mAP']):.2f}",
        "lowest": lambda row: f"{100 * min(row['mAP']):.2f}",
        "largest error": lambda row: f"{max(row['largest_error'].values()):.3f}",
    }
    title = f"mAP in percent over {draws}; float32 has {100 * result['rows'][0]['fp32_mAP']:.2f}:"
    return _table(title, columns, result["rows"], "ll")


def long(result: Row) -> list[str]:
    """mAP of recordings joined end to end, in windows and without; mean over seeds and their deviation."""
    rows = []
    for (subject, joined), runs in _grouped(result["rows"], "subject", "joined").items():
        if "average_mAP" not in runs[0] or "gate" in runs[0]:
            continue
        by_window = {window: by for (window,), by in _grouped(runs, "window").items()}
        cells = {window: _spread(by_window.get(window, ())) for window in ("auto", "off")}
        length = float(np.mean([run["minutes"] for run in runs]))
        rows.append({"subject": subject, "joined": joined, "minutes": length, **cells})
    seeds = len({run["seed"] for run in result["rows"]})
    columns: dict[str, Cell] = {
        "": "{subject}, {joined}",
        "minutes": "{minutes:.1f}",
        "in windows": "{auto}",
        "sampled to T": "{off}",
    }
    title = f"Average mAP in percent of recordings joined end to end, mean and deviation of {seeds} seeds:"
    return _table(title, columns, rows)


def long_gates(result: Row) -> list[str]:
    """mAP of joined recordings by what their curves are multiplied by; mean over seeds and deviation."""
    gated = _grouped([row for row in result["rows"] if "gate" in row], "gate")
    rows = [{"gate": gate, "cell": _spread(runs)} for (gate,), runs in gated.items()]
    title = "Average mAP in percent by the class scores that the fused score is multiplied by:"
    return _table(title, {"class scores": "{gate}", "mAP": "{cell}"}, rows)


def predictors(result: Row) -> list[str]:
    """How well measures on recordings left out predict the mAP on test recordings."""
    number, held = len(result["trainings"]), result["held_out"]
    title = f"{number} trainings, measured on {held} training recordings that they left out:"
    columns: dict[str, Cell] = {
        "measure": "{name}",
        "rank correlation with the test mAP": "{rank_correlation:.2f}",
        "lost on test by choosing so, %": lambda row: f"{100 * row['lost']:.1f}",
    }
    return _table(title, columns, result["rows"])


def tune(result: Row) -> list[str]:
    """mAP on the test recordings before tuning and after, and what was expected of it."""
    cells = []
    for (name,), runs in _grouped(result["rows"], "name").items():
        tuned = [row for row in runs if row["draw"]]
        gain = 100 * np.mean([row["held_out"] - row["before"] for row in tuned])
        untuned = _spread([row for row in runs if not row["draw"]])
        cells.append({"name": name, "before": untuned, "after": _spread(tuned), "gain": f"{gain:+.1f}"})
    columns: dict[str, Cell] = {
        "": "{name}",
        "as trained": "{before}",
        "tuned": "{after}",
        "gain on recordings left out": "{gain}",
    }
    first = next(row for row in result["rows"] if row["draw"])
    seeds = len({row["seed"] for row in result["rows"] if row["seed"]})
    draws = len({row["draw"] for row in result["rows"] if row["draw"]})
    title = (
        f"Average mAP on the test recordings in percent, {seeds} seeds, {draws} draws of {first['videos']} "
        "recordings with times, mean and deviation:"
    )
    return _table(title, columns, cells)


def auto(result: Row) -> list[str]:
    """mAP on the test recordings of the model that was found, and of each candidate by itself."""
    rows = []
    for (name,), runs in _grouped(result["rows"], "name").items():
        tuned = [100 * row["tuned"] for row in runs if "tuned" in row]
        rows.append({
            "name": name,
            "mAP": _spread(runs),
            "tuned": f"{np.mean(tuned):.1f}" if tuned else "",
            "minutes": f"{sum(row['seconds'] for row in runs) / 60:.0f}" if not tuned else "",
        })  # fmt: skip
    title = "Average mAP on the test recordings in percent, and the minutes that the command took:"
    columns: dict[str, Cell] = {"": "{name}", "mAP": "{mAP}", "tuned": "{tuned}", "minutes": "{minutes}"}
    return _table(title, columns, rows)


def stream(result: Row) -> list[str]:
    """mAP and delay of streams against waiting, with retraction and without."""
    rows = [row for row in result["rows"] if "wait_s" in row and row["engine"] == "onnxruntime, range"]
    seconds = {
        wait: {bool(run["retract"]): run for run in runs}
        for (wait,), runs in _grouped(rows, "wait_s").items()
    }
    cells = [{"wait": wait, "kept": by[False], "freely": by[True]} for wait, by in sorted(seconds.items())]
    columns: dict[str, Cell] = {
        "wait, s": "{wait:g}",
        "mAP, %": "{kept[average_mAP]:.1%}",
        "announced after the end, s": "{kept[delay_s]:.1f}",
        "retract: mAP, %": "{freely[average_mAP]:.1%}",
        "announced after, s": "{freely[delay_s]:.1f}",
        "retracted": "{freely[share_retracted]:.0%}",
    }
    title = f"Average mAP of a stream of {result['segments']} segments; offline {result['offline_mAP']:.1%}:"
    return _table(title, columns, cells, "r")


def stream_cost(result: Row) -> list[str]:
    """Microseconds a segment by engine, and memory."""
    rows = [
        {**row, "name": row["engine"] + (", retract" if row["retract"] else "")}
        for row in result["rows"]
        if "clock_p50_us" in row
    ]
    columns: dict[str, Cell] = {
        "": "{name}",
        "p50, us": "{clock_p50_us:.0f}",
        "p99, us": "{clock_p99_us:.0f}",
        "mean, us": "{clock_mean_us:.0f}",
        "processor: p50, us": "{processor_p50_us:.0f}",
    }
    lines = _table("Microseconds a segment in one thread, decoding included:", columns, rows)
    for day in (row for row in result["rows"] if "pushed" in row):
        lines += [
            "",
            f"Memory of the process: {day['early_mb']:.1f} MiB early, {day['late_mb']:.1f} MiB after "
            f"{day['pushed']} segments; a saved state has {day['state_mb']:.2f} MiB.",
        ]
    return lines


def _spread(runs: Sequence[Row]) -> str:
    if not runs:
        return "–"
    values = 100 * np.array([run["average_mAP"] for run in runs])
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def proposals(result: Row) -> list[str]:
    """Raw proposals: average mAP by NMS mode, shortest proposal and weight of the density."""
    rows = []
    weights = sorted({row["density_weight"] for row in result["rows"]})
    for (nms, shortest), group in _grouped(result["rows"], "nms", "min_seconds").items():
        average = {row["density_weight"]: row["average_mAP"] for row in group}
        values = [100 * average[weight] for weight in weights]
        rows.append({"nms": nms, "min_seconds": shortest, "values": values})
    columns = {"`nms`": "`{nms}`", "`min_seconds`": "{min_seconds:g}"}
    columns |= {f"weight {weight:g}": f"{{values[{i}]:.1f}}" for i, weight in enumerate(weights)}
    title = f"Average mAP in percent of {result['proposals']} proposals, by `density_weight`:"
    return _table(title, columns, rows)


TABLES: Mapping[str, Callable[[Row], list[str]]] = {
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
    "long": long,
    "long-gates": long_gates,
    "proposals": proposals,
    "quantisation": quantisation,
    "stream": stream,
    "stream-cost": stream_cost,
    "sweep": sweep,
    "train": train,
    "tune": tune,
    "auto": auto,
    "predictors": predictors,
    "video": video,
}


def _table(title: str, columns: Mapping[str, Cell], rows: Sequence[Row], align: str = "l") -> list[str]:
    """Lines of Markdown, with a footnote where a row is marked.

    Args:
        align: ``l`` or ``r`` for each column; those that it leaves out are ``r``.
    """
    marks = ["---" if side == "l" else "---:" for side in align.ljust(len(columns), "r")]
    lines = [title, ""] if title else []
    lines += [f"| {' | '.join(map(str.strip, columns))} |".replace("|  |", "| |"), f"|{'|'.join(marks)}|"]
    for row in rows:
        lines.append(f"| {' | '.join(_cell(cell, row, head) for head, cell in columns.items())} |")
    if any("†" in line for line in lines):
        limits = f"under {_STEADY[0]:g} or over {_STEADY[1]:g} times"
        lines += ["", f"† In the last third of its turns it took {limits} what it took in the first."]
    return lines


def _by_batch(
    title: str,
    columns: Mapping[str, Cell],
    heading: str,
    cell: str,
    rows: Sequence[Row],
    keys: Sequence[str],
    more: Mapping[str, Cell] | None = None,
    align: str = "l",
) -> list[str]:
    """A table with one row for each value of ``keys`` and a column for each batch, headed ``heading``."""
    groups = []
    for own in _grouped(rows, *keys).values():
        group = dict(own[0])
        for row in own:
            group |= {f"batch{row['batch']}": row, f"cell{row['batch']}": _cell(cell, row)}
        groups.append(group)
    batches = {heading.format(batch): f"?{{cell{batch}}}" for batch in sorted({row["batch"] for row in rows})}
    return _table(title, {**columns, **batches, **(more or {})}, groups, align)


def _grouped(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in keys), []).append(row)
    return groups


def _cell(cell: Cell, row: Row, heading: str = "") -> str:
    if not isinstance(cell, str):
        return cell(row)
    try:
        text = cell.removeprefix("?").format_map({**row, "mark": _mark(row)})
    except (KeyError, TypeError):  # a field is missing, or None
        if cell.startswith("?"):
            return ""
        raise
    return re.sub(r"(?<=\d)%", "" if heading.endswith("%") else " %", text)


def _unless_failed(cell: Cell, what: str = "failed") -> Cell:
    return lambda row: f"{what}: {_cell('{failed}', row)}" if "failed" in row else _cell(cell, row)


def _tail(row: Row) -> str:
    """The 99th percentile, where there were turns enough for one."""
    return f"{row['p99_ms']:.1f}" if "p99_ms" in row and row.get("turns", _FEW_TURNS) >= _FEW_TURNS else ""


def _mark(row: Row) -> str:
    """A dagger, where the machine was not the same from the first third of the turns to the last."""
    return "" if _STEADY[0] <= row.get("drift", 1.0) <= _STEADY[1] else " †"
