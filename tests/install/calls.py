"""Every command's usual first call, with the smallest input that it takes, and the extra that it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
DATA = "data"
"""What the fixture ``inputs`` makes: a data set, models, a clip, weights of I3D, a run."""
TRUTH = (f"{DATA}/gt.json", f"{DATA}/detections.json")


def _set(*settings: str) -> tuple[str, ...]:
    return tuple(part for setting in settings for part in ("--set", setting))


TINY = ("-p", "demo", *_set("segments=32", "rgb_width=6", "flow_width=5", "embedding_width=8", "steps=2"))
TINY += _set("batch_size=4", "warmup_steps=1", "ramp_steps=0")


TORCH = ("torch", "safetensors")
VIDEO = ("av", "opencv-contrib-python-headless", *TORCH)
TRAIN = (*TORCH, "tensorboard")
EXPORT = (*TORCH, "onnx", "onnxscript")


class Call(NamedTuple):
    """A command, and the packages without which it cannot work: those that a base installation has not."""

    arguments: tuple[str, ...]
    packages: tuple[str, ...] = ()


CALLS: Mapping[str, Call] = {
    "version": Call(("--version",)),
    "info": Call(("info",)),
    "info preset": Call(("info", "--preset", "thumos14")),
    "info onnx": Call(("info", f"{DATA}/model.onnx")),
    "info weights": Call(("info", f"{DATA}/model.safetensors")),
    "annotations": Call(("annotations", f"{DATA}/labels.csv", "-o", "annotated")),
    "synthetic": Call(("synthetic", "made", *_set("train_videos=4", "test_videos=3", "width=8"))),
    "detect": Call(("detect", f"{DATA}/model.onnx", DATA, "-o", "found.json", "--scores", "found.npz")),
    "detect by weights": Call(("detect", f"{DATA}/model.safetensors", DATA, "-o", "b.json"), ("torch",)),
    "detect by openvino": Call(
        ("detect", f"{DATA}/model.onnx", DATA, "-o", "c.json", "--engine", "openvino"), ("openvino",)
    ),
    "detect an openvino file": Call(
        ("detect", f"{DATA}/model.openvino", DATA, "-o", "d.json"), ("openvino",)
    ),
    "evaluate": Call(("evaluate", *TRUTH, "--subset", "test")),
    "evaluate --detad": Call(("evaluate", *TRUTH, "--subset", "test", "--detad", "e.png"), ("matplotlib",)),
    "compare": Call(("compare", DATA, DATA, "--gt", TRUTH[0], "--subset", "test")),
    "plot": Call(("plot", DATA, "--video", "test_1", "--gt", TRUTH[0], "-o", "one.svg"), ("matplotlib",)),
    "report": Call(("report", DATA, "--gt", TRUTH[0], "--subset", "test", "-o", "page.html")),
    "train": Call(("train", *TINY, "-d", DATA, "-o", "trained"), TRAIN),
    "tune": Call(
        ("tune", f"{DATA}/model.onnx", "-d", f"{DATA}/timed", "--trials", "3", "--folds", "2", "--dry-run"),
        ("optuna",),
    ),
    "auto": Call(
        ("auto", f"{DATA}/many", *TINY, *_set("flow_width=6"), "-o", "best", "--minutes", "0.0001"),
        (*TRAIN, "optuna", "matplotlib"),
    ),
    "ensemble": Call(("ensemble", *[f"{DATA}/model.safetensors"] * 2, "-o", "e.safetensors"), TORCH),
    "ablate": Call(
        ("ablate", "consistency", *TINY, "-d", DATA, "-o", "ablated", "--seeds", "1"), (*TRAIN, "matplotlib")
    ),
    "import-checkpoint": Call(("import-checkpoint", f"{DATA}/authors.pkl", "authors.safetensors"), TORCH),
    "export": Call(
        ("export", f"{DATA}/model.safetensors", "-o", "e.onnx", "--convolution", "direct"), EXPORT
    ),
    "export openvino": Call(
        ("export", f"{DATA}/model.safetensors", "--format", "openvino", "-o", "e.openvino"),
        (*EXPORT, "openvino"),
    ),
    "parity": Call(("parity", f"{DATA}/model.onnx", f"{DATA}/model.onnx")),
    "features": Call(
        ("features", f"{DATA}/clip.mp4", "-o", "features", "--rgb-weights", f"{DATA}/i3d.safetensors"), VIDEO
    ),
    "watch": Call(
        (
            *("watch", f"{DATA}/clip.mp4", "--model", f"{DATA}/wide.safetensors", "--idle", "0.1"),
            *("--rgb-weights", f"{DATA}/i3d.safetensors", "-o", "events.jsonl"),
        ),
        VIDEO,
    ),
    "bench evaluate": Call(("bench", "evaluate", *TRUTH, "--rounds", "1"), ("torch",)),
}


def run_calls(
    python: Path, folder: Path, inputs: Path, names: list[str], *, before: tuple[str, ...] = (), **more: str
) -> dict[str, tuple[int, str]]:
    """Exit status and output of each call, in an installation.

    Args:
        python: its interpreter.
        folder: where it runs; it is made.
        inputs: from the fixture of this name.
        names: of :data:`CALLS`.
        before: a command that starts the interpreter.
        more: environment variables.
    """
    shutil.copytree(inputs, folder / DATA)
    (folder / "commands.json").write_text(json.dumps({name: CALLS[name].arguments for name in names}))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "AICL_"))}
    environment = {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "300", **more}
    subprocess.run(
        [*before, str(python), str(HERE / "runner.py"), "commands.json"],
        cwd=folder,
        env=environment,
        check=True,
    )
    done: dict[str, tuple[int, str]] = json.loads((folder / "commands.json").read_text())
    return done
