"""Installations by pip in fresh environments: ``make install-base`` and ``make install-matrix``.

They take minutes and a package index. What is tried is in AICL_FAST_INSTALL: ``base``, an extra, ``lowest``,
or ``all`` of these.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import venv
from pathlib import Path

import pytest
from calls import CALLS, run_calls
from conftest import requirements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_extras import ALL, check

ROOT = Path(__file__).resolve().parents[2]
WANTED = os.environ.get("AICL_FAST_INSTALL")
LARGE = ("tensorrt", "tensorrt-rtx")
"""Only resolved: they are gigabytes, and need a GPU to run anything."""
LOWEST = "train,export,openvino,plot,video,triton,demo"

pytestmark = pytest.mark.skipif(WANTED is None, reason="only by make install-base and make install-matrix")


def wanted(name: str) -> None:
    """Skip what was not asked for."""
    if WANTED not in ("all", name):
        pytest.skip(f"AICL_FAST_INSTALL is {WANTED}")


def install(home: Path, *arguments: str) -> Path:
    """Make an environment, install there, and return its interpreter."""
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], cwd=ROOT, check=True)
    return python


def installed(python: Path) -> set[str]:
    """Names of the distributions in an environment."""
    code = (
        "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()), sep='\\n')"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return {canonicalize_name(name) for name in done.stdout.split()}


@pytest.mark.parametrize("extra", ["base", *ALL])
def test_an_installation(extra: str, inputs: Path, tmp_path: Path) -> None:
    wanted(extra)
    target = "." if extra == "base" else f".[{extra}]"
    if extra in LARGE:
        install(tmp_path / "environment", "--dry-run", "-c", "constraints.txt", target)
        return
    python = install(tmp_path / "environment", "-c", "constraints.txt", target)
    check(run_calls(python, tmp_path / "work", inputs, list(CALLS)), installed(python))


def test_the_lowest_versions(inputs: Path, tmp_path: Path) -> None:
    wanted("lowest")
    limits = {}
    for requirement in map(Requirement, importlib.metadata.requires("aicl-fast") or ()):
        for each in requirement.specifier:
            if each.operator == ">=" and requirement.name != "torch":  # the CPU's build is offered once only
                limits[requirement.name] = f"{requirement.name}=={each.version}"
    file = tmp_path / "lowest.txt"
    file.write_text("\n".join(sorted(limits.values())) + "\n")
    python = install(tmp_path / "environment", "-c", str(file), f".[{LOWEST}]")
    assert requirements("train") <= installed(python)
    check(run_calls(python, tmp_path / "work", inputs, list(CALLS)), installed(python))
