"""The data set reader: the published layout, and a clear list of what is wrong with a folder."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset, read_streams
from aicl_fast.errors import AiclWarning, DataError


def test_a_complete_folder_reads(tiny_dataset: Path, tiny_config: Config) -> None:
    dataset = Dataset.open(tiny_dataset, replace(tiny_config, classes=()))
    assert dataset.config.classes == ("Jump", "Run", "Throw")
    assert [len(dataset.videos[split]) for split in ("train", "test")] == [6, 3]
    assert dataset.features("test", "test_1").shape == (33, 11)
    assert dataset.labels("train_1").tolist() == [0, 1, 0]
    assert list(dataset.truth("test").videos) == ["test_0", "test_1", "test_2"]


def test_missing_features_are_counted_and_listed(tiny_dataset: Path, tiny_config: Config) -> None:
    (tiny_dataset / "features/train/flow/train_2.npy").unlink()
    (tiny_dataset / "features/test/rgb/test_0.npy").unlink()
    with pytest.raises(
        DataError, match=r"2 of 18 feature files are missing(.|\n)*train_2\.npy(.|\n)*test_0\.npy"
    ):
        Dataset.open(tiny_dataset, tiny_config)
    assert "train" not in Dataset.open(_without(tiny_dataset, "test_0"), tiny_config, splits=["test"]).videos


def test_missing_features_are_listed_to_the_hundredth(tiny_dataset: Path, tiny_config: Config) -> None:
    path = tiny_dataset / "features/test/rgb/test_0.npy"
    path.unlink()
    with pytest.raises(DataError, match="1 of 18 feature files is missing"):
        Dataset.open(tiny_dataset, tiny_config)
    document = json.loads((tiny_dataset / "gt.json").read_text())
    names = [f"gone_{number:03}" for number in range(110)]
    document["database"].update(dict.fromkeys(names, document["database"]["test_0"]))
    (tiny_dataset / "gt.json").write_text(json.dumps(document))
    (tiny_dataset / "split_test.txt").write_text("\n".join(["test_1", *names]))
    with pytest.raises(DataError, match="220 of 234 feature files are missing") as caught:
        Dataset.open(tiny_dataset, tiny_config)
    assert str(caught.value).count(".npy") == 100
    assert "and 120 more" in str(caught.value)
    dataset = Dataset.open(tiny_dataset, tiny_config, allow_missing=True)
    assert dataset.missing == tuple(names)


def _without(root: Path, video: str) -> Path:
    split = root / "split_test.txt"
    split.write_text(split.read_text().replace(video, ""))
    return root


def test_a_name_may_have_spaces(tiny_dataset: Path, tiny_config: Config) -> None:
    for stream in ("rgb", "flow"):
        folder = tiny_dataset / "features/test" / stream
        (folder / "test_1.npy").rename(folder / "my first video.npy")
    for name in ("gt.json", "split_test.txt"):
        path = tiny_dataset / name
        path.write_text(path.read_text().replace("test_1", "my first video"))
    dataset = Dataset.open(tiny_dataset, tiny_config)
    assert dataset.videos["test"] == ("test_0", "my first video", "test_2")
    assert dataset.features("test", "my first video").shape == (33, 11)


def test_an_unknown_label_is_named_with_the_near_one(tiny_dataset: Path, tiny_config: Config) -> None:
    path = tiny_dataset / "gt.json"
    document = json.loads(path.read_text())
    document["database"]["train_0"]["annotations"][0]["label"] = "Jmp"
    path.write_text(json.dumps(document))
    with pytest.raises(
        DataError,
        match=r"'train_0' has the label 'Jmp', which is not among the 3 classes.*'Jump'.*--set classes=",
    ):
        Dataset.open(tiny_dataset, tiny_config)


def test_a_video_without_annotation_is_named(tiny_dataset: Path, tiny_config: Config) -> None:
    with (tiny_dataset / "split_train.txt").open("a") as file:
        file.write("stranger\n")
    with pytest.raises(DataError, match=r"no annotation of 'stranger', which split_train\.txt lists"):
        Dataset.open(tiny_dataset, tiny_config)


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("a\nb\na\n", "lists 'a' more than once")])
def test_wrong_split_files(tiny_dataset: Path, tiny_config: Config, text: str, words: str) -> None:
    (tiny_dataset / "split_test.txt").write_text(text)
    with pytest.raises(DataError, match=rf"split_test\.txt: {words}"):
        Dataset.open(tiny_dataset, tiny_config)


def test_missing_parts(tiny_dataset: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data set folder does not exist"):
        Dataset.open(tmp_path / "nowhere", tiny_config)
    (tiny_dataset / "gt.json").unlink()
    with pytest.raises(DataError, match="the annotation file does not exist"):
        Dataset.open(tiny_dataset, tiny_config)


def test_streams_of_different_length_name_the_files(tiny_dataset: Path, tiny_config: Config) -> None:
    np.save(tiny_dataset / "features/test/flow/test_0.npy", np.ones((3, 5), np.float32))
    dataset = Dataset.open(tiny_dataset, tiny_config)
    with pytest.raises(
        DataError, match=r"test_0\.npy and .*flow.test_0\.npy: rgb has 20 segments and flow 3"
    ):
        dataset.features("test", "test_0")


def test_missing_videos_can_be_left_out(tiny_dataset: Path, tiny_config: Config) -> None:
    (tiny_dataset / "features/train/flow/train_2.npy").unlink()
    dataset = Dataset.open(tiny_dataset, tiny_config, allow_missing=True)
    assert dataset.missing == ("train_2",)
    assert "train_2" not in dataset.videos["train"]
    for path in (tiny_dataset / "features/test/rgb").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="not one video of split_test has features"):
        Dataset.open(tiny_dataset, tiny_config, allow_missing=True)


def test_both_streams_in_one_file_and_subsets_for_splits(tiny_dataset: Path, tiny_config: Config) -> None:
    """ActivityNet's form: v_<video>.npy with both streams, and no split files."""
    apart = Dataset.open(tiny_dataset, tiny_config)
    expected = {(s, v): apart.features(s, v) for s, names in apart.videos.items() for v in names}
    for (split, video), array in expected.items():
        np.save(tiny_dataset / "features" / split / f"v_{video}.npy", array)
    for split in ("train", "test"):
        (tiny_dataset / f"split_{split}.txt").unlink()
        for stream in ("rgb", "flow"):
            shutil.rmtree(tiny_dataset / "features" / split / stream)
    joined = Dataset.open(tiny_dataset, tiny_config)
    assert joined.videos == apart.videos
    for (split, video), array in expected.items():
        np.testing.assert_array_equal(joined.features(split, video), array)
    flow = Dataset.open(tiny_dataset, tiny_config.with_values({"streams": "flow"}))
    np.testing.assert_array_equal(flow.features("test", "test_0"), expected["test", "test_0"][:, 6:])
    with pytest.raises(DataError, match="no subset 'training' to use instead"):
        Dataset.open(tiny_dataset, tiny_config.with_values({"train_subset": "training"}))


