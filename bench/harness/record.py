"""What every recorded result says of where it comes from, and the one way it is written."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aicl_fast import __version__
from aicl_fast.bench.harness import machine
from aicl_fast.errors import DataError
from aicl_fast.files import read_json, write_json

SCHEMA = 1
_PACKAGES = (
    "numpy", "numba", "pandas", "onnx", "onnxruntime", "torch", "triton", "openvino", "nncf",
    "tensorrt", "tensorrt-rtx-cu13-libs",
)  # fmt: skip
RESULTS = Path(__file__).resolve().parents[1] / "results"
"""Where results are kept."""
STATUSES = ("measured", "not measured", "cut off", "failed")
"""Of a suite in a file of several."""
BUSY = 1.2
"""Load a core, in the minute before a suite, from which a machine is busy."""
UNKNOWN = "unknown"
"""The commit, where there is neither git nor AICL_COMMIT."""
HEADER = ("schema", "suite", "device", "cores", "system", "versions", "commit", "date")
"""What a file of several suites says once for all of them."""


def environment() -> dict[str, Any]:
    """Device, system, versions, commit, date and command of this process."""
    return {
        "schema": SCHEMA,
        "device": device_name(),
        "cores": os.cpu_count(),
        # What else the machine was doing, to read times by; the suite's own threads are in it.
        "load_average": load_average(),
        # A GPU's driver, clocks and reasons for throttling are in it.
        "machine": machine.state(),
        **_constants(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": " ".join([_program(), *map(_without_folder, sys.argv[1:])]),
    }


@functools.cache
def _constants() -> dict[str, Any]:
    """What stays while a process runs, and starts others to be found out: a suite writes after every row."""
    versions = {"python": platform.python_version(), "aicl-fast": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "commit": _commit(),
    }


def warn_if_busy() -> None:
    """Say so where the machine was busy before: times and ratios mean less then."""
    load = load_average()
    if load is not None and load > BUSY * (os.cpu_count() or 1):
        sys.stderr.write(
            f"warning: this machine was busy in the last minute (load {load:.1f} on {os.cpu_count()} cores): "
            "what runs in several threads will seem slower than it is\n"
        )


def load_average() -> float | None:
    """Of the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A recorded file of one or several suites.

    Raises:
        DataError: no such file, not JSON, or not what ``results.schema.json`` describes: rows that are no
            objects, a suite without its status, or without the reason why it was not measured.
    """
    result = _renamed(read_json(path, "result file"))
    if not isinstance(result, dict):
        raise DataError(f"{path}: expected a result file, an object; got a {type(result).__name__}.")
    suites = result.get("suites", {})
    if not isinstance(suites, dict):
        raise DataError(f"{path}: suites: expected an object, got a {type(suites).__name__}.")
    if not suites:
        _require_rows(f"{path}", result)
    for name, part in suites.items():
        where = f"{path}: {name}"
        status = part.get("status") if isinstance(part, dict) else None
        if status not in STATUSES:
            raise DataError(f"{where}: expected a status of {', '.join(STATUSES)}, got {status!r}.")
        if status != "measured" and not isinstance(part.get("reason"), str):
            raise DataError(f"{where}: is {status} and does not say the reason.")
        if status == "measured" or "rows" in part:
            _require_rows(where, part)
    return result


def _renamed(value: Any) -> Any:
    """Names and fields of earlier records as they are now."""
    if isinstance(value, dict):
        return {_renamed(name): _renamed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner) for inner in value]
    return value.replace("textbook", "reference") if isinstance(value, str) else value


def _require_rows(where: str, part: Mapping[str, Any]) -> None:
    rows = part.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{where}: expected rows, a list of objects. Is it a file of `aicl-fast bench`?")


def device_name() -> str:
    """The GPU's name where torch is loaded and finds one, else the processor's."""
    if machine.on_gpu():
        return str(sys.modules["torch"].cuda.get_device_name())
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def slug(name: str) -> str:
    """A device's name as file names have it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_result(
    path: str | os.PathLike[str], suite: str, rows: Sequence[Mapping[str, Any]], **more: Any
) -> None:
    """Write one suite's rows with :func:`environment`, whole or not at all.

    Args:
        path: the JSON file, by custom under ``bench/results/``.
        suite: the suite's name.
        rows: plain values; what a row holds is the suite's own.
        more: further fields beside the rows.
    """
    write_json(path, {"suite": suite, **environment(), **more, "rows": list(rows)})


def _commit() -> str:
    """The commit of the source, with a mark where the source differs from it; empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    commands = (
        ["rev-parse", "--short=12", "HEAD"],
        # Results that were just written do not make the source another one.
        ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results"],
    )
    said = []
    for command in commands:
        try:
            done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
        except OSError:
            return _given_commit()
        if done.returncode != 0:
            return _given_commit()
        said.append(done.stdout.strip())
    return said[0] + ("-dirty" if said[1] else "")


def _given_commit() -> str:
    """Of a copy without its history: AICL_COMMIT, which may be longer than what is recorded."""
    found = re.fullmatch(r"([0-9a-f]{12})[0-9a-f]*(-dirty)?", os.environ.get("AICL_COMMIT", ""))
    return UNKNOWN if found is None else found[1] + (found[2] or "")


def _without_folder(argument: str) -> str:
    """An absolute path's last part, also in ``--option=path``: where things lie here concerns nobody."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return option + equals + (Path(value).name if value.startswith("/") else value)


def _program() -> str:
    if sys.argv[0].startswith("aicl-fast "):
        return sys.argv[0]
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return f"python -m {spec.name if spec is not None else Path(sys.argv[0]).name}"
