"""scores.npz: what is written is read, and nothing else is."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.data.scores import Scores
from aicl_fast.errors import DataError
from aicl_fast.report import load_scores, save_scores


def some_scores(name: str, seed: int, length: int = 12) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(
        rng.random((length, 3), dtype=np.float32),
        rng.random(3, dtype=np.float32),
        rng.random(length, dtype=np.float32),
        rng.random(length, dtype=np.float32),
        20 + seed,
        30.0 + seed,
        8,
        ("a", "b", "ç"),
        name,
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "scores.npz"
    save_scores(path, {name: some_scores(name, seed) for seed, name in enumerate(("v", "wé"))})
    return path


def test_round_trip(written: Path) -> None:
    found = load_scores(written)
    assert list(found) == ["v", "wé"]
    for seed, (name, item) in enumerate(found.items()):
        expected = some_scores(name, seed)
        for key in ("fused", "video_scores", "actionness", "actionness_agnostic"):
            np.testing.assert_array_equal(getattr(item, key), getattr(expected, key))
            assert getattr(item, key).dtype == np.float32
        for key in ("num_segments", "fps", "frames_per_segment", "classes"):
            assert getattr(item, key) == getattr(expected, key)
        assert item.duration == expected.duration
    assert [path.name for path in written.parent.iterdir()] == ["scores.npz"]


def test_curves_of_different_lengths(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    scores = {name: some_scores(name, 0, length=length) for name, length in (("v", 8), ("w", 30), ("x", 2))}
    save_scores(path, scores)
    found = load_scores(path)
    for name, item in scores.items():
        for key in ("fused", "video_scores", "actionness", "actionness_agnostic"):
            np.testing.assert_array_equal(getattr(found[name], key), getattr(item, key))
    with np.load(path) as archive:
        arrays = dict(archive)
    for lengths, message in (
        ([8, 29, 2], "do not add up to 40"),
        ([38, 2, 0], "holds 0 segments"),
        ([42, -2, 0], "holds -2 segments"),
        ([8, 32], "'lengths' has shape"),
        ([8.0, 30.0, 2.0], "array of float64"),
    ):
        np.savez_compressed(path, **{**arrays, "lengths": np.array(lengths)})
        with pytest.raises(DataError, match=message):
            load_scores(path)


@pytest.mark.parametrize("order", "<>")
def test_characters_that_do_not_exist(written: Path, order: str) -> None:
    with np.load(written) as archive:
        arrays = dict(archive)
    codes = np.array([[0x110000, 0], [65, 66]], f"{order}u4")
    np.savez_compressed(written, **{**arrays, "names": codes.view(f"{order}U2")[:, 0]})
    with pytest.raises(DataError, match="text with characters that do not exist"):
        load_scores(written)


def test_reads_what_version_0_1_0_wrote(written: Path) -> None:
    wanted = load_scores(written)["v"]
    with np.load(written) as archive:
        arrays = dict(archive)
    arrays |= {"video": arrays.pop("video_scores"), "rgb_width": np.array(5), "flow_width": np.array(6)}
    np.savez_compressed(written, **arrays)
    found = load_scores(written)["v"]
    assert found.video_scores.tolist() == wanted.video_scores.tolist()
    assert (found.fps, found.frames_per_segment, found.classes) == (30.0, 8, ("a", "b", "ç"))


def test_refuses_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one"):
        save_scores(tmp_path / "a.npz", {})
    with pytest.raises(DataError, match=r"\.npz"):
        save_scores(tmp_path / "a.json", {"v": some_scores("v", 0)})
    other = replace(some_scores("w", 0), classes=("x", "y", "z"))
    with pytest.raises(DataError, match="one model"):
        save_scores(tmp_path / "a.npz", {"v": some_scores("v", 0), "w": other})
    assert list(tmp_path.iterdir()) == []


def test_refuses_to_read(written: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_scores(tmp_path / "none.npz")
    whole = written.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2], pickle.dumps({"a": 1})):
        written.write_bytes(content)
        with pytest.raises(DataError, match=r"scores\.npz"):
            load_scores(written)
    written.write_bytes(whole)
    with np.load(written) as archive:
        arrays = dict(archive)
    for key, value, message in (
        ("fused", arrays["fused"][:, :5], "shape"),
        ("names", np.array([object()], dtype=object), "pickled"),
        ("video_scores", np.full_like(arrays["video_scores"], np.nan), "NaN"),
        ("video_scores", arrays["video_scores"].astype(str), "is an array of <U"),
        ("fps", arrays["fps"] * 0, "'v': fps is 0; expected a positive, finite number"),
        ("fps", arrays["fps"] * np.array([1, np.inf]), "'wé': fps is inf"),
        ("num_segments", -arrays["num_segments"], "num_segments is -20"),
        ("frames_per_segment", arrays["fps"], "is an array of float64"),
        ("frames_per_segment", arrays["frames_per_segment"] * 0, "frames_per_segment is 0"),
        ("actionness", np.float32(1), "shape"),
        ("names", np.array(["v", "v "]), "names a video twice"),
        ("names", np.array(["v", "../w"]), "a part that is empty, . or .."),
        ("classes", np.array(["a", "b", "a"]), "names a class twice"),
        ("classes", np.array(["a", "b", ""]), "a class is ''"),
    ):
        np.savez(written, **{**arrays, key: value})
        with pytest.raises(DataError, match=message):
            load_scores(written)
    np.savez(written, **{key: value for key, value in arrays.items() if key != "fps"})
    with pytest.raises(DataError, match="lacks fps"):
        load_scores(written)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        load_scores(tmp_path / "one.npy")
