"""Whatever is written holds no path of this machine, and neither its name nor the user's."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import platform, socket, sys
from pathlib import Path
socket.gethostname = platform.node = lambda: "hostqzx"
from aicl_fast.cli.app import app
data, model, out = map(Path, sys.argv[1:])
def run(*words):
    app([str(word) for word in words], standalone_mode=False)
run("export", model, "-o", out / "m.onnx")
run("export", model, "-o", out / "half.onnx", "--precision", "fp16")
run("export", model, "-o", out / "int8.onnx", "--precision", "int8", "--calibrate", data)
run("export", model, "-o", out / "server", "--format", "triton-repository")
try:
    import openvino
except ImportError:
    pass
else:
    run("export", model, "-o", out / "m.openvino")
options = "segments=32 rgb_width=6 flow_width=5 embedding_width=8 steps=2 eval_every=2 warmup_steps=1"
options = [word for each in options.split() for word in ("-s", each)]
run("train", "-p", "demo", "-d", data, "-o", out / "run", *options)
run("detect", out / "m.onnx", data, "-o", out / "detections.json", "--scores", out / "scores.npz")
truth = data / "gt.json"
found = out / "detections.json"
run("evaluate", truth, found, "--subset", "test", "-o", out / "metrics.json", "--detad", out / "e.png")
run("plot", out, "-o", out / "timeline.svg")
"""


def contents(path: Path) -> list[bytes]:
    """A file's bytes, those of what is packed in it, and its name."""
    found = [path.name.encode(), path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found += [archive.read(name) for name in archive.namelist()]
    if found[1].startswith(b"\x89PNG"):
        at = 8
        while at < len(found[1]):
            size, kind = int.from_bytes(found[1][at : at + 4], "big"), found[1][at + 4 : at + 8]
            value = found[1][at + 8 : at + 8 + size]
            if kind == b"zTXt":
                found.append(zlib.decompress(value.split(b"\0", 1)[1][1:]))
            at += size + 12
    return found


@pytest.mark.slow
def test_nothing_of_this_machine_is_written(tiny_dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "outqzx"
    out.mkdir()
    names = {"HOME": tmp_path / "homeqzx", "TMPDIR": tmp_path / "tempqzx"}
    for folder in names.values():
        folder.mkdir()
    environment = {
        **os.environ,
        **{name: str(folder) for name, folder in names.items()},
        "USER": "userqzx",
        "LOGNAME": "userqzx",
    }
    command = [sys.executable, "-c", SCRIPT, tiny_dataset, tiny_model, out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=out)
    assert done.returncode == 0, done.stdout + done.stderr
    words = [
        b"qzx",
        str(ROOT).encode(),
        sys.prefix.encode(),
        b"site-packages",
        str(tmp_path).encode(),
        str(tiny_dataset).encode(),
    ]
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {".onnx", ".json", ".csv", ".safetensors", ".npz", ".pbtxt"} <= {path.suffix for path in files}
    told = [
        (str(path.relative_to(out)), word)
        for path in files
        for word in words
        for text in contents(path)
        if word in text
    ]
    assert told == []
