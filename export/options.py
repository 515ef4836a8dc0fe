"""What to export and how: the options of all formats, as the command line and Python give them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aicl_fast.errors import ConfigError
from aicl_fast.metadata import Range, read_range

Progress = Callable[[int, int, str], None]
"""Told (steps done, steps in all, phase) while TensorRT builds."""

CALIBRATED = ("int8", "fp8")
"""The precisions that need real features."""


@dataclass(frozen=True)
class BuildOptions:
    """How TensorRT builds an engine. None and False are its own choices."""

    workspace_mb: int | None = None
    """Most memory that a layer may use while it runs, in MiB."""
    compute_capability: tuple[str, ...] = ()
    """TensorRT-RTX: the cards to compile for, as ``8.6``; empty is every card from Ampere (8.0) on."""
    hardware_compatible: bool = False
    """TensorRT: runs on any card from Ampere on, somewhat slower, instead of this one alone."""
    version_compatible: bool = False
    """TensorRT: later versions of the same major one can run it, too."""
    refittable: bool = False
    """New weights can be put in without building again."""
    timing_cache: Path | None = None
    """TensorRT: file that keeps measured kernel times from one build to the next."""
    log: Path | None = None
    """File for all that the builder reports."""


@dataclass(frozen=True)
class ServerOptions:
    """How the Triton Inference Server runs the model."""

    name: str = "aicl"
    """The model's name, and its folder's."""
    backend: str = "onnx"
    """``onnx`` (ONNX Runtime) or ``tensorrt`` (a plan, built here, for this card)."""
    instances: int = 1
    """How many copies run at once, on each device."""
    kind: str = "auto"
    """Where: ``auto``, ``cpu`` or ``gpu``."""
    delay_us: int = 1000
    """How long a request may wait for others to share a batch with, in microseconds."""


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Attributes:
        format: a name in :data:`aicl_fast.export.formats.FORMATS`, or of another package's format.
        precision: of the products; the format's row says which it has.
        batch: videos per run; None is 1 to 64.
        segments: T; None is the settings'.
        calibrate: data set folder whose training features calibrate int8 and fp8.
        calibrate_videos: how many of them at most.
        seed: selects which.
        convolution: ``direct``; ``winograd``, with half the products and a file twice as large, equal to
            rounding; ``auto`` is winograd where the format gains by it.
        build: TensorRT's options.
        server: the Triton Inference Server's options.
        opset: of ONNX, for older or newer runtimes; None is 18 (int8: 19, fp8: 21, bf16: 22).
        allow_missing: skip videos of ``calibrate`` that have no features.
    """

    format: str = "onnx"
    precision: str = "fp32"
    batch: Range | None = None
    segments: Range | None = None
    calibrate: Path | None = None
    calibrate_videos: int = 32
    seed: int = 0
    convolution: str = "auto"
    build: BuildOptions = field(default_factory=BuildOptions)
    server: ServerOptions = field(default_factory=ServerOptions)
    opset: int | None = None
    allow_missing: bool = False


def parse_range(text: str, name: str) -> Range:
    """``8`` or ``1:8:64`` (smallest, the one to tune for, largest).

    Raises:
        ConfigError: another form, or sizes that do not rise.
    """
    parts = text.split(":")
    if len(parts) in (1, 3) and all(re.fullmatch(r"\s*\d{1,10}\s*", part) for part in parts):
        numbers = [int(part) for part in parts]
        with contextlib.suppress(ValueError):
            return read_range(numbers if len(numbers) == 3 else numbers * 3, name)
    raise ConfigError(
        f"{name}: expected one size or smallest:usual:largest, for example 8 or 1:8:64, got {text!r}."
    )


def check_range(sizes: Range, name: str) -> Range:
    """The sizes, if a dimension can have them.

    Raises:
        ConfigError: no whole numbers that rise from 1.
    """
    try:
        return read_range(sizes, name)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{error}.") from error
