"""info: what is installed, what a preset sets, what a model file holds."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import fields
from pathlib import Path

from rich.table import Table

from aicl_fast.cli.console import out
from aicl_fast.config import PRESETS, Config, load_config

_PACKAGES = (
    "numpy", "numba", "onnxruntime", "torch", "triton", "safetensors", "onnx", "openvino", "tensorrt",
    "tensorrt-rtx-cu13-bindings", "cuda-python", "matplotlib",
)  # fmt: skip


def run_info(model: Path | None, preset: str | None) -> None:
    """``aicl-fast info``."""
    if model is not None:
        _print_config(str(model), _model_config(model))
    elif preset is not None:
        _print_config(f"preset {preset}", load_config(preset))
    else:
        _print_installation()


def _model_config(path: Path) -> Config:
    if path.suffix == ".safetensors":
        from aicl_fast.weights import load_model

        return load_model(path)[1]
    from aicl_fast.engines.container import is_container, read_container

    if path.is_file() and is_container(path):  # also where its engine could not run
        return read_container(path).info.config
    from aicl_fast.engines.ort import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path).config


def _print_config(title: str, config: Config) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("setting")
    table.add_column("value")
    table.add_row("preset", config.preset)
    table.add_row("classes", ", ".join(config.classes) or "the data set's own")
    for section in ("data", "model", "loss", "train", "decode", "evaluate"):
        table.add_section()
        values = getattr(config, section)
        for field in fields(values):
            value = getattr(values, field.name)
            text = ", ".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)
            table.add_row(f"{section}.{field.name}", text)
    out.print(table)


def _print_installation() -> None:
    from aicl_fast.decode import available_backends

    table = Table(title="aicl_fast", title_justify="left", title_style="bold", show_header=False)
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
    out.print(table)
