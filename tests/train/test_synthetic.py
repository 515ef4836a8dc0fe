"""The synthetic set: its shape is the real annotations', its features and errors are what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aicl_fast.config import load_config
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.train.synthetic import (
    SyntheticConfig,
    Timeline,
    _Cues,
    draw_features,
    draw_timeline,
    write_synthetic,
)

Array = npt.NDArray[np.float64]
SMALL = SyntheticConfig(train_videos=6, test_videos=4, classes=3, width=16, longest=60.0)


def _timelines(config: SyntheticConfig) -> list[Timeline]:
    train = [draw_timeline(config, "train", number) for number in range(config.train_videos)]
    return train + [draw_timeline(config, "test", number) for number in range(config.test_videos)]


@pytest.fixture(scope="module")
def full() -> list[Timeline]:
    """Every timeline of a set of THUMOS14's size."""
    return _timelines(SyntheticConfig())


def _shape(videos: Sequence[tuple[Sequence[object], Array]]) -> dict[str, float]:
    """Numbers that say what a set of (labels, segments) looks like."""
    counts = np.array([len(segments) for _, segments in videos], float)
    seconds = np.concatenate([segments[:, 1] - segments[:, 0] for _, segments in videos])
    seconds = seconds[seconds > 0]
    last = np.array([segments[:, 1].max() for _, segments in videos])
    ordered = [segments[np.argsort(segments[:, 0])] for _, segments in videos]
    gaps = np.concatenate([one[1:, 0] - one[:-1, 1] for one in ordered])
    return {
        "instances a video, lower quartile": float(np.percentile(counts, 25)),
        "instances a video, median": float(np.median(counts)),
        "instances a video, upper quartile": float(np.percentile(counts, 75)),
        "instances a video, mean": float(counts.mean()),
        "instances a video, log-deviation": float(np.log(counts).std()),
        "seconds an instance, lower quartile": float(np.percentile(seconds, 25)),
        "seconds an instance, median": float(np.median(seconds)),
        "seconds an instance, upper quartile": float(np.percentile(seconds, 75)),
        "seconds an instance, 95 %": float(np.percentile(seconds, 95)),
        "seconds an instance, log-deviation": float(np.log(seconds).std()),
        "last second, median": float(np.median(last)),
        "gap, median": float(np.median(gaps)),
        "two classes": float(np.mean([len(set(labels)) > 1 for labels, _ in videos])),
        "instances and last second": float(np.corrcoef(np.log(counts), np.log(last))[0, 1]),
    }


def test_the_shape_is_that_of_the_real_annotations(full: list[Timeline], shared_data: Path) -> None:
    path = shared_data / "thumos14" / "gt.json"
    if not path.is_file():
        pytest.skip("no THUMOS14 annotations")
    truth = GroundTruth.load(path).videos.values()
    real = _shape([(video.labels, video.segments) for video in truth])
    ours = _shape([(timeline.labels.tolist(), timeline.segments) for timeline in full])
    for name, value in real.items():
        # Counts are whole numbers, so that their quartiles move by one.
        slack = 1.0 if name.startswith("instances a video") else 0.0
        assert ours[name] == pytest.approx(value, rel=0.25, abs=slack), name
    assert ours["seconds an instance, median"] == pytest.approx(3.05, rel=0.1)


def test_timelines_are_possible(full: list[Timeline]) -> None:
    config = SyntheticConfig()
    for timeline in full:
        assert config.shortest - 0.4 <= timeline.duration <= config.longest + 0.4
        assert timeline.duration / config.segment_seconds == pytest.approx(
            round(timeline.duration / config.segment_seconds)
        )
        starts, ends = timeline.segments.T
        assert len(starts) == len(timeline.labels) >= 1
        assert starts.min() >= 0
        assert ends.max() <= timeline.duration + 1e-9
        assert (ends > starts).all()
        assert (starts[1:] >= ends[:-1] - 1e-9).all()
        assert len(set(timeline.labels.tolist())) <= 2
    held = {label for timeline in full for label in timeline.labels.tolist()}
    assert held == set(range(config.classes))


def test_a_short_range_of_lengths_is_kept() -> None:
    config = SyntheticConfig(shortest=20.0, longest=22.0)
    durations = [draw_timeline(config, "train", number).duration for number in range(20)]
    assert min(durations) >= 19.6
    assert max(durations) <= 22.4


