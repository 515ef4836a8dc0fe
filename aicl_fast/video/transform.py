"""What a frame goes through before a network sees it: resizing and the crop, as published for I3D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from aicl_fast.extras import needs

with needs("video"):
    import cv2

from aicl_fast.errors import DataError
from aicl_fast.video.reader import Image

Array = npt.NDArray[Any]
LONGEST = 16384
"""Pixels that the long side of a resized frame has at most. No recording comes near it."""


@dataclass(frozen=True)
class Transform:
    """Short side to ``short_side`` pixels (bilinear), then the middle ``crop`` by ``crop`` pixels.

    Flow is computed between resized frames and cropped afterwards, so that it knows what comes into the crop.
    Numbers as in Carreira and Zisserman, *Quo Vadis, Action Recognition?*, CVPR 2017.
    """

    short_side: int = 256
    crop: int = 224

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.short_side:
            raise DataError(
                f"transform: expected 1 <= crop <= short_side, got {self.crop} and {self.short_side}."
            )

    def resized(self, image: Image) -> Image:
        """(height, width, C) at its final scale, its sides' ratio kept to the nearest pixel.

        Raises:
            DataError: the long side would be longer than 16384 pixels.
        """
        height, width = image.shape[:2]
        short = min(height, width)
        size = tuple(max(self.short_side, round(side * self.short_side / short)) for side in (width, height))
        if max(size) > LONGEST:
            raise DataError(
                f"a frame of {width} x {height} pixels would be {size[0]} x {size[1]} with a short side of "
                f"{self.short_side}; the long side may be {LONGEST}, {LONGEST / self.short_side:g} times the "
                "short one. Crop the video, or pad it."
            )
        if size == (width, height):
            return image
        found: Any = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        return found  # type: ignore[no-any-return]

    def cropped(self, picture: Array) -> Array:
        """The middle of (height, width, C), as a view."""
        top, left = ((side - self.crop) // 2 for side in picture.shape[:2])
        return picture[top : top + self.crop, left : left + self.crop]

    def __str__(self) -> str:
        """How a features file records it."""
        return f"short side {self.short_side} bilinear, centre crop {self.crop}"
