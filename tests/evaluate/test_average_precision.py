"""mAP: against a published method's recorded numbers, against plain loops, and every odd input by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import Detections, load_detections
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.evaluate import EXCLUSIONS, PROTOCOLS, evaluate_protocol, mean_average_precision
from aicl_fast.evaluate.matching import network_order


@pytest.fixture(scope="session")
def thumos14(shared_data: Path) -> Path:
    return shared_data / "thumos14"


# --- real detections -------------------------------------------------------------------------------------


def test_equals_the_recorded_measurements(thumos14: Path) -> None:
    expected = json.loads((thumos14 / "detections_eval.json").read_text())
    result = mean_average_precision(
        thumos14 / "gt.json", thumos14 / "detections.json", expected["tiou"], subset="test"
    )
    assert set(result.per_class) == set(expected["ap_per_class"])
    for name, values in expected["ap_per_class"].items():
        np.testing.assert_allclose(result.per_class[name], values, rtol=0, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(result.mAP, expected["mAP"], rtol=0, atol=1e-9)
    assert abs(result.average - expected["avg"]) < 1e-9
    assert result.counts["instances"] == expected["n_gt"] == 3311
    assert result.counts["detections"] == expected["n_pred"] == 19827
    assert result.counts["videos"] == 210
    assert result.warnings == ()


def test_the_protocol_and_the_inferred_subset_measure_the_same(thumos14: Path) -> None:
    truth = GroundTruth.load(thumos14 / "gt.json")
    found = load_detections(thumos14 / "detections.json")
    named = evaluate_protocol(truth, found, "thumos14")
    inferred = mean_average_precision(truth, found)
    assert inferred.subset == named.subset == "test"
    assert inferred.average == named.average
    assert any("subset test" in text for text in inferred.warnings)


def test_ties_move_real_numbers_by_little(thumos14: Path) -> None:
    """Recorded in docs/evaluation.md: equal tIoUs and scores exist in real files, and order matters."""
    truth = GroundTruth.load(thumos14 / "gt.json")
    found = load_detections(thumos14 / "detections.json")
    network = mean_average_precision(truth, found, subset="test")
    file = mean_average_precision(truth, found, subset="test", ties="file")
    assert 1e-6 < abs(network.average - file.average) < 1e-3


def test_score300_is_read(thumos14: Path, tmp_path: Path) -> None:
    document = json.loads((thumos14 / "detections.json").read_text())
    for items in document["results"].values():
        for item in items:
            item["score300"] = item.pop("score")
    path = tmp_path / "released.json"
    path.write_text(json.dumps(document))
    expected = json.loads((thumos14 / "detections_eval.json").read_text())
    assert abs(mean_average_precision(thumos14 / "gt.json", path).average - expected["avg"]) < 1e-9


# --- against loops ---------------------------------------------------------------------------------------

VIDEOS = ("v0", "v1", "v2")
LABELS = ("a", "b")
# A coarse grid of times and scores makes ties of both kinds common.
times = st.integers(0, 12)
spans = st.tuples(st.sampled_from(LABELS), times, times).map(lambda x: (x[0], min(x[1:]), max(x[1:])))
items = st.tuples(st.sampled_from(LABELS), st.integers(0, 4), times, times).map(
    lambda x: (x[0], x[1] / 4, min(x[2:]), max(x[2:]))
)


@given(
    truth=st.fixed_dictionaries({video: st.lists(spans, max_size=9) for video in VIDEOS}),
    found=st.fixed_dictionaries({video: st.lists(items, max_size=9) for video in VIDEOS}),
    ties=st.sampled_from(["activitynet", "file"]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equals_loops(truth: Any, found: Any, ties: Any, naive: Any, truth_of: Any, found_of: Any) -> None:
    tious = [0.1, 0.25, 0.5, 1.0]
    if not any(truth.values()):
        with pytest.raises(DataError, match="no annotated instance"):
            mean_average_precision(truth_of(truth), found_of(found), tious)
        return
    result = mean_average_precision(truth_of(truth), found_of(found), tious, ties=ties)
    expected = naive.mean_average_precision(truth, found, tious, ties)
    assert set(result.per_class) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(result.per_class[name], values, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.mAP, np.mean(list(expected.values()), axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_equals_loops_where_many_compete(seed: int, naive: Any, truth_of: Any, found_of: Any) -> None:
    """One video, dense annotations, many overlapping detections: long chains of second choices."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 60, 40).astype(float)
    truth = {"v": [("a", s, s + length) for s, length in zip(start, rng.integers(1, 9, 40), strict=True)]}
    start = rng.integers(0, 60, 150).astype(float)
    found = {
        "v": [
            ("a", score, s, s + length)
            for s, length, score in zip(
                start, rng.integers(1, 12, 150), rng.integers(0, 30, 150) / 30, strict=True
            )
        ]
    }
    tious = [0.1, 0.3, 0.5, 0.7]
    for ties in ("activitynet", "file"):
        result = mean_average_precision(truth_of(truth), found_of(found), tious, ties=ties)  # type: ignore[arg-type]
        expected = naive.mean_average_precision(truth, found, tious, ties)
        np.testing.assert_allclose(result.per_class["a"], expected["a"], rtol=0, atol=1e-12)


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=70))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_network_order_equals_its_recursive_definition(values: list[int], naive: Any) -> None:
    size = 1 << (len(values) - 1).bit_length()
    row = np.full((1, size), np.inf)
    row[0, : len(values)] = values
    order = network_order(row)[0]
    assert order[order < len(values)].tolist() == naive.network(values)


