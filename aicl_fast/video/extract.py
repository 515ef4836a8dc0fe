"""A video file to the features that a detector reads: decoding, flow and networks, all at the same time.

A thread decodes and cuts the video into segments; flow is computed by a pool of threads; the caller's thread
runs the networks. What waits between them is bounded, so memory does not grow with the video's length.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from aicl_fast.extras import needs

with needs("video"):
    import cv2

from aicl_fast.data.feature_file import Recipe, VideoFeatures
from aicl_fast.data.features import Floats
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.files import video_name
from aicl_fast.metadata import FRAMES
from aicl_fast.processors import processor_count
from aicl_fast.video.flow import Flow, FlowAlgorithm, Gray, gray
from aicl_fast.video.reader import Image, read_frames
from aicl_fast.video.transform import Transform

Progress = Callable[[int, str], None]
"""Called with the number of segments done and what is running."""


class Network(Protocol):
    """What extraction needs of a :class:`aicl_fast.video.SegmentNetwork`."""

    frames: int
    size: int
    width: int
    weights_hash: str
    precision: str

    def __call__(self, clips: npt.NDArray[Any], /) -> Floats:
        """(N, width) features of N clips."""
        ...


class Flowing(Protocol):
    """A flow that is being computed, as a ``Future``."""

    def result(self) -> Floats:
        """(height, width, 2) pixels per frame, when it is there."""
        ...


class FlowPool(Protocol):
    """What computes flows, as a ``ThreadPoolExecutor``."""

    def submit(self, function: Callable[[Gray, Gray], Floats], before: Gray, after: Gray, /) -> Flowing:
        """Have ``function(before, after)`` computed."""
        ...


Prepared = tuple[Image, Gray | None]
"""A frame as the RGB network sees it, and its whole luminance for the flow."""


class Segment(NamedTuple):
    """One segment on its way to the networks."""

    rgb: tuple[Image, ...]
    """16 cropped frames"""
    flow: tuple[Flowing, ...]
    """16 cropped flows, being computed; none without a flow network"""


@dataclass(frozen=True)
class Extraction:
    """How videos become features; :func:`extract_features` explains the arguments."""

    rgb: Network | None
    flow: Network | None = None
    fps: float = 25.0
    stride: int = FRAMES
    algorithm: FlowAlgorithm = "tvl1"
    transform: Transform = field(default_factory=Transform)
    batch: int = 8
    workers: int | None = None
    allow_damaged: bool = False

    def __post_init__(self) -> None:
        networks = self.networks
        if not networks:
            raise ConfigError("rgb, flow: expected at least one network, got none.")
        check_settings(self.fps, self.stride, self.algorithm, self.batch, self.workers)
        for name, network in networks.items():
            if (network.frames, network.size) != (FRAMES, self.transform.crop):
                raise ConfigError(
                    f"{name}: the network takes {network.frames} frames of {network.size} pixels; expected "
                    f"{FRAMES} of {self.transform.crop}. Choose a transform with crop={network.size}."
                )

    @property
    def networks(self) -> dict[str, Network]:
        """By stream."""
        both = {"rgb": self.rgb, "flow": self.flow}
        return {name: network for name, network in both.items() if network is not None}

    @property
    def recipe(self) -> Recipe:
        """What is recorded beside the features."""
        return Recipe(
            fps=float(self.fps),
            stride=self.stride,
            frames_per_segment=FRAMES,
            transform=str(self.transform),
            rgb_weights=self.rgb.weights_hash if self.rgb is not None else "",
            flow_weights=self.flow.weights_hash if self.flow is not None else "",
            flow_algorithm=self.algorithm if self.flow is not None else "",
            precision="+".join(dict.fromkeys(network.precision for network in self.networks.values())),
        )

    def segments(self, frames: int) -> int:
        """How many segments a video of so many frames has: all that begin in it and bring something new."""
        return max(0, -(-(frames - FRAMES) // self.stride)) + 1

    def __call__(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> VideoFeatures:
        """The features of one video. Raises as :func:`extract_features`."""
        source = Path(path)
        found: dict[str, list[Floats]] = {name: [] for name in self.networks}
        done = 0
        with self._cut(source) as (segments, counter):
            for batch in _batches(segments, self.batch):
                for name, rows in self.run(batch).items():
                    found[name].append(rows)
                done += len(batch)
                if progress is not None:
                    progress(done, source.name)
        streams = {
            name: np.concatenate(parts).astype(np.float32, copy=False) for name, parts in found.items()
        }
        return VideoFeatures(
            video=video_name(source),
            rgb=streams.get("rgb"),
            flow=streams.get("flow"),
            recipe=self.recipe,
            frames=counter.frames,
            source=(source.name, source.stat().st_size),
        )

    def run(self, batch: Sequence[Segment]) -> dict[str, Floats]:
        """The features of a few segments, (N, width) of each stream."""
        found: dict[str, Floats] = {}
        if self.rgb is not None:
            found["rgb"] = self.rgb(np.stack([np.stack(each.rgb) for each in batch]))
        if self.flow is not None:
            flows = [np.stack([flow.result() for flow in each.flow]) for each in batch]
            found["flow"] = self.flow(np.stack(flows))
        return found

    @contextmanager
    def _cut(self, path: Path) -> Iterator[tuple[Iterator[Segment], Cutter]]:
        """A video's segments, made by other threads while this one is busy."""
        workers = self.workers or processor_count()
        with ThreadPoolExecutor(workers, thread_name_prefix="flow") as pool:
            cutter = Cutter(self, path, pool, partial(self._frames, path))
            try:
                with _ahead(cutter.segments(), depth=self.batch) as segments:
                    yield segments, cutter
            finally:
                pool.shutdown(cancel_futures=True)

    def _frames(self, path: Path, transform: Callable[[Image], Prepared]) -> Iterator[Prepared]:
        return read_frames(path, fps=self.fps, transform=transform, allow_damaged=self.allow_damaged)


