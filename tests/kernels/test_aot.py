"""Every kernel, as it is launched, compiled for GPUs that are not here: none may spill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90, 100, 120])
def test_no_kernel_spills(target: int, tmp_path: Path) -> None:
    # A process of its own: this one has Triton in its interpreter.
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    table = tmp_path / "table.json"
    module = "aicl_fast.kernels._triton_aot"
    done = subprocess.run(
        [sys.executable, "-m", module, "--targets", str(target), "--json", str(table)],
        env=environment,
        # The folder of a checkout would shadow the installed package.
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = {row["kernel"] for row in json.loads(table.read_text())["kernels"]}
    assert kernels == {
        "fusion_fwd_kernel",
        "fusion_bwd_kernel",
        "pool_fwd_kernel",
        "pool_bwd_kernel",
        "mining_kernel",
        "contrast_fwd_kernel",
        "contrast_bwd_kernel",
        "embed_kernel",
        "heads_kernel",
    }
