"""Every suite that this machine can run, one after another, into one file.

    aicl-fast bench all                                        # make bench
    python -P -m aicl_fast.bench.all --device cuda             # make gpu
    aicl-fast bench all --only detect,load --again

Each suite runs in a process of its own. What it found is in `<device>-<date>.json` as soon as it has ended,
so a run that is cut off goes on where it was when it is started again at the same commit; where `--out` has
no earlier file, the newest in bench/results/ is taken up. Where the commit is not known, or the source
differs from it, everything is measured anew. A suite whose packages or device are not here is recorded as not
measured, with the reason; one that fails does not keep the others from running, but the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aicl_fast.bench.record import HEADER, RESULTS, UNKNOWN, environment, slug
from aicl_fast.errors import AiclError, UnavailableError
from aicl_fast.files import read_json, write_json

_ABSENT = 3
"""The exit status of a suite whose packages or device are not here."""
_DONE = ("measured", "not measured")
FILES = "files"
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Step:
    """One suite.

    Attributes:
        name: of its part in the file.
        suite: the module that measures; ``tests`` is pytest.
        arguments: of the suite; FILES stands for a folder of files that suites share.
        most: seconds that it may take.
    """

    name: str
    suite: str
    arguments: tuple[str, ...]
    most: float


CPU: tuple[Step, ...] = (
    Step("load", "load", ("--rounds", "5"), 120),
    Step("engines", "engines", ("--seconds", "30", "--folder", FILES), 270),
    Step("detect", "detect", ("--seconds", "20", "--rounds", "0", "--folder", FILES), 150),
    Step("decode", "decode", ("--rounds", "15"), 120),
    Step("train", "train", ("--seconds", "30"), 200),
    Step("evaluate", "evaluate", ("--rounds", "3"), 120),
    Step("kernels", "kernels", (), 30),
)
# Two calls of --minutes have room for all of it. What compiles for minutes comes last.
GPU: tuple[Step, ...] = (
    Step("kernels", "kernels", ("--no-compile",), 120),
    Step("tests", "tests", (), 180),
    Step("train", "train", ("--device", "cuda", "--seconds", "10", "--no-compile"), 60),
    Step("engines", "engines", ("--device", "cuda", "--seconds", "30", "--folder", FILES), 140),
    Step(
        "detect",
        "detect",
        ("--device", "cuda", "--seconds", "15", "--batch", "1,8,64", "--rounds", "0", "--folder", FILES),
        90,
    ),
    Step("sanitize", "kernels", ("--sanitize", "--seconds", "90"), 100),
    Step("load", "load", ("--rounds", "3"), 50),
    Step("decode", "decode", ("--rounds", "8"), 60),
    Step("train-compiled", "train", ("--device", "cuda", "--seconds", "10", "--compiled"), 100),
    Step("kernels-compiled", "kernels", ("--compiled", "--seconds", "100"), 140),
)


def run(step: Step, folder: Path, seconds: float) -> dict[str, Any]:
    """Run one suite in a process of its own.

    Args:
        step: the suite.
        folder: for what it writes.
        seconds: after which it is stopped.
    Returns:
        Its part of the file: ``status``, with a ``reason`` unless it is ``measured``, and what it recorded.
    """
    part = folder / f"{step.name}.json"
    command = [sys.executable, "-P", "-m", "aicl_fast.bench.all", "--step", step.suite, "--json", str(part)]
    start = time.perf_counter()
    arguments = [str(folder / FILES) if word == FILES else word for word in step.arguments]
    code, said = watched([*command, *arguments], seconds)
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    last = last.removeprefix("not measured: ")[:300]
    found: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 1)}
    if part.is_file():
        recorded = read_json(part, "part")
        found |= {name: value for name, value in recorded.items() if name not in HEADER}
    if code == 0 and "rows" in found:
        return {"status": "measured", **found}
    if code == _ABSENT:
        return {"status": "not measured", "reason": last, **found}
    if code is None:
        return {"status": "cut off", "reason": f"not finished in {seconds:.0f} s", **found}
    return {"status": "failed", "reason": last or f"exit status {code}", **found}


def watched(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    *,
    quiet: bool = False,
) -> tuple[int | None, list[str]]:
    """Run a command, and whatever it starts, for so long at most; an interruption ends them too.

    Args:
        command: with its arguments.
        seconds: after which it is stopped.
        environment: instead of this process's.
        quiet: do not show its output as it comes.
    Returns:
        Its exit status, None if it was stopped, and the lines of its output.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=environment, start_new_session=True,
    )  # fmt: skip
    stopped = threading.Event()

    def end() -> None:
        # It may have started processes of its own, which would keep the machine busy.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def stop() -> None:
        stopped.set()
        end()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
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
        timer.cancel()
        if process.poll() is None:
            end()
            process.wait()
    return (None if stopped.is_set() else code), said


