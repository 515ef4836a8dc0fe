"""The suite `train`: a contender whose loss is another is not timed, and keeps none from being."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from aicl_fast.bench.suites import train


def steps(**losses: float) -> dict[str, Any]:
    return {name: lambda value=value: torch.tensor(value) for name, value in losses.items()}


def test_what_disagrees_has_a_row_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = steps(ours=3.0001, bfloat16=3.02, wrong=3.02, nothing=float("nan"))
    every = {train.BASELINE: lambda: torch.tensor(3.0), **found}
    monkeypatch.setattr(train, "contenders", lambda *_: every)
    out = tmp_path / "train.json"
    train.main(["--batch", "1", "--segments", "4", "--seconds", "0", "--threads", "1", "--json", str(out)])
    rows = {row["step"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == [train.BASELINE, "ours", "bfloat16", "wrong", "nothing"]
    assert {name for name, row in rows.items() if "p50_ms" in row} == {train.BASELINE, "ours", "bfloat16"}
    assert rows["wrong"]["failed"] == "its first loss is 3.02, the reference's 3"
    assert rows["nothing"]["correct"] is False