def test_features_are_non_negative_sparse_and_heavy_tailed() -> None:
    """Without cues: the moments of rectified normal values that share part of their variance."""
    config = SyntheticConfig(strength=0.0, longest=120.0)
    streams = [draw_features(config, "train", number) for number in range(6)]
    for stream in (0, 1):
        values = np.concatenate([pair[stream] for pair in streams]).astype(np.float64)
        assert values.dtype == np.float64
        assert values.shape[1] == 1024
        assert values.min() == 0.0
        # E[max(0, x)] with x normal around -0.40 ± 0.07 is 0.231; the gain of mean exp(0.02) is on top.
        assert values.mean() == pytest.approx(0.231 * np.exp(0.02), rel=0.05)
        assert 0.2 < (values == 0).mean() < 0.5
        centred = values - values.mean()
        deviation = values.std()
        assert deviation > values.mean()
        assert (centred**3).mean() / deviation**3 > 1.5
        # Neighbouring segments are alike, as in a recording.
        one = streams[0][stream]
        assert np.corrcoef(one[:-1].ravel(), one[1:].ravel())[0, 1] > 0.4


def _regions(config: SyntheticConfig, number: int) -> tuple[npt.NDArray[np.bool_], ...]:
    """(whole action segments, near but outside, far outside) of one video."""
    timeline = draw_timeline(config, "train", number)
    count = round(timeline.duration / config.segment_seconds)
    middle = (np.arange(count) + 0.5) * config.segment_seconds
    distance = np.min([np.maximum(start - middle, middle - end) for start, end in timeline.segments], axis=0)
    return distance < -0.5, (distance > 0.7) & (distance < 3.0), distance > 40.0


def _cue_level(config: SyntheticConfig, stream: int, patterns: npt.NDArray[np.float32]) -> list[float]:
    """Mean features of each region of videos of class 0, along the channels of a cue."""
    channels = patterns > 0
    parts: list[list[float]] = [[], [], []]
    for number in range(0, 12 * config.classes, config.classes):
        features = draw_features(config, "train", number)[stream][:, channels].mean(1)
        for part, region in zip(parts, _regions(config, number), strict=True):
            part += features[region].tolist()
    return [float(np.mean(part)) for part in parts]


def test_the_scene_shows_outside_the_action_by_its_knob() -> None:
    common = {"classes": 4, "width": 512, "two_class_share": 0.0, "background": 0.0}
    scene = _Cues(SyntheticConfig(classes=4, width=512)).scene[0]
    levels = {
        knob: _cue_level(SyntheticConfig(scene_confusion=knob, **common), 0, scene)  # type: ignore[arg-type]
        for knob in (0.0, 0.5, 1.0)
    }
    for inside, _, far in levels.values():
        assert inside > far + 0.3
    near = [levels[knob][1] - levels[knob][2] for knob in (0.0, 0.5, 1.0)]
    assert abs(near[0]) < 0.05
    assert near[0] + 0.1 < near[1] < near[2] - 0.1


def test_unrelated_motion_shows_in_the_second_stream_by_its_knob() -> None:
    common = {"classes": 4, "width": 512, "background": 0.0, "motion_share": 0.5}
    cue = _Cues(SyntheticConfig(classes=4, width=512)).any_motion
    levels = {
        knob: _cue_level(SyntheticConfig(motion_confusion=knob, **common), 1, cue)  # type: ignore[arg-type]
        for knob in (0.0, 1.0)
    }
    assert levels[0.0][0] > levels[0.0][2] + 0.2
    assert levels[1.0][2] > levels[0.0][2] + 0.05
    # The first stream knows nothing of it.
    still = [_cue_level(SyntheticConfig(motion_confusion=k, **common), 0, cue) for k in (0.0, 1.0)]  # type: ignore[arg-type]
    assert still[0] == pytest.approx(still[1], abs=0.02)


