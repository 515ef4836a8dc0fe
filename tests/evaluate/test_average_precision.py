"""mAP: against a published method's recorded numbers, against plain loops, and every odd input by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import Detections, load_detections
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.evaluate import EXCLUSIONS, PROTOCOLS, TIOUS, evaluate_protocol, mean_average_precision


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


# --- by hand ---------------------------------------------------------------------------------------------

ONE = {"v": [("a", 0, 10)]}
TIED = {"v": [("a", 0.5, 0, 10), ("a", 0.5, 50, 60)]}
TWICE = {
    "v": [("a", 0, 10), ("a", 20, 30), ("a", 0.0005, 10.0005), ("b", 0, 10), ("a", 0, 10.5)],
    "w": [("a", 0, 10)],
}
VAGUE = {"v": [("a", 0, 10), ("Ambiguous", 50, 60)]}
VAGUELY = {"v": [("a", 0.9, 55, 70), ("a", 0.8, 0, 10), ("Ambiguous", 0.9, 50, 60)]}
FOUND_ONE = {"v": [("a", 0.9, 0, 10)], "w": []}


@pytest.mark.parametrize(
    ("truth", "found", "options", "precisions", "counts", "words"),
    [
        # Ranked: hit, miss, hit. Precision 1, 1/2, 2/3; recall steps of 1/2 at the hits: AP 1/2 + 1/2·2/3.
        ({"v": [("a", 0, 10), ("a", 20, 30)]},
         {"v": [("a", 0.9, 0, 10), ("a", 0.8, 50, 60), ("a", 0.7, 20, 30)]},
         {}, {"a": 0.5 + 0.5 * 2 / 3}, {}, []),
        # Both detections prefer the first annotation; the weaker one takes the second.
        ({"v": [("a", 0, 10), ("a", 4, 14)]}, {"v": [("a", 0.9, 0, 10), ("a", 0.8, 1, 11)]},
         {}, {"a": 1}, {}, []),
        # A threshold is reached by equality.
        (ONE, {"v": [("a", 0.9, 0, 5)]}, {}, {"a": 1}, {}, []),
        (ONE, {"v": [("a", 0.9, 0, 5)]}, {"tiou_thresholds": [0.500001]}, {"a": 0}, {}, []),
        # Equal scores have a defined order.
        (ONE, TIED, {"ties": "file"}, {"a": 1}, {}, []),
        (ONE, TIED, {"ties": "activitynet"}, {"a": 0.5}, {}, []),
        # Unknown labels are ignored, with a warning.
        (ONE, {"v": [("zebra", 0.9, 0, 10), ("a", 0.8, 0, 10)]}, {}, {"a": 1},
         {"ignored_detections": 1}, ["zebra"]),
        # The stranger's detection ranks first and is wrong; half of the instances are found at precision 1/2.
        ({**ONE, "w": [("a", 0, 10)]}, {"v": [("a", 0.8, 0, 10)], "x": [("a", 0.9, 0, 10)]}, {}, {"a": 0.25},
         {"videos_not_detected": 1, "videos_only_detected": 1}, ["(w)", "(x)"]),
        (TWICE, FOUND_ONE, {}, {"a": 1 / 5, "b": 0},
         {"instances": 6, "duplicate_annotations": 1}, ["repeat"]),
        (TWICE, FOUND_ONE, {"duplicates": "drop"}, {"a": 1 / 4, "b": 0},
         {"instances": 5, "duplicate_annotations": 1}, ["repeat"]),
        (VAGUE, VAGUELY, {}, {"a": 0.5}, {}, []),
        (VAGUE, VAGUELY, {"ambiguous": "forgive"}, {"a": 1}, {}, []),
        (ONE, {}, {"tiou_thresholds": TIOUS}, {"a": 0}, {}, []),
        (ONE, {"v": []}, {"tiou_thresholds": TIOUS}, {"a": 0}, {}, []),
        ({"v": [("a", 5, 5), ("a", 0, 10)]}, {"v": [("a", 0.9, 5, 5)]}, {"tiou_thresholds": TIOUS},
         {"a": 0}, {}, ["no length"]),
    ],
)  # fmt: skip
def test_by_hand(
    truth: Any,
    found: Any,
    options: Any,
    precisions: Any,
    counts: Any,
    words: Any,
    truth_of: Any,
    found_of: Any,
) -> None:
    options = {"tiou_thresholds": [0.5], **options}
    result = mean_average_precision(truth_of(truth), found_of(found), **options)
    assert {name: values.tolist() for name, values in result.per_class.items()} == {
        name: [pytest.approx(value, rel=1e-12, abs=0)] * len(result.tious)
        for name, value in precisions.items()
    }
    assert result.average == pytest.approx(np.mean(list(precisions.values())), rel=1e-12, abs=0)
    assert counts.items() <= result.counts.items()
    assert all(any(word in text for text in result.warnings) for word in words)


def test_order_inside_the_file_does_not_matter_without_ties(truth_of: Any, found_of: Any) -> None:
    rng = np.random.default_rng(0)
    spans = [("a", float(s), float(s) + 3.7) for s in range(0, 40, 4)]
    items = [("a", float(rng.random()), s + float(rng.random()), s + 4.1) for _, s, _ in spans for _ in "12"]
    one = mean_average_precision(truth_of({"v": spans}), found_of({"v": items}))
    other = mean_average_precision(truth_of({"v": spans[::-1]}), found_of({"v": items[::-1]}))
    np.testing.assert_array_equal(one.mAP, other.mAP)


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


def test_string_segments(tmp_path: Path, found_of: Any) -> None:
    path = tmp_path / "gt.json"
    annotation = {"label": "a", "segment": ["0.5", " 10 "]}
    path.write_text(json.dumps({"database": {"v": {"subset": "test", "annotations": [annotation]}}}))
    assert mean_average_precision(path, found_of({"v": [("a", 0.9, 0.5, 10)]}), [1.0]).average == 1.0


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
