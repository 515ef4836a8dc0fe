"""Arrays from files: never a pickle, never more memory than the file's size warrants."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.data.arrays import load_array, open_archive
from aicl_fast.errors import AiclError, DataError, ModelError


def test_arrays_of_every_kind_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "plain": rng.random((7, 3), dtype=np.float32),
        "columns": np.asfortranarray(rng.random((7, 3))),
        "text": np.array(["举重", "x"]),
        "scalar": np.array(3),
        "empty": np.empty((0, 4)),
        "swapped": rng.random(5).astype(">f8"),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        for mapped in (False, True):
            found = load_array(tmp_path / f"{name}.npy", "feature file", mapped=mapped)
            np.testing.assert_array_equal(found, array)
            assert found.dtype == array.dtype
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "all.npz", **arrays)  # type: ignore[arg-type]
        with open_archive(tmp_path / "all.npz", "scores file") as archive:
            assert archive.names == tuple(arrays)
            for name, array in arrays.items():
                for mapped in (False, True):
                    np.testing.assert_array_equal(archive.read(name, mapped=mapped), array)
                assert archive.shape(name) == array.shape


def test_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    load_array(tmp_path / "a.npy", "feature file")[0] = 1


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    data = (tmp_path / "a.npy").read_bytes()
    for bad in (
        data[:-1],
        data.replace(b"(4, 4), }         ", b"(4000000000, 4), }"),
        data[:20],
        b"",
        b"\x93NUMPY",
    ):
        (tmp_path / "a.npy").write_bytes(bad)
        for mapped in (False, True):
            with pytest.raises(DataError, match=r"a\.npy"):
                load_array(tmp_path / "a.npy", "feature file", mapped=mapped)


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    (tmp_path / "b.npy").write_bytes(b"\x80\x04N.")
    for name in ("a.npy", "b.npy"):
        with pytest.raises(DataError, match="pickled Python objects, which are never loaded"):
            load_array(tmp_path / name, "feature file")
    with (
        pytest.raises(DataError, match="pickled"),
        open_archive(tmp_path / "a.npz", "scores file") as archive,
    ):
        archive.read("a")


def test_a_small_file_that_unpacks_to_a_huge_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (20 << 20,)}
    )
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", buffer.getvalue() + bytes(80 << 20))
    with (
        pytest.raises(ModelError, match=r"bomb\.npz: its arrays would take 80 MiB of memory"),
        open_archive(tmp_path / "bomb.npz", "model file", error=ModelError),
    ):
        pass
    monkeypatch.setenv("AICL_FAST_MAX_UNPACKED", "100MiB")
    with open_archive(tmp_path / "bomb.npz", "model file") as opened:
        assert opened.read("a").shape == (20 << 20,)


def test_only_the_methods_that_numpy_writes_are_unpacked(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            archive.writestr("x.npy", bytes(9))
        with (
            pytest.raises(DataError, match=r"a\.npz: is compressed by a method"),
            open_archive(tmp_path / "a.npz", "feature file"),
        ):
            pass


def test_a_changed_byte_in_an_archive_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(100))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[300] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match="CRC"), open_archive(tmp_path / "a.npz", "scores file") as archive:
        archive.read("a")


def test_damaged_archives_end_in_our_errors_only(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.arange(100.0), meta=np.array("{}"))
    data = (tmp_path / "a.npz").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(400):
        bad = bytearray(data)
        for place in rng.integers(0, len(bad), rng.integers(1, 4)):
            bad[place] = rng.integers(256)
        (tmp_path / "bad.npz").write_bytes(
            bad[: len(bad) - int(rng.integers(0, 2)) * int(rng.integers(0, 60))]
        )
        try:
            with open_archive(tmp_path / "bad.npz", "scores file") as archive:
                for name in archive.names:
                    archive.read(name)
                    archive.read(name, mapped=True)
        except AiclError as error:
            text = str(error)
        else:
            text = "bad.npz is still whole"
        assert "bad.npz" in text
