"""The C++ in docs/export.md: compiled, linked with the decoder, and run in the place of a GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.config import load_config
from aicl_fast.decode.decoder import Decoder
from aicl_fast.engines.container import write_container
from aicl_fast.metadata import ModelInfo

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(__file__).parent / "standin"
NATIVE = ROOT / "kernels" / "native"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next(filter(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```cpp\n(.*?)```", text, re.DOTALL)
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "snippet.cpp").write_text(snippet, encoding="utf-8")
    built = folder / "localise"
    sources = [STANDIN / "main.cpp", NATIVE / "aicl_decode.cpp", NATIVE / "decode.cpp"]
    options = [
        '-DAICL_FAST_VERSION="0"',
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror=return-type",
        "-pthread",
    ]
    includes = [f"-I{folder}", f"-I{STANDIN}", f"-I{NATIVE}"]
    command = [compiler, *options, *includes, *map(str, sources), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "snippet.cpp" not in done.stderr, done.stderr  # no warning of it either
    return built


@pytest.mark.parametrize(
    ("preset", "decoding"),
    [
        ("thumos14", {}),
        ("thumos14", {"nms": "hard", "nms_across_classes": True, "max_detections": 50, "upscale": 3}),
        ("demo", {"thresholds": [0.15, 0.4, 0.55], "video_score_weight": 0.5, "nms_sigma": 0.7}),
        ("own", {"merge_gap": 1.0, "min_seconds": 2.0, "density_weight": 0.5}),
    ],
    ids=["thumos14", "hard", "demo", "options"],
)
def test_the_example_finds_what_python_finds(
    program: Path, tmp_path: Path, preset: str, decoding: dict[str, object]
) -> None:
    config = load_config(preset).with_values({f"decode.{name}": value for name, value in decoding.items()})
    classes, length = config.model.num_classes, config.data.segments
    if not config.classes:
        config = config.with_classes([f"class {number}" for number in range(classes)])
    rng = np.random.default_rng(0)
    curves = np.cumsum(rng.normal(0, 0.05, (length, classes)), 0, dtype=np.float64)
    scores = (1 / (1 + np.exp(-curves))).astype(np.float32)
    video = rng.dirichlet(np.full(classes, 0.2)).astype(np.float32)
    # What the stand-in runs: classes, scores, video scores, and the features' first value.
    plan = np.concatenate([[classes], scores.ravel(), video, [0.25]]).astype(np.float32)
    path = tmp_path / "m.engine"
    write_container(path, "tensorrt-rtx", ModelInfo(config, weights="x"), {}, {"plan": plan.tobytes()})
    if not decoding:  # a file of 0.1.0 does not name the options
        path.write_bytes(path.read_bytes().replace(b'"density_weight"', b'"another_weight"'))
    lengths = (900, 333)
    done = subprocess.run([program, path, *map(str, lengths)], capture_output=True, text=True, check=True)
    for n, lines in zip(lengths, done.stdout.rstrip("\n").split("\n\n"), strict=True):
        found = np.array([line.split() for line in lines.split("\n")], np.float64)
        decoder = Decoder(config.decode, config.classes)
        wanted = decoder.decode(scores, video, n, config.data.fps, config.data.frames_per_segment)
        assert len(found) == len(wanted) > 0
        names = np.array(config.classes)[found[:, 0].astype(int)]
        np.testing.assert_array_equal(names, wanted.labels)
        np.testing.assert_allclose(found[:, 1], wanted.scores, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(found[:, 2:], wanted.segments)
