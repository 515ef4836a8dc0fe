"""A table of labels: forms that are read, rows that are refused by their line, and what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aicl_fast.config import load_config
from aicl_fast.data import labels
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.labels import read_labels, write_annotations
from aicl_fast.errors import AiclWarning, DataError


def table(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "video,label,start,end,split\na,High jump,1,2.5,test\nb.mp4,run,,,train\n",
        "split;END;Label;video;start\ntest;2.5;High jump;a;1\n\ntrain;;run;b;\n",
        "a\tHigh jump\t1\t2.5\ttest\nb\trun\t\t\ttrain",
        '\ufeff"a","High jump",1.0,2.5,TEST\r\nvideos/b.MP4, run,,,train\r\n',
    ],
)
def test_forms_that_are_read(tmp_path: Path, text: str) -> None:
    first, second = read_labels(table(tmp_path, text))
    assert (first.video, first.label, first.segment, first.split) == ("a", "High jump", (1.0, 2.5), "test")
    assert (second.video, second.label, second.segment, second.split) == ("b", "run", None, "train")


def test_fewer_columns(tmp_path: Path) -> None:
    assert read_labels(table(tmp_path, "v.1,jump\n"))[0].video == "v.1"
    assert read_labels(table(tmp_path, "a,jump,train\n"))[0].split == "train"
    row = read_labels(table(tmp_path, "a,jump,1,2\n"))[0]
    assert (row.segment, row.split) == ((1, 2), None)


def test_every_bad_row_is_named_by_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """video,label,start,end,split
good,jump,1,2,test
a,jump,1,,test
a,,1,2,test
a,jump,x,2,test
a,jump,5,2,test
a,jump,-1,2,test
a,jump,1,nan,test
a,jump,1,2,validation
a,jump,1,2
good,jump,1,2,test
good,run,3,4,train
b,jump,,,test
c,jump,3,9,train
"""
    monkeypatch.setattr("aicl_fast.data.labels.label._SHOWN", 12)
    with pytest.raises(DataError) as caught:
        read_labels(table(tmp_path, text), duration={"c": 5.0}.get)
    said = str(caught.value)
    assert "12 rows cannot be used" in said
    for line, words in (
        (3, "a start alone"),
        (4, "the label is empty"),
        (5, "'x' and '2'"),
        (6, "from 5 to 2 s"),
        (7, "from -1 to 2 s"),
        (8, "from 1 to nan s"),
        (9, "'validation', expected train or test"),
        (10, "has 4 columns, expected 5"),
        (11, "repeats line 2"),
        (12, "'good' is train, in line 2 test"),
        (13, "'b' is a test video, whose rows need start and end"),
        (14, "ends at 9 s, and 'c' is 5.0 s long"),
    ):
        assert any(row.startswith(f"  line {line}: ") and words in row for row in said.splitlines()), said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no rows"),
        ("video,label\n", "a header and no rows"),
        ("file,class\na,jump\n", r"line 1: looks like a header with other names \(file, class\)"),
        ("video_id,action,t_start,t_end\na,jump,1,2\n", "looks like a header with other names"),
        ("Video,Class,Start,End,Split\na,jump,1,2,test\n", "looks like a header with other names"),
        ("a\n", "has 1 columns"),
        ("video,label,begin,end\n", "the header is video, label, begin, end"),
        ("video,label,start\n", "the header is"),
        ("video,label,label\n", "the header is"),
        ("a,jump,1,2\n" + "a,,1,2\n" * 25, r"25 rows cannot be used(.|\n)*… and 15 more"),
        # A quote that is left open in a long table.
        ('a,"jump,1,2\n' + "b,run,1,2\n" * 20_000,
         r"labels\.csv, line 1\d+: cannot be read.*a quote that is not closed"),
        # Points.
        ("video,label,time\na,jump,x\n", "line 2: time is 'x', expected seconds"),
        ("video,label,time\na,jump,-1\n", "line 2: has the time -1 s, expected 0 or more"),
        ("video,label,time\na,jump,nan\n", "line 2: has the time nan s"),
        ("video,label,time,start,end\na,jump,1,1,2\n", "line 2: has a time beside start and end"),
        ("video,label,time\na,jump,1\na,jump,1.0\n", "line 3: repeats line 2"),
        ("video,label,time,split\na,jump,1,test\n", "line 2: 'a' .* need start and end, and not one time"),
        # Control characters.
        ("a,ju\x07mp,1,2\n", r"line 1: the label '.*' has a control character"),
        ("a,ju\x7fmp,1,2\n", r"line 1: the label '.*' has a control character"),
        ('a,"long\njump",1,2\n', "has a control character"),
        ("vid\udce9o,jump", "no UTF-8 text"),
        # Two files of one name are two videos.
        *((text, f"line {line}: .* is another file than that in line 1, and both are") for text, line in (
            ("jump/0001.mp4,jump\nrun/0001.mp4,run\n", 2),
            ("0001,jump\n0002,run\nrun\\0001,run\n", 3),
            ("a.mp4,jump\na.avi,run\n", 2),
        )),
        # Names that no video has.
        *((f"{name},jump\n", "line 1: ") for name in ("..", "/", "d/..", "\u200b", "a\ufffd", "x" * 300)),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=words):
        read_labels(path)


TEXT = "a,jump,1,2\na,run,3,4\nb,run,1,2\nc,jump,,\nd,run,0,9\ne,jump,2,3\n"
SECONDS = {"a": 10.0, "b": 5.5, "c": 7.25, "d": 8.5}


def test_what_is_written(tmp_path: Path) -> None:
    rows = read_labels(table(tmp_path, TEXT))
    summary = write_annotations(rows, tmp_path / "data", duration=SECONDS.get, test_share=0.4, seed=3)
    assert len(summary.test) == 2
    assert set(summary.train) | set(summary.test) == set("abcde")
    assert "c" in summary.train  # it has no times
    assert summary.classes == ("jump", "run")
    assert summary.without_duration == ("e",)
    for split, names in (("train", summary.train), ("test", summary.test)):
        assert (tmp_path / f"data/split_{split}.txt").read_text().split() == list(names)
    truth = GroundTruth.load(tmp_path / "data/gt.json")
    assert truth.classes == ("jump", "run")
    assert truth.videos["a"].segments.tolist() == [[1, 2], [3, 4]]
    assert truth.videos["a"].duration == 10
    assert truth.videos["c"].segments.tolist() == [[0, 7.25]]
    assert truth.videos["d"].segments.tolist() == [[0, 8.5]]  # half a second late: cut at the end
    assert truth.videos["e"].duration is None
    assert {truth.videos[name].subset for name in summary.test} == {"test"}
    config = load_config(file=tmp_path / "data/settings.toml")
    assert config.classes == ("jump", "run")
    assert config.data.streams == "both"
    seen = []

    def measure(videos: Sequence[str]) -> dict[str, str | int]:
        seen.append(tuple(videos))
        return {"streams": "rgb", "rgb_width": 96}

    again = write_annotations(
        rows, tmp_path / "data", test_share=0.4, seed=3, measure=measure, overwrite=True
    )
    assert again.test == summary.test
    data = load_config(file=tmp_path / "data/settings.toml").data
    assert (data.streams, data.rgb_width, seen) == ("rgb", 96, [again.train])
    others = {
        write_annotations(rows, tmp_path / "data", test_share=0.4, seed=seed, overwrite=True).test
        for seed in range(8)
    }
    assert len(others) > 1


def test_points_are_one_time(tmp_path: Path) -> None:
    """Beside labels without times and instances with start and end, in a table and read back from gt.json."""
    text = "video,label,start,end,time,split\na,jump,,,3.5,train\na,jump,,,0,train\na,run,,,,train\n"
    rows = read_labels(table(tmp_path, text + "b,jump,1,2,,train\nc,jump,1,2,,test\n"))
    assert [row.segment for row in rows] == [(3.5, 3.5), (0.001, 0.001), None, (1, 2), (1, 2)]
    assert [row.timed for row in rows] == [False, False, False, True, True]
    write_annotations(rows, tmp_path / "data", duration=SECONDS.get)
    video = GroundTruth.load(tmp_path / "data/gt.json").videos["a"]
    assert video.segments.tolist() == [[3.5, 3.5], [0.001, 0.001], [0, 10]]
    assert (video.points.tolist(), video.timed.tolist()) == ([True, True, False], [False, False, False])
    again = read_labels(tmp_path / "data/gt.json")
    assert [row.segment for row in again] == [(3.5, 3.5), (0.001, 0.001), (0, 10), (1, 2), (1, 2)]
    unknown = write_annotations(rows, tmp_path / "other").without_duration
    assert "a" in unknown
    assert [row.segment for row in read_labels(tmp_path / "other/gt.json")][:3] == [
        (3.5, 3.5), (0.001, 0.001), None,
    ]  # fmt: skip


def test_videos_with_points_are_not_drawn_for_testing(tmp_path: Path) -> None:
    text = "video,label,time,start,end\na,jump,3,,\nb,jump,,1,2\nc,jump,4,,\n"
    rows = read_labels(table(tmp_path, text))
    assert write_annotations(rows, tmp_path, test_share=0.9).test == ("b",)


def test_labels_with_quotes_survive_the_settings(tmp_path: Path) -> None:
    rows = read_labels(table(tmp_path, 'a,"say ""hi"" \\ é 🏃",1,2,test\nb,x,1,2,train\n'))
    summary = write_annotations(rows, tmp_path)
    assert summary.only_tested == ('say "hi" \\ é 🏃',)
    assert load_config(file=tmp_path / "settings.toml").classes == ('say "hi" \\ é 🏃', "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,jump,1,20,train\n", "line 1: ends at 20 s, and 'a' is 10.0 s long"),
        ("a,jump,10.5,10.9,train\n", "line 1: starts at 10.5 s, and 'a' is 10.0 s long"),
        ("a,jump,10,10.5,train\n", "line 1: starts at 10 s, and 'a' is 10.0 s long"),
        ("video,label,time\na,jump,10.5\n", "line 2: starts at 10.5 s, and 'a' is 10.0 s long"),
        ("a,jump,1,2,test\n", "leaves no training video"),
    ],
)
def test_what_cannot_become_a_data_set(tmp_path: Path, text: str, words: str) -> None:
    rows = read_labels(table(tmp_path, text))
    with pytest.raises(DataError, match=words):
        write_annotations(rows, tmp_path / "data", duration=SECONDS.get)
    assert not (tmp_path / "data").exists()


def test_a_test_video_without_times_is_refused_however_its_rows_came(tmp_path: Path) -> None:
    rows = [labels.Label(1, "a", "jump", None, "test"), labels.Label(2, "b", "jump", (1.0, 2.0), "test")]
    with pytest.raises(
        DataError, match=r"line 1: 'a' is a test video, .* need start and end, as others have"
    ):
        write_annotations(rows, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_labels_alone_are_enough(tmp_path: Path) -> None:
    """No video becomes a test video, and the list of a data set that had some goes with --overwrite."""
    write_annotations(read_labels(table(tmp_path, "a,jump,1,2,test\nb,jump,1,2,train\n")), tmp_path)
    rows = read_labels(table(tmp_path, "a,jump\nb,run\n"))
    summary = write_annotations(rows, tmp_path, overwrite=True)
    assert (summary.train, summary.test) == (("a", "b"), ())
    assert not (tmp_path / "split_test.txt").exists()
    assert {video.subset for video in GroundTruth.load(tmp_path / "gt.json").videos.values()} == {"train"}
    labelled = read_labels(table(tmp_path, "a,jump,train\nb,run,test\n"))
    assert write_annotations(labelled, tmp_path, overwrite=True).test == ("b",)


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    rows = read_labels(table(tmp_path, "a,jump,1,2,test\nb,jump,1,2,train\n"))
    write_annotations(rows, tmp_path)
    before = json.loads((tmp_path / "gt.json").read_text())
    with pytest.raises(DataError, match=r"gt\.json: is there already.*--overwrite"):
        write_annotations(rows[:1], tmp_path)
    assert json.loads((tmp_path / "gt.json").read_text()) == before


def test_one_file_in_several_rows(tmp_path: Path) -> None:
    text = "d/a.mp4,jump,1,2\n./d//a.MP4,jump,3,4\nd\\a,run,1,2\nd/a.npz,run,3,4\n"
    assert [row.video for row in read_labels(table(tmp_path, text))] == ["a"] * 4


def test_names_and_labels_are_clean(tmp_path: Path) -> None:
    text = "cafe\u0301, Long  jump\u202e \n"
    (row,) = read_labels(table(tmp_path, text))
    assert (row.video, row.label) == ("caf\u00e9", "Long jump")


def test_labels_that_are_nearly_alike_are_named(tmp_path: Path) -> None:
    rows = read_labels(table(tmp_path, "a,Long jump,train\nb,long_jump,train\n"))
    rows += read_labels(table(tmp_path, "c,Long jump,1,2,test\nc,Ambiguous,3,4,test\n"))
    with pytest.warns(AiclWarning, match=r"'Long jump' and 'long_jump' differ in case"):
        summary = write_annotations(rows, tmp_path / "data", source="/home/someone/labels.csv")
    assert summary.classes == ("Long jump", "long_jump")
    assert load_config(file=tmp_path / "data" / "settings.toml").classes == summary.classes
    written = (tmp_path / "data" / "gt.json").read_text()
    assert "Ambiguous" in written
    assert "someone" not in written


@pytest.mark.parametrize(
    ("subset", "splits"),
    [
        ("training", ["train", "test", "test"]),
        ("train", ["train", "test", "test"]),
        ("", [None, "train", "test"]),
    ],
)
def test_an_activitynet_document_is_told_by_its_content(
    tmp_path: Path, subset: str, splits: list[str | None]
) -> None:
    """Its subsets are the splits, and its durations count where nothing else is known."""
    span = {"label": "jump", "segment": ["1", 2.5]}
    database: dict[str, Any] = {
        name: {"subset": each, "annotations": [span], "duration": 9}
        for name, each in {"a": subset, "b": "validation", "c": "test"}.items()
    }
    rows = read_labels(table(tmp_path, json.dumps({"database": database})))
    assert [(row.video, row.label, row.segment) for row in rows] == [(v, "jump", (1, 2.5)) for v in "abc"]
    assert [row.split for row in rows] == splits
    assert write_annotations(rows, tmp_path / "data").without_duration == ()
    assert GroundTruth.load(tmp_path / "data/gt.json").videos["b"].duration == 9
    database["c"]["annotations"] = [span, {"label": "run", "segment": [5, 20]}]
    with pytest.raises(DataError, match=r"annotation 4: ends at 20 s, and 'c' is 9\.0 s long"):
        read_labels(table(tmp_path, json.dumps({"database": database})))
    with pytest.raises(DataError, match="expected an ActivityNet annotation document"):
        read_labels(table(tmp_path, '{"results": {}}'))


def test_another_package_adds_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``video label`` lines after a first line that says so, as a package might register them."""

    def rows(text: str, source: str) -> list[labels.Row]:
        return [labels.Row(n, *line.split()[:2]) for n, line in enumerate(text.splitlines()[1:], 2)]

    reader = labels.Reader(lambda text: text.startswith("#toy"), rows, "entry")
    monkeypatch.setattr("aicl_fast.plugins.load", {labels.GROUP: {"toy": reader}}.__getitem__)
    (row,) = read_labels(table(tmp_path, "#toy,1\na.mp4 jump"))
    assert (row.video, row.label, row.segment) == ("a", "jump", None)
    with pytest.raises(DataError, match="entry 3: repeats entry 2"):
        read_labels(table(tmp_path, "#toy\na jump\na jump"))
    assert read_labels(table(tmp_path, "a,jump"))[0].label == "jump"
