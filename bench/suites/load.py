"""Start-up: what a fresh process takes to import, to open a model, to its first detections; and its memory.

    python -m aicl_fast.bench load --json load.json

Every program is started once a round, in random order, beside the reference's script, and timed from
its start to its end; what it prints tells its parts. Peak memory is the most that was resident. Files are in
the system's cache: the first round is not counted.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aicl_fast.bench.harness import suite
from aicl_fast.bench.harness.measure import Timing
from aicl_fast.bench.harness.models import Subject, given_subject, subject
from aicl_fast.detector import Detector
from aicl_fast.errors import AiclError
from aicl_fast.export.export import export_model
from aicl_fast.export.options import ExportOptions

BASELINE = "reference script"
COMMAND = "aicl-fast detect"
IMPORT = "import aicl_fast"

_IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
_REFERENCE = """
import json, sys, time
start = time.perf_counter()
import numpy as np
import torch
from aicl_fast.bench.baselines.detect import ReferenceDetector
from aicl_fast.weights import load_model
imported = time.perf_counter()
torch.set_num_threads(int(sys.argv[4]))
detector = ReferenceDetector(*load_model(sys.argv[1]))
rgb, flow = np.load(sys.argv[2]), np.load(sys.argv[3])
opened = time.perf_counter()
labels, boxes = detector(rgb, flow)
first = time.perf_counter()
with open("reference.json", "w") as file:
    json.dump([[int(label), *box] for label, box in zip(labels, boxes.tolist())], file)
print(imported - start, opened - imported, first - opened)
"""
_DETECTOR = """
import sys, time
start = time.perf_counter()
import numpy as np
from aicl_fast import Detector
imported = time.perf_counter()
detector = Detector(sys.argv[1], threads=int(sys.argv[4]))
rgb, flow = np.load(sys.argv[2]), np.load(sys.argv[3])
opened = time.perf_counter()
detector(rgb, flow)
print(imported - start, opened - imported, time.perf_counter() - opened)
"""
# A process is charged with the memory of the one that it was forked from, so a small one starts them all.
_LAUNCHER = """
import json, os, subprocess, sys, time
for line in sys.stdin:
    command = json.loads(line)
    with open("said.txt", "w+b") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        status, usage = os.wait4(process.pid, 0)[1:]
        taken = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    print(json.dumps([process.returncode, taken, usage.ru_maxrss, lines[-1] if lines else ""]), flush=True)
"""
_NAMES = {"onnx": "Detector, ONNX Runtime", "openvino": "Detector, OpenVINO", "engine": "Detector, TensorRT"}
_PARTS = ("import_ms", "open_ms", "first_ms")


def programs(what: Subject, threads: int, folder: Path) -> dict[str, list[str]]:
    """Command lines by name; what is not installed is not among them."""
    data = []
    for stream, array in zip(("rgb", "flow"), what.recordings[0], strict=True):
        path = folder / f"{stream}.npy"
        np.save(path, array)
        data.append(str(path))
    python = [sys.executable, "-c"]
    weights = str(what.weights.resolve())
    found = {
        "import numpy": [*python, _IMPORT.format("numpy")],
        IMPORT: [*python, _IMPORT.format("aicl_fast")],
        BASELINE: [*python, _REFERENCE, weights, *data, str(threads)],
    }
    exports = {format_: folder / f"load.{format_}" for format_ in ("onnx", "openvino")}
    if what.exported is not None:
        path, _ = what.exported
        exports = {path.suffix.removeprefix("."): path}
    for format_, path in exports.items():
        name = _NAMES.get(format_, f"Detector, {format_}")
        try:
            if what.exported is None:
                export_model(what.weights, path, ExportOptions(format_))
            # It opens here, or it would fail there.
            with Detector(path, threads=threads):
                found[name] = [*python, _DETECTOR, str(path), *data, str(threads)]
        except Exception as error:  # of an exporter's or engine's own libraries, too
            print(f"{name}: skipped, {(str(error).splitlines() or [''])[0]}", file=sys.stderr)
    program = Path(sys.executable).with_name("aicl-fast")
    if program.is_file() and _NAMES["onnx"] in found:
        options = ["--rgb", data[0], "--flow", data[1], "--threads", str(threads)]
        found[COMMAND] = [str(program), "detect", str(exports["onnx"]), *options]
    return found


def measure(
    what: Subject,
    rounds: int,
    threads: int,
    folder: Path,
    keep: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Medians over fresh processes.

    Args:
        what: the model.
        rounds: that are counted; one more goes before them.
        threads: of each program.
        folder: for the files.
        keep: is given the rows after every round that counts.
    Raises:
        AiclError: a program failed; with the last line that it wrote.
    """
    commands = programs(what, threads, folder)
    names = list(commands)
    runs: dict[str, list[tuple[float, float, list[float]]]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    # The folder of a checkout would shadow the installed package.
    launcher = [sys.executable, "-I", "-c", _LAUNCHER]
    with subprocess.Popen(
        launcher, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        for done in range(rounds + 1):
            for number in rng.permutation(len(names)):
                runs[names[number]].append(_run(names[number], commands[names[number]], process))
            if done:
                keep(_medians(runs))
        assert process.stdin is not None
        process.stdin.close()
    return _medians(runs)


def _medians(runs: Mapping[str, Sequence[tuple[float, float, list[float]]]]) -> list[dict[str, Any]]:
    rows = []
    baseline = [each[0] for each in runs[BASELINE][1:]]
    for name, found in runs.items():
        seconds, memory, parts = zip(*found[1:], strict=True)
        row: dict[str, Any] = {"program": name, **Timing(seconds, baseline).row()}
        row["peak_mb"] = statistics.median(memory)
        columns = [1e3 * statistics.median(column) for column in zip(*parts, strict=True)]
        rows.append(row | dict(zip(_PARTS, columns, strict=False)))
    return rows


def _run(
    name: str, command: Sequence[str], launcher: subprocess.Popen[str]
) -> tuple[float, float, list[float]]:
    """Seconds, MiB at most, and the parts that the program printed."""
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    print(json.dumps(command), file=launcher.stdin, flush=True)
    code, seconds, memory, said = json.loads(launcher.stdout.readline())
    if code:
        raise AiclError(f"{name} failed: {said or f'exit status {code}'}")
    unit = 1 if sys.platform == "darwin" else 1024
    parts = said.split() if command[1] == "-c" else []
    return seconds, memory * unit / (1 << 20), [float(word) for word in parts]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, and record where ``--json`` says."""
    parser = suite.parser(__doc__, model=None, weights=None, rounds=7, threads=torch.get_num_threads())
    options = parser.parse_args(arguments)
    what = (
        subject("thumos14")
        if options.model is None
        else given_subject(options.model.resolve(), weights=options.weights)
    )

    def keep(rows: list[dict[str, Any]]) -> None:
        suite.record(options.json, "load", rows, threads=options.threads, subject=what.name)

    with tempfile.TemporaryDirectory() as folder:
        rows = measure(what, options.rounds, options.threads, Path(folder), keep)
    suite.show("load", rows)
