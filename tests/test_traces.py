"""Whatever is written holds no path of this machine, and neither its name nor the user's."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import json, os, platform, socket, sys
from pathlib import Path
socket.gethostname = platform.node = socket.getfqdn = lambda *_: "hostqzx"
if hasattr(os, "uname"):
    names = os.uname()
    os.uname = lambda: os.uname_result((names.sysname, "hostqzx", *names[2:]))
import torch
from aicl_fast.cli import COMMANDS
from aicl_fast.cli.group import build
from aicl_fast.export import export
from aicl_fast.export.onnx import save_onnx, set_metadata, traced
from aicl_fast.metadata import SegmentInfo
data, model, out = map(Path, sys.argv[1:])
def run(*words):
    build(COMMANDS)([str(word) for word in words], standalone_mode=False)

# Models. The same graph is traced once.
graphs, trace = {}, export.build_onnx
def build_once(net, info, **options):
    import onnx
    key = (info.to_json(), *sorted(options.items()))
    if key not in graphs:
        graphs[key] = trace(net, info, **options).SerializeToString()
    return onnx.load_from_string(graphs[key])
export.build_onnx = build_once
run("export", model, "-o", out / "m.onnx", "--convolution", "direct")
run("export", model, "-o", out / "brain.onnx", "--precision", "bf16")
for precision in ("int8", "fp8"):
    run("export", model, "-o", out / f"{precision}.onnx", "--precision", precision, "--calibrate", data)
run("export", model, "-o", out / "server", "--format", "triton-repository")
try:
    import openvino
except ImportError:
    pass
else:
    run("export", model, "-o", out / "m.openvino")
small = traced(torch.nn.Conv3d(3, 4, 3).eval(), torch.zeros(2, 3, 4, 8, 8), "clips", ["x"], {}, opset=18)
set_metadata(small, SegmentInfo("rgb", 64 * "0"))
save_onnx(small, out / "i3d.onnx")

# Data sets.
from aicl_fast.train import watch
watch.STREAMS = {"train": 1, "test": 1}
try:
    import seglearn
except ImportError:
    pass
else:
    watch.prepare_watch(out / "watch")
sizes = ["train_videos=2", "test_videos=1", "width=4", "longest=40"]
run("synthetic", out / "synthetic", *[word for each in sizes for word in ("-s", each)])
table = out.parent / "labels.csv"
table.write_text("video,label,start,end\\na,Run,1,2\\nb,Run,1,2\\nc,Run,1,2\\n")
run("annotations", table, "-o", out / "annotated")

# A run and what is made of it.
options = "segments=32 rgb_width=6 flow_width=5 embedding_width=8 steps=2 eval_every=2 warmup_steps=1"
options = [word for each in options.split() for word in ("-s", each)]
run("train", "-p", "demo", "-d", data, "-o", out / "run", *options)
run("ablate", "accuracy", "-p", "demo", "-d", data, "-o", out / "ablation", "--seeds", 1, *options)
run("detect", out / "m.onnx", data, "-o", out / "detections.json", "--scores", out / "scores.npz")
truth = data / "gt.json"
found = out / "detections.json"
run("evaluate", truth, found, "--subset", "test", "-o", out / "metrics.json", "--detad", out / "e.png")
for kind in ("png", "svg", "pdf"):
    run("plot", out, "--gt", truth, "-o", out / f"timeline.{kind}")
(out / "media").mkdir()
(out / "media" / "test_0.mp4").write_bytes(b"seen")
run("report", out, "--gt", truth, "-p", "demo", "-o", out / "page.html", "--media", out / "media")

# Measurements.
from aicl_fast.bench.harness.record import write_result
sys.argv = [str(out / "decode.py"), "--json", str(out / "decode.json"), f"--data={data.parent / 'x'}"]
write_result(out / "decode.json", "decode", [{"a": 1}])

# Videos.
try:
    import av, cv2
except ImportError:
    sys.exit()
import numpy as np
from aicl_fast import video
class Network:
    frames, size, precision, name, weights_hash = 16, 224, "fp32", "fake", 64 * "0"
    def __init__(self, stream):
        self.stream, self.width = stream, 6 if stream == "rgb" else 5
        self.name = f"fake-{stream}"
    def __call__(self, clips):
        return np.repeat(clips.mean((1, 2, 3))[:, :1], self.width, axis=1).astype(np.float32)
video.open_network = lambda path, **options: Network(options["stream"])
clip = out.parent / "clipsqzx" / "clip.mp4"
weights = ("--rgb-weights", clip.parent / "rgb.pt", "--flow-weights", clip.parent / "flow.pt")
writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 48))
for number in range(50):
    writer.write(np.full((48, 64, 3), 4 * number, np.uint8))
writer.release()
run("features", clip, "-o", out / "features", *weights, "--flow-algorithm", "dis")
seen = ("--render", out / "seen.mp4", "-o", out / "seen.json")
run("detect", out / "m.onnx", clip, *weights, "--flow-algorithm", "dis", *seen)
"""


