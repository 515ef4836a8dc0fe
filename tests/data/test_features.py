"""Features: what is refused and in which words, and the sampling to T segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicl_fast.data.features import (
    check_features,
    check_lengths,
    load_features,
)
from aicl_fast.data.sampling import sample_indices, sample_indices_random
from aicl_fast.errors import DataError


def test_good_features_come_back_as_contiguous_float32(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((5, 8))[:, ::2]
    np.save(tmp_path / "a.npy", array)
    loaded = load_features(tmp_path / "a.npy", width=4)
    assert loaded.dtype == np.float32
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, array.astype(np.float32))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 3), np.float32), "expected 4 features a segment, got 3"),
        (np.zeros((0, 4), np.float32), "empty"),
        (np.zeros((5, 4), np.int64), "expected floating-point features, got int64"),
        (np.zeros((5, 4), bool), "got bool"),
        (np.zeros(4, np.float32), r"expected shape \(segments, 4\), got \(4,\)"),
        (np.zeros((1, 5, 4), np.float32), "drop a batch axis"),
        (
            np.where(np.arange(20).reshape(5, 4) == 6, np.nan, 1.0),
            "1 values are NaN or infinite.*row 1, column 2",
        ),
        (np.where(np.arange(20).reshape(5, 4) == 6, np.inf, 1.0), "NaN or infinite"),
        ([[1.0, 2.0, 3.0, 4.0]], "got list"),
        ("a.npy", r"got the path 'a\.npy'\. Read .*allow_pickle=False"),
    ],
)
def test_unusable_features_are_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=f"clip: .*{words}"):
        check_features(array, "clip", width=4)


def test_opposite_infinities_do_not_cancel() -> None:
    array = np.ones((4, 4), np.float32)
    array[0, 0], array[1, 1] = np.inf, -np.inf
    with pytest.raises(DataError, match="2 values"):
        check_features(array, "clip")


def test_a_large_finite_sum_is_not_mistaken_for_infinity() -> None:
    array = np.full((4, 4), np.finfo(np.float32).max, np.float32)
    assert check_features(array, "clip").shape == (4, 4)


def test_float64_beyond_float32_is_refused() -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        check_features(np.full((2, 2), 1e300), "clip")


def test_unreadable_files_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.npy: the feature file does not exist"):
        load_features(tmp_path / "gone.npy")
    with pytest.raises(DataError, match="found a folder"):
        load_features(tmp_path)
    np.save(tmp_path / "pickled.npy", np.array([{"run": "me"}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"pickled\.npy: holds pickled Python objects"):
        load_features(tmp_path / "pickled.npy")
    np.save(tmp_path / "whole.npy", np.ones((50, 4), np.float32))
    content = (tmp_path / "whole.npy").read_bytes()
    for size in (0, 3, 40, len(content) - 10):
        (tmp_path / "cut.npy").write_bytes(content[:size])
        with pytest.raises(DataError, match=r"cut\.npy: "):
            load_features(tmp_path / "cut.npy")
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(DataError, match=r"text\.npy"):
        load_features(tmp_path / "text.npy")
    np.savez(tmp_path / "several.npz", a=np.ones((2, 2)))
    with pytest.raises(DataError, match="archive of several arrays"):
        load_features(tmp_path / "several.npz")


def test_streams_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match="rgb has 3 segments and flow 4"):
        check_lengths(np.ones((3, 2), np.float32), np.ones((4, 2), np.float32), name="clip")


@given(st.integers(1, 5000), st.integers(2, 800), st.integers(0, 2**32 - 1))
def test_sampling_stays_inside_and_in_order(n: int, length: int, seed: int) -> None:
    fixed = sample_indices(n, length)
    drawn = sample_indices_random(n, length, np.random.default_rng(seed))
    for indices in (fixed, drawn):
        assert len(indices) == length
        assert indices[0] >= 0
        assert indices[-1] <= n - 1
        assert (np.diff(indices) >= 0).all()
    # Each draw lies between its own part's start and the next one's.
    assert (drawn >= fixed).all()
    assert (drawn[:-1] <= fixed[1:]).all()


def test_sampling_as_published() -> None:
    np.testing.assert_array_equal(sample_indices(5, 10), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    np.testing.assert_array_equal(sample_indices(10, 5), [0, 2, 4, 6, 8])
    same = sample_indices_random(750, 750, np.random.default_rng(0))
    np.testing.assert_array_equal(same, np.arange(750))
    draws = np.array([sample_indices_random(10, 5, np.random.default_rng(s)) for s in range(200)])
    assert [set(column) for column in draws.T] == [{0, 1, 2}, {2, 3, 4}, {4, 5, 6}, {6, 7, 8}, {8, 9}]
