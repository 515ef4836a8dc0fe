"""Shared fixtures: where the reference material is, and how kernels run without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of recorded outputs of the authors' program."""
    folder = SHARED / "goldens"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {os.path.relpath(folder)}")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real annotations, detections, clips and weights."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {os.path.relpath(folder)}")
    return folder
