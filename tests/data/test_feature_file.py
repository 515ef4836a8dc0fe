"""Features files: what they record, what is refused, and data sets made of them."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.config import Config, DataConfig, load_config
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.feature_file import (
    Recipe,
    VideoFeatures,
    load_video_features,
    read_header,
    save_video_features,
)
from aicl_fast.detect_features import decode_features, detect_features
from aicl_fast.detector import Detector
from aicl_fast.errors import AiclWarning, DataError
from aicl_fast.metadata import model_metadata, parse_metadata

RECIPE = Recipe(
    fps=30.0,
    stride=8,
    frames_per_segment=16,
    transform="short side 256 bilinear, centre crop 224",
    rgb_weights="a" * 64,
    flow_weights="b" * 64,
    flow_algorithm="dis",
)


def some(video: str = "clip", *, n: int = 9, seed: int = 0, recipe: Recipe = RECIPE) -> VideoFeatures:
    rng = np.random.default_rng(seed)
    rgb, flow = (rng.random((n, width), dtype=np.float32) for width in (6, 5))
    return VideoFeatures(video, rgb, flow, recipe, frames=70, source=("clip é.mp4", 1234))


@pytest.mark.parametrize("mapped", [False, True])
def test_written_and_read(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "clip.npz"
    save_video_features(path, some())
    found = load_video_features(path, mapped=mapped)
    np.testing.assert_array_equal(found.rgb, some().rgb)
    np.testing.assert_array_equal(found.flow, some().flow)
    assert (found.video, found.frames, found.source) == ("clip", 70, ("clip é.mp4", 1234))
    assert found.recipe == RECIPE
    assert found.duration == pytest.approx(70 / 30)
    assert read_header(path).recipe == RECIPE
    assert read_header(path).rgb is None
    assert isinstance(found.rgb, np.ndarray)
    assert found.rgb.flags.writeable != mapped


def made_by(**changes: object) -> VideoFeatures:
    return some(recipe=replace(RECIPE, **changes))  # type: ignore[arg-type]


def test_a_model_takes_features_made_as_its_own() -> None:
    """Streams that it does not read, the precision, the frame rate and the stride are left aside."""
    data = DataConfig(rgb_width=6, flow_width=5, recipe=RECIPE.text("both"))
    assert len(some().streams(data)) == 2
    assert len(made_by(precision="bf16", fps=25.0, stride=16).streams(data)) == 2
    rgb = replace(data, streams="rgb", recipe=RECIPE.text("rgb"))
    assert len(made_by(flow_weights="c" * 64, flow_algorithm="tvl1").streams(rgb)) == 1
    assert len(made_by(rgb_weights="c" * 64).streams(replace(data, recipe=""))) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rgb_weights": "c" * 64}, r"\(rgb weights: cccccccccccc and aaaaaaaaaaaa\)"),
        ({"flow_weights": "c" * 64}, r"\(flow weights: cccccccccccc and bbbbbbbbbbbb\)"),
        ({"flow_algorithm": "tvl1"}, r"\(flow algorithm: tvl1 and dis\)"),
        ({"transform": "other"}, r"\(transform: other and short side 256 bilinear, centre crop 224\)"),
    ],
)
def test_a_model_refuses_features_made_otherwise(changes: dict[str, str], words: str) -> None:
    data = DataConfig(rgb_width=6, flow_width=5, recipe=RECIPE.text("both"))
    with pytest.raises(DataError, match=f"a.npz: not as the features that the model was trained on {words}"):
        made_by(**changes).streams(data, "a.npz")


def test_a_model_keeps_how_its_features_were_made() -> None:
    config = load_config("thumos14").with_values({"data.recipe": RECIPE.text("both")})
    back = parse_metadata(model_metadata(config), "m.onnx")
    assert back.data.recipe == RECIPE.text("both")


def test_seconds_are_the_features_own_and_end_with_the_video(tiny_model: Path) -> None:
    """The command line does the same; here without it."""
    features = some(n=9)
    with Detector(tiny_model.with_suffix(".onnx")) as detector:
        assert (detector.config.data.fps, detector.config.data.frames_per_segment) != (30, 8)
        found = detect_features(detector, features)
        scores = detector.scores(features.rgb, features.flow, video="clip")
        timed, same = decode_features(detector, scores, features)
    assert (timed.fps, timed.frames_per_segment) == (30, 8)
    assert len(found) > 0
    assert found == same
    assert 0.9 * 70 / 30 < found.segments.max() <= 70 / 30 < timed.duration


def test_plain_numpy_reads_it(tmp_path: Path) -> None:
    """The documented form: two arrays and a text, nothing pickled."""
    save_video_features(tmp_path / "clip.npz", some())
    with np.load(tmp_path / "clip.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["flow", "meta", "rgb"]
        assert archive["rgb"].dtype == np.float32
        meta = json.loads(str(archive["meta"]))
    assert meta["fps"] == 30
    assert meta["stride"] == 8
    assert meta["rgb_weights"] == "a" * 64
    assert meta["flow_algorithm"] == "dis"
    assert "crop 224" in meta["transform"]


def test_an_archive_that_was_compressed_is_mapped_as_well(tmp_path: Path) -> None:
    save_video_features(tmp_path / "clip.npz", some())
    with np.load(tmp_path / "clip.npz") as archive:
        np.savez_compressed(tmp_path / "small.npz", **{name: archive[name] for name in archive.files})
    np.testing.assert_array_equal(load_video_features(tmp_path / "small.npz", mapped=True).rgb, some().rgb)


def test_which_streams_a_model_reads() -> None:
    data = DataConfig(rgb_width=6, flow_width=5)
    assert [stream.shape for stream in some().streams(data)] == [(9, 6), (9, 5)]
    assert [stream.shape for stream in some().streams(replace(data, streams="flow"))] == [(9, 5)]
    alone = replace(some(), flow=None)
    assert len(alone.streams(replace(data, streams="rgb"))) == 1
    with pytest.raises(
        DataError, match=r"x\.npz: holds rgb features alone.*rgb and flow.*--flow-weights.*streams=rgb"
    ):
        alone.streams(data, "x.npz")
    with pytest.raises(DataError, match="holds flow features alone, and the model reads rgb"):
        replace(some(), rgb=None).streams(replace(data, streams="rgb"))
    with pytest.raises(DataError, match="rgb: expected 1024 features a segment, got 6"):
        some().streams(DataConfig())


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.npz"
    with pytest.raises(DataError, match=r"ends in \.npz"):
        save_video_features(tmp_path / "clip.npy", some())
    with pytest.raises(DataError, match="no features to write"):
        save_video_features(path, replace(some(), rgb=None, flow=None))
    with pytest.raises(DataError, match="rgb has 9 segments and flow 3"):
        save_video_features(path, replace(some(), flow=np.ones((3, 5), np.float32)))
    with pytest.raises(DataError, match="NaN"):
        save_video_features(path, replace(some(), rgb=np.full((9, 6), np.nan, np.float32)))
    assert not path.exists()
    with pytest.raises(DataError, match=r"clip\.npz: the feature file does not exist"):
        load_video_features(path)
    np.savez(path, rgb=np.ones((3, 6), np.float32))
    with pytest.raises(DataError, match="does not say how they were made"):
        load_video_features(path)
    np.savez(path, rgb=np.ones((3, 6), np.float32), meta=np.array("{}"))
    with pytest.raises(DataError, match=r"cannot be read.*Extract them again"):
        load_video_features(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", 2, "has format 2.*Upgrade"),
        ("fps", 0, "cannot be read"),
        ("fps", float("inf"), "cannot be read"),
        ("frames", "x", "cannot be read"),
        ("frames", float("inf"), "cannot be read"),
        ("frames", -4, "cannot be read"),
        ("stride", 1.5, "cannot be read"),
        ("transform", 3, "cannot be read"),
    ],
)
def test_what_a_file_says_of_itself_is_checked(tmp_path: Path, key: str, value: object, words: str) -> None:
    path = tmp_path / "clip.npz"
    save_video_features(path, some())
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(str(arrays.pop("meta")))
    np.savez(path, meta=np.array(json.dumps({**meta, key: value})), **arrays)
    with pytest.raises(DataError, match=words):
        read_header(path)
    np.savez(path, meta=np.array([{"run": "me"}], dtype=object), **arrays)
    with pytest.raises(DataError, match="pickled Python objects"):
        read_header(path)


@pytest.mark.parametrize("mapped", [False, True])
def test_cut_off_and_changed_files(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "clip.npz"
    save_video_features(path, some())
    whole = path.read_bytes()
    for size in (0, 10, 300, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"clip\.npz: .*(cannot be read|are damaged)"):
            load_video_features(path, mapped=mapped)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.npy", b"nonsense")
    with pytest.raises(DataError, match="feature file cannot be read"):
        load_video_features(path, mapped=mapped)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_wrong_bytes_in_the_archive(tmp_path: Path, mapped: bool, save: Any) -> None:
    """Whatever stands in the archive's own records, it is read or refused."""
    path = tmp_path / "clip.npz"
    save_video_features(path, some())
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    save(path, **arrays)
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    refused = 0
    for place in range(directory, len(whole)):
        for value in (0, 9, 255):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                load_video_features(path, mapped=mapped)
            except DataError:
                refused += 1
    assert refused > 100


