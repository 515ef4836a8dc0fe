"""The demo's data: real wrist-watch recordings composed into long streams with actions in them.

The recordings are those of the package ``seglearn`` (BSD; Burns et al. 2018): ten people, both arms, seven
shoulder exercises, one recording each, accelerometer and gyroscope at 50 Hz. Five exercises are the
actions and two are background. Each stream takes one person and arm and alternates background and action,
so it is untrimmed data with exact ground truth, of which training sees the stream-level labels alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.data.dataset import Split
from aicl_fast.errors import DataError
from aicl_fast.extras import needs
from aicl_fast.files import atomic_folder, read_json, write_json, write_text

Samples = npt.NDArray[np.float64]

RATE = 50
"""Samples a second."""
SEGMENT = 16
"""Samples a segment."""
SEGMENTS = 128
"""Segments a stream: 40.96 s."""
WINDOW = 128
"""Samples that a segment's features are taken from, centred on it."""
BANDS = 16
"""Bands of the log spectrum."""
FEATURE_WIDTH = 3 + 3 + 3 + 3 * BANDS
"""Features a segment and stream: mean, deviation, axis correlations, log spectrum of three axes."""
BACKGROUND = ("PEN", "ROW")
"""The pendulum swing and the row; what a stream holds between its actions."""
TRAIN_SHARE = 0.6
"""The first part of every recording is for training, the rest for testing."""
STREAMS: dict[Split, int] = {"train": 300, "test": 80}
PIECE_SECONDS = (3.0, 12.0)
_VERSION = 1


@dataclass(frozen=True)
class Recordings:
    """The wrist-watch recordings.

    Attributes:
        samples: (person, side, exercise) -> (n, 6) accelerometer and gyroscope.
        exercises: the seven names.
    """

    samples: dict[tuple[int, int, str], Samples]
    exercises: tuple[str, ...]

    @property
    def actions(self) -> tuple[str, ...]:
        """The five exercises that are to be found."""
        return tuple(name for name in self.exercises if name not in BACKGROUND)


def load_recordings() -> Recordings:
    """The recordings, read by seglearn's own ``load_watch``.

    Raises:
        UnavailableError: seglearn is not installed.
    """
    with needs("demo", "reading the demo's recordings"):
        from seglearn.datasets import load_watch
    raw: dict[str, Any] = load_watch()
    names = tuple(str(name) for name in raw["y_labels"])
    samples = {
        (int(person), int(side), names[int(exercise)]): np.asarray(recording, dtype=np.float64)
        for person, side, exercise, recording in zip(
            raw["subject"], raw["side"], raw["y"], raw["X"], strict=True
        )
    }
    return Recordings(samples, names)


