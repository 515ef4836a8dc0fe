"""A command that is run for each detection. No shell reads what it is given."""

from __future__ import annotations

import queue
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aicl_fast.errors import ConfigError

if TYPE_CHECKING:
    from typing import Self

FIELDS = ("label", "score", "start", "end", "video")
_FIELD = re.compile("{(" + "|".join(FIELDS) + ")}")
_WAITING = 100
"""Calls that wait at most."""


class Hook:
    """Runs a command, one call after the other, in a thread: a context, whose end waits for the last call.

    Args:
        command: is split into arguments as a shell splits them, once. Then ``{label}``, ``{score}``,
            ``{start}``, ``{end}`` and ``{video}`` are replaced in each argument; what stands there is not
            split, and never replaced again.
        report: called, from the thread, with what went wrong, in words.
    Raises:
        ConfigError: a quote that is not closed, nothing to run, or no such program.
    """

    def __init__(self, command: str, report: Callable[[str], None]) -> None:
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--exec: {command!r} cannot be split into arguments ({error}).") from None
        if not self._arguments:
            raise ConfigError("--exec: expected a program and its arguments, got nothing.")
        if _FIELD.search(self._arguments[0]):
            raise ConfigError("--exec: the program itself cannot be a placeholder; name it first.")
        if shutil.which(self._arguments[0]) is None:
            raise ConfigError(f"--exec: there is no program {self._arguments[0]!r} that can be run.")
        self._report = report
        self._calls: queue.Queue[list[str] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="exec", daemon=True)
        self.skipped = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)
        self._thread.join()

    def arguments(self, fields: Mapping[str, str]) -> list[str]:
        """The command's arguments for one detection."""
        return [_FIELD.sub(lambda match: fields[match[1]], each) for each in self._arguments]

    def __call__(self, fields: Mapping[str, str]) -> None:
        """Have it run. While a hundred calls wait, further ones are skipped and reported."""
        try:
            self._calls.put_nowait(self.arguments(fields))
        except queue.Full:
            self.skipped += 1
            self._report(f"--exec: {_WAITING} calls wait for the command to end; {self.skipped} were skipped")

    def _work(self) -> None:
        while (arguments := self._calls.get()) is not None:
            try:
                # What it prints is no result of ours.
                done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=2, check=False)
            except (OSError, ValueError) as error:
                self._report(f"--exec: {arguments[0]} cannot be run ({error})")
                continue
            if done.returncode:
                self._report(f"--exec: {arguments[0]} ended with {done.returncode}")
