"""What localising costs, features to detections, against the textbook pipeline.

    python -m aicl_fast.bench.detect --json bench/results/detect-cpu.json
    python -m aicl_fast.bench.detect --model runs/demo/model.onnx

Without a model, one of THUMOS14's size (T 750, 2 x 1024 features, 20 classes) with random weights is exported
to a temporary folder: its speed is that of a trained one but for the number of detections, which rows state.
Cold start is a fresh process, from its first import to its first detections.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aicl_fast import Detector
from aicl_fast.bench.measure import take_turns
from aicl_fast.bench.record import write_result
from aicl_fast.bench.textbook_detect import TextbookDetector
from aicl_fast.config import load_config
from aicl_fast.errors import AiclError, ModelError, UnavailableError
from aicl_fast.features import Array
from aicl_fast.model import TwoBranchNet
from aicl_fast.weights import load_model, save_model

BASELINE = "textbook"
EXACT = "ONNX Runtime, fp32"
_COLD = """
import sys, time
start = time.perf_counter()
import numpy
from aicl_fast import Detector
imported = time.perf_counter()
detector = Detector(sys.argv[1])
data = detector.config.data
rgb = numpy.ones((900, data.rgb_width), "float32")
flow = numpy.ones((900, data.flow_width), "float32")
loaded = time.perf_counter()
detector(rgb, flow)
first = time.perf_counter()
print(imported - start, loaded - imported, first - loaded)
"""


def thumos_model(folder: Path) -> Path:
    """Export a model of THUMOS14's size with random weights; its weights lie beside it."""
    from aicl_fast.export.onnx import export_onnx

    config = load_config("thumos14")
    torch.manual_seed(0)
    net = TwoBranchNet(config)
    save_model(folder / "model.safetensors", net, config)
    export_onnx(net, config, folder / "model.onnx")
    return folder / "model.onnx"


def open_detectors(model: Path, threads: int) -> dict[str, Detector]:
    """Every engine and precision that this processor runs the file in, by name."""
    found = {EXACT: Detector(model, threads=threads)}
    for precision in ("fp32", "bf16"):
        try:
            found[f"OpenVINO, {precision}"] = Detector(
                model, engine="openvino", precision=precision, threads=threads
            )
        except (UnavailableError, ModelError) as error:
            sys.stderr.write(f"OpenVINO, {precision}: left out ({error})\n")
    return found


def measure_warm(model: Path, segments: int, threads: int, seconds: float) -> list[dict[str, Any]]:
    """One recording at a time, by every contender, over recordings larger than the caches."""
    net, config = load_model(model.with_suffix(".safetensors"))
    rng = np.random.default_rng(0)
    data = config.data
    recordings = [
        tuple(rng.random((segments, width), dtype=np.float32) for width in (data.rgb_width, data.flow_width))
        for _ in range(16)
    ]
    textbook = TextbookDetector(net, config)
    detectors = open_detectors(model, threads)
    expected, found = textbook(*recordings[0])[1], detectors[EXACT](*recordings[0])
    if len(found) != len(expected) or np.abs(found.scores - expected[:, 2]).max(initial=0) > 1e-4:
        raise AiclError("the two pipelines' detections differ, so their times mean nothing")

    def turn(call: Callable[[Array, Array], object]) -> Callable[[], object]:
        numbers = iter(range(sys.maxsize))
        return lambda: call(*recordings[next(numbers) % len(recordings)])

    rows = []
    contenders = {BASELINE: turn(textbook), **{name: turn(each) for name, each in detectors.items()}}
    for name, timing in take_turns(contenders, BASELINE, seconds=seconds).items():
        row = {"pipeline": name, **timing.row(), "videos_per_second": 1 / timing.median}
        rows.append({**row, "detections": len(found)})
    return rows


def measure_cold(model: Path, rounds: int) -> dict[str, float]:
    """Medians over fresh processes: import, loading the model, the first call; and the whole command."""
    parts, commands = [], []
    rng = np.random.default_rng(0)
    data = load_model(model.with_suffix(".safetensors"))[1].data
    with tempfile.TemporaryDirectory() as name:
        files = []
        for stream, width in (("rgb", data.rgb_width), ("flow", data.flow_width)):
            np.save(f"{name}/{stream}.npy", rng.random((900, width), dtype=np.float32))
            files += [f"--{stream}", f"{name}/{stream}.npy"]
        program = str(Path(sys.executable).with_name("aicl-fast"))
        for _ in range(rounds + 1):
            # The folder of a checkout would shadow the installed package.
            printed = subprocess.run(
                [sys.executable, "-c", _COLD, str(model)],
                check=True,
                capture_output=True,
                text=True,
                cwd=name,
            ).stdout
            parts.append([1e3 * float(word) for word in printed.split()])
            start = time.perf_counter()
            subprocess.run([program, "detect", str(model), *files], check=True, capture_output=True, cwd=name)
            commands.append(1e3 * (time.perf_counter() - start))
    imported, loaded, first = (statistics.median(column) for column in zip(*parts[1:], strict=True))
    return {
        "import_ms": imported,
        "load_ms": loaded,
        "first_call_ms": first,
        "detect_command_ms": statistics.median(commands[1:]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, and record where ``--json`` says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="an .onnx with its .safetensors beside it")
    parser.add_argument("--segments", type=int, default=900, help="of a recording, before sampling to T")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=7, help="of the cold start")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = (options.model or thumos_model(Path(folder))).resolve()
        rows = measure_warm(model, options.segments, options.threads, options.seconds)
        cold = measure_cold(model, options.rounds)
    for row in rows:
        low, high = row["times_faster_interval"]
        print(
            f"{row['pipeline']:26} p50 {row['p50_ms']:8.2f} ms   p99 {row['p99_ms']:8.2f} ms   "
            f"{row['times_faster']:5.2f}x  ({low:.2f} to {high:.2f})"
        )
    print("cold: " + ", ".join(f"{name} {value:.0f}" for name, value in cold.items()))
    if options.json is not None:
        sizes = {"segments": options.segments, "threads": options.threads, "cold": cold}
        write_result(options.json, "detect", rows, model="thumos14 size, random weights", **sizes)


if __name__ == "__main__":
    main()
