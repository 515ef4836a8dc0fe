"""DETAD's figures come out whole, also where there is nothing to show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.detections import Detections
from aicl_fast.errors import DataError
from aicl_fast.evaluate import diagnose
from aicl_fast.plot import plot_diagnosis

TRUTH = GroundTruth(
    {"v": VideoAnnotation("test", ("a", "b"), np.array([[0, 10], [20, 30.0]]), duration=100.0)}
)


@pytest.mark.parametrize("count", [0, 2])
def test_diagnosis_is_drawn(count: int, tmp_path: Path) -> None:
    found = Detections(np.array(["a", "a"]), np.array([0.9, 0.8]), np.array([[0, 10], [50, 60.0]]))
    result = diagnose(TRUTH, {"v": found if count else Detections.empty("v")})
    plot_diagnosis(result, tmp_path / "detad.svg", title="a run")
    plot_diagnosis(result, tmp_path / "detad.png")
    assert (tmp_path / "detad.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="expected a picture"):
        plot_diagnosis(result, tmp_path / "detad")
