"""Every suite that this machine can run, one after another, into one file.

    aicl-fast bench all                                        # make bench
    python -P -m aicl_fast.bench all --device cuda             # make gpu
    aicl-fast bench all --only detect,load --again

Each suite runs in a process of its own. What it found is in `<device>-<date>.json` as soon as it has ended,
so a run that is cut off resumes when it is started again at the same commit; where `--out` has
no earlier file, the newest in bench/results/ is taken up. Where the commit is not known, or the source
differs from it, nothing is. A record of another commit is replaced with `--replace` only. A suite whose
packages or device are not here is recorded as not measured, with the reason; one that fails does not keep the
others from running, but the exit status is 1. One that is stopped keeps the rows that it had written.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aicl_fast.bench import module_of
from aicl_fast.bench.harness import machine
from aicl_fast.bench.harness.arguments import seconds
from aicl_fast.bench.harness.processes import watched
from aicl_fast.bench.harness.record import (
    HEADER,
    RESULTS,
    UNKNOWN,
    environment,
    load_average,
    read_result,
    slug,
)
from aicl_fast.errors import AiclError, ConfigError, UnavailableError
from aicl_fast.files import read_json, write_json

_ABSENT = 3
"""The exit status of a suite whose packages or device are not here."""
_DONE = ("measured", "not measured")
_VERDICT = ("status", "reason", "seconds", "load_before", "target")
"""What this program says of a suite, and not the suite itself."""
_ENOUGH = 0.7
"""The share of a step's limit that has to be left for it to be started."""
_ENDED = re.compile(
    r"(?:\[gw\d+\] \[ *\d+%\] )?(?:(\S+::.*?) )?(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b(.*)"
)
"""How ``pytest -v`` says that a test has ended, in one process or in several."""
_NAMED = 20
"""Failed tests that are named."""
FILES = "files"
_ROOT = Path(__file__).resolve().parents[2]


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


_SHORT_VIDEO = ("--turns", "3", "--pairs", "2")
# The limits of what comes last are small, so that it is still started; video leaves the most load behind it.
CPU: tuple[Step, ...] = (
    Step("engines", "engines", ("--seconds", "30", "--folder", FILES), 270),
    Step(
        "detect",
        "detect",
        ("--seconds", "20", "--sustained", "0.5", "--rounds", "0", "--folder", FILES),
        150,
    ),
    Step("train", "train", ("--seconds", "30"), 150),
    Step("evaluate", "evaluate", ("--rounds", "2"), 75),
    Step("load", "load", ("--rounds", "5"), 70),
    Step("decode", "decode", ("--rounds", "12"), 60),
    Step("video", "video", (*_SHORT_VIDEO, "--batch", "1", "--seconds", "1"), 100),
    Step("kernels", "kernels", (), 10),
)
# Three calls of --minutes have room for all of it. What others wait for comes first, what compiles for
# minutes late, then the sanitizer, a tool a step, and last the sweep: what it finds changes the source.
GPU: tuple[Step, ...] = (
    Step("kernels", "kernels", ("--no-compile",), 140),
    Step("tests", "tests", (), 230),
    Step("train", "train", ("--device", "cuda", "--seconds", "10", "--no-compile"), 60),
    Step("engines", "engines", ("--device", "cuda", "--seconds", "30", "--folder", FILES), 140),
    Step(
        "detect",
        "detect",
        ("--device", "cuda", "--seconds", "15", "--batch", "1,8,64", "--rounds", "0", "--folder", FILES),
        90,
    ),
    Step("load", "load", ("--rounds", "3"), 45),
    Step("decode", "decode", ("--rounds", "8"), 40),
    Step("evaluate", "evaluate", ("--rounds", "3"), 55),
    Step("video", "video", (*_SHORT_VIDEO, "--device", "cuda", "--batch", "1,8", "--seconds", "2"), 80),
    Step("train-compiled", "train", ("--device", "cuda", "--seconds", "10", "--compiled"), 100),
    Step("kernels-compiled", "kernels", ("--compiled", "--seconds", "80"), 110),
    *(
        Step(tool, "kernels", ("--sanitize", "--tool", tool, "--limit", "105"), 115)
        for tool in ("memcheck", "racecheck", "initcheck")
    ),
    Step("sweep", "sweep", (), 145),
)
PACKAGES: Mapping[str, str] = {
    "torch": "everything",
    "safetensors": "engines, detect, load, evaluate: everything with a model file",
    "numba": "decoding, where it is not compiled from C++",
    "triton": "kernels, sweep",
    "onnx": "engines, detect, load: ONNX and TensorRT files",
    "onnxscript": "engines, detect, load: ONNX and TensorRT files",
    "onnxruntime": "engines, detect, load: ONNX Runtime",
    "tensorrt": "engines, detect: TensorRT, unless TensorRT-RTX is here",
    "pytest": "tests",
    "xdist": "nothing, but the tests run one after another",
    "hypothesis": "the tests of files that use it",
    "pandas": "evaluate: the evaluator in pandas, the demo's recordings",
    "seglearn": "engines: the demo's model",
    "av": "video: decoding, flow, the whole",
    "cv2": "video: decoding, flow, the whole",
}
"""What a GPU's run uses, by module, and what is not measured without it; a missing one stops nothing else."""
_OPTIONAL = frozenset((*PACKAGES, "openvino", "nncf", "matplotlib", "tensorboard", "tensorrt_rtx_bindings"))
"""The modules whose absence makes a suite one that cannot run here. Without any other one it has failed."""