@pytest.mark.parametrize(("streams", "part"), [("rgb", slice(0, 6)), ("flow", slice(6, 11))])
def test_one_stream_needs_only_its_files(
    tiny_dataset: Path, tiny_config: Config, streams: str, part: slice
) -> None:
    both = Dataset.open(tiny_dataset, tiny_config).features("test", "test_1")
    for split in ("train", "test"):
        shutil.rmtree(tiny_dataset / "features" / split / ("flow" if streams == "rgb" else "rgb"))
    dataset = Dataset.open(tiny_dataset, tiny_config.with_values({"streams": streams}))
    np.testing.assert_array_equal(dataset.features("test", "test_1"), both[:, part])


@pytest.mark.parametrize(("streams", "part"), [("rgb", slice(0, 6)), ("flow", slice(6, 11))])
@pytest.mark.parametrize("alone", [True, False])
def test_a_file_a_video_may_hold_one_stream(
    tiny_dataset: Path, tiny_config: Config, streams: str, part: slice, alone: bool
) -> None:
    both = Dataset.open(tiny_dataset, tiny_config).features("test", "test_1")
    folder = tiny_dataset / "features" / "test"
    for stream in ("rgb", "flow"):
        shutil.rmtree(folder / stream)
    data = tiny_config.with_values({"streams": streams}).data
    np.save(folder / "test_1.npy", both[:, part] if alone else both)
    (found,) = read_streams(folder, "test_1", data)
    np.testing.assert_array_equal(found, both[:, part])


