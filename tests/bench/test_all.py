"""One file of all suites: it grows suite by suite, resumes where it stopped, and its exit status tells."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aicl_fast.bench import module_of
from aicl_fast.bench.harness import all as runner
from aicl_fast.bench.harness import record
from aicl_fast.bench.harness.all import Step
from aicl_fast.errors import ConfigError, UnavailableError

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

    def started_instead(command: Any, seconds: float, environment: Any = None) -> Any:
        words = list(command)
        started.append(words)
        return watched([sys.executable, str(script), *words[words.index("--step") :]], seconds, environment)

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
    runner.main(["--out", str(out), "--replace"])
    assert len(steps) == 10


def test_the_record_of_another_commit_is_not_lost(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert runner.main(["--out", str(out), "--only", "first,second"]) == 0
    before = read(out)
    origin = runner.environment()
    for commit in ("ba9876543210", "0123456789ab-dirty", "unknown"):
        monkeypatch.setattr(runner, "environment", lambda commit=commit: {**origin, "commit": commit})
        with pytest.raises(ConfigError, match=r"holds a record of cpu at commit 0123456789ab.*--replace"):
            runner.main(["--out", str(out)])
        # Of one suite alone, whatever is said.
        for more in ([], ["--replace"]):
            with pytest.raises(ConfigError, match="would lose its other suites"):
                runner.main(["--out", str(out), "--only", "fourth", *more])
    assert len(steps) == 2
    assert read(out) == before
    assert runner.main(["--out", str(out), "--replace"]) == 1
    assert read(out)["commit"] == "unknown"
    assert list(read(out)["suites"]) == ["first", "second", "third", "fourth"]


def test_a_record_of_the_other_target_is_not_gone_on_with(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert runner.main(["--out", str(out), "--only", "first"]) == 0
    monkeypatch.setattr(runner, "GPU", runner.CPU)
    monkeypatch.setattr(runner.machine, "require", lambda device: None)
    with pytest.raises(ConfigError, match="holds a record of cpu"):
        runner.main(["--out", str(out), "--device", "cuda"])
    assert runner.main(["--out", str(tmp_path / "gpu"), "--device", "cuda", "--only", "first"]) == 0
    assert read(tmp_path / "gpu")["target"] == "cuda"
    assert len(steps) == 2


def test_a_device_that_is_not_there_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    find = runner.importlib.util.find_spec
    monkeypatch.setattr(
        runner.importlib.util, "find_spec", lambda name: None if name == "seglearn" else find(name)
    )
    with pytest.raises(UnavailableError, match="no CUDA device"):
        runner.main(["--device", "cuda", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    assert (
        "seglearn is not installed; skipped without it: engines: the demo's model" in capsys.readouterr().out
    )


def test_a_folder_that_cannot_be_written(steps: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out: .*cannot be made"):
        runner.main(["--out", str(tmp_path / "file" / "out")])
    assert not steps


def test_a_module_says_its_errors_in_a_line() -> None:
    command = [sys.executable, "-P", "-m", "aicl_fast.bench", "all", "--only", "foo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --only: expected some of engines, ")
    assert len(done.stderr.splitlines()) == 1


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
    for number in range(2):
        runner.main(["--out", str(tmp_path / "out"), *["--replace"] * number])
    assert len(steps) == 8


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


def test_three_calls_have_room_for_every_step_on_a_gpu() -> None:
    assert sum(step.most for step in runner.GPU) <= 3 * 60 * 8.8


def test_three_calls_do_all_where_each_step_takes_nine_tenths_of_its_limit(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum alone does not tell: a call ends with a step that has to begin again."""
    now = [0.0]
    ran: list[str] = []

    def run(step: Step, folder: Path, seconds: float, *_: Any, **__: Any) -> dict[str, Any]:
        now[0] += min(0.9 * step.most, seconds)
        if 0.9 * step.most > seconds:
            return {"status": "cut off", "reason": "not finished", "seconds": seconds}
        ran.append(step.name)
        return {"status": "measured", "seconds": 0.9 * step.most, "rows": [{"what": "it"}]}

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(runner.machine, "require", lambda device: None)
    codes = [runner.main(["--device", "cuda", "--out", str(tmp_path / "out")]) for _ in range(3)]
    assert codes == [1, 1, 0]
    assert sorted(ran) == sorted(step.name for step in runner.GPU)
    # The sweep is not what others wait for.
    assert runner.GPU[-1].name == ran[-1] == "sweep"


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
    assert part["load_before"] >= 0