def test_network_order_is_what_a_vectorised_numpy_does() -> None:
    rng = np.random.default_rng(0)
    probe = np.array([0.5, 0.5, 1, 0, 0.5, 0.5, 0, 1, 0.5, 0.5, 0.5, 0, 1, 1, 0, 0.5, 0.25, 0.5, 0.5, 0.5])
    if probe.argsort().tolist() == probe.argsort(kind="stable").tolist():
        pytest.skip("this numpy sorts small arrays by insertion: no AVX2, or numpy before 2.0")
    for size in (2, 5, 8, 17, 38, 64, 100, 256):
        for _ in range(50):
            # As a detection sees annotations: most do not overlap it, two overlap it alike.
            values = np.where(rng.random(size) < 0.7, 0.0, rng.random(size))
            values[rng.integers(0, size, 2)] = 0.5
            row = np.full((1, 1 << (size - 1).bit_length()), np.inf)
            row[0, :size] = values
            order = network_order(row)[0]
            order = order[order < size]
            tied = values[order] == 0.5
            assert order[tied].tolist() == [i for i in values.argsort().tolist() if values[i] == 0.5]


# --- by hand ---------------------------------------------------------------------------------------------


def test_one_class_by_hand(truth_of: Any, found_of: Any) -> None:
    """Ranked: hit, miss, hit. Precision 1, 1/2, 2/3; recall steps of 1/2 at the hits: AP 1/2 + 1/2·2/3."""
    truth = truth_of({"v": [("a", 0, 10), ("a", 20, 30)]})
    found = found_of({"v": [("a", 0.9, 0, 10), ("a", 0.8, 50, 60), ("a", 0.7, 20, 30)]})
    result = mean_average_precision(truth, found, [0.5])
    assert result.average == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_the_second_choice_is_taken(truth_of: Any, found_of: Any) -> None:
    """Both detections prefer the first annotation; the weaker one takes the second."""
    truth = truth_of({"v": [("a", 0, 10), ("a", 4, 14)]})
    found = found_of({"v": [("a", 0.9, 0, 10), ("a", 0.8, 1, 11)]})
    assert mean_average_precision(truth, found, [0.5]).average == 1.0


def test_a_threshold_is_reached_by_equality(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"v": [("a", 0, 10)]})
    found = found_of({"v": [("a", 0.9, 0, 5)]})
    assert mean_average_precision(truth, found, [0.5, 0.500001]).mAP.tolist() == [1.0, 0.0]


def test_equal_scores_have_a_defined_order(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"v": [("a", 0, 10)]})
    found = found_of({"v": [("a", 0.5, 0, 10), ("a", 0.5, 50, 60)]})
    assert mean_average_precision(truth, found, [0.5], ties="file").average == 1.0
    assert mean_average_precision(truth, found, [0.5], ties="activitynet").average == 0.5


def test_order_inside_the_file_does_not_matter_without_ties(truth_of: Any, found_of: Any) -> None:
    rng = np.random.default_rng(0)
    spans = [("a", float(s), float(s) + 3.7) for s in range(0, 40, 4)]
    items = [("a", float(rng.random()), s + float(rng.random()), s + 4.1) for _, s, _ in spans for _ in "12"]
    one = mean_average_precision(truth_of({"v": spans}), found_of({"v": items}))
    other = mean_average_precision(truth_of({"v": spans[::-1]}), found_of({"v": items[::-1]}))
    np.testing.assert_array_equal(one.mAP, other.mAP)


