"""The stages of the suite ``video`` that read files: decoding, optical flow, and all of it to features.

The baseline of *decode* is OpenCV's reader, one frame after another, with the same resizing and crop. That
of *flow* is TV-L1 between one pair of frames after another, with OpenCV's own threads; DIS computes another
flow, and how far its vectors are from TV-L1's is recorded in pixels. That of *whole* is the same reader, flow
(DIS) and networks one after the other, and tells the share of each; beside it, all at the same time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from aicl_fast.bench.harness.measure import take_turns
from aicl_fast.data.features import Floats
from aicl_fast.errors import AiclError
from aicl_fast.metadata import FRAMES
from aicl_fast.video.extract import Extraction, Network
from aicl_fast.video.flow import Flow, FlowAlgorithm, Gray, gray
from aicl_fast.video.reader import Image, read_frames
from aicl_fast.video.transform import Array, Transform

READER, PAIRWISE = "OpenCV's reader", "TV-L1, pair by pair"
IN_TURN, AT_ONCE = "one after the other", "at the same time"
SIZE = (640, 360)
_SAME_PICTURE = 3.0
"""Grey levels that two programs' pictures may differ by in the mean: they convert colours differently."""


def make_clip(path: Path, segments: int, size: tuple[int, int] = SIZE) -> Path:
    """H.264 at 25 frames a second: a texture that turns about, so that there is something to compress."""
    rng = np.random.default_rng(0)
    width, height = size
    noise = rng.integers(0, 256, (height // 16, width // 16, 3)).astype(np.uint8)
    texture: Any = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FRAMES * segments):
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), 20 * np.sin(number / 20), 1.2)
            image: Any = cv2.warpAffine(texture, turn, size, borderMode=cv2.BORDER_REFLECT)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return path


def measure_decode(seconds: float, *, segments: int = 8, least: int = 5) -> list[dict[str, Any]]:
    """A file to cropped frames."""
    transform = Transform()

    def prepared(image: Image) -> Array:
        return transform.cropped(transform.resized(image))

    def plain(path: Path) -> list[Array]:
        reader = cv2.VideoCapture(str(path))
        found: list[Array] = []
        while True:
            more, image = reader.read()
            if not more:
                return found
            found.append(prepared(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)))

    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder, "clip.mp4"), segments)
        contenders: dict[str, Callable[[], list[Array]]] = {
            READER: lambda: plain(clip),
            "as read here": lambda: list(read_frames(clip, transform=prepared)),
        }
        apart = check_frames(contenders)
        timings = take_turns(contenders, READER, seconds=seconds, least=least)
    return [
        {"stage": "decode", "way": name, **_speed(timing, segments), "apart_levels": apart[name]}
        for name, timing in timings.items()
    ]


def measure_flow(
    seconds: float, threads: int, *, pairs: int = FRAMES, least: int = 5
) -> list[dict[str, Any]]:
    """A segment's grey frames to flow."""
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder, "clip.mp4"), -(-(pairs + 1) // FRAMES))
        frames = [gray(image) for image in read_frames(clip, transform=Transform().resized)][: pairs + 1]
    with ThreadPoolExecutor(threads) as pool:
        contenders = _flows(frames, pool)
        apart = check_flow(contenders)
        timings = take_turns(contenders, PAIRWISE, seconds=seconds, least=least)
    return [
        {"stage": "flow", "way": name, **_speed(timing, pairs / FRAMES), "apart_pixels": apart[name]}
        for name, timing in timings.items()
    ]


def measure_whole(
    networks: Mapping[str, Network], seconds: float, threads: int, *, segments: int = 2, least: int = 5
) -> list[dict[str, Any]]:
    """A file to the features of both streams.

    Args:
        networks: by stream.
        seconds: of the turns.
        threads: that compute flow.
        segments: of the file.
        least: turns.
    Raises:
        AiclError: the two ways' features differ.
    """
    spent: dict[str, list[float]] = {"decode": [], "flow": [], "network": []}

    def in_turn() -> tuple[Floats, Floats]:
        moments = [time.perf_counter()]
        transform = Transform()
        images = list(read_frames(clip, transform=transform.resized))
        moments.append(time.perf_counter())
        flow, grey = Flow("dis"), [gray(image) for image in images]
        # The last frame has no next one: its flow is the one before, again.
        flows = list(map(flow, grey, grey[1:]))
        flows.append(flows[-1])
        moments.append(time.perf_counter())
        found = []
        for network, frames in ((networks["rgb"], images), (networks["flow"], flows)):
            cropped = np.stack([transform.cropped(frame) for frame in frames])
            found.append(network(cropped.reshape(segments, FRAMES, *cropped.shape[1:])))
        moments.append(time.perf_counter())
        for part, begin, end in zip(spent.values(), moments, moments[1:], strict=False):
            part.append(end - begin)
        return found[0], found[1]

    def at_once() -> tuple[Floats, Floats]:
        found = extraction(clip)
        assert found.rgb is not None
        assert found.flow is not None
        return found.rgb, found.flow

    extraction = Extraction(
        networks["rgb"], networks["flow"], algorithm="dis", batch=segments, workers=threads
    )
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder, "clip.mp4"), segments)
        check_features(in_turn(), at_once())
        timings = take_turns({IN_TURN: in_turn, AT_ONCE: at_once}, IN_TURN, seconds=seconds, least=least)
    total = sum(statistics.median(part) for part in spent.values())
    shares = {f"{name}_share": statistics.median(part) / total for name, part in spent.items()}
    return [
        {"stage": "whole", "way": name, **_speed(timing, segments), **(shares if name == IN_TURN else {})}
        for name, timing in timings.items()
    ]


