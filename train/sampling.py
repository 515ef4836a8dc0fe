"""Which videos and which of their segments a training step sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aicl_fast.dataset import Dataset, Split, feature_files
from aicl_fast.features import Floats, sample_indices, sample_indices_random

Progress = Callable[[int, int], None]
"""Called with (done, all)."""

_DEVICE_SHARE = 0.5
"""How much of a GPU's free memory features may take."""


class Videos:
    """Features and labels of some videos, sampled to T segments on demand.

    Features are read once: into one array, which moves to the GPU when it fits there; or, above
    ``memory_gb``, they stay on disk and the segments that are drawn are read.

    Attributes:
        names: the videos.
        counts: (N,) their numbers of segments.
        labels: (N, C) float32 video-level labels, on the device.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        names: Sequence[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        progress: Progress | None = None,
    ) -> None:
        config = dataset.config
        self.names = tuple(dataset.videos[split] if names is None else names)
        self.length = config.data.segments
        self.device = torch.device(device)
        self.mapped = _size_gb(dataset, split, self.names) > config.train.memory_gb
        self._streams: list[tuple[Floats, ...]] = []
        for number, name in enumerate(self.names):
            self._streams.append(dataset.streams(split, name, mapped=self.mapped))
            if progress is not None:
                progress(number + 1, len(self.names))
        self.counts = np.array([len(streams[0]) for streams in self._streams])
        self._starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self._flat: Tensor | None = None
        if not self.mapped:
            flat = np.empty((int(self.counts.sum()), config.data.input_width), np.float32)
            for start, streams in zip(self._starts, self._streams, strict=True):
                np.concatenate(streams, axis=1, out=flat[start : start + len(streams[0])])
            self._streams = []
            self._flat = torch.from_numpy(flat)
            if self.device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(self.device)
                if flat.nbytes < _DEVICE_SHARE * free:
                    self._flat = self._flat.to(self.device)
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
            drawn = self._flat[torch.from_numpy(rows).to(self._flat.device)]
            return drawn.view(len(indices), self.length, -1).to(self.device, non_blocking=True)
        videos = [
            np.concatenate([stream[sample] for stream in self._streams[i]], axis=1)
            for i, sample in zip(indices, samples, strict=True)
        ]
        return torch.from_numpy(np.stack(videos)).to(self.device)

    def _video(self, index: int) -> Floats:
        if self._flat is not None:
            start = self._starts[index]
            video: Floats = self._flat[start : start + self.counts[index]].cpu().numpy()
            return video
        return np.concatenate(self._streams[index], axis=1)


class BatchOrder:
    """Batch after batch of video numbers, for ever: each epoch in a new order, its last batch as it comes.

    Its whole state is small and can be stored, so that a run goes on exactly where it was cut off.
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


def _size_gb(dataset: Dataset, split: Split, names: Sequence[str]) -> float:
    """Gigabytes of the videos' files, an upper bound of what they take as float32 but for float16 files."""
    folder = dataset.folder(split)
    files = (path for name in names for path in feature_files(folder, name, dataset.config.data))
    return sum(path.stat().st_size for path in files) / 1e9
