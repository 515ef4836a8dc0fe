"""From a run's files to one HTML page."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from aicl_fast.data.annotations import GroundTruth, VideoAnnotation
from aicl_fast.data.scores import Scores
from aicl_fast.errors import DataError
from aicl_fast.evaluate import ERRORS, TIOUS, average_recall, compare, diagnose, segment_accuracy
from aicl_fast.evaluate.average_precision import Judged
from aicl_fast.evaluate.detad import classify
from aicl_fast.evaluate.inputs import touched_subsets
from aicl_fast.evaluate.protocol import Protocol
from aicl_fast.evaluate.table import build_table
from aicl_fast.files import is_stream, require_place, write_text
from aicl_fast.plot.canvas import FAINT, GRID, PALETTE, TEXT
from aicl_fast.plot.diagnosis import COLOURS as KINDS
from aicl_fast.plot.timeline import AGNOSTIC_COLOUR as AGNOSTIC
from aicl_fast.plot.timeline import AWARE_COLOUR as AWARE
from aicl_fast.report.run import Run, RunLike, open_runs
from aicl_fast.text import clean_lines, clean_text

MEDIA_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".ogv")
COLOURS = {
    "PALETTE": PALETTE, "KINDS": KINDS, "AWARE": AWARE, "AGNOSTIC": AGNOSTIC,
    "GRID": GRID, "TEXT": TEXT, "QUIET": FAINT,
}  # fmt: skip
"""The page's colours, as in pictures."""
SUFFIXES = (".html", ".htm")
"""Of a page's name."""
MAX_CURVES = 8
"""Fused scores kept for one video: of its annotated classes, then of the best detected ones."""


def write_report(
    run: RunLike,
    path: str | os.PathLike[str] | None = None,
    *,
    baseline: RunLike | None = None,
    ground_truth: str | os.PathLike[str] | GroundTruth | None = None,
    tious: Iterable[float] = TIOUS,
    subset: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    buckets: str = "thumos14",
    media: str | os.PathLike[str] | None = None,
    resamples: int = 1000,
    title: str | None = None,
) -> Path:
    """Write one self-contained HTML page about a run, or about two; it loads nothing from a network.

    Without ground truth nothing is measured, and the page has the timelines alone.

    Args:
        run: a folder with ``detections.json`` and, where there are any, ``scores.npz`` (curves) and
            ``gt.json``; or what was read from one.
        path: ends in ``.html`` or ``.htm``; None writes ``report.html`` into the run's folder.
        baseline: a second run on the same videos, shown beside and compared with the first.
        ground_truth: None takes the run's own.
        tious, subset, exclude: as for ``mean_average_precision``.
        buckets: groups of instances, as for ``diagnose``.
        media: a folder with ``<video>.mp4`` (or webm, mkv, mov, ogv), in it or in its subfolders; the page
            plays these from where they are, so keep the page and them together.
        resamples: draws of the comparison's bootstrap.
        title: None takes the run's name.
    Returns:
        The page's path.
    Raises:
        DataError: files that cannot be read, another suffix, or a folder of media without a file of any of
            the videos.
    """
    if path is None:
        if isinstance(run, Run):
            raise DataError(
                "path: expected where to write the page, since the run was not read from a folder."
            )
        path = Path(run) / "report.html"
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES and not is_stream(target):
        raise DataError(f"{target}: expected a page's name that ends in {' or '.join(SUFFIXES)}.")
    target = require_place(target)
    runs, truth = open_runs(run, baseline, ground_truth)
    if truth is None:
        document = _unmeasured(runs)
    else:
        if subset is None:
            subset = touched_subsets(truth, *(item.detections for item in runs)) or None
        protocol = Protocol(tious, subset, exclude=exclude)
        document = _document(runs, truth, protocol, buckets, resamples)
    if media is not None:
        addresses = _media(Path(media), target, [video["name"] for video in document["videos"]])
        for video in document["videos"]:
            video["media"] = addresses.get(video["name"])
    document |= {"title": title or runs[-1].name, "colours": COLOURS}
    write_text(target, _page(document))
    return target


