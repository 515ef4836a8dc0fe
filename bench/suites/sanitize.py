"""compute-sanitizer on every Triton kernel, and the run of each that it watches."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aicl_fast.bench.harness.processes import side_by_side, watched
from aicl_fast.bench.harness.record import write_result
from aicl_fast.bench.suites.kernel_cases import FAMILIES, cases, check, reason
from aicl_fast.errors import UnavailableError

TOOLS = ("memcheck", "racecheck", "initcheck")
_FOUND = 9
"""What compute-sanitizer is told to exit with when it finds something."""


def run_once(only: str, device: torch.device) -> int:
    """Every kernel once at modest sizes, for a sanitizer or a check; 1 if one is wrong.

    Inputs and references are the processor's, so that nearly all that runs on the device is ours.
    """
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for case in cases(only, True, device):
        try:
            error = check(case, case.kernels, case.make(generator), device)
        except Exception as failure:
            wrong += 1
            print(f"{case.family:<9} {case.name:<58} FAILED {reason(failure)}", flush=True)
            continue
        right = error <= case.allowed
        wrong += not right
        print(f"{case.family:<9} {case.name:<58} error {error:.1e}{'' if right else ' WRONG'}", flush=True)
    return 1 if wrong else 0


def _once(only: str) -> list[str]:
    return [sys.executable, "-P", "-m", "aicl_fast.bench", "kernels", "--once", "--only", only]


def _compile_all(only: str, seconds: float) -> None:
    """Fill Triton's cache on disk, a process a family: within a sanitizer compiling takes far longer."""
    families = [family for family in FAMILIES if only in family]
    ended = side_by_side(
        lambda family, interrupted: watched(_once(family), seconds, quiet=True, interrupted=interrupted),
        families,
    )
    for family, (code, lines) in zip(families, ended, strict=True):
        if code:
            print(f"{family}: {''.join(lines)[-1000:]}")


def sanitize(only: str, path: Path | None, seconds: float, tools: Sequence[str] = TOOLS) -> int:
    """Run every kernel once under compute-sanitizer; 1 unless each tool ran to its end and found nothing.

    All kernels are checked, torch's too: inputs and references are the processor's, so few are torch's.

    Args:
        only: families whose name contains this.
        path: where to record; None records nothing.
        seconds: that a tool may take; compiling counts for the first. One that takes longer is said not to
            have finished.
        tools: of memcheck, racecheck and initcheck.
    Raises:
        UnavailableError: there is no compute-sanitizer, or it refuses the device.
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise UnavailableError("compute-sanitizer is not on the PATH; it comes with the CUDA toolkit.")
    # Without torch's cache every tensor is an allocation, so that a step beyond its end is seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    _compile_all(only, seconds)
    for tool in tools:
        command = [program, "--tool", tool, "--error-exitcode", str(_FOUND), *_once(only)]
        left = max(1.0, seconds - (time.perf_counter() - start))
        code, lines = watched(command, left, environment, quiet=True)
        if any("Device not supported" in line for line in lines):
            raise UnavailableError("compute-sanitizer: it does not support this device.")
        if code:
            print("".join(lines)[-3000:])
        if code is None:
            found = f"not finished in {seconds:g} s"
        elif code in (0, _FOUND):
            found = "something" if code else "nothing"
        else:
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            found = f"failed: {last[:200] or f'exit status {code}'}"
        rows.append({"tool": tool, "found": found, "seconds": time.perf_counter() - start})
        print(f"{tool:<10} found {found}", flush=True)
        if path is not None:
            write_result(path, "sanitize", rows)
        start = time.perf_counter()
    return 0 if all(row["found"] == "nothing" for row in rows) else 1
