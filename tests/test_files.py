"""Outputs are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from aicl_fast.errors import DataError
from aicl_fast.files import (
    VIDEO_SUFFIXES,
    atomic_folder,
    atomic_path,
    inputs_kept,
    read_json,
    read_lines,
    require_file,
    require_place,
    video_name,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out.json"
    write_json(target, {"a": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ZeroDivisionError
    assert json.loads(target.read_text()) == {"a": 1}
    assert os.listdir(target.parent) == ["out.json"]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(target, float("nan"))
    assert json.loads(target.read_text()) == {"a": 1}


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"out\.json: cannot be written"):
        write_json(tmp_path / "file" / "out.json", 1)


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_json(tmp_path / "ours.json", 1)
    (tmp_path / "usual.json").write_text("1")
    assert (tmp_path / "ours.json").stat().st_mode == (tmp_path / "usual.json").stat().st_mode


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("")
    secret.chmod(0o600)
    write_json(secret, 1)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_what_was_read_is_not_replaced(tmp_path: Path) -> None:
    for name in ("read.json", "other.json"):
        write_json(tmp_path / name, 1)
    (tmp_path / "link.json").symlink_to("read.json")
    with inputs_kept():
        read_json(tmp_path / "read.json", "file")
        write_json(tmp_path / "other.json", 2)
        for name in ("read.json", "link.json"):
            with pytest.raises(DataError, match="was read, and would be replaced"):
                write_json(tmp_path / name, 2)
    assert read_json(tmp_path / "read.json", "file") == 1
    write_json(tmp_path / "read.json", 2)


def test_waiting_for_a_reader_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    found: list[bytes] = []

    def read() -> None:
        found.append((tmp_path / "fifo").read_bytes())

    reader = threading.Thread(target=read)

    def told(*_: object, **__: object) -> None:
        reader.start()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = told  # type: ignore[assignment]
        write_json(tmp_path / "fifo", 1)
    reader.join()
    assert found == [b"1\n"]


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.json").mkdir()
    with pytest.raises(DataError, match=r"out\.json: cannot be written, a folder has this name"):
        write_json(tmp_path / "out.json", 1)
    with (
        pytest.raises(DataError, match=r"late\.json: cannot be written \(.*\): its place changed meanwhile"),
        atomic_path(tmp_path / "late.json"),
    ):
        (tmp_path / "late.json").mkdir()
    assert sorted(os.listdir(tmp_path)) == ["late.json", "out.json"]


@pytest.mark.parametrize("place", [atomic_path, atomic_folder])
def test_a_full_disk_is_named(tmp_path: Path, place: Any) -> None:
    with (
        pytest.raises(DataError, match=r"out\.json: cannot be written \(No space left.*Make room"),
        place(tmp_path / "out.json"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), place(tmp_path / "out.json"):
        (tmp_path / "another file").read_text()
    assert os.listdir(tmp_path) == []


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    target = tmp_path / f"{'跳' * 83}.txt"
    write_text(target, "x")
    assert target.read_text() == "x"


def test_where_a_file_can_be_written(tmp_path: Path) -> None:
    assert require_place(tmp_path / "new" / "deep" / "out.json") == tmp_path / "new" / "deep" / "out.json"
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    assert require_place(tmp_path / "file") == tmp_path / "file"
    with pytest.raises(DataError, match=r"out\.json: cannot be written \(.*file is not a folder"):
        require_place(tmp_path / "file" / "deep" / "out.json")
    with pytest.raises(DataError, match="a folder has this name"):
        require_place(tmp_path)
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(DataError, match="closed is not a folder you may write to"):
            require_place(tmp_path / "closed" / "out.json")


def test_a_link_stays_and_what_it_points_at_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to("real/file.txt")
    for text in ("new", "newer"):
        write_text(tmp_path / "link.txt", text)
        assert (tmp_path / "link.txt").is_symlink()
        assert (tmp_path / "real" / "file.txt").read_text() == text
    assert os.listdir(tmp_path / "real") == ["file.txt"]


def test_a_device_or_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    before = os.stat("/dev/null")
    write_text("/dev/null", "x")
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    assert os.stat("/dev/null").st_ino == before.st_ino
    with pytest.raises(DataError, match=r"/dev/full: cannot be written .No space left"):
        write_text("/dev/full", "x" * 100_000)
    os.mkfifo(tmp_path / "pipe")
    came: list[str] = []
    reader = threading.Thread(target=lambda: came.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "through")
    reader.join(10)
    assert came == ["through"]
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(DataError, match="found a device or pipe"):
        require_file(tmp_path / "pipe", "list")


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output(tmp_path: Path, name: str) -> None:
    code = f"from aicl_fast.files import write_text; print('a'); write_text({name!r}, 'b'); print('c')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "a\nbc\n"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True, cwd=tmp_path)
    assert (tmp_path / "out").read_text() == "a\nbc\n"
    assert os.listdir(tmp_path) == ["out"]


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 300):
        with pytest.raises(DataError, match="cannot be opened"):
            require_file(tmp_path / name, "list")
        with pytest.raises(DataError, match="cannot be written"):
            write_text(tmp_path / name, "x")


def test_permissions_where_a_writer_replaces_the_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    write_text(tmp_path / "b.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_a_library_in_rust_finds_the_disk_full(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="No space left"),
        atomic_path(tmp_path / "out.json"),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.mp4", "a"),
        ("folder/A.ASF", "A"),
        ("a.h264", "a"),
        ("a.Y4M", "a"),
        ("a.npz", "a"),
        ("v_1.5abc", "v_1.5abc"),
        ("clip.unknown", "clip.unknown"),
        ("two.dots.mkv", "two.dots"),
        (".mp4", ".mp4"),
        ("re\u0301sume\u0301.mp4", "r\u00e9sum\u00e9"),
    ],
)
def test_a_video_has_one_name(file: str, name: str) -> None:
    assert video_name(file) == name


def test_what_is_searched_for_is_written_small_and_once() -> None:
    assert list(VIDEO_SUFFIXES) == sorted({each.lower() for each in VIDEO_SUFFIXES})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_byte_order_marks_say_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.txt"
    mark = "\ufeff" if encoding.startswith("utf-16-") else ""
    path.write_bytes((mark + "caf\u00e9\r\n\r\nclip\r\n").encode(encoding))
    assert read_lines(path, "list") == ["caf\u00e9", "clip"]
    path.write_bytes("\ufeffclip".encode("utf-16-le")[:-1])
    with pytest.raises(DataError, match=r"list\.txt: the list is no UTF-8 text"):
        read_lines(path, "list")
