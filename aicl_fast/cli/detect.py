"""detect: recordings on disk to a detection file. Imports nothing that a single recording does not need."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from aicl_fast.cli import options
from aicl_fast.cli.options import FLOW_HELP, VIDEO
from aicl_fast.cli.video import VideoOptions, render_detections
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.files import inputs_kept, require_file, require_place
from aicl_fast.text import counted

if TYPE_CHECKING:
    from aicl_fast.data.detections import Detections
    from aicl_fast.data.recordings import Inputs, Load, Recording
    from aicl_fast.data.scores import Scores
    from aicl_fast.detector import Detector
    from aicl_fast.windows import Progress

BATCH = 16
"""Recordings run at a time."""


@inputs_kept()
def run(
    model: Annotated[Path, Argument(help="Exported model, or trained weights.")],
    features: Annotated[
        list[Path] | None,
        Argument(
            help="Files of `aicl-fast features`, .npy files with both streams side by side, a folder of "
            "these or with rgb/ and flow/, a data set, or videos."
        ),
    ] = None,
    rgb: Annotated[Path | None, Option(help=".npy of the first stream.")] = None,
    flow: Annotated[Path | None, Option(help=".npy of the second stream.")] = None,
    name: Annotated[
        str | None, Option(help="The recording's name in the detections; by its files by default.")
    ] = None,
    fps: Annotated[float | None, Option(help="Frames a second; the model's by default.")] = None,
    split: Annotated[str, Option(help="Of a data set folder: train or test.")] = "test",
    allow_missing: options.AllowMissing = False,
    out: Annotated[Path, Option("--out", "-o", help="Where to write the detections: .json, .csv.")] = Path(
        "detections.json"
    ),
    scores: Annotated[
        Path | None, Option(help="Also write the curves here (scores.npz), for plot and report.")
    ] = None,
    window: Annotated[
        str | None,
        Option(
            help="Seconds of the windows in which a long recording is scored; auto (by the lengths of the "
            "training recordings) or off."
        ),
    ] = None,
    hop: Annotated[
        str | None, Option(help="Seconds from one window's start to the next one's, or auto.")
    ] = None,
    set_: options.Settings = None,
    engine: Annotated[
        str | None,
        Option(help="What runs the model: onnxruntime, openvino, tensorrt or torch; by its file by default."),
    ] = None,
    device: Annotated[
        str | None,
        Option(
            help="Of the model and, for videos, of I3D: cpu, cuda or cuda:N; by default cpu, but for "
            "TensorRT engines."
        ),
    ] = None,
    threads: options.Threads = None,
    trust: options.Trust = False,
    rgb_weights: options.RgbWeights = None,
    flow_weights: options.FlowWeights = None,
    flow_algorithm: Annotated[str | None, Option(help=FLOW_HELP, rich_help_panel=VIDEO)] = None,
    batch: options.VideoBatch = None,
    precision: options.VideoPrecision = None,
    allow_damaged: options.AllowDamaged = False,
    render: Annotated[
        Path | None,
        Option(help="Also write the video with its detections burnt in (.mp4).", rich_help_panel=VIDEO),
    ] = None,
) -> None:
    """Localise the actions in recordings and write them as ActivityNet JSON.

    Recordings longer than those of training are scored in overlapping windows (--window, --hop).
    Settings of the decoding (class_threshold, nms, …) can be overridden with --set.

    Examples:

      aicl-fast detect model.onnx --rgb video_rgb.npy --flow video_flow.npy --fps 25

      aicl-fast detect runs/demo/model.onnx runs/demo/data -o detections.json

      aicl-fast detect model.onnx clip.mp4 --rgb-weights i3d_rgb.npz --render seen.mp4

      aicl-fast detect model.onnx runs/demo/data --engine openvino
    """
    from aicl_fast.data.recordings import Inputs
    from aicl_fast.data.writers import save_detections
    from aicl_fast.detector import Detector

    targets = [target for target in (out, scores, render) if target is not None]
    _check_targets(targets)
    detector = Detector(model, engine=engine, device=device, threads=threads, trust=trust)
    if window == "off" and hop is not None:
        raise ConfigError("--hop: there are no windows with --window off. Leave one of the two out.")
    chosen = {"windows.window": window, "windows.hop": hop}
    overrides = [*(set_ or ()), *(f"{name}={value}" for name, value in chosen.items() if value is not None)]
    if overrides:
        override_settings(detector, overrides)
    video_options = VideoOptions(
        rgb_weights, flow_weights, flow_algorithm, batch, precision, allow_damaged, device, threads, trust
    )
    # A frame rate or a window that makes no sense is refused before anything is read.
    detector.batch_scores([], fps=fps)
    data = detector.config.data
    inputs = Inputs(data, split, video_options.extractor, name=name, allow_missing=allow_missing)
    recordings = inputs.find(features or [], rgb, flow)
    inputs.check_extracted(fps)
    for video in filter(Path.is_file, inputs.videos):
        require_file(video, "video")
    _check_targets(targets)  # again, before videos are read: nothing may replace one
    _check_rendered(render, inputs, recordings)
    _check_video_options(video_options.given, inputs.videos, fps, data.fps)
    run = _Run(detector, inputs, fps, keep_scores=scores is not None)
    run.all(recordings)
    if run.detections:
        inputs.check_durations(run.seconds, fps)
        save_detections(out, run.detections)
        if scores is not None:
            from aicl_fast.data.scores_file import save_scores

            save_scores(scores, run.scores)
        _print_summary(run.detections, out)
    if run.bad:
        from aicl_fast.cli.console import print_failures

        print_failures(run.bad.values(), counted(len(recordings), "recording"))
        sys.exit(1)
    if render is not None:
        (only,) = run.detections.values()
        render_detections(inputs.videos[0], only, render, allow_damaged=allow_damaged)


def _check_targets(targets: Sequence[Path]) -> None:
    for target in targets:
        require_place(target)
    if len({os.path.realpath(target) for target in targets}) != len(targets):
        raise ConfigError("--out, --scores, --render: name one file twice. Give each its own.")


def _check_video_options(given: Sequence[str], videos: Sequence[Path], fps: float | None, own: float) -> None:
    if given and not videos:
        raise ConfigError(
            f"{', '.join(given)}: how a video becomes features, and none of the recordings is a video. "
            "Features are taken as they are: leave such options out."
        )
    if videos and fps not in (None, own):
        raise ConfigError(
            f"--fps: videos are read at the model's {own:g} frames a second, got {fps:g}. Leave --fps out; "
            "for another rate extract features with `aicl-fast features --fps`."
        )


def override_settings(detector: Detector, overrides: list[str]) -> None:
    """Change the settings of decoding and windows, as ``NAME=VALUE``."""
    from aicl_fast.config import locate_setting, parse_overrides

    values = parse_overrides(overrides)
    fixed = [name for name in values if locate_setting(name)[0] not in ("decode", "windows")]
    if fixed:
        raise ConfigError(
            f"--set {', '.join(fixed)}: fixed in a model's file; only settings of decode (class_threshold, "
            "thresholds, nms, …) and windows can be changed when detecting."
        )
    changed = detector.config.with_values(values)
    detector.decode_config, detector.windows_config = changed.decode, changed.windows


def _check_rendered(rendered: Path | None, inputs: Inputs, recordings: list[tuple[str, Load]]) -> None:
    if rendered is None:
        return
    if not (len(inputs.videos) == len(recordings) == 1):
        raise ConfigError(
            f"--render {rendered}: expected one video to draw on, got "
            f"{counted(len(recordings), 'recording')}, {counted(len(inputs.videos), 'video')} among them. "
            "Give one video."
        )
    from aicl_fast.video.render import check_target

    check_target(inputs.videos[0], rendered)


@contextmanager
def _windows_shown() -> Iterator[Progress]:
    """A bar that is there from the first windows on, if there are any: loading it takes a while."""
    with ExitStack() as stack:
        bars: list[Progress] = []

        def update(done: int, windows: int) -> None:
            if not bars:
                from aicl_fast.cli.console import progress

                bars.append(stack.enter_context(progress("windows")))
            bars[0](done, windows)

        yield update


class _Run:
    """Goes through recordings. The failure of one of several does not cost the others.

    Attributes:
        detections: by name.
        scores: by name, where they are kept.
        seconds: that each recording's features cover, by name.
        bad: the reason why a file could not be used.
    """

    def __init__(self, detector: Detector, inputs: Inputs, fps: float | None, *, keep_scores: bool) -> None:
        self.detections: dict[str, Detections] = {}
        self.scores: dict[str, Scores] = {}
        self.seconds: dict[str, float] = {}
        self.bad: dict[Path, str] = {}
        self._detector, self._inputs, self._fps, self._keep = detector, inputs, fps, keep_scores

    def all(self, recordings: Sequence[tuple[str, Load]]) -> None:
        """A batch at a time, whose features alone are in memory; videos one by one, as their features are
        long in coming.

        Raises:
            AiclError: the only recording cannot be used.
        """
        if len(recordings) == 1:
            ((name, load),) = recordings
            loaded = {name: self._checked(name, load)}
            with _windows_shown() as bar:
                self._detect(loaded, bar)
            return
        if self._inputs.videos:
            self.bad = self._inputs.check_videos()
            for recording in recordings:
                self._batch([recording])
            return
        from aicl_fast.cli.console import progress

        with progress("detecting") as bar:
            for start in range(0, len(recordings), BATCH):
                self._batch(recordings[start : start + BATCH])
                bar(min(start + BATCH, len(recordings)), len(recordings))

    def _batch(self, recordings: Sequence[tuple[str, Load]]) -> None:
        loaded = {}
        for name, load in recordings:
            if self._inputs.sources[name] not in self.bad:
                with self._noted(name):
                    loaded[name] = self._checked(name, load)
        try:
            self._detect(loaded)
        except AiclError:
            # One after the other, to tell which it is.
            for name, recording in loaded.items():
                with self._noted(name):
                    self._detect({name: recording})

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        try:
            yield
        except AiclError as error:
            self.bad[self._inputs.sources[name]] = str(error)

    def _checked(self, name: str, load: Load) -> Recording:
        recording = load()
        if len(recording.streams[0]) < 2:
            raise DataError(
                f"{self._inputs.sources[name]}: has 1 segment; expected at least 2 to localise anything in."
            )
        return recording

    def _detect(
        self, loaded: Mapping[str, Recording], progress: Progress = lambda done, windows: None
    ) -> None:
        from aicl_fast.detect_features import decode_features

        detector = self._detector
        batch = [recording.features for recording in loaded.values()]
        curves = detector.batch_scores(batch, fps=self._fps, videos=list(loaded), progress=progress)
        for name, scores in zip(loaded, curves, strict=True):
            origin = loaded[name].origin
            if origin is None:
                detections = detector.decode(scores)
            else:
                scores, detections = decode_features(detector, scores, origin)
            self.detections[name], self.seconds[name] = detections, scores.duration
            if self._keep:
                self.scores[name] = scores


def _print_summary(detections: dict[str, Detections], file: Path) -> None:
    if len(detections) == 1:
        (only,) = detections.values()
        for label, score, start, end in list(only)[:5]:
            sys.stdout.write(f"{start:9.2f} s to {end:8.2f} s  {score:7.3f}  {label}\n")
    total = sum(map(len, detections.values()))
    sys.stdout.write(f"{total} detections in {counted(len(detections), 'recording')}: {file}\n")
