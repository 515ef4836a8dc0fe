"""With every extra alone, and without any, a command works or names the extra that it needs."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from calls import CALLS, run_calls
from conftest import requirements

from aicl_fast.extras import EXTRAS

ALL = sorted(set(importlib.metadata.metadata("aicl-fast").get_all("Provides-Extra") or ()) - {"dev"})
SENTENCE = re.compile(r"needs the package (\w+), which .*: pip install 'aicl-fast\[([a-z-]+)\]'\s*$")
DISTRIBUTIONS = {"cv2": "opencv-contrib-python-headless"}
"""Where it has another name than the package that is imported."""


def check(done: Mapping[str, tuple[int, str]], installed: set[str]) -> None:
    """Hold each call's result against what is installed."""
    wrong = []
    for name, (code, output) in done.items():
        missing = set(CALLS[name].packages) - installed
        found = SENTENCE.search(output)
        package = DISTRIBUTIONS.get(found[1], found[1]) if found else ""
        named = found is not None and package in missing and package in requirements(found[2])
        if code != (2 if missing else 0) or named != bool(missing) or (code and "Traceback" in output):
            wrong.append(f"{name}: {code}, lacks {missing or 'nothing'}\n{output}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [None, *ALL], ids=str)
def test_every_command(
    extra: str | None,
    inputs: Path,
    linked_installation: Callable[[Iterable[str]], Path],
    tmp_path: Path,
) -> None:
    base, installed = requirements(None), requirements(extra)
    # What an extra does not touch behaves as it does without.
    names = [name for name, call in CALLS.items() if extra is None or set(call.packages) & (installed - base)]
    done = run_calls(linked_installation(installed), tmp_path / "work", inputs, names or ["version"])
    check(done, installed)


def test_every_package_names_an_extra_that_has_it() -> None:
    for package, extra in EXTRAS.items():
        assert extra in ALL, package
