"""A model repository: its configuration by the server's own schema, and what it may replace."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

import aicl_fast.export.triton_server as server
from aicl_fast import Detector
from aicl_fast.engines.container import write_container
from aicl_fast.errors import DataError
from aicl_fast.export.export import export_model
from aicl_fast.export.onnx import model_info
from aicl_fast.export.options import ExportOptions, ServerOptions
from aicl_fast.metadata import Range
from aicl_fast.weights import load_model

SCHEMA = Path(__file__).with_name("server_schema") / "model_config.binpb"


@functools.cache
def schema() -> Any:
    """The message class of a config.pbtxt."""
    file = descriptor_pb2.FileDescriptorProto.FromString(SCHEMA.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def parse(text: str) -> Any:
    """A config.pbtxt by the server's own schema."""
    return text_format.Parse(text, schema()())


@pytest.mark.parametrize("change", [("max_batch_size", "max_batch"), ("TYPE_FP32", "TYPE_FLOAT")])
def test_the_schema_refuses_what_it_does_not_have(tiny_model: Path, change: tuple[str, str]) -> None:
    text = server.server_config(model_info(*load_model(tiny_model)), ServerOptions())
    assert change[0] in text
    with pytest.raises(text_format.ParseError):
        parse(text.replace(*change))


@pytest.mark.parametrize("batch", [Range(1, 8, 64), Range(1, 1, 9)], ids=str)
@pytest.mark.parametrize("segments", [None, Range(8, 32, 64)], ids=["fixed", "any-length"])
def test_every_configuration_fits_the_schema(tiny_model: Path, batch: Range, segments: Range | None) -> None:
    net, config = load_model(tiny_model)
    config = config.with_classes(["It's", 'a "name"', "Höhe \\ 2"])
    info = model_info(net, config, batch=batch, segments=segments)
    builders = [None, {"name": "tensorrt", "version": "10.1", "compute_capability": ["8.6"]}]
    for backend, kind, delay, builder in product(
        ("onnx", "tensorrt"), ("auto", "cpu", "gpu"), (0, 7), builders
    ):
        options = ServerOptions("act-i_ö", backend, 3, kind, delay)
        made = parse(server.server_config(info, options, builder))
        assert (made.name, made.max_batch_size) == ("act-i_ö", batch.max)
        assert made.platform == {"onnx": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}[backend]
        tensors = [*made.input, *made.output]
        names = [tensor.name for tensor in tensors]
        assert all(names)
        assert len(set(names)) == len(names) == 5
        assert all(size > 0 or size == -1 for tensor in tensors for size in tensor.dims)
        assert all(tensor.dims and tensor.data_type == 11 for tensor in tensors)  # TYPE_FP32
        assert made.output[1].label_filename == "labels.txt"
        assert list(made.dynamic_batching.preferred_batch_size) == [batch.opt]
        assert made.dynamic_batching.max_queue_delay_microseconds == delay
        (group,) = made.instance_group
        assert (group.kind, group.count) == ({"auto": 0, "gpu": 1, "cpu": 2}[kind], 3)
        assert made.version_policy.latest.num_versions == 1
        assert [warm.batch_size for warm in made.model_warmup] == sorted({1, batch.opt})
        assert all(warm.inputs["features"].random_data for warm in made.model_warmup)
        parameters = {key: each.string_value for key, each in made.parameters.items()}
        assert parameters.pop("aicl_fast") == info.to_json()
        assert [json.loads(text) for text in parameters.values()] == ([] if builder is None else [builder])


def test_a_configuration_of_an_earlier_version_is_known(tiny_model: Path, tmp_path: Path) -> None:
    """They were printed by protobuf, without what is zero."""
    text = server.server_config(model_info(*load_model(tiny_model)), ServerOptions())
    earlier = text_format.MessageToString(parse(text), as_utf8=True)
    assert [line for line in text.splitlines() if line not in earlier.splitlines()] == ["  kind: KIND_AUTO"]
    for config in (text, earlier, earlier.replace("count: 1", "count: 4")):
        (tmp_path / "aicl").mkdir(exist_ok=True)
        (tmp_path / "aicl" / "config.pbtxt").write_text(config)
        server.check_target(tmp_path, ExportOptions("triton-repository"))


