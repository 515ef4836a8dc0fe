"""annotations: a table of labels to a data set's annotations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from aicl_fast.cli.console import note, show
from aicl_fast.files import video_name, visible
from aicl_fast.locks import locked_folder


def run(
    table: Annotated[
        Path,
        Argument(
            help="CSV: video,label[,start,end][,split] or, with a header, video,label,time, in seconds; or "
            "ActivityNet's JSON."
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", help="Data set folder.")],
    videos: Annotated[
        Path | None, Option(help="Folder of the videos, for their lengths where there are no features yet.")
    ] = None,
    test_share: Annotated[
        float, Option(min=0, max=0.99, help="Of the videos whose split is not given.")
    ] = 0.2,
    seed: Annotated[int, Option(help="Draws the test videos.")] = 0,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace annotations that are there.")] = False,
) -> None:
    """Turn a table of labels into a data set's gt.json, split files and settings.

    Labels alone are enough to train. mAP is measured on test videos, which need start and end in every row.

    Examples:

      aicl-fast annotations labels.csv -o DATA

      aicl-fast annotations labels.csv -o DATA --videos videos/ --test-share 0.3
    """
    from aicl_fast.data.labels import SETTINGS, read_labels, write_annotations

    extracted = _extracted(out)
    duration = functools.cache(_durations(extracted, videos))
    labels = read_labels(table, duration=duration)
    with locked_folder(out):
        summary = write_annotations(
            labels,
            out,
            duration=duration,
            measure=functools.partial(_measured, out),
            test_share=test_share,
            seed=seed,
            overwrite=overwrite,
            source=str(table),
        )
    show(
        f"{out}: {len(summary.train)} train, {len(summary.test)} test videos, "
        f"{len(summary.classes)} classes: {', '.join(summary.classes)}"
    )
    if not summary.test:
        note("there are no test videos, so training measures nothing: annotate some with start and end")
    for one, many, text, names in (
        ("video", "videos", "whose length is not known (extract features first, or give --videos)",
         summary.without_duration),
        ("class", "classes", "that no training video has, which cannot be learned", summary.only_tested),
    ):  # fmt: skip
        if names:
            note(f"{len(names)} {one if len(names) == 1 else many} {text}: {', '.join(names[:5])}")
    show(f"settings: {out / SETTINGS}")


def _measured(folder: Path, videos: Sequence[str]) -> dict[str, str | int]:
    """Settings that the features say; a note where they leave it open."""
    from aicl_fast.data.own_settings import measure_features

    measured = measure_features(folder, videos)
    if measured is None:
        note("no training video has features yet, so the settings hold the classes alone")
        return {}
    if measured.undivided:
        note(
            f"the features have {measured.undivided} values a segment, which the settings take for one "
            "stream. If they are two side by side, set streams, rgb_width and flow_width there."
        )
    return measured.settings()


def _extracted(folder: Path) -> dict[str, float]:
    """Length in seconds of every video whose features say it."""
    from aicl_fast.data.dataset import EXTRACTED, SPLITS, features_folder
    from aicl_fast.data.feature_file import read_header

    extracted = {}
    for features in {features_folder(folder, split) for split in SPLITS}:
        for path in visible(features.glob(f"*{EXTRACTED}")):
            extracted[path.stem] = read_header(path).duration
    return extracted


def _durations(extracted: dict[str, float], videos: Path | None) -> Callable[[str], float | None]:
    files: dict[str, Path] = {}
    if videos is not None:
        from aicl_fast.data.recordings import videos_in

        files = {video_name(path): path for path in videos_in(videos)}

    def duration(video: str) -> float | None:
        if video in extracted:
            return extracted[video]
        if video in files:
            from aicl_fast.video import probe

            return probe(files[video]).duration
        return None

    return duration
