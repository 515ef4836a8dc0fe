"""decode_batch: the same whatever the threads, and several callers at once."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aicl_fast.config import PRESETS
from aicl_fast.data.detections import Detections
from aicl_fast.decode import decode, decode_batch

PRESET = PRESETS["thumos14"]


def make(seed: int, count: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 400, count).tolist()
    return {
        "scores": [rng.random((length, 20), np.float32) for length in lengths],
        "video_scores": [rng.dirichlet(np.ones(20) * 0.1).astype(np.float32) for _ in lengths],
        "num_segments": rng.integers(1, 3000, count).tolist(),
        "classes": PRESET.classes,
        "data": PRESET.data,
    }


def one_by_one(batch: dict[str, Any], config: Any, backend: Any) -> list[Detections]:
    return [
        decode(s, v, num_segments=n, classes=PRESET.classes, config=config, data=PRESET.data, backend=backend)
        for s, v, n in zip(batch["scores"], batch["video_scores"], batch["num_segments"], strict=True)
    ]


@pytest.mark.parametrize("nms", ["decay_once", "gaussian"])
def test_any_number_of_threads(backend: str, nms: Any) -> None:
    config, batch = replace(PRESET.decode, nms=nms), make(0, 23)
    wanted = one_by_one(batch, config, backend)
    assert sum(map(len, wanted)) > 1000
    for threads in (1, 2, 3, 8, 100, None):
        assert decode_batch(**batch, config=config, backend=backend, threads=threads) == wanted  # type: ignore[arg-type]


def test_eight_callers_at_once(backend: str) -> None:
    # Settings are shared by all callers, and not in use before: they also race to be the first.
    config = replace(PRESET.decode)
    batches = [make(seed, 12) for seed in range(8)]
    wanted = [one_by_one(batch, replace(PRESET.decode), backend) for batch in batches]
    together = threading.Barrier(8)

    def call(number: int) -> bool:
        together.wait()
        same = True
        for turn in range(10):
            batch, expected = batches[(number + turn) % 8], wanted[(number + turn) % 8]
            if turn % 2:
                same &= one_by_one(batch, config, backend) == expected
            else:
                same &= (
                    decode_batch(**batch, config=config, backend=backend, threads=1 + number % 3) == expected
                )  # type: ignore[arg-type]
        return same

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


def test_the_interpreter_lock_is_released(backend: str) -> None:
    # Nobody takes the lock away for 1000 s, so the second thread gets to run before the decoding one is done
    # only if that one gives the lock up.
    rng = np.random.default_rng(0)
    scores, v = rng.random((1500, 50)), np.full(50, 0.9)
    arguments: dict[str, Any] = {
        "num_segments": 3000, "classes": [str(c) for c in range(50)], "data": PRESET.data, "backend": backend,
        "config": replace(PRESET.decode, nms_across_classes=True, nms="hard", nms_tiou=0.9),
    }  # fmt: skip
    decode(scores[:100], v, **arguments)
    events: list[str] = []
    started = threading.Event()

    def work() -> None:
        started.set()
        decode(scores, v, **arguments)
        events.append("decoded")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        started.wait()
        events.append("meanwhile")
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert events == ["meanwhile", "decoded"]
