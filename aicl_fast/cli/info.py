"""info: what is installed, what a preset sets, what a model file holds."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from aicl_fast.cli.console import show, titled_table
from aicl_fast.files import require_file

if TYPE_CHECKING:
    from aicl_fast.config import Config
    from aicl_fast.metadata import SegmentInfo

_PACKAGES = (
    "numpy", "numba", "onnxruntime", "torch", "triton", "safetensors", "onnx", "openvino", "tensorrt",
    "tensorrt-rtx-cu13-bindings", "cuda-python", "matplotlib", "av", "opencv-contrib-python-headless",
)  # fmt: skip


def run(
    model: Annotated[
        Path | None, Argument(help="A model file; without one, the installation and the presets are shown.")
    ] = None,
    preset: Annotated[str | None, Option("--preset", "-p", help="Show every setting of this preset.")] = None,
) -> None:
    """Show what is installed, what a preset sets, or what a model file holds.

    Examples:

      aicl-fast info

      aicl-fast info --preset thumos14

      aicl-fast info runs/demo/model.onnx
    """
    from aicl_fast.config import load_config

    if model is not None:
        _print_model(model)
    elif preset is not None:
        _print_config(f"preset {preset}", load_config(preset))
    else:
        _print_installation()


def _print_model(path: Path) -> None:
    """What a file says about itself, also where nothing here could run it."""
    from aicl_fast.engines.checksum import mapped
    from aicl_fast.engines.safetensors_file import read_header
    from aicl_fast.metadata import (
        I3D,
        METADATA_KEY,
        SegmentInfo,
        parse_info,
        parse_metadata,
        parse_segment_info,
        read_document,
    )

    if path.suffix == ".safetensors":
        with mapped(require_file(path, "model file")) as data:
            metadata = read_header(data, path)[0]
        if METADATA_KEY in metadata:
            _print_config(str(path), parse_metadata(metadata[METADATA_KEY], path))
            return
    from aicl_fast.engines.registry import I3D_SUFFIXES

    if path.suffix.lower() in I3D_SUFFIXES:
        from aicl_fast.video.i3d_weights import i3d_hash, load_i3d

        net = load_i3d(path)
        classes = net.logits.conv3d.out_channels
        _print_network(path, SegmentInfo(net.stream, i3d_hash(net), classes=classes))
        return
    text = _read_metadata(path)
    kind, _ = read_document(text, path)
    if kind == I3D:
        _print_network(path, parse_segment_info(text, path))
        return
    info = parse_info(text, path)
    written = {
        "precision": info.precision,
        "batch": str(info.batch),
        "segments": str(info.segments),
        "weights, SHA-256": info.weights or "not recorded",
        "written by": f"aicl_fast {info.version}",
    }
    _print_config(str(path), info.config, written)


def _print_network(path: Path, info: SegmentInfo) -> None:
    rows = {
        "network": info.name,
        "reads": f"{info.frames} frames of {info.size} x {info.size}",
        "gives": f"{info.width} features, {info.classes} classes",
        "weights, SHA-256": info.weights,
    }
    if info.version:  # exported, not weights as they came
        rows |= {
            "precision": info.precision,
            "batch": str(info.batch),
            "written by": f"aicl_fast {info.version}",
        }
    _print_rows(str(path), rows)


def _read_metadata(path: Path) -> str | None:
    from aicl_fast.engines.container import is_container, read_container

    if path.is_file() and is_container(path):
        return read_container(path).metadata
    from aicl_fast.engines.openvino import open_model
    from aicl_fast.engines.registry import options_of

    if path.suffix != ".xml":
        options_of(path)  # refuses what is no model file
    return open_model(require_file(path, "model file")).metadata


def _print_config(title: str, config: Config, written: Mapping[str, str] = MappingProxyType({})) -> None:
    classes = ", ".join(config.classes) or "the data set's own"
    sections = [{**written, "preset": config.preset, "classes": classes}]
    for name in ("data", "model", "loss", "train", "decode", "windows", "evaluate"):
        values = asdict(getattr(config, name)).items()
        sections.append({f"{name}.{field}": _value_text(value) for field, value in values})
    _print_rows(title, *sections, header=True)


def _value_text(value: object) -> str:
    return ", ".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)


def _print_installation() -> None:
    from aicl_fast.config import PRESETS
    from aicl_fast.decode.decoder import available_backends

    own = {
        "aicl-fast": importlib.metadata.version("aicl-fast"),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "decode backends": ", ".join(available_backends()),
        "presets": ", ".join(PRESETS),
    }
    _print_rows("aicl_fast", own, {name: _version(name) for name in _PACKAGES})


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _print_rows(title: str, *sections: Mapping[str, str], header: bool = False) -> None:
    """A table of two columns, with a line between sections."""
    table = titled_table(title, show_header=header)
    table.add_column("setting")
    table.add_column("value", overflow="fold")
    for section in sections:
        for row in section.items():
            table.add_row(*row)
        table.add_section()
    show(table)