def run_step(suite: str, json: Path, arguments: Sequence[str]) -> int:
    """What a suite's process does."""
    try:
        if suite == "tests":
            return _tests(json, arguments)
        sys.argv = [f"aicl-fast bench {suite}", *arguments]
        main = importlib.import_module(f"aicl_fast.bench.{suite}").main
        return int(main([*arguments, "--json", str(json)]) or 0)
    except (UnavailableError, ModuleNotFoundError) as error:
        print(f"not measured: {_line(error)}")
        return _ABSENT
    except AiclError as error:
        print(f"{suite}: {_line(error)}")
        return 1


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _tests(json: Path, arguments: Sequence[str]) -> int:
    """The tests that need a GPU, in this process's interpreter."""
    folder = _ROOT / "tests"
    if not folder.is_dir():
        raise UnavailableError("the tests are in a checkout only.")
    if importlib.util.find_spec("pytest") is None:
        raise UnavailableError("pytest is not installed.")
    report = json.with_suffix(".xml")
    # The kernels' fixtures mark theirs. A file without any may need what is not installed here.
    marked = [path for path in sorted(folder.rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    files = [str(folder / "kernels"), *(str(path) for path in marked if path.parent.name != "kernels")]
    command = [sys.executable, "-P", "-m", "pytest", *files, "-q", "-m", "gpu", f"--junitxml={report}"]
    command.append("--continue-on-collection-errors")
    code = subprocess.run([*command, *arguments], check=False, cwd=_ROOT).returncode
    if report.is_file():
        counts = xml.etree.ElementTree.parse(report).getroot()[0].attrib
        row = {name: int(counts[name]) for name in ("tests", "failures", "errors", "skipped")}
        write_json(json, {"rows": [row]})
        print(f"{row}")
    return code


def file_for(folder: Path, origin: dict[str, Any]) -> Path:
    """``<device>-<date>.json``."""
    return folder / f"{slug(origin['device'])}-{origin['date']}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and write the file after every suite; 1 if a suite failed or was cut off."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["--step"]:
        return run_step(given[1], Path(given[3]), given[4:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", help="suites, comma-separated")
    parser.add_argument("--again", action="store_true", help="measure anew what the file already has")
    parser.add_argument("--minutes", type=float, default=8.8, help="after which nothing is started (8.8)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the file (bench/results)")
    options = parser.parse_args(given)
    # `timeout` asks to end: what was started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    steps = CPU if options.device == "cpu" else GPU
    if options.only is not None:
        steps = _chosen(steps, options.only.split(","))
    if options.device == "cuda":
        importlib.import_module("torch")  # whose device is then the one that is recorded
    origin = environment()
    path = file_for(options.out, origin)
    suites = _earlier((options.out, RESULTS), origin)
    stop = time.perf_counter() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        for step in steps:
            if suites.get(step.name, {}).get("status") in _DONE and not options.again:
                print(f"== {step.name}: measured already")
                continue
            left = stop - time.perf_counter()
            if left < 5:
                print(f"== {step.name}: no time is left; start this again to go on")
                suites.setdefault(
                    step.name, {"status": "cut off", "reason": "no time was left", "seconds": 0.0}
                )
                continue
            print(f"== {step.name}", flush=True)
            suites[step.name] = run(step, Path(folder), min(step.most, left))
            write_json(path, {**origin, "target": options.device, "suites": suites})
    if suites:
        write_json(path, {**origin, "target": options.device, "suites": suites})
    bad = {name: part for name, part in suites.items() if part["status"] not in _DONE}
    for name, part in suites.items():
        reason = f", {part['reason']}" if "reason" in part else ""
        print(f"{name:10} {part['status']}{reason}")
    print(f"written to {os.path.relpath(path)}")
    return 1 if bad else 0


def _chosen(steps: Sequence[Step], names: Sequence[str]) -> tuple[Step, ...]:
    every = [step.name for step in steps]
    for name in names:
        if name not in every:
            raise AiclError(f"--only: expected some of {', '.join(every)}, got {name!r}.")
    return tuple(step for step in steps if step.name in names)


def _earlier(folders: Sequence[Path], origin: Mapping[str, Any]) -> dict[str, Any]:
    """What the newest run of this device at the same commit has measured, of the first folder that has one.

    A commit that is not known, or that the source differs from, says nothing of what was measured.
    """
    if origin["commit"] == UNKNOWN or origin["commit"].endswith("-dirty"):
        return {}
    for folder in folders:
        # The date is the last part of the name.
        for path in sorted(folder.glob(f"{slug(origin['device'])}-????-??-??.json"), reverse=True):
            before = read_json(path, "result file")
            if before.get("commit") == origin["commit"]:
                found: dict[str, Any] = before["suites"]
                return found
    return {}


if __name__ == "__main__":
    sys.exit(main())
