"""Which videos and which of their segments a training step sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from aicl_fast.dataset import Dataset, Split
from aicl_fast.features import Floats, sample_indices, sample_indices_random

Progress = Callable[[int, int], None]
"""Called with (done, all)."""


class Videos:
    """One split's features in memory, sampled to T segments on demand.

    Attributes:
        names: the videos.
        features: one (n, D) float32 array a video.
        labels: (N, C) float32, the video-level labels.
    """

    def __init__(self, dataset: Dataset, split: Split, progress: Progress | None = None) -> None:
        self.names = dataset.videos[split]
        self.length = dataset.config.data.segments
        self.features: list[Floats] = []
        for number, name in enumerate(self.names):
            self.features.append(dataset.features(split, name))
            if progress is not None:
                progress(number + 1, len(self.names))
        self.labels = np.stack([dataset.labels(name) for name in self.names])

    def __len__(self) -> int:
        return len(self.names)

    def statistics(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(D,) mean and deviation over every segment of every video."""
        count = sum(len(video) for video in self.features)
        mean = np.sum([video.sum(0, dtype=np.float64) for video in self.features], axis=0) / count
        squares = np.sum([((video - mean) ** 2).sum(0) for video in self.features], axis=0) / count
        return mean.astype(np.float32), np.sqrt(squares).astype(np.float32)

    def test_sample(self, index: int) -> Floats:
        """(T, D): the segments that stand for a video when testing."""
        video = self.features[index]
        return video[sample_indices(len(video), self.length)]

    def train_batch(self, indices: Sequence[int], rng: np.random.Generator) -> Floats:
        """(B, T, D): the videos at ``indices``, each sampled anew."""
        sampled = []
        for index in indices:
            video = self.features[index]
            sampled.append(video[sample_indices_random(len(video), self.length, rng)])
        return np.stack(sampled)


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of one batch after another, for ever: each epoch in a new order, its last batch as it comes."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count, size):
            yield order[start : start + size]
