"""The same weights from every kind of file, with one hash; and files that hold something else."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from aicl_fast.errors import DataError, ModelError  # noqa: E402
from aicl_fast.metadata import METADATA_KEY  # noqa: E402
from aicl_fast.video.i3d_weights import i3d_hash, load_i3d  # noqa: E402

BRANCHES = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}


def write_flax(path: Path, state: dict, *, scale: bool) -> None:
    """A state dict's values as channel-last arrays in the Flax layout."""
    arrays = {}
    for name, tensor in state.items():
        layer, part, kind = name.rsplit(".", 2)
        value = tensor.numpy()
        if layer == "logits":
            place = "Logits/Conv3d_0c_1x1"
        elif "." in layer:
            block, branch = layer.split(".")
            place = f"{block}/{BRANCHES[branch]}"
        else:
            place = layer
        if part == "conv3d":
            if kind == "weight":
                arrays[f"params/{place}/Conv_0/kernel"] = value.transpose(2, 3, 4, 1, 0)
            else:
                arrays[f"params/{place}/Conv_0/bias"] = value
        elif kind in ("running_mean", "running_var"):
            arrays[f"batch_stats/{place}/BatchNorm_0/{kind[8:]}"] = value.reshape(1, 1, 1, 1, -1)
        elif kind == "bias" or (kind == "weight" and scale):
            arrays[f"params/{place}/BatchNorm_0/{'bias' if kind == 'bias' else 'scale'}"] = value
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def state(random_i3d) -> dict:
    return random_i3d("flow").state_dict()


@pytest.mark.parametrize("suffix", [".npz", ".port.npz", ".pt", ".PTH", ".pth.tar", ".ckpt", ".safetensors"])
def test_every_kind_of_file_is_the_same_network(tmp_path: Path, random_i3d, state, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        write_flax(path, state, scale=True)
    elif suffix == ".port.npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    elif suffix != ".safetensors":
        torch.save({name: value for name, value in state.items() if "num_batches" not in name}, path)
    else:
        safetensors.save_file(state, path)
    net = load_i3d(path, stream="flow")
    assert (net.stream, net.training) == ("flow", False)
    own = net.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items() if "num_batches" not in name)
    assert i3d_hash(net) == i3d_hash(random_i3d("flow"))
    with torch.no_grad():
        net.logits.conv3d.bias[0] += 1
    assert i3d_hash(net) != i3d_hash(random_i3d("flow"))


def test_weights_without_a_scale(tmp_path: Path, state) -> None:
    """As released: BatchNorm only shifts."""
    write_flax(tmp_path / "w.npz", state, scale=False)
    own = load_i3d(tmp_path / "w.npz").state_dict()
    for name, value in own.items():
        if name.endswith("bn.weight"):
            assert torch.equal(value, torch.ones_like(value))
        elif "num_batches" not in name:
            assert torch.equal(value, state[name])


def test_the_released_arrays(shared_data: Path) -> None:
    net = load_i3d(shared_data / "i3d" / "i3d_kinetics400_rgb.npz")
    assert net.logits.conv3d.weight.shape == (400, 1024, 1, 1, 1)
    with np.load(shared_data / "i3d" / "i3d_kinetics400_rgb.npz") as arrays:
        kernel = arrays["params/Mixed_5c/Branch_1/Conv3d_0b_3x3/Conv_0/kernel"]
    ours = net.Mixed_5c.b1b.conv3d.weight
    assert ours[5, 3, 0, 1, 2] == kernel[0, 1, 2, 3, 5]


HEAD, BIAS = "logits.conv3d.weight", "logits.conv3d.bias"


class Net(torch.nn.Module):
    """As a program for training has one."""


def claimed(classes: int) -> dict:
    """A head of so many classes whose file has one number."""
    one = torch.zeros(1)
    return {HEAD: one.expand(classes, 1024, 1, 1, 1), BIAS: one.expand(classes)}


