"""An export format: the settings in one line, then the network as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aicl_fast.export.formats import Format


def write(model: Any, info: Any, path: Path, options: Any, progress: Any) -> None:
    path.write_bytes(info.to_json().encode() + b"\n" + model.SerializeToString())


FORMAT = Format("toy", ".toy", ("fp32",), write)
