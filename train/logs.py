"""A run's curves: TensorBoard, and ``log.csv`` with a row every few steps."""

from __future__ import annotations

import csv
import io
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aicl_fast.extras import needs

with needs("train"):
    import torch

from aicl_fast.errors import DataError
from aicl_fast.evaluate import MapResult, SegmentAccuracy
from aicl_fast.files import atomic_path
from aicl_fast.limits import reading
from aicl_fast.train.events import EventFile
from aicl_fast.train.losses import loss_names

LOG_EVERY = 10
"""Steps between two points of the curves."""


class RunLog:
    """Writes the curves of a run, or nothing where no folder is given.

    ``log.csv`` has a row every :data:`LOG_EVERY` steps and at each evaluation; a cell that was not measured
    in that step is empty. Losses are unweighted but for the total, consistent and inconsistent are segments a
    video, and all are means over the batch of all processes; mAP and accuracies are those of the videos that
    choose the weights (held out, or test).

    ``log.csv`` is whole at any moment: rows are appended, and a resumed run replaces the file by one of the
    rows that stay. :meth:`sync` puts both files on the disk; a checkpoint is only saved after it.
    """

    def __init__(self, folder: Path | None, tious: tuple[float, ...], *, after: int = 0) -> None:
        """Args:
        folder: the run's; None writes nothing.
        tious: the thresholds of the evaluations.
        after: the step that a resumed run starts from; later rows of an earlier process are dropped.

        Raises:
            DataError: a file cannot be written, or ``log.csv`` is not one.
            UnavailableError: the package tensorboard is not installed.
        """
        self.events: EventFile | None = None
        self.row: dict[str, float | int] = {}
        self._points: dict[str, float] = {}
        self._mark = (after, time.perf_counter())
        if folder is None:
            return
        self._folder = folder
        with self._writing():
            self.events = EventFile(folder / "tensorboard", after)
        columns = ["step", *(f"loss_{name}" for name in loss_names())]
        columns += ["lr", "selection_gamma", "consistent", "inconsistent", "steps_per_second", "memory_mb"]
        columns += [f"mAP_{tiou:g}" for tiou in tious]
        columns += ["average_mAP", "accuracy_A_bin", "accuracy_A_ca_bin", "eval_consistent"]
        path = folder / "log.csv"
        kept = _rows_until(path, after)
        with atomic_path(path) as whole, whole.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns, extrasaction="ignore")
            table.writeheader()
            table.writerows(kept)
        self._columns = columns
        with self._writing():
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def step(self, step: int, losses: Sequence[float], **values: float | None) -> None:
        """Note a step's losses, in the order of :func:`loss_names`, and settings."""
        if self.events is None:
            return
        for name, value in zip(loss_names(), losses, strict=True):
            self._note(step, f"loss/{name}", f"loss_{name}", value)
        for name, number in values.items():
            if number is not None:
                self._note(step, f"train/{name}", name, number)
        before, then = self._mark
        now = time.perf_counter()
        if step > before:
            self._note(step, "run/steps_per_second", "steps_per_second", (step - before) / (now - then))
        self._mark = (step, now)
        self._note(step, "run/memory_mb", "memory_mb", _memory_mb())

    def evaluation(self, step: int, result: MapResult, accuracy: SegmentAccuracy | None) -> None:
        """Note an evaluation."""
        if self.events is None:
            return
        for tiou, value in zip(result.tious, result.mAP, strict=True):
            self._note(step, f"mAP/{tiou:g}", f"mAP_{tiou:g}", float(value))
        self._note(step, "mAP/average", "average_mAP", result.average)
        if accuracy is not None:
            self._note(step, "accuracy/A_bin", "accuracy_A_bin", accuracy.aware)
            self._note(step, "accuracy/A_ca_bin", "accuracy_A_ca_bin", accuracy.agnostic)
            self._note(step, "accuracy/consistent", "eval_consistent", accuracy.consistent)

    def flush(self) -> None:
        """Write what was noted of this step, if anything was."""
        if self.events is not None and self.row:
            text = io.StringIO()
            csv.DictWriter(text, self._columns, extrasaction="ignore").writerow(self.row)
            with self._writing():
                # At once: a process that is killed leaves no half row.
                _append(self._file, text.getvalue().encode())
                self.events.add(int(self.row["step"]), self._points)
        self.row, self._points = {}, {}

    def sync(self) -> None:
        """Have all that was noted on the disk."""
        if self.events is not None:
            self.flush()
            with self._writing():
                os.fsync(self._file)
                self.events.sync()

    def close(self) -> None:
        """Finish both files."""
        if self.events is not None:
            self.sync()
            self.events.close()
            os.close(self._file)
            self.events = None

    def _note(self, step: int, tag: str, column: str, value: float) -> None:
        self.row["step"] = step
        self.row[column] = value
        self._points[tag] = value

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._folder}: log.csv or tensorboard/ cannot be written ({error.strerror}). Make room, "
                "and resume with --resume."
            ) from error


def _append(file: int, row: bytes) -> None:
    """Write a whole row at the end of a file, or nothing of it."""
    before = os.fstat(file).st_size
    try:
        while row:
            row = row[os.write(file, row) :]
    except OSError:
        os.ftruncate(file, before)
        raise


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    if not step or not path.is_file():
        return []
    advice = "Move the file away: the run then starts another one."
    with reading(path, "log of a run", advice=advice), path.open(newline="", encoding="utf-8") as file:
        # A power cut may have left half a row.
        rows = [row for row in csv.DictReader(file) if None not in row.values() and None not in row]
        return [row for row in rows if row["step"].isdecimal() and int(row["step"]) <= step]


def _memory_mb() -> float:
    """The device's peak where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


__all__ = ["LOG_EVERY", "RunLog"]
