"""Commands that are watched: they end in time, when interrupted, and with all that they started."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aicl_fast.bench.harness.processes import side_by_side, watched


def test_an_interruption_ends_what_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def write(self, text: str) -> int:
            raise KeyboardInterrupt

    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); print(1, flush=True); "
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            watched([sys.executable, "-c", code + "time.sleep(60)"], 60.0)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


_CHILD_OF_ITS_OWN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int) -> bool:
    """Whether a process has ended, soon; nobody may have asked for its status."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="nothing lists the processes")
def test_what_is_stopped_takes_sessions_of_its_own_along() -> None:
    code, said = watched([sys.executable, "-c", _CHILD_OF_ITS_OWN], 3.0, quiet=True)
    assert code is None
    assert gone(int(said[0]))


def test_another_thread_stops_a_command() -> None:
    interrupted = threading.Event()
    threading.Timer(0.2, interrupted.set).start()
    start = time.monotonic()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert watched(command, 60.0, interrupted=interrupted) == (None, [])
    assert time.monotonic() - start < 30


_INTERRUPTED = """
import signal, sys, threading, time
from pathlib import Path
from aicl_fast.bench.harness.processes import side_by_side, watched

notes = Path(sys.argv[1])
code = f"import os, time; open({str(notes)!r} + '/' + str(os.getpid()), 'w').close(); time.sleep(60)"

# Ignored where whoever started the tests ignores it, as a shell does for what runs in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupt():
    while len(list(notes.iterdir())) < 3:
        time.sleep(0.05)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    side_by_side(
        lambda _, interrupted: watched([sys.executable, "-c", code], 60.0, interrupted=interrupted), range(3)
    )
except KeyboardInterrupt:
    print([note.name for note in notes.iterdir() if Path(f"/proc/{note.name}").exists()])
"""


def test_an_interruption_ends_all_that_run_side_by_side(tmp_path: Path) -> None:
    # In a process of its own: an interruption that comes late would end the one that runs the tests.
    notes = tmp_path / "started"
    notes.mkdir()
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, str(notes)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr
    assert time.monotonic() - start < 30


def test_what_each_made_comes_in_the_order_given() -> None:
    assert side_by_side(lambda seconds, _: time.sleep(seconds) or seconds, [0.2, 0.0, 0.1]) == [0.2, 0.0, 0.1]
    assert side_by_side(lambda one, _: one, []) == []
