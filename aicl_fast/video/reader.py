"""Frames of a video file at a steady rate, one after another: memory does not grow with the file's length."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from aicl_fast.extras import needs

with needs("video"):
    import av
    from av.sidedata.sidedata import Type as SideData
    from av.video.reformatter import VideoReformatter

from aicl_fast.errors import DataError
from aicl_fast.files import require_file
from aicl_fast.limits import require_size
from aicl_fast.video.opening import codec_name, open_video, reading_video, said

Image = npt.NDArray[np.uint8]
"""(height, width, 3) RGB."""
Picture = TypeVar("Picture")

_TIMES_MAY_JUMP = av.format.Flags.ts_discont.value
_JUMP, _JUMP_ELSEWHERE = Fraction(10), Fraction(30 * 3600)
"""Seconds without a picture that mean another clock, where a format allows that, and in all others."""
_FRAME_BYTES = 512
"""Of features of both streams for each frame: what a video's frames at a steady rate take in memory."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself.

    Attributes:
        path: the file.
        width: pixels, as shown (after rotation).
        height: the same.
        fps: mean frames a second, or None where the file does not say.
        duration: seconds of the video stream, or None where the file does not say.
        rotation: quarter turns anticlockwise, 0 to 3, that bring the stored frames upright.
        codec: of the video stream, by FFmpeg's name of the format (``av1``), not of the decoder.
        audio: the same of the first audio stream, or None.
    """

    path: Path
    width: int
    height: int
    fps: float | None
    duration: float | None
    rotation: int
    codec: str
    audio: str | None


class Timed(NamedTuple):
    """A decoded picture in time."""

    start: Fraction
    """Seconds from the first picture."""
    length: Fraction
    """Seconds it is shown, by the file; it is shown longer if the next one is late."""
    picture: Any


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """What a file says about itself; its first frame is decoded, for the rotation.

    Raises:
        DataError: as :func:`read_frames`.
    """
    with open_video(path, one_frame=True) as (container, stream), reading_video(path):
        frame = next(_decoded(container, stream, _Damage(allowed=True)), None)
        if frame is None:
            raise _no_frames(path)
        turns = quarter_turns(frame)
        shown = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
        rate = stream.average_rate or stream.guessed_rate
        audio = container.streams.audio
        length = _stream_seconds(stream) or _container_seconds(container)
        return VideoInfo(
            path=Path(path),
            width=shown[0],
            height=shown[1],
            fps=float(rate) if rate else None,
            duration=None if length is None else float(length),
            rotation=turns,
            codec=codec_name(stream),
            audio=codec_name(audio[0]) if audio else None,
        )


def read_frames(
    path: str | os.PathLike[str],
    *,
    fps: float = 25.0,
    transform: Callable[[Image], Picture] | None = None,
    allow_damaged: bool = False,
) -> Iterator[Picture]:
    """The frames of a video at a steady rate, upright, in RGB.

    Frame k is what is shown ``k / fps`` seconds after the first frame, to the nearest multiple of
    ``1 / fps``, as FFmpeg's filter ``fps`` has it: a slower video's frames come several times (the same
    object), a faster one's are skipped. So a variable frame rate is no special case. A clock that jumps back
    goes on from where it was, and so does one that jumps ahead by more than ten seconds in a format that
    allows it, as MPEG-TS, or beyond the end that the header states.

    A file that was cut off is told by its header, which states its length; AVI and MPEG-TS have no such
    thing, and what is left of them counts as the whole. A whole file may end earlier than stated by 0.25
    seconds and half a per cent of its length, the latter 2 seconds at most. Damage inside a file is refused
    where the decoder notices it; small damage may pass.

    Args:
        path: anything that FFmpeg decodes. Names that begin with a protocol are files like others. A
            playlist, or another file that names files or addresses, is refused.
        fps: frames a second.
        transform: applied once to each frame that is used; None gives (height, width, 3) uint8.
        allow_damaged: take what can be decoded of a file that is cut off or corrupt.
    Raises:
        DataError: no such file, no video in it, nothing that can be decoded; pictures too large, or shown
            for so long that the features of all frames would take more memory than the file's size warrants
            (see :mod:`aicl_fast.limits`); or, but for ``allow_damaged``, a packet that cannot be decoded or
            an end before the one that the header states.
    """
    if not fps > 0 or not math.isfinite(fps):
        raise DataError(f"fps: expected a positive number of frames a second, got {fps}.")
    size = require_file(path, "video").stat().st_size

    def check(count: int) -> None:
        what = f"features of its {count:,} frames at {float(fps):g} a second"
        require_size(count * _FRAME_BYTES, size, path, what)

    with open_video(path) as (container, stream):
        frames = timed_frames(container, stream, allow_damaged=allow_damaged, source=str(path))
        none = True
        for picture in pictures(steady(frames, Fraction(fps), check), transform, path):
            none = False
            yield picture
        if none:
            raise _no_frames(path)


def pictures(
    frames: Iterable[Any],
    transform: Callable[[Image], Picture] | None,
    source: str | os.PathLike[str],
) -> Iterator[Any]:
    """Decoded frames upright, in RGB, and transformed; one that comes several times is the same object."""
    upright = Upright()
    last: Any = None
    picture: Any = None
    for frame in frames:
        if frame is not last:
            with reading_video(source):
                last, picture = frame, upright(frame)
            if transform is not None:
                picture = transform(picture)
        yield picture


def steady(
    frames: Iterable[Timed], fps: Fraction, check: Callable[[int], None] = lambda _: None
) -> Iterator[Any]:
    """Pictures at ``k / fps`` seconds for k in 0, 1, 2 …, by the rule of FFmpeg's filter ``fps``.

    A picture's time is rounded to the nearest multiple of ``1 / fps``; there it takes the place of the one
    before, which is repeated up to there. The last one is repeated to the end of its length. ``check`` is
    called with the number of pictures before they are repeated up to it.
    """
    held: Any = None
    position = shown = 0
    end = Fraction(0)
    for frame in frames:
        index = _nearest(frame.start * fps)
        check(index)
        while held is not None and position < index:
            yield held
            position, shown = position + 1, shown + 1
        held, end = frame.picture, frame.start + frame.length
    last = _nearest(end * fps)
    check(last)
    while held is not None and (position < last or not shown):
        yield held
        position, shown = position + 1, shown + 1


def quarter_turns(frame: Any) -> int:
    """How many quarter turns anticlockwise bring a decoded frame upright; 0 for one to be shown mirrored."""
    turns: int = round(frame.rotation / 90) % 4
    return turns if turns and not _mirrored(frame) else 0


class Upright:
    """Decoded frames of one video as (height, width, 3) RGB, turned as their file asks."""

    def __init__(self) -> None:
        # A frame's own method would prepare the conversion for each, which takes longer than converting.
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> Image:
        """One frame."""
        found: Any = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        image: Image = found
        turns = quarter_turns(frame)
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def timed_frames(
    container: Any,
    stream: Any,
    *,
    allow_damaged: bool = False,
    source: str = "",
    noticed: Callable[[str], None] | None = None,
    live: bool = False,
) -> Iterator[Timed]:
    """A video's own frames, each with its time; what :func:`read_frames` makes steady.

    Args:
        container, stream: from :func:`open_video`.
        allow_damaged: as :func:`read_frames`.
        source: the file's name, for messages.
        noticed: called with the damage that is allowed, in words.
        live: no clock runs ahead by more than ten seconds, whatever the format: it would take as much work.
    """
    with reading_video(source):
        if not allow_damaged:
            # FFmpeg hides what it finds damaged, unless it is told to say so.
            context = stream.codec_context
            context.options = {**context.options, "err_detect": "explode"}
        yield from _timed(container, stream, _Damage(allow_damaged, source, noticed), live)


def ahead_rule(container: Any, live: bool = False) -> Callable[[Fraction, Fraction], bool]:
    """Whether a stream's clock has jumped from the first time to the second, in seconds."""
    longest = _JUMP if live or container.format.flags & _TIMES_MAY_JUMP else _JUMP_ELSEWHERE
    stated = _container_seconds(container)

    def jumps(last: Fraction, time: Fraction) -> bool:
        return time > last + longest or (stated is not None and time > max(last, stated) + _JUMP)

    return jumps


