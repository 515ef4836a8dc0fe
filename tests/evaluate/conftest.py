"""What the evaluation tests share: the naive twins, and short ways to write annotations and detections."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.detections import Detections


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """The module of loop implementations beside this file."""
    spec = importlib.util.spec_from_file_location("naive_evaluate", Path(__file__).with_name("naive.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def truth_of() -> Callable[..., GroundTruth]:
    """``truth_of({video: [(label, start, end)]}, subset={video: name})``."""

    def build(videos: Mapping[str, Sequence[Any]], subset: Mapping[str, str] | None = None) -> GroundTruth:
        return GroundTruth(
            {
                name: VideoAnnotation(
                    (subset or {}).get(name, "test"),
                    tuple(span[0] for span in spans),
                    np.array([span[1:] for span in spans], dtype=np.float64).reshape(-1, 2),
                )
                for name, spans in videos.items()
            }
        )

    return build


@pytest.fixture(scope="session")
def found_of() -> Callable[..., dict[str, Detections]]:
    """``found_of({video: [(label, score, start, end)]})``."""

    def build(videos: Mapping[str, Sequence[Any]]) -> dict[str, Detections]:
        return {
            name: Detections(
                np.array([item[0] for item in items], np.str_),
                np.array([item[1] for item in items], np.float64),
                np.array([item[2:] for item in items], np.float64),
                name,
            )
            for name, items in videos.items()
        }

    return build
