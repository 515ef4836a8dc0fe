"""Raw proposals: their densities, and decoding without curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from aicl_fast.bench.suites.proposals import WEIGHTS, densities, main


def test_densities_are_those_of_every_pair() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 11, 12, 40):
        start = rng.integers(0, 30, n)
        end = start + rng.integers(1, 30, n)
        spans = [set(range(a, b)) for a, b in zip(start, end, strict=True)]
        wanted = []
        for i, one in enumerate(spans):
            overlaps = sorted(len(one & other) / len(one | other) for j, other in enumerate(spans) if j != i)
            wanted.append(np.mean(overlaps[-10:]) if overlaps else 0.0)
        found = densities(np.column_stack((start, end, np.zeros(n))).astype(np.float64))
        np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_every_way_is_recorded(tmp_path: Path) -> None:
    def item(start: float, end: float, score: float) -> dict[str, object]:
        return {"label": "Run", "segment": [start, end], "score": score}

    truth = {"v": {"subset": "train", "annotations": [{"label": "Run", "segment": [1, 4]}]}}
    (tmp_path / "gt.json").write_text(json.dumps({"database": truth}))
    found = {"results": {"v": [item(0.5, 0.6, 0.9), item(1, 4, 0.7), item(1, 4.5, 0.6)]}}
    (tmp_path / "proposals_train.json").write_text(json.dumps(found))
    path = tmp_path / "record.json"
    main(["--data", str(tmp_path), "--json", str(path)])
    record = json.loads(path.read_text())
    assert (record["suite"], record["proposals"], len(record["rows"])) == (
        "proposals",
        3,
        3 * 2 * len(WEIGHTS),
    )
    average = {
        (row["min_seconds"], row["density_weight"]): row["average_mAP"]
        for row in record["rows"]
        if row["nms"] == "hard"
    }
    # The short one comes first, unless it is dropped or the others' density counts.
    assert average[0.0, 0.0] < average[0.0, 1.0] == average[1.0, 0.0] == 1.0
