"""Presets hold the published constants; overrides are typed, checked and explained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from aicl_fast.config import PRESETS, Config, load_config
from aicl_fast.errors import AiclError, ConfigError, DataError


def test_thumos14_has_the_published_constants() -> None:
    c = load_config("thumos14")
    assert (c.data.segments, c.model.embedding_width, c.model.num_classes) == (750, 512, 20)
    assert (c.topk, c.mined, c.model.fusion_gamma) == (93, 37, 1 / 3)
    assert (c.loss.weight_contrast, c.loss.weight_modality, c.loss.weight_consistency) == (0.01, 5, 0.1)
    assert (c.loss.gce_q, c.loss.temperature) == (0.7, 0.1)
    assert (c.train.lr, c.train.weight_decay, c.train.batch_size, c.train.steps) == (1e-4, 5e-4, 16, 900 * 13)
    assert c.decode.thresholds == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert (c.decode.outer_ratio, c.decode.nms_tiou, c.decode.nms_sigma) == (0.2, 0.4, 0.35)
    assert c.evaluate.tious == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert c.classes[10] == "HammerThrow"


@pytest.mark.parametrize(
    ("name", "width", "classes"), [("activitynet12", 512, 100), ("activitynet13", 1024, 200)]
)
def test_activitynets_have_the_published_constants(name: str, width: int, classes: int) -> None:
    c = load_config(name)
    assert (c.data.segments, c.topk, c.mined) == (50, 25, 2)
    assert (c.model.embedding_width, c.model.num_classes, c.model.fusion_gamma) == (width, classes, 0.5)
    assert (c.train.batch_size, c.train.steps) == (32, 50_000)
    assert (c.decode.class_threshold, c.decode.nms_tiou) == (0.1, 0.7)
    assert len(c.evaluate.tious) == 10


def test_presets_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["thumos14"].train.lr = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        PRESETS["thumos14"] = PRESETS["demo"]  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_config_survives_being_stored(name: str) -> None:
    config = load_config(name, overrides=["lr=3e-4"])
    assert Config.from_dict(config.to_dict()) == config


def test_overrides_by_field_and_by_section() -> None:
    c = load_config(
        overrides=["steps=1_000", "train.lr=2e-3", "nms=gaussian", "thresholds=0.2, 0.4", "keep=test"]
    )
    assert (c.train.steps, c.train.lr, c.decode.nms, c.decode.thresholds) == (
        1000,
        2e-3,
        "gaussian",
        (0.2, 0.4),
    )
    assert c.train.keep == "test"
    assert load_config("demo", overrides=["standardize_input=no"]).model.standardize_input is False
    assert load_config("demo", overrides=["selection_gamma=0.5"]).train.selection_gamma == 0.5
    assert load_config("demo", overrides=["selection_gamma=none"]).train.selection_gamma is None
    assert [load_config(overrides=[f"modal={m}"]).data.input_width for m in ("both", "rgb")] == [2048, 1024]


def test_a_toml_file_lies_between_preset_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('preset = "demo"\nlr = 0.01\nclasses = ["a", "b"]\n[train]\nsteps = 5\nseed = 9\n')
    c = load_config(file=file, overrides=["seed=3"])
    assert (c.preset, c.train.lr, c.train.steps, c.train.seed) == ("demo", 0.01, 5, 3)
    assert (c.classes, c.model.num_classes) == (("a", "b"), 2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.step=3", "train.steps"),
        ("learning=3", "no such setting"),
        ("lr", "name=value"),
        ("=3", "name=value"),
        ("lr=fast", "a number"),
        ("steps=1.5", "whole number"),
        ("steps=0", "at least 1"),
        ("nms=best", "decay_once, hard, gaussian"),
        ("standardize_input=maybe", "true or false"),
        ("thresholds=", "at least one"),
        ("thresholds=0.1,nan", "finite"),
        ("fusion_gamma=2", "between 0 and 1"),
        ("model.lr=1", "no such setting"),
        ("selection_gamma=1.5", "none, or 0 to 1"),
        ("patience=3", "needs keep=val"),
        ("modal=audio", "both, rgb, flow"),
    ],
)
def test_a_wrong_override_says_what_was_expected(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(overrides=[override])


def test_an_unknown_preset_lists_the_near_ones() -> None:
    with pytest.raises(ConfigError, match="Did you mean thumos14"):
        load_config("thumos")


def test_toml_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.toml"):
        load_config(file=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("lr = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_config(file=tmp_path / "bad.toml")
    (tmp_path / "section.toml").write_text("[trian]\nlr = 3")
    with pytest.raises(ConfigError, match=r"no section \[trian\].*train"):
        load_config(file=tmp_path / "section.toml")


def test_class_names_must_fit_their_number() -> None:
    with pytest.raises(AiclError, match=r"2 names for model.num_classes = 20"):
        dataclasses.replace(load_config("thumos14"), classes=("a", "b"))