@pytest.mark.parametrize(
    ("apart", "streams", "words"),
    [
        (True, "both", r"rgb.test_1\.npy: expected 6 .*\(rgb_width 6\), got 9\. .*, --set rgb_width=…\."),
        (False, "both", r"expected 11 .*\(rgb_width 6 \+ flow_width 5\), got 9\. .* --set flow_width=…\."),
        (False, "flow", r"expected 5 .*\(flow_width 5\), got 9\. .*, --set flow_width=…\."),
    ],
)
def test_another_width_names_the_settings(
    tiny_dataset: Path, tiny_config: Config, apart: bool, streams: str, words: str
) -> None:
    folder = tiny_dataset / "features" / "test"
    if not apart:
        for stream in ("rgb", "flow"):
            shutil.rmtree(folder / stream)
    np.save((folder / "rgb" if apart else folder) / "test_1.npy", np.ones((33, 9), np.float32))
    with pytest.raises(DataError, match=words):
        read_streams(folder, "test_1", tiny_config.with_values({"streams": streams}).data)


def test_mapped_streams_hold_the_same_values(tiny_dataset: Path, tiny_config: Config) -> None:
    dataset = Dataset.open(tiny_dataset, tiny_config)
    mapped = dataset.streams("test", "test_1", mapped=True)
    assert all(isinstance(stream, np.memmap) for stream in mapped)
    np.testing.assert_array_equal(np.concatenate(mapped, 1), dataset.features("test", "test_1"))
    np.save(tiny_dataset / "features/test/rgb/test_1.npy", np.full((33, 6), np.nan, np.float32))
    with pytest.raises(DataError, match="NaN"):
        dataset.streams("test", "test_1", mapped=True)


def test_a_training_video_needs_a_label(tiny_dataset: Path, tiny_config: Config) -> None:
    path = tiny_dataset / "gt.json"
    document = json.loads(path.read_text())
    document["database"]["train_0"]["annotations"] = []
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="the training video 'train_0' has no label"):
        Dataset.open(tiny_dataset, tiny_config)


