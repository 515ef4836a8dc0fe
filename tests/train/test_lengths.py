"""The lengths of training recordings, and evaluating recordings that are longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from aicl_fast import Detector
from aicl_fast.data.dataset import Dataset
from aicl_fast.train.localize import localize
from aicl_fast.train.sampling import Videos
from aicl_fast.train.trainer import train
from aicl_fast.weights import save_model


def test_training_records_lengths_and_tests_in_windows(
    open_tiny: Callable[..., Dataset], tmp_path: Path
) -> None:

    dataset = open_tiny(steps=2, segments=8)
    counts = sorted(len(dataset.features("train", name)) for name in dataset.videos["train"])
    trained = train(dataset, tmp_path / "run")
    detector = Detector(tmp_path / "run" / "model.safetensors")
    for config in (trained.config, detector.config):
        assert config.data.longest_segments == counts[-1]
        assert config.data.typical_segments == int(np.median(counts))
    # As if all training recordings had been short: the test videos are cut then.
    short = replace(trained.config, data=replace(trained.config.data, typical_segments=9, longest_segments=9))
    videos = Videos(dataset, "test")
    scores, found = localize(trained.net, videos, short)
    save_model(tmp_path / "short.safetensors", trained.net, short)
    alone = Detector(tmp_path / "short.safetensors")
    assert max(len(item.fused) for item in scores.values()) > 9
    for name in videos.names:
        expected = alone.scores(dataset.features("test", name), video=name)
        np.testing.assert_allclose(scores[name].fused, expected.fused, atol=1e-6)
        assert len(found[name]) == len(alone(dataset.features("test", name)))