def compressed(path: Path, state: dict) -> None:
    """A file whose tensors are packed, as torch.save packs none but torch.load unpacks."""
    torch.save({"a": torch.zeros(17 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)


@pytest.mark.parametrize(("suffix", "prefix"), [(".pt", "module."), (".safetensors", "_orig_mod.module.")])
def test_what_training_programs_put_before_names(
    tmp_path: Path, random_i3d, state, suffix: str, prefix: str
) -> None:
    path = tmp_path / f"w{suffix}"
    named = {prefix + name: value for name, value in state.items()}
    (torch.save if suffix == ".pt" else safetensors.save_file)(named, path)
    assert i3d_hash(load_i3d(path)) == i3d_hash(random_i3d("flow"))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_weights_in_a_checkpoint(tmp_path: Path, random_i3d, state, key: str) -> None:
    named = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, key: named, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    assert i3d_hash(load_i3d(tmp_path / "w.pt")) == i3d_hash(random_i3d("flow"))


def save(change):
    def write(path: Path, state: dict) -> None:
        torch.save(change(dict(state)), path)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            save(lambda s: s | {"Mixed_4b.b0.bn.bias": torch.zeros(3)}),
            r"1 parameters .*: Mixed_4b\.b0\.bn\.bias",
        ),
        (save(lambda s: {k: v for k, v in s.items() if "5c" not in k}), r"\d+ parameters are missing.*, …\."),
        (save(lambda s: s | {"more": torch.zeros(1)}), r"unknown or of another shape than I3D's: more"),
        (
            save(lambda s: s | {"Conv3d_1a_7x7.conv3d.weight": torch.zeros(())}),
            r"Conv3d_1a_7x7\.conv3d\.weight has shape \(\); expected",
        ),
        (
            save(lambda s: s | {"Mixed_4b.b0.bn.bias": torch.full((192,), torch.nan)}),
            r"Mixed_4b\.b0\.bn\.bias holds NaN",
        ),
        (save(lambda s: {"fc.weight": torch.zeros(2, 2)}), "is not I3D: it lacks Conv3d_1a_7x7"),
        (save(lambda s: s | {"epoch": 3}), "is not a state dict of tensors"),
        (save(lambda s: [1, 2]), "is not a state dict of tensors"),
        (save(lambda s: Path("code")), r"is a pickle of Python objects \(pathlib\.\S+\), such as a whole"),
        (save(lambda s: Net()), r"\.Net\), such as a whole module .*torch\.save\(model\.state_dict\(\)"),
        (save(lambda s: {"state_dict": s, "args": Net()}), r"\.Net\), such as .* a checkpoint of more"),
        (save(lambda s: s | claimed(10**8)), "the network would take 39"),
        (compressed, "its tensors would take 68 MiB"),
        (lambda path, _: path.write_bytes(b"PK\x03\x04 cut off"), "cannot be read"),
        (lambda path, _: path.write_bytes(b""), "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, state, write, message: str) -> None:
    write(tmp_path / "w.pt", state)
    with pytest.raises(ModelError, match=rf"w\.pt: .*{message}"):
        load_i3d(tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ModelError, match=rf"w\{suffix}: the weights of I3D cannot be read"):
        load_i3d(path)


def test_a_features_file_is_not_weights(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", rgb=np.zeros((3, 1024), np.float32), meta=np.array("{}"))
    with pytest.raises(ModelError, match=r"w\.npz: is a features file"):
        load_i3d(tmp_path / "w.npz")
    (tmp_path / "w.npz").write_text("no archive")
    with pytest.raises(ModelError, match=r"w\.npz: the weights of I3D cannot be read"):
        load_i3d(tmp_path / "w.npz")
    np.savez(tmp_path / "w.npz", a=np.array("text"))
    with pytest.raises(ModelError, match=r"w\.npz: the weights of I3D cannot be read"):
        load_i3d(tmp_path / "w.npz")


def test_a_pickled_array_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.array([Path("code")], dtype=object))
    with pytest.raises(DataError, match=r"w\.npz: holds pickled Python objects, which are never loaded"):
        load_i3d(tmp_path / "w.npz")


class _Trap:
    """Pickled, it is a call of ``os.mkdir`` at loading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["w.ckpt", "w.npz", "w.safetensors"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_is_called_one_and_not_read(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(_Trap(tmp_path / "trap"), protocol))
    with pytest.raises(ModelError, match=r"w\.\w+: is a Python pickle, .* docs/video\.md") as caught:
        load_i3d(tmp_path / name)
    assert not (tmp_path / "trap").exists()
    assert "allow_pickle" not in str(caught.value)


def test_the_documented_conversion_of_a_pickle(
    tmp_path: Path, state: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_flax(tmp_path / "flat.npz", state, scale=False)
    tree: dict = {}
    with np.load(tmp_path / "flat.npz") as arrays:
        for key in arrays.files:
            kind, rest = key.split("/", 1)
            place, layer, parameter = rest.rsplit("/", 2)
            outer, _, inner = place.partition("/")
            # As in the release: a branch's name has a slash of its own.
            node = tree.setdefault(kind, {}).setdefault(outer, {})
            node = node.setdefault(inner, {}) if inner else node
            node.setdefault(layer, {})[parameter] = arrays[key]
    (tmp_path / "i3d-kinetics-400.ckpt").write_bytes(pickle.dumps(tree))
    text = (Path(__file__).parents[2] / "docs" / "video.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "pickle.load(" in block
    )
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert i3d_hash(load_i3d("i3d_rgb.npz")) == i3d_hash(load_i3d("flat.npz"))


def test_what_is_not_weights_of_this_stream(tmp_path: Path, state) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"holds weights of the flow stream, not of 'rgb'"):
        load_i3d(tmp_path / "w.pt", stream="rgb")
    safetensors.save_file(state, tmp_path / "model.safetensors", metadata={METADATA_KEY: "{}"})
    with pytest.raises(ModelError, match=r"is a detector's model.*aicl_fast\.Detector"):
        load_i3d(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"w\.bin: expected weights of I3D in one of \.npz, \.pt"):
        load_i3d((tmp_path / "w.pt").rename(tmp_path / "w.bin"))
    with pytest.raises(DataError, match="the weights of I3D does not exist"):
        load_i3d(tmp_path / "none.npz")
