"""What is given to export and parity from outside: numbers, names and files that cannot be."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from aicl_fast.cli import export as export_command
from aicl_fast.engines.container import read_container, write_container
from aicl_fast.engines.onnx_file import read_onnx
from aicl_fast.engines.tensorrt.plan import check_builder
from aicl_fast.errors import AiclError, ConfigError, DataError, ModelError
from aicl_fast.export.export import check_combination, check_target, export_model
from aicl_fast.export.onnx import model_info
from aicl_fast.export.options import BuildOptions, ExportOptions
from aicl_fast.export.quantize import calibration_features
from aicl_fast.export.tensorrt import build, refit
from aicl_fast.export.tensorrt.cards import check_options, read_timing_cache
from aicl_fast.export.triton_server import check_target as check_repository
from aicl_fast.metadata import Range
from aicl_fast.weights import load_model

SERVER = ("-f", "triton-repository", "-o", "server")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch", "0:1:2"), "--batch: expected one size or smallest:usual:largest"),
        (("--batch", "9:1:1"), "--batch: expected one size"),
        (("--batch", "1e9"), "--batch: expected one size"),
        (("--batch", "-1"), "--batch: expected one size"),
        (("--batch", "1:8:3000000000"), "--batch: expected one size"),
        (("--batch", "9" * 5000), "--batch: expected one size"),
        (("--batch", "1:2"), "--batch: expected one size"),
        (("--batch", ""), "--batch: expected one size"),
        (("--batch", "2000000000"), "a file of batch 2000000000 and T 32: a run with its settings"),
        (("--segments", "0"), "--segments: expected one size"),
        (("--segments", "2000000000"), "data.segments: expected a whole number from 2 to 100000"),
        (("--segments", "1:8:64"), "expected a smallest T of at least"),
        (("--opset", "14"), "--opset: expected 15 to 23 for fp32, got 14"),
        (("--opset", "-1"), "--opset: expected 15 to 23"),
        (("--opset", "99999999999999999999"), "--opset: expected 15 to 23"),
        (("--opset", "17", "--precision", "bf16"), "--opset: expected 22 to 23 for bf16"),
        (("--opset", "18", "-f", "tensorrt-rtx"), "--opset: is for --format onnx"),
        (("--opset", "x"), "unable to parse string as an integer"),
        (("--workspace", "5"), "are for --format tensorrt and tensorrt-rtx"),
        (("--compute-capability", "x"), "--compute-capability: expected for example 8.6"),
        (("--compute-capability", "8."), "--compute-capability: expected for example 8.6"),
        (("--compute-capability", f"8.{'9' * 5000}"), "--compute-capability: expected for example 8.6"),
        (("--calibrate-videos", "0"), "greater than or equal to 1"),
        (("--seed", "-1", "--precision", "int8", "--calibrate", "x"), "--seed: expected 0 or more"),
        (("--allow-missing",), "--allow-missing: is for a data set"),
        ((*SERVER, "--instances", "0"), "--instances: expected 1 to"),
        ((*SERVER, "--instances", "99999999999"), "--instances: expected 1 to"),
        ((*SERVER, "--queue-delay", "-1"), "--queue-delay: expected 0 to"),
        ((*SERVER, "--queue-delay", "99999999999999999999999"), "--queue-delay: expected 0 to"),
        ((*SERVER, "--name", "a/b"), "--name: expected letters"),
        ((*SERVER, "--name", ".."), "--name: expected letters"),
        ((*SERVER, "--name", ""), "--name: expected letters"),
        ((*SERVER, "--name", "a\0b"), "--name: expected letters"),
        ((*SERVER, "--name", "n" * 300), "--name: expected letters"),
        ((*SERVER, "--batch", "4"), "--batch: the server makes batches of 1"),
        (("-o", "a\0.onnx"), "embedded null byte"),
        (("-o", "n" * 300 + ".onnx"), "cannot be written"),
        (("-o", "."), "a folder has this name"),
        (("-o", "-", "--verify"), "--verify: runs the file that was written"),
        (("-f", "triton-repository", "-o", "a\0b"), "embedded null byte"),
        (("-f", "triton-repository", "-o", "n" * 300), "cannot be written"),
        (("--model", "i3d-rgb", "--batch", "0"), "--batch: expected one size"),
        (("--model", "i3d-rgb", "--opset", "14"), "--opset: expected 15 to 23"),
    ],
)
def test_options_that_cannot_be(
    refused: Any, tiny_model: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    out = () if "-o" in arguments else ("-o", "m.engine" if "tensorrt-rtx" in arguments else "m.onnx")
    refused(words, "export", tiny_model, *out, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (("{}",), "expected at least two model files"),
        (("{}", "nonsense:{}"), "there is no engine 'nonsense'"),
        (("{}", "nonsense:missing.onnx"), "the model file does not exist"),
        (("{}", "onnxruntime:"), "expected the model file, found a folder"),
        (("{}", "tensorrt:{}"), "cannot run in tensorrt"),
        (("{}", "a\0.onnx"), "cannot be opened"),
        (("{}", "{}", "--runs", "0"), "greater than or equal to 1"),
        (("{}", "{}", "--seed", "-1"), "--seed: expected 0 or more"),
        (("{}", "{}", "--threads", "-1"), "threads"),
        (("{}", "{}", "--device", "gpu"), "device"),
        (("{}", "{}", "--allow-missing"), "--allow-missing: is for a data set"),
    ],
)
def test_what_parity_cannot_compare(
    refused: Any, tiny_model: Path, models: tuple[str, ...], words: str
) -> None:
    onnx_file = tiny_model.with_suffix(".onnx")
    refused(words, "parity", *(word.format(onnx_file) for word in models))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ExportOptions(batch=Range(0, 1, 2)), "batch: expected three whole numbers that rise from 1"),
        (ExportOptions(batch=Range(1, 8, 1 << 40)), "batch: expected three whole numbers"),
        (ExportOptions(segments=Range(-1, -1, -1)), "segments: expected three whole numbers"),
        (ExportOptions("onnx", "int8", calibrate=Path("x"), calibrate_videos=-1), "at least 1, got -1"),
    ],
)
def test_options_in_python(tiny_model: Path, tmp_path: Path, options: ExportOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        export_model(tiny_model, tmp_path / "m.onnx", options)


def test_paths_as_text(tiny_model: Path, tmp_path: Path) -> None:
    assert export_model(str(tiny_model), str(tmp_path / "text.onnx")) == tmp_path / "text.onnx"
    assert (tmp_path / "text.onnx").is_file()


@pytest.mark.parametrize("workspace", [-1, 0, 1 << 60])
@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt-rtx"])
def test_a_builders_memory(workspace: int, kind: Any) -> None:
    with pytest.raises(ConfigError, match="--workspace: expected 1 to"):
        check_options(kind, BuildOptions(workspace))


@pytest.mark.parametrize("card", ["x", "8", "8.6.1", "²", "9" * 5000])
def test_a_card_in_python(card: str) -> None:
    with pytest.raises(ConfigError, match="--compute-capability: expected for example"):
        check_combination(ExportOptions("tensorrt-rtx", build=BuildOptions(compute_capability=(card,))))


def missing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 16
    path.write_bytes(content)


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def nested(path: Path) -> None:
    path.write_text("[" * 200_000)


@pytest.fixture
def engine(tiny_model: Path, tmp_path: Path) -> Path:
    """A container whose plan TensorRT has not seen."""
    return an_engine(tiny_model, tmp_path / "old.engine")


def an_engine(weights: Path, path: Path, **builder: Any) -> Path:
    said = {"name": "tensorrt-rtx", "version": "1.4", "compute_capability": ["8.0+"], "refittable": True}
    info = model_info(*load_model(weights))
    write_container(path, "tensorrt-rtx", info, {**said, **builder}, {"plan": bytes(4000)})
    return path


@pytest.fixture
def _rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX 1.4 and a card, as far as refitting looks at them."""

    class Card:
        capability = (8, 6)

        def __init__(self, number: int) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(refit, "load_tensorrt", lambda kind: SimpleNamespace(__version__="1.4"))
    monkeypatch.setattr(refit, "Cuda", Card)
    monkeypatch.setattr(refit, "_refitted", lambda api, container, onnx: container.read("plan"))


