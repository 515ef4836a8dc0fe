"""How many processors a process may keep busy, from files as Linux has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aicl_fast import processors


@pytest.fixture(autouse=True)
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of control groups, and beside it ``own``, which says what this process's are."""
    folder = tmp_path / "cgroup"
    folder.mkdir()
    monkeypatch.setattr(processors, "_GROUPS", folder)
    monkeypatch.setattr(processors, "_OWN", tmp_path / "own")
    monkeypatch.setattr(processors, "usable_processors", lambda: [0, 1, 2, 3])
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("granted", "quota", "count"),
    [
        ("max 100000\n", None, 4),
        ("150000 100000\n", 1.5, 2),
        ("20000 100000\n", 0.2, 1),
        ("200000 50000\n", 4.0, 4),
        ("6400000 100000\n", 64.0, 4),
        ("nonsense\n", None, 4),
    ],
)
def test_the_second_version(groups: Path, granted: str, quota: float | None, count: int) -> None:
    _write(groups.parent / "own", "0::/\n")
    _write(groups / "cpu.max", granted)
    assert processors.processor_quota() == quota
    assert processors.processor_count() == count


def test_the_smallest_of_a_group_and_those_above_it(groups: Path) -> None:
    _write(groups.parent / "own", "0::/machine.slice/job:1\n")
    _write(groups / "machine.slice" / "cpu.max", "100000 100000")
    _write(groups / "machine.slice" / "job:1" / "cpu.max", "300000 100000")
    assert processors.processor_quota() == 1.0


def test_a_path_of_the_host_that_a_container_does_not_see(groups: Path) -> None:
    _write(groups.parent / "own", "0::/docker/0123456789ab\n")
    _write(groups / "cpu.max", "250000 100000")
    assert processors.processor_quota() == 2.5


@pytest.mark.parametrize(("granted", "quota"), [("-1\n", None), ("300000\n", 3.0)])
def test_the_first_version(groups: Path, granted: str, quota: float | None) -> None:
    _write(groups.parent / "own", "5:memory:/here\n4:cpu,cpuacct:/here\n1:name=systemd:/there\n0::/\n")
    _write(groups / "cpu" / "here" / "cpu.cfs_quota_us", granted)
    _write(groups / "cpu" / "here" / "cpu.cfs_period_us", "100000\n")
    assert processors.processor_quota() == quota


@pytest.mark.parametrize("own", [None, "", "0::/\n", "4:cpu:/\n"])
def test_where_nothing_is_said_nothing_is_limited(groups: Path, own: str | None) -> None:
    if own is not None:
        _write(groups.parent / "own", own)
    assert processors.processor_quota() is None
    assert processors.processor_count() == 4
