"""Every reader meets files that a fuzzer changed, five seconds each; FUZZ_SECONDS=10 and more take longer.

``make fuzz`` goes on for hours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from targets import TARGETS

RUN = Path(__file__).with_name("run.py")
SECONDS = os.environ.get("FUZZ_SECONDS", "5")


@pytest.mark.parametrize("target", list(TARGETS))
def test_a_reader_gives_a_result_or_an_error_of_ours(
    target: str, tmp_path: Path, fork_python: Callable[..., Any]
) -> None:
    pytest.importorskip("atheris")
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    TARGETS[target].seeds(seeds)
    code = f"import sys; sys.path.insert(0, {str(RUN.parent)!r}); import run; sys.exit(run.main())"
    done = fork_python(
        "-c", code, target, "--seconds", SECONDS, "--seeds", str(seeds), "--keep", str(tmp_path / "kept")
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "stat::number_of_executed_units" in done.stderr + done.stdout


def test_a_fault_is_found_and_kept(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv.pop(1)); import run, targets; "
        "targets.TARGETS['split'] = targets.Target(targets._splits, lambda path: 1 / ('x' not in "
        "path.read_text('latin-1')), '.txt', ('x',)); sys.exit(run.main())"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(RUN.parent),
        "split",
        "--runs",
        "100000",
        "--keep",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert list((tmp_path / "split").glob("crash-*"))
