"""The processors that this process may run on."""

from __future__ import annotations

import os


def usable_processors() -> list[int]:
    """Their numbers, in order; at least one. Containers and ``taskset`` may leave fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