# --- data sets -------------------------------------------------------------------------------------------


@pytest.fixture
def extracted_dataset(tiny_dataset: Path, tiny_config: Config) -> Path:
    """The tiny data set, its features in files of ``aicl-fast features``."""
    dataset = Dataset.open(tiny_dataset, tiny_config)
    for split, names in dataset.videos.items():
        for video in names:
            rgb, flow = dataset.streams(split, video)
            features = VideoFeatures(video, rgb, flow, RECIPE, frames=8 * len(rgb) + 8)
            save_video_features(dataset.folder(split) / f"{video}.npz", features)
        for stream in ("rgb", "flow"):
            (tiny_dataset / "plain" / split).mkdir(parents=True, exist_ok=True)
            shutil.move(dataset.folder(split) / stream, tiny_dataset / "plain" / split / stream)
    return tiny_dataset


def test_a_data_set_of_them(extracted_dataset: Path, tiny_config: Config) -> None:
    dataset = Dataset.open(extracted_dataset, tiny_config)
    assert (dataset.config.data.fps, dataset.config.data.frames_per_segment) == (30, 8)
    rgb = np.load(extracted_dataset / "plain/test/rgb/test_1.npy")
    for mapped in (False, True):
        streams = dataset.streams("test", "test_1", mapped=mapped)
        np.testing.assert_array_equal(streams[0], rgb)
    assert dataset.features("test", "test_1").shape == (33, 11)
    flow = Dataset.open(extracted_dataset, tiny_config.with_values({"streams": "flow"}))
    assert flow.features("test", "test_1").shape == (33, 5)
    (extracted_dataset / "features/test/test_1.npz").unlink()
    with pytest.raises(DataError, match=r"1 of 9 feature files is missing(.|\n)*test_1\.npz"):
        Dataset.open(extracted_dataset, tiny_config)
    assert Dataset.open(extracted_dataset, tiny_config, allow_missing=True).missing == ("test_1",)


