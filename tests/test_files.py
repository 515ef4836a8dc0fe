"""Outputs are whole or not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from aicl_fast.errors import DataError
from aicl_fast.files import atomic_folder, atomic_path, require_place, write_json, write_text


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
