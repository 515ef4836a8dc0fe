"""Curves for TensorBoard: an event file, written as its own writer does, in this thread and without names.

TensorBoard's writer names the file after the machine, and prints a traceback where the disk is full.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from aicl_fast.extras import needs


class EventFile:
    """Scalars by tag and step, in a file that TensorBoard reads.

    Args:
        folder: made if it is not there; files of earlier processes of the run stay in it.
        after: the step that a resumed run starts from: TensorBoard drops what earlier files have after it.
    Raises:
        UnavailableError: the package tensorboard is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        with needs("train", "logging a training"):
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        self._event, self._summary = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a run's files in the order of their names.
        number = max((_number(path) for path in folder.glob("events.out.tfevents.*")), default=0)
        number = max(number + 1, int(time.time()))
        self._file = (folder / f"events.out.tfevents.{number:010d}.aicl-fast").open("xb")
        self._records: Any = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if after:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=after + 1, session_log=start)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Note the values of a step, by tag, and hand them to the system."""
        points = [self._summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step=step, summary=self._summary.Summary(value=points))

    def sync(self) -> None:
        """Have what was noted on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        event = self._event.Event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
        self._file.flush()


def _number(path: Path) -> int:
    digits = path.name.split(".")[3]
    return int(digits) if digits.isascii() and digits.isdigit() else 0
