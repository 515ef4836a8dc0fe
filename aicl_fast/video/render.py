"""A video with its detections burnt in: a timeline under the picture, and what happens now upon it."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.extras import needs

with needs("video"):
    import av
    import cv2

from aicl_fast.data.detections import Detection, Detections
from aicl_fast.errors import AiclError, DataError
from aicl_fast.files import atomic_path, require_file, require_place
from aicl_fast.text import short_text
from aicl_fast.video.failures import FAILURES, named_failure
from aicl_fast.video.opening import codec_name, open_video, said
from aicl_fast.video.reader import Image, Timed, Upright, ahead_rule, timed_frames

SUFFIXES = (".mp4", ".mkv")
ROWS = 5
"""Classes shown on the timeline, the best ones."""
SHARE = 0.25
"""Detections from this share of the best one's score are shown, if no score is asked for."""

_COPIED = ("aac", "mp3", "mp2", "ac3", "eac3", "opus", "flac", "alac")
"""Audio that fits into the files written here as it is."""
_OVERLAP = Fraction(1)
"""Seconds by which sound may go back without another clock: so much of it is skipped."""
_CLOCK, _CLOCK_MPEG4 = 90_000, 60_000
"""Ticks a second; MPEG-4 has at most 65535."""
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

    An odd width or height is filled up by one pixel, since H.264 has even ones. Where FFmpeg was built
    without an encoder of H.264 it is MPEG-4.

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
        What the new file lacks, in words: nothing, its audio and why, or characters of labels.
    Raises:
        DataError: a video that cannot be used, see :func:`aicl_fast.video.read_frames`, one that cannot be
            encoded (H.264 has a largest size), or a place that cannot be written to.
    """
    target = check_target(path, out)
    with open_video(path) as (container, stream), writing(target), atomic_path(target) as temporary:
        timed = timed_frames(container, stream, allow_damaged=allow_damaged, source=str(path))
        frames = _named(timed, Path(path))
        first = next(frames, None)
        if first is None:
            raise DataError(f"{path}: not one frame of its video can be decoded.")
        upright = Upright()
        shown = _shown(detections, min_score)
        length = max([float(container.duration or 0) / av.time_base, *(each.end for each in shown)])
        canvas = Canvas(upright(first.picture), shown, length)
        with av.open(str(temporary), "w") as written:
            encoder = make_encoder(written, canvas.shape, stream.average_rate or Fraction(25))
            tick = encoder.codec_context.time_base
            with open_video(path) as (second, _):
                audio = _Audio(second, written, first.picture)
                last = -1
                for frame in itertools.chain([first], frames):
                    seconds = float(frame.start)
                    with named_failure(Path(path)):
                        image = canvas.draw(upright(frame.picture), seconds)
                    picture = av.VideoFrame.from_ndarray(image, "rgb24")
                    last = max(last + 1, round(frame.start / tick))
                    picture.pts, picture.time_base = last, tick
                    written.mux(encoder.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))
                    audio.copy_until(seconds)
                    if progress is not None:
                        progress(seconds)
                written.mux(encoder.encode(None))
                audio.copy_until(float("inf"))
    return [*audio.remarks, *_not_drawn(canvas.labels)]


def check_target(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """``out``, if a rendered video can have this name.

    Raises:
        DataError: another suffix than .mp4 or .mkv, a folder, the video itself, or no such video.
    """
    target = Path(out)
    if target.suffix.lower() not in SUFFIXES:
        raise DataError(f"{target}: expected a video's name that ends in {' or '.join(SUFFIXES)}.")
    require_place(target)
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


class Canvas:
    """The picture with its timeline, which is drawn once; the line at the present moves over it."""

    def __init__(self, image: Image, shown: list[Detection], length: float) -> None:
        height, width = self._stored = image.shape[:2]
        # H.264 in 4:2:0 has even sizes only.
        self._size = (width + width % 2, height + height % 2)
        self._shown, self._length = shown, max(length, 1e-3)
        self.labels = list(dict.fromkeys(each.label for each in shown))
        self.row = max(14, min(round(height / 16), 48))
        self._best = max((each.score for each in shown), default=1.0)
        self._strip = self._timeline()
        self._tags: dict[str, Image] = {}
        self.shape = (self._size[1] + self._strip.shape[0], self._size[0])

    def draw(self, image: Image, seconds: float) -> Image:
        """A frame as it is written."""
        width, height = self._size
        if image.shape[:2] != self._stored:  # a stream that changes its size on the way
            image = np.asarray(cv2.resize(image, self._stored[::-1]))
        if self._stored != (height, width):
            more = height - self._stored[0], width - self._stored[1]
            image = np.asarray(cv2.copyMakeBorder(image, 0, more[0], 0, more[1], cv2.BORDER_REPLICATE))
        result = np.concatenate([image, self._strip])
        now = min(width - 1, max(0, round(seconds / self._length * (width - 1))))
        result[height:, max(0, now - 1) : now + 1] = _NOW
        top = 4
        for label in self.labels:
            active = [e for e in self._shown if e.label == label and e.start <= seconds < e.end]
            if active:
                tag = self._tag(f"{label}  {active[0].score:.2f}", self._colour(label))
                high, wide = min(tag.shape[0], height - top), min(tag.shape[1], width - 4)
                if min(high, wide) <= 0:
                    break
                result[top : top + high, 4 : 4 + wide] = tag[:high, :wide]
                top += high + 2
        return np.ascontiguousarray(result)

    def _timeline(self) -> Image:
        width, rows = self._size[0], max(1, len(self.labels))
        high = rows * (self.row + 2) + 2
        strip = np.full((high + high % 2, width, 3), _DARK, np.uint8)
        for number, label in enumerate(self.labels):
            top = 2 + number * (self.row + 2)
            for each in reversed(self._shown):  # the best are drawn last
                if each.label == label:
                    left, right = (round(t / self._length * (width - 1)) for t in (each.start, each.end))
                    share = 0.25 + 0.75 * max(0.0, each.score) / max(self._best, 1e-9)
                    bar = strip[top : top + self.row, left : max(left, right) + 1]
                    bar[:] = [
                        round(dark + share * (bright - dark))
                        for dark, bright in zip(_DARK, self._colour(label), strict=True)
                    ]
                    bar[:, [0, -1]] = _DARK  # so that bars over one another can be told apart
            _write(strip, label, (4, top + self.row), self.row)
        if not self.labels:
            _write(strip, "nothing detected", (4, 2 + self.row), self.row)
        return strip

    def _colour(self, label: str) -> tuple[int, int, int]:
        return _COLOURS[self.labels.index(label) % len(_COLOURS)]

    def _tag(self, text: str, colour: tuple[int, int, int]) -> Image:
        if text not in self._tags:
            tag = np.full((self.row + 4, _width(text, self.row) + 10, 3), colour, np.uint8)
            _write(tag, text, (5, self.row + 2), self.row)
            self._tags[text] = tag
        return self._tags[text]


class _Audio:
    """Copies the first audio stream's packets as they are, where the file written can hold them."""

    def __init__(self, container: Any, written: Any, first: Any) -> None:
        self.remarks: list[str] = []
        self._next: Any = None
        streams = container.streams.audio
        if not streams:
            return
        begin = Fraction(0) if first.pts is None else first.pts * Fraction(first.time_base)
        self._packets = self._timed(container, streams[0], begin)
        name = codec_name(streams[0])
        try:
            if name not in _COPIED:
                raise ValueError("of another kind than the written file holds")
            self._next = next(self._packets, None)
            if self._next is None:
                raise ValueError("nothing of it comes after the first picture")
            _try(streams[0], written.format.name)
            self._stream = written.add_stream_from_template(streams[0])
        except ValueError as error:
            self._next = None
            self.remarks.append(f"the audio ({name}) is dropped: {error}")
        self._written = written

    def copy_until(self, seconds: float) -> None:
        """Write the packets that begin until then, on the clock of the first frame."""
        while self._next is not None and self._next[0] <= seconds:
            _, packet = self._next
            packet.stream = self._stream
            self._written.mux(packet)
            self._next = next(self._packets, None)

    @staticmethod
    def _timed(container: Any, stream: Any, begin: Fraction) -> Iterator[tuple[Fraction, Any]]:
        """Packets from the first frame on, with their seconds; the clock is as that of the pictures."""
        jumps_ahead = ahead_rule(container)
        shift, last, end = -begin, Fraction(0), Fraction(0)
        packets = container.demux(stream)
        written = -1
        while True:
            try:
                packet = next((each for each in packets if each.pts is not None), None)
            except av.FFmpegError:  # the video's own damage has been spoken of
                return
            if packet is None:
                return
            unit = Fraction(packet.time_base)
            time = packet.pts * unit + shift
            if written >= 0 and (time < last - _OVERLAP or jumps_ahead(last, time)):
                shift += end - time
                time = end
            packet.pts = packet.dts = round(time / unit)
            if packet.pts > written:
                written, last, end = packet.pts, time, time + (packet.duration or 0) * unit
                yield time, packet


