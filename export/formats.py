"""From trained weights to a file in any format: what exists, and one function that makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from aicl_fast.config import Config
from aicl_fast.engines.container import is_container
from aicl_fast.errors import ConfigError, DataError, ModelError
from aicl_fast.export.onnx import build_onnx, check_opset, model_info, require_onnx, save_onnx
from aicl_fast.export.tensorrt import (
    BuildOptions,
    check_options,
    export_tensorrt,
    read_timing_cache,
)
from aicl_fast.export.triton_repository import (
    ServerOptions,
    check_repository,
    check_server,
    export_triton_repository,
)
from aicl_fast.files import is_stdout, require_file, require_place
from aicl_fast.metadata import ModelInfo, Precision, Range
from aicl_fast.model import TwoBranchNet
from aicl_fast.weights import load_model

FORMATS: dict[str, tuple[Precision, ...]] = {
    "onnx": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "openvino": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "tensorrt": ("fp32", "tf32", "fp16", "bf16", "int8", "fp8"),
    "tensorrt-rtx": ("fp32", "tf32", "fp16", "bf16", "int8", "fp8"),
    "triton-repository": ("fp32", "tf32", "fp16", "bf16", "int8", "fp8"),
}
"""Format to the precisions that it can be written in."""

CALIBRATED = ("int8", "fp8")
"""The precisions that need real features."""

WINOGRAD: dict[str, tuple[Precision, ...]] = {
    "onnx": ("fp32",),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "tensorrt": ("fp32", "tf32"),
    "tensorrt-rtx": ("fp32", "tf32"),
}
"""Where the convolutions can be written as half as many products: while the graph around them is float32."""

SUFFIXES = {"onnx": ".onnx", "openvino": ".openvino", "tensorrt": ".engine", "tensorrt-rtx": ".engine"}
"""How the files of a format are named."""


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Attributes:
        format: one of :data:`FORMATS`.
        precision: of the products; :data:`FORMATS` says which a format has.
        batch: videos a run; None is 1 to 64.
        segments: T; None is the settings'.
        calibrate: data set folder whose training features calibrate int8 and fp8.
        calibrate_videos: how many of them at most.
        seed: chooses which.
        convolution: ``direct``; ``winograd``, with half the products and a file twice as large, equal to
            rounding; ``auto`` is winograd in ONNX and OpenVINO files of the precisions in :data:`WINOGRAD`.
        build: TensorRT's options.
        server: the Triton Inference Server's options.
        opset: of ONNX, for older or newer runtimes; None is 18 (int8: 19, fp8: 21, bf16: 22).
        allow_missing: leave out videos of ``calibrate`` that have no features.
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


_PLAIN = ExportOptions()


def check_combination(options: ExportOptions) -> None:
    """Refuse what cannot be written, before any work starts.

    Raises:
        ConfigError: a format, precision or option that does not exist or go together; with those that do.
        UnavailableError: a package or device that the format needs is not here.
    """
    format_, precision = options.format, options.precision
    if format_ not in FORMATS:
        raise ConfigError(f"--format: expected {', '.join(FORMATS)}, got {format_!r}.")
    possible = FORMATS[format_]
    if format_ == "triton-repository" and options.server.backend == "onnx":
        # The server runs ONNX in ONNX Runtime.
        possible = ("fp32", "fp16", "int8", "fp8")
    if precision not in possible:
        where = [name for name, precisions in FORMATS.items() if precision in precisions]
        if format_ == "triton-repository" and precision in FORMATS[format_]:
            where[where.index(format_)] = f"{format_} with --backend tensorrt"
        also = f" {precision} exists for {', '.join(where)}." if where else ""
        raise ConfigError(
            f"--precision: expected {' or '.join(possible)} for --format {format_}, got {precision!r}.{also}"
        )
    if options.convolution not in ("auto", "direct", "winograd"):
        raise ConfigError(f"--convolution: expected auto, direct or winograd, got {options.convolution!r}.")
    if options.convolution == "winograd" and precision not in WINOGRAD.get(format_, ()):
        have = ", ".join(f"{name} {'/'.join(kinds)}" for name, kinds in WINOGRAD.items())
        raise ConfigError(f"--convolution: winograd exists for {have}; got {format_} {precision}.")
    if options.opset is not None:
        if format_ != "onnx" and (format_, options.server.backend) != ("triton-repository", "onnx"):
            raise ConfigError(f"--opset: is for --format onnx and triton-repository; got --format {format_}.")
        check_opset(options.opset, precision)
    calibrated = precision in CALIBRATED
    if calibrated and options.calibrate is None:
        raise ConfigError(
            f"--calibrate: {precision} needs real features: name a data set folder, whose training videos "
            "are used."
        )
    if not calibrated and options.calibrate is not None:
        raise ConfigError(f"--calibrate: is for --precision int8 and fp8; got --precision {precision}.")
    if not calibrated and (options.calibrate_videos, options.seed) != (_PLAIN.calibrate_videos, _PLAIN.seed):
        raise ConfigError(
            f"--calibrate-videos, --seed: are for --precision int8 and fp8; got --precision {precision}."
        )
    if options.calibrate_videos < 1:
        raise ConfigError(f"--calibrate-videos: expected at least 1, got {options.calibrate_videos}.")
    if options.seed < 0:
        raise ConfigError(f"--seed: expected 0 or more, got {options.seed}.")
    if calibrated and options.segments is not None and not options.segments.fixed:
        raise ConfigError(f"--segments: {precision} is calibrated at one T; give one size.")
    if format_ != "triton-repository" and options.server != _PLAIN.server:
        raise ConfigError(
            "--name, --backend, --instances, --instance-kind and --queue-delay are for --format "
            f"triton-repository; got --format {format_}."
        )
    kind = _tensorrt_kind(options)
    if kind is not None:
        check_options(kind, options.build, precision)
    elif options.build != BuildOptions():
        raise ConfigError(
            "--workspace, --compute-capability, --timing-cache, --log and the other builder options are for "
            f"--format tensorrt and tensorrt-rtx; got --format {format_}."
        )
    if format_ == "triton-repository":
        check_server(options.server, options.batch)
    if format_ == "openvino":
        from aicl_fast.export.openvino import require_openvino

        require_openvino()
    require_onnx()


def format_of(out: Path | None) -> str:
    """The format that a file's name says; ONNX where it says none.

    Raises:
        ConfigError: files of two formats have such names.
    """
    fits = [name for name, suffix in SUFFIXES.items() if out is not None and out.suffix.lower() == suffix]
    if len(fits) > 1:
        raise ConfigError(f"--format: {out} may be {' or '.join(fits)}; say which.")
    return fits[0] if fits else "onnx"


def check_weights(weights: Path) -> None:
    """Refuse what is an export already.

    Raises:
        DataError: no such file.
        ModelError: an exported model.
    """
    require_file(weights, "file of weights")
    if weights.suffix.lower() in SUFFIXES.values() or is_container(weights):
        there = [weights.with_suffix(suffix) for suffix in (".safetensors", ".pt", ".npz")]
        beside = next(
            (str(path) for path in there if path.is_file()), "the model.safetensors of its training"
        )
        raise ModelError(
            f"{weights}: is an exported model, and an export is made of the weights. Give {beside}."
        )


def check_target(weights: Path, target: Path, options: ExportOptions) -> None:
    """Refuse to write over what is read, or under a name of another format, before any work starts.

    Args:
        weights: what is exported.
        target: what will be written.
        options: the other files that an export writes, and the data set that it reads.
    Raises:
        ConfigError: one of the files to write is the weights, or two of them are the same; or the target's
            name ends as another format's.
        DataError: no weights are there, or a file cannot be written, or the timing cache not read.
        ModelError: the weights are an exported model.
    """
    check_weights(weights)
    written = {"--out": target, "--log": options.build.log, "--timing-cache": options.build.timing_cache}
    read = {"the weights": weights}
    for option, path in written.items():
        if path is None:
            continue
        if option != "--out" or options.format in SUFFIXES:
            try:
                require_place(path)
            except DataError as error:
                raise DataError(f"{option}: {error}") from error
        for what, other in read.items():
            if _same(path, other):
                raise ConfigError(f"{option}: {path} is {what}, and would be overwritten. Name another file.")
        read[f"what {option} names"] = path
    suffix = SUFFIXES.get(options.format)
    if suffix is not None and target.suffix.lower() != suffix and not is_stdout(target):
        raise ConfigError(
            f"--out: expected a name that ends in {suffix} for --format {options.format}, got {target}."
        )
    if suffix is None and target.suffix.lower() in SUFFIXES.values():
        raise ConfigError(f"--out: expected a folder for --format {options.format}, got {target}.")
    log, cache = options.build.log, options.build.timing_cache
    try:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.open("a").close()
    except OSError as error:
        raise DataError(f"--log: {log} cannot be written ({error.strerror}). Name another file.") from error
    if cache is not None:
        read_timing_cache(cache)


def _same(path: Path, other: Path) -> bool:
    """By any link; also of files that are not there yet."""
    try:
        if path.exists() and other.exists():
            return path.samefile(other)
        return path.resolve() == other.resolve()
    except (OSError, ValueError):  # a name that no file can have
        return False


def export_model(
    weights: Path,
    out: Path | None = None,
    options: ExportOptions | None = None,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write trained weights in a format that runs without torch.

    Args:
        weights: ``model.safetensors``.
        out: the file to write, with the format's ending (a folder for ``triton-repository``); None is beside
            the weights, under their name.
        options: None is float32 ONNX.
        progress: told (steps done, steps in all, phase) while TensorRT builds.
    Returns:
        What was written.
    Raises:
        AiclError: as :func:`check_combination`, :func:`aicl_fast.weights.load_model` and the format's own
            function.
    """
    options = options or ExportOptions()
    check_combination(options)
    target = out
    if target is None:
        suffix = SUFFIXES.get(options.format)
        target = weights.with_suffix(suffix) if suffix else weights.with_name("model_repository")
    check_target(weights, target, options)
    if options.format == "triton-repository":
        check_repository(target, options.server)
    net, config = load_model(weights)
    model, info = exported_onnx(net, config, options)
    if options.format == "triton-repository":
        export_triton_repository(model, info, target, options.server, options.build)
    else:
        write_file(model, info, target, options, progress)
    return target


