"""From a run's files to one HTML page."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import Detections
from aicl_fast.data.scores import Scores
from aicl_fast.errors import DataError
from aicl_fast.evaluate import ERRORS, TIOUS, average_recall, compare, diagnose, segment_accuracy
from aicl_fast.evaluate.average_precision import Judged
from aicl_fast.evaluate.detad import classify
from aicl_fast.evaluate.inputs import touched_subsets
from aicl_fast.evaluate.protocol import Protocol
from aicl_fast.evaluate.table import build_table
from aicl_fast.files import require_place, write_text
from aicl_fast.report.run import Run, load_run
from aicl_fast.text import clean_lines, clean_text

MEDIA_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".ogv")
MAX_CURVES = 8
"""Fused scores kept for one video: of its annotated classes, then of the best detected ones."""


def write_report(
    run: str | os.PathLike[str] | Run,
    path: str | os.PathLike[str] | None = None,
    *,
    baseline: str | os.PathLike[str] | Run | None = None,
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
        path: None writes ``report.html`` into the run's folder.
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
        DataError: files that cannot be read, or a folder of media without a file of any of the videos.
    """
    current = run if isinstance(run, Run) else load_run(run)
    if path is None:
        if isinstance(run, Run):
            raise DataError(
                "path: expected where to write the page, since the run was not read from a folder."
            )
        path = Path(run) / "report.html"
    target = require_place(path)
    other = baseline if isinstance(baseline, Run) or baseline is None else load_run(baseline)
    if ground_truth is None:
        truth = current.ground_truth or (other.ground_truth if other is not None else None)
    else:
        truth = ground_truth if isinstance(ground_truth, GroundTruth) else GroundTruth.load(ground_truth)
    runs = [current] if other is None else [other, current]
    if truth is None:
        document = _unmeasured(runs)
    else:
        subset = (
            touched_subsets(truth, *(each.detections for each in runs)) or None if subset is None else subset
        )
        protocol = Protocol(tious, subset, exclude=exclude)
        document = _document(runs, truth, protocol, buckets, resamples)
    if media is not None:
        found = _media(Path(media), target, [video["name"] for video in document["videos"]])
        for video in document["videos"]:
            video["media"] = found.get(video["name"])
    document["title"] = title or current.name
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


def _document(
    runs: list[Run],
    truth: GroundTruth,
    protocol: Protocol,
    buckets: str,
    resamples: int,
) -> dict[str, Any]:
    durations = {name: item.duration for run in runs for name, item in run.scores.items()}

    measured = []
    per_video: dict[str, list[dict[str, Any]]] = {}
    names: list[str] = []
    classes: tuple[str, ...] = ()
    for number, run in enumerate(runs):
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
        order = np.argsort(table.video, kind="stable")
        bounds = np.searchsorted(table.video[order], np.arange(len(table.videos) + 1))
        columns = (table.label, table.scores, table.segments, kinds)
        for index, name in enumerate(table.videos):
            rows = order[bounds[index] : bounds[index + 1]]
            alone = judged.of_video(index)
            entry: dict[str, Any] = {
                "ap": None if alone is None else round(alone, 4),
                "detections": [
                    [label, round(score, 4), round(start, 3), round(end, 3), kind]
                    for label, score, (start, end), kind in zip(
                        *(column[rows].tolist() for column in columns), strict=True
                    )
                ],
            }
            if name in run.scores:
                annotated = truth.videos[name].labels if name in truth.videos else ()
                entry |= _curves(
                    run.scores[name], [*annotated, *(classes[i] for i in table.label[rows])], classes
                )
            if name not in per_video:
                names.append(name)
                per_video[name] = [{"ap": None, "detections": []} for _ in range(number)]
            per_video[name].append(entry)
        for name in names:
            if len(per_video[name]) <= number:
                per_video[name].append({"ap": None, "detections": []})

    place = {name: index for index, name in enumerate(classes)}
    videos = []
    for name in names:
        annotation = truth.videos.get(name)
        spans: list[list[Any]] = []
        if annotation is not None:
            for label, (start, end) in zip(annotation.labels, annotation.segments.tolist(), strict=True):
                if label in place:
                    spans.append([place[label], round(start, 3), round(end, 3)])
        ends = [span[2] for span in spans] + [d[3] for e in per_video[name] for d in e["detections"]]
        ends += [durations.get(name, 0.0), (annotation.duration or 0.0) if annotation else 0.0]
        videos.append(
            {
                "name": name,
                "duration": round(max(ends), 3),
                "truth": spans,
                "runs": per_video[name],
            }
        )
    comparison = None
    if len(runs) == 2:
        comparison = compare(
            truth,
            runs[0].detections,
            runs[1].detections,
            resamples=resamples,
            names=(runs[0].name, runs[1].name),
            protocol=protocol,
        ).to_dict()
    return {
        "classes": list(classes),
        "errors": list(ERRORS),
        "tious": list(protocol.tious),
        "runs": measured,
        "comparison": comparison,
        "videos": videos,
    }


def _unmeasured(runs: list[Run]) -> dict[str, Any]:
    """The same of detections that there is nothing to measure against."""
    classes = tuple(
        sorted({label for run in runs for d in run.detections.values() for label in d.labels.tolist()})
    )
    place = {name: index for index, name in enumerate(classes)}
    videos = []
    for name in dict.fromkeys(video for run in runs for video in run.detections):
        entries = []
        ends = [0.0]
        for run in runs:
            found = run.detections.get(name, Detections.empty(name))
            entry: dict[str, Any] = {
                "ap": None,
                "detections": [
                    [place[d.label], round(d.score, 4), round(d.start, 3), round(d.end, 3), None]
                    for d in found
                ],
            }
            ends += [each.end for each in found]
            if name in run.scores:
                entry |= _curves(run.scores[name], found.labels.tolist(), classes)
                ends.append(run.scores[name].duration)
            entries.append(entry)
        videos.append(
            {
                "name": name,
                "duration": round(max(ends), 3) or 1.0,
                "truth": [],
                "runs": entries,
            }
        )
    return {
        "classes": list(classes),
        "errors": list(ERRORS),
        "tious": [],
        "runs": [{"name": run.name, "map": None, "segments": None} for run in runs],
        "comparison": None,
        "videos": videos,
    }


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
    missing, found = set(videos), {}
    for home, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for suffix in MEDIA_SUFFIXES:
            for item in map(Path(home).joinpath, sorted(files)):
                name = clean_text(item.stem)
                if item.suffix.lower() == suffix and name in missing:
                    missing.remove(name)
                    relative = os.path.relpath(item.resolve(), page.resolve().parent)
                    found[name] = quote(os.fsencode(Path(relative).as_posix()))
        if not missing:
            break
    if videos and not found:
        raise DataError(
            f"{root}: neither it nor its subfolders have a file of a video of this run, such as "
            f"{videos[0]}.mp4 (or {', '.join(MEDIA_SUFFIXES[1:])}). Name the folder that has, or none."
        )
    return found