def _page(document: Mapping[str, Any]) -> str:
    here = Path(__file__).parent
    parts = {name: (here / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Inside <script> only "<" can end the element or open a comment; names come from files of any origin.
    data = data.replace("<", "\\u003c")
    parts |= {"data": data, "title": html.escape(str(document["title"]))}
    # In one pass: what has been put in is not looked through for more places.
    return clean_lines(re.sub(r"\{\{(title|css|js|data)\}\}", lambda place: parts[place[1]], parts["html"]))


class _Shown(NamedTuple):
    """One run on one video: [class, score, start, end, kind of error] of detections, and average mAP."""

    detections: list[list[Any]]
    ap: float | None = None


def _document(
    runs: list[Run], truth: GroundTruth, protocol: Protocol, buckets: str, resamples: int
) -> dict[str, Any]:
    """What the page reads."""
    durations = {name: item.duration for run in runs for name, item in run.scores.items()}
    measured, shown = [], []
    classes: tuple[str, ...] = ()
    for run in runs:
        table = build_table(truth, run.detections, protocol)
        judged = Judged.of(table)
        classes = table.classes
        diagnosis = diagnose(truth, run.detections, buckets=buckets, durations=durations, protocol=protocol)
        scored = {name: item for name, item in run.scores.items() if name in set(table.videos)}
        accuracy = segment_accuracy(scored, truth).to_dict() if scored else None
        if accuracy is not None:
            del accuracy["by_video"]
        measured.append(
            {
                "name": run.name,
                "map": judged.result().to_dict(),
                "diagnosis": diagnosis.to_dict(),
                "recall": average_recall(truth, run.detections, protocol=protocol).to_dict(),
                "segments": accuracy,
            }
        )
        kinds = classify(table, np.array([diagnosis.tiou]))[0][0]
        columns = (table.label, table.scores, table.segments, kinds)
        shown.append(
            {
                name: _Shown(
                    _rows(*(column[table.video == index].tolist() for column in columns)),
                    judged.of_video(index),
                )
                for index, name in enumerate(table.videos)
            }
        )
    comparison = None
    if len(runs) == 2:
        names = (runs[0].name, runs[1].name)
        first, second = (run.detections for run in runs)
        comparison = compare(
            truth, first, second, resamples=resamples, names=names, protocol=protocol
        ).to_dict()
    return {
        "classes": list(classes),
        "errors": list(ERRORS),
        "tious": list(protocol.tious),
        "runs": measured,
        "comparison": comparison,
        "videos": _videos(runs, shown, classes, truth.videos),
    }


def _unmeasured(runs: list[Run]) -> dict[str, Any]:
    """The same of detections that there is nothing to measure against."""
    every = [detections for run in runs for detections in run.detections.values()]
    classes = tuple(sorted({label for detections in every for label in detections.labels.tolist()}))
    place = {name: index for index, name in enumerate(classes)}
    shown = []
    for run in runs:
        videos = {}
        for name, detections in run.detections.items():
            labels = [place[label] for label in detections.labels.tolist()]
            columns = (detections.scores.tolist(), detections.segments.tolist())
            videos[name] = _Shown(_rows(labels, *columns, [None] * len(labels)))
        shown.append(videos)
    return {
        "classes": list(classes),
        "errors": list(ERRORS),
        "tious": [],
        "runs": [{"name": run.name, "map": None, "segments": None} for run in runs],
        "comparison": None,
        "videos": _videos(runs, shown, classes, {}),
    }


def _rows(*columns: Iterable[Any]) -> list[list[Any]]:
    return [
        [label, round(score, 4), round(start, 3), round(end, 3), kind]
        for label, score, (start, end), kind in zip(*columns, strict=True)
    ]


def _videos(
    runs: list[Run],
    shown: list[dict[str, _Shown]],
    classes: tuple[str, ...],
    truth: Mapping[str, VideoAnnotation],
) -> list[dict[str, Any]]:
    """Every video of the runs: its annotation, and each run's detections and curves."""
    place = {name: index for index, name in enumerate(classes)}
    videos = []
    for name in dict.fromkeys(video for by_video in shown for video in by_video):
        annotation = truth.get(name)
        spans: list[list[Any]] = []
        ends = [0.0]
        if annotation is not None:
            for label, (start, end) in zip(annotation.labels, annotation.segments.tolist(), strict=True):
                if label in place:
                    spans.append([place[label], round(start, 3), round(end, 3)])
            ends += [annotation.duration or 0.0, *(span[2] for span in spans)]
        entries = []
        for run, by_video in zip(runs, shown, strict=True):
            one = by_video.get(name, _Shown([]))
            entry = {"ap": None if one.ap is None else round(one.ap, 4), "detections": one.detections}
            ends += [row[3] for row in one.detections]
            if name in run.scores:
                annotated = annotation.labels if annotation is not None else ()
                wanted = [*annotated, *(classes[row[0]] for row in one.detections)]
                entry |= _curves(run.scores[name], wanted, classes)
                ends.append(run.scores[name].duration)
            entries.append(entry)
        duration = round(max(ends), 3) or 1.0
        videos.append({"name": name, "duration": duration, "truth": spans, "runs": entries})
    return videos


def _curves(scores: Scores, wanted: Iterable[str], classes: tuple[str, ...]) -> dict[str, Any]:
    """A recording's curves as bytes: 1/255 is finer than a screen shows, and 213 videos stay small."""

    def pack(values: Any) -> str:
        return base64.b64encode(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8).tobytes()).decode()

    place = {name: index for index, name in enumerate(scores.classes)}
    known = {name: index for index, name in enumerate(classes)}
    kept = [name for name in dict.fromkeys(wanted) if name in place and name in known][:MAX_CURVES]
    return {
        "seconds": round(scores.duration, 4),
        "aware": pack(scores.actionness),
        "agnostic": pack(scores.actionness_agnostic),
        "fused": {str(known[name]): pack(scores.fused[:, place[name]]) for name in kept},
    }


def _media(root: Path, page: Path, videos: Sequence[str]) -> dict[str, str]:
    """Address of each video's file as seen from the page; hidden folders are not searched."""
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with <video>.mp4 files; there is none.")
    missing, addresses = set(videos), {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for suffix in MEDIA_SUFFIXES:
            for item in map(Path(folder).joinpath, sorted(files)):
                name = clean_text(item.stem)
                if item.suffix.lower() == suffix and name in missing:
                    missing.remove(name)
                    relative = os.path.relpath(item.resolve(), page.resolve().parent)
                    addresses[name] = quote(os.fsencode(Path(relative).as_posix()))
        if not missing:
            break
    if videos and not addresses:
        raise DataError(
            f"{root}: neither it nor its subfolders have a file of a video of this run, such as "
            f"{videos[0]}.mp4 (or {', '.join(MEDIA_SUFFIXES[1:])}). Name the folder that has, or none."
        )
    return addresses
