"""One file of all suites: it grows suite by suite, goes on where it was, and its exit status tells."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aicl_fast.bench import all as runner
from aicl_fast.bench import record
from aicl_fast.bench.all import Step
from aicl_fast.errors import AiclError

SUITE = """
import json, sys, time
json_file = sys.argv[sys.argv.index("--json") + 1]
def record(**more):
    with open(json_file, "w") as file:
        json.dump({"suite": "x", "device": "a chip", "command": "x", "rows": [{"what": "it", **more}]}, file)
kind = sys.argv[-1]
print("measuring", kind)
if kind == "good":
    record()
elif kind == "absent":
    print("not measured: there is no such card.")
    sys.exit(3)
elif kind == "broken":
    sys.exit("it broke")
elif kind == "slow":
    record(partial=True)
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The runner with made-up suites; the list has the command of each that was started."""
    script = tmp_path / "suite.py"
    script.write_text(SUITE)
    started = []
    watched = runner.watched

    def started_instead(command: Any, seconds: float) -> Any:
        words = list(command)
        started.append(words)
        return watched([sys.executable, str(script), *words[words.index("--step") :]], seconds)

    monkeypatch.setattr(runner, "watched", started_instead)
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    kinds = {"first": "good", "second": "absent", "third": "broken", "fourth": "good"}
    monkeypatch.setattr(runner, "CPU", tuple(Step(name, name, (kind,), 20.0) for name, kind in kinds.items()))
    origin = {
        "schema": 1,
        "device": "A Chip (TM) 9",
        "cores": 2,
        "commit": "0123456789ab",
        "date": "2026-01-02",
    }
    monkeypatch.setattr(runner, "environment", lambda: dict(origin))
    return started


def read(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    assert path.name == "a-chip-tm-9-2026-01-02.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_one_that_fails_keeps_none_from_running(steps: list[list[str]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert runner.main(["--out", str(out)]) == 1
    suites = read(out)["suites"]
    assert {name: part["status"] for name, part in suites.items()} == {
        "first": "measured",
        "second": "not measured",
        "third": "failed",
        "fourth": "measured",
    }
    assert suites["second"]["reason"] == "there is no such card."
    assert suites["third"]["reason"] == "it broke"
    assert suites["first"]["rows"] == [{"what": "it"}]
    assert "device" not in suites["first"]
    assert suites["first"]["command"] == "x"


def test_it_goes_on_where_it_was(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert runner.main(["--out", str(out), "--only", "first,second"]) == 0
    assert len(steps) == 2
    assert runner.main(["--out", str(out)]) == 1
    assert [command[command.index("--step") + 1] for command in steps[2:]] == ["third", "fourth"]
    # What failed is tried again, what was measured is not …
    runner.main(["--out", str(out)])
    assert [command[command.index("--step") + 1] for command in steps[4:]] == ["third"]
    # … unless it is asked for, or the source has changed.
    runner.main(["--out", str(out), "--only", "first", "--again"])
    assert len(steps) == 6
    later = {"schema": 1, "device": "A Chip (TM) 9", "commit": "ba9876543210", "date": "2026-01-02"}
    monkeypatch.setattr(runner, "environment", lambda: dict(later))
    runner.main(["--out", str(out), "--only", "first"])
    assert len(steps) == 7
    assert list(read(out)["suites"]) == ["first"]


def test_an_earlier_file_is_taken_up_from_the_kept_results(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where --out was emptied, and the date has changed since."""
    assert runner.main(["--out", str(tmp_path / "results"), "--only", "first"]) == 0
    origin = runner.environment()
    monkeypatch.setattr(runner, "environment", lambda: {**origin, "date": "2026-01-03"})
    assert runner.main(["--out", str(tmp_path / "out"), "--only", "first,fourth"]) == 0
    assert [command[command.index("--step") + 1] for command in steps] == ["first", "fourth"]
    (path,) = (tmp_path / "out").glob("*.json")
    assert path.name == "a-chip-tm-9-2026-01-03.json"
    assert list(json.loads(path.read_text())["suites"]) == ["first", "fourth"]


@pytest.mark.parametrize("commit", ["unknown", "0123456789ab-dirty"])
def test_nothing_is_taken_up_of_a_source_that_is_not_known(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: str
) -> None:
    origin = runner.environment()
    monkeypatch.setattr(runner, "environment", lambda: {**origin, "commit": commit})
    for _ in range(2):
        assert runner.main(["--out", str(tmp_path / "out"), "--only", "first"]) == 0
    assert len(steps) == 2


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
            runner.watched([sys.executable, "-c", code + "time.sleep(60)"], 60.0)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_the_commit_of_a_copy_without_history(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("git")

    monkeypatch.setattr(record.subprocess, "run", no_git)
    for given, expected in (
        ("", "unknown"),
        ("somewhen", "unknown"),
        ("0123456789ab", "0123456789ab"),
        ("0123456789abcdef-dirty", "0123456789ab-dirty"),
    ):
        monkeypatch.setenv("AICL_COMMIT", given)
        assert record._commit() == expected


def test_two_calls_have_room_for_every_step_on_a_gpu() -> None:
    assert sum(step.most for step in runner.GPU) <= 2 * 60 * 8.8


def test_one_that_takes_too_long_is_stopped_and_keeps_what_it_wrote(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CPU", (Step("first", "first", ("slow",), 2.0),))
    start = time.monotonic()
    assert runner.main(["--out", str(tmp_path / "out")]) == 1
    assert time.monotonic() - start < 30
    part = read(tmp_path / "out")["suites"]["first"]
    assert part["status"] == "cut off"
    assert part["reason"] == "not finished in 2 s"
    assert part["rows"] == [{"what": "it", "partial": True}]


def test_nothing_is_started_when_the_time_is_up(steps: list[list[str]], tmp_path: Path) -> None:
    assert runner.main(["--out", str(tmp_path / "out"), "--minutes", "0"]) == 1
    assert not steps
    suites = read(tmp_path / "out")["suites"]
    assert {part["reason"] for part in suites.values()} == {"no time was left"}


def test_an_unknown_suite(steps: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(AiclError, match="--only: expected some of first, second, third, fourth, got 'fifth'"):
        runner.main(["--only", "first,fifth"])


def test_what_a_suite_lacks_is_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    assert runner.run_step("no_such_suite", tmp_path / "x.json", []) == 3
    assert "not measured: No module named" in capsys.readouterr().out
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runner.run_step("kernels", tmp_path / "x.json", []) == 3
    assert "not measured: there is no CUDA device" in capsys.readouterr().out


def test_every_step_is_of_a_suite_that_there_is() -> None:
    from aicl_fast.bench import SUITES

    for plan in (runner.CPU, runner.GPU):
        assert {step.suite for step in plan} <= {*SUITES, "tests"}
        assert len({step.name for step in plan}) == len(plan)
    assert {"kernels", "engines", "detect", "train"} <= {step.suite for step in runner.GPU}
