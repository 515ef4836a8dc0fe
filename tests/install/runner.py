"""Runs commands of aicl-fast one after another, each in a process of its own: ``runner.py commands.json``.

The interpreter that runs this is the installation that is tried. What takes long to import is imported once,
and every command starts as a fork of that.
"""

import contextlib
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

SLOW = ("numpy", "torch", "torch._dynamo", "onnxscript", "numba", "matplotlib")
"""Neither onnxruntime nor openvino: how they are imported is part of what is tried."""


def run(arguments: list[str], output: Path) -> int:
    """The exit status of a command whose output goes to a file."""
    child = os.fork()
    if child == 0:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = ["aicl-fast", *arguments]
        code = 1
        try:
            from aicl_fast.cli import main

            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_all(commands: dict[str, list[str]]) -> dict[str, tuple[int, str]]:
    """Exit status and output of each command."""
    for name in SLOW:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    output = Path("output.txt")
    done = {}
    for name, arguments in commands.items():
        started = time.perf_counter()
        code = run(arguments, output)
        sys.stdout.write(f"{name}: {code} after {time.perf_counter() - started:.1f} s\n")
        sys.stdout.flush()
        done[name] = (code, output.read_text(encoding="utf-8", errors="replace"))
    return done


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(json.dumps(run_all(json.loads(file.read_text()))))