def _change(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "gt.json"
    document = json.loads(path.read_text())
    change(document["database"])
    path.write_text(json.dumps(document))


def test_a_video_in_both_splits_is_said(tiny_dataset: Path, tiny_config: Config) -> None:
    with (tiny_dataset / "split_test.txt").open("a") as file:
        file.write("train_0\n")
    for stream in ("rgb", "flow"):
        folder = tiny_dataset / "features"
        shutil.copy(folder / "train" / stream / "train_0.npy", folder / "test" / stream)
    with pytest.warns(AiclWarning, match=r"1 of the test videos are training videos, too \(train_0\)"):
        Dataset.open(tiny_dataset, tiny_config)


def test_a_class_without_training_videos_is_said(tiny_dataset: Path, tiny_config: Config) -> None:
    def relabel(database: dict[str, Any]) -> None:
        for name in ("train_0", "train_3"):
            database[name]["annotations"][0]["label"] = "Run"

    _change(tiny_dataset, relabel)
    config = tiny_config.with_classes([*tiny_config.classes, "Swim"])
    with pytest.warns(AiclWarning, match="2 of 4 classes have no training video.*: Jump, Swim; test .* Jump"):
        Dataset.open(tiny_dataset, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dataset.open(tiny_dataset, config, splits=["test"])


def test_one_file_of_two_videos_is_refused(tiny_dataset: Path, tiny_config: Config) -> None:
    """``v_`` is overlooked in names of files, so both would be read from one."""
    _change(tiny_dataset, lambda database: database.update({"v_train_0": database["train_0"]}))
    with (tiny_dataset / "split_train.txt").open("a") as file:
        file.write("v_train_0\n")
    with pytest.raises(
        DataError, match=r"train_0\.npy: would be read for two videos, 'train_0' and 'v_train_0'"
    ):
        Dataset.open(tiny_dataset, tiny_config)


def test_classes_that_are_nearly_alike_are_named(tiny_dataset: Path, tiny_config: Config) -> None:
    config = tiny_config.with_classes([*tiny_config.classes, tiny_config.classes[0].upper()])
    with (
        pytest.warns(AiclWarning, match="no training"),
        pytest.warns(AiclWarning, match="classes: the labels .* differ in case"),
    ):
        Dataset.open(tiny_dataset, config)


def test_test_videos_without_annotations_are_said(tiny_dataset: Path, tiny_config: Config) -> None:
    def clear(database: dict[str, Any]) -> None:
        for name, entry in database.items():
            if name.startswith("test_"):
                entry["annotations"] = []

    _change(tiny_dataset, clear)
    with pytest.warns(AiclWarning, match="not one test video has a label"):
        Dataset.open(tiny_dataset, tiny_config)


def test_a_data_set_may_lack_test_videos(tiny_dataset: Path, tiny_config: Config) -> None:
    """Where every annotated video is a training video; others may be meant for testing."""
    (tiny_dataset / "split_test.txt").unlink()
    with pytest.raises(DataError, match="no subset 'validation'"):
        Dataset.open(tiny_dataset, tiny_config.with_values({"test_subset": "validation"}), may_lack_test=True)
    assert len(Dataset.open(tiny_dataset, tiny_config, may_lack_test=True).videos["test"]) == 3

    def leave(database: dict[str, Any]) -> None:
        for number in range(3):
            del database[f"test_{number}"]

    _change(tiny_dataset, leave)
    with pytest.raises(DataError, match="the split file does not exist"):
        Dataset.open(tiny_dataset, tiny_config)
    assert Dataset.open(tiny_dataset, tiny_config, may_lack_test=True).videos["test"] == ()


def test_ambiguous_is_no_class(tiny_dataset: Path, tiny_config: Config) -> None:
    """A training video that has it keeps its other labels alone."""

    def add(database: dict[str, Any]) -> None:
        database["train_0"]["annotations"].append({"label": "Ambiguous", "segment": [3, 4]})

    _change(tiny_dataset, add)
    dataset = Dataset.open(tiny_dataset, replace(tiny_config, classes=()))
    assert dataset.config.classes == ("Jump", "Run", "Throw")
    assert dataset.labels("train_0").tolist() == [1, 0, 0]


def test_names_that_lead_outside(tiny_dataset: Path, tiny_config: Config) -> None:
    (tiny_dataset / "split_test.txt").write_text("../train/rgb/train_0")
    with pytest.raises(DataError, match=r"split_test\.txt: .* cannot name a video"):
        Dataset.open(tiny_dataset, tiny_config)


def test_counts_that_are_widths_are_said(tiny_dataset: Path, tiny_config: Config) -> None:
    dataset = Dataset.open(tiny_dataset, tiny_config.with_values({"rgb_width": 300}))
    with pytest.warns(AiclWarning, match="every video has 1024 rows of 300 values, which looks transposed"):
        dataset.check_counts("test", dict.fromkeys(dataset.videos["test"], 1024))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.check_counts("test", {"test_0": 1024, "test_1": 1000})