def test_it_reads_as_any_other_set_and_says_synthetic(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made = write_synthetic(tmp_path / "data", SMALL, lambda *event: seen.append(event))
    assert seen == [(number, 10) for number in range(1, 11)]
    assert str(made).startswith("synthetic data, 6 train, 4 test videos, 3 classes")
    config = load_config(file=tmp_path / "data" / "settings.toml")
    dataset = Dataset.open(tmp_path / "data", config)
    assert dataset.config.classes == SMALL.class_names
    document = json.loads((tmp_path / "data" / "gt.json").read_text())
    assert document["synthetic"] is True
    assert json.loads((tmp_path / "data" / "synthetic.json").read_text())["synthetic"] is True
    assert "synthetic" in (tmp_path / "data" / "settings.toml").read_text()
    for split in ("train", "test"):
        for video in dataset.videos[split]:  # type: ignore[index]
            assert video.startswith("synthetic_")
            entry = dataset.ground_truth.videos[video]
            assert all(label.startswith("synthetic_") for label in entry.labels)
            features = dataset.features(split, video)  # type: ignore[arg-type]
            assert features.shape[1] == 32
            assert entry.duration == pytest.approx(len(features) * SMALL.segment_seconds, abs=1e-3)


def test_the_same_settings_give_the_same_files(tmp_path: Path) -> None:
    first, again = (write_synthetic(tmp_path / name, SMALL).root for name in ("one", "two"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (first / file).read_bytes() == (again / file).read_bytes(), file
    other = draw_features(SyntheticConfig(width=16, seed=1), "train", 0)[0]
    assert other.shape != (draw_features(SMALL, "train", 0)[0]).shape or not np.array_equal(
        other, draw_features(SMALL, "train", 0)[0]
    )


def test_a_smaller_set_holds_the_first_videos_of_a_larger(tmp_path: Path) -> None:
    few = SyntheticConfig(train_videos=2, test_videos=1, classes=3, width=16, longest=60.0)
    for mine, theirs in zip(draw_features(few, "test", 0), draw_features(SMALL, "test", 0), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(draw_features(few, "test", 0)[0], draw_features(few, "train", 0)[0])


def test_half_precision_halves_the_files(tmp_path: Path) -> None:
    half = SyntheticConfig(**{**_settings(SMALL), "dtype": "float16"})  # type: ignore[arg-type]
    write_synthetic(tmp_path / "half", half)
    array = np.load(tmp_path / "half" / "features/test/flow/synthetic_test_0000.npy")
    assert array.dtype == np.float16
    expected = draw_features(SMALL, "test", 0)[1]
    np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-6)


def _settings(config: SyntheticConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_it_is_made_once_and_overwrites_nothing(tmp_path: Path) -> None:
    made = write_synthetic(tmp_path / "data", SMALL)
    before = (tmp_path / "data" / "gt.json").stat().st_mtime_ns
    assert write_synthetic(tmp_path / "data", SMALL) == made
    assert (tmp_path / "data" / "gt.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"holds a synthetic set of other settings \(train_videos, "):
        write_synthetic(tmp_path / "data")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="holds files that are not a synthetic set"):
        write_synthetic(tmp_path / "mine", SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "mine"}


def test_a_cut_off_generation_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, every: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "data", SMALL, stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_video": "3"}, "train_video: there is no such setting. Did you mean train_videos"),
        ({"width": "wide"}, "width: expected a whole number, got 'wide'"),
        ({"strength": "-1"}, "strength: expected from 0 to 50, got -1.0"),
        ({"background": "inf"}, "background: expected from 0 to 50, got inf"),
        ({"scene_seconds": "nan"}, "scene_seconds: expected from 0 to 86400, got nan"),
        ({"fps": "inf"}, "fps: expected from 1 to 1000, got inf"),
        ({"longest": "inf"}, "longest: expected at most 86400 seconds, got inf"),
        ({"longest": "20"}, "longest: expected more than shortest"),
        ({"dtype": "int8"}, "dtype: expected float32 or float16"),
        ({"motion_share": "2"}, "motion_share: expected between 0 and 1"),
    ],
)
def test_settings_that_have_no_meaning(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticConfig.with_values(values)


def test_the_command(run: Callable[..., str]) -> None:
    sizes = ("train_videos=3", "test_videos=3", "classes=3", "width=8", "longest=40")
    options = [part for size in sizes for part in ("--set", size)]
    assert "synthetic data, 3 train, 3 test videos" in run("synthetic", "data", *options)
    assert "data: " in run("synthetic", "data", expect=2)
