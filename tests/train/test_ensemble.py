"""Ensembles: one network with the mean of its members' logits, in every format, by one command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast import Detector  # noqa: E402
from aicl_fast.config import Config  # noqa: E402
from aicl_fast.errors import ModelError  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402
from aicl_fast.train.ensemble import merge_networks  # noqa: E402
from aicl_fast.weights import load_model, save_model  # noqa: E402

Run = Callable[..., str]


def member(config: Config, seed: int, width: int | None = None) -> tuple[TwoBranchNet, Config]:
    torch.manual_seed(seed)
    if width:
        config = replace(config, model=replace(config.model, embedding_width=width))
    net = TwoBranchNet(config).eval()
    if config.model.standardize_input:
        size = config.data.input_width
        net.set_input_statistics(torch.linspace(-1, 1, size), torch.linspace(0.5, 2, size))
    return net, config


@pytest.mark.parametrize("streams", ["both", "rgb", "flow"])
@pytest.mark.parametrize("standardise", [True, False])
def test_the_logits_are_the_members_mean(tiny_config: Config, streams: str, standardise: bool) -> None:
    config = tiny_config.with_values({"streams": streams, "standardize_input": standardise})
    members = [member(config, seed, width) for seed, width in enumerate((8, 5, 16))]
    net, merged = merge_networks(members, ["a", "b", "c"])
    assert merged.model.embedding_width == 29
    assert replace(merged, model=config.model) == config
    x = torch.randn(2, 32, config.data.input_width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, each = net(x), [one(x) for one, _ in members]
    torch.testing.assert_close(found.CAS, torch.stack([one.CAS for one in each]).mean(0))
    for name in ("A_rgb", "A_flow"):
        logits = torch.stack([torch.logit(getattr(one, name)) for one in each]).mean(0)
        torch.testing.assert_close(getattr(found, name), logits.sigmoid())


def test_an_ensemble_of_one_model_twice_is_that_model(tiny_config: Config) -> None:
    one = member(tiny_config, 0)
    net, _ = merge_networks([one, one], ["a", "a"])
    x = torch.randn(1, 32, tiny_config.data.input_width)
    with torch.no_grad():
        torch.testing.assert_close(net(x).A_score, one[0](x).A_score)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"segments": 64}, "data.segments"),
        ({"fps": 5.0}, "data.fps"),
        ({"fusion_gamma": 0.9}, "model.fusion_gamma"),
        ({"rgb_width": 7}, "data.rgb_width"),
        ({"streams": "rgb"}, "data.streams"),
    ],
)
def test_what_does_not_belong_together(tiny_config: Config, values: dict[str, Any], words: str) -> None:
    other = tiny_config.with_values(values)
    with pytest.raises(ModelError, match=f"a and b: differ in {words}"):
        merge_networks([member(tiny_config, 0), member(other, 1)], ["a", "b"])


def test_other_classes_other_recordings_and_too_few(tiny_config: Config) -> None:
    one = member(tiny_config, 0)
    renamed = replace(tiny_config, classes=tuple(f"{name}2" for name in tiny_config.classes))
    with pytest.raises(ModelError, match="differ in classes"):
        merge_networks([one, member(renamed, 1)], ["a", "b"])
    net, config = member(tiny_config, 1)
    net.input_mean += 1
    with pytest.raises(ModelError, match="were trained on other recordings"):
        merge_networks([one, (net, config)], ["a", "b"])
    with pytest.raises(ModelError, match="at least two models, got 1"):
        merge_networks([one], ["a"])
    with pytest.raises(ModelError, match="at most 16384"):
        merge_networks([one] * 2049, ["a"] * 2049)


def test_the_command_and_an_export(run: Run, tiny_config: Config, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    for seed, power in enumerate((0.2, 0.3)):
        net, config = member(tiny_config, seed)
        config = replace(config, decode=replace(config.decode, class_power=power))
        save_model(tmp_path / f"{seed}.safetensors", net, config)
    models = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    text = run("ensemble", *models, "-o", tmp_path / "all.safetensors")
    assert "differ in their decoding" in text
    config = load_model(tmp_path / "all.safetensors")[1]
    assert config.decode.class_power == 0.2
    run("export", tmp_path / "all.safetensors")
    rows = np.random.default_rng(0).random((50, config.data.input_width), dtype=np.float32)
    with Detector(tmp_path / "all.onnx") as exported, Detector(tmp_path / "all.safetensors") as weights:
        np.testing.assert_allclose(exported.scores(rows).fused, weights.scores(rows).fused, atol=1e-5)
    assert "expected a name that ends in" in run("ensemble", *models, "-o", "all.onnx", expect=2)
    assert "at least two models" in run("ensemble", models[0], "-o", "x.safetensors", expect=2)


def test_training_several_seeds(run: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    options = ("train", "-p", "demo", "-d", tiny_dataset, "-o", "run", "--seeds", 2)
    for name in ("steps=2", "segments=32", "rgb_width=6", "flow_width=5", "embedding_width=8", "seed=3"):
        options += ("--set", name)
    text = run(*options)
    net, config = load_model(tmp_path / "run/model.safetensors")
    members = [load_model(tmp_path / f"run/seed-{seed}/model.safetensors") for seed in (3, 4)]
    assert [each.train.seed for _, each in members] == [3, 4]
    assert config.model.embedding_width == 16
    expected, _ = merge_networks(members, ["a", "b"])
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name])
    assert "seed-4: average mAP" in text
    assert json.loads((tmp_path / "run/metrics.json").read_text())["step"] == 2
    assert "holds a run" in run(*options, expect=2)
    before = (tmp_path / "run/model.safetensors").read_bytes()
    run(*options, "--resume")
    assert (tmp_path / "run/model.safetensors").read_bytes() == before