def test_unknown_labels_are_ignored_and_said(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"v": [("a", 0, 10)]})
    found = found_of({"v": [("zebra", 0.9, 0, 10), ("a", 0.8, 0, 10)]})
    result = mean_average_precision(truth, found)
    assert result.average == 1.0
    assert result.counts["ignored_detections"] == 1
    assert any("zebra" in text for text in result.warnings)


def test_videos_missing_on_either_side(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"v": [("a", 0, 10)], "w": [("a", 0, 10)]})
    found = found_of({"v": [("a", 0.8, 0, 10)], "x": [("a", 0.9, 0, 10)]})
    result = mean_average_precision(truth, found, [0.5])
    # The stranger's detection ranks first and is wrong; half of the instances are found at precision 1/2.
    assert result.average == 0.25
    assert result.counts["videos_not_detected"] == result.counts["videos_only_detected"] == 1
    assert any("(w)" in text for text in result.warnings)
    assert any("(x)" in text for text in result.warnings)


def test_excluded_videos_leave_both_sides(truth_of: Any, found_of: Any) -> None:
    name = EXCLUSIONS["thumos14"][0]
    assert [video[-4:] for video in EXCLUSIONS["thumos14"]] == ["0270", "1292", "1496"]
    truth = truth_of({"v": [("a", 0, 10)], name: [("a", 0, 10)]})
    found = found_of({"v": [("a", 0.8, 0, 10)], name: [("a", 0.9, 70, 80)]})
    assert mean_average_precision(truth, found, [0.5]).average == 0.25
    for exclude in ("thumos14", ["thumos14"], [name], name):
        result = mean_average_precision(truth, found, [0.5], exclude=exclude)
        assert result.average == 1.0
        assert result.counts["excluded_videos"] == 1


def test_other_subsets_are_ignored_and_said(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"v": [("a", 0, 10)], "w": [("b", 0, 10)]}, {"v": "test", "w": "train"})
    found = found_of({"v": [("a", 0.8, 0, 10)], "w": [("a", 0.9, 0, 10)]})
    result = mean_average_precision(truth, found, [0.5], subset="test")
    assert result.average == 1.0
    assert list(result.per_class) == ["a"]
    assert result.counts["ignored_detections"] == 1
    assert any("other subsets" in text for text in result.warnings)
    both = mean_average_precision(truth, found, [0.5], subset=["test", "train"])
    assert both.average == pytest.approx((0.5 + 0) / 2)
    with pytest.raises(DataError, match="validation"):
        mean_average_precision(truth, found, subset="validation")


def test_classes_choose_and_empty_ones_have_no_part_in_the_mean(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"v": [("a", 0, 10), ("b", 20, 30)]})
    found = found_of({"v": [("a", 0.8, 0, 10)]})
    assert mean_average_precision(truth, found).average == 0.5  # b was never detected: AP 0
    result = mean_average_precision(truth, found, classes=["a", "never"])
    assert result.average == 1.0
    assert np.isnan(result.per_class["never"]).all()
    assert result.to_dict()["per_class"]["never"] == [None] * 7
    assert any("never" in text for text in result.warnings)
    assert any("not asked for" in text for text in result.warnings)


def test_duplicate_annotations(truth_of: Any, found_of: Any) -> None:
    spans = [("a", 0, 10), ("a", 20, 30), ("a", 0.0005, 10.0005), ("b", 0, 10), ("a", 0, 10.5)]
    truth = truth_of({"v": spans, "w": [("a", 0, 10)]})
    found = found_of({"v": [("a", 0.9, 0, 10)], "w": []})
    kept = mean_average_precision(truth, found, [0.5])
    dropped = mean_average_precision(truth, found, [0.5], duplicates="drop")
    assert kept.counts["instances"] == 6
    assert dropped.counts["instances"] == 5
    assert kept.counts["duplicate_annotations"] == dropped.counts["duplicate_annotations"] == 1
    assert kept.per_class["a"][0] == pytest.approx(1 / 5)
    assert dropped.per_class["a"][0] == pytest.approx(1 / 4)
    assert any("repeat" in text for text in kept.warnings)


def test_ambiguous_segments(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"v": [("a", 0, 10), ("Ambiguous", 50, 60)]})
    found = found_of({"v": [("a", 0.9, 55, 70), ("a", 0.8, 0, 10), ("Ambiguous", 0.9, 50, 60)]})
    dropped = mean_average_precision(truth, found, [0.5])
    assert list(dropped.per_class) == ["a"]
    assert dropped.average == 0.5
    assert mean_average_precision(truth, found, [0.5], ambiguous="forgive").average == 1.0