def contents(data: bytes) -> Iterator[bytes]:
    """Bytes, and those of what is packed in them: archives, compressed text and streams, embedded files."""
    yield data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from contents(archive.read(name))
    if data.startswith(b"\x1f\x8b"):
        yield from contents(gzip.decompress(data))
    if data.startswith(b"\x89PNG"):
        at = 8
        while at < len(data):
            size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
            value = data[at + 8 : at + 8 + size]
            if kind == b"zTXt":
                yield zlib.decompress(value.split(b"\0", 1)[1][1:])
            elif kind == b"iTXt" and value.split(b"\0", 1)[1][:1] == b"\1":
                yield zlib.decompress(value.split(b"\0", 1)[1][2:].split(b"\0", 2)[2])
            at += size + 12
    if data.startswith(b"%PDF"):
        for stream in re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL):
            with contextlib.suppress(zlib.error):
                yield zlib.decompressobj().decompress(stream)
    for text in re.findall(rb"base64,([A-Za-z0-9+/=]{8,})", data):
        yield from contents(base64.b64decode(text))


def told(data: bytes, words: Iterable[bytes]) -> list[bytes]:
    """Those of the words that are in the bytes or in what is packed in them."""
    found = list(contents(data))
    both = {word: (word, word.decode().encode("utf-16-le")) for word in words}
    return [word for word, forms in both.items() if any(form in text for form in forms for text in found)]


def test_what_is_packed_is_looked_into() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", "a secret")
    packed = zlib.compress(b"a secret")

    def chunk(kind: bytes, value: bytes) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + len(value).to_bytes(4, "big") + kind + value + b"crc."

    for data in (
        b"a secret",
        "a secret".encode("utf-16-le"),
        archive.getvalue(),
        gzip.compress(b"a secret"),
        chunk(b"zTXt", b"name\0\0" + packed),
        chunk(b"iTXt", b"name\0\1\0\0\0" + packed),
        chunk(b"tEXt", b"name\0a secret"),
        b"%PDF-1.4\n1 0 obj\nstream\n" + packed + b"\nendstream",
        b'<img src="data:image/png;base64,' + base64.b64encode(archive.getvalue()) + b'">',
    ):
        assert told(data, [b"secret", b"other"]) == [b"secret"]


@pytest.mark.slow
def test_nothing_of_this_machine_is_written(tiny_dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"  # the page has this name
    out.mkdir()
    (tmp_path / "clipsqzx").mkdir()
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
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    kinds = {
        ".onnx",
        ".json",
        ".csv",
        ".safetensors",
        ".npz",
        ".npy",
        ".pbtxt",
        ".png",
        ".svg",
        ".pdf",
        ".html",
    }
    assert kinds <= {path.suffix for path in files.values()}
    assert any("tfevents" in name for name in files)
    found = [
        (name, word)
        for name, path in files.items()
        for each in (name.encode(), path.read_bytes())
        for word in told(each, words)
    ]
    assert found == []