def test_a_data_set_gives_its_recipe_to_the_model(extracted_dataset: Path, tiny_config: Config) -> None:
    made = Dataset.open(extracted_dataset, tiny_config).config
    assert made.data.recipe == RECIPE.text("both")
    assert Dataset.open(extracted_dataset, made).config == made
    other = made.with_values({"data.recipe": replace(RECIPE, flow_algorithm="tvl1").text("both")})
    with pytest.raises(DataError, match=r"train_0\.npz: .*\(flow algorithm: dis and tvl1\)"):
        Dataset.open(extracted_dataset, other)


def test_all_videos_in_one_folder(extracted_dataset: Path, tiny_config: Config) -> None:
    features = extracted_dataset / "features"
    expected = Dataset.open(extracted_dataset, tiny_config).features("test", "test_2")
    for split in ("train", "test"):
        for path in (features / split).iterdir():
            path.rename(features / path.name)
        (features / split).rmdir()
    together = Dataset.open(extracted_dataset, tiny_config)
    np.testing.assert_array_equal(together.features("test", "test_2"), expected)
    for stream in ("rgb", "flow"):
        shutil.move(extracted_dataset / "plain" / "test" / stream, features / stream)
    plain = Dataset.open(extracted_dataset, tiny_config, splits=["test"])
    np.testing.assert_array_equal(plain.features("test", "test_2"), expected)
    (features / "train").mkdir()  # then every split has a folder of its own
    with pytest.raises(DataError, match=r"3 of 3 feature files are missing:\n.*features/test/test_0"):
        Dataset.open(extracted_dataset, tiny_config.with_values({"streams": "rgb"}), splits=["test"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rgb_weights": "c" * 64}, "rgb weights: aaaaaaaaaaaa and cccccccccccc"),
        ({"flow_weights": "", "flow_algorithm": ""}, "flow weights: bbbbbbbbbbbb and none"),
        ({"fps": 25.0}, r"fps: 30\.0 and 25\.0"),
        ({"stride": 16}, "stride: 8 and 16"),
        ({"flow_algorithm": "tvl1"}, "flow algorithm: dis and tvl1"),
    ],
)
def test_features_made_differently_are_not_mixed(
    extracted_dataset: Path, tiny_config: Config, change: dict[str, object], words: str
) -> None:
    path = extracted_dataset / "features/test/test_0.npz"
    features = load_video_features(path)
    save_video_features(path, replace(features, recipe=replace(RECIPE, **change)))  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=rf"train_0\.npz and .*test_0\.npz: were not extracted alike \(.*{words}"
    ):
        Dataset.open(extracted_dataset, tiny_config)


