"""A flipped bit anywhere in a model file is noticed; a file without a checksum still opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.engines.checksum import KIND, NAME, checksum
from aicl_fast.engines.onnx_file import read_onnx
from aicl_fast.engines.openvino import open_model
from aicl_fast.errors import ModelError

torch = pytest.importorskip("torch")
from aicl_fast.weights import load_model, load_tensors, save_model, save_tensors  # noqa: E402

FLIPS = 120


@pytest.fixture(scope="module")
def container(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an ``.openvino`` file."""
    pytest.importorskip("openvino")
    from aicl_fast.export.export import export_model
    from aicl_fast.export.options import ExportOptions

    path = tmp_path_factory.mktemp("openvino") / "m.openvino"
    return export_model(tiny_model, path, ExportOptions(format="openvino", convolution="direct"))


def flipped(path: Path, places: list[int], tmp_path: Path) -> list[Path]:
    whole = path.read_bytes()
    found = []
    for number, place in enumerate(places):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        found.append(tmp_path / f"{number}{path.suffix}")
        found[-1].write_bytes(data)
    return found


def every_flip_is_noticed(
    path: Path, opened: Callable[[Path], object], tmp_path: Path, more: list[int] | None = None
) -> None:
    opened(path)
    size = 8 * path.stat().st_size
    places = np.random.default_rng(0).integers(size, size=FLIPS).tolist() + (more or [])
    for file in flipped(path, places, tmp_path):
        with pytest.raises(ModelError):
            opened(file)


def test_onnx(tiny_model: Path, tmp_path: Path) -> None:
    path = tiny_model.with_suffix(".onnx")
    size = path.stat().st_size
    ends = list(range(8 * size - 8 * 130, 8 * size, 3))  # where the checksum itself is
    every_flip_is_noticed(path, read_onnx, tmp_path, ends)


def test_safetensors(tiny_model: Path, tmp_path: Path) -> None:
    header = int.from_bytes(tiny_model.read_bytes()[:8], "little")
    every_flip_is_noticed(tiny_model, load_model, tmp_path, [*range(64), *range(64, 8 * header, 191)])


def test_openvino(container: Path, tmp_path: Path) -> None:
    padding = container.read_bytes().index(bytes(64)) + 32
    every_flip_is_noticed(container, open_model, tmp_path, [*range(512), 8 * padding])


def test_trainers_tensors(tmp_path: Path) -> None:
    path = tmp_path / "trainer.safetensors"
    tensors = {"a": torch.rand(40, 3), "step": torch.tensor(3.0), "none": torch.zeros(0)}
    save_tensors(path, tensors)
    again = load_tensors(path)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
    every_flip_is_noticed(path, load_tensors, tmp_path)


def test_files_of_earlier_versions_have_none(tiny_model: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from safetensors import safe_open
    from safetensors.torch import save_file

    model = onnx.load(tiny_model.with_suffix(".onnx"))
    kept = [each for each in model.metadata_props if each.key not in (NAME, KIND)]
    assert len(kept) == len(model.metadata_props) - 2
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "m.onnx")
    assert read_onnx(tmp_path / "m.onnx") == read_onnx(tiny_model.with_suffix(".onnx"))
    with safe_open(tiny_model, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {name: text for name, text in file.metadata().items() if name not in (NAME, KIND)}
    save_file(tensors, tmp_path / "m.safetensors", metadata=metadata)
    net, config = load_model(tmp_path / "m.safetensors")
    expected, own = load_model(tiny_model)
    assert config == own
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in expected.state_dict().items())


def test_half_a_checksum_is_damage(tiny_model: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_model.with_suffix(".onnx"))
    for number, each in enumerate(model.metadata_props):
        if each.key in (NAME, KIND):
            changed = onnx.ModelProto()
            changed.CopyFrom(model)
            del changed.metadata_props[number]
            onnx.save(changed, tmp_path / "m.onnx")
            with pytest.raises(ModelError, match="its checksum differs"):
                read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("size", [1, 7, 4096 * 8, 4096 * 8 + 5, 5 << 20])
def test_any_bit_counts_but_the_digits_own(size: int) -> None:
    rng = np.random.default_rng(size)
    data = bytearray(rng.bytes(size) + bytes(64))
    before = checksum(data, size)
    data[size:] = rng.bytes(64)
    assert checksum(data, size) == before
    for place in {0, size // 2, size - 1}:
        data[place] ^= 128
        assert checksum(data, size) != before
        data[place] ^= 128
    assert checksum(memoryview(bytes(data)), size) == before


def test_a_model_that_was_saved_is_the_same(tiny_model: Path, tmp_path: Path) -> None:
    net, config = load_model(tiny_model)
    save_model(tmp_path / "again.safetensors", net, config)
    again, own = load_model(tmp_path / "again.safetensors")
    assert own == config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    assert all(value.dtype == torch.float32 and value.requires_grad for value in net.parameters())
