"""The readers of the package, each with files that it reads; a fuzzer changes these and reads them again.

A target's ``read`` gets the path of a changed file. It may raise AiclError; anything else is a fault.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Parts = list[bytes]


@dataclass(frozen=True)
class Format:
    """A file format whose checksums would hide what is behind them from a fuzzer.

    Attributes:
        take: a file as parts; raises where it is none.
        make: parts as a file, its checksums right.
    """

    take: Callable[[bytes], Parts]
    make: Callable[[Parts], bytes]


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        seeds: makes files in an empty folder.
        read: reads a changed file.
        suffix: what its name ends in.
        words: what such files are made of, for the fuzzer.
        format: how to change what lies behind a checksum.
    """

    seeds: Callable[[Path], None]
    read: Callable[[Path], Any]
    suffix: str
    words: Sequence[str] = ()
    format: Format | None = None


def _reseal(parts: Parts) -> bytes:
    """A model file with its checksum computed again, so that what is behind it is read."""
    from aicl_fast.engines.checksum import NAME, checksum

    data = bytearray(parts[0])
    match = re.search(NAME.encode() + b".{2,3}([0-9a-f]{64})", data, re.DOTALL)
    if match is not None:
        at = match.start(1)
        data[at : at + 64] = checksum(data, at).encode()
    return bytes(data)


SEALED = Format(lambda data: [data], _reseal)

SETTINGS = {"segments": 8, "rgb_width": 3, "flow_width": 2, "embedding_width": 4}
CLASSES = ["Jump", "Run"]


def _config() -> Any:
    from aicl_fast.config import load_config

    return load_config("demo").with_values(SETTINGS).with_classes(CLASSES)


def _net() -> Any:
    import torch

    from aicl_fast.model import TwoBranchNet

    torch.manual_seed(0)
    return TwoBranchNet(_config())


# .npz ---------------------------------------------------------------------------------------------


def _take_zip(data: bytes) -> Parts:
    parts = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                parts += [member.filename.encode(), file.read(1 << 16)]
    return parts


def _make_zip(parts: Parts) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in zip(parts[::2], parts[1::2], strict=True):
            archive.writestr(name.decode(errors="replace") or "x", data)
    return buffer.getvalue()


ZIP = Format(_take_zip, _make_zip)


