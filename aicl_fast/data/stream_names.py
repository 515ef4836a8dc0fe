"""Names of files that say which stream they hold: ``video_rgb.npy`` and ``video_flow.npy``."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

from aicl_fast.errors import AiclWarning, DataError
from aicl_fast.files import video_name

STREAMS = ("rgb", "flow")
_SEPARATORS = "_-."


def split_stream(name: str) -> tuple[str, str]:
    """``("video", "rgb")`` of ``video_rgb``, ``video.RGB`` or ``rgb_video``; of others the name."""
    for stream in STREAMS:
        for written in _written(stream):
            for separator in _SEPARATORS:
                for rest in (name.removesuffix(separator + written), name.removeprefix(written + separator)):
                    if rest not in (name, ""):
                        return rest, stream
    return ("", name.lower()) if name.lower() in STREAMS else (name, "")


def _written(stream: str) -> tuple[str, ...]:
    return stream, stream.upper(), stream.capitalize()


def _within(names: Mapping[str, str]) -> str:
    """``video_25fps`` of ``video_rgb_25fps`` and ``video_flow_25fps``; nothing of other names."""
    if len(names) < len(STREAMS):
        return ""
    rgb, flow = (re.split("([_.-])", names[stream]) for stream in STREAMS)
    places = [number for number, each in enumerate(zip(rgb, flow, strict=False)) if each[0] != each[1]]
    if len(rgb) != len(flow) or len(places) != 1:
        return ""
    (place,) = places
    if (rgb[place].lower(), flow[place].lower()) != STREAMS or not 0 < place < len(rgb) - 1:
        return ""
    return "".join(rgb[: place - 1] + rgb[place + 1 :])


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
    files = {stream: video_name(path) for stream, path in paths.items()}
    if within := _within(files):
        return within
    if len(files) > 1 and _within({"rgb": files["flow"], "flow": files["rgb"]}):
        raise DataError(
            f"--rgb {paths['rgb']} and --flow {paths['flow']}: are named as the other stream's each. Give "
            "each stream by its option."
        )
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
    marks = [
        (each, separator, mark) for mark in _written(stream) for each in plain for separator in _SEPARATORS
    ]
    ends = [f"{each}{separator}{mark}" for each, separator, mark in marks]
    begins = [f"{mark}{separator}{each}" for each, separator, mark in marks]
    return (*plain, *ends, *begins)
