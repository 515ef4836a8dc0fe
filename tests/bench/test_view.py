"""The source without an installation, as `make gpu` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import aicl_fast

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def view(tmp_path: Path) -> dict[str, str]:
    """An environment with links to the source, and to whatever else is installed."""
    package = tmp_path / "view" / "aicl_fast"
    package.mkdir(parents=True)
    for path in (ROOT / "aicl_fast").iterdir():
        (package / path.name).symlink_to(path)
    for folder in ("kernels", "export", "train", "bench"):
        (package / folder).symlink_to(ROOT / folder)
    others = tmp_path / "others"
    others.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "aicl" not in path.name:
            (others / path.name).symlink_to(path)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'view'}{os.pathsep}{others}"}


def run(view: dict[str, str], code: str) -> str:
    # -S: the editable installation's hook is not there either.
    command = [sys.executable, "-S", "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=view, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_version_is_pyprojects() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    assert f'version = "{aicl_fast.__version__}"' in lines


def test_a_view_writes_model_files_and_records(view: dict[str, str]) -> None:
    code = """
import importlib.metadata
try: importlib.metadata.version("aicl-fast")
except importlib.metadata.PackageNotFoundError: pass
else: raise SystemExit("installed")
from aicl_fast.bench.harness.record import environment
from aicl_fast.config import load_config
from aicl_fast.metadata import model_metadata, parse_metadata
print(environment()["versions"]["aicl-fast"])
parse_metadata(model_metadata(load_config("thumos14")), "x")
"""
    assert run(view, code).strip() == aicl_fast.__version__


@pytest.mark.long
def test_the_benches_own_models_need_no_tensorboard(view: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    code = f"""
import sys
from pathlib import Path
sys.modules["tensorboard"] = sys.modules["torch.utils.tensorboard"] = None
from aicl_fast.bench.harness import models
from aicl_fast.train.synthetic import SyntheticConfig
models.SIZED = SyntheticConfig(train_videos=4, test_videos=2, width=16, longest=60.0)
models._SIZED_TRAINING = ("steps=1", "batch_size=2", "eval_every=1", "embedding_width=8", "segments=16")
what = models.thumos_subject(Path({str(tmp_path)!r}))
before = what.weights.stat().st_mtime_ns
assert models.thumos_subject(Path({str(tmp_path)!r})).weights.stat().st_mtime_ns == before
print(len(what.recordings))
"""
    assert run(view, code).strip() == "2"
