"""Every kernel against its reference in float64, outputs and gradients, at each size of the table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.kernels import cases  # noqa: E402
from aicl_fast.kernels.harness import OPERATIONS, TF32, build, complete, distinct, expected  # noqa: E402

SPECS = list(cases.specs("test"))
TARGETS = {"cpu": ("float32", "float16"), "cuda": ("float32", "float16", "bfloat16")}


def in_short(spec: cases.Spec, dtype: str) -> bool:
    """Whether the interpreter, which is slow, takes a row in a dtype; `make long` has the others.

    Each row is taken in one: the next of its size, the next size and the next way to launch in the other.
    """
    own = [each for each in SPECS if (each.operation, each.way) == (spec.operation, spec.way)]
    sizes = list(dict.fromkeys(each.shape for each in own))
    same = [each for each in own if each.shape == spec.shape]
    turn = same.index(spec) + sizes.index(spec.shape) + (*cases.WAYS, "").index(spec.way)
    return TARGETS["cpu"][turn % 2] == dtype


def _rows() -> Iterator[Any]:
    for spec, device in itertools.product(SPECS, TARGETS):
        for dtype in TARGETS[device]:
            marks = [pytest.mark.gpu] if device == "cuda" else []
            marks += [pytest.mark.long] if device == "cpu" and not in_short(spec, dtype) else []
            where = "interpreter" if device == "cpu" else device
            name = f"{where}-{dtype}-{spec.operation} {spec.name}"
            yield pytest.param(spec, (device, dtype), marks=marks, id=name)


def test_a_short_run_has_everything_in_every_dtype() -> None:
    for dtype in TARGETS["cpu"]:
        taken = [spec for spec in SPECS if in_short(spec, dtype)]
        for what in ("operation", "way", "standardised", "ties", "count"):
            every = {getattr(spec, what) for spec in SPECS}
            assert {getattr(spec, what) for spec in taken} == every, (what, dtype)
        assert {spec.shape[1] for spec in taken} == {spec.shape[1] for spec in SPECS}
    assert all(in_short(spec, "float32") != in_short(spec, "float16") for spec in SPECS)


@pytest.mark.parametrize(("spec", "target"), list(_rows()), indirect=["target"])
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