def test_server_repository(tmp_path: Path, tiny_model: Path, batch, expected) -> None:
    options = ExportOptions(
        "triton-repository",
        segments=Range(8, 32, 64),
        server=ServerOptions(name="actions", instances=2, kind="cpu", delay_us=500),
    )
    root = export_model(tiny_model, tmp_path / "repository", options)
    root = export_model(tiny_model, root, options)  # over itself
    assert [each.name for each in root.iterdir()] == ["actions"]
    folder = root / "actions"
    assert {each.name for each in folder.iterdir()} == {"1", "config.pbtxt", "labels.txt"}
    assert (folder / "labels.txt").read_text().split() == ["Jump", "Run", "Throw"]
    config = parse((folder / "config.pbtxt").read_text())
    assert (config.name, config.platform, config.max_batch_size) == ("actions", "onnxruntime_onnx", 64)
    assert [(i.name, list(i.dims)) for i in config.input] == [("features", [-1, 11])]
    assert [(o.name, list(o.dims)) for o in config.output] == [
        ("scores", [-1, 3]),
        ("video_scores", [3]),
        ("actionness", [-1]),
        ("actionness_agnostic", [-1]),
    ]
    assert (config.instance_group[0].count, config.dynamic_batching.max_queue_delay_microseconds) == (2, 500)
    assert [list(warm.inputs["features"].dims) for warm in config.model_warmup] == [[32, 11]] * 2
    actual = Detector(folder / "1" / "model.onnx", threads=1).engine(batch)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-6)
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").write_bytes(b"of another day")
    with pytest.raises(DataError, match=r"holds 2, 2/model\.onnx, which .* would delete"):
        export_model(tiny_model, root, options)
    assert (folder / "2" / "model.onnx").read_bytes() == b"of another day"


def test_labels_are_a_line_each(tiny_model: Path, tiny_config, tmp_path: Path) -> None:
    net, _ = load_model(tiny_model)
    info = model_info(net, tiny_config)
    info = replace(info, config=replace(info.config, classes=("Jump", "Run\nand hide", "Throw")))
    with pytest.raises(DataError, match=r"'Run\\nand hide' cannot be a line of the server's labels\.txt"):
        server.write(None, info, tmp_path, ExportOptions("triton-repository"), None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "config", [None, 'name: "actions"\nbackend: "python"\noptimization { cuda { graphs: true } }\n', "?"]
)
def test_models_of_others_stay(tmp_path: Path, tiny_model: Path, config: str | None) -> None:
    folder = tmp_path / "repository" / "actions"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text("thesis")
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    options = ExportOptions("triton-repository", server=ServerOptions(name="actions"))
    with pytest.raises(DataError, match="is not a model of a server that"):
        export_model(tiny_model, folder.parent, options)
    assert (folder / "1" / "model.py").read_text() == "thesis"


def test_a_model_stays_until_the_next_is_in_its_place(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ExportOptions("triton-repository")
    root = export_model(tiny_model, tmp_path / "repository", options)
    (root / "aicl" / "labels.txt").write_text("old")
    replace = os.replace

    def fail(source: Any, target: Any) -> None:
        if Path(source).name == "whole":
            assert not Path(target).exists()
            raise OSError(5, "the disk is broken")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(DataError, match="aicl"):
            export_model(tiny_model, root, options)
    assert (root / "aicl" / "labels.txt").read_text() == "old"
    assert [each.name for each in root.iterdir()] == ["aicl"]
    export_model(tiny_model, root, options)
    assert (root / "aicl" / "labels.txt").read_text() == "Jump\nRun\nThrow\n"


def test_a_plan_in_a_repository_says_what_it_is_for(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = {"name": "tensorrt", "version": "10.1", "compute_capability": ["8.6"]}

    def build(kind: str, model: Any, info: Any, path: Path, options: Any, progress: Any) -> None:
        write_container(path, kind, info, builder, {"plan": b"plan"})

    monkeypatch.setattr(server, "export_tensorrt", build)
    info = model_info(*load_model(tiny_model))
    server.write(None, info, tmp_path, ExportOptions(server=ServerOptions(backend="tensorrt")), None)
    assert (tmp_path / "aicl" / "1" / "model.plan").read_bytes() == b"plan"
    config = parse((tmp_path / "aicl" / "config.pbtxt").read_text())
    assert json.loads(config.parameters["aicl_fast_builder"].string_value) == builder
