"""Optical flow between consecutive frames: TV-L1, here with OpenCV's default settings, or DIS."""

from __future__ import annotations

import threading
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from aicl_fast.extras import needs

with needs("video"):
    import cv2

from aicl_fast.data.features import Floats
from aicl_fast.errors import ConfigError
from aicl_fast.video.reader import Image

FlowAlgorithm = Literal["tvl1", "dis"]
"""``tvl1``: Zach, Pock and Bischof 2007, here with OpenCV's default settings.
``dis``: Kroeger et al. 2016, OpenCV's medium preset."""

Gray = npt.NDArray[np.uint8]


class Flow:
    """Optical flow by one algorithm. May be called from several threads: each gets a solver of its own.

    OpenCV lets other threads run meanwhile.

    Args:
        algorithm: ``tvl1`` or ``dis``.
    Raises:
        ConfigError: another.
    """

    def __init__(self, algorithm: FlowAlgorithm = "tvl1") -> None:
        if algorithm not in get_args(FlowAlgorithm):
            raise ConfigError(
                f"flow: expected {' or '.join(get_args(FlowAlgorithm))}, got {algorithm!r}. Take the "
                "one that the model's training features were made with."
            )
        self.algorithm = algorithm
        self._own = threading.local()

    def __call__(self, before: Gray, after: Gray) -> Floats:
        """Where each pixel of ``before`` went: (height, width, 2) float32 (dx, dy) in pixels, not clipped.

        Args:
            before: (height, width) uint8.
            after: the same shape.
        """
        if not hasattr(self._own, "solver"):
            self._own.solver = self._solver()
        found: Floats = self._own.solver.calc(before, after, None)
        return found

    def _solver(self) -> Any:
        if self.algorithm == "tvl1":
            return cv2.optflow.createOptFlow_DualTVL1()
        return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def gray(image: Image) -> Gray:
    """(height, width) luminance of an RGB image."""
    found: Any = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return found  # type: ignore[no-any-return]
