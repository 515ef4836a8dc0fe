"""Every recorded result follows the published schema and says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

jsonschema = pytest.importorskip("jsonschema")

ROOM = Path(__file__).resolve().parents[2] / "bench"
SCHEMA = json.loads((ROOM / "results.schema.json").read_text(encoding="utf-8"))
RESULTS = sorted((ROOM / "results").glob("*.json"))
ORIGIN = {
    "schema": 1, "device": "a chip", "cores": 2, "load_average": 0.1, "machine": {"clock_mhz": 2000},
    "system": "Linux x86_64", "versions": {"python": "3.11.7"}, "commit": "0123456789ab",
    "date": "2026-01-01", "command": "aicl-fast bench train",
}  # fmt: skip
ROW = {"step": "ours", "p50_ms": 1.0, "times_faster": 2.0, "times_faster_interval": [1.5, 2.5]}


def errors(result: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(result)]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_results_follow_the_schema(path: Path) -> None:
    assert errors(json.loads(path.read_text(encoding="utf-8"))) == []


def run(**part: Any) -> dict[str, Any]:
    whole = {"status": "measured", "seconds": 1.0, "command": "aicl-fast bench train", "rows": [ROW], **part}
    return {**ORIGIN, "target": "cpu", "suites": {"train": whole}}


def test_both_forms_pass() -> None:
    assert errors({**ORIGIN, "suite": "train", "rows": [ROW]}) == []
    assert errors(run()) == []
    assert errors({**run(), "commit": "unknown"}) == []
    absent = {"status": "not measured", "reason": "there is no CUDA device", "seconds": 0.1}
    assert errors({**ORIGIN, "target": "cpu", "suites": {"kernels": absent}}) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {**ORIGIN, "suite": "train", "rows": []},
        {name: value for name, value in ORIGIN.items() if name != "device"} | {"suite": "t", "rows": [ROW]},
        {**ORIGIN, "suite": "train", "rows": [ROW], "commit": "somewhen"},
        {**ORIGIN, "suite": "train", "rows": [ROW], "commit": ""},
        {**ORIGIN, "suite": "train", "rows": [{**ROW, "p50_ms": 0.0}]},
        {**ORIGIN, "suite": "train", "rows": [{**ROW, "times_faster_interval": [1.0]}]},
        {**ORIGIN, "suite": "sweep", "rows": [{**ROW, "candidates": [{"settings": {}}]}]},
        {**ORIGIN, "target": "cpu", "suites": {}},
        run(status="failed"),
        run(status="splendid"),
        {**ORIGIN, "target": "cpu", "suites": {"kernels": {"status": "measured", "seconds": 1.0}}},
    ],
)
def test_what_does_not_follow_is_told(wrong: Any) -> None:
    assert errors(wrong)
