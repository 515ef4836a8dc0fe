"""ONNX to OpenVINO: one .openvino file that holds the model, its weights and the settings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from aicl_fast.engines.container import write_container
from aicl_fast.engines.packages import import_openvino
from aicl_fast.export.options import ExportOptions, Progress
from aicl_fast.export.quantize import slices_first
from aicl_fast.metadata import ModelInfo, SegmentInfo


def require_openvino(_: ExportOptions | None = None) -> Any:
    """The openvino package.

    Raises:
        UnavailableError: it is not installed.
    """
    return import_openvino("--format openvino")


def write(
    model: Any,
    info: ModelInfo | SegmentInfo,
    path: Path,
    options: ExportOptions,
    progress: Progress | None,
) -> None:
    """Write an OpenVINO model as one ``.openvino`` file.

    fp32 and bf16 files hold float32 weights; a bf16 one asks for bfloat16 products when it is opened, which
    leaves the last layers in float32. fp16 files hold float16 weights and are half as large. int8 and fp8
    ones hold what quantisation left.

    Args:
        model: ``onnx.ModelProto`` with float32 products, or quantised.
        info: what the file will say about itself.
        path: the file to write, whole or not at all.
    Raises:
        UnavailableError: openvino is not installed.
    """
    openvino = require_openvino()
    # OpenVINO saves a model as two files with paths of its own.
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "model.onnx")
        source.write_bytes(slices_first(model).SerializeToString())
        converted = openvino.convert_model(str(source))
        target = Path(folder, "model.xml")
        openvino.save_model(converted, str(target), compress_to_fp16=info.precision == "fp16")
        sections = {"xml": target.read_bytes(), "bin": target.with_suffix(".bin").read_bytes()}
    builder = {"name": "openvino", "version": openvino.__version__}
    write_container(path, "openvino", info, builder, sections)
