"""Who imports PyAV and OpenCV, and what is said where they are not installed."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> set[str]:
    """Packages that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_video_alone_imports_them() -> None:
    users = {
        path.relative_to(ROOT).parts[:2]
        for package in ("aicl_fast", "kernels", "export", "train")
        for path in (ROOT / package).rglob("*.py")
        if imported(path) & {"av", "cv2"}
    }
    assert users == {("aicl_fast", "video")}


@pytest.mark.parametrize("package", ["aicl_fast", "aicl_fast.video"])
def test_every_public_name_is_where_it_is_said_to_be(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("missing", ["av", "cv2"])
@pytest.mark.parametrize("name", ["extract_features", "read_frames", "render_video"])
def test_what_is_missing_is_named(missing: str, name: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import aicl_fast.video\n"
        "from aicl_fast.errors import UnavailableError\n"
        f"try: aicl_fast.video.{name}\n"
        "except UnavailableError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if missing == "cv2" and name == "read_frames":
        assert done.stdout == ""  # reading alone needs no OpenCV
    else:
        assert "pip install 'aicl-fast[video]'" in done.stdout


@pytest.mark.parametrize("command", [["features", "a.mp4", "-o", "f"], ["detect", "MODEL", "a.mp4"]])
def test_the_commands_say_it(command: list[str], tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    model = str(tiny_model.with_suffix(".onnx"))
    arguments = [model if part == "MODEL" else part for part in command]
    code = "import sys; sys.modules['av'] = None\nfrom aicl_fast.cli import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "pip install 'aicl-fast[video]'" in done.stderr
