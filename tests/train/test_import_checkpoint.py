"""The authors' weights in our file: equal outputs, and everything that may be wrong with such a file."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import Config, load_config  # noqa: E402
from aicl_fast.errors import ConfigError, DataError, ModelError  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402
from aicl_fast.train.import_checkpoint import NAMES, import_checkpoint  # noqa: E402
from aicl_fast.weights import load_model  # noqa: E402

_AUTHORS = {
    "f": "base_module.0",
    "cls": "cls.0",
    "f_rgb": "action_module_rgb.0",
    "cls_rgb": "cls_rgb",
    "f_flow": "action_module_flow.0",
    "cls_flow": "cls_flow",
}


@pytest.fixture
def config() -> Config:
    values = {"segments": 20, "rgb_width": 6, "flow_width": 5, "embedding_width": 8}
    return load_config("activitynet12").with_values(values).with_classes(["Jump", "Run", "Throw"])


@pytest.fixture
def net(config: Config) -> TwoBranchNet:
    torch.manual_seed(0)
    return TwoBranchNet(config).eval()


@pytest.fixture
def authors(net: TwoBranchNet) -> dict[str, Any]:
    """The network's weights under the authors' names."""
    return OrderedDict((theirs, net.state_dict()[ours].clone()) for theirs, ours in NAMES.items())


def _refusal(tmp_path: Path, document: object, config: Config) -> str:
    torch.save(document, tmp_path / "theirs.pkl")
    with pytest.raises(ModelError) as caught:
        import_checkpoint(tmp_path / "theirs.pkl", tmp_path / "model.safetensors", config)
    assert not (tmp_path / "model.safetensors").exists()
    assert "theirs.pkl" in str(caught.value)
    return str(caught.value)


def test_outputs_equal_what_the_authors_recorded(goldens: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("golden_inputs", goldens / "inputs.py")
    assert spec is not None
    assert spec.loader is not None
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    golden = np.load(goldens / "train_seed7.npz", allow_pickle=False)
    seed, length, batch = int(golden["seed"]), int(golden["T"]), int(golden["B"])
    state = {}
    for key, value in inputs.parameters(seed).items():
        layer, kind = key.rsplit(".", 1)
        state[f"actionness_module.{_AUTHORS[layer]}.{kind}"] = torch.from_numpy(value)
    torch.save(state, tmp_path / "CAS_Only.pkl")
    import_checkpoint(tmp_path / "CAS_Only.pkl", tmp_path / "model.safetensors", load_config("thumos14"))
    net, config = load_model(tmp_path / "model.safetensors")
    assert config == load_config("thumos14")
    with torch.no_grad():
        outputs = net.double()(torch.from_numpy(inputs.features(seed, length, batch)).double())
    for recorded, ours in (("cas", "CAS"), ("a_rgb", "A_rgb"), ("a_flow", "A_flow"), ("A", "A")):
        np.testing.assert_allclose(getattr(outputs, ours).numpy(), golden[recorded], rtol=1e-6, atol=1e-9)


def _bare(state: dict[str, Any]) -> object:
    return state


def _wrapped(state: dict[str, Any]) -> object:
    return {"epoch": 3, "state_dict": state}


def _parallel(state: dict[str, Any]) -> object:
    return {f"module.{key}": value for key, value in state.items()}


def _wrapped_parallel(state: dict[str, Any]) -> object:
    return {"model": _parallel(state)}


@pytest.mark.parametrize("form", [_bare, _wrapped, _parallel, _wrapped_parallel])
def test_every_form_gives_the_same_model(
    form: Callable[[dict[str, Any]], object],
    authors: dict[str, Any],
    net: TwoBranchNet,
    config: Config,
    tmp_path: Path,
) -> None:
    torch.save(form(authors), tmp_path / "theirs.pkl")
    import_checkpoint(tmp_path / "theirs.pkl", tmp_path / "model.safetensors", config)
    ours, stored = load_model(tmp_path / "model.safetensors")
    assert stored == config
    x = torch.rand(2, 20, 11)
    for name, expected, actual in zip(net(x)._fields, net(x), ours(x), strict=True):
        assert torch.equal(expected, actual), name


def test_the_old_file_format_is_read(authors: dict[str, Any], config: Config, tmp_path: Path) -> None:
    torch.save(authors, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    net = import_checkpoint(tmp_path / "old.pkl", tmp_path / "model.safetensors", config)
    assert torch.equal(net.embed.weight, authors["actionness_module.base_module.0.weight"])


def test_missing_and_unknown_keys_are_listed(authors: dict[str, Any], config: Config, tmp_path: Path) -> None:
    authors["actionness_module.cls_rbg.weight"] = authors.pop("actionness_module.cls_rgb.weight")
    authors["something.else"] = torch.ones(1)
    text = _refusal(tmp_path, authors, config)
    assert "missing: actionness_module.cls_rgb.weight" in text
    assert "cls_rbg.weight (is it actionness_module.cls_rgb.weight?)" in text
    assert "something.else" in text


def test_every_missing_key_is_listed(authors: dict[str, Any], config: Config, tmp_path: Path) -> None:
    foreign = {f"layer{number:02}.weight": torch.ones(1) for number in range(30)}
    text = _refusal(tmp_path, foreign, config)
    assert all(name in text for name in NAMES)
    assert "layer11.weight and 18 more" in text


def test_other_shapes_name_the_settings_that_fit(
    authors: dict[str, Any], config: Config, tmp_path: Path
) -> None:
    text = _refusal(tmp_path, authors, config.with_classes(list("abcd")))
    assert "actionness_module.cls.0.weight: expected (4, 8, 1), got (3, 8, 1)" in text
    assert "num_classes=3, embedding_width=8, rgb_width=6, flow_width=5" in text


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1, 2], "holds a list; expected a state dict"),
        ({"epoch": 3, "loss": 0.5}, "holds no tensors but epoch, loss"),
        ({}, "holds no tensors but nothing"),
    ],
)
def test_files_of_something_else(document: object, message: str, config: Config, tmp_path: Path) -> None:
    assert message in _refusal(tmp_path, document, config)


def test_values_that_are_no_weights(authors: dict[str, Any], config: Config, tmp_path: Path) -> None:
    name = "actionness_module.cls_flow.bias"
    assert "holds epoch, which is no tensor" in _refusal(tmp_path, {**authors, "epoch": 3}, config)
    broken = {**authors, name: torch.tensor([float("nan")])}
    assert f"{name} holds NaN" in _refusal(tmp_path, broken, config)
    assert f"{name} holds torch.int64" in _refusal(tmp_path, {**authors, name: torch.tensor([1])}, config)
    twice = {**authors, f"module.{name}": authors[name]}
    assert "there twice" in _refusal(tmp_path, twice, config)


class _Malicious:
    """Pickled, it is a call of ``os.mkdir`` at loading."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_file_is_refused_and_not_run(
    zipped: bool, authors: dict[str, Any], config: Config, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / "evil.pkl"
    torch.save({**authors, "x": _Malicious(str(trap))}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"evil\.pkl: holds more than tensors .*mkdir") as caught:
        import_checkpoint(path, tmp_path / "model.safetensors", config)
    assert not trap.exists()
    # torch's own message goes on to explain how to load such a file all the same.
    assert "weights_only" not in str(caught.value)
    # The trap is a real one.
    pickle.loads(pickle.dumps(_Malicious(str(trap))))
    assert trap.exists()


