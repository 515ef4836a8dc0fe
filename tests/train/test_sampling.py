"""What features take while they are read, and what they are refused for."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import Config  # noqa: E402
from aicl_fast.data.dataset import Dataset  # noqa: E402
from aicl_fast.errors import AiclWarning, DataError  # noqa: E402
from aicl_fast.train.sampling import Videos  # noqa: E402


def _write(root: Path, split: str, width: int, dtype: str = "float32") -> None:
    rng = np.random.default_rng(0)
    for stream in ("rgb", "flow"):
        for path in (root / "features" / split / stream).iterdir():
            np.save(path, rng.random((len(np.load(path)), width), dtype=np.float32).astype(dtype))


def _wide(tiny_dataset: Path, tiny_config: Config, width: int = 512, **changes: object) -> Dataset:
    for split in ("train", "test"):
        _write(tiny_dataset, split, width)
    values = {"rgb_width": width, "flow_width": width, **changes}
    return Dataset.open(tiny_dataset, tiny_config.with_values(values))


def test_reading_keeps_one_video_beside_the_array(tiny_dataset: Path, tiny_config: Config) -> None:
    """NumPy's memory alone is traced: the array itself is torch's."""
    dataset = _wide(tiny_dataset, tiny_config)
    tracemalloc.start()
    videos = Videos(dataset, "train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    every = int(videos.counts.sum()) * 1024 * 4
    largest = int(videos.counts.max()) * 1024 * 4
    assert peak < 2 * largest + 100_000 < every
    assert videos.memory_gb == every / 1e9
    for index, name in enumerate(videos.names):
        row = np.arange(videos.length) % videos.counts[index]
        drawn = videos.gather([index], [row])[0].numpy()
        np.testing.assert_array_equal(drawn, dataset.features("train", name)[row])


def test_the_budget_counts_what_features_take_in_memory(tiny_dataset: Path, tiny_config: Config) -> None:
    """Files of float16 take twice their size."""
    _write(tiny_dataset, "train", 5, "float16")
    dataset = Dataset.open(tiny_dataset, tiny_config.with_values({"rgb_width": 5}))
    size = Videos(dataset, "train").memory_gb
    assert not Videos(dataset, "train", memory_gb=size).mapped
    over = Videos(dataset, "train", memory_gb=0.99 * size)
    assert over.mapped
    assert over.memory_gb == 0


@pytest.mark.parametrize("content", [b"", b"\x80\x04nothing", b"\x93NUMPY"])
def test_a_damaged_file_is_named(tiny_dataset: Path, tiny_config: Config, content: bytes) -> None:
    (tiny_dataset / "features/test/rgb/test_1.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"test_1\.npy: (the feature file cannot be read|holds pickled)"):
        Videos(Dataset.open(tiny_dataset, tiny_config), "test")


@pytest.mark.parametrize("shape", [(), (7,)])
def test_an_array_of_another_shape_is_named(
    tiny_dataset: Path, tiny_config: Config, shape: tuple[int, ...]
) -> None:
    np.save(tiny_dataset / "features/test/rgb/test_1.npy", np.ones(shape, np.float32))
    with pytest.raises(DataError, match=r"test_1\.npy: expected shape"):
        Videos(Dataset.open(tiny_dataset, tiny_config), "test")


def test_durations_that_contradict_the_features_are_said(tiny_dataset: Path, tiny_config: Config) -> None:
    path = tiny_dataset / "gt.json"
    document = json.loads(path.read_text())
    document["database"]["test_1"]["duration"] = 33 * 16 / 50 * 50 / 30
    path.write_text(json.dumps(document))
    with pytest.warns(AiclWarning, match=r"'test_1' lasts 17\.6 s; its features cover 10\.6 s.*--set fps=30"):
        Videos(Dataset.open(tiny_dataset, tiny_config), "test")
