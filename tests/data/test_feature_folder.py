"""Which files belong to a video: names in other spellings, pairs side by side, what is there instead."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.config import DataConfig
from aicl_fast.data.feature_folder import FeatureFolder, read_streams
from aicl_fast.data.stream_names import split_stream
from aicl_fast.errors import DataError

DATA = DataConfig(rgb_width=6, flow_width=5)
NAME = unicodedata.normalize("NFC", "Café №1")


def write(folder: Path, name: str, width: int, n: int = 7) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", np.random.default_rng(n).random((n, width), dtype=np.float32))
    return folder / f"{name}.npy"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("before", ["", "v_"])
@pytest.mark.parametrize("apart", [True, False])
def test_a_name_in_another_unicode_form(tmp_path: Path, form: str, before: str, apart: bool) -> None:
    stem = before + unicodedata.normalize(form, NAME)  # type: ignore[arg-type]
    for stream, width in (("rgb", 6), ("flow", 5)):
        write(tmp_path / stream if apart else tmp_path, stem if apart else f"{stem}_{stream}", width)
    rgb, flow = read_streams(tmp_path, NAME, DATA)
    assert (rgb.shape, flow.shape) == ((7, 6), (7, 5))
    assert FeatureFolder(tmp_path).videos(DATA) == [before + NAME]


def test_one_name_in_two_spellings_is_refused(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        write(tmp_path, unicodedata.normalize(form, NAME), 11)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="are one name in different spellings"):
        read_streams(tmp_path, NAME, DATA)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("video_rgb", ("video", "rgb")),
        ("flow-a.b", ("a.b", "flow")),
        ("clip.rgb", ("clip", "rgb")),
        ("clip.Flow", ("clip", "flow")),
        ("RGB_clip", ("clip", "rgb")),
        ("rgb", ("", "rgb")),
        ("overflow", ("overflow", "")),
        ("rgbs_1", ("rgbs_1", "")),
    ],
)
def test_the_stream_in_a_name(name: str, parts: tuple[str, str]) -> None:
    assert split_stream(name) == parts


def test_pairs_side_by_side(tmp_path: Path) -> None:
    rgb, flow = write(tmp_path, "a_rgb", 6), write(tmp_path, "a_flow", 5)
    joined = write(tmp_path, "b", 11)
    write(tmp_path, "mass_flow", 11)
    folder = FeatureFolder(tmp_path)
    assert folder.videos(DATA) == ["a", "b", "mass_flow"]
    assert folder.find("a", DATA).paths == (rgb, flow)
    assert folder.find("b", DATA).paths == (joined,)
    one = DataConfig(rgb_width=6, flow_width=5, streams="rgb")
    assert folder.find("a", one).paths == (rgb,)
    np.testing.assert_array_equal(folder.read("a", one)[0], np.load(rgb))
    flow.unlink()
    assert FeatureFolder(tmp_path).find("a", DATA).missing == (tmp_path / "a_flow.npy",)


def test_upper_case_endings_and_folders_in_names(tmp_path: Path) -> None:
    write(tmp_path, "a", 11).rename(tmp_path / "a.NPY")
    write(tmp_path / "jump", "b", 11)
    assert [len(read_streams(tmp_path, name, DATA)[0]) for name in ("a", "jump/b")] == [7, 7]


def test_a_missing_file_says_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "Clip", 11)
    (tmp_path / "other.pkl").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(DataError, match=r"clip\.npy: .*Clip\.npy is there: .*upper and lower case"):
        read_streams(tmp_path, "clip", DATA)
    with pytest.raises(DataError, match=r"other\.pkl is there. It is a Python pickle.*python -c"):
        read_streams(tmp_path, "other", DATA)


def test_a_name_longer_than_any_file_is_missing(tmp_path: Path) -> None:
    write(tmp_path, "a", 11)
    with pytest.raises(DataError, match="the feature file does not exist"):
        read_streams(tmp_path, "a" * 255, DATA)
    longest = "b" * 251
    write(tmp_path, longest, 11)
    assert read_streams(tmp_path, longest, DATA)[0].shape == (7, 11)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((11, 300), "looks transposed: .*numpy.load"),
        ((6, 300), "looks transposed"),
        ((1024, 300), "looks transposed"),
        ((300, 1024), "expected 11 features a segment .*got 1024"),
        ((40, 6), "as one stream alone has"),
    ],
)
def test_other_widths(tmp_path: Path, shape: tuple[int, int], words: str) -> None:
    np.save(tmp_path / "a.npy", np.ones(shape, np.float32))
    with pytest.raises(DataError, match=words) as caught:
        read_streams(tmp_path, "a", DATA)
    assert ("--set rgb_width" in str(caught.value)) == (words.startswith("expected"))
