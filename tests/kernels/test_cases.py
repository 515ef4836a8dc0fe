"""Every kernel against its reference in float64, outputs and gradients, at each size of the table."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.kernels import cases  # noqa: E402
from aicl_fast.kernels.harness import OPERATIONS, TF32, build, complete, distinct, expected  # noqa: E402


@pytest.mark.parametrize("spec", list(cases.specs("test")), ids=lambda spec: f"{spec.operation} {spec.name}")
def test_outputs_and_gradients_equal_the_reference(spec, target, assert_close) -> None:
    case = build(replace(spec, dtype=target.dtype), target.device)
    inputs = case.make(torch.Generator().manual_seed(0))
    right = expected(case, inputs, distinct)
    actual = complete(case, case.kernels, distinct)([target.put(value) for value in inputs])
    network = spec.operation in ("network", "embeddings")
    tolerance = (
        TF32
        if network and (target.device.type, target.dtype) == ("cuda", torch.float32)
        else target.tolerance
    )
    for number, (ours, theirs) in enumerate(zip(actual, right, strict=True)):
        if theirs.dtype == torch.bool:
            assert torch.equal(ours.cpu(), theirs), number
        else:
            assert ours.dtype == (torch.float32 if spec.operation == "network" else target.dtype), number
            assert_close(ours, theirs, tolerance, f"output {number}")
    if spec.operation == "pooling":
        assert (actual[1].sum(1) == spec.selected).all()


@pytest.mark.parametrize("user", ["test", "ptx", "aot", "bench"])
def test_every_operation_has_cases_for_every_user(user: str) -> None:
    without = {"embeddings"} if user == "bench" else set()
    assert {spec.operation for spec in cases.specs(user)} == set(OPERATIONS) - without


def test_rows_are_told_apart_by_their_names() -> None:
    for user in ("test", "ptx", "aot", "bench", "sweep"):
        names = [f"{spec.operation} {spec.name}" for spec in cases.specs(user)]
        assert len(set(names)) == len(names)