def segment_features(signal: Samples) -> npt.NDArray[np.float32]:
    """Features of one three-axis sensor.

    Of the 128 samples around each segment of 16 (the ends repeat the first and last sample): each axis'
    mean and deviation, the correlations of the three pairs of axes, and each axis' power spectrum in 16
    bands, as logarithm.

    Args:
        signal: (n, 3) samples at 50 Hz, n >= 16.
    Returns:
        (n // 16, 57) float32.
    Raises:
        DataError: the signal has another shape or is shorter than a segment.
    """
    signal = np.asarray(signal, dtype=np.float64)
    if signal.ndim != 2 or signal.shape[1] != 3 or signal.shape[0] < SEGMENT:
        raise DataError(f"signal: expected (n, 3) samples with n of at least {SEGMENT}, got {signal.shape}.")
    count = signal.shape[0] // SEGMENT
    margin = (WINDOW - SEGMENT) // 2
    padded = np.pad(signal, ((margin, WINDOW), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0)[: count * SEGMENT : SEGMENT]
    mean = windows.mean(axis=2)
    centred = windows - mean[..., None]
    deviation = centred.std(axis=2)
    pairs = np.einsum("nit,njt->nij", centred, centred) / WINDOW
    first, second = np.array([0, 0, 1]), np.array([1, 2, 2])
    correlation = pairs[:, first, second] / (deviation[:, first] * deviation[:, second] + 1e-9)
    power = np.abs(np.fft.rfft(centred * np.hanning(WINDOW), axis=2)[..., 1:]) ** 2
    bands = np.log(power.reshape(count, 3, BANDS, -1).mean(axis=3) + 1e-6).reshape(count, -1)
    return np.concatenate([mean, deviation, correlation, bands], axis=1).astype(np.float32)


def compose_stream(
    recordings: Recordings, split: Split, rng: np.random.Generator
) -> tuple[Samples, list[dict[str, Any]]]:
    """One untrimmed stream.

    Returns:
        (2048, 6) samples, and the instances as ActivityNet annotations (label, segment in seconds).
    """
    person, side = sorted({key[:2] for key in recordings.samples})[rng.integers(20)]
    chosen = rng.choice(recordings.actions, size=rng.integers(1, 3), replace=False)
    pieces: list[Samples] = []
    annotations: list[dict[str, Any]] = []
    total, length = SEGMENTS * SEGMENT, 0
    action = bool(rng.integers(2))
    while length < total:
        name = str(rng.choice(chosen if action else np.array(BACKGROUND)))
        recording = _part(recordings.samples[person, side, name], split)
        longest = min(int(PIECE_SECONDS[1] * RATE), len(recording), total - length)
        shortest = min(int(PIECE_SECONDS[0] * RATE), longest)
        size = int(rng.integers(shortest, longest, endpoint=True))
        start = int(rng.integers(0, len(recording) - size, endpoint=True))
        pieces.append(recording[start : start + size])
        if action:
            annotations.append({"label": name, "segment": [length / RATE, (length + size) / RATE]})
        length += size
        action = not action
    return np.concatenate(pieces), annotations


def _part(recording: Samples, split: Split) -> Samples:
    border = int(TRAIN_SHARE * len(recording))
    return recording[:border] if split == "train" else recording[border:]


def prepare_watch(
    root: str | os.PathLike[str], *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write the demo's data set, unless it is there already.

    Args:
        root: the folder to make.
        seed: of the composition; the same seed gives the same files.
        progress: called with (streams done, all streams).
    Returns:
        ``root``.
    Raises:
        DataError: ``root`` holds something else; nothing is overwritten.
    """
    target = Path(root)
    stamp = {"made_by": "aicl_fast.train.watch", "version": _VERSION, "seed": seed}
    marker = target / "prepared.json"
    if marker.is_file():
        if read_json(marker, "preparation record") == stamp:
            return target
        shutil.rmtree(target)
    elif target.exists() and any(target.iterdir()):
        raise DataError(f"{target}: holds files that are not the demo's data. Choose another folder.")
    recordings = load_recordings()
    with atomic_folder(target) as scratch:
        database: dict[str, Any] = {}
        rng = np.random.default_rng(seed)
        every = sum(STREAMS.values())
        for split, count in STREAMS.items():
            for stream in ("rgb", "flow"):
                (scratch / "features" / split / stream).mkdir(parents=True)
            names = [f"watch_{split}_{number:03d}" for number in range(count)]
            for video in names:
                signal, annotations = compose_stream(recordings, split, rng)
                folder = scratch / "features" / split
                np.save(folder / "rgb" / f"{video}.npy", segment_features(signal[:, :3]))
                np.save(folder / "flow" / f"{video}.npy", segment_features(signal[:, 3:]))
                database[video] = {
                    "subset": split,
                    "duration": len(signal) / RATE,
                    "annotations": annotations,
                }
                if progress is not None:
                    progress(len(database), every)
            write_text(scratch / f"split_{split}.txt", "\n".join(names) + "\n")
        write_json(scratch / "gt.json", {"database": database})
        write_json(scratch / "prepared.json", stamp)
    return target
