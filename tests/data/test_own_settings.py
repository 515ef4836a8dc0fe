"""What features say of the settings for one's own data, in every layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.config import load_config
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.feature_file import Recipe, VideoFeatures, save_video_features
from aicl_fast.data.own_settings import chosen_config, measure_features
from aicl_fast.errors import AiclError, DataError

COUNTS = {"a": 40, "b": 60, "c": 90}
RGB, FLOW = 6, 5


def save(path: Path, count: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(count).random((count, width), dtype=np.float32))


def annotate(root: Path) -> None:
    database = {
        name: {
            "subset": "train" if name != "c" else "test",
            "annotations": [{"label": "x", "segment": [0, 1]}],
        }
        for name in COUNTS
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "gt.json").write_text(json.dumps({"database": database}))
    (root / "split_train.txt").write_text("a\nb\n")
    (root / "split_test.txt").write_text("c\n")


def write(root: Path, layout: str) -> None:
    """The data set in one of the layouts of docs/datasets.md."""
    features = root / "features"
    for name, count in COUNTS.items():
        home = features if "flat" in layout else features / ("test" if name == "c" else "train")
        if "folders" in layout:
            save(home / "rgb" / f"{name}.npy", count, RGB)
            save(home / "flow" / f"{name}.npy", count, FLOW)
        elif "pairs" in layout:
            save(home / f"{name}_rgb.npy", count, RGB)
            save(home / f"v_{name}_flow.npy", count, FLOW)
        elif "rgb folder" in layout:
            save(home / "rgb" / f"{name}.npy", count, RGB)
        elif "both" in layout:
            save(home / f"{name}.npy", count, 2048)
        elif "one" in layout:
            save(home / f"{name}.npy", count, 9)
        else:
            home.mkdir(parents=True, exist_ok=True)
            recipe = Recipe(30.0, 8, 16, "crop", rgb_weights="r" * 64)
            array = np.zeros((count, 7), np.float32)
            save_video_features(home / f"{name}.npz", VideoFeatures(name, array, None, recipe, 8 * count + 8))
    annotate(root)


BOTH = {"streams": "both", "rgb_width": RGB, "flow_width": FLOW}
LAYOUTS = {
    "folders": BOTH,
    "folders, flat": BOTH,
    "pairs": BOTH,
    "pairs, flat": BOTH,
    "rgb folder": {"streams": "rgb", "rgb_width": RGB},
    "both in one": {"streams": "both", "rgb_width": 1024, "flow_width": 1024},
    "one": {"streams": "rgb", "rgb_width": 9},
    "extracted": {"streams": "rgb", "rgb_width": 7},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_features_decide(tmp_path: Path, layout: str) -> None:
    write(tmp_path, layout)
    config, origin = chosen_config(tmp_path, None, None)
    assert {name: getattr(config.data, name) for name in LAYOUTS[layout]} == LAYOUTS[layout]
    assert config.preset == "own"
    assert config.data.segments == 60  # of the training videos
    assert config.train.steps == 300
    assert "segments=60" in origin
    dataset = Dataset.open(tmp_path, config)
    assert dataset.features("train", "a").shape == (40, config.data.input_width)


def test_an_array_that_may_be_two_streams_is_told(tmp_path: Path) -> None:
    write(tmp_path, "one")
    measured = measure_features(tmp_path, "ab")
    assert measured is not None
    assert measured.undivided == 9
    assert measured.segments == {"a": 40, "b": 60}
    write(tmp_path / "both", "both")
    of_both = measure_features(tmp_path / "both", "ab")
    assert of_both is not None
    assert not of_both.undivided


@pytest.mark.parametrize(
    ("count", "videos", "segments", "steps"),
    [(5, 3, 32, 300), (128, 800, 128, 400), (5000, 25_000, 750, 3000)],
)
def test_lengths_and_numbers(count: int, videos: int, segments: int, steps: int) -> None:
    from aicl_fast.data.own_settings import Measured

    measured = Measured({"rgb": 1024, "flow": 1024}, {str(name): count for name in range(videos)})
    found = load_config("own", overrides=[f"{name}={value}" for name, value in measured.settings().items()])
    assert (found.data.segments, found.train.steps) == (segments, steps)


def test_the_rare_longest_recording_does_not_decide() -> None:
    from aicl_fast.data.own_settings import Measured

    counts = dict.fromkeys(map(str, range(19)), 100) | {"long": 700}
    assert Measured({"rgb": 3}, counts).settings()["segments"] == 100


def test_what_is_named_goes_first(tmp_path: Path) -> None:
    write(tmp_path, "folders")
    config, _ = chosen_config(tmp_path, None, None, ["segments=48", "train.steps=7"])
    assert (config.data.segments, config.train.steps, config.data.rgb_width) == (48, 7, RGB)
    config, origin = chosen_config(tmp_path, "thumos14", None)
    assert (config.preset, config.data.rgb_width, origin) == ("thumos14", 1024, "")
    (tmp_path / "settings.toml").write_text('preset = "own"\nsegments = 44\nclasses = ["x"]\n')
    config, origin = chosen_config(tmp_path, None, None)
    assert (config.data.segments, config.data.rgb_width) == (44, 1024)
    assert "settings.toml" in origin
    config, origin = chosen_config(tmp_path, "demo", None)  # a preset without its file
    assert (config.preset, config.data.segments, origin) == ("demo", 128, "")
    config, _ = chosen_config(tmp_path, "thumos14", tmp_path / "settings.toml")
    assert (config.preset, config.decode.class_threshold, config.data.segments) == ("thumos14", 0.25, 44)


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data set folder does not exist"):
        chosen_config(tmp_path / "none", None, None)
    annotate(tmp_path)
    assert measure_features(tmp_path, "ab") is None
    config, origin = chosen_config(tmp_path, None, None)
    assert (config.data.segments, origin) == (256, "settings: preset own")
    write(tmp_path, "one")
    (tmp_path / "features/train/a.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(AiclError, match=r"a\.npy"):
        chosen_config(tmp_path, None, None)


def test_a_stream_that_one_video_lacks_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "pairs")
    (tmp_path / "features/train/v_b_flow.npy").unlink()
    measured = measure_features(tmp_path, "ab")
    assert measured is not None
    assert (measured.streams, dict(measured.widths)) == ("rgb", {"rgb": RGB})
