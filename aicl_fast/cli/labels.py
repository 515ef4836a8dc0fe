"""annotations: a table of labels to a data set's annotations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from aicl_fast.cli.console import err, out
from aicl_fast.data.dataset import EXTRACTED, features_folder
from aicl_fast.data.feature_file import Recipe, read_header
from aicl_fast.data.labels import SETTINGS, read_labels, write_annotations
from aicl_fast.files import video_name, visible
from aicl_fast.locks import locked_folder


def run_annotations(
    table: Path, folder: Path, videos: Path | None, test_share: float, seed: int, *, overwrite: bool
) -> None:
    """``aicl-fast annotations``."""
    extracted = _extracted(folder)
    duration = functools.cache(_durations(extracted, videos))
    labels = read_labels(table, duration=duration)
    with locked_folder(folder):
        summary = write_annotations(
            labels,
            folder,
            duration=duration,
            modal=_modal([recipe for _, recipe in extracted.values()]),
            test_share=test_share,
            seed=seed,
            overwrite=overwrite,
            source=str(table),
        )
    out.print(
        f"{folder}: {len(summary.train)} train, {len(summary.test)} test videos, "
        f"{len(summary.classes)} classes: {', '.join(summary.classes)}",
        highlight=False,
        soft_wrap=True,
    )
    for one, many, text, names in (
        ("video", "videos", "whose length is not known (extract features first, or give --videos)",
         summary.without_duration),
        ("class", "classes", "that no training video has, which cannot be learned", summary.only_tested),
    ):  # fmt: skip
        if names:
            count = f"{len(names)} {one if len(names) == 1 else many}"
            err.print(f"note: {count} {text}: {', '.join(names[:5])}", highlight=False, soft_wrap=True)
    out.print(f"settings: {folder / SETTINGS}", highlight=False, soft_wrap=True)


def _extracted(folder: Path) -> dict[str, tuple[float, Recipe]]:
    """Length in seconds and recipe of every video that has features in the data set."""
    found = {}
    for home in {features_folder(folder, split) for split in ("train", "test")}:
        for path in visible(home.glob(f"*{EXTRACTED}")):
            header = read_header(path)
            found[path.stem] = header.duration, header.recipe
    return found


def _durations(
    extracted: dict[str, tuple[float, Recipe]], videos: Path | None
) -> Callable[[str], float | None]:
    files: dict[str, Path] = {}
    if videos is not None:
        from aicl_fast.cli.video import videos_in

        files = {video_name(path): path for path in videos_in(videos)}

    def duration(video: str) -> float | None:
        if video in extracted:
            return extracted[video][0]
        if video in files:
            from aicl_fast.video import probe

            return probe(files[video]).duration
        return None

    return duration


def _modal(recipes: list[Recipe]) -> str:
    """Which streams all the features have."""
    rgb = all(recipe.rgb_weights for recipe in recipes)
    flow = all(recipe.flow_weights for recipe in recipes)
    return "rgb" if rgb and not flow else "flow" if flow and not rgb else "both"
