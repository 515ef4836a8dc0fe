"""DETAD: cases with known answers, loops, and real detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.errors import ConfigError
from aicl_fast.evaluate import BUCKETS, ERRORS, Buckets, diagnose
from aicl_fast.evaluate.average_precision import Judged
from aicl_fast.evaluate.protocol import Protocol
from aicl_fast.evaluate.table import build_table

TRUTH = {"v": [("a", 0, 10), ("b", 100, 110)], "w": [("a", 0, 10)]}
CASES = {
    "true positive": ("a", 0.9, 0, 10),
    "double detection": ("a", 0.8, 0, 9),
    "wrong label": ("a", 0.7, 100, 110),
    "localisation": ("a", 0.6, 0, 3),
    "confusion": ("a", 0.5, 108, 112),
    "background": ("a", 0.4, 50, 60),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_each_kind_by_hand(kind: str, truth_of: Any, found_of: Any) -> None:
    items = [CASES["true positive"]] if kind in ("true positive", "double detection") else []
    items += [CASES[kind]] if kind != "true positive" else []
    result = diagnose(truth_of(TRUTH), found_of({"v": items, "w": []}))
    counts = dict(zip(ERRORS, result.profile.sum(axis=0).tolist(), strict=True))
    expected = dict.fromkeys(ERRORS, 0) | {"true positive": len(items) - 1} | {kind: 1}
    assert counts == expected
    assert result.shares[kind] == pytest.approx(1 / len(items))


def test_all_kinds_at_once_and_their_gains(truth_of: Any, found_of: Any) -> None:
    """AP of a is 1/2 whatever is removed below the only hit: a false positive after it costs nothing."""
    truth, found = truth_of(TRUTH), found_of({"v": list(CASES.values()), "w": []})
    result = diagnose(truth, found, tious=[0.5])
    assert result.profile.sum(axis=0).tolist() == [1] * 6
    assert all(gain == 0 for gain in result.gains.values())
    assert result.average == pytest.approx((0.5 + 0) / 2)


def test_a_gain_by_hand(truth_of: Any, found_of: Any) -> None:
    """Background ranks first: AP 1/2. Without it AP 1."""
    truth = truth_of({"v": [("a", 0, 10)]})
    found = found_of({"v": [("a", 0.9, 50, 60), ("a", 0.8, 0, 10)]})
    result = diagnose(truth, found)
    assert result.gains["background"] == pytest.approx(0.5)
    assert [result.gains[name] for name in ERRORS[1:-1]] == [0.0] * 4
    assert result.gains_at["background"].shape == (7,)


def test_the_profile_counts_g_at_a_time(truth_of: Any, found_of: Any) -> None:
    """Two instances, so two detections a row: hit and miss, then two misses; the fifth is in row 3."""
    truth = truth_of({"v": [("a", 0, 10), ("a", 20, 30)]})
    found = found_of(
        {"v": [("a", 0.9, 0, 10), *[("a", 0.8 - i / 10, 50 + 20 * i, 60 + 20 * i) for i in range(4)]]}
    )
    profile = diagnose(truth, found, factor=3).profile
    assert profile[:, 0].tolist() == [1, 0, 0]
    assert profile[:, -1].tolist() == [1, 2, 1]
    assert diagnose(truth, found, factor=1).profile.sum() == 2


def test_missed_instances_by_group(truth_of: Any, found_of: Any) -> None:
    spans = [("a", 0, 2), ("a", 10, 14), ("a", 20, 40), ("b", 50, 53)]
    found = found_of({"v": [("a", 0.9, 0, 2), ("a", 0.8, 20, 40)]})
    result = diagnose(truth_of({"v": spans}), found, durations={"v": 100.0})
    length = {group.name: (group.instances, group.missed) for group in result.missed["length"]}
    assert length == {"XS": (2, 1), "S": (1, 1), "M": (0, 0), "L": (0, 0), "XL": (1, 0)}
    coverage = {group.name: (group.instances, group.missed) for group in result.missed["coverage"]}
    assert coverage == {"XS": (1, 0), "S": (2, 2), "M": (0, 0), "L": (0, 0), "XL": (1, 0)}
    instances = {group.name: (group.instances, group.missed) for group in result.missed["instances"]}
    assert instances == {"XS": (1, 1), "S": (3, 1), "M": (0, 0), "L": (0, 0)}
    assert result.missed["length"][0].share == 0.5
    assert result.missed["length"][2].share == 0.0


def test_coverage_needs_durations(truth_of: Any, found_of: Any) -> None:
    result = diagnose(truth_of(TRUTH), found_of({"v": [], "w": []}))
    assert set(result.missed) == {"length", "instances"}
    assert any("coverage" in text for text in result.warnings)
    assert all(group.missed == group.instances for group in result.missed["length"])
    assert all(share == 0 for share in result.shares.values())


def test_own_buckets(truth_of: Any, found_of: Any) -> None:
    one = (("all", float("inf")),)
    result = diagnose(truth_of(TRUTH), found_of({"v": []}), buckets=Buckets(one, one, one))
    assert [group.instances for group in result.missed["length"]] == [3]
    assert set(BUCKETS) == {"thumos14", "activitynet"}


def test_bad_arguments(truth_of: Any, found_of: Any) -> None:
    truth, found = truth_of(TRUTH), found_of({"v": []})
    for arguments in ({"tiou": 0}, {"tious": []}, {"factor": 0}, {"buckets": "charades"}):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            diagnose(truth, found, **arguments)


def test_real_detections(shared_data: Path) -> None:
    folder = shared_data / "thumos14"
    truth = GroundTruth.load(folder / "gt.json")
    result = diagnose(truth, folder / "detections.json", subset="test")
    assert result.average == pytest.approx(0.4167824692564227, abs=1e-9)
    assert sum(result.shares.values()) == pytest.approx(1.0)
    assert all(gain >= 0 for gain in result.gains.values())
    assert result.instances == 3311
    assert sum(group.instances for group in result.missed["length"]) == 3311
    json.dumps(result.to_dict(), allow_nan=False)
    # Every true positive among all detections takes one instance, and the profile holds the best of them.
    everything = diagnose(truth, folder / "detections.json", subset="test", factor=100_000)
    found = sum(group.instances - group.missed for group in everything.missed["length"])
    assert everything.profile[:, 0].sum() == found
    assert everything.profile.sum() == 19827


def test_without_any_false_positive_ap_is_recall(shared_data: Path) -> None:
    folder = shared_data / "thumos14"
    protocol = Protocol([0.1, 0.5], "test")
    table = build_table(folder / "gt.json", folder / "detections.json", protocol)
    judged = Judged.of(table)
    clean = judged.without(np.ones_like(judged.hit))
    found = np.stack([np.bincount(table.label[judged.rank][hit], minlength=20) for hit in judged.hit])
    np.testing.assert_allclose(clean.class_precisions(), (found / table.instances).T, atol=1e-12)
