"""From trained weights to a file in any format: the checks, the ONNX graph, and the format's writer."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from aicl_fast.config import Config
from aicl_fast.engines.container import is_container
from aicl_fast.errors import ConfigError, DataError, ModelError
from aicl_fast.export.formats import Format, all_formats, formats_with, get_format
from aicl_fast.export.onnx import build_onnx, check_opset, model_info, require_onnx
from aicl_fast.export.options import CALIBRATED, ExportOptions, Progress
from aicl_fast.export.quantize import calibration_features, quantize_onnx
from aicl_fast.export.tensorrt.cards import read_timing_cache
from aicl_fast.files import is_stdout, require_file, require_place
from aicl_fast.metadata import ModelInfo
from aicl_fast.model import TwoBranchNet
from aicl_fast.weights import load_model

_PLAIN = ExportOptions()
_NOT_OF_ALL = {
    "opset": "--opset: is",
    "server": "--name, --backend, --instances, --instance-kind and --queue-delay are",
    "build": "--workspace, --compute-capability, --timing-cache, --log and the other builder options are",
}
"""The options that not every format has, and what the command line calls them."""


def export_model(
    weights: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Write trained weights in a format that runs without torch.

    Args:
        weights: ``model.safetensors``.
        out: the file to write, with the format's suffix (a folder for ``triton-repository``); None is beside
            the weights, under their name.
        options: None is float32 ONNX.
        progress: told (steps done, steps in all, phase) while TensorRT builds.
    Returns:
        What was written.
    Raises:
        AiclError: as :func:`check_combination`, :func:`check_target`,
            :func:`aicl_fast.weights.load_model` and the format's own function.
    """
    weights, out = Path(weights), None if out is None else Path(out)
    options = options or ExportOptions()
    check_combination(options)
    target = target_of(weights, out, options)
    check_target(weights, target, options)
    model, info = exported_onnx(*load_model(weights), options)
    get_format(options.format).write(model, info, target, options, progress)
    return target


def check_combination(options: ExportOptions) -> None:
    """Refuse what cannot be written, before any work starts.

    Raises:
        ConfigError: a format, precision or option that does not exist or go together; with those that do.
        UnavailableError: a package or device that the format needs is missing.
    """
    row = get_format(options.format)
    backend = row.backend(options)
    _check_precision(options, backend)
    _check_convolution(options, backend)
    for name, words in _NOT_OF_ALL.items():
        if getattr(options, name) != getattr(_PLAIN, name) and name not in row.options + backend.options:
            formats = formats_with("options", name)
            raise ConfigError(f"{words} for --format {' and '.join(formats)}; got --format {options.format}.")
    if options.opset is not None:
        check_opset(options.opset, options.precision)
    _check_calibration(options)
    row.check(options)
    require_onnx()


def _check_precision(options: ExportOptions, backend: Format) -> None:
    precision = options.precision
    if precision not in backend.precisions:
        formats = formats_with("precisions", precision)
        also = f" {precision} exists for {', '.join(formats)}." if formats else ""
        raise ConfigError(
            f"--precision: expected {' or '.join(backend.precisions)} for --format {options.format}, got "
            f"{precision!r}.{also}"
        )


def _check_convolution(options: ExportOptions, backend: Format) -> None:
    if options.convolution not in ("auto", "direct", "winograd"):
        raise ConfigError(f"--convolution: expected auto, direct or winograd, got {options.convolution!r}.")
    if options.convolution == "winograd" and options.precision not in backend.winograd:
        rows = [row for row in all_formats().values() if row.winograd]
        have = ", ".join(f"{row.name} {'/'.join(row.winograd)}" for row in rows)
        raise ConfigError(
            f"--convolution: winograd exists for {have}; got {options.format} {options.precision}."
        )