def write_file(
    model: Any,
    info: Any,
    target: Path,
    options: ExportOptions,
    progress: Callable[[int, int, str], None] | None,
) -> None:
    """Write an ONNX graph, of whichever network, in a format that is one file.

    Args:
        model: ``onnx.ModelProto``, with the metadata that an ONNX file keeps.
        info: what files of the other formats say about themselves.
        target: the file, whole or not at all.
        options: the format, and TensorRT's options.
        progress: told (steps done, steps in all, phase) while TensorRT builds.
    """
    kind = _tensorrt_kind(options)
    if options.format == "openvino":
        from aicl_fast.export.openvino import export_openvino

        export_openvino(model, info, target)
    elif kind is not None:
        export_tensorrt(kind, model, info, target, options.build, progress=progress)
    else:
        save_onnx(model, target)


def exported_onnx(net: TwoBranchNet, config: Config, options: ExportOptions) -> tuple[Any, ModelInfo]:
    """The ONNX graph that a format is made from, and what the file will say about itself."""
    if options.precision not in get_args(Precision):
        raise ConfigError(f"--precision: expected one of {', '.join(get_args(Precision))}.")
    precision: Any = options.precision
    info = model_info(net, config, precision=precision, batch=options.batch, segments=options.segments)
    features = []
    if precision in CALIBRATED:  # before the graph, which takes seconds
        from aicl_fast.export.quantize import calibration_features, quantize_onnx

        assert options.calibrate is not None  # check_combination has seen to it
        features = calibration_features(
            options.calibrate,
            info.config,
            videos=options.calibrate_videos,
            seed=options.seed,
            allow_missing=options.allow_missing,
        )
    openvino = options.format == "openvino"
    in_graph = not openvino and precision in ("fp16", "bf16")
    # tf32 is a way to multiply float32; OpenVINO rounds a float32 graph itself, and faster than casts do.
    model = build_onnx(
        net,
        info if in_graph else replace(info, precision="fp32"),
        winograd=_winograd(options),
        opset=None if precision in CALIBRATED else options.opset,
    )
    if precision in CALIBRATED:
        return quantize_onnx(model, info, features, opset=options.opset), info
    return model, info


def _winograd(options: ExportOptions) -> bool:
    chosen = options.convolution
    if chosen == "auto":
        # Measured on CPUs; TensorRT looks for its own best way through a convolution.
        return options.format in ("onnx", "openvino") and options.precision in WINOGRAD[options.format]
    return chosen == "winograd"


def _tensorrt_kind(options: ExportOptions) -> Any:
    if options.format in ("tensorrt", "tensorrt-rtx"):
        return options.format
    if options.format == "triton-repository" and options.server.backend == "tensorrt":
        return "tensorrt"
    return None
