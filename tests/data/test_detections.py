"""Detections: arrays, iteration, and the ActivityNet form there and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aicl_fast import Detection, Detections, load_detections, save_detections
from aicl_fast.data import writers
from aicl_fast.errors import DataError


@pytest.fixture
def found() -> Detections:
    return Detections(np.array(["Jump", "Run"]), np.array([0.9, 0.1]), np.array([[0, 1.5], [2, 4]]), "clip")


def test_it_iterates_and_indexes(found: Detections) -> None:
    assert list(found) == [Detection("Jump", 0.9, 0.0, 1.5), Detection("Run", 0.1, 2.0, 4.0)]
    assert found[-1].label == "Run"
    assert len(found.above(0.5)) == 1
    assert "clip" in repr(found)
    assert list(Detections.empty()) == []


@pytest.mark.parametrize(
    "index",
    [slice(1, None), [1], np.array([1]), np.array([False, True]), [False, True]],
    ids=["slice", "list", "array", "mask", "list of truths"],
)
def test_several_are_taken_out_together(found: Detections, index) -> None:
    some = found[index]
    assert some == Detections(np.array(["Run"]), np.array([0.1]), np.array([[2, 4]]))
    assert some.video == "clip"
    assert found[np.int64(1)] == some[0]
    assert found[:0] == Detections.empty()


def test_the_best_is_named_whatever_the_order(found: Detections) -> None:
    assert repr(found[::-1]) == "Detections(2 of 'clip', best Jump 0.900)"
    assert repr(found[:0]) == "Detections(0 of 'clip')"


def test_json_there_and_back(found: Detections, tmp_path: Path) -> None:
    assert Detections.from_json(found.to_json()) == found
    path = tmp_path / "new" / "folder" / "d.json"
    found.to_json(path)
    assert Detections.from_json(path).video == "clip"
    document = json.loads(path.read_text())
    assert document["results"]["clip"][0] == {"label": "Jump", "score": 0.9, "segment": [0.0, 1.5]}
    assert set(document) == {"version", "results", "external_data"}


def test_many_recordings(found: Detections, tmp_path: Path) -> None:
    save_detections(tmp_path / "d.json", {"clip": found, "other": Detections.empty("other")})
    loaded = load_detections(tmp_path / "d.json")
    assert list(loaded) == ["clip", "other"]
    assert loaded["clip"] == found
    with pytest.raises(DataError, match=r"2 recordings.*name one"):
        Detections.from_json(tmp_path / "d.json")
    assert len(Detections.from_json(tmp_path / "d.json", video="other")) == 0
    with pytest.raises(DataError, match="'third' is not among them"):
        Detections.from_json(tmp_path / "d.json", video="third")


def test_the_released_programs_field_is_read() -> None:
    text = '{"results": {"v": [{"label": "Jump", "score300": 0.5, "segment": ["1", "2"]}]}}'
    assert Detections.from_json(text)[0] == Detection("Jump", 0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"database": {}}', "'results' object"),
        ('{"results": {"v": [{"label": "J", "score": 1}]}}', "detection 0 of 'v'"),
        ('{"results": {"v": [{"label": "J", "score": "x", "segment": [1, 2]}]}}', "detection 0 of 'v'"),
        ('{"results": {"v": 3}}', "detection 0 of 'v'"),
        ('{"results": {"v": [{"label": "J", "score": NaN, "segment": [1, 2]}]}}', "NaN or infinite"),
        ('{"results": ', "not valid JSON"),
    ],
)
def test_wrong_documents_are_explained(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Detections.from_json(text, video="v")


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="1 labels, 2 scores"):
        Detections(np.array(["a"]), np.zeros(2), np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"\(N, 2\) segments in seconds: cannot reshape"):
        Detections(np.array(["a"]), np.zeros(1), np.zeros((1, 3)))
    with pytest.raises(DataError, match=r"\(N,\) scores .*could not convert"):
        Detections(np.array(["a"]), ["high"], np.zeros((1, 2)))


@pytest.mark.parametrize("part", ["scores", "segments"])
def test_what_json_has_no_number_for_is_refused(found: Detections, tmp_path: Path, part: str) -> None:
    getattr(found, part)[0] = np.nan
    with pytest.raises(DataError, match="'clip' has a score or time that is NaN"):
        found.to_json()
    with pytest.raises(DataError, match="'clip' has a score or time that is NaN"):
        found.to_json(tmp_path / "d.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_what_is_saved_is_named(found: Detections, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match=r"expected a mapping of names to Detections, got list\. Write"):
        save_detections(tmp_path / f"d{suffix}", [found])
    with pytest.raises(DataError, match="expected Detections of 'clip', got list"):
        save_detections(tmp_path / f"d{suffix}", {"clip": list(found)})


def test_a_real_file_reads(shared_data: Path) -> None:
    loaded = load_detections(shared_data / "thumos14" / "detections.json")
    assert sum(len(each) for each in loaded.values()) == 19_827


def test_a_detection_that_ends_before_it_starts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"detection 1 of 'clip' ends before it starts \(2\.0 to 1\.0 s\)"):
        Detections(np.array(["a", "a"]), np.zeros(2), np.array([[1, 1], [2, 1]]), "clip")
    path = tmp_path / "d.json"
    path.write_text('{"results": {"v": [{"label": "J", "score": 1, "segment": [2, 1]}]}}')
    with pytest.raises(DataError, match=r"d\.json: detection 0 of 'v' ends before it starts"):
        load_detections(path)


@pytest.mark.parametrize(
    "item",
    [
        {"label": None},
        {"label": ["J"]},
        {"label": 3},
        {"label": " "},
        {"score": True},
        {"score": None},
        {"score": 10**400},
        {"score": "1e999"},
        {"segment": "12"},
        {"segment": {"1": 0, "2": 0}},
        {"segment": [1, True]},
        {"segment": [0, float("inf")]},
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused(tmp_path: Path, item: dict[str, object]) -> None:
    detection = {"label": "J", "score": 0.5, "segment": [1, 2], **item}
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"results": {"v": [detection]}}))
    with pytest.raises(DataError, match=r"d\.json: .*'v'"):
        load_detections(path)


def test_names_and_labels_are_clean(tmp_path: Path) -> None:
    text = (
        '\ufeff{"results": {"cafe\u0301 ": [{"label": " Long  jump\\u202e", "score": 1, "segment": [1, 2]}]}}'
    )
    (tmp_path / "d.json").write_text(text, encoding="utf-8")
    for found in (
        load_detections(tmp_path / "d.json")["caf\u00e9"],
        Detections.from_json(text, "cafe\u0301"),
    ):
        assert (found.video, found[0].label) == ("caf\u00e9", "Long jump")


@pytest.mark.parametrize("label", [None, 3, b"x", True])
def test_labels_are_text(label: object) -> None:
    with pytest.raises(DataError, match=r"a label is .* is no text"):
        Detections(["run", label], [0.5, 0.4], [[0, 1], [1, 2]])  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [["../v"], ["/v"], ["v", "v "], [""]])
def test_names_that_no_video_has(names: list[str]) -> None:
    with pytest.raises(DataError, match="detections: "):
        Detections.from_json(json.dumps({"results": {name: [] for name in names}}))


def test_the_ending_decides_the_format(
    found: Detections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = {writers.GROUP: {"toy": lambda detections: " ".join(detections)}}
    monkeypatch.setattr("aicl_fast.plugins.load", toy.__getitem__)
    both = {"clip": found, 'a "b", c': Detections(["Run"], [1e-7], [[0, 0.1]])}
    for name in ("d.json", "d.CSV", "d.toy", "d.other", "d"):
        save_detections(tmp_path / name, both)
    assert (tmp_path / "d.CSV").read_text() == (
        "video,label,start,end,score\nclip,Jump,0.0,1.5,0.9\nclip,Run,2.0,4.0,0.1\n"
        '"a ""b"", c",Run,0.0,0.1,1e-07\n'
    )
    assert (tmp_path / "d.toy").read_text() == 'clip a "b", c'
    assert load_detections(tmp_path / "d.json") == both
    for name in ("d.other", "d"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "d.json").read_bytes()