def test_nothing_detected(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"v": [("a", 0, 10)]})
    for found in ({}, found_of({"v": []})):
        assert mean_average_precision(truth, found).mAP.tolist() == [0.0] * 7


def test_string_segments(tmp_path: Path, found_of: Any) -> None:
    path = tmp_path / "gt.json"
    annotation = {"label": "a", "segment": ["0.5", " 10 "]}
    path.write_text(json.dumps({"database": {"v": {"subset": "test", "annotations": [annotation]}}}))
    assert mean_average_precision(path, found_of({"v": [("a", 0.9, 0.5, 10)]}), [1.0]).average == 1.0


def test_no_length(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"v": [("a", 5, 5), ("a", 0, 10)]})
    result = mean_average_precision(truth, found_of({"v": [("a", 0.9, 5, 5)]}))
    assert result.average == 0.0
    assert any("no length" in text for text in result.warnings)


def test_activitynet_protocols() -> None:
    for name in ("activitynet12", "activitynet13"):
        protocol = PROTOCOLS[name]
        np.testing.assert_allclose(protocol.tious, np.linspace(0.5, 0.95, 10))
        assert protocol.subset == "validation"


def test_bad_arguments(truth_of: Any, found_of: Any, tmp_path: Path) -> None:
    truth = truth_of({"v": [("a", 0, 10)]})
    found = found_of({"v": [("a", 0.9, 0, 10)]})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tiou_thresholds": []}, "tiou_thresholds"),
        ({"tiou_thresholds": [0.0]}, "tiou_thresholds"),
        ({"tiou_thresholds": [1.5]}, "tiou_thresholds"),
        ({"duplicates": "both"}, "duplicates"),
        ({"ambiguous": "no"}, "ambiguous"),
        ({"ties": "random"}, "ties"),
        ({"classes": []}, "classes"),
        ({"classes": ["a", "a"]}, "classes"),
    ]
    for arguments, name in cases:
        with pytest.raises(ConfigError, match=name):
            mean_average_precision(truth, found, **arguments)
    with pytest.raises(ConfigError, match="thumos14"):
        evaluate_protocol(truth, found, "charades")
    with pytest.raises(DataError, match="NaN"):
        mean_average_precision(truth, found_of({"v": [("a", np.nan, 0, 10)]}))
    with pytest.raises(DataError, match="mapping"):
        mean_average_precision(truth, [1])  # type: ignore[arg-type]
    with pytest.raises(AiclError, match=r"gt\.json"):
        mean_average_precision(tmp_path / "gt.json", found)
    with pytest.raises(DataError, match="no annotated instance"):
        mean_average_precision(truth, found, exclude=["v"])


def test_to_dict_is_json(truth_of: Any, found_of: Any) -> None:
    result = mean_average_precision(truth_of({"v": [("a", 0, 10)]}), found_of({"v": []}))
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["average_mAP"] == 0
    assert document["instances"] == {"a": 1}


def test_import_needs_numpy_only() -> None:
    code = (
        "import sys, aicl_fast.evaluate; "
        "print([m for m in ('numba', 'torch', 'matplotlib', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_detections_of_one_recording_need_a_name(truth_of: Any) -> None:
    with pytest.raises(DataError, match="name"):
        mean_average_precision(truth_of({"v": [("a", 0, 1)]}), Detections.empty("v"))  # type: ignore[arg-type]


def test_large_inputs_are_taken_in_pieces(
    monkeypatch: pytest.MonkeyPatch, naive: Any, truth_of: Any, found_of: Any
) -> None:
    """With room for almost no pair at a time the answer is the same."""
    rng = np.random.default_rng(9)
    truth = {v: [("a", float(s), s + 2.0) for s in rng.integers(0, 30, 12)] for v in VIDEOS}
    found = {
        v: [("a", float(rng.random()), float(s), s + 6.0) for s in rng.integers(0, 30, 20)] for v in VIDEOS
    }
    monkeypatch.setattr("aicl_fast.evaluate.matching._CHUNK", 5)
    result = mean_average_precision(truth_of(truth), found_of(found), [0.1, 0.3])
    expected = naive.mean_average_precision(truth, found, [0.1, 0.3])
    np.testing.assert_allclose(result.per_class["a"], expected["a"], rtol=0, atol=1e-12)
