"""Outputs are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from aicl_fast.errors import DataError
from aicl_fast.files import atomic_path, write_json


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
