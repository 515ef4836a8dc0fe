"""With every extra alone, and without any, a command works or names the extra that it needs.

Installations by pip in fresh environments: ``make install-base`` and ``make install-matrix``. They take
minutes and a package index. What is tried is in AICL_FAST_INSTALL: ``base``, an extra, ``lowest``, or ``all``
of these.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest
from calls import CALLS, run_calls
from conftest import requirements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aicl_fast.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
WANTED = os.environ.get("AICL_FAST_INSTALL")
ALL = sorted(set(importlib.metadata.metadata("aicl-fast").get_all("Provides-Extra") or ()) - {"dev"})
LARGE = ("tensorrt", "tensorrt-rtx")
"""Only resolved: they are gigabytes, and need a GPU to run anything."""
LOWEST = "train,export,openvino,plot,video,triton,demo"
SENTENCE = re.compile(r"needs the package (\w+), which .*: pip install 'aicl-fast\[([a-z-]+)\]'\s*$")
DISTRIBUTIONS = {"cv2": "opencv-contrib-python-headless"}
"""Where it has another name than the package that is imported."""
asked_for = pytest.mark.skipif(WANTED is None, reason="only by make install-base and make install-matrix")


def wanted(name: str) -> None:
    """Skip what was not asked for."""
    if WANTED not in ("all", name):
        pytest.skip(f"AICL_FAST_INSTALL is {WANTED}")


def install(home: Path, *arguments: str) -> Path:
    """Make an environment, install there, and return its interpreter."""
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-compile"]
    done = subprocess.run([*pip, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if "special placeholder package" in done.stderr:
        pytest.skip("the vendor's own index, from which TensorRT is downloaded, cannot be reached")
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def installed(python: Path) -> set[str]:
    """Names of the distributions in an environment."""
    code = (
        "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()), sep='\\n')"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return {canonicalize_name(name) for name in done.stdout.split()}


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


def test_every_package_names_an_extra_that_has_it() -> None:
    for package, extra in EXTRAS.items():
        assert extra in ALL, package


@asked_for
@pytest.mark.parametrize("extra", ["base", *ALL])
def test_an_installation(extra: str, inputs: Path, tmp_path: Path) -> None:
    wanted(extra)
    target = "." if extra == "base" else f".[{extra}]"
    if extra in LARGE:
        install(tmp_path / "environment", "--dry-run", "-c", "constraints.txt", target)
        return
    python = install(tmp_path / "environment", "-c", "constraints.txt", target)
    check(run_calls(python, tmp_path / "work", inputs, list(CALLS)), installed(python))


@asked_for
def test_the_lowest_versions(inputs: Path, tmp_path: Path) -> None:
    wanted("lowest")
    limits = {}
    named = [Requirement(line) for line in importlib.metadata.requires("aicl-fast") or ()]
    for requirement in named:
        for each in requirement.specifier:
            if each.operator == ">=" and requirement.name != "torch":  # the CPU's build is offered once only
                limits[requirement.name] = f"{requirement.name}=={each.version}"
    file = tmp_path / "lowest.txt"
    file.write_text("\n".join(sorted(limits.values())) + "\n")
    python = install(tmp_path / "environment", "-c", str(file), f".[{LOWEST}]")
    trained = {
        canonicalize_name(each.name)
        for each in named
        if not each.marker or each.marker.evaluate({"extra": "train"})
    }
    assert trained <= installed(python)
    check(run_calls(python, tmp_path / "work", inputs, list(CALLS)), installed(python))
