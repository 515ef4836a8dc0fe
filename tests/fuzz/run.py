"""Change files and read them again, many times: ``python tests/fuzz/run.py TARGET --seconds 10``.

libFuzzer, through atheris, changes the files and keeps those that reach new code. A run ends at an exception
that is no AiclError, at a read of over 20 seconds, or at 2 GiB of memory; the file that did it is kept.

    python tests/fuzz/run.py --list
    python tests/fuzz/run.py annotations --runs 100000
    python tests/fuzz/run.py annotations --file build/fuzz/annotations/crash-…   reads one file again
    python tests/fuzz/run.py --all --runs 100000 --record bench/results/fuzz.json
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from targets import TARGETS, Target

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
_LARGEST = 1 << 16
_WATCHED = (
    "aicl_fast",
    "tomllib",
    "zipfile",
    "numpy.lib._format_impl",
    "csv",
    "torch._weights_only_unpickler",
)
_TIMEOUT, _MEMORY = 20, 2048
"""Seconds of one read; MiB of the process."""


def main() -> int:
    """Run one target in this process, or several in processes of their own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="*", help="which readers")
    parser.add_argument("--all", action="store_true", help="every reader")
    parser.add_argument("--list", action="store_true", help="name them and stop")
    parser.add_argument("--runs", type=int, help="stop after this many files")
    parser.add_argument("--seconds", type=int, help="stop after this long")
    parser.add_argument("--seed", type=int, default=1, help="of the changes")
    parser.add_argument("--file", type=Path, help="read this file alone")
    parser.add_argument("--seeds", type=Path, help="a folder of files to begin with; else they are made")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where faults are kept")
    parser.add_argument("--record", type=Path, help="write what was done as JSON")
    options = parser.parse_args()
    names = list(TARGETS) if options.all else options.target
    unknown = [name for name in names if name not in TARGETS]
    if options.list or unknown or not names:
        print("\n".join(TARGETS) if options.list else f"expected one of {', '.join(TARGETS)}, or --all")  # noqa: T201
        return 0 if options.list else 2
    if options.file is not None:
        with tempfile.TemporaryDirectory() as scratch:
            read_one(TARGETS[names[0]], options.file.read_bytes(), Path(scratch))
        return 0
    if len(names) == 1 and options.record is None:
        fuzz(names[0], TARGETS[names[0]], options)
    return several(names, options)


def read_one(target: Target, data: bytes, scratch: Path) -> None:
    """Read one file's bytes; an AiclError is what should come."""
    from aicl_fast.errors import AiclError

    path = scratch / f"file{target.suffix}"
    path.write_bytes(data)
    with warnings.catch_warnings(), contextlib.suppress(AiclError):
        warnings.simplefilter("ignore")
        target.read(path)


def fuzz(name: str, target: Target, options: argparse.Namespace) -> None:
    """Hand over to libFuzzer, which ends the process."""
    import atheris

    os.environ["PYTHONWARNINGS"] = "ignore"
    logging.disable()
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    kept = options.keep / name
    for folder in (scratch / "seeds", scratch / "new", kept):
        folder.mkdir(parents=True, exist_ok=True)
    if options.seeds is None:
        target.seeds(scratch / "seeds")
    else:
        shutil.copytree(options.seeds, scratch / "seeds", dirs_exist_ok=True)
    for seed in sorted((scratch / "seeds").iterdir()):
        read_one(target, seed.read_bytes(), scratch)  # imports all that is to be watched
    for function in _functions():
        atheris.instrument_func(function)
    words = scratch / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    arguments = [
        sys.argv[0], str(scratch / "new"), str(scratch / "seeds"), f"-max_len={_LARGEST}", f"-dict={words}",
        f"-timeout={_TIMEOUT}", f"-rss_limit_mb={_MEMORY}", f"-seed={options.seed}",
        f"-artifact_prefix={kept}/", "-print_final_stats=1", "-len_control=0",
    ]  # fmt: skip
    if (CORPUS / name).is_dir():
        arguments.append(str(CORPUS / name))
    arguments += [f"-runs={options.runs}"] if options.runs else []
    arguments += [f"-max_total_time={options.seconds}"] if options.seconds else []
    atheris.Setup(arguments, lambda data: read_one(target, data, scratch), custom_mutator=_mutator(target))
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _functions() -> Iterator[types.FunctionType]:
    """Those of the readers and of the parsers in Python below them, which say what a file reaches."""
    for name, module in list(sys.modules.items()):
        if not name.startswith(_WATCHED):
            continue
        for value in list(vars(module).values()):
            members = list(vars(value).values()) if isinstance(value, type) else [value]
            for member in members:
                function = getattr(member, "__func__", getattr(member, "__wrapped__", member))
                if isinstance(function, types.FunctionType) and function.__module__ == name:
                    yield function


def _mutator(target: Target) -> Any:
    """Half of the time a part behind the checksums is changed, and the file is put together again."""
    import atheris

    def change(data: bytes, largest: int, seed: int) -> bytes:
        if target.format is not None and seed % 2:
            with contextlib.suppress(Exception):  # what is no such file any more is changed as it is
                parts = target.format.take(data)
                number = (seed // 2) % len(parts)
                parts[number] = atheris.Mutate(parts[number], len(parts[number]) + 64)
                made = target.format.make(parts)
                if len(made) <= largest:
                    return made
        return bytes(atheris.Mutate(data, largest))

    return change


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode("utf-8", "surrogatepass"))


def several(names: list[str], options: argparse.Namespace) -> int:
    """Each target in a process of its own; a line for each, and what ended a run."""
    rows: list[dict[str, Any]] = []
    for name in names:
        command = [sys.executable, __file__, name, "--seed", str(options.seed), "--keep", str(options.keep)]
        command += ["--runs", str(options.runs)] if options.runs else []
        command += ["--seconds", str(options.seconds)] if options.seconds else []
        started = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )
        said = done.stdout + done.stderr
        count = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
        rows.append(
            {
                "target": name,
                "files": int(count[1]) if count else 0,
                "seed": options.seed,
                "seconds": round(time.perf_counter() - started, 1),
                "faults": int(done.returncode != 0),
            }
        )
        print(rows[-1], flush=True)  # noqa: T201
        if done.returncode:
            print(said[-6000:], flush=True)  # noqa: T201
        if options.record is not None:
            _record(options.record, rows[-1])
    return int(any(row["faults"] for row in rows))


def _record(path: Path, row: dict[str, Any]) -> None:
    """Put one target's row in place of its earlier one, with the commit that it is of."""
    from aicl_fast.bench.harness.record import environment, read_result, write_result

    row["commit"] = environment()["commit"]
    before = read_result(path)["rows"] if path.is_file() else []
    rows = {each["target"]: each for each in [*before, row]}
    write_result(path, "fuzz", list(rows.values()), memory_mib=_MEMORY, timeout_s=_TIMEOUT)


if __name__ == "__main__":
    sys.exit(main())