def _check_calibration(options: ExportOptions) -> None:
    precision = options.precision
    if precision not in CALIBRATED:
        if options.calibrate is not None:
            raise ConfigError(f"--calibrate: is for --precision int8 and fp8; got --precision {precision}.")
        if (options.calibrate_videos, options.seed) != (_PLAIN.calibrate_videos, _PLAIN.seed):
            raise ConfigError(
                f"--calibrate-videos, --seed: are for --precision int8 and fp8; got --precision {precision}."
            )
        return
    if options.calibrate is None:
        raise ConfigError(
            f"--calibrate: {precision} needs real features: name a data set folder, whose training videos "
            "are used."
        )
    if options.calibrate_videos < 1:
        raise ConfigError(f"--calibrate-videos: expected at least 1, got {options.calibrate_videos}.")
    if options.seed < 0:
        raise ConfigError(f"--seed: expected 0 or more, got {options.seed}.")
    if options.segments is not None and not options.segments.fixed:
        raise ConfigError(f"--segments: {precision} is calibrated at one T; give one size.")


def check_weights(weights: Path) -> None:
    """Refuse what is an export already.

    Raises:
        DataError: no such file.
        ModelError: an exported model.
    """
    require_file(weights, "file of weights")
    if weights.suffix.lower() in _suffixes() or is_container(weights):
        candidates = [weights.with_suffix(suffix) for suffix in (".safetensors", ".pt", ".npz")]
        files = [str(path) for path in candidates if path.is_file()]
        raise ModelError(
            f"{weights}: is an exported model, and an export is made of the weights. Give "
            f"{files[0] if files else 'the model.safetensors of its training'}."
        )


def target_of(weights: Path, out: Path | None, options: ExportOptions) -> Path:
    """What an export writes: ``out``, or beside the weights, under their name."""
    if out is not None:
        return out
    suffix = get_format(options.format).suffix
    return weights.with_suffix(suffix) if suffix else weights.with_name("model_repository")


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
    row, log, cache = get_format(options.format), options.build.log, options.build.timing_cache
    used = {"the weights": weights}
    for option, path in (("--out", target), ("--log", log), ("--timing-cache", cache)):
        if path is None:
            continue
        if option != "--out" or row.suffix:
            try:
                require_place(path)
            except DataError as error:
                raise DataError(f"{option}: {error}") from error
        for what, other in used.items():
            if _same(path, other):
                raise ConfigError(f"{option}: {path} is {what}, and would be overwritten. Name another file.")
        used[f"what {option} names"] = path
    if row.suffix and target.suffix.lower() != row.suffix and not is_stdout(target):
        raise ConfigError(
            f"--out: expected a name that ends in {row.suffix} for --format {row.name}, got {target}."
        )
    if not row.suffix and target.suffix.lower() in _suffixes():
        raise ConfigError(f"--out: expected a folder for --format {row.name}, got {target}.")
    row.check_target(target, options)
    if log is not None:
        _require_log(log)
    if cache is not None:
        read_timing_cache(cache)


def _require_log(log: Path) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.open("a").close()
    except OSError as error:
        raise DataError(f"--log: {log} cannot be written ({error.strerror}). Name another file.") from error


def _suffixes() -> set[str]:
    return {row.suffix for row in all_formats().values() if row.suffix}


def _same(path: Path, other: Path) -> bool:
    """By any link; also of files that are not there yet."""
    try:
        if path.exists() and other.exists():
            return path.samefile(other)
        return path.resolve() == other.resolve()
    except (OSError, ValueError):  # a name that no file can have
        return False


def exported_onnx(net: TwoBranchNet, config: Config, options: ExportOptions) -> tuple[Any, ModelInfo]:
    """The ONNX graph that a format is made from, and what the file will say about itself."""
    backend = get_format(options.format).backend(options)
    precision: Any = options.precision
    _check_precision(options, backend)
    info = model_info(net, config, precision=precision, batch=options.batch, segments=options.segments)
    features = []
    if options.calibrate is not None:  # before the graph, which takes seconds
        features = calibration_features(
            options.calibrate,
            info.config,
            videos=options.calibrate_videos,
            seed=options.seed,
            allow_missing=options.allow_missing,
        )
    # tf32 is a way to multiply float32, and a quantised graph is made of a float32 one.
    narrow = backend.narrow_graph and precision in ("fp16", "bf16")
    preferred = backend.prefers_winograd and precision in backend.winograd
    quantised = precision in CALIBRATED
    model = build_onnx(
        net,
        info if narrow else replace(info, precision="fp32"),
        winograd=preferred if options.convolution == "auto" else options.convolution == "winograd",
        opset=None if quantised else options.opset,
    )
    return (quantize_onnx(model, info, features, opset=options.opset) if quantised else model), info
