"""Opening a video file. What is no video is refused, and what would take far more memory than it warrants."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aicl_fast.errors import DataError
from aicl_fast.extras import needs
from aicl_fast.files import require_file
from aicl_fast.limits import allowed_size, reading, require_size
from aicl_fast.text import error_text
from aicl_fast.video.mp4 import SAMPLE_BYTES, claimed_samples

with needs("video"):
    import av

_NOT_VIDEO = {"image2", "image2pipe", "tty", "bin", "xbin", "adf", "idf", "txd"}
"""FFmpeg's names for formats that hold pictures or text, which it would show as a short film; so are all that
end in ``_pipe``."""
_OTHER_FILES = {
    "alias_pix", "concat", "dash", "hls", "image2", "imf", "rtp", "rtsp", "sap", "sdp", "vobsub",
    "webm_dash_manifest",
}  # fmt: skip
"""Those whose files name other files or addresses, which FFmpeg would open."""
FORMATS = ",".join(sorted(av.formats_available - _OTHER_FILES))
# A title that is not UTF-8 is no reason to refuse a video. PyAV 19 asks no more.
METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
MAX_PIXELS = 8192 * 8192
"""Of a picture, in any file: nearly twice what H.264, HEVC and AV1 allow."""
_PIXEL_BYTES = 16
"""What decoding takes for each: a few pictures are held at a time."""
_ADVICE = "Copy or download it again, or convert it with a program that plays it."


@contextmanager
def open_video(path: str | os.PathLike[str], *, one_frame: bool = False) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its video stream.

    Args:
        one_frame: the first frame alone is wanted.
    Raises:
        DataError: no such file, not a media file, one without video, or pictures of more pixels than 8192 x
            8192 and than the file's size warrants (see :mod:`aicl_fast.limits`).
    """
    target = require_file(path, "video")
    size = target.stat().st_size
    with reading_video(target):
        samples = claimed_samples(target)
        require_size(samples * SAMPLE_BYTES, size, target, f"the index of its {samples:,} samples")
        try:
            # The prefix keeps FFmpeg from reading a protocol into the name, the lists a file from leading to
            # others. FFmpeg decodes a little to find out what is in a file: the limit is for that, too.
            options = {
                "protocol_whitelist": "file",
                "format_whitelist": FORMATS,
                "max_pixels": str(most_pixels(size)),
            }
            container = av.open(f"file:{target}", options=options, **METADATA)
        except (av.FFmpegError, OSError) as error:
            raise DataError(
                f"{target}: cannot be opened as a video ({said(error)}; {size} bytes). It is another kind of "
                "file, or was cut off: an .mp4 whose recording or download broke off lacks the index at its "
                "end. Copy or download it again."
            ) from error
    try:
        with reading_video(target):
            stream = video_stream(container, target, size)
            context = stream.codec_context
            context.options = {"max_pixels": str(most_pixels(size))}
            if one_frame or av.logging.get_level() is not None:
                # Where PyAV hands on what FFmpeg logs, closing a decoder of several threads may never end.
                context.thread_count = 1
            else:
                stream.thread_type = "AUTO"
        yield container, stream
    finally:
        container.close()


def reading_video(path: str | os.PathLike[str]) -> Any:
    """Whatever a library raises over a video's content, as one DataError that names the file."""
    return reading(path, "video", advice=_ADVICE)


def codec_name(stream: Any) -> str:
    """FFmpeg's name of a stream's format: ``mp3``, where the decoder is ``mp3float``."""
    context = stream.codec_context
    return "unknown" if context is None else str(context.codec.canonical_name)


def said(error: Exception) -> str:
    """What a library says of its error, in a line."""
    text = str(getattr(error, "strerror", None) or "").strip()
    return text.splitlines()[0] if text else error_text(error)


def is_still(format_name: str) -> bool:
    """Whether a format, by FFmpeg's name or names of it, holds pictures or text."""
    return any(name in _NOT_VIDEO or name.endswith("_pipe") for name in format_name.split(","))


def video_stream(container: Any, path: os.PathLike[str] | str, size: int) -> Any:
    """The stream of an open container that is decoded, if it may be; ``size`` is the file's, in bytes."""
    format_name = container.format.name
    if is_still(format_name):
        raise DataError(f"{path}: is a picture or a text ({format_name}); expected a video.")
    stream = next((each for each in container.streams.video if not _is_cover(each)), None)
    if stream is None or stream.codec_context is None:
        kinds = sorted({str(each.type) for each in container.streams}) or ["nothing"]
        raise DataError(
            f"{path}: has no video stream that can be decoded (holds {', '.join(kinds)}). Expected a "
            "video; check which file was given."
        )
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        needed = width * height * _PIXEL_BYTES
        require_size(needed, size, path, f"its pictures of {width} x {height} pixels")
    return stream


def most_pixels(size: int) -> int:
    """Of a picture, in a file of so many bytes."""
    return max(MAX_PIXELS, min(allowed_size(size) // _PIXEL_BYTES, 2**31 - 1))


def _is_cover(stream: Any) -> bool:
    """Whether a video stream is the cover of a piece of music."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