def test_half_a_suite_is_given_to_the_next_run_and_never_lost(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CPU", (Step("first", "first", ("slow",), 2.0),))
    arguments = ["--out", str(tmp_path / "out")]
    assert runner.main(arguments) == 1
    seen: list[Any] = []
    watched = runner.watched

    def early(command: Any, seconds: float, environment: Any = None) -> Any:
        path = Path(command[command.index("--json") + 1])
        seen.append(json.loads(path.read_text()))
        path.write_text(json.dumps({"rows": rows}))
        return None, []

    rows: list[Any] = []
    monkeypatch.setattr(runner, "watched", early)
    assert runner.main(arguments) == 1
    assert seen[0]["rows"] == [{"what": "it", "partial": True}]
    assert (seen[0]["commit"], seen[0]["suite"]) == ("0123456789ab", "first")
    assert read(tmp_path / "out")["suites"]["first"]["rows"] == seen[0]["rows"]
    rows = [{"what": "it"}, {"what": "that"}]
    assert runner.main(arguments) == 1
    assert read(tmp_path / "out")["suites"]["first"]["rows"] == rows
    monkeypatch.setattr(runner, "watched", watched)


def test_a_suite_that_records_nothing_has_failed(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(command: Any, seconds: float, environment: Any = None) -> Any:
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"rows": []}))
        return 0, ["done"]

    monkeypatch.setattr(runner, "watched", nothing)
    assert runner.main(["--out", str(tmp_path / "out"), "--only", "first"]) == 1
    part = read(tmp_path / "out")["suites"]["first"]
    assert (part["status"], part["reason"]) == ("failed", "it recorded no rows")
    assert "rows" not in part


def test_what_has_no_time_left_is_not_started(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = (Step("long", "long", ("good",), 100.0), Step("short", "short", ("good",), 50.0))
    monkeypatch.setattr(runner, "CPU", plan)
    assert runner.main(["--out", str(tmp_path / "out"), "--minutes", "1"]) == 1
    suites = read(tmp_path / "out")["suites"]
    assert {name: part["status"] for name, part in suites.items()} == {
        "long": "cut off", "short": "measured"
    }  # fmt: skip
    assert len(steps) == 1


def test_the_cpus_plan_leaves_the_kernels_to_a_gpus(
    steps: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CPU", (Step("kernels", "kernels", ("absent",), 20.0),))
    monkeypatch.setattr(runner.machine, "has_gpu", lambda: True)
    runner.main(["--out", str(tmp_path / "with")])
    assert not steps
    monkeypatch.setattr(runner.machine, "has_gpu", lambda: False)
    runner.main(["--out", str(tmp_path / "without")])
    assert len(steps) == 1


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("tests/x.py::test_a[b c] PASSED                  [ 12%]", ("", "tests/x.py::test_a[b c]")),
        ("[gw3] [  7%] FAILED tests/x.py::test_a ", ("failures", "tests/x.py::test_a")),
        ("tests/x.py::test_a SKIPPED (no device)          [100%]", ("skipped", "tests/x.py::test_a")),
        ("[gw0] [ 99%] ERROR tests/x.py::test_a ", ("errors", "tests/x.py::test_a")),
        ("SKIPPED [1] tests/x.py:9: no device", None),
        ("FAILED tests/x.py::test_a - AssertionError", None),
        ("tests/x.py::test_a ", None),
    ],
)
def test_a_line_of_pytest(line: str, verdict: Any) -> None:
    assert runner.test_ended(line) == verdict