class _Damage:
    """What to do about a file that is not whole."""

    def __init__(self, allowed: bool, source: str = "", noticed: Callable[[str], None] | None = None) -> None:
        self.allowed = allowed
        self.source = source
        self._noticed = noticed

    def found(self, what: str) -> None:
        if self.allowed and self._noticed is not None:
            self._noticed(what)
        if not self.allowed:
            raise DataError(
                f"{self.source}: {what}: the file is cut off or corrupt. Copy or download it again, or take "
                "what can be read of it with --allow-damaged (allow_damaged=True)."
            )


def _timed(container: Any, stream: Any, damage: _Damage, live: bool = False) -> Iterator[Timed]:
    """Decoded frames with a clock that starts at 0 and never goes back."""
    rates = (stream.average_rate, stream.guessed_rate, Fraction(25))
    usual = 1 / next(Fraction(rate) for rate in rates if rate is not None and rate > 0)
    jumps_ahead = ahead_rule(container, live)
    shift: Fraction | None = None
    last = -usual
    for frame in _decoded(container, stream, damage):
        expected = last + usual
        time = None if frame.pts is None else frame.pts * Fraction(frame.time_base)
        if time is None:
            time = expected
        elif shift is None:
            shift, time = -time, Fraction(0)
        else:
            time += shift
            if time < last or jumps_ahead(last, time):
                shift += expected - time
                time = expected
        length = (frame.duration or 0) * Fraction(frame.time_base or 0)
        yield Timed(time, length if length > 0 else usual, frame)
        last = time


