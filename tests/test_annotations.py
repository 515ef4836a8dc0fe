"""Ground truth files: string times, and every way they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aicl_fast.annotations import GroundTruth
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