def run(
    step: Step,
    folder: Path,
    seconds: float,
    earlier: Mapping[str, Any] | None = None,
    *,
    gpu: bool = True,
) -> dict[str, Any]:
    """Run one suite in a process of its own.

    Args:
        step: the suite.
        folder: for what it writes.
        seconds: after which it is stopped.
        earlier: what a run at the same commit had of it when it was stopped; the suite finds it in its file.
        gpu: whether it may see one.
    Returns:
        Its part of the file: ``status``, with a ``reason`` unless it is ``measured``, and what it recorded.
    """
    part = folder / f"{step.name}.json"
    if earlier is not None:
        write_json(part, earlier)
    command = [
        sys.executable,
        "-P",
        "-m",
        "aicl_fast.bench.harness.all",
        "--step",
        step.suite,
        "--json",
        str(part),
    ]
    start, waiting = time.perf_counter(), load_average()
    arguments = [str(folder / FILES) if word == FILES else word for word in step.arguments]
    seen = None if gpu else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    code, said = watched([*command, *arguments], seconds, seen)
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    last = last.removeprefix("not measured: ")[:300]
    # The minute before the suite: what it then adds itself does not count as other people's.
    found: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 1), "load_before": waiting}
    if part.is_file():
        recorded = read_json(part, "part")
        found |= {name: value for name, value in recorded.items() if name not in (*HEADER, *_VERDICT)}
    if not found.get("rows"):
        found.pop("rows", None)
    if code == 0 and "rows" in found:
        return {"status": "measured", **found}
    if code == _ABSENT:
        return {"status": "not measured", "reason": last, **found}
    if code is None:
        return {"status": "cut off", "reason": f"not finished in {seconds:.0f} s", **found}
    why = f"exit status {code}" if code else "it recorded no rows"
    return {"status": "failed", "reason": last if code and last else why, **found}