def test_a_plain_malicious_pickle_is_refused(config: Config, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(_Malicious(str(trap))))
    with pytest.raises(ModelError, match=r"evil\.pkl: holds more than tensors"):
        import_checkpoint(path, tmp_path / "model.safetensors", config)
    assert not trap.exists()


def test_damaged_files(authors: dict[str, Any], config: Config, tmp_path: Path) -> None:
    path = tmp_path / "cut.pkl"
    torch.save(authors, path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\x00" * 64, b"not a checkpoint at all"):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"cut\.pkl: ") as caught:
            import_checkpoint(path, tmp_path / "model.safetensors", config)
        assert "run code" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(ModelError, match=r"array\.npy: .*not a file that torch\.save wrote"):
        import_checkpoint(tmp_path / "array.npy", tmp_path / "model.safetensors", config)
    with pytest.raises(DataError, match="the checkpoint does not exist"):
        import_checkpoint(tmp_path / "none.pkl", tmp_path / "model.safetensors", config)


def test_a_preset_of_another_input_is_refused(config: Config, tmp_path: Path) -> None:
    for change in ({"streams": "rgb"}, {"standardize_input": True}):
        with pytest.raises(ConfigError, match="reads both streams as they are"):
            import_checkpoint(tmp_path / "x.pkl", tmp_path / "y.safetensors", config.with_values(change))


def test_a_preset_without_names_needs_some(authors: dict[str, Any], config: Config, tmp_path: Path) -> None:
    torch.save(authors, tmp_path / "theirs.pkl")
    nameless = replace(config, classes=())
    with pytest.raises(ConfigError, match=r"names of its 3 classes.*--gt FILE.*--set classes=.*--config"):
        import_checkpoint(tmp_path / "theirs.pkl", tmp_path / "model.safetensors", nameless)
    assert not (tmp_path / "model.safetensors").exists()


def test_the_command(
    run: Callable[..., str], authors: dict[str, Any], config: Config, tmp_path: Path
) -> None:
    torch.save(authors, tmp_path / "theirs.pkl")
    target = tmp_path / "model.safetensors"
    sizes = ("segments=20", "rgb_width=6", "flow_width=5", "embedding_width=8", "num_classes=3")
    options = [part for size in sizes for part in ("--set", size)]
    command = ["import-checkpoint", "theirs.pkl", target, "-p", "activitynet12"]
    names = tmp_path / "names.toml"
    names.write_text('classes = ["Jump", "Run", "Throw"]')
    truth = tmp_path / "gt.json"
    for given in (
        ["--set", "classes=Jump,Run,Throw"],
        ["--config", names],
        ["--gt", _write_truth(truth, ["Throw", "Jump", "Run"])],
    ):
        target.unlink(missing_ok=True)
        assert "3 classes" in run(*command, *options, *given)
        assert load_model(target)[1] == config
    text = run(*command, *options, "--gt", _write_truth(truth, ["Jump", "Run"]), expect=2)
    assert "has 2 labels, and the preset activitynet12 3 classes" in text
    assert "theirs.pkl: " in run(*command, "--set", "classes=Jump,Run", expect=2)
    assert "--set classes=" in run(*command, expect=2)


def _write_truth(path: Path, labels: list[str]) -> Path:
    annotations = [{"label": label, "segment": [0, 1]} for label in labels]
    path.write_text(json.dumps({"database": {"clip": {"subset": "training", "annotations": annotations}}}))
    return path


def test_a_view_that_claims_far_more_than_its_file(
    authors: dict[str, Any], config: Config, tmp_path: Path
) -> None:
    """One number, said to be a weight of 3 GB."""
    authors["actionness_module.cls_flow.bias"] = torch.zeros(1).expand(800_000_000)
    assert "its tensors would take 3,05" in _refusal(tmp_path, authors, config)
