"""Names of files that say which stream they hold: ``video_rgb.npy`` and ``video_flow.npy``."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path

from aicl_fast.errors import AiclWarning, DataError
from aicl_fast.files import video_name

STREAMS = ("rgb", "flow")
_SEPARATORS = "_-."


def split_stream(name: str) -> tuple[str, str]:
    """``("video", "rgb")`` of ``video_rgb`` or ``rgb_video``; ``("video", "")`` of ``video``."""
    for stream in STREAMS:
        for separator in _SEPARATORS:
            for rest in (name.removesuffix(separator + stream), name.removeprefix(stream + separator)):
                if rest not in (name, ""):
                    return rest, stream
    return ("", name) if name in STREAMS else (name, "")


def common_name(paths: Mapping[str, Path], *, named: bool) -> str:
    """The recording that these files of its streams are of.

    Args:
        paths: by stream.
        named: whether its name is known, and the files are only checked.
    Raises:
        DataError: one file for two streams, or files named as of other streams or of two recordings.
    Warns:
        AiclWarning: two names that say nothing of streams: the first is taken.
    """
    if len(paths) > 1 and paths["rgb"].resolve() == paths["flow"].resolve():
        raise DataError(f"--rgb and --flow: are the same file, {paths['rgb']}. Give one a stream.")
    plain = {video_name(path) for path in paths.values()}
    found: dict[str, str] = {}
    certain = True
    for stream, path in paths.items():
        # Of two files of one name, the folders alone may say which is which.
        name, marked = split_stream(video_name(path)) if len(paths) == len(plain) else (video_name(path), "")
        parent = path.parent.name if path.parent.name in STREAMS else ""
        if (marked or parent or stream) != stream:
            raise DataError(
                f"--{stream} {path}: is named as the {marked or parent} features. Give each stream by its "
                "option."
            )
        certain = certain and bool(marked or parent)
        found[stream] = name
    first, *others = found.values()
    if others and others[0] != first and not named:
        text = (
            f"--rgb {paths['rgb']} and --flow {paths['flow']}: are named as of two recordings, "
            f"{first!r} and {others[0]!r}."
        )
        if certain:
            raise DataError(f"{text} If they are of one, give its name with --name.")
        warnings.warn(f"{text} Stored as {first!r}; --name gives another name.", AiclWarning, stacklevel=2)
    # A folder of one recording: clip/rgb.npy and clip/flow.npy.
    return first or next(iter(paths.values())).resolve().parent.name or "video"


@functools.lru_cache(maxsize=8)
def spellings(name: str, stream: str = "") -> tuple[str, ...]:
    """The names that a video's file may have, in order of preference."""
    plain = [name, f"v_{name}"]
    if name.startswith("v_") and len(name) > 2:
        plain.append(name[2:])
    if not stream:
        return tuple(plain)
    ends = [f"{each}{separator}{stream}" for each in plain for separator in _SEPARATORS]
    begins = [f"{stream}{separator}{each}" for each in plain for separator in _SEPARATORS]
    return (*plain, *ends, *begins)
