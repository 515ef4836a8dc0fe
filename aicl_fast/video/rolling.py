"""The last minute of a live source as a picture that is written again and again, or all of it as a video."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aicl_fast.extras import needs

with needs("video"):
    import av
    import cv2

from aicl_fast.data.detections import Detection
from aicl_fast.errors import DataError
from aicl_fast.files import atomic_path, require_place
from aicl_fast.stream_events import Event
from aicl_fast.video.render import ROWS, SHARE, SUFFIXES, Canvas, make_encoder, writing

if TYPE_CHECKING:
    from typing import Self

    from aicl_fast.video.reader import Image

PICTURE = ".png"
_EVERY = 1.0
"""Seconds from one writing of the picture to the next, at least."""
_DARK = (24, 28, 32)


class Rolling:
    """Draws what is seen, with a timeline of the last ``span`` seconds: a context.

    Args:
        target: ends in .png, which is replaced once a second at most and is always whole; or in .mp4 or .mkv,
            which is there when the watch has ended.
        fps: of the pictures.
        span: seconds of the timeline.
    Raises:
        DataError: another name, or a place that cannot be written to.
    """

    def __init__(self, target: str | os.PathLike[str], fps: float, span: float = 60.0) -> None:
        self._target = require_place(target)
        if self._target.suffix.lower() not in (PICTURE, *SUFFIXES):
            raise DataError(f"{self._target}: expected a name that ends in .png, .mp4 or .mkv.")
        self._fps, self._span = fps, span
        self._standing: dict[int, Event] = {}
        self._labels: list[str] = []
        self._output: _Picture | _Video = (
            _Picture(self._target) if self._target.suffix.lower() == PICTURE else _Video(self._target, fps)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._output.close(*error)

    def event(self, event: Event) -> None:
        """Take note of what became known."""
        if event.kind == "withdrawn":
            self._standing.pop(event.id, None)
        else:
            self._standing[event.id] = event

    def show(self, pictures: tuple[Image, ...], now: float) -> None:
        """Draw what is new, (height, width, 3) RGB each; the last one is that at ``now``."""
        begin = now - self._span
        self._standing = {key: event for key, event in self._standing.items() if event.end > begin}
        shown = self._shown(begin)
        height = pictures[-1].shape[0]
        canvas = Canvas(pictures[-1], shown, self._span)
        drawn = pictures[-1:] if isinstance(self._output, _Picture) else pictures
        for number, picture in enumerate(drawn):
            seconds = self._span - (len(drawn) - number) / self._fps
            image = canvas.draw(picture, seconds)
            # Room for all rows, since pictures of a video are of one size.
            rows = height + height % 2 + ROWS * (canvas.row + 2) + 2
            room = np.full((rows + rows % 2, image.shape[1], 3), _DARK, np.uint8)
            room[: len(image)] = image
            self._output.write(room)

    def _shown(self, begin: float) -> list[Detection]:
        """The best classes' detections, in seconds since ``begin``; the classes as they first came."""
        standing = self._standing.values()
        least = SHARE * max((event.score for event in standing), default=0.0)
        kept = sorted((event for event in standing if event.score >= least), key=lambda event: -event.score)
        best = list(dict.fromkeys(event.label for event in kept))[:ROWS]
        self._labels = [label for label in self._labels if label in best]
        self._labels += [label for label in best if label not in self._labels]
        return [
            Detection(event.label, event.score, max(0.0, event.start - begin), event.end - begin)
            for label in self._labels
            for event in kept
            if event.label == label
        ]


class _Picture:
    """The last picture, whole at any time."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._image: Image | None = None
        self._next = 0.0

    def write(self, image: Image) -> None:
        self._image = image
        if time.monotonic() >= self._next:
            self._save()

    def _save(self) -> None:
        assert self._image is not None
        done, content = cv2.imencode(PICTURE, self._image[:, :, ::-1])
        if not done:
            raise DataError(f"{self._target}: the picture cannot be encoded.")
        with atomic_path(self._target) as temporary:
            temporary.write_bytes(content.tobytes())
        self._image, self._next = None, time.monotonic() + _EVERY

    def close(self, *_: Any) -> None:
        """Write the last one."""
        if self._image is not None:
            self._save()


class _Video:
    """All pictures, one after the other."""

    def __init__(self, target: Path, fps: float) -> None:
        self._target, self._rate = target, Fraction(fps).limit_denominator(1001)
        self._stack = ExitStack()
        self._encoder: Any = None
        self._count = 0

    def write(self, image: Image) -> None:
        if self._encoder is None:
            self._stack.enter_context(writing(self._target))
            temporary = self._stack.enter_context(atomic_path(self._target))
            self._file: Any = self._stack.enter_context(av.open(str(temporary), "w"))
            self._encoder = make_encoder(self._file, image.shape[:2], self._rate)
        if image.shape[:2] != (self._encoder.height, self._encoder.width):  # of another connection
            image = np.asarray(cv2.resize(image, (self._encoder.width, self._encoder.height)))
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        tick = self._encoder.codec_context.time_base
        picture.pts, picture.time_base = round(self._count / self._rate / tick), tick
        self._count += 1
        self._file.mux(self._encoder.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))

    def close(self, *error: Any) -> None:
        """Complete the file; after an error there is none."""
        with self._stack:
            if error and error[0] is not None:
                raise error[1]
            if self._encoder is not None:
                self._file.mux(self._encoder.encode(None))
