"""A run's curves: TensorBoard, and ``log.csv`` with a row every few steps."""

from __future__ import annotations

import csv
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aicl_fast.extras import needs

with needs("train"):
    import torch

from aicl_fast.evaluate import MapResult, SegmentAccuracy
from aicl_fast.train.losses import LossTerms

LOG_EVERY = 10
"""Steps between two points of the curves."""


class RunLog:
    """Writes the curves of a run, or nothing where no folder is given.

    ``log.csv`` has a row every :data:`LOG_EVERY` steps and at each evaluation; a cell that was not measured
    in that step is empty. Losses are unweighted but for the total, consistent and inconsistent are segments a
    video, and all are means over the batch of all processes; mAP and accuracies are those of the videos that
    choose the weights (held out, or test).
    """

    def __init__(self, folder: Path | None, tious: tuple[float, ...], *, after: int = 0) -> None:
        """Args:
        folder: the run's; None writes nothing.
        tious: the thresholds of the evaluations.
        after: the step that a resumed run goes on from; later rows of an earlier process are dropped.
        """
        self.writer: Any = None
        self.file: Any = None
        self.row: dict[str, float | int] = {}
        self._mark = (after, time.perf_counter())
        if folder is None:
            return
        with needs("train", "logging a training"):
            from torch.utils.tensorboard import SummaryWriter
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1 if after else None)
        columns = ["step", *(f"loss_{name}" for name in LossTerms._fields)]
        columns += ["lr", "selection_gamma", "consistent", "inconsistent", "steps_per_second", "memory_mb"]
        columns += [f"mAP_{tiou:g}" for tiou in tious]
        columns += ["average_mAP", "accuracy_A_bin", "accuracy_A_ca_bin", "eval_consistent"]
        path = folder / "log.csv"
        kept = _rows_until(path, after)
        self.file = path.open("w", newline="", encoding="utf-8")
        self.table = csv.DictWriter(self.file, columns, extrasaction="ignore")
        self.table.writeheader()
        self.table.writerows(kept)

    def step(self, step: int, losses: Sequence[float], **values: float | None) -> None:
        """Note a step's losses, in the order of :class:`LossTerms`, and settings."""
        if self.writer is None:
            return
        for name, value in zip(LossTerms._fields, losses, strict=True):
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
        if self.writer is None:
            return
        for tiou, value in zip(result.tious, result.mAP, strict=True):
            self._note(step, f"mAP/{tiou:g}", f"mAP_{tiou:g}", float(value))
        self._note(step, "mAP/average", "average_mAP", result.average)
        if accuracy is not None:
            self._note(step, "accuracy/A_bin", "accuracy_A_bin", accuracy.aware)
            self._note(step, "accuracy/A_ca_bin", "accuracy_A_ca_bin", accuracy.agnostic)
            self._note(step, "accuracy/consistent", "eval_consistent", accuracy.consistent)

    def flush(self) -> None:
        """Write the row of this step, if anything was noted."""
        if self.file is not None and self.row:
            self.table.writerow(self.row)
            self.file.flush()
        self.row = {}

    def close(self) -> None:
        """Finish both files."""
        if self.writer is not None:
            self.flush()
            self.writer.close()
            self.file.close()

    def _note(self, step: int, tag: str, column: str, value: float) -> None:
        self.row["step"] = step
        self.row[column] = value
        self.writer.add_scalar(tag, value, step)


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    if not step or not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # A killed process may have left half a row.
        return [
            row for row in csv.DictReader(file) if (row["step"] or "").isdigit() and int(row["step"]) <= step
        ]


def _memory_mb() -> float:
    """The device's peak where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


__all__ = ["LOG_EVERY", "RunLog"]
