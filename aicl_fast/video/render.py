"""A video with its detections burnt in: a timeline under the picture, and what happens now upon it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from aicl_fast.detections import Detection, Detections
from aicl_fast.errors import DataError
from aicl_fast.files import atomic_path, require_file
from aicl_fast.video.reader import Image, Upright, open_video, timed_frames

SUFFIXES = (".mp4", ".mkv")
ROWS = 5
"""Classes shown on the timeline, the best ones."""
SHARE = 0.25
"""Detections from this share of the best one's score are shown, if no score is asked for."""

_COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")
"""Audio that fits into the files written here as it is."""
_CLOCK = 90_000
_DARK, _LIGHT, _NOW = (24, 28, 32), (235, 238, 241), (255, 255, 255)
_COLOURS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (184, 134, 11),
)  # fmt: skip
"""Of the rows: told apart with the common colour-vision deficiencies (Okabe and Ito)."""
_BT709 = 1


def render_video(
    path: str | os.PathLike[str],
    detections: Detections,
    out: str | os.PathLike[str],
    *,
    min_score: float | None = None,
    allow_damaged: bool = False,
    progress: Callable[[float], None] | None = None,
) -> list[str]:
    """Write a video with its detections burnt in, in H.264, at the original's size and times.

    Under the picture there is a row for each of the best classes, with a bar for each detection (paler: lower
    score) and a line at the present; on it, the classes and scores of what is happening.

    Args:
        path: the video.
        detections: seconds count from its first frame.
        out: ends in .mp4 or .mkv.
        min_score: of the detections to show; None shows those from a quarter of the best score.
        allow_damaged: take what can be decoded of a file that is cut off or corrupt.
        progress: called with the seconds that are done.
    Returns:
        What the new file lacks of the old one, in words: nothing, or its audio and why.
    Raises:
        DataError: a video that cannot be used, see :func:`aicl_fast.video.read_frames`, or a place that
            cannot be written to.
    """
    target = check_target(path, out)
    with open_video(path) as (container, stream), atomic_path(target) as temporary:
        frames = timed_frames(container, stream, allow_damaged=allow_damaged, source=str(path))
        first = next(frames, None)
        if first is None:
            raise DataError(f"{path}: not one frame of its video can be decoded.")
        upright = Upright()
        shown = _shown(detections, min_score)
        length = max([float(container.duration or 0) / av.time_base, *(each.end for each in shown)])
        canvas = _Canvas(upright(first.picture), shown, length)
        with av.open(str(temporary), "w") as written:
            encoder = _encoder(written, canvas.shape, stream.average_rate or Fraction(25))
            with open_video(path) as (second, _):
                audio = _Audio(second, written, first.picture)
                last = -1
                for frame in _chain(first, frames):
                    seconds = float(frame.start)
                    picture = av.VideoFrame.from_ndarray(
                        canvas.draw(upright(frame.picture), seconds), "rgb24"
                    )
                    last = max(last + 1, round(frame.start * _CLOCK))
                    picture.pts, picture.time_base = last, Fraction(1, _CLOCK)
                    written.mux(encoder.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))
                    audio.copy_until(seconds)
                    if progress is not None:
                        progress(seconds)
                written.mux(encoder.encode(None))
                audio.copy_until(float("inf"))
    return audio.remarks


