"""Every kernel, as it is launched, compiled for GPUs that are not here: none may spill."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")


_SPECIALISED = """
import torch
from aicl_fast.kernels import aot
from aicl_fast.kernels import mine_segments, topk_pool, segment_contrast
from aicl_fast.kernels.mining import Mining

def pool(batch, k):
    cas = torch.rand(batch, 750, 20, requires_grad=True)
    topk_pool(cas, cas.detach(), k)[0].sum().backward()

def contrast(batch):
    embedding = torch.rand(batch, 64, 16, requires_grad=True)
    segment_contrast(embedding, Mining(*torch.zeros(4, batch, 64, dtype=torch.bool)), 0.1).backward()

def mine(batch, k):
    mine_segments(torch.rand(batch, 750), torch.rand(batch, 750), k)

def all_of(batch, k):
    return lambda: (mine(batch, k), pool(batch, k), contrast(batch))

cases = [("", all_of(1, 16)), ("", all_of(16, 1)), ("", all_of(3, 5))]
found = {}
for launch in aot.record(90, cases):
    source, options = aot.source_of(launch)
    key = repr((source.signature, source.constants, source.attrs, options))
    found.setdefault(launch.kernel.__name__, set()).add(key)
print({name: len(keys) for name, keys in found.items()})
"""


def test_one_compilation_serves_any_batch_and_any_k(outside: Callable[..., Any]) -> None:
    done = outside("-c", _SPECIALISED)
    assert done.returncode == 0, done.stderr
    names = (
        "mining_kernel",
        "pool_fwd_kernel",
        "pool_bwd_kernel",
        "contrast_fwd_kernel",
        "contrast_bwd_kernel",
    )
    assert ast.literal_eval(done.stdout) == dict.fromkeys(names, 1)


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90, 100, 120])
def test_no_kernel_spills(target: int, tmp_path: Path, outside: Callable[..., Any]) -> None:
    table = tmp_path / "table.json"
    module = "aicl_fast.kernels.aot"
    done = outside("-m", module, "--targets", str(target), "--json", str(table))
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = {row["kernel"] for row in json.loads(table.read_text())["kernels"]}
    # Float8 exists from 8.9 on.
    assert kernels == ({"float8_kernel"} if target > 80 else set()) | {
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
