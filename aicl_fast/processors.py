"""The processors that this process may run on, and how many of them at one time."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_processors() -> list[int]:
    """Their numbers, in order; at least one. Containers and ``taskset`` may leave fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def processor_count() -> int:
    """How many it may keep busy: all that are usable, or as many as its quota of time is worth, rounded up.

    More threads than that are stopped together when the quota is used up, for the rest of its period.
    """
    usable, quota = len(usable_processors()), processor_quota()
    return usable if quota is None else min(usable, max(1, math.ceil(quota)))


def processor_quota() -> float | None:
    """The processors' worth of time that Linux's control groups grant, as ``docker run --cpus`` sets it.

    None where nothing limits it: the smallest counts of the process's own group and those above it, in either
    version of control groups. Read once: decoding a batch asks each time.
    """
    return _quota(_OWN, _GROUPS)


@functools.cache
def _quota(own: Path, groups: Path) -> float | None:
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    granted = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for folder in _above(groups, controllers, path.strip("/")):
            with contextlib.suppress(OSError, ValueError):
                granted.append(_granted(folder))
    return min((share for share in granted if share is not None), default=None)


def _above(groups: Path, controllers: str, path: str) -> Iterator[Path]:
    """A group's folder and those above it. Within a container its own is at the root, whatever its name."""
    if controllers == "":
        root = groups
    elif "cpu" in controllers.split(","):
        root = groups / "cpu"
    else:
        return
    folder = root / path
    yield folder
    for parent in folder.parents:
        if parent.is_relative_to(root):
            yield parent


def _granted(folder: Path) -> float | None:
    if (folder / "cpu.max").is_file():
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return None if int(quota) <= 0 else int(quota) / int(period)
