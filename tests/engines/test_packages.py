"""OpenVINO converts, reads and compiles without a word to any host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino")

SILENT = """
import os, socket, sys
if len(sys.argv) > 2:
    import openvino  # as a program may have done before
for name in ("CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL", "TRAVIS"):
    os.environ.pop(name, None)
tried = []
def never(*arguments, **_):
    tried.append(arguments)
    raise OSError("no network in this test")
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, never)
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = never
import atexit
from pathlib import Path
import numpy as np
import onnx
from aicl_fast import Detector
from aicl_fast.engines.onnx_file import read_onnx
from aicl_fast.export.openvino import write
from aicl_fast.export.options import ExportOptions
from aicl_fast.metadata import parse_info
source, file = Path(sys.argv[1]), Path("m.openvino")
write(onnx.load(source), parse_info(read_onnx(source), source), file, ExportOptions(format="openvino"), None)
for name in (file, source):
    Detector(name, engine="openvino", threads=1)(np.zeros((40, 11), np.float32))
@atexit.register  # after all threads, an executor's too, have done what they had to
def check():
    assert not tried, tried
    from openvino.tools.ovc import convert_impl
    assert convert_impl.tm.__name__.endswith("telemetry_stub"), convert_impl.tm
    assert not list(Path(os.environ["HOME"]).rglob("*telemetry*"))
    print("silent")
"""


@pytest.mark.parametrize("before", [(), ("openvino imported before",)], ids=["after us", "before us"])
def test_no_telemetry(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = subprocess.run(
        [sys.executable, "-c", SILENT, str(tiny_model.with_suffix(".onnx")), *before],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("silent\n")


def test_the_package_can_be_imported_afterwards(tmp_path: Path) -> None:
    pytest.importorskip("openvino_telemetry")
    program = (
        "from aicl_fast.engines.packages import import_openvino\n"
        "assert import_openvino('this').__name__ == 'openvino'\n"
        "import openvino_telemetry\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