def _try(stream: Any, format_name: str) -> None:
    """Refuse a stream that the file's header cannot be written with: one whose rate FFmpeg did not find."""
    try:
        with av.open(io.BytesIO(), "w", format=format_name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (ValueError, av.FFmpegError) as error:
        raise ValueError(f"the new file does not take it as it is ({said(error)})") from error


def make_encoder(written: Any, shape: tuple[int, int], rate: Fraction) -> Any:
    """A new stream of H.264, or of MPEG-4, for pictures of (height, width)."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # A step of 3, as FFmpeg's program has it for -qscale 3.
    fixed = {"flags": "+qscale", "global_quality": str(3 * 118)}
    options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else fixed
    stream = written.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width = shape
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = Fraction(1, _CLOCK if codec == "libx264" else _CLOCK_MPEG4)
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    return stream


def _named(frames: Iterator[Timed], path: Path) -> Iterator[Timed]:
    with named_failure(path):
        yield from frames


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """What encoder and muxer raise, as an error that names the file to be written."""
    try:
        yield
    except AiclError:
        raise
    except FAILURES as error:
        raise DataError(
            f"{target}: the rendered video cannot be written ({said(error)}). Convert the video first, for "
            "example to H.264 and AAC in .mp4."
        ) from error


def _write(image: Image, text: str, place: tuple[int, int], height: int) -> None:
    """Text in any script, its lowest point at ``place``."""
    x, y = place
    text = short_text(text)  # OpenCV crashes on what is no character
    # Without a range of its own, text that is too long would go on in a second line.
    endless = (x, 1 << 20)
    cv2.putText(
        image, text, (x, y - round(0.28 * height)), _LIGHT, _font(), round(0.72 * height), wrap=endless
    )


def _width(text: str, height: int) -> int:
    box = cv2.getTextSize((0, 0), short_text(text), (0, 0), _font(), round(0.72 * height), wrap=(0, 1 << 20))
    return int(box[2])


def _not_drawn(labels: list[str]) -> list[str]:
    """What to say of characters that OpenCV's fonts lack, for which it draws question marks."""

    def drawn(character: str) -> bytes:
        tile = np.zeros((48, 48, 3), np.uint8)
        _write(tile, character, (4, 40), 32)
        return tile.tobytes()

    rare = {each for each in short_text("".join(labels), 1000) if not each.isascii() and each.isprintable()}
    unknown = drawn("?")
    lacking = "".join(sorted(each for each in rare if drawn(each) == unknown))
    return [f"the fonts for video have no characters {lacking!r}: ? stands for each"] if lacking else []


def _font() -> Any:
    return cv2.FontFace("sans")
