"""Decoder.batch: the same whatever the threads, and several callers at once."""

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
from aicl_fast.data.scores import Scores
from aicl_fast.decode.decoder import Decoder

PRESET = PRESETS["thumos14"]


def make(seed: int, count: int) -> list[Scores]:
    """Of several lengths and, since a Decoder is told with each, several frame rates."""
    rng = np.random.default_rng(seed)
    none = np.empty(0, np.float32)
    return [
        Scores(
            rng.random((int(length), 20), np.float32),
            rng.dirichlet(np.ones(20) * 0.1).astype(np.float32),
            none,
            none,
            int(rng.integers(1, 3000)),
            float(rng.choice([25.0, 29.97])),
            int(rng.choice([8, 16])),
            PRESET.classes,
            f"video{number}",
        )
        for number, length in enumerate(rng.integers(1, 400, count))
    ]


def one_by_one(batch: list[Scores], config: Any, backend: Any) -> list[Detections]:
    decoder = Decoder(config, PRESET.classes, backend)
    return [decoder(scores) for scores in batch]


@pytest.mark.parametrize("nms", ["decay_once", "gaussian"])
def test_any_number_of_threads(backend: str, nms: Any) -> None:
    config, batch = replace(PRESET.decode, nms=nms), make(0, 23)
    wanted = one_by_one(batch, config, backend)
    assert sum(map(len, wanted)) > 1000
    decoder = Decoder(config, PRESET.classes, backend)  # type: ignore[arg-type]
    for threads in (1, 2, 3, 8, 100, None):
        assert decoder.batch(batch, threads) == wanted


def test_eight_callers_at_once(backend: str) -> None:
    # The decoder is shared by all callers, and not in use before: they also race to be the first.
    decoder = Decoder(PRESET.decode, PRESET.classes, backend)  # type: ignore[arg-type]
    batches = [make(seed, 12) for seed in range(8)]
    wanted = [one_by_one(batch, PRESET.decode, backend) for batch in batches]
    together = threading.Barrier(8)

    def call(number: int) -> bool:
        together.wait()
        same = True
        for turn in range(10):
            batch, expected = batches[(number + turn) % 8], wanted[(number + turn) % 8]
            if turn % 2:
                same &= [decoder(scores) for scores in batch] == expected
            else:
                same &= decoder.batch(batch, threads=1 + number % 3) == expected
        return same

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


def test_the_interpreter_lock_is_released(backend: str) -> None:
    # Nobody takes the lock away for 1000 s, so the second thread gets to run before the decoding one is done
    # only if that one gives the lock up.
    rng = np.random.default_rng(0)
    scores, v = rng.random((1500, 50)), np.full(50, 0.9)
    config = replace(PRESET.decode, nms_across_classes=True, nms="hard", nms_tiou=0.9)
    decoder = Decoder(config, [str(c) for c in range(50)], backend)  # type: ignore[arg-type]
    decoder.decode(scores[:100], v, 3000, 25.0, 16)
    events: list[str] = []
    started = threading.Event()

    def work() -> None:
        started.set()
        decoder.decode(scores, v, 3000, 25.0, 16)
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
