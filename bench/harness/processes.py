"""Commands in processes of their own, that end with all that they started: in time, or when interrupted."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")
_GLANCE = 0.5
"""Seconds between two looks whether another thread wants a command stopped."""


def watched(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    *,
    quiet: bool = False,
    interrupted: threading.Event | None = None,
) -> tuple[int | None, list[str]]:
    """Run a command, and whatever it starts, for so long at most; an interruption ends them too.

    Args:
        command: with its arguments.
        seconds: after which it is stopped.
        environment: instead of this process's.
        quiet: do not show its output as it comes.
        interrupted: set by another thread, stops it too: the main one alone is interrupted.
    Returns:
        Its exit status, None if it was stopped, and the lines of its output.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=environment, start_new_session=True,
    )  # fmt: skip
    stopped, over = threading.Event(), threading.Event()
    until = time.monotonic() + seconds
    glance = seconds if interrupted is None else _GLANCE

    def stop() -> None:
        while not over.wait(max(0.0, min(glance, until - time.monotonic()))):
            if time.monotonic() >= until or (interrupted is not None and interrupted.is_set()):
                stopped.set()
                _end(process.pid)
                return

    threading.Thread(target=stop, daemon=True).start()
    said: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if not quiet:
                sys.stdout.write(line)
                sys.stdout.flush()
            said.append(line)
        code = process.wait()
    finally:
        over.set()
        if process.poll() is None:
            _end(process.pid)
            process.wait()
    return (None if stopped.is_set() else code), said


def side_by_side(work: Callable[[_Given, threading.Event], _Made], given: Sequence[_Given]) -> list[_Made]:
    """``work`` of each at the same time, in a thread each; what it starts ends when this one is interrupted.

    Args:
        work: takes one of those given, and the event that :func:`watched` is to end its command at.
        given: one a thread.
    """
    interrupted = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(max(1, len(given))) as threads:
        try:
            return list(threads.map(lambda one: work(one, interrupted), given))
        except BaseException:
            # The threads are waited for, and they for their processes, which have sessions of their own.
            interrupted.set()
            raise


def _end(leader: int) -> None:
    """Kill a group of processes, and those of all that they started: they would keep the machine busy."""
    ended: set[int] = set()
    while new := _groups(leader) - ended:
        # Those that are stopped start no other.
        _send(new, signal.SIGSTOP)
        ended |= new
    _send(ended, signal.SIGKILL)


def _send(groups: Iterable[int], what: signal.Signals) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, what)


def _groups(leader: int) -> set[int]:
    """The group of a process, and those of its descendants, where the system lists them."""
    parents: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            # After the name, which may hold anything: state, parent and group.
            _, parent, group = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            parents[int(path.parent.name)] = int(parent), int(group)
    family, found = [leader], {leader}
    for one in family:
        children = {child: group for child, (parent, group) in parents.items() if parent == one}
        family += children
        found |= set(children.values())
    return found
