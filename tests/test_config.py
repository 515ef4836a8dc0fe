"""Presets hold the published constants; overrides are typed, checked and explained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.config import PRESETS, Config, DataConfig, DecodeConfig, LossConfig, TrainConfig, load_config
from aicl_fast.data.scores import Scores
from aicl_fast.decode.decoder import Decoder, available_backends
from aicl_fast.decode.fusion import postprocess
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
        overrides=[
            "steps=1_000",
            "train.lr=2e-3",
            "nms=gaussian",
            "thresholds=0.2, 0.4",
            "keep=test",
            "eval_every=50",
        ]
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
    assert [load_config(overrides=[f"streams={m}"]).data.input_width for m in ("both", "rgb")] == [2048, 1024]


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
        ("learning=3", "no such setting.*`aicl-fast info --preset thumos14` lists them"),
        ("lr", "name=value"),
        ("=3", "name=value"),
        ("lr=fast", "a number"),
        ("steps=1.5", "whole number"),
        ("steps=0", "at least 1"),
        ("nms=best", "decay_once, hard, gaussian"),
        ("standardize_input=maybe", "true or false"),
        ("thresholds=", "at least one"),
        ("thresholds=0.1,nan", "finite"),
        ("fusion_gamma=2", "from 0 to 1"),
        ("model.lr=1", "no such setting"),
        ("selection_gamma=1.5", "from 0 to 1 or none"),
        ("patience=3", "needs keep=val"),
        ("keep=val", "Set eval_every to a number from 1 to 11700, or keep=last"),
        ("ramp_steps=-1", "at least 0 or all"),
        ("ramp_steps=every", "a whole number or all"),
        ("seed=99999999999999999999999", "64 bits"),
        ("temperature=inf", "temperature: expected a finite number"),
        ("temperature=0", "a positive number"),
        ("clip_norm=nan", "a finite number"),
        ("min_score=inf", "a finite number"),
        ("segments=100000000000", "from 2 to 100000"),
        ("embedding_width=10000000", "from 1 to 16384"),
        ("rgb_width=10000000", "from 1 to 65536"),
        ("num_classes=10000000", "from 1 to 100000"),
        ("upscale=100000", "from 1 to 10000"),
        ("merge_gap=-1", "from 0 to 1e\\+30"),
        ("min_seconds=nan", "a finite number"),
        ("density_weight=-0.1", "from 0 to 1e\\+100"),
        ("streams=audio", "both, rgb, flow"),
    ],
)
def test_a_wrong_override_says_what_was_expected(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(overrides=[override])


@pytest.mark.parametrize("keep", ["val", "test"])
def test_a_choice_of_weights_needs_evaluations(keep: str) -> None:
    for every in (0, 2000):
        with pytest.raises(ConfigError, match=rf"eval_every={every} there is none in 1200 steps"):
            load_config("demo", overrides=[f"keep={keep}", f"eval_every={every}"])
    with pytest.raises(ConfigError, match=r"train\.keep"):
        load_config("demo", overrides=[f"keep={keep}", "patience=2"])
    last = load_config("demo", overrides=[f"keep={keep}", "eval_every=1200"])
    assert last.train.keep == keep


def test_a_file_of_a_choice_that_was_never_made_still_reads() -> None:
    stored = load_config("demo").to_dict()
    stored["train"].update({"keep": "test", "patience": 4, "eval_every": 0})
    config = Config.from_dict(stored)
    assert (config.train.keep, config.train.patience) == ("last", 0)


def test_names_of_earlier_versions_still_read() -> None:
    stored = load_config("demo").to_dict()
    stored["train"]["precision"] = "bfloat16"
    del stored["data"]["streams"]
    stored["data"]["modal"] = "rgb"
    config = Config.from_dict(stored)
    assert (config.train.precision, config.data.streams) == ("bf16", "rgb")
    assert load_config(overrides=["modal=flow"]).data.streams == "flow"
    assert load_config(overrides=["precision=float32"]).train.precision == "fp32"


def test_the_ramp_follows_the_steps() -> None:
    demo = load_config("demo")
    assert demo.train.ramp == demo.train.steps
    assert load_config("demo", overrides=["steps=300"]).train.ramp == 300
    assert demo.with_values({"steps": 300, "warmup_steps": 100}).train.ramp == 200
    assert demo.with_values({"steps": 300, "warmup_steps": 400}).train.ramp == 0
    stored = demo.to_dict()
    stored["train"]["ramp_steps"] = 1200
    assert Config.from_dict(stored).train.ramp == 1200


def test_numbers_from_python_become_its_own() -> None:
    config = DecodeConfig(
        upscale=np.int16(8),  # type: ignore[arg-type]
        max_detections=5.0,  # type: ignore[arg-type]
        thresholds=np.array([0.5, 0.25], np.float32),  # type: ignore[arg-type]
        nms_tiou=np.float32(0.5),  # type: ignore[arg-type]
    )
    data = DataConfig(fps=25, frames_per_segment=8.0)  # type: ignore[arg-type]
    assert (config.upscale, config.max_detections, config.nms_tiou) == (8, 5, 0.5)
    assert config.thresholds == (0.5, 0.25)
    values = (config.upscale, config.max_detections, *config.thresholds, config.nms_tiou, data.fps)
    assert [type(value) for value in values] == [int, int, float, float, float, float]
    assert type(data.frames_per_segment) is int
    # As they are stored in a model file.
    json.dumps(dataclasses.asdict(config))


@pytest.mark.parametrize(
    ("section", "name", "value", "words"),
    [
        (DecodeConfig, "upscale", 24.5, "a whole number"),
        (DecodeConfig, "upscale", True, "a whole number"),
        (DecodeConfig, "upscale", np.True_, "a whole number"),
        (DecodeConfig, "upscale", "24", "a whole number"),
        (DecodeConfig, "max_detections", None, "a whole number"),
        (DecodeConfig, "max_detections", float("nan"), "a whole number"),
        (DecodeConfig, "max_detections", 2**70, "64 bits"),
        (DecodeConfig, "nms_tiou", "0.4", "a number"),
        (DecodeConfig, "nms_across_classes", "yes", "true or false"),
        (DecodeConfig, "nms", "soft", "decay_once, hard, gaussian"),
        (DecodeConfig, "thresholds", 0.5, "several values"),
        (DecodeConfig, "thresholds", np.array(0.5), "several values"),
        (DecodeConfig, "thresholds", ("0.5",), "a number"),
        (DataConfig, "frames_per_segment", 8.5, "a whole number"),
        (DataConfig, "recipe", 3, "text"),
        (TrainConfig, "selection_gamma", "none", "a number or none"),
        (TrainConfig, "ramp_steps", "3", "a whole number or all"),
        (LossConfig, "gce_q", [0.7], "a number"),
    ],
)
def test_a_setting_of_another_type_is_named(section: Any, name: str, value: object, words: str) -> None:
    home = section.__name__.removesuffix("Config").lower()
    with pytest.raises(ConfigError, match=rf"{home}\.{name}: expected .*{words}"):
        section(**{name: value})


@pytest.mark.parametrize("backend", available_backends())
def test_decoding_takes_whole_floats_and_refuses_other_counts(backend: Any) -> None:
    scores, v = np.array([[0.0], [1.0], [0.0]]), np.ones(1)
    decoder = Decoder(DecodeConfig(upscale=8), "a", backend)
    other = Decoder(DecodeConfig(upscale=8.0, max_detections=0.0), "a", backend)  # type: ignore[arg-type]
    wanted = decoder.decode(scores, v, 3, 25.0, 8)
    assert other.decode(scores, v, 3, 25, 8.0) == wanted  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"num_segments is 2199023255552; expected .* from 1 to 2\*\*40"):
        decoder.decode(scores, v, 2**41, 25.0, 8)
    several = [Scores(scores, v, np.empty(0), np.empty(0), 3, 25.0, 8, ("a",))]
    for threads in ("2", 1.5, True):
        with pytest.raises(ConfigError, match="threads: expected at least 1"):
            decoder.batch(several, threads)  # type: ignore[arg-type]
    assert decoder.batch(several, np.int64(2)) == [wanted]  # type: ignore[arg-type]


@pytest.mark.parametrize("fps", ["25", float("inf"), 0])
def test_a_frame_rate_that_is_none(fps: Any) -> None:
    cas, a = np.zeros((9, 20)), np.full(9, 0.5)
    with pytest.raises(ConfigError, match="fps: expected"):
        postprocess(cas, a, a, num_segments=9, fps=fps)


def test_an_unknown_preset_lists_the_near_ones() -> None:
    with pytest.raises(ConfigError, match="Did you mean thumos14"):
        load_config("thumos")


def test_toml_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.toml"):
        load_config(file=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("lr = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_config(file=tmp_path / "bad.toml")
    (tmp_path / "bare.toml").write_text("streams = rgb")
    with pytest.raises(ConfigError, match=r'bare\.toml: .*Text stands in quotes: streams = "rgb"'):
        load_config(file=tmp_path / "bare.toml")
    for text, words in (
        ("clases = ['a']", "clases: there is no such setting"),
        ("[train]\nstepz = 3", r"train\.stepz: there is no such setting"),
        ("steps = 'many'", "steps: expected a whole number"),
        ("classes = ['a', 'a']", "classes: "),
    ):
        (tmp_path / "value.toml").write_text(text)
        with pytest.raises(ConfigError, match=rf"value\.toml: {words}"):
            load_config(file=tmp_path / "value.toml")
    (tmp_path / "value.toml").write_text("steps = 3")
    with pytest.raises(ConfigError, match=r"^train\.steps: expected a whole number"):  # replaced
        load_config(file=tmp_path / "value.toml", overrides=["train.steps=many"])
    (tmp_path / "section.toml").write_text("[trian]\nlr = 3")
    with pytest.raises(ConfigError, match=r"no section \[trian\].*train"):
        load_config(file=tmp_path / "section.toml")


def test_class_names_must_fit_their_number() -> None:
    with pytest.raises(AiclError, match=r"2 names for model.num_classes = 20"):
        dataclasses.replace(load_config("thumos14"), classes=("a", "b"))


@pytest.mark.parametrize(
    "text",
    ["a" + ".a" * 30_000 + " = 1", "[" + "a . " * 9 + "a]", "'x'" + ".'x'" * 9 + " = 1", "x = " + "[" * 2000],
    ids=["key", "table", "quoted key", "arrays"],
)
def test_settings_that_are_nested_deep_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(
        ConfigError, match=r"settings\.toml: has a key of more than 8 parts, or more than 1000"
    ):
        load_config(file=path)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 900,
        "x = " + "9" * 5000,
        'classes = ["a',
        'classes = ["a"]\n"\u00e9" = 1\n"e\u0301" = 1',
    ],
    ids=["nested", "digits", "open string", "one key in two forms"],
)
def test_whatever_a_settings_file_holds_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"settings\.toml: "):
        load_config(file=path)


def test_a_settings_file_that_is_far_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("#" * 1_100_000)
    with pytest.raises(DataError, match=r"settings\.toml: has 1100000 bytes"):
        load_config(file=path)


def test_class_names_are_clean(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(
        '\ufeffclasses = [" St.  a.b.c.d.e.f.g.h.i.j", "cafe\u0301\\u202e"] # a.b.c.d.e.f.g.h.i.j\n'
    )
    expected = ("St. a.b.c.d.e.f.g.h.i.j", "caf\u00e9")
    assert load_config(file=path).classes == expected
    assert load_config(overrides=["classes=St.  a.b.c.d.e.f.g.h.i.j,cafe\u0301"]).classes == expected


def test_a_class_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('classes = ["jump", "run", " jump"]')
    stored = load_config().with_classes(["jump", "run"]).to_dict()
    for refused in (
        lambda: load_config(file=path),
        lambda: load_config(overrides=["classes=jump,jump,run"]),
        lambda: load_config().with_classes(["jump", "cafe\u0301", "caf\u00e9"]),
        lambda: Config.from_dict({**stored, "classes": ["jump", "jump"]}),
    ):
        with pytest.raises(ConfigError, match=r"classes: '(jump|caf\u00e9)' is there twice"):
            refused()
    for name in ("", " ", "\u200b"):
        with pytest.raises(ConfigError, match="expected the name of a class"):
            load_config().with_classes(["jump", name])


def test_overrides_are_a_list() -> None:
    with pytest.raises(ConfigError, match=r"overrides: expected a list of name=value, got the text 'fps=3'"):
        load_config(overrides="fps=3")


@pytest.mark.parametrize(
    ("other", "ours"), [("learning_rate", "lr"), ("train.epochs", "steps"), ("batch", "batch_size")]
)
def test_what_others_call_a_setting_is_named(other: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{other}: there is no such setting\. It is called {ours}"):
        load_config("own", overrides=[f"{other}=3"])