def check_settings(
    fps: float, stride: int, algorithm: FlowAlgorithm, batch: int, workers: int | None = None
) -> None:
    """Refuse what has no meaning; :func:`extract_features` explains the arguments.

    Raises:
        ConfigError: one of them, by its name.
    """
    if not fps > 0 or not math.isfinite(fps):
        raise ConfigError(f"fps: expected a positive number of frames a second, got {fps}.")
    if not 1 <= stride <= FRAMES:
        raise ConfigError(f"stride: expected 1 to {FRAMES} frames, got {stride}.")
    if batch < 1:
        raise ConfigError(f"batch: expected at least 1 segment, got {batch}.")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: expected at least 1 thread, got {workers}.")
    Flow(algorithm)


class Cutter:
    """Cuts one video into segments and has the flow between its frames computed.

    Args:
        source: what is read, for messages.
        pool: computes the flow between two frames, at once or later.
        frames: the video's frames at a steady rate, each as the function that it is given returns it.

    Attributes:
        frames: read so far.
    """

    def __init__(
        self,
        plan: Extraction,
        source: Path | str,
        pool: FlowPool,
        frames: Callable[[Callable[[Image], Prepared]], Iterator[Prepared]],
    ) -> None:
        self.frames = 0
        self._plan, self._source, self._pool, self._read = plan, source, pool, frames
        self._flow = Flow(plan.algorithm)
        self._size: tuple[int, ...] | None = None

    def segments(self) -> Iterator[Segment]:
        """All segments of the video, the last one filled up with its last frame and last flow."""
        plan = self._plan
        window: deque[tuple[Image, Flowing | None]] = deque()
        for item in self._pairs():
            window.append(item)
            if len(window) == FRAMES:
                yield _segment(window)
                for _ in range(plan.stride):
                    window.popleft()
        # What is left has been seen already, but for the frames after the last segment's end.
        seen = FRAMES - plan.stride if self.frames >= FRAMES else 0
        if len(window) > seen:
            window.extend([window[-1]] * (FRAMES - len(window)))
            yield _segment(window)

    def _pairs(self) -> Iterator[tuple[Image, Flowing | None]]:
        """Each frame, cropped, with the flow from it to the next; the last frame repeats the last flow."""
        before: Prepared | None = None
        flow: Flowing | None = None
        for image, luminance in self._read(self._prepared):
            self.frames += 1
            if before is not None:
                if luminance is not None and before[1] is not None:
                    flow = self._pool.submit(self._between, before[1], luminance)
                yield before[0], flow
            before = image, luminance
        if before is not None:
            if flow is None and before[1] is not None:
                flow = self._pool.submit(self._between, before[1], before[1])
            yield before[0], flow

    def _prepared(self, image: Image) -> Prepared:
        """A frame as the RGB network sees it, and its whole luminance for the flow."""
        plan = self._plan
        try:
            resized = plan.transform.resized(image)
        except DataError as error:
            raise DataError(f"{self._source}: {error}") from error
        if self._size is None:
            self._size = resized.shape
        elif resized.shape != self._size:  # a stream that changes its size on the way
            resized = np.asarray(cv2.resize(image, self._size[1::-1]))
        return plan.transform.cropped(resized).copy(), gray(resized) if plan.flow is not None else None

    def _between(self, before: Gray, after: Gray) -> Floats:
        if before is after:  # a frame that is shown twice
            return np.zeros((self._plan.transform.crop,) * 2 + (2,), np.float32)
        return self._plan.transform.cropped(self._flow(before, after)).copy()


