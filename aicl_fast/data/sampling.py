"""Sampling: the T segments that stand for a recording of n, for arrays and for tensors on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aicl_fast.data.features import Floats
from aicl_fast.errors import DataError

if TYPE_CHECKING:
    import torch


def sample_indices(num_segments: int, length: int) -> npt.NDArray[np.int64]:
    """The ``length`` segments that stand for a recording of ``num_segments`` when testing.

    ``floor(i·n/T)`` for i in 0 … T-1 (the released program's test sampling), in exact integers.
    """
    return np.arange(length, dtype=np.int64) * num_segments // length


def sample_indices_random(num_segments: int, length: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The same for training: one segment drawn from each of ``length`` equal parts.

    With ``s_i = i·n/T``: a uniform integer in ``[int(s_i), int(s_{i+1})]`` where the two differ, else
    ``int(s_i)``; the last part ends at n-1. A recording of exactly T segments is taken as it is.
    """
    low = sample_indices(num_segments, length)
    if num_segments == length:
        return low
    high = np.append(low[1:], num_segments - 1)
    high = np.maximum(low, high)
    return rng.integers(low, high, endpoint=True)


def sample(recordings: Sequence[Sequence[Floats]], length: int) -> Floats:
    """Recordings of any lengths as one batch, for testing.

    Args:
        recordings: the streams of each, (n, D) arrays with one n per recording.
        length: T.
    Returns:
        (B, T, sum of D) float32.
    """
    width = sum(stream.shape[1] for stream in recordings[0])
    batch = np.empty((len(recordings), length, width), np.float32)
    for row, streams in zip(batch, recordings, strict=True):
        # Sampled before they are joined, since what is not seen need not be copied; and one after the other,
        # since fresh memory for all of them takes longer than the copies.
        indices = sample_indices(len(streams[0]), length)
        start = 0
        for stream in streams:
            row[:, start : start + stream.shape[1]] = stream[indices]
            start += stream.shape[1]
    return batch


def sample_on_gpu(recordings: Sequence[Sequence[torch.Tensor]], length: int) -> torch.Tensor:
    """The same of tensors, in GPU memory without a copy to the host.

    Args:
        recordings: the streams of each, (n, D) tensors with one n per recording.
        length: T.
    Returns:
        (B, T, sum of D), of the type that holds all of theirs; float8 as float32.
    Raises:
        DataError: they are on several devices.
    """
    import torch

    first = recordings[0][0]
    devices = {str(stream.device) for streams in recordings for stream in streams}
    if len(devices) > 1:
        raise DataError(f"features: expected one device, got {', '.join(sorted(devices))}. Copy them to one.")
    kinds = {stream.dtype for streams in recordings for stream in streams}
    dtype = reduce(torch.promote_types, (torch.float32 if kind.itemsize == 1 else kind for kind in kinds))
    width = sum(stream.shape[1] for stream in recordings[0])
    batch = first.new_empty((len(recordings), length, width), dtype=dtype)
    for row, streams in zip(batch, recordings, strict=True):
        indices = _indices(len(streams[0]), length, str(first.device))
        start = 0
        for stream in streams:
            row[:, start : start + stream.shape[1]] = torch.index_select(stream, 0, indices)
            start += stream.shape[1]
        if indices.is_cuda:  # its memory is not given away while this stream reads it
            indices.record_stream(torch.cuda.current_stream(indices.device))
    return batch


@lru_cache(maxsize=256)
def _indices(num_segments: int, length: int, device: str) -> torch.Tensor:
    """The sampled segments, kept on the device: sending them costs more than reading them."""
    import torch

    return torch.from_numpy(sample_indices(num_segments, length)).to(device)
