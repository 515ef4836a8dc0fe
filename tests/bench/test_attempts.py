"""Processes that try launch settings: what their time counts, and that an interruption ends them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.bench.suites import attempts, launches  # noqa: E402

_INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from aicl_fast.bench.suites import attempts

notes, watched, started = Path(sys.argv[1]), attempts.watched, []
code = f"import os, time; open({str(notes)!r} + '/' + str(os.getpid()), 'w').close(); time.sleep(60)"

# Ignored where whoever started the tests ignores it, as a shell does for what runs in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

def sleeping(command, *given, **more):
    started.append(command)
    return watched([sys.executable, "-c", code], *given, **more)

def interrupt():
    while len(list(notes.iterdir())) < 2:
        time.sleep(0.05)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

attempts.watched, attempts._PROCESSES, attempts.os.cpu_count = sleeping, 2, lambda: 2
threading.Thread(target=interrupt, daemon=True).start()
try:
    attempts.in_processes([0, 1, 2, 3], [])
except KeyboardInterrupt:
    alive = [note.name for note in notes.iterdir() if Path(f"/proc/{note.name}").exists()]
    print(len(started), alive)
"""


def test_an_interruption_ends_every_process_and_starts_no_other(tmp_path: Path) -> None:
    # In a process of its own: an interruption that comes late would end the one that runs the tests.
    notes = tmp_path / "started"
    notes.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, str(notes)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split(maxsplit=1) == ["2", "[]\n"], done.stderr


def test_inputs_and_expected_values_are_made_before_the_time_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    armed: list[float] = []
    made: list[tuple[str, bool]] = []
    row = next(launches.swept("mining", True, torch.device("cpu"), float8=False))
    make, expected = row.case.make, attempts.expected

    def is_armed() -> bool:
        return bool(armed) and armed[-1] > 0

    def inputs(*given: Any) -> Any:
        made.append(("inputs", is_armed()))
        return make(*given)

    def right(*given: Any) -> Any:
        made.append(("expected", is_armed()))
        return expected(*given)

    row.case.make = inputs
    monkeypatch.setattr(attempts, "expected", right)
    monkeypatch.setattr(attempts.signal, "setitimer", lambda _, seconds: armed.append(seconds))
    tried, jobs = attempts.Attempts([row], torch.device("cpu")), attempts.jobs_of([row])
    found = []

    def work(number: int) -> list[attempts.Found]:
        assert is_armed()
        found.extend(tried.checked(jobs[number]))
        return found[-1:]

    attempts.attempt(range(len(jobs)), work, lambda number: tried.prepare(jobs[number]))
    assert found
    assert all(each["correct"] for each in found)
    assert made == [("inputs", False), ("expected", False)]


def test_what_cannot_be_prepared_says_why() -> None:
    def failing(_: Any) -> Any:
        raise RuntimeError("out of memory")

    row = next(launches.swept("mining", True, torch.device("cpu"), float8=False))
    row.case.make = failing
    tried, job = attempts.Attempts([row], torch.device("cpu")), attempts.jobs_of([row])[0]
    tried.prepare(job)
    assert tried.checked(job)[0] == {"correct": False, "failed": "RuntimeError: out of memory"}