def extract_features(
    path: str | os.PathLike[str],
    rgb: Network | None = None,
    flow: Network | None = None,
    *,
    fps: float = 25.0,
    stride: int = FRAMES,
    algorithm: FlowAlgorithm = "tvl1",
    transform: Transform = Transform(),  # noqa: B008 - frozen
    batch: int = 8,
    workers: int | None = None,
    allow_damaged: bool = False,
    progress: Progress | None = None,
) -> VideoFeatures:
    """The two-stream features of a video, one row a segment of 16 frames.

    Frames are read at a steady rate, resized, and cropped in the middle; flow is computed between the resized
    frames. Segment i is frames ``i * stride`` to ``i * stride + 15`` and, for flow, the motion from each of
    these to its next one. The last segment is filled up with the video's last frame, and wherever there is no
    next frame the last flow is repeated; so a video of one frame has one segment.

    Memory stays the same however long the video is: about ``2 * batch`` segments wait at a time.

    Args:
        path: the video file.
        rgb: network for (N, 16, 224, 224, 3) uint8, see :func:`aicl_fast.video.open_network`; None leaves the
            stream out.
        flow: network for (N, 16, 224, 224, 2) float32 pixels; None leaves the stream out.
        fps: frames a second to read at.
        stride: frames from one segment's start to the next, 1 to 16.
        algorithm: ``tvl1`` or ``dis``, see :data:`aicl_fast.video.FlowAlgorithm`.
        transform: resizing and crop.
        batch: segments a run of a network.
        workers: threads for flow; None is one for each processor that this process may run on.
        allow_damaged: take what can be read of a file that is cut off or corrupt.
        progress: called with the number of segments done and the file's name.
    Raises:
        DataError: a file that cannot be used, see :func:`aicl_fast.video.read_frames`, or frames that are too
            long for their width, see :meth:`aicl_fast.video.Transform.resized`.
        ConfigError: no network, or an argument without meaning.

    Example:
        >>> features = extract_features("clip.mp4", rgb=open_network("i3d_rgb.npz"))  # doctest: +SKIP
        >>> detect_features(detector, features)  # doctest: +SKIP
    """
    plan = Extraction(rgb, flow, fps, stride, algorithm, transform, batch, workers, allow_damaged)
    return plan(path, progress=progress)


def _segment(window: deque[tuple[Image, Flowing | None]]) -> Segment:
    return Segment(tuple(image for image, _ in window), tuple(flow for _, flow in window if flow is not None))


def _batches(segments: Iterator[Segment], size: int) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    for segment in segments:
        batch.append(segment)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _ahead(items: Iterator[Segment], *, depth: int) -> Iterator[Iterator[Segment]]:
    """The same items, made by a thread that is at most ``depth`` ahead. What it raises is raised here."""
    waiting: queue.Queue[Segment | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Segment | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except BaseException as error:  # the other thread raises it
            put(error)
        finally:
            items.close()  # type: ignore[attr-defined]

    def take() -> Iterator[Segment]:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="decode", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stop.set()
        thread.join()
