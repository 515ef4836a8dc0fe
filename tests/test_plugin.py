"""Another package adds one of everything, a file for each, and uses it end to end (docs/adding.md)."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.config import Config

PLUGIN = Path(__file__).with_name("plugin")
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, fork_python: Callable[..., Any]) -> Run:
    """``run("detect", …)``: a command, or ``run(code)``: Python, where the package is installed."""

    def call(*arguments: object) -> str:
        command = (
            ["-c", str(arguments[0])] if len(arguments) == 1 else ["-m", "aicl_fast", *map(str, arguments)]
        )
        path = os.pathsep.join(filter(None, (str(PLUGIN), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        done = fork_python(*command, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_a_format_an_engine_a_writer_and_a_command(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "clip.npy", rng.random((40, 11), dtype=np.float32))
    run("export", tiny_model, "--format", "toy", "-o", "model.toy")
    for model, out in (("model.toy", "toy.json"), (tiny_model.with_suffix(".onnx"), "onnx.json")):
        run("detect", model, "clip.npy", "-o", out)
    toy, onnx = (
        json.loads((tmp_path / name).read_text())["results"]["clip"] for name in ("toy.json", "onnx.json")
    )
    assert [each["label"] for each in toy] == [each["label"] for each in onnx]
    assert [each["score"] for each in toy] == pytest.approx([each["score"] for each in onnx], abs=1e-5)
    run("detect", "model.toy", "clip.npy", "--engine", "toy", "-o", "counts.toy")
    assert (tmp_path / "counts.toy").read_text() == f"clip: {len(toy)}\n"
    assert run("toy", "toy.json") == f"{len(toy)}\n"
    assert "toy" in run("--help", "--help")


def test_a_reader_of_labels(run: Run, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a: Jump from 1 to 2.5\nb: Run from 0 to 3\n")
    run("annotations", "labels.txt", "-o", "data")
    database = json.loads((tmp_path / "data" / "gt.json").read_text())["database"]
    assert {name: video["annotations"] for name, video in database.items()} == {
        "a": [{"label": "Jump", "segment": [1.0, 2.5]}],
        "b": [{"label": "Run", "segment": [0.0, 3.0]}],
    }


def test_an_nms_mode(run: Run) -> None:
    code = """
import numpy as np
import aicl_toy.nms
from aicl_fast import load_config, postprocess
rng = np.random.default_rng(0)
config = load_config("thumos14", overrides=["nms=toy", "class_threshold=0.04"])
found = postprocess(rng.normal(size=(90, 20)), rng.random(90), rng.random(90), num_segments=90, preset=config)
print(len(found), len(set(found.labels.tolist())))
"""
    detections, classes = map(int, run(code).split())
    assert detections == classes > 1


def test_a_loss_term(
    run: Run, tmp_path: Path, tiny_config: Config, make_tiny_dataset: Callable[[Path, Config], Path]
) -> None:
    pytest.importorskip("torch")
    make_tiny_dataset(tmp_path / "data", tiny_config)
    values = {name: value for name, value in tiny_config.to_dict().items() if name != "preset"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    code = """
import json
import aicl_toy.loss
from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.train.trainer import train
train(Dataset.open("data", Config.from_dict(json.load(open("config.json")))), "run")
"""
    run(code)
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    others = [float(row[f"loss_{name}"]) for name in ("action", "agnostic_rgb", "agnostic_flow")]
    assert 0 < float(row["loss_toy"]) < 1
    assert float(row["loss_total"]) > sum(others)


def test_a_kernel(run: Run) -> None:
    pytest.importorskip("triton")
    code = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
import aicl_toy.kernel
from aicl_fast.kernels import cases
from aicl_fast.kernels.harness import build, expected
(spec,) = cases.specs("test", "toy")
case = build(spec)
inputs = case.make(torch.Generator().manual_seed(0))
print(torch.allclose(case.kernels(inputs)[0].double(), expected(case, inputs)[0]), spec.name)
"""
    assert run(code) == "True B 3 T 50 float32\n"