def test_another_precision_is_no_other_recipe(extracted_dataset: Path, tiny_config: Config) -> None:
    path = extracted_dataset / "features/test/test_0.npz"
    features = load_video_features(path)
    save_video_features(path, replace(features, recipe=replace(RECIPE, precision="bf16")))
    Dataset.open(extracted_dataset, tiny_config)


def test_features_of_unknown_origin_are_not_mixed_in(extracted_dataset: Path, tiny_config: Config) -> None:
    np.save(extracted_dataset / "features/test/test_0.npy", np.ones((9, 11), np.float32))
    with pytest.raises(
        DataError, match=r"8 videos have features that `aicl-fast features` made.*test_0\.npy"
    ):
        Dataset.open(extracted_dataset, tiny_config)


def test_training_reads_them_from_disk(extracted_dataset: Path, tiny_config: Config) -> None:
    """Above ``memory_gb`` the features stay on disk."""
    pytest.importorskip("torch")
    from aicl_fast.train.sampling import Videos

    plain = Dataset.open(extracted_dataset, tiny_config)
    mapped = Dataset.open(extracted_dataset, tiny_config.with_values({"memory_gb": 0}))
    drawn = [Videos(each, "train") for each in (plain, mapped)]
    assert [each.mapped for each in drawn] == [False, True]
    tensors = [each.gather([0, 3], [each.sample(0), each.sample(3)]) for each in drawn]
    assert (tensors[0] == tensors[1]).all()


@pytest.mark.parametrize("frames", [64, 81, 2**40])
def test_segments_that_contradict_the_frames(tmp_path: Path, frames: int) -> None:
    """Nine segments, eight frames apart, are of 65 to 80 frames."""
    save_video_features(tmp_path / "clip.npz", replace(some(), frames=frames))
    with pytest.warns(AiclWarning, match=r"clip\.npz: says that its video has .* 9 segments"):
        load_video_features(tmp_path / "clip.npz")


def test_an_archive_of_another_program_names_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", labels=np.ones(3), feats=np.ones((3, 11), np.float32))
    with pytest.raises(DataError, match=r"labels, feats.*\['feats'\].*x\.npz .*x\.npy"):
        load_video_features(tmp_path / "x.npz")
