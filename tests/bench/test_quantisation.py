"""The comparison of quantisers: what it records, and what it says of those that are not here."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from aicl_fast.bench.suites import quantisation
from aicl_fast.files import read_json


def missing(*_: object) -> None:
    raise ImportError("No module named 'elsewhere'")


def test_quantisers_are_compared(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {
        "as exported": quantisation.Way("int8", quantisation.own),
        "winograd": quantisation.Way("int8", quantisation.own, winograd=True),
        "float results": quantisation.Way("int8", partial(quantisation.by_onnx_runtime, outputs=False)),
        "fp8": quantisation.Way("fp8", quantisation.own),
        "elsewhere": quantisation.Way("int8", missing),
    }
    monkeypatch.setattr(quantisation, "QUANTISERS", chosen)
    record = tmp_path / "q.json"
    arguments = ["--model", tiny_model, "--data", tiny_dataset, "--seeds", 2, "--videos", 2, "--json", record]
    quantisation.main([str(each) for each in arguments])
    found = read_json(record, "record")
    assert found["left_out"] == {"elsewhere": "No module named 'elsewhere'"}
    assert (found["suite"], found["seeds"], found["videos"]) == ("quantisation", 2, 2)
    assert "onnxruntime" in found["quantisers"]
    rows = {row["quantiser"]: row for row in found["rows"]}
    assert list(rows) == ["as exported", "winograd", "float results", "fp8"]
    for row in rows.values():
        assert len(row["mAP"]) == 2
        assert 0 < max(row["largest_error"].values()) < 0.15
    errors = [rows[name]["largest_error"]["scores"] for name in rows]
    assert len(set(errors)) == 4
