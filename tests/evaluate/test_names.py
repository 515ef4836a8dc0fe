"""Names on both sides: compared in one form, and what is said where they do not match."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast import Detections, load_detections, save_detections
from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.evaluate import compare, mean_average_precision
from aicl_fast.evaluate.names import likely_cause


def one(label: str) -> VideoAnnotation:
    return VideoAnnotation("test", (label,), np.array([[0.0, 10.0]]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v_Clip_1", "the prefix v_"),
        ("Clip_1.mp4", "the ending of a file"),
        ("test/Clip_1", "a folder"),
        ("clip 1", "case, spaces, underscores or hyphens"),
        ("videos/v_clip-1.MP4", "folder, prefix, ending or case"),
        ("Clip_1_rgb", "the name of a stream"),
        ("clip_001", "folder, prefix, ending or case"),
        ("other", "Check that both are of the same data set"),
    ],
)
def test_no_video_in_common(truth_of: Any, found_of: Any, name: str, words: str) -> None:
    truth = truth_of({"Clip_1": [("a", 0, 10)], "another": [("a", 0, 10)]})
    with pytest.raises(DataError, match=r"not one of its 1 videos .* is among the 2 that") as refused:
        mean_average_precision(truth, found_of({name: [("a", 0.9, 0, 10)]}))
    assert words in str(refused.value)


def test_a_part_of_the_videos_in_common(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"a": [("x", 0, 10)], "b": [("x", 0, 10)]})
    result = mean_average_precision(truth, found_of({"a": [("x", 0.9, 0, 10)], "v_b": [("x", 0.8, 0, 10)]}))
    assert result.average == 0.5
    assert any(
        "1 videos are detected in but not annotated (v_b)" in text and "'v_b' and 'b' differ" in text
        for text in result.warnings
    )


def test_another_subset_alone(found_of: Any) -> None:
    truth = GroundTruth({"a": one("x"), "b": VideoAnnotation("train", ("x",), np.array([[0.0, 1.0]]))})
    with pytest.raises(DataError, match="not one of its 1 videos is of subset train; they are of test"):
        mean_average_precision(truth, found_of({"a": [("x", 0.9, 0, 10)]}), subset="train")


def test_no_detections_are_no_mismatch(truth_of: Any) -> None:
    result = mean_average_precision(truth_of({"a": [("x", 0, 10)]}), {})
    assert result.average == 0
    assert any("1 annotated videos are missing" in text for text in result.warnings)


@pytest.mark.parametrize("label", ["long jump", "LongJump", "Long_Jump", "3"])
def test_labels_that_no_class_has(truth_of: Any, found_of: Any, label: str) -> None:
    truth = truth_of({"a": [("Long jump", 0, 10), ("run", 20, 30)]})
    with pytest.raises(DataError, match=r"not one detection has a label .*(differ in case|are numbers)"):
        mean_average_precision(truth, found_of({"a": [(label, 0.9, 0, 10)]}))
    mixed = found_of({"a": [(label, 0.9, 0, 10), ("run", 0.5, 20, 30)]})
    result = mean_average_precision(truth, mixed)
    assert result.average == 0.5
    assert any("1 detections have labels that are not among the 2" in text for text in result.warnings)


def test_labels_of_another_data_set(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"a": [("jump", 0, 10), ("run", 20, 30)]})
    found = {"a": [("zebra", 0.9, 0, 10), ("horse", 0.8, 0, 10)]}
    with pytest.raises(DataError, match=r"not one detection .* Check that both are of the same data set"):
        mean_average_precision(truth, found_of(found))
    assert mean_average_precision(truth, found_of({"a": found["a"][:1]})).average == 0


def test_detections_after_the_end_are_remarked_on(found_of: Any) -> None:
    truth = GroundTruth({"a": VideoAnnotation("test", ("x",), np.array([[0.0, 10]]), 60.0)})
    for end, count in ((63.0, 0), (65.0, 1)):
        found = found_of({"a": [("x", 0.9, 0, 10), ("x", 0.1, 50, end)]})
        warnings = mean_average_precision(truth, found).warnings
        assert sum("detections after their end" in text for text in warnings) == len(warnings) == count


def test_other_classes_than_those_asked_for_are_no_mismatch(truth_of: Any, found_of: Any) -> None:
    truth = truth_of({"a": [("jump", 0, 10), ("run", 20, 30)]})
    found = found_of({"a": [("run", 0.9, 0, 10)]})
    assert mean_average_precision(truth, found, classes=["jump"]).average == 0


def test_objects_are_compared_in_one_unicode_form() -> None:
    two, ours = "cafe\u0301", "caf\u00e9"
    found = Detections(np.array([two]), np.array([0.9]), np.array([[0, 10]]))
    for truth, detections in (
        (GroundTruth({ours: one(ours)}), {two: found}),
        (GroundTruth({two: one(f"{two} ")}), {f" {ours}": found}),
    ):
        result = mean_average_precision(truth, detections, classes=[two])
        assert (result.average, list(result.per_class), result.warnings) == (1.0, [ours], ())
    for names in ((ours, two), (ours, 3)):
        with pytest.raises(DataError, match=r"detections: (two videos' names|a video's name is 3)"):
            mean_average_precision(GroundTruth({ours: one(ours)}), dict.fromkeys(names, found))


def test_messages_name_the_file_that_was_read(truth_of: Any, found_of: Any, tmp_path: Path) -> None:
    truth, path = truth_of({"a": [("x", 0, 10)]}), tmp_path / "run" / "detections.json"
    save_detections(path, found_of({"b": [("x", 0.9, 0, 10)]}))
    read = load_detections(path)
    for measure in (mean_average_precision, lambda *both: compare(*both, read)):
        with pytest.raises(DataError, match=f"^{re.escape(str(path))}: "):
            measure(truth, read)
    bad = np.array([[np.nan, np.inf]])
    read["a"] = Detections(np.array(["x"]), np.array([0.9]), bad)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: 1 detections have a score or time"):
        mean_average_precision(truth, read)
    with pytest.raises(DataError, match=r"^detections: 1 detections have"):
        mean_average_precision(truth, dict(read))


@pytest.mark.parametrize("times", [(0.0, np.nan), (0.0, np.inf), (5.0, 1.0)])
def test_annotations_given_as_objects_are_checked(found_of: Any, times: tuple[float, float]) -> None:
    truth = GroundTruth({"a": VideoAnnotation("test", ("x",), np.array([times]))})
    with pytest.raises(DataError, match="not finite, or ends before it starts"):
        mean_average_precision(truth, found_of({"a": [("x", 0.9, 0, 10)]}))


def test_one_huge_time_changes_no_other_match(truth_of: Any, found_of: Any) -> None:
    names = [f"v{number}" for number in range(300)]
    truth = truth_of({name: [("x", 3.25, 3.5), ("y", 1, 2)] for name in names})
    exact = {name: [("x", 0.9, 3.25, 3.5), ("y", 0.9, 1, 2)] for name in names}
    far = {**exact, "v7": [*exact["v7"], ("x", 0.1, 0, 1e18), ("x", 0.05, -1e308, 1e308)]}
    assert mean_average_precision(truth, found_of(far), [1.0]).average == 1.0


def test_annotations_beyond_the_end_are_remarked_on(found_of: Any) -> None:
    truth = GroundTruth({"a": VideoAnnotation("test", ("x", "x"), np.array([[0.0, 10], [155, 265]]), 60.0)})
    (text,) = mean_average_precision(truth, found_of({"a": [("x", 0.9, 0, 10)]})).warnings
    assert "155 to 265 s in 'a' of 60 s" in text


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("video,reason\nb,blurred\n", "3 of the 4 videos"),
        ("b,\n", None),
        ('["b"]', None),
        ("\ufeffb\n\n", None),
        ('["b", "gone"]', "1 of the 2 videos"),
        ("b\r\ngone", "1 of the 2"),
    ],
)
def test_a_list_of_videos_to_leave_out(
    truth_of: Any, found_of: Any, tmp_path: Path, content: str, note: str | None
) -> None:
    truth = truth_of({"a": [("x", 0, 10)], "b": [("x", 0, 10)]})
    found = found_of({"a": [("x", 0.9, 0, 10)], "b": []})
    path = tmp_path / "blocked"
    path.write_text(content, encoding="utf-8")
    result = mean_average_precision(truth, found, exclude=[str(path)])
    assert (result.average, result.counts["excluded_videos"]) == (1.0, 1)
    assert (note is None and not result.warnings) or (note is not None and note in result.warnings[0])
    both = compare(truth, found, found, exclude=str(path), resamples=100)
    assert both.first.average == both.second.average == 1.0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1}', "expected a list of videos"),
        ("[3]", "the name of a video is 3"),
        ("[", "not valid JSON"),
        ('["v_b"]', "none of them is in .*'v_b' and 'b' differ in the prefix v_"),
        ("", "lists 0 videos"),
        ("../b", "cannot name a video"),
    ],
)
def test_what_is_no_list_of_videos(
    truth_of: Any, found_of: Any, tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "blocked"
    path.write_text(content)
    with pytest.raises((ConfigError, DataError), match=words):
        mean_average_precision(truth_of({"b": [("x", 0, 10)]}), found_of({"b": []}), exclude=[str(path)])


def test_a_name_to_leave_out_that_is_no_videos(truth_of: Any, found_of: Any) -> None:
    truth, found = truth_of({"clip": [("x", 0, 10)]}), found_of({"clip": [], "extra": []})
    for name, words in (
        ("Clip", "'Clip' and 'clip' differ"),
        ("clip, extr", "'extr' is no video .* Did you mean extra"),
        ("thumos", "Did you mean thumos14"),
        ("\0", "no video"),
    ):
        with pytest.raises(ConfigError, match=words):
            mean_average_precision(truth, found, exclude=name)
    for both in ("extra,thumos14", ["extra, thumos14,"]):
        assert mean_average_precision(truth, found, exclude=both).counts["excluded_videos"] == 1
    # A video of one run alone may be left out of both.
    only = compare(truth, found, found_of({"clip": []}), exclude=["extra"], resamples=100)
    assert only.first.counts["excluded_videos"] == 1


def test_a_cause_is_named_of_different_names_alone() -> None:
    assert likely_cause(["a"], ["a"]) == ""
    assert likely_cause(["A"], ["a"]).startswith("'A' and 'a' differ")
