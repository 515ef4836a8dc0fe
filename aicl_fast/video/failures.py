"""What the video libraries raise, in the package's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aicl_fast.extras import needs

with needs("video"):
    import av
    import cv2

from aicl_fast.errors import AiclError, DataError
from aicl_fast.video.opening import said

FAILURES = (av.FFmpegError, cv2.error, OSError, ValueError, ArithmeticError, LookupError, MemoryError)
"""What FFmpeg, OpenCV and PyAV raise over what is in a file."""


@contextmanager
def named_failure(path: Path) -> Iterator[None]:
    """What a library raises in the middle of a video, as an error that names the file.

    Raises:
        DataError: in place of what is in :data:`FAILURES`.
    """
    try:
        yield
    except AiclError:
        raise
    except FAILURES as error:
        raise DataError(
            f"{path}: its frames cannot be used ({said(error)}). Convert the video, for example to H.264 in "
            ".mp4."
        ) from error