def _decoded(container: Any, stream: Any, damage: _Damage) -> Iterator[Any]:
    """The video's frames in the order they are shown. Of other streams, packets' times are looked at."""
    begin = Fraction(container.start_time or 0, av.time_base)
    reached = Fraction(0)
    started = False
    packets = container.demux()
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            damage.found(f"cannot be read on after {float(reached):.1f} s ({said(error)})")
            break
        if packet is None:
            break
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None:
            reached = max(reached, (stamp + (packet.duration or 0)) * Fraction(packet.time_base) - begin)
        if packet.stream is not stream:
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            # A recording may begin between key frames: what comes before the first one says nothing.
            if started:
                damage.found(f"cannot be decoded at {float(reached):.1f} s ({said(error)})")
            continue
        for frame in frames:
            started = True
            yield frame
    stated = _container_seconds(container)
    if stated is not None and started:
        short = stated - reached
        if short > _tolerance(float(stated)):
            damage.found(f"ends after {float(reached):.1f} of {float(stated):.1f} s")


def _stream_seconds(stream: Any) -> Fraction | None:
    return stream.duration * Fraction(stream.time_base) if stream.duration else None


def _container_seconds(container: Any) -> Fraction | None:
    return Fraction(container.duration, av.time_base) if container.duration else None


def _tolerance(seconds: float) -> float:
    """How many seconds earlier than its header says a whole file of this length may end."""
    return 0.25 + min(0.005 * seconds, 2.0)


def _mirrored(frame: Any) -> bool:
    """Whether a frame's display matrix turns left into right, so that its rotation is not all there is."""
    found = frame.side_data.get(SideData.DISPLAYMATRIX)
    if found is None:
        return False
    (a, b), (c, d) = np.frombuffer(bytes(found), np.int32).reshape(3, 3)[:2, :2].astype(float)
    return bool(a * d < b * c)


def _nearest(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def _no_frames(path: str | os.PathLike[str]) -> DataError:
    return DataError(
        f"{path}: not one frame of its video can be decoded. Copy or download it again, or convert it with a "
        "program that plays it."
    )
