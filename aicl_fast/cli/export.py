"""export: trained weights to other formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from aicl_fast.cli import parity
from aicl_fast.cli.console import note, progress, show
from aicl_fast.cli.options import AllowMissing, Trust
from aicl_fast.errors import ConfigError
from aicl_fast.files import is_stdout

if TYPE_CHECKING:
    from aicl_fast.export.options import ExportOptions

_BUILDER = "TensorRT"
_SERVER = "Triton Inference Server"
_NO_BF16 = "ONNX Runtime has no bfloat16 convolution on a CPU"
TENSORRT = ("tensorrt", "tensorrt-rtx")


def run(
    model: Annotated[Path, Argument(help="Trained weights (model.safetensors; of I3D also .pt and .npz).")],
    out: Annotated[
        Path | None, Option("--out", "-o", help="File (or folder) to write; beside the weights by default.")
    ] = None,
    network: Annotated[
        str, Option("--model", help="What the weights are of: aicl, i3d-rgb or i3d-flow.")
    ] = "aicl",
    format_: Annotated[
        str | None,
        Option(
            "--format",
            "-f",
            help="onnx, openvino, tensorrt, tensorrt-rtx or triton-repository; by the name of --out if left "
            "out, and onnx without one.",
        ),
    ] = None,
    precision: Annotated[str, Option(help="fp32, tf32, fp16, bf16, int8 or fp8.")] = "fp32",
    batch: Annotated[str, Option(help="Videos a run: one size, or smallest:usual:largest.")] = "1:8:64",
    segments: Annotated[
        str | None, Option(help="T: one size, or smallest:usual:largest; the model's by default.")
    ] = None,
    opset: Annotated[
        int | None,
        Option(
            help="ONNX files: up to 23, from 15 (int8 19, fp8 21, bf16 22); 18, or the lowest, by default."
        ),
    ] = None,
    verify: Annotated[
        bool, Option("--verify", help="Run the file against the weights; exit 1 past tolerance.")
    ] = False,
    data: Annotated[Path | None, Option("--data", "-d", help="Data set folder to verify on.")] = None,
    allow_missing: AllowMissing = False,
    calibrate: Annotated[
        Path | None, Option(help="int8, fp8: data set folder whose training features calibrate.")
    ] = None,
    calibrate_videos: Annotated[int, Option(min=1, help="int8, fp8: how many at most.")] = 32,
    seed: Annotated[int, Option(help="int8, fp8: chooses which.")] = 0,
    convolution: Annotated[
        str, Option(help="winograd (half the products, a larger file), direct, or auto.")
    ] = "auto",
    workspace: Annotated[
        int | None, Option(help="Most memory of a layer, in MiB.", rich_help_panel=_BUILDER)
    ] = None,
    compute_capability: Annotated[
        str, Option(help="RTX: cards to build for, as 8.6,8.9.", rich_help_panel=_BUILDER)
    ] = "",
    hardware_compatible: Annotated[
        bool, Option("--hardware-compatible", help="For every card from Ampere on.", rich_help_panel=_BUILDER)
    ] = False,
    version_compatible: Annotated[
        bool, Option("--version-compatible", help="Also for later versions.", rich_help_panel=_BUILDER)
    ] = False,
    refittable: Annotated[
        bool, Option("--refittable", help="New weights can be put in later.", rich_help_panel=_BUILDER)
    ] = False,
    refit: Annotated[
        Path | None,
        Option(help="Put the weights into this engine; builds nothing.", rich_help_panel=_BUILDER),
    ] = None,
    trust: Trust = False,
    timing_cache: Annotated[
        Path | None, Option(help="File of kernel times, kept between builds.", rich_help_panel=_BUILDER)
    ] = None,
    log: Annotated[
        Path | None, Option(help="File for all that the builder says.", rich_help_panel=_BUILDER)
    ] = None,
    backend: Annotated[str, Option(help="onnx or tensorrt.", rich_help_panel=_SERVER)] = "onnx",
    name: Annotated[str, Option(help="The model's name.", rich_help_panel=_SERVER)] = "aicl",
    instances: Annotated[int, Option(help="Copies a device.", rich_help_panel=_SERVER)] = 1,
    instance_kind: Annotated[str, Option(help="auto, cpu or gpu.", rich_help_panel=_SERVER)] = "auto",
    queue_delay: Annotated[
        int, Option(help="Longest wait for a fuller batch, in µs.", rich_help_panel=_SERVER)
    ] = 1000,
) -> None:
    """Turn trained weights into a model that runs without torch.

    Examples:

      aicl-fast export runs/demo/model.safetensors

      aicl-fast export model.safetensors --format openvino --precision bf16 --verify --data THUMOS14

      aicl-fast export model.safetensors --format tensorrt-rtx --precision fp16 --batch 1:8:64

      aicl-fast export --model i3d-rgb rgb_imagenet.pt --format openvino --precision bf16 --verify
    """
    from aicl_fast.export.export import check_combination, check_weights, export_model
    from aicl_fast.export.formats import format_of
    from aicl_fast.export.options import BuildOptions, ExportOptions, ServerOptions, parse_range
    from aicl_fast.export.tensorrt.cards import parse_capabilities

    options = ExportOptions(
        format_of(out) if format_ is None else format_,
        precision,
        parse_range(batch, "--batch"),
        None if segments is None else parse_range(segments, "--segments"),
        calibrate,
        calibrate_videos,
        seed,
        convolution,
        BuildOptions(
            workspace,
            parse_capabilities(compute_capability),
            hardware_compatible,
            version_compatible,
            refittable,
            timing_cache,
            log,
        ),
        ServerOptions(name, backend, instances, instance_kind, queue_delay),
        opset,
        allow_missing,
    )
    if allow_missing and data is None and calibrate is None:
        raise ConfigError("--allow-missing: is for a data set; give --verify --data or --calibrate with it.")
    if verify and is_stdout(out):
        raise ConfigError("--verify: runs the file that was written; name one with --out.")
    if network != "aicl":
        if data is not None or refit is not None:
            raise ConfigError(f"--data, --refit: are for a detector's weights; got --model {network}.")
        _export_i3d(network, model, out, options, verify=verify)
        return
    if data is not None and not verify:
        raise ConfigError("--data: is what --verify runs on; give both, or neither.")
    check_combination(options)
    check_weights(model)
    if verify:
        _check_verify(model, options, data)
    if refit is not None:
        target = _refit(model, out, options, refit, trust=trust)
    else:
        target = _build(lambda bar: export_model(model, out, options, progress=bar), options)
    _print_size(target)
    if _bf16_onnx(options):
        note(f"{_NO_BF16}; run this file with --engine openvino")
    if verify:
        written = target / options.server.name / "1" / "model.onnx" if target.is_dir() else target
        # What was built here is known.
        parity.run([str(model), str(written)], data, allow_missing, trust=trust or refit is None)


def _build(write: Callable[[Callable[..., None] | None], Path], options: ExportOptions) -> Path:
    """Write a file, with a bar where that takes long."""
    slow = options.format in TENSORRT
    with progress("building", show=slow) as bar:
        return write(bar if slow else None)


def _bf16_onnx(options: ExportOptions) -> bool:
    return options.format == "onnx" and options.precision == "bf16"


def _export_i3d(
    network: str, weights: Path, file: Path | None, options: ExportOptions, *, verify: bool
) -> None:
    """A segment network; verified on random clips."""
    from aicl_fast.export.i3d import check_i3d_options, export_i3d, verify_i3d

    check_i3d_options(network, options)
    if verify and (options.format in TENSORRT or _bf16_onnx(options)):
        raise ConfigError(
            f"--verify: compares {network} on this processor: in ONNX Runtime, which has no bfloat16 "
            "convolution there, or OpenVINO. Export without it, or --format openvino."
        )
    target = _build(lambda bar: export_i3d(network, weights, file, options, progress=bar), options)
    _print_size(target)
    if _bf16_onnx(options):
        note(f"{_NO_BF16}; for one, export with --format openvino")
    if not verify:
        return
    check = verify_i3d(weights, target)
    verdict = "ok" if check.passed else "FAILS"
    show(
        f"{check.name}, {check.precision}: features differ from float32 torch by {check.apart:.1e} of the "
        f"largest: {verdict}"
    )
    if not check.passed:
        raise typer.Exit(1)


def _print_size(target: Path) -> None:
    if is_stdout(target):
        return
    size = sum(path.stat().st_size for path in [target, *target.rglob("*")] if path.is_file())
    show(f"{target}: {size / 1e6:.1f} MB")


def _check_verify(weights: Path, options: ExportOptions, data: Path | None) -> None:
    """What cannot be verified here is refused before it is built."""
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.weights import load_model

    if _bf16_onnx(options):
        raise ConfigError(
            f"--verify: {_NO_BF16}. Export without --verify, then "
            "compare in OpenVINO: aicl-fast parity model.safetensors openvino:model.onnx"
        )
    if options.format == "triton-repository" and options.server.backend == "tensorrt":
        raise ConfigError("--verify: a bare plan cannot be opened; verify --format tensorrt first.")
    if options.format in TENSORRT:
        from aicl_fast.engines.cuda.driver import Cuda

        Cuda(0).close()
    _, config = load_model(weights)
    length, sizes = config.data.segments, options.segments
    if sizes is not None and not sizes.min <= length <= sizes.max:
        raise ConfigError(
            f"--verify: {weights} runs at its own T, {length}, which --segments {sizes} leaves out. Export "
            "with a range that has it in, or without --verify."
        )
    if data is not None:
        Dataset.open(data, config, splits=("test",), allow_missing=options.allow_missing)


def _refit(model: Path, file: Path | None, options: ExportOptions, old: Path, *, trust: bool) -> Path:
    from aicl_fast.engines.container import read_container
    from aicl_fast.export.export import check_target, exported_onnx, target_of
    from aicl_fast.export.tensorrt.refit import refit_tensorrt
    from aicl_fast.weights import load_model

    if options.format not in TENSORRT:
        raise ConfigError(f"--refit: is for --format tensorrt and tensorrt-rtx; got {options.format}.")
    target = target_of(model, file, options)
    check_target(model, target, options)
    read_container(old)
    graph, info = exported_onnx(*load_model(model), options)
    refit_tensorrt(old, graph, info, target, trust=trust)
    return target
