"""Learning rate and selection over the steps."""

from __future__ import annotations

import pytest

from aicl_fast.config import load_config
from aicl_fast.train.schedules import learning_rate, selection_gamma


def test_learning_rates() -> None:
    constant = load_config(overrides=["lr=0.5"]).train
    assert {learning_rate(step, constant) for step in (1, 700, 11_700)} == {0.5}
    cosine = load_config(overrides=["lr=0.5", "lr_schedule=cosine", "steps=100"]).train
    rates = [learning_rate(step, cosine) for step in range(1, 101)]
    assert rates[0] == 0.5
    assert rates[50] == pytest.approx(0.25)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.001


def test_selection_as_released_is_by_the_fused_score() -> None:
    config = load_config("thumos14")
    assert [selection_gamma(step, config) for step in (1, 11_700)] == [None, None]


def test_selection_warms_up_and_ramps() -> None:
    config = load_config("demo", overrides=["warmup_steps=2", "ramp_steps=3", "fusion_gamma=0.2"])
    gammas = [selection_gamma(step, config) for step in range(1, 8)]
    assert gammas == [1.0, 1.0, pytest.approx(0.8), pytest.approx(0.6), pytest.approx(0.4), None, None]
    constant = load_config("demo", overrides=["warmup_steps=1", "ramp_steps=0", "selection_gamma=0.5"])
    assert [selection_gamma(step, constant) for step in (1, 2, 9)] == [1.0, 0.5, 0.5]


def test_the_demos_ramp_takes_all_steps_however_many() -> None:
    for overrides in ([], ["steps=300"]):
        config = load_config("demo", overrides=overrides)
        last = selection_gamma(config.train.steps, config)
        assert last == pytest.approx(config.model.fusion_gamma, abs=0.01)
    assert selection_gamma(600, load_config("demo")) == selection_gamma(
        600, load_config("demo", overrides=["ramp_steps=1200"])
    )
