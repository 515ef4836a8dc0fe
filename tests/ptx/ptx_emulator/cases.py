"""Every kernel at small shapes, emulated and compared with its reference.

    PYTHONPATH=tests/ptx .venv/bin/python -m ptx_emulator.cases [group or case ...]

Prints a line of JSON a case: its name, the mode, the kernels that ran, and what was wrong (null if nothing).
Exits with 1 if something was. Needs a process without ``TRITON_INTERPRET``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from aicl_fast.kernels import two_branch, two_branch_weights
from aicl_fast.kernels.cases import F8, F32, Spec, specs
from aicl_fast.kernels.harness import ROUNDING, TF32, build, complete, distinct, expected, launched
from ptx_emulator.faults import Fault
from ptx_emulator.groups import GROUPS
from ptx_emulator.launch import emulation

FLOAT8_SUMS = 3e-3


@dataclass(frozen=True)
class Case:
    """One comparison, made once in each mode; ``run`` raises AssertionError or a Fault."""

    group: str
    name: str
    run: Callable[[], None]


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Compare by norm with a reference of higher precision; NaN never passes."""
    assert actual.shape == expected.shape, what
    difference = (actual.double() - expected.double()).norm().item()
    scale = expected.double().norm().item()
    assert difference <= tolerance * max(scale, 1e-6), f"{what}: off by {difference:.3g} of {scale:.3g}"


def _for_products(weights: Tensor) -> Tensor:
    """As for a GPU: products in tf32 take the nearest weights."""
    return two_branch_weights.nearest_tf32(weights) if weights.dtype == torch.float32 else weights


def _compare(spec: Spec) -> None:
    """Outputs and gradients of the kernels against the reference's in float64."""
    with patch.object(two_branch_weights, "_for_products", _for_products):
        case = build(spec)
    inputs = case.make(torch.Generator().manual_seed(0))
    right = expected(case, inputs, distinct)
    network = spec.operation in ("network", "embeddings")
    tolerance = TF32 if network and spec.dtype == F32 else ROUNDING[spec.dtype]
    for number, (ours, theirs) in enumerate(
        zip(complete(case, case.kernels, distinct)(inputs), right, strict=True)
    ):
        if theirs.dtype == torch.bool:
            assert torch.equal(ours, theirs), f"output {number}"
        else:
            close(ours, theirs, tolerance, f"output {number}")


def _float8_sums() -> None:
    """Many steps of the inner dimension: every one has to reach the sum."""
    case = build(Spec("embeddings", (1, 100, 512, 128, 24, 5), F8, "rows", ""))
    weights = two_branch_weights.pack_two_branch(case.state, F8, input_scale=1 / 64)
    (features,) = case.make(torch.Generator().manual_seed(0))
    x = two_branch_weights.float8_features_reference(features, weights.input_scale)
    with launched("whole, boxes"):
        embeddings = two_branch.two_branch_embed(x, weights)
    scale = weights.scale
    assert scale is not None
    # What was rounded to float8, multiplied in float64: what is left is the embeddings' own rounding.
    own = replace(
        weights,
        rgb=weights.rgb.double(),
        flow=weights.flow.double(),
        bias=weights.bias.double(),
        scale=scale.double(),
    )
    expected = two_branch.two_branch_embed_reference(x.double() * weights.input_scale, own)
    for what, ours, theirs in zip(embeddings._fields, embeddings, expected, strict=True):
        close(ours, theirs, FLOAT8_SUMS, what)


def _group(spec: Spec) -> str:
    if spec.dtype == F8:
        return "float8"
    if spec.operation in ("network", "embeddings"):
        return f"network, {spec.way or 'whole, boxes'}"
    return "contrast" if spec.operation == "contrast" else "scores"


def cases() -> Iterator[Case]:
    """Every kernel, layout, way to launch and dtype, not all of them with each other."""
    for spec in specs("ptx"):
        yield Case(_group(spec), f"{spec.operation} {spec.name}", partial(_compare, spec))
    yield Case("float8", "sums of many float8 products", _float8_sums)


def run(chosen: list[Case]) -> Iterator[dict[str, Any]]:
    """Run cases in both modes; what was found, case by case."""
    with emulation() as emulated:
        for case in chosen:
            for mode in ("eager", "lazy"):
                emulated.lazy = mode == "lazy"
                emulated.launched.clear()
                error = None
                try:
                    case.run()
                except (Fault, AssertionError) as wrong:
                    error = f"{type(wrong).__name__}: {wrong}"
                emulated.forget()
                yield {"case": case.name, "mode": mode, "kernels": list(emulated.launched), "error": error}


def main(arguments: list[str] | None = None) -> int:
    """Run the groups or cases named, all without a name; 1 if something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="a group, or a part of a case's name")
    names = parser.parse_args(arguments).names
    every = list(cases())
    assert {case.group for case in every} == set(GROUPS), "tests/ptx/ptx_emulator/groups.py names them all"
    chosen = [
        case for case in every if not names or any(name == case.group or name in case.name for name in names)
    ]
    if not chosen:
        parser.error(f"no case of {names}; the groups are {sorted(GROUPS)}")
    failed = False
    for found in run(chosen):
        failed |= found["error"] is not None
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
