"""Ground truth files: string times, and every way they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.errors import DataError


def _write(folder: Path, annotations: Any, **entry: Any) -> Path:
    path = folder / "gt.json"
    document = {"database": {"clip": {"subset": "test", "annotations": annotations, **entry}}}
    path.write_text(json.dumps(document))
    return path


def test_times_may_be_strings(tmp_path: Path) -> None:
    truth = GroundTruth.load(_write(tmp_path, [{"label": "Jump", "segment": ["1.5", 3]}], duration=9))
    clip = truth.videos["clip"]
    assert clip.segments.tolist() == [[1.5, 3.0]]
    assert (clip.labels, clip.subset, clip.duration) == (("Jump",), "test", 9.0)
    assert truth.classes == ("Jump",)


def test_the_real_file_reads(shared_data: Path) -> None:
    truth = GroundTruth.load(shared_data / "thumos14" / "gt.json")
    assert len(truth.videos) == 410
    assert len(truth.classes) == 20
    assert len(truth.subset("test").videos) == 210


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        (
            [{"label": "Jump", "segment": [3, 1]}],
            r"annotation 0 of 'clip' ends before it starts \(3.0 to 1.0 s\)",
        ),
        ([{"label": "Jump", "segment": [1, "x"]}], "annotation 0 of 'clip' is not an object with"),
        ([{"label": "Jump", "segment": [1, 2, 3]}], "annotation 0"),
        ([{"label": "Jump"}], "annotation 0"),
        ([{"segment": [1, 2]}], "annotation 0"),
        ([{"label": "Jump", "segment": [1, float("nan")]}], "not finite"),
        ([{"label": "Jump", "segment": [1, 10**400]}], "annotation 0"),
        ({"label": "Jump"}, "list of 'annotations'"),
    ],
)
def test_a_wrong_annotation_is_named(tmp_path: Path, annotations: Any, words: str) -> None:
    with pytest.raises(DataError, match=rf"gt\.json: .*{words}"):
        GroundTruth.load(_write(tmp_path, annotations))


@pytest.mark.parametrize("duration", ["abc", "", [9], True, float("nan"), float("inf"), -1, 10**400])
def test_a_wrong_duration_is_named(tmp_path: Path, duration: Any) -> None:
    with pytest.raises(DataError, match=r"gt\.json: 'clip' has the duration .*expected a number of seconds"):
        GroundTruth.load(_write(tmp_path, [{"label": "Jump", "segment": [1, 2]}], duration=duration))


@pytest.mark.parametrize(("duration", "expected"), [("9.5", 9.5), (0, 0.0), (None, None)])
def test_durations(tmp_path: Path, duration: Any, expected: float | None) -> None:
    assert GroundTruth.load(_write(tmp_path, [], duration=duration)).videos["clip"].duration == expected


def test_other_documents_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "gt.json"
    path.write_text('{"results": {}}')
    with pytest.raises(DataError, match="detection files have 'results'"):
        GroundTruth.load(path)
    path.write_text('{"database": {')
    with pytest.raises(DataError, match=r"gt\.json: the annotation file is not valid JSON.*line 1"):
        GroundTruth.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no UTF-8 text"):
        GroundTruth.load(path)
    with pytest.raises(DataError, match="does not exist"):
        GroundTruth.load(tmp_path / "none.json")


def test_an_absent_subset_lists_those_there_are(tmp_path: Path) -> None:
    truth = GroundTruth.load(_write(tmp_path, []))
    with pytest.raises(DataError, match=r"'validation'.*'test'"):
        truth.subset("validation")


@pytest.mark.parametrize(
    "item",
    [
        {"label": None},
        {"label": ["Jump"]},
        {"label": 1},
        {"label": "\u200b "},
        {"segment": "12"},
        {"segment": [True, 2]},
        {"segment": [0, 1e300]},
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused(tmp_path: Path, item: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"gt\.json: annotation 0 of 'clip'"):
        GroundTruth.load(_write(tmp_path, [{"label": "Jump", "segment": [1, 2], **item}]))


def test_labels_are_clean_and_ambiguous_is_no_class(tmp_path: Path) -> None:
    labels = [" Long  jump", "Long jump\u202e", "ambiguous ", "cafe\u0301"]
    truth = GroundTruth.load(_write(tmp_path, [{"label": label, "segment": [1, 2]} for label in labels]))
    assert truth.videos["clip"].labels == ("Long jump", "Long jump", "Ambiguous", "caf\u00e9")
    assert truth.videos["clip"].classes == ("Long jump", "caf\u00e9")
    assert truth.classes == ("Long jump", "caf\u00e9")
    assert truth.remarks() == ()


@pytest.mark.parametrize("name", ["../clip", "/clip", "a\\b", "", "clip\x00", "a/./b", "x" * 256])
def test_names_that_no_video_has(tmp_path: Path, name: str) -> None:
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({"database": {name: {"annotations": []}}}))
    with pytest.raises(DataError, match=r"gt\.json: .* cannot name a video"):
        GroundTruth.load(path)


def test_a_video_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gt.json"
    for second in ("clip", "clip "):
        path.write_text(f'{{"database": {{"clip": {{}}, "{second}": {{}}}}}}')
        with pytest.raises(DataError, match=r"gt\.json: .*'clip' twice"):
            GroundTruth.load(path)


def test_what_can_be_right_is_remarked_on(tmp_path: Path) -> None:
    labels = ["Long jump", "long_jump", "LongJump", "run"]
    annotations = [{"label": label, "segment": [10, 20]} for label in labels]
    (remark,) = GroundTruth.load(_write(tmp_path, annotations, duration=19.5)).remarks()
    assert remark.startswith("the labels 'Long jump' and 'LongJump' and 'long_jump' differ in case")
    times = [[10, 20], [155, 265], [-3, 5]]
    annotations = [{"label": "run", "segment": segment} for segment in times]
    late, early = GroundTruth.load(_write(tmp_path, annotations, duration=60)).remarks()
    assert "1 annotations end after their video does (155 to 265 s in 'clip' of 60 s)" in late
    assert "1 annotations start before their video does (-3 to 5 s in 'clip')" in early
