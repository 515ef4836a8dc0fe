"""Processes that try launch settings: what their time counts, and that an interruption ends them."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.bench import attempts, launches  # noqa: E402


def test_an_interruption_ends_every_process_and_starts_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, started = attempts.watched, []
    notes = tmp_path / "started"
    notes.mkdir()
    code = f"import os, time; open({str(notes)!r} + f'/{{os.getpid()}}', 'w').close(); time.sleep(60)"

    def sleeping(command: list[str], *given: Any, **more: Any) -> Any:
        started.append(command)
        return watched([sys.executable, "-c", code], *given, **more)

    def interrupt() -> None:
        while len(list(notes.iterdir())) < 2:
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

    monkeypatch.setattr(attempts, "watched", sleeping)
    monkeypatch.setattr(attempts, "_PROCESSES", 2)
    monkeypatch.setattr(attempts.os, "cpu_count", lambda: 2)
    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        attempts.in_processes([0, 1, 2, 3], [])
    assert time.monotonic() - start < 50
    assert len(started) == 2
    for note in notes.iterdir():
        assert not Path(f"/proc/{note.name}").exists()


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
