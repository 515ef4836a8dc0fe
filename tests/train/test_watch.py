"""The demo's data: real recordings, composed as described, in the published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("seglearn")

from aicl_fast.config import load_config
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import DataError
from aicl_fast.train import watch


@pytest.fixture(scope="module")
def recordings() -> watch.Recordings:
    return watch.load_recordings()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return watch.prepare_watch(tmp_path_factory.mktemp("watch") / "data")


def test_the_recordings_are_complete(recordings: watch.Recordings) -> None:
    assert len(recordings.samples) == 140
    assert len(recordings.exercises) == 7
    assert len(recordings.actions) == 5


def test_streams_alternate_and_stay_in_their_part(recordings: watch.Recordings) -> None:
    for number in range(40):
        split = ("train", "test")[number % 2]
        signal, annotations = watch.compose_stream(recordings, split, np.random.default_rng(number))
        assert signal.shape == (2048, 6)
        labels = {item["label"] for item in annotations}
        assert 1 <= len(labels) <= 2
        assert not labels & set(watch.BACKGROUND)
        ends = [item["segment"][1] for item in annotations]
        starts = [item["segment"][0] for item in annotations]
        # Background lies between two actions: 3 s of it, unless the recording's part is shorter.
        assert all(start - end >= 3 for end, start in zip(ends[:-1], starts[1:], strict=True))
        assert all(end - start <= 12 for start, end in zip(starts, ends, strict=True))
        _assert_pieces_come_from(recordings, split, signal, annotations)


def _assert_pieces_come_from(recordings, split, signal, annotations) -> None:
    """Each action is a run of samples of one recording's part of this split."""
    for item in annotations:
        start, end = (round(time * watch.RATE) for time in item["segment"])
        piece = signal[start:end]
        homes = [
            recording
            for (_, _, name), recording in recordings.samples.items()
            if name == item["label"] and (recording == piece[0]).all(1).any()
        ]
        assert len(homes) == 1
        (position,) = np.nonzero((homes[0] == piece[0]).all(1))[0][:1]
        np.testing.assert_array_equal(homes[0][position : position + len(piece)], piece)
        border = int(0.6 * len(homes[0]))
        assert position + len(piece) <= border if split == "train" else position >= border


def test_features_of_a_known_signal() -> None:
    time = np.arange(640) / watch.RATE
    signal = np.stack([np.sin(2 * np.pi * 5 * time), 3 + 0 * time, np.sin(2 * np.pi * 5 * time)], axis=1)
    features = watch.segment_features(signal)
    assert features.shape == (40, watch.FEATURE_WIDTH)
    middle = features[20]
    np.testing.assert_allclose(middle[:3], [0, 3, 0], atol=0.05)
    np.testing.assert_allclose(middle[3:6], [np.sqrt(0.5), 0, np.sqrt(0.5)], atol=0.01)
    np.testing.assert_allclose(middle[6:9], [0, 1, 0], atol=1e-3)
    # 5 Hz is bin 12.8 of 128 samples at 50 Hz; bins 1 to 4 are band 0, so it lies in band 3 (13 to 16) or 2.
    assert middle[9 : 9 + watch.BANDS].argmax() in (2, 3)


@pytest.mark.parametrize("shape", [(10, 3), (100, 2), (100,)])
def test_signals_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="signal: expected"):
        watch.segment_features(np.zeros(shape))


def test_the_data_set_reads_as_any_other(prepared: Path) -> None:
    dataset = Dataset.open(prepared, load_config("demo"))
    assert {split: len(videos) for split, videos in dataset.videos.items()} == {"train": 300, "test": 80}
    assert dataset.features("train", "watch_train_000").shape == (128, 114)
    assert len(dataset.config.classes) == 5


def test_the_same_seed_gives_the_same_files(prepared: Path, tmp_path: Path) -> None:
    again = watch.prepare_watch(tmp_path / "again")
    for name in ("gt.json", "features/test/flow/watch_test_079.npy"):
        assert (again / name).read_bytes() == (prepared / name).read_bytes()


def test_it_is_prepared_once_and_overwrites_nothing(prepared: Path, tmp_path: Path) -> None:
    before = (prepared / "gt.json").stat().st_mtime_ns
    watch.prepare_watch(prepared)
    assert (prepared / "gt.json").stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="holds files that are not the demo's data"):
        watch.prepare_watch(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
