"""One process at a time in a folder."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from aicl_fast.errors import DataError
from aicl_fast.locks import LOCK, locked_folder


def test_a_folder_is_locked_again_by_the_same_thread_alone(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with locked_folder(tmp_path):
                pass
        except DataError as error:
            refused.append(str(error))

    with locked_folder(tmp_path), locked_folder(tmp_path / "." / "x" / ".."):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "another aicl-fast writes to this folder (process " in refused[0]
    other()
    assert len(refused) == 1
    assert not list(tmp_path.glob(LOCK))


@pytest.mark.parametrize("left", [b"", b"\xff", b"[1]", b'{"process": "x", "since": 3}', b"[" * 900])
def test_what_a_killed_process_left_locks_nothing(tmp_path: Path, left: bytes) -> None:
    (tmp_path / LOCK).write_bytes(left)
    with locked_folder(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_failure_releases_the_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked_folder(tmp_path):
        raise KeyboardInterrupt
    with locked_folder(tmp_path):
        pass


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot be made"), locked_folder(tmp_path / "file"):
        pass
    with pytest.raises(DataError, match="is standard output; expected a folder"), locked_folder("-"):
        pass