def test_tests_that_are_stopped_keep_what_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "import pytest, time\npytestmark = pytest.mark.gpu\n"
    for name, body in (("a", "pass"), ("b", "time.sleep(1.2)"), ("c", "time.sleep(1.2); assert 0")):
        source += f"def test_{name}(): {body}\n"
    (tmp_path / "tests" / "kernels").mkdir(parents=True)
    (tmp_path / "tests" / "kernels" / "test_x.py").write_text(source)
    monkeypatch.setattr(runner, "_ROOT", tmp_path)
    written: list[Any] = []
    copied: Any = lambda _, value: written.append(json.loads(json.dumps(value)))  # noqa: E731
    monkeypatch.setattr(runner, "write_json", copied)
    assert runner.run_step("tests", tmp_path / "x.json", ["-n", "0", "-p", "no:cacheprovider"]) == 1
    first, last = (each["rows"][0] for each in (written[0], written[-1]))
    assert 1 <= first["tests"] < 3
    assert first["failures"] == 0
    assert (last["tests"], last["failures"]) == (3, 1)
    assert len(last["failed_tests"]) == 1
    assert last["failed_tests"][0].endswith("test_c")


def test_nothing_is_started_when_the_time_is_up(steps: list[list[str]], tmp_path: Path) -> None:
    assert runner.main(["--out", str(tmp_path / "out"), "--minutes", "0"]) == 1
    assert not steps
    suites = read(tmp_path / "out")["suites"]
    assert {part["reason"] for part in suites.values()} == {"no time was left"}


def test_an_unknown_suite(steps: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="--only: expected some of first, second, third, fourth, got 'fifth'"
    ):
        runner.main(["--only", "first,fifth"])


def test_what_a_suite_lacks_is_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    # A mistake of ours is no package that is missing …
    with pytest.raises(ModuleNotFoundError):
        runner.run_step("no_such_suite", tmp_path / "x.json", [])

    def lacking(*_: Any) -> int:
        raise importlib.metadata.PackageNotFoundError("aicl-fast")

    from aicl_fast.bench.suites import decode

    monkeypatch.setattr(decode, "main", lacking)
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        runner.run_step("decode", tmp_path / "x.json", [])
    # … and a package is.
    monkeypatch.setattr(decode, "main", lambda *_: importlib.import_module("onnxscript"))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert runner.run_step("decode", tmp_path / "x.json", []) == 3
    assert "not measured: " in capsys.readouterr().out
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runner.run_step("kernels", tmp_path / "x.json", []) == 3
    assert "not measured: there is no CUDA device" in capsys.readouterr().out


def test_every_step_is_of_a_suite_that_there_is() -> None:
    from aicl_fast.bench import SUITES

    for plan in (runner.CPU, runner.GPU):
        assert {step.suite for step in plan} <= {*SUITES, "tests"}
        assert len({step.name for step in plan}) == len(plan)
        assert {"engines", "detect", "train", "load", "decode", "evaluate", "video"} <= {
            s.suite for s in plan
        }
    assert {"kernels", "sweep"} <= {step.suite for step in runner.GPU}


def test_every_step_takes_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan whose suite does not know an option fails on the device only."""
    pytest.importorskip("torch")

    class Understood(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: Any, given: Any = None, namespace: Any = None) -> Any:
        parse(parser, given, namespace)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    for step in (*runner.CPU, *runner.GPU):
        if step.suite == "tests":
            continue
        arguments = [str(tmp_path) if word == runner.FILES else word for word in step.arguments]
        main = importlib.import_module(module_of(step.suite)).main
        with pytest.raises(Understood):
            main([*arguments, "--json", str(tmp_path / "x.json")])
