"""features: videos to features with I3D."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from aicl_fast.cli import options
from aicl_fast.cli.console import note, print_failures, progress, show
from aicl_fast.cli.ending import resumed_by
from aicl_fast.cli.options import FLOW_HELP, VIDEO
from aicl_fast.cli.video import WHERE, VideoOptions, expected_segments
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.files import VIDEO_SUFFIXES, require_place, video_name
from aicl_fast.text import counted, require_name

if TYPE_CHECKING:
    from aicl_fast.video.extract import Extraction


@resumed_by("the same command resumes with the videos that have no features yet")
def run(
    videos: Annotated[list[Path], Argument(help="Video files, and folders of them.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for one <video>.npz each.")],
    rgb_weights: options.RgbWeights = None,
    flow_weights: options.FlowWeights = None,
    flow_algorithm: Annotated[str | None, Option("--flow", "--flow-algorithm", help=FLOW_HELP)] = None,
    fps: Annotated[float, Option(help="Frames a second to read at.")] = 25.0,
    stride: Annotated[int, Option(min=1, max=16, help="Frames from one segment of 16 to the next.")] = 16,
    batch: options.VideoBatch = None,
    device: Annotated[str, Option(help="cpu, cuda or cuda:N.", rich_help_panel=VIDEO)] = "cpu",
    precision: options.VideoPrecision = None,
    threads: options.Threads = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Extract again what is there already.")] = False,
    allow_damaged: options.AllowDamaged = False,
    trust: options.Trust = False,
) -> None:
    """Extract the features of videos with I3D, for training and detecting.

    Started again, it resumes with the videos that have no features yet. Exits with 1 when a video could not
    be used; the others are extracted nonetheless.

    Examples:

      aicl-fast features clip.mp4 -o feats --rgb-weights i3d_rgb.npz

      aicl-fast features videos/ -o DATA/features --rgb-weights rgb.pt --flow-weights flow.pt --flow dis
    """
    from aicl_fast.video import reader  # noqa: F401  (says first if the extra is missing)

    if rgb_weights is None and flow_weights is None:
        raise ConfigError(f"--rgb-weights, --flow-weights: name the weights of at least one stream. {WHERE}")
    targets = _targets(videos, out)
    video_options = VideoOptions(
        rgb_weights, flow_weights, flow_algorithm, batch, precision, allow_damaged, device, threads, trust
    )
    plan = video_options.plan(fps, stride)
    if flow_weights is None:
        if flow_algorithm is not None:
            raise ConfigError(
                f"--flow: says how optical flow is computed, which needs --flow-weights too. {WHERE} Or "
                "leave --flow out, for features of rgb alone."
            )
        note(
            "rgb alone, since there are no --flow-weights; a model for it is trained with --set streams=rgb. "
            f"{WHERE}"
        )
    bad: dict[Path, str] = {}
    work: list[tuple[Path, Path, int]] = []
    done = 0
    for source, target in targets.items():
        try:
            require_name(video_name(source), source, "video")
            if target.exists() and not overwrite:
                _check_made(source, target, plan)
                done += 1
            else:
                work.append((source, require_place(target), expected_segments(source, plan)))
        except AiclError as error:
            bad[source] = str(error)
    written = _extract(work, plan, bad)
    kept = f", {counted(done, 'video')} already there" if done else ""
    show(f"{out}: {counted(written, 'video')} extracted{kept}")
    if bad:
        print_failures(bad.values(), counted(len(targets), "video"))
        sys.exit(1)


def _targets(videos: list[Path], folder: Path) -> dict[Path, Path]:
    """Every video that the arguments mean, with the file its features go to."""
    from aicl_fast.data.recordings import videos_in

    targets: dict[Path, Path] = {}
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
            targets[file] = folder / f"{name}.npz"
    return targets


def _check_made(source: Path, target: Path, plan: Extraction) -> None:
    """Refuse features that another request made."""
    from aicl_fast.data.feature_file import read_header

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
            "Extract it again with --overwrite, or to another folder."
        )


def _extract(work: list[tuple[Path, Path, int]], plan: Extraction, bad: dict[Path, str]) -> int:
    from aicl_fast.data.feature_file import save_video_features
    from aicl_fast.video.failures import named_failure

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