def put_weights(old: Path, weights: Path) -> None:
    net, config = load_model(weights)
    model = SimpleNamespace(SerializeToString=lambda: b"")
    refit.refit_tensorrt(old, model, model_info(net, config), old.with_name("new.engine"))


DAMAGES: list[Callable[[Path], None]] = [
    missing,
    folder,
    pipe,
    empty,
    cut_off,
    changed,
    noise,
    nested,
]


@pytest.mark.usefixtures("_rtx")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("role", ["weights", "parity", "refit", "calibrate"])
def test_files_that_are_not_what_they_should_be(
    refused: Any, tiny_model: Path, tiny_dataset: Path, engine: Path, tmp_path: Path, damage: Any, role: str
) -> None:
    weights, exported = tmp_path / "w.safetensors", tmp_path / "w.onnx"
    shutil.copy(tiny_model, weights)
    shutil.copy(tiny_model.with_suffix(".onnx"), exported)
    if role == "refit":
        put_weights(engine, weights)
        damage(engine)
        with pytest.raises((DataError, ModelError), match=r"old\.engine"):
            put_weights(engine, weights)
        return
    if role == "calibrate":
        if damage is changed:
            pytest.skip("features have no checksum")
        victim = next((tiny_dataset / "features" / "train").rglob("*.npy"))
        damage(victim)
        words = ["export", weights, "-o", "m.onnx", "--precision", "int8", "--calibrate", tiny_dataset]
    else:
        victim = weights if role == "weights" else exported
        damage(victim)
        words = ["export", victim, "-o", "m.onnx"] if role == "weights" else ["parity", tiny_model, victim]
    refused(victim.name.split(".")[0], *words)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.usefixtures("_rtx")