def _npy(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number, array in enumerate(
        (
            rng.random((4, 3), np.float32),
            rng.random((2, 3)).astype(">f8"),
            np.asfortranarray(rng.random((3, 3))),
            np.zeros((0, 3), np.float16),
        )
    ):
        np.save(folder / f"{number}.npy", array)


def _read_npy(path: Path) -> None:
    from aicl_fast.data.features import load_features, map_features

    _each(lambda: load_features(path), lambda: map_features(path, width=3))


def _features(folder: Path) -> None:
    from aicl_fast.data.feature_file import Recipe, VideoFeatures, save_video_features

    recipe = Recipe(25.0, 16, 16, "resize", "a" * 64, "b" * 64, "dis")
    rgb, flow = np.zeros((3, 3), np.float32), np.ones((3, 2), np.float32)
    for number, streams in enumerate(((rgb, flow), (rgb, None))):
        features = VideoFeatures("v", *streams, recipe, 48, ("v.mp4", 9))
        save_video_features(folder / f"{number}.npz", features)


def _read_features(path: Path) -> None:
    from aicl_fast.data.feature_file import load_video_features, read_header

    data = _config().data
    _each(
        lambda: load_video_features(path).streams(data),
        lambda: load_video_features(path, mapped=True),
        lambda: read_header(path),
    )


def _scores(folder: Path) -> None:
    from aicl_fast.data.scores import Scores
    from aicl_fast.report import save_scores

    half = np.full((4, 2), 0.5, np.float32)
    scores = Scores(
        fused=half, video_scores=half[0], actionness=half[:, 0], actionness_agnostic=half[:, 1],
        num_segments=9, fps=25.0, frames_per_segment=16, classes=tuple(CLASSES), name="v",
    )  # fmt: skip
    save_scores(folder / "scores.npz", {"v": scores, "w": scores})


def _read_scores(path: Path) -> None:
    from aicl_fast.report import load_scores

    load_scores(path)


# Text ---------------------------------------------------------------------------------------------

_ODD = (
    "null",
    "true",
    "NaN",
    "1e999",
    "-1",
    "[]",
    "{}",
    "\\ud800",
    "\\u202e",
    "\\u0000",
    "../",
    "99999999999",
)
_GT = {
    "version": "1",
    "database": {
        "v": {
            "subset": "test",
            "duration": 10.5,
            "fps": 25,
            "annotations": [
                {"label": "Jump", "segment": [1.0, 2.5]},
                {"label": "Run", "segment": ["3", "4"]},
            ],
        },
        "w": {"subset": "train", "annotations": [{"label": "Run", "segment": [0, 1]}]},
    },
}
_FOUND = {
    "version": "VERSION 1.3",
    "results": {
        "v": [
            {"label": "Jump", "score": 0.9, "segment": [1, 2]},
            {"label": "Run", "score300": -0.5, "segment": [3.5, 4]},
        ]
    },
    "external_data": {},
}


def _json(value: Any) -> Callable[[Path], None]:
    return lambda folder: _write(folder / "seed.json", json.dumps(value))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _read_annotations(path: Path) -> None:
    from aicl_fast.data.annotations import GroundTruth
    from aicl_fast.data.detections import Detections
    from aicl_fast.evaluate import mean_average_precision

    truth = GroundTruth.load(path)
    found = Detections(np.array(["Jump"]), np.array([1.0]), np.array([[1.0, 2.0]]), "v")
    mean_average_precision(truth, {"v": found}, (0.5,))


def _read_detections(path: Path) -> None:
    from aicl_fast.data.annotations import GroundTruth
    from aicl_fast.data.detections import load_detections
    from aicl_fast.data.writers import save_detections
    from aicl_fast.evaluate import mean_average_precision

    found = load_detections(path)
    save_detections(path.with_name("copy.json"), found)
    gt = path.with_name("gt.json")
    _write(gt, json.dumps(_GT))
    mean_average_precision(GroundTruth.load(gt), found, (0.5,))


def _labels(folder: Path) -> None:
    _write(folder / "0.csv", "video,label,start,end,split\na.mp4,Jump,,,train\nb.mp4,Run,0.5,2,test\n")
    _write(folder / "1.csv", "a;Jump\nb;Run\n")
    _write(folder / "2.csv", 'label\tvideo\n"a ""b"""\tc\n')


def _read_labels(path: Path) -> None:
    from aicl_fast.data.labels import read_labels, write_annotations

    labels = read_labels(path, duration=lambda video: 3.0)
    write_annotations(labels, path.with_name("ds"), overwrite=True)


def _settings(folder: Path) -> None:
    text = (
        'preset = "demo"\nclasses = ["a", "b"]\nlr = 1e-3\n[decode]\nnms = "hard"\nthresholds = [0.1, 0.2]\n'
    )
    _write(folder / "0.toml", text)
    _write(folder / "1.toml", "train.steps = 5\ntrain.ramp_steps = 'all'\ndata = {segments = 9}\n")


def _read_settings(path: Path) -> None:
    from aicl_fast.config import load_config

    load_config(file=path)


def _splits(folder: Path) -> None:
    _write(folder / "0.txt", "train_0\ntrain_1\n")
    _write(folder / "1.txt", "\ufefftrain_1\r\n\n")


def _read_split(path: Path) -> None:
    """A data set with this split file; the others are right."""
    from aicl_fast.data.dataset import Dataset

    root = path.parent / "split_data"
    if not root.is_dir():
        names = {"train": ("train_0", "train_1"), "test": ("test_0",)}
        entries = {}
        for split, videos in names.items():
            (root / "features" / split).mkdir(parents=True)
            for video in videos:
                np.save(root / "features" / split / f"{video}.npy", np.zeros((4, 5), np.float32))
                entries[video] = {"subset": split, "annotations": [{"label": "Jump", "segment": [0, 1]}]}
        _write(root / "gt.json", json.dumps({"database": entries}))
        _write(root / "split_test.txt", "test_0\n")
    os.replace(path, root / "split_train.txt")
    dataset = Dataset.open(root, _config())
    for video in dataset.videos["train"]:
        dataset.features("train", video)


def _read_metadata(path: Path) -> None:
    from aicl_fast.files import read_text
    from aicl_fast.metadata import parse_info, parse_segment_info

    text = read_text(path, "metadata")
    _each(lambda: parse_info(text, path), lambda: parse_segment_info(text, path))


def _metadata(folder: Path) -> None:
    from aicl_fast.metadata import ModelInfo

    _write(folder / "0.json", ModelInfo(_config()).to_json())


def _record(folder: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "bench" / "results" / "demo-accuracy.json"
    (folder / "0.json").write_bytes(source.read_bytes())


def _read_record(path: Path) -> None:
    from aicl_fast.bench.harness.compare import changes
    from aicl_fast.bench.harness.quote import busy, made
    from aicl_fast.bench.harness.record import read_result

    result = read_result(path)
    _each(lambda: made("accuracy", result, path.name), lambda: busy(result), lambda: changes(result, result))


# Models -------------------------------------------------------------------------------------------


def _safetensors(folder: Path) -> None:
    from aicl_fast.weights import save_model

    save_model(folder / "model.safetensors", _net(), _config())


def _read_safetensors(path: Path) -> None:
    from aicl_fast.engines.registry import open_session

    _run(open_session(path))


def _onnx(folder: Path) -> None:
    from aicl_fast.export.onnx import export_onnx

    export_onnx(_net(), _config(), folder / "model.onnx")


def _read_onnx(path: Path) -> None:
    from aicl_fast.engines.registry import open_session

    _run(open_session(path, threads=1))


def _read_onnx_openvino(path: Path) -> None:
    from aicl_fast.engines.registry import open_session

    _run(open_session(path, engine="openvino", threads=1))


def _container(folder: Path) -> None:
    from aicl_fast.export.export import export_model
    from aicl_fast.export.options import ExportOptions

    (folder.parent / "scratch").mkdir(exist_ok=True)
    _safetensors(folder.parent / "scratch")
    export_model(
        folder.parent / "scratch" / "model.safetensors", folder / "model.openvino", ExportOptions("openvino")
    )


def _read_container(path: Path) -> None:
    from aicl_fast.engines.container import read_container

    container = read_container(path)
    _each(lambda: container.info, *(lambda name=name: container.read(name) for name in container.sections))


_PREFACE = struct.Struct("<8sIIQQ32s")


def _take_container(data: bytes) -> Parts:
    length = _PREFACE.unpack(data[: _PREFACE.size])[2]
    header = json.loads(data[_PREFACE.size : _PREFACE.size + length])
    parts, end = [b""], _PREFACE.size + length
    for name, section in header["sections"].items():
        start = -(-end // 4096) * 4096
        end = start + int(section["size"])
        parts += [name.encode(), data[start:end]]
    del header["sections"]
    parts[0] = json.dumps(header).encode()
    return parts


def _make_container(parts: Parts) -> bytes:
    document = json.loads(parts[0])
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    document["sections"] = {
        name.decode(errors="replace"): {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sections.items()
    }
    header = json.dumps(document).encode()
    body, end = b"", _PREFACE.size + len(header)
    for data in sections.values():
        start = -(-end // 4096) * 4096
        body += bytes(start - end) + data
        end = start + len(data)
    first = -(-(_PREFACE.size + len(header)) // 4096) * 4096
    size = len(next(iter(sections.values()), b""))
    preface = _PREFACE.pack(b"AICLFAST", 1, len(header), first, size, hashlib.sha256(header).digest())
    return preface + header + body


def _pickles(folder: Path) -> None:
    import torch

    weights = {f"actionness_module.{name}": value for name, value in _net().state_dict().items()}
    torch.save(weights, folder / "0.pkl")
    torch.save(
        {"state_dict": {"module.a": torch.zeros(2)}}, folder / "1.pkl", _use_new_zipfile_serialization=False
    )


def _read_pickle(path: Path) -> None:
    from aicl_fast.train.import_checkpoint import import_checkpoint

    import_checkpoint(path, path.with_name("imported.safetensors"), _config())


def _i3d(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    state = {
        "Conv3d_1a_7x7.conv3d.weight": torch.zeros(2, 3, 1, 1, 1),
        "logits.conv3d.weight": torch.zeros(2, 4, 1, 1, 1),
    }
    torch.save(state, folder / "0.pt")
    torch.save({"state_dict": state}, folder / "1.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "2.safetensors")
    flax = {"params/Conv3d_1a_7x7/Conv_0/kernel": np.zeros((1, 1, 1, 3, 2), np.float32)}
    np.savez(folder / "3.npz", **flax)


def _read_i3d(path: Path) -> None:
    from aicl_fast.video.i3d_weights import load_i3d

    def under(suffix: str) -> Callable[[], Any]:
        target = path.with_suffix(suffix)
        target.write_bytes(path.read_bytes())
        return lambda: load_i3d(target)

    _each(under(".pt"), under(".safetensors"), under(".npz"))


def _videos(folder: Path) -> None:
    import av

    for name, codec in (
        ("a.avi", "mpeg4"),
        ("b.mp4", "libx264"),
        ("c.mkv", "libx264"),
        ("d.mpg", "mpeg2video"),
    ):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
            for number in range(6):
                picture = np.full((16, 32, 3), 40 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode(None))


def _read_video(path: Path) -> None:
    from aicl_fast.video import probe, read_frames

    def frames(damaged: bool) -> Callable[[], Any]:
        def run() -> None:
            for _ in read_frames(path, fps=25.0, allow_damaged=damaged):
                pass

        return run

    _each(lambda: probe(path), frames(False), frames(True))


def _checkpoint(folder: Path) -> None:
    """``trainer.json`` and ``trainer.safetensors`` as one file: the length of the first, and both."""
    made = _made_checkpoint(folder.parent / "run")
    _, first, second = _take_pair(made)
    (folder / "0.bin").write_bytes(_make_pair([b"", first, second]))


def _made_checkpoint(root: Path) -> bytes:
    from aicl_fast.train.checkpoint import save_checkpoint

    state = _state()
    sum(value.sum() for value in state.net.parameters()).backward()
    state.optimizer.step()
    save_checkpoint(root, state, _config().with_values({"batch_size": 2, "steps": 9}))
    (step,) = root.glob("step_*")
    return _make_pair(
        [b"", (step / "trainer.json").read_bytes(), (step / "trainer.safetensors").read_bytes()]
    )


def _take_pair(data: bytes) -> Parts:
    (length,) = struct.unpack("<I", data[:4])
    return [b"", data[4 : 4 + length], data[4 + length :]]


def _make_pair(parts: Parts) -> bytes:
    return struct.pack("<I", len(parts[1])) + parts[1] + parts[2]


@functools.cache
def _state() -> Any:
    """What a resumed run has, before it reads its checkpoint."""
    import torch

    from aicl_fast.train.checkpoint import State
    from aicl_fast.train.sampling import BatchOrder

    net = _net()
    order = BatchOrder(4, 2, np.random.default_rng(0))
    return State(net, torch.optim.Adam(net.parameters()), order, {"test videos": "x"}, step=1)


def _read_checkpoint(path: Path) -> None:
    from aicl_fast.train.checkpoint import load_checkpoint
    from aicl_fast.weights import save_model

    data = path.read_bytes()
    if len(data) < 4:
        return
    config = _config().with_values({"batch_size": 2, "steps": 9})
    step = path.parent / "step_00000001"
    if not step.is_dir():
        step.mkdir()
        save_model(step / "model.safetensors", _net(), config)
    _, document, tensors = _take_pair(data)
    (step / "trainer.json").write_bytes(document)
    (step / "trainer.safetensors").write_bytes(tensors)
    load_checkpoint(step, _state(), config)


# --------------------------------------------------------------------------------------------------


def _run(engine: Any) -> None:
    """A model that opens runs, or says why not."""
    with engine:
        low, high = engine.info.segments.min, engine.info.batch.min
        engine(np.zeros((high, low, engine.info.config.data.input_width), np.float32))


def _each(*readers: Callable[[], Any]) -> None:
    """Call each, whatever the one before refused."""
    from aicl_fast.errors import AiclError

    refused: AiclError | None = None
    for read in readers:
        try:
            read()
        except AiclError as error:
            refused = error
    if refused is not None:
        raise refused


_MODEL_WORDS = ("segments", "classes", "batch", "config", "data", "model", "99999", "-1", "null", "1e9", "[]")

TARGETS: dict[str, Target] = {
    "npy": Target(_npy, _read_npy, ".npy", ("descr", "shape", "fortran_order", "<f4", "|O", "(9,9)", "True")),
    "features": Target(_features, _read_features, ".npz", ("rgb.npy", "meta.npy", "<f4", "|O"), ZIP),
    "scores": Target(_scores, _read_scores, ".npz", ("fused.npy", "names.npy", "<U9", "|O"), ZIP),
    "annotations": Target(_json(_GT), _read_annotations, ".json", ("segment", "label", "database", *_ODD)),
    "detections": Target(_json(_FOUND), _read_detections, ".json", ("segment", "score", "results", *_ODD)),
    "labels": Target(_labels, _read_labels, ".csv", (",", ";", "\t", '"', "train", "test", *_ODD)),
    "settings": Target(_settings, _read_settings, ".toml", ("[data]", "=", ".", "'''", "inf", "nan", *_ODD)),
    "split": Target(_splits, _read_split, ".txt", ("train_0", *_ODD)),
    "metadata": Target(_metadata, _read_metadata, ".json", (*_MODEL_WORDS, *_ODD)),
    "record": Target(_record, _read_record, ".json", _ODD),
    "safetensors": Target(_safetensors, _read_safetensors, ".safetensors", (*_MODEL_WORDS, "F32"), SEALED),
    "onnx": Target(_onnx, _read_onnx, ".onnx", _MODEL_WORDS, SEALED),
    "onnx-openvino": Target(_onnx, _read_onnx_openvino, ".onnx", _MODEL_WORDS, SEALED),
    "container": Target(
        _container, _read_container, ".openvino", _MODEL_WORDS, Format(_take_container, _make_container)
    ),
    "checkpoint": Target(
        _checkpoint, _read_checkpoint, ".bin", ("optimizer.0.step", "history", "order", *_ODD),
        Format(_take_pair, _make_pair),
    ),
    "pickle": Target(_pickles, _read_pickle, ".pkl", ("ctorch\n", "collections", "PK", "data.pkl"), ZIP),
    "i3d": Target(_i3d, _read_i3d, ".bin", ("params", "conv3d", "PK", "F32"), ZIP),
    "video": Target(_videos, _read_video, ".avi", ("RIFF", "moov", "stts", "idx1", "strh", "\x1aE\xdf\xa3")),
}  # fmt: skip
"""Every reader by name."""