def check_target(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """``out``, if a rendered video can have this name.

    Raises:
        DataError: another suffix than .mp4 or .mkv, the video itself, or no such video.
    """
    target = Path(out)
    if target.suffix.lower() not in SUFFIXES:
        raise DataError(f"{target}: expected a video's name that ends in {' or '.join(SUFFIXES)}.")
    if target.exists() and target.samefile(require_file(path, "video")):
        raise DataError(f"{target}: is the video itself. Choose another name for the rendered one.")
    return target


def _shown(detections: Detections, min_score: float | None) -> list[Detection]:
    """Those of the best classes, best first."""
    if min_score is None:
        min_score = SHARE * max(detections.scores.tolist(), default=0.0)
    kept = [each for each in detections if each.score >= min_score]
    labels = list(dict.fromkeys(each.label for each in sorted(kept, key=lambda each: -each.score)))[:ROWS]
    return sorted((each for each in kept if each.label in labels), key=lambda each: -each.score)


class _Canvas:
    """The picture with its timeline, which is drawn once; the line at the present moves over it."""

    def __init__(self, image: Image, shown: list[Detection], length: float) -> None:
        height, width = image.shape[:2]
        self._size = (width - width % 2, height - height % 2)
        self._shown, self._length = shown, max(length, 1e-3)
        self._labels = list(dict.fromkeys(each.label for each in shown))
        self._row = max(14, min(round(height / 16), 48))
        self._best = max((each.score for each in shown), default=1.0)
        self._strip = self._timeline()
        self._tags: dict[str, Image] = {}
        self.shape = (self._size[1] + self._strip.shape[0], self._size[0])

    def draw(self, image: Image, seconds: float) -> Image:
        """A frame as it is written."""
        width, height = self._size
        if image.shape[:2] != (height, width):
            crop = image[:height, :width]
            fits = crop.shape[:2] == (height, width)
            image = crop if fits else np.asarray(cv2.resize(image, (width, height)))
        result = np.concatenate([image, self._strip])
        now = min(width - 1, max(0, round(seconds / self._length * (width - 1))))
        result[height:, max(0, now - 1) : now + 1] = _NOW
        top = 4
        for label in self._labels:
            active = [e for e in self._shown if e.label == label and e.start <= seconds < e.end]
            if active:
                tag = self._tag(f"{label}  {active[0].score:.2f}", self._colour(label))
                high, wide = min(tag.shape[0], height - top), min(tag.shape[1], width - 4)
                if high <= 0:
                    break
                result[top : top + high, 4 : 4 + wide] = tag[:high, :wide]
                top += high + 2
        return np.ascontiguousarray(result)

    def _timeline(self) -> Image:
        width, rows = self._size[0], max(1, len(self._labels))
        high = rows * (self._row + 2) + 2
        strip = np.full((high + high % 2, width, 3), _DARK, np.uint8)
        for number, label in enumerate(self._labels):
            top = 2 + number * (self._row + 2)
            for each in reversed(self._shown):  # the best are drawn last
                if each.label == label:
                    left, right = (round(t / self._length * (width - 1)) for t in (each.start, each.end))
                    share = 0.25 + 0.75 * max(0.0, each.score) / max(self._best, 1e-9)
                    bar = strip[top : top + self._row, left : max(left, right) + 1]
                    bar[:] = [
                        round(dark + share * (bright - dark))
                        for dark, bright in zip(_DARK, self._colour(label), strict=True)
                    ]
                    bar[:, [0, -1]] = _DARK  # so that bars over one another can be told apart
            _write(strip, label, (4, top + self._row), self._row)
        if not self._labels:
            _write(strip, "nothing detected", (4, 2 + self._row), self._row)
        return strip

    def _colour(self, label: str) -> tuple[int, int, int]:
        return _COLOURS[self._labels.index(label) % len(_COLOURS)]

    def _tag(self, text: str, colour: tuple[int, int, int]) -> Image:
        if text not in self._tags:
            tag = np.full((self._row + 4, _width(text, self._row) + 10, 3), colour, np.uint8)
            _write(tag, text, (5, self._row + 2), self._row)
            self._tags[text] = tag
        return self._tags[text]


class _Audio:
    """Copies the first audio stream's packets as they are, where the file written can hold them."""

    def __init__(self, container: Any, written: Any, first: Any) -> None:
        self.remarks: list[str] = []
        self._written = written
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None
        streams = container.streams.audio
        if not streams:
            return
        name = streams[0].codec_context.name if streams[0].codec_context else "unknown"
        try:
            if name not in _COPIED:
                raise ValueError("of another kind than the written file holds")
            self._stream = written.add_stream_from_template(streams[0])
        except (ValueError, av.FFmpegError) as error:
            self.remarks.append(f"the audio ({name}) is dropped: {error}")
            return
        self._begin = Fraction(0) if first.pts is None else first.pts * Fraction(first.time_base)
        self._packets = container.demux(streams[0])
        self._next = self._take()

    def copy_until(self, seconds: float) -> None:
        """Write the packets that begin until then, on the clock of the first frame."""
        while self._next is not None and self._time(self._next) <= seconds:
            packet = self._next
            shift = round(self._begin / Fraction(packet.time_base))
            packet.pts -= shift
            packet.dts = packet.pts
            packet.stream = self._stream
            if packet.pts >= 0:
                self._written.mux(packet)
            self._next = self._take()

    def _time(self, packet: Any) -> float:
        return float(packet.pts * Fraction(packet.time_base) - self._begin)

    def _take(self) -> Any:
        try:
            return next((each for each in self._packets if each.pts is not None), None)
        except av.FFmpegError:  # the video's own damage has been spoken of
            return None


def _encoder(written: Any, shape: tuple[int, int], rate: Fraction) -> Any:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"qscale": "3"}
    stream = written.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width = shape
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = Fraction(1, _CLOCK)
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    return stream


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _write(image: Image, text: str, place: tuple[int, int], height: int) -> None:
    """Text in any script, its lowest point at ``place``."""
    x, y = place
    # Without a range of its own, text that is too long would go on in a second line.
    endless = (x, 1 << 20)
    cv2.putText(
        image, text, (x, y - round(0.28 * height)), _LIGHT, _font(), round(0.72 * height), wrap=endless
    )


def _width(text: str, height: int) -> int:
    box = cv2.getTextSize((0, 0), text, (0, 0), _font(), round(0.72 * height), wrap=(0, 1 << 20))
    return int(box[2])


def _font() -> Any:
    return cv2.FontFace("sans")