@pytest.mark.parametrize(
    ("builder", "words"),
    [
        ({"compute_capability": 7}, "the cards that it is for"),
        ({"compute_capability": {"8.6": 1}}, "the cards that it is for"),
        ({"compute_capability": [None, "²+", "9" * 5000 + "+"]}, "was built for compute capability"),
        ({"version": "²"}, "which built it"),
        ({"version": None}, "which built it"),
        ({"version": ["9" * 4000]}, "which built it"),
        ({"refittable": False}, "was not built to take new weights"),
        ({"version_compatible": True}, "carries native code"),
    ],
)
def test_what_a_strangers_engine_says(
    tiny_model: Path, tmp_path: Path, builder: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        put_weights(an_engine(tiny_model, tmp_path / "old.engine", **builder), tiny_model)


def test_a_version_that_is_none_is_compared(tiny_model: Path, tmp_path: Path) -> None:
    for version in ("2.²", "x." + "9" * 5000, "", "...", "1.9"):
        file = an_engine(tiny_model, tmp_path / "e.engine", version=version, version_compatible=True)
        with pytest.raises(ModelError, match=r"e\.engine: expected"):
            check_builder(read_container(file), "1.4")


@pytest.mark.parametrize("damage", [folder, pipe])
def test_a_timing_cache_that_is_no_file(tiny_model: Path, tmp_path: Path, damage: Any) -> None:
    cache = tmp_path / "cache"
    assert read_timing_cache(cache) == b""
    cache.write_bytes(b"kept")
    assert read_timing_cache(cache) == b"kept"
    damage(cache)
    for path in (cache, Path("a\0b"), Path("n" * 300)):
        with pytest.raises(DataError):
            read_timing_cache(path)
        options = ExportOptions("tensorrt", build=BuildOptions(timing_cache=path))
        with pytest.raises(DataError):
            check_target(tiny_model, tmp_path / "m.engine", options)


@pytest.mark.parametrize("answer", [None, RuntimeError("bad cache")])
def test_a_timing_cache_that_tensorrt_does_not_take(tmp_path: Path, answer: Any) -> None:
    def create(content: bytes) -> None:
        assert content == b"noise"
        if answer is not None:
            raise answer

    (tmp_path / "cache").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"cache: the timing cache cannot be read .*--timing-cache"):
        build._timing_cache(SimpleNamespace(create_timing_cache=create), tmp_path / "cache")


@pytest.mark.parametrize("text", [b"\xff\xfe", b"a {" * 100_000, b'parameters { key: "aicl_fast" ', b"?"])
def test_a_servers_model_of_a_stranger(tmp_path: Path, text: bytes) -> None:
    home = tmp_path / "aicl"
    home.mkdir()
    (home / "config.pbtxt").write_bytes(text)
    with pytest.raises(DataError, match="exists and is not a model"):
        check_repository(tmp_path, ExportOptions("triton-repository"))
    assert (home / "config.pbtxt").read_bytes() == text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((20, 6), np.nan, np.float32), "train_0"),
        (np.zeros((20, 7), np.float32), "train_0"),
        (np.zeros((0, 6), np.float32), "train_0"),
        (np.zeros((20, 6), "S3"), "train_0"),
    ],
)
def test_features_that_cannot_calibrate(
    tiny_model: Path, tiny_dataset: Path, values: Any, words: str
) -> None:
    np.save(tiny_dataset / "features" / "train" / "rgb" / "train_0.npy", values)
    _, config = load_model(tiny_model)
    with pytest.raises(AiclError, match=words):
        calibration_features(tiny_dataset, config)


def test_videos_without_features(
    run: Any, refused: Any, tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    exported = tiny_model.with_suffix(".onnx")
    for split, words in (
        ("train", ("export", tiny_model, "-o", "m.onnx", "--precision", "int8", "--calibrate")),
        ("test", ("parity", tiny_model, exported, "--runs", "1", "--data")),
        ("test", ("export", tiny_model, "-o", "m.onnx", "--verify", "--data")),
    ):
        data = shutil.copytree(tiny_dataset, tmp_path / "copy", dirs_exist_ok=True)
        for each in (data / "features" / split).rglob(f"{split}_1.npy"):
            each.unlink()
        refused("--allow-missing", *words, data)
        run(*words, data, "--allow-missing")
        shutil.rmtree(data)
        (tmp_path / "m.onnx").unlink(missing_ok=True)


def test_the_opset_on_the_command_line(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    import onnx as onnx

    run("export", tiny_model, "-o", "m.onnx", "--opset", 15, "--convolution", "direct")
    assert [each.version for each in onnx.load(tmp_path / "m.onnx").opset_import] == [15]


def test_an_export_to_standard_output(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed))
    export_command.run(tiny_model, Path("-"))
    (tmp_path / "m.onnx").write_bytes(printed.getvalue())
    assert json.loads(read_onnx(tmp_path / "m.onnx"))["config"]["classes"] == ["Jump", "Run", "Throw"]
