"""How well a measure predicts: the rank correlation, and what choosing by it loses."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("optuna")

from aicl_fast.bench.harness.tables import TABLES
from aicl_fast.bench.suites.predictors import predictions


def test_a_good_predictor_and_a_bad_one() -> None:
    measures = [
        {"test": test, "good": 2 * test, "bad": -test, "with ties": tied, "constant": 1.0}
        for test, tied in ((0.1, 0.0), (0.4, 1.0), (0.3, 1.0), (0.2, 0.0))
    ]
    rows = predictions(measures)
    assert [row["name"] for row in rows] == ["good", "with ties", "constant", "bad"]
    good, ties, constant, bad = rows
    assert constant["rank_correlation"] == 0
    assert (good["rank_correlation"], good["lost"]) == (pytest.approx(1), 0)
    assert (bad["rank_correlation"], bad["lost"]) == (pytest.approx(-1), pytest.approx(0.3))
    # Spearman's with average ranks: 2, 2 of four against 1 to 4.
    assert ties["rank_correlation"] == pytest.approx(2 / 5**0.5)
    assert ties["lost"] == 0
    table = TABLES["predictors"]({"rows": rows, "trainings": dict.fromkeys("abcd"), "held_out": 60})
    assert "4 trainings" in table[0]
    assert "| bad | -1.00 | 30.0 |" in table