def check_features(expected: tuple[Floats, Floats], found: tuple[Floats, Floats]) -> None:
    """The same network has seen the same pictures.

    Raises:
        AiclError: it has not; times would mean nothing.
    """
    for name, ours, theirs in zip(("rgb", "flow"), found, expected, strict=True):
        apart = np.abs(ours - theirs).max() / np.abs(theirs).max() if ours.shape == theirs.shape else np.inf
        if not apart <= 1e-2:
            raise AiclError(
                f"{AT_ONCE}: its {name} features differ by {apart:.1e} of the largest, so its times mean "
                "nothing"
            )


def check_frames(contenders: Mapping[str, Callable[[], list[Array]]]) -> dict[str, float]:
    """How far each one's pictures are from the baseline's, in grey levels.

    Raises:
        AiclError: another number of frames, or other pictures; times would mean nothing.
    """
    expected = contenders[READER]()
    found = {}
    for name, call in contenders.items():
        frames = call()
        same = [frame.shape for frame in frames] == [frame.shape for frame in expected]
        apart = float(np.abs(np.subtract(frames, expected, dtype=np.float32)).mean()) if same else np.inf
        if not apart <= _SAME_PICTURE:
            raise AiclError(
                f"{name}: gives {len(frames)} frames that are {apart:.1f} grey levels from the baseline's "
                f"{len(expected)}, so its times mean nothing"
            )
        found[name] = apart
    return found


def check_flow(contenders: Mapping[str, Callable[[], list[Floats]]]) -> dict[str, float]:
    """The mean distance of each one's vectors from the baseline's, in pixels.

    Raises:
        AiclError: TV-L1 from several threads differs from TV-L1 pair by pair.
    """
    expected = contenders[PAIRWISE]()
    found = {}
    for name, call in contenders.items():
        apart = float(np.linalg.norm(np.subtract(call(), expected), axis=-1).mean())
        if name.startswith("TV-L1") and not apart <= 1e-3:
            raise AiclError(f"{name}: is {apart:.1e} pixels from the baseline, so its times mean nothing")
        found[name] = apart
    return found


def _flows(frames: list[Gray], pool: ThreadPoolExecutor) -> dict[str, Callable[[], list[Floats]]]:
    names: dict[str, FlowAlgorithm] = {"TV-L1": "tvl1", "DIS": "dis"}
    found: dict[str, Callable[[], list[Floats]]] = {}
    for name, algorithm in names.items():
        flow = Flow(algorithm)
        found[f"{name}, pair by pair"] = lambda flow=flow: list(map(flow, frames, frames[1:]))  # type: ignore[misc]
        found[f"{name}, in a pool"] = lambda flow=flow: list(pool.map(flow, frames, frames[1:]))  # type: ignore[misc]
    return found


def _speed(timing: Any, segments: float) -> dict[str, Any]:
    return {
        "batch": max(1, round(segments)),
        **timing.row(),
        "segments_per_second": segments / timing.median,
        "frames_per_second": segments * FRAMES / timing.median,
    }
