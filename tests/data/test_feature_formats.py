"""Features in other formats: each is named for what it is, and its command makes the array."""

from __future__ import annotations

import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.data.feature_formats import from_archive, other_format

ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)


def write(path: Path) -> Path:
    suffix = path.suffix
    if suffix in (".pkl", ".bin"):
        path.write_bytes(pickle.dumps(ARRAY))
    elif suffix in (".csv", ".txt"):
        np.savetxt(path, ARRAY, delimiter="," if suffix == ".csv" else " ")
    elif suffix == ".json":
        path.write_text(str(ARRAY.tolist()))
    elif suffix == ".npz":
        np.savez(path, labels=np.ones(2), features=ARRAY)
    elif suffix == ".mat":
        pytest.importorskip("scipy.io").savemat(path, {"features": ARRAY})
    elif suffix == ".pt":
        torch = pytest.importorskip("torch")
        torch.save(torch.from_numpy(ARRAY), path)
    return path


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".pkl", "pickle"), (".bin", "pickle"), (".csv", "text"), (".txt", "text"), (".json", "JSON"),
        (".npz", "labels, features"), (".mat", "MATLAB"), (".pt", "torch.save"),
    ],
)  # fmt: skip
def test_the_command_converts(tmp_path: Path, suffix: str, words: str) -> None:
    path = write(tmp_path / f"my file's{suffix}")
    text = other_format(path)
    assert text is not None
    assert words in text
    command = shlex.split(text[text.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True)
    converted = np.load(path.with_suffix(".npy"))
    assert converted.dtype == np.float32
    np.testing.assert_array_equal(converted, ARRAY)


def test_a_name_in_an_archive_is_no_part_of_the_command() -> None:
    names = ["feat$(touch x)", 'a"; touch x; "', "feat`x`", *map(str, range(100_000))]
    text = from_archive(Path("a"), names)
    assert "numpy.load(sys.argv[1])['0']" in text
    command = text[text.index("python -c") :]
    assert "touch" not in command
    assert "`" not in command
    assert len(text) < 500


def test_hdf5_and_what_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert "HDF5" in str(other_format(tmp_path / "x.h5"))
    np.save(tmp_path / "x.npy", ARRAY)
    (tmp_path / "x.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0")
    assert [other_format(tmp_path / name) for name in ("x.npy", "x.mp4", "none.pkl")] == [None] * 3
    assert "numpy.concatenate([numpy.load(sys.argv[1])['rgb']" in from_archive(Path("a"), ["flow", "rgb"])