def run_step(suite: str, json: Path, arguments: Sequence[str]) -> int:
    """What a suite's process does."""
    try:
        if suite == "tests":
            return _tests(json, arguments)
        sys.argv = [f"aicl-fast bench {suite}", *arguments]
        main = importlib.import_module(module_of(suite)).main
        return int(main([*arguments, "--json", str(json)]) or 0)
    except UnavailableError as error:
        print(f"not measured: {_line(error)}")
        return _ABSENT
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OPTIONAL:
            raise
        print(f"not measured: {_line(error)}")
        return _ABSENT
    except AiclError as error:
        print(f"{suite}: {_line(error)}")
        return 1


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _tests(json: Path, arguments: Sequence[str]) -> int:
    """The tests that need a GPU, in this process's interpreter; what is counted is written as they end."""
    folder = _ROOT / "tests"
    if not folder.is_dir():
        raise UnavailableError("the tests are in a checkout only.")
    if importlib.util.find_spec("pytest") is None:
        raise UnavailableError("pytest is not installed.")
    report = json.with_suffix(".xml")
    # The kernels' fixtures mark theirs. A file without any may need what is not installed here.
    marked = [path for path in sorted(folder.rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    files = [str(folder / "kernels"), *(str(path) for path in marked if path.parent.name != "kernels")]
    command = [sys.executable, "-P", "-m", "pytest", *files, "-v", "-m", "gpu", f"--junitxml={report}"]
    command.append("--continue-on-collection-errors")
    if importlib.util.find_spec("xdist") is not None:
        # With the other ways a test that ends its process can keep the rest from ending.
        command += ["-n", "8", "--dist", "worksteal"]
    row: dict[str, Any] = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    failed: list[str] = []
    row["failed_tests"] = failed
    start = time.perf_counter()
    written = start
    with subprocess.Popen(
        [*command, *arguments], cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            verdict = test_ended(line)
            if verdict is None:
                continue
            row["tests"] += 1
            column, name = verdict
            if column:
                row[column] += 1
            if column in ("failures", "errors") and len(failed) < _NAMED:
                failed.append(name)
            if time.perf_counter() > written + 1:
                written = time.perf_counter()
                write_json(json, {"command": "pytest -m gpu", "rows": [row]})
    if report.is_file():
        counts = xml.etree.ElementTree.parse(report).getroot()[0].attrib
        row |= {name: int(counts[name]) for name in ("tests", "failures", "errors", "skipped")}
        write_json(json, {"command": "pytest -m gpu", "rows": [row]})
        print(f"{row}")
    return process.returncode


def test_ended(line: str) -> tuple[str, str] | None:
    """Which column a line of ``pytest -v`` counts in, empty for a test that passed, and the test's name."""
    found = _ENDED.match(line)
    if found is None or "%]" not in line:
        return None
    columns = {"FAILED": "failures", "ERROR": "errors", "SKIPPED": "skipped", "XFAIL": "skipped"}
    return columns.get(found[2], ""), (found[1] or found[3]).strip()


def file_for(folder: Path, origin: dict[str, Any]) -> Path:
    """``<device>-<date>.json``."""
    return folder / f"{slug(origin['device'])}-{origin['date']}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and write the file after every suite; 1 if a suite failed or was cut off.

    Raises:
        UnavailableError: ``--device cuda`` where torch finds none.
        ConfigError: an unknown suite; a folder that cannot be written; a record that would be replaced.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["--step"]:
        return run_step(given[1], Path(given[3]), given[4:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", help="suites, comma-separated")
    parser.add_argument("--again", action="store_true", help="measure again what the file already has")
    parser.add_argument("--replace", action="store_true", help="replace a file of another commit")
    parser.add_argument("--minutes", type=seconds, default=8.8, help="after which nothing is started (8.8)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the file (bench/results)")
    options = parser.parse_args(given)
    # `timeout` asks to end: what was started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    on_gpu = options.device == "cuda"
    steps = GPU if on_gpu else _without_a_gpu(CPU)
    if options.only is not None:
        steps = _chosen(steps, options.only.split(","))
    if on_gpu:
        _say_what_is_missing()
        machine.require("cuda")  # loads torch, whose device is then the one that is recorded
    origin = {**environment(), "target": options.device}
    path = file_for(options.out, origin)
    suites = _earlier((options.out, RESULTS), origin)
    _refuse_to_lose(path, origin, options)
    stop = time.perf_counter() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        for step in steps:
            before = suites.get(step.name, {})
            if before.get("status") in _DONE and not options.again:
                print(f"== {step.name}: measured already")
                continue
            left = stop - time.perf_counter()
            # A suite that is stopped half-way has taken its time from those after it, and takes it again.
            if left < _ENOUGH * step.most:
                print(f"== {step.name}: may take {step.most:g} s, and {max(0, left):.0f} s are left")
                suites.setdefault(
                    step.name, {"status": "cut off", "reason": "no time was left", "seconds": 0.0}
                )
                continue
            print(f"== {step.name}", flush=True)
            half = before if before.get("status") == "cut off" and before.get("rows") else None
            if half is not None:
                half = {**origin, "suite": step.suite, **half}
            found = run(step, Path(folder), min(step.most, left), half, gpu=on_gpu)
            if found["status"] != "cut off" or len(found.get("rows", ())) >= len(before.get("rows", ())):
                suites[step.name] = found
            write_json(path, {**origin, "suites": suites})
    if suites:
        write_json(path, {**origin, "suites": suites})
    bad = {name: part for name, part in suites.items() if part["status"] not in _DONE}
    for name, part in suites.items():
        reason = f", {part['reason']}" if "reason" in part else ""
        print(f"{name:10} {part['status']}{reason}")
    print(f"written to {os.path.relpath(path)}")
    if bad:
        print(f"{', '.join(bad)}: start this again to resume")
    return 1 if bad else 0


def _say_what_is_missing() -> None:
    """Before any time of a lent device is spent."""
    for name, what in PACKAGES.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed; skipped without it: {what}")


def _without_a_gpu(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps, and that of the kernels only where it says that there is no device: `make gpu` has them."""
    return tuple(step for step in steps if step.suite != "kernels" or not machine.has_gpu())


def _chosen(steps: Sequence[Step], names: Sequence[str]) -> tuple[Step, ...]:
    every = [step.name for step in steps]
    for name in names:
        if name not in every:
            raise ConfigError(f"--only: expected some of {', '.join(every)}, got {name!r}.")
    return tuple(step for step in steps if step.name in names)


def _known(commit: str) -> bool:
    return commit != UNKNOWN and not commit.endswith("-dirty")


def _refuse_to_lose(path: Path, origin: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Stop where a record of another source would be replaced unasked, or can never be written.

    Raises:
        ConfigError: one of these; with what to do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: {path.parent} cannot be made ({error.strerror}).") from error
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--out: {path.parent} cannot be written. Choose a folder you may write to.")
    if not path.is_file():
        return
    before = read_result(path)
    same = before.get("commit") == origin["commit"] and before.get("target") == origin["target"]
    if same and _known(origin["commit"]):
        return
    holds = f"{path}: holds a record of {before.get('target')} at commit {before.get('commit')}"
    if options.only is not None:
        raise ConfigError(
            f"{holds}; --only at {origin['commit']} would lose its other suites. Write elsewhere with --out."
        )
    if not options.replace:
        raise ConfigError(
            f"{holds}, and this is {origin['commit']}, which does not resume it. Replace it with "
            "--replace, or write elsewhere with --out."
        )


def _earlier(folders: Sequence[Path], origin: Mapping[str, Any]) -> dict[str, Any]:
    """What the newest run of this device and target at the same commit has measured, of the first folder.

    A commit that is not known, or that the source differs from, says nothing of what was measured.
    """
    if not _known(origin["commit"]):
        return {}
    for folder in folders:
        # The date is the last part of the name.
        for path in sorted(folder.glob(f"{slug(origin['device'])}-????-??-??.json"), reverse=True):
            before = read_result(path)
            if (before.get("commit"), before.get("target")) == (origin["commit"], origin["target"]):
                found: dict[str, Any] = before["suites"]
                return found
    return {}
