"""A made-up run of several videos, and a headless browser."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from aicl_fast.data.detections import Detections
from aicl_fast.data.scores import Scores
from aicl_fast.data.writers import save_detections
from aicl_fast.report import save_scores

CLASSES = ("CliffDiving", "Diving", "High jump")


def _browser_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_browser", Path(__file__).with_name("browser.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One headless Chromium for all tests."""
    module = _browser_module()
    executable = module.find()
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(module.NAMES)} is installed (Debian: chromium)")
    opened = module.Browser(executable, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Callable[[Path], Any]]:
    """``page(path)`` opens a report and waits until it has drawn itself. It must not complain of anything."""

    def go(path: Path) -> Any:
        # A page that differs in its hash only would not load again.
        browser.open("about:blank")
        browser.errors.clear()
        browser.requests.clear()
        browser.open(path.as_uri())
        browser.wait("document.documentElement.dataset.ready === 'yes'")
        return browser

    yield go
    assert browser.errors == []


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run("a", videos=5, noise=0.1)`` writes a run's folder with everything in it."""

    def make(
        name: str,
        *,
        videos: int = 5,
        noise: float = 0.5,
        length: int = 60,
        detections: int = 12,
        scores: bool = True,
        seed: int = 0,
        rename: Callable[[int], str] = lambda index: f"video_{index:04d}",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        truth_rng, rng = np.random.default_rng(1), np.random.default_rng(seed)
        database: dict[str, Any] = {}
        found: dict[str, Detections] = {}
        curves: dict[str, Scores] = {}
        for index in range(videos):
            video = rename(index)
            label = CLASSES[index % 3]
            starts = np.sort(truth_rng.choice(np.arange(0, 90, 15), 3, replace=False)).astype(float)
            spans = np.stack([starts, starts + 8], axis=1)
            database[video] = {
                "subset": "test",
                "annotations": [{"label": label, "segment": list(span)} for span in spans],
            }
            drawn = spans[rng.integers(0, 3, detections)] + noise * rng.normal(size=(detections, 2))
            found[video] = Detections(
                np.where(rng.random(detections) < 0.85, label, CLASSES[(index + 1) % 3]),
                np.sort(rng.random(detections))[::-1],
                np.sort(np.maximum(drawn, 0), axis=1),
                video,
            )
            times = np.arange(length) * 100 / length
            active = ((times[:, None] >= starts) & (times[:, None] < starts + 8)).any(axis=1)
            curve = (0.15 + 0.6 * active + 0.1 * rng.random(length)).astype(np.float32)
            curves[video] = Scores(
                np.tile(curve[:, None], (1, 3)) * np.array([1, 0.8, 0.6], np.float32),
                np.ones(3, np.float32) / 3,
                curve,
                1 - curve,
                100,
                25.0,
                25,
                CLASSES,
                video,
            )
        (folder / "gt.json").write_text(json.dumps({"database": database}))
        save_detections(folder / "detections.json", found)
        if scores:
            save_scores(folder / "scores.npz", curves)
        return folder

    return make
