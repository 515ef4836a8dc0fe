"""Which videos and which of their segments a training step sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor

from aicl_fast.data.arrays import load_array, open_archive
from aicl_fast.data.dataset import Dataset, Split
from aicl_fast.data.features import Floats
from aicl_fast.data.sampling import sample_indices, sample_indices_random

Progress = Callable[[int, int], None]
"""Called with (done, all)."""

_DEVICE_SHARE = 0.5
"""How much of a GPU's free memory features may take."""


class Videos:
    """Features and labels of some videos, sampled to T segments on demand.

    Features are read once, video by video into one array, on the GPU where it fits there; or, above the
    budget, they stay on disk and the segments that are drawn are read.

    Attributes:
        names: the videos.
        counts: (N,) their numbers of segments.
        labels: (N, C) float32 video-level labels, on the device.
        mapped: whether the features stay on disk.
        memory_gb: gigabytes of features that were read into memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        names: Sequence[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        memory_gb: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Args:
        dataset, split, names: what to read; all videos of the split without names.
        device: where batches are wanted.
        memory_gb: the budget; ``train.memory_gb`` without one.
        progress: called after each video.
        """
        config = dataset.config
        self.names = tuple(dataset.videos[split] if names is None else names)
        self.length = config.data.segments
        self.device = torch.device(device)
        segments = {name: _segments(dataset, split, name) for name in self.names}
        dataset.check_counts(split, segments)
        self.counts = np.array(list(segments.values()))
        self._starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        shape = (int(self.counts.sum()), config.data.input_width)
        size = 4 * shape[0] * shape[1]
        self.mapped = size / 1e9 > (config.train.memory_gb if memory_gb is None else memory_gb)
        self.memory_gb = 0.0 if self.mapped else size / 1e9
        self._streams: list[tuple[Floats, ...]] = []
        self._flat = None if self.mapped else torch.empty(shape, device=_home(size, self.device))
        for number, name in enumerate(self.names):
            if self._flat is None:
                self._streams.append(dataset.streams(split, name, mapped=True))
            else:
                # Nothing refers to a video any more when the next one is read.
                rows = slice(self._starts[number], self._starts[number] + self.counts[number])
                self._flat[rows].copy_(torch.from_numpy(dataset.features(split, name)))
            if progress is not None:
                progress(number + 1, len(self.names))
        labels = np.stack([dataset.labels(name) for name in self.names])
        self.labels = torch.from_numpy(labels).to(self.device)

    def __len__(self) -> int:
        return len(self.names)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """(D,) float32 mean and deviation over every segment of every video."""
        total = squares = 0.0
        for index in range(len(self)):
            total = total + self._video(index).sum(0, dtype=np.float64)
        mean = np.asarray(total) / self.counts.sum()
        for index in range(len(self)):
            squares = squares + ((self._video(index) - mean) ** 2).sum(0)
        deviation = np.sqrt(np.asarray(squares) / self.counts.sum())
        return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()

    def sample(self, index: int, rng: np.random.Generator | None = None) -> npt.NDArray[np.int64]:
        """(T,) the segments of one video that are seen: drawn with a generator, fixed without one."""
        count = int(self.counts[index])
        if rng is None:
            return sample_indices(count, self.length)
        return sample_indices_random(count, self.length, rng)

    def gather(self, indices: Sequence[int], samples: Sequence[npt.NDArray[np.int64]]) -> Tensor:
        """(B, T, D) on the device: these segments of these videos."""
        if self._flat is not None:
            rows = np.concatenate(
                [self._starts[i] + sample for i, sample in zip(indices, samples, strict=True)]
            )
            drawn = self._flat[send(torch.from_numpy(rows), self._flat.device)]
            return send(drawn, self.device).view(len(indices), self.length, -1)
        videos = [
            np.concatenate([stream[sample] for stream in self._streams[i]], axis=1)
            for i, sample in zip(indices, samples, strict=True)
        ]
        return send(torch.from_numpy(np.stack(videos)), self.device)

    def labels_of(self, indices: Sequence[int]) -> Tensor:
        """(B, C) on the device: these videos' labels."""
        return self.labels[send(torch.tensor(indices), self.device)]

    def _video(self, index: int) -> Floats:
        if self._flat is not None:
            start = self._starts[index]
            video: Floats = self._flat[start : start + self.counts[index]].cpu().numpy()
            return video
        return np.concatenate(self._streams[index], axis=1)


def send(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device, without waiting for what it is still at."""
    if values.device == device:
        return values
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


class BatchOrder:
    """Batch after batch of video numbers, for ever: each epoch in a new order, its last batch as it comes.

    Its whole state is small and can be stored, so that a run resumes exactly where it was cut off.
    """

    def __init__(self, count: int, size: int, rng: np.random.Generator) -> None:
        self.count, self.size, self.rng = count, size, rng
        self.order: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.position = 0

    def next(self) -> list[int]:
        """The numbers of the next batch."""
        if self.position >= len(self.order):
            self.order, self.position = self.rng.permutation(self.count), 0
        batch = self.order[self.position : self.position + self.size]
        self.position += self.size
        return [int(number) for number in batch]

    def state(self) -> dict[str, Any]:
        """Plain values for JSON, the generator's state among them."""
        return {
            "order": self.order.tolist(),
            "position": self.position,
            "rng": self.rng.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.order = np.array(state["order"], np.int64)
        self.position = int(state["position"])
        self.rng.bit_generator.state = state["rng"]


def _segments(dataset: Dataset, split: Split, name: str) -> int:
    """A video's number of segments, by the header of its file."""
    files = dataset.files(split, name)
    if files.extracted:
        with open_archive(files.paths[0], "feature file") as archive:
            shape = archive.shape("rgb" if "rgb" in archive.names else "flow")
    elif files.paths:
        shape = load_array(files.paths[0], "feature file", mapped=True).shape
    else:
        shape = ()
    if len(shape) != 2:
        return len(dataset.streams(split, name)[0])  # which says what is wrong with it
    return shape[0]


def _home(size: int, device: torch.device) -> torch.device:
    """Where ``size`` bytes of features are kept: on the GPU if they leave enough of it free."""
    if device.type == "cuda" and size < _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return device
    return torch.device("cpu")
