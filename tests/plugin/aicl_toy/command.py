"""A command: the number of detections in a file."""

from __future__ import annotations

from pathlib import Path

from aicl_fast import load_detections


def run(file: Path) -> None:
    """Count the detections of a file."""
    print(sum(map(len, load_detections(file).values())))  # noqa: T201
