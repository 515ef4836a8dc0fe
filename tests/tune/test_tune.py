"""Tuning: the curves that trials decode, the search, what is refused, and what is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast import Detector
from aicl_fast.config import DecodeConfig, WindowsConfig
from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import AiclWarning, ConfigError, DataError, ModelError
from aicl_fast.tune import SPACE, Curves, collect_curves, timed_videos

optuna = pytest.importorskip("optuna")

from aicl_fast.tune import tune  # noqa: E402
from aicl_fast.tune.search import Recordings  # noqa: E402

Run = Callable[..., str]


def _dataset(folder: Path, config: Any) -> Dataset:
    return Dataset.open(folder, config)


@pytest.mark.parametrize("gamma", [None, 0.2, 1.0])
@pytest.mark.parametrize("power", ["auto", 0.0, 0.7])
@pytest.mark.parametrize("window", ["off", 40])
def test_curves_decode_as_the_model_does(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, gamma: float | None, power: Any, window: Any
) -> None:
    """Of a model with these settings, whole and in windows."""
    from aicl_fast.weights import load_model, save_model

    net, _ = load_model(tiny_model)
    windows = WindowsConfig() if window == "off" else WindowsConfig(window=window * 0.32)
    decode = DecodeConfig(class_threshold=0.1, class_power=power, nms="gaussian")
    with Detector(tiny_model, windows=windows) as detector:
        dataset = _dataset(tiny_dataset, detector.config)
        names = dataset.videos["test"]
        curves = collect_curves(detector, dataset, "test", names, net=None if gamma is None else net)
        config = replace(detector.config, decode=decode)
    if gamma is not None:
        config = replace(config, model=replace(config.model, fusion_gamma=gamma))
    save_model(tmp_path / "model.safetensors", net, config)
    found = Recordings(curves, dataset.truth("test"), config).detections(config)
    with Detector(tmp_path / "model.safetensors", windows=windows) as tuned:
        for name in names:
            expected = tuned.scores(dataset.features("test", name), video=name)
            fused, video_scores = curves[name].scores(config.model.fusion_gamma, decode)
            np.testing.assert_allclose(fused, expected.fused, atol=2e-6)
            np.testing.assert_allclose(video_scores, expected.video_scores, atol=2e-6)
            again = replace(expected, fused=fused, video_scores=video_scores)
            assert found[name] == tuned.decode(again)
            assert len(found[name])


def test_a_model_without_classes_in_its_scores_is_refused(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    from aicl_fast.weights import load_model, save_model

    net, config = load_model(tiny_model)
    config = replace(config, model=replace(config.model, fusion_gamma=0.0))
    save_model(tmp_path / "model.safetensors", net, config)
    with Detector(tmp_path / "model.safetensors") as detector:
        dataset = _dataset(tiny_dataset, detector.config)
        with pytest.raises(ModelError, match="γ = 0"):
            collect_curves(detector, dataset, "test", dataset.videos["test"])


def made(number: int, seed: int = 0) -> tuple[dict[str, Curves], GroundTruth]:
    """Recordings of one class whose actions softmax(CAS) shows, and which the agnostic branch hides."""
    rng = np.random.default_rng(seed)
    curves, videos = {}, {}
    for index in range(number):
        aware = rng.uniform(0, 0.1, (60, 2)).astype(np.float32)
        starts = (6 + rng.integers(0, 6), 36 + rng.integers(0, 6))
        for start in starts:
            aware[start : start + 12, 0] = rng.uniform(0.75, 0.95, 12)
        agnostic = np.full(60, 0.95, np.float32)
        classes = np.ones_like(aware)  # so that γ alone can help
        name = f"v{index}"
        curves[name] = Curves(aware, agnostic, classes, np.array([0.9, 0.1], np.float32), 60, False)
        times = np.array([(start * 0.64, (start + 12) * 0.64) for start in starts])
        videos[name] = VideoAnnotation("train", ("x", "x"), times)
    return curves, GroundTruth(videos)


@pytest.fixture
def two_classes(tiny_config: Any) -> Any:
    config = tiny_config.with_classes(["x", "y"])
    data = replace(config.data, fps=25.0, frames_per_segment=16)
    return replace(config, data=data, model=replace(config.model, fusion_gamma=0.05))


def test_what_matters_is_found_and_holds_on_recordings_left_out(two_classes: Any) -> None:
    curves, truth = made(60)
    calls: list[tuple[int, int]] = []
    tuned = tune(
        curves,
        truth,
        two_classes,
        trials=25,
        folds=3,
        progress=lambda done, every: calls.append((done, every)),
    )
    assert tuned.config.model.fusion_gamma > 0.2
    assert tuned.searched > 0.9
    assert tuned.gain > 0.5
    assert len(tuned.before) == len(tuned.held_out) == 3
    assert tuned.searched <= max(value for _, value in tuned.trials)
    assert (tuned.videos, tuned.instances) == (60, 120)
    assert calls == [(done, 100) for done in range(1, 101)]
    assert {choice.name for choice in tuned.choices} == set(SPACE)
    by_name = {choice.name: choice for choice in tuned.choices}
    gamma = by_name["model.fusion_gamma"]
    assert (gamma.before, gamma.after) == (0.05, tuned.config.model.fusion_gamma)
    assert len(gamma.folds) == 3
    # What was reported of the choice is what its settings give.
    recordings = Recordings(curves, truth, two_classes)
    assert recordings.average(recordings.detections(tuned.config)) == tuned.searched
    again = tune(curves, truth, two_classes, trials=25, folds=3)
    assert (again.config, again.held_out) == (tuned.config, tuned.held_out)
    other = tune(curves, truth, two_classes, trials=25, folds=3, seed=1)
    assert other.config != tuned.config


def test_gamma_stays_where_it_cannot_be_changed(two_classes: Any) -> None:
    curves, truth = made(50)
    tuned = tune(curves, truth, two_classes, gamma=False, trials=4, folds=2)
    assert tuned.config.model == two_classes.model


def test_the_settings_as_they_were_are_the_first_trial(two_classes: Any) -> None:
    curves, truth = made(50)
    tuned = tune(curves, truth, two_classes, trials=3, folds=2)
    recordings = Recordings(curves, truth, two_classes)
    values, measured = tuned.trials[0]
    assert values["decode.class_threshold"] == two_classes.decode.class_threshold
    assert measured == recordings.average(recordings.detections(two_classes))
    assert tuned.searched >= measured


def test_what_gains_nothing_certain_stays_as_it_was(two_classes: Any) -> None:
    """γ alone helps: the recordings have no short gaps, no dense proposals, and one class."""
    curves, truth = made(60)
    tuned = tune(curves, truth, two_classes, trials=25, folds=2)
    changed = {choice.name for choice in tuned.choices if choice.before != choice.after}
    assert "model.fusion_gamma" in changed
    assert len(changed) <= 4


def test_averages_of_weighted_recordings_are_those_of_the_recordings_alone(two_classes: Any) -> None:
    curves, truth = made(12)
    config = replace(two_classes, model=replace(two_classes.model, fusion_gamma=0.15))
    every = Recordings(curves, truth, config)
    found = every.detections(config)
    weights = np.zeros((1, 12))
    weights[0, [1, 4, 7]] = 1
    some = every.of(["v1", "v4", "v7"])
    alone = some.average({name: found[name] for name in ("v1", "v4", "v7")})
    assert every.averages(found, weights)[0] == pytest.approx(alone)
    assert 0 < alone < 1


def test_too_few_are_refused_and_few_warned_of(two_classes: Any) -> None:
    curves, truth = made(9)
    with pytest.raises(DataError, match="18 annotated instances in 9 recordings are too few"):
        tune(curves, truth, two_classes, trials=3, folds=2)
    curves, truth = made(12)
    with pytest.raises(DataError, match="expected at least 20 in 13 recordings"):
        tune(curves, truth, two_classes, trials=3, folds=13)
    with pytest.warns(AiclWarning, match="24 annotated instances in 12 recordings: below 100"):
        tune(curves, truth, two_classes, trials=3, folds=2)
    with pytest.raises(ConfigError, match="at least 2 folds and 3 trials"):
        tune(curves, truth, two_classes, folds=1)


def test_labels_without_times_are_no_times() -> None:
    def video(times: list[list[float]], duration: float | None) -> VideoAnnotation:
        return VideoAnnotation("train", ("x",) * len(times), np.array(times).reshape(-1, 2), duration)

    truth = GroundTruth({
        "times": video([[1.0, 2.0]], 10.0),
        "one of two": video([[0.0, 10.0], [1.0, 2.0]], 10.0),
        "whole": video([[0.0, 10.0]], 10.0),
        "unknown length": video([[0.0, 0.0]], None),
        "from the start": video([[0.0, 4.0]], None),
        "nothing": video([], 5.0),
    })  # fmt: skip
    assert timed_videos(truth) == ["times", "one of two", "from the start"]


@pytest.fixture
def timed_dataset(tiny_dataset: Path, add_times: Callable[[Path], Path]) -> Path:
    """The tiny data set with enough instances."""
    return add_times(tiny_dataset)


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_the_command_writes_the_settings(
    run: Run,
    tiny_model: Path,
    timed_dataset: Path,
    tmp_path: Path,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aicl_fast.tune import search

    # Of an untrained network no change gains anything certain.
    monkeypatch.setattr(search, "_kept", lambda recordings, best, *_: best)
    model = tmp_path / f"model{suffix}"
    shutil.copyfile(tiny_model.with_suffix(suffix), model)
    before = model.read_bytes()
    options = ("--data", timed_dataset, "--trials", 4, "--folds", 2)
    text = run("tune", model, *options, "--dry-run", "--picture", tmp_path / "tune.png")
    assert model.read_bytes() == before
    assert (tmp_path / "tune.png").stat().st_size > 10_000
    assert "mean over 2 folds" in " ".join(text.split())
    assert ("keeps its γ" in text) == (suffix == ".onnx")
    out = tmp_path / f"out{suffix}"
    text = run("tune", model, *options, "--force", "-o", out)
    assert model.read_bytes() == before
    with Detector(out) as tuned, Detector(model) as own:
        assert tuned.config.decode != own.config.decode
        assert replace(tuned.config, decode=own.config.decode, model=own.config.model) == own.config
        assert tuned.engine.info.weights == own.engine.info.weights
        if suffix == ".onnx":
            assert tuned.config.model == own.config.model
        rows = np.random.default_rng(0).random((30, own.config.data.input_width), dtype=np.float32)
        np.testing.assert_array_equal(tuned.scores(rows).actionness, own.scores(rows).actionness)
    run("tune", model, *options, "--force")
    assert model.read_bytes() == out.read_bytes()


def test_weights_with_gamma_0_are_tuned(
    run: Run, tiny_model: Path, timed_dataset: Path, tmp_path: Path
) -> None:
    from aicl_fast.weights import load_model, save_model

    net, config = load_model(tiny_model)
    model = tmp_path / "model.safetensors"
    save_model(model, net, replace(config, model=replace(config.model, fusion_gamma=0.0)))
    text = run("tune", model, "-d", timed_dataset, "--trials", 4, "--folds", 2, "--force")
    assert "model.fusion_gamma" in text
    assert load_model(model)[1].model.fusion_gamma >= 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.safetensors"], "none.safetensors: the model file does not exist"),
        (["MODEL", "--split", "val"], "--split: expected train or test, got 'val'"),
        (["MODEL", "-o", "x.onnx"], "expected a name that ends in .safetensors"),
        (["model.engine"], "are written into weights (.safetensors) and .onnx files alone"),
        (["MODEL", "--picture", "x.gif"], "expected a picture's name"),
        (["MODEL", "--share", "0"], "are too few to choose settings by"),
    ],
)
def test_what_the_command_refuses(
    run: Run, tiny_model: Path, timed_dataset: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "model.engine").write_bytes(b"x")
    model, *more = (str(tiny_model) if each == "MODEL" else each for each in arguments)
    assert words in " ".join(run("tune", model, "-d", timed_dataset, *more, expect=2).split())


def test_what_gains_nothing_is_not_written(
    run: Run, tiny_model: Path, timed_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aicl_fast.tune as package
    from aicl_fast.tune import search

    model = tmp_path / "model.safetensors"
    shutil.copyfile(tiny_model, model)

    def worse(*arguments: Any, **options: Any) -> Any:
        found = search.tune(*arguments, **options)
        return replace(found, held_out=tuple(value - 0.1 for value in found.before))

    monkeypatch.setattr(package, "tune", worse)
    text = run("tune", model, "-d", timed_dataset, "--trials", 4, "--folds", 2)
    assert "gain nothing" in text
    assert model.read_bytes() == tiny_model.read_bytes()
