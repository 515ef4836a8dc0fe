"""info: what is installed, what a preset sets, what a model file holds."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aicl_fast.cli.console import show, titled_table
from aicl_fast.files import require_file

if TYPE_CHECKING:
    from aicl_fast.config import Config
    from aicl_fast.metadata import SegmentInfo

_PACKAGES = (
    "numpy", "numba", "onnxruntime", "torch", "triton", "safetensors", "onnx", "openvino", "tensorrt",
    "tensorrt-rtx-cu13-bindings", "cuda-python", "matplotlib",
)  # fmt: skip


def run(
    model: Annotated[
        Path | None,
        typer.Argument(help="A model file; without one, the installation and the presets are shown."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", "-p", help="Show every setting of this preset."),
    ] = None,
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
    if path.suffix in (".npz", ".pt", ".safetensors"):
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
    rows = {
        "precision": info.precision,
        "batch": str(info.batch),
        "segments": str(info.segments),
        "weights, SHA-256": info.weights or "not recorded",
        "written by": f"aicl_fast {info.version}",
    }
    _print_config(str(path), info.config, rows)


def _print_network(path: Path, info: SegmentInfo) -> None:
    table = titled_table(str(path), show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("network", info.name)
    table.add_row("reads", f"{info.frames} frames of {info.size} x {info.size}")
    table.add_row("gives", f"{info.width} features, {info.classes} classes")
    table.add_row("weights, SHA-256", info.weights)
    if info.version:  # exported, not weights as they came
        table.add_row("precision", info.precision)
        table.add_row("batch", str(info.batch))
        table.add_row("written by", f"aicl_fast {info.version}")
    show(table)


def _read_metadata(path: Path) -> str | None:
    from aicl_fast.engines.container import is_container, read_container

    if path.is_file() and is_container(path):
        return read_container(path).metadata
    from aicl_fast.engines.openvino import open_model

    return open_model(require_file(path, "model file")).metadata


def _print_config(title: str, config: Config, more: Mapping[str, str] | None = None) -> None:
    table = titled_table(title)
    table.add_column("setting")
    table.add_column("value")
    for name, text in (more or {}).items():
        table.add_row(name, text)
    table.add_row("preset", config.preset)
    table.add_row("classes", ", ".join(config.classes) or "the data set's own")
    for section in ("data", "model", "loss", "train", "decode", "evaluate"):
        table.add_section()
        values = getattr(config, section)
        for field in fields(values):
            value = getattr(values, field.name)
            text = ", ".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)
            table.add_row(f"{section}.{field.name}", text)
    show(table)


def _print_installation() -> None:
    from aicl_fast.config import PRESETS
    from aicl_fast.decode.decoder import available_backends

    table = titled_table("aicl_fast", show_header=False)
    table.add_row("aicl-fast", importlib.metadata.version("aicl-fast"))
    table.add_row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    table.add_row("decode backends", ", ".join(available_backends()))
    table.add_row("presets", ", ".join(PRESETS))
    table.add_section()
    for name in _PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        table.add_row(name, version)
    show(table)
