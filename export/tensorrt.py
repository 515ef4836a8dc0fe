"""ONNX to a TensorRT or TensorRT-RTX engine, in small steps: parse, check, build, store.

Precision is in the ONNX graph, so networks are strongly typed and the builder chooses nothing but kernels.
TensorRT-RTX builds on a machine without a GPU; TensorRT needs the card that the engine is for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aicl_fast.engines.base import running
from aicl_fast.engines.container import Container, read_container, write_container
from aicl_fast.engines.tensorrt import Cuda, check_builder, check_card
from aicl_fast.engines.tensorrt_api import NAMES, Kind, last_error, load_tensorrt, make_logger
from aicl_fast.engines.tensorrt_plan import require_trust
from aicl_fast.errors import ConfigError, DataError, ModelError, UnavailableError
from aicl_fast.export.onnx import INPUT, OUTPUTS
from aicl_fast.files import atomic_path, require_file, require_place
from aicl_fast.limits import reading
from aicl_fast.metadata import ModelInfo, Range, SegmentInfo
from aicl_fast.signature import SegmentOutputs


@dataclass(frozen=True)
class BuildOptions:
    """How to build. None and False are TensorRT's own choices."""

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
    """File for all that the builder says."""


LEAST_CARD = {"tf32": "8.0", "bf16": "8.0", "fp8": "8.9"}
"""The compute capability from which on a card has products in a type; every card has the others."""
ANY_RTX = "8.0"
"""The compute capability from which on TensorRT-RTX builds where none is named."""


_LARGEST_WORKSPACE = 1 << 24
_LARGEST_CACHE = 1 << 30


class Network(NamedTuple):
    """A parsed network and what must live as long as it does."""

    network: Any
    builder: Any
    parser: Any
    logger: Any
    api: Any


def check_options(kind: Kind, options: BuildOptions, precision: str = "fp32") -> None:
    """Refuse options that this package does not have, before any work starts.

    Raises:
        ConfigError: an option of the other package, a card that this version does not know, or one that has
            no products in this precision.
        UnavailableError: the package is not installed; or no GPU, for TensorRT and for refittable engines.
    """
    name = NAMES[kind]
    parse_capabilities(",".join(options.compute_capability))
    least = LEAST_CARD.get(precision, "0.0")
    if kind == "tensorrt-rtx" and precision == "int8":
        least = ANY_RTX  # Turing has such products, but TensorRT-RTX does not quantise for it
    older = [one for one in options.compute_capability if _number(one) < _number(least)]
    if older:
        raise ConfigError(
            f"--compute-capability: cards have {precision} products from {least} on; got {', '.join(older)}."
        )
    if options.hardware_compatible and _number(least) > (8, 0):
        raise ConfigError(
            f"--hardware-compatible: is every card from Ampere (8.0) on, and cards have {precision} products "
            f"from {least} on. Leave it out, or export fp16, bf16 or int8."
        )
    if kind == "tensorrt-rtx":
        for given, option, instead in (
            (options.hardware_compatible, "--hardware-compatible", "its engines are portable already"),
            (options.version_compatible, "--version-compatible", "build again with the new version"),
            (options.timing_cache, "--timing-cache", "it measures nothing while building"),
        ):
            if given:
                raise ConfigError(f"{option}: is an option of --format tensorrt; {name} has none, {instead}.")
        if options.refittable and len(options.compute_capability) > 1:
            raise ConfigError("--refittable: TensorRT-RTX builds such engines for one card at a time.")
    elif options.compute_capability:
        raise ConfigError(
            "--compute-capability: is an option of --format tensorrt-rtx; TensorRT builds for the card at "
            "hand, or with --hardware-compatible for all from Ampere on."
        )
    if options.workspace_mb is not None and not 1 <= options.workspace_mb <= _LARGEST_WORKSPACE:
        raise ConfigError(f"--workspace: expected 1 to {_LARGEST_WORKSPACE} MiB, got {options.workspace_mb}.")
    check_capabilities(load_tensorrt(kind), options.compute_capability)
    if kind == "tensorrt":
        here = _card()
        if _number(here) < _number(least):
            raise ConfigError(
                f"--precision: cards have {precision} products from compute capability {least} on; this one "
                f"has {here}, and TensorRT builds for the card at hand. Export fp16 or int8."
            )
    elif options.refittable:
        Cuda(0).close()  # it folds constants on the card then, which it does not for other engines


def network_from_onnx(kind: Kind, onnx: bytes, log: Path | None = None) -> Network:
    """Parse an ONNX file as a strongly typed network.

    Raises:
        UnavailableError: the package is not installed, or (TensorRT) there is no GPU.
        ModelError: the parser does not take the graph.
    """
    api = load_tensorrt(kind)
    logger = make_logger(api, log)
    try:
        builder = api.Builder(logger)
    except (TypeError, RuntimeError) as error:  # pybind11's "factory function returned nullptr"
        raise UnavailableError(
            f"{NAMES[kind]} {api.__version__} cannot make a builder here ({last_error(logger)}). TensorRT "
            "builds on the card that the engine is for; --format tensorrt-rtx needs none."
        ) from error
    # From TensorRT 11 on every network is strongly typed, and the flag may go.
    typed = getattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = api.OnnxParser(network, logger)
    if not parser.parse(onnx):
        reasons = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise ModelError(f"{NAMES[kind]} {api.__version__} cannot parse the network: {reasons}")
    return Network(network, builder, parser, logger, api)


class Tensor(NamedTuple):
    """An input or output as every consumer relies on it."""

    type: str
    """As TensorRT calls it."""
    shape: tuple[Range, ...]


def interface(info: ModelInfo | SegmentInfo) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs of an exported network, by name."""

    def tensor(*sizes: Range | int, of: str = "FLOAT") -> Tensor:
        return Tensor(of, tuple(Range(size, size, size) if isinstance(size, int) else size for size in sizes))

    if isinstance(info, SegmentInfo):
        clips = tensor(info.batch, *info.clip_shape, of="UINT8" if info.stream == "rgb" else "FLOAT")
        found = (tensor(info.batch, info.width), tensor(info.batch, info.classes))
        return {"clips": clips}, dict(zip(SegmentOutputs._fields, found, strict=True))
    classes = info.config.model.num_classes
    curve = tensor(info.batch, info.segments)
    outputs = (tensor(info.batch, info.segments, classes), tensor(info.batch, classes), curve, curve)
    features = tensor(info.batch, info.segments, info.config.data.input_width)
    return {INPUT: features}, dict(zip(OUTPUTS, outputs, strict=True))


def check_network(parsed: Network, info: ModelInfo | SegmentInfo) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Compare a parsed network with what every consumer relies on.

    Returns:
        name to (type, shape) of every input and output; a dynamic size is -1.
    Raises:
        ModelError: another name, type or shape.
    """
    network = parsed.network
    tensors = [network.get_input(number) for number in range(network.num_inputs)]
    tensors += [network.get_output(number) for number in range(network.num_outputs)]
    found = {each.name: (each.dtype.name, tuple(each.shape)) for each in tensors}
    inputs, outputs = interface(info)
    expected = {
        name: (each.type, tuple(size.opt if size.fixed else -1 for size in each.shape))
        for name, each in {**inputs, **outputs}.items()
    }
    if found != expected:
        raise ModelError(f"the parsed network differs: expected {expected}, got {found}.")
    return found


def build_plan(
    parsed: Network,
    info: ModelInfo | SegmentInfo,
    options: BuildOptions | None = None,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> bytes:
    """Build the engine.

    Args:
        parsed: from :func:`network_from_onnx`.
        info: its ranges of sizes become the optimisation profile.
        options: None is the defaults.
        progress: told (steps done, steps in all, phase) as the builder goes on.
    Raises:
        ConfigError: a compute capability that this version does not know.
        ModelError: the builder failed; the message ends with its own.
    """
    options = options or BuildOptions()
    api, builder = parsed.api, parsed.builder
    config = builder.create_builder_config()
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    _set_flags(api, config, info, options)
    _set_capabilities(api, config, options.compute_capability)
    profile = builder.create_optimization_profile()
    for name, each in interface(info)[0].items():
        shapes = list(zip(*each.shape, strict=True))
        profile.set_shape(name, *shapes)
        if [tuple(shape) for shape in profile.get_shape(name)] != shapes or not profile:
            raise ModelError(f"TensorRT did not take the profile {shapes}: {last_error(parsed.logger)}")
    config.add_optimization_profile(profile)
    cache = _timing_cache(config, options.timing_cache)
    monitor = _monitor(api, progress) if progress is not None else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise ModelError(f"{api.__name__} {api.__version__} could not build: {last_error(parsed.logger)}")
    if cache is not None and options.timing_cache is not None:
        with atomic_path(options.timing_cache) as temporary:
            temporary.write_bytes(bytes(memoryview(cache.serialize())))
    return bytes(memoryview(plan))


def export_tensorrt(
    kind: Kind,
    model: Any,
    info: ModelInfo | SegmentInfo,
    path: str | os.PathLike[str],
    options: BuildOptions | None = None,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Build an engine from an ONNX model and write it as one file of ours.

    Args:
        model: ``onnx.ModelProto`` from :func:`aicl_fast.export.onnx.build_onnx`.
        info: what the file will say about itself.
        path: the file to write, whole or not at all.
    Raises:
        AiclError: as :func:`check_options`, :func:`network_from_onnx` and :func:`build_plan`.
    """
    options = options or BuildOptions()
    check_options(kind, options, info.precision)
    parsed = network_from_onnx(kind, model.SerializeToString(), options.log)
    try:
        check_network(parsed, info)
        plan = build_plan(parsed, info, options, progress=progress)
    finally:
        parsed.logger.close()
    builder = {
        "name": kind,
        "version": parsed.api.__version__,
        "compute_capability": _built_for(kind, options, info.precision),
        "version_compatible": options.version_compatible,
        "refittable": options.refittable,
    }
    write_container(path, kind, info, builder, {"plan": plan})


def refit_tensorrt(
    old: str | os.PathLike[str],
    model: Any,
    info: ModelInfo,
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
) -> None:
    """Put new weights into an engine without building it again. Needs the GPU.

    Args:
        old: an ``.engine`` file that was built with ``refittable``.
        model: ONNX of the new weights, exported with the same settings.
        info: what the new file will say about itself.
        path: the file to write, whole or not at all; may be ``old``.
        trust: run native code that ``old`` carries, as version-compatible engines do.
    Raises:
        ModelError: not refittable, with native code and not trusted, of another shape or precision, or
            TensorRT does not take the weights.
        UnavailableError: no driver, or the package is not installed.
    """
    container = read_container(old)
    if not container.builder.get("refittable"):
        raise ModelError(f"{old}: was not built to take new weights. Build it with --refittable.")
    mine, theirs = container.info, info
    same = ("precision", "batch", "segments")
    if any(getattr(mine, name) != getattr(theirs, name) for name in same) or (
        mine.config.model != theirs.config.model or mine.config.data != theirs.config.data
    ):
        raise ModelError(
            f"{old}: is of {mine.precision}, batch {mine.batch}, T {mine.segments}; the new weights' network "
            "differs from it in these or in its widths. Build an engine for them."
        )
    require_trust(container, trust)
    kind: Kind = "tensorrt-rtx" if container.kind == "tensorrt-rtx" else "tensorrt"
    api = load_tensorrt(kind)
    check_builder(container, api.__version__)
    cuda = Cuda(0)
    try:
        check_card(container, cuda.capability)
        plan = _refitted(api, container, model.SerializeToString())
    finally:
        cuda.close()
    write_container(path, kind, info, container.builder, {"plan": plan})


def _refitted(api: Any, container: Container, onnx: bytes) -> bytes:
    """A container's plan with the weights of an ONNX model. What TensorRT holds on the GPU ends with it."""
    logger = make_logger(api)
    runtime = api.Runtime(logger)
    if container.builder.get("version_compatible"):
        runtime.engine_host_code_allowed = True
    engine = refitter = parser = None
    try:
        with running(container.path):
            engine = runtime.deserialize_cuda_engine(container.read("plan"))
        if engine is None:
            name = NAMES["tensorrt-rtx" if container.kind == "tensorrt-rtx" else "tensorrt"]
            raise ModelError(f"{container.path}: {name} cannot load the plan ({last_error(logger)}).")
        refitter = api.Refitter(engine, logger)
        parser = api.OnnxParserRefitter(refitter, logger)
        if not parser.refit_from_bytes(onnx) or not refitter.refit_cuda_engine():
            raise ModelError(f"{container.path}: does not take the new weights ({last_error(logger)}).")
        # Left to itself, the plan of a refittable engine may come without its weights, or refuse new ones.
        config = engine.create_serialization_config()
        config.clear_flag(api.SerializationFlag.EXCLUDE_WEIGHTS)
        if hasattr(api.SerializationFlag, "INCLUDE_REFIT"):
            config.set_flag(api.SerializationFlag.INCLUDE_REFIT)
        plan = engine.serialize_with_config(config)
        if plan is None:
            raise ModelError(f"{container.path}: cannot be written again ({last_error(logger)}).")
        return bytes(memoryview(plan))
    finally:
        # The last first; a traceback would keep them alive, and the GPU is let go of next.
        del parser, refitter, engine, runtime


def parse_capabilities(text: str) -> tuple[str, ...]:
    """``8.6,8.9`` as a tuple.

    Raises:
        ConfigError: another form.
    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", part) for part in found):
        raise ConfigError(f"--compute-capability: expected for example 8.6 or 8.6,8.9, got {text!r}.")
    return found


def _set_flags(api: Any, config: Any, info: ModelInfo | SegmentInfo, options: BuildOptions) -> None:
    flags = api.BuilderFlag
    # On by default in TensorRT; a float32 engine is float32 here.
    (config.set_flag if info.precision == "tf32" else config.clear_flag)(flags.TF32)
    if options.refittable:
        config.set_flag(flags.REFIT)
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS


def check_capabilities(api: Any, wanted: Sequence[str]) -> dict[str, Any]:
    """Compare the cards to build for with those that this version of TensorRT-RTX knows.

    Returns:
        Name to its own constant, of those that are wanted.
    Raises:
        ConfigError: one that it does not know, or one twice.
    """
    if not wanted:
        return {}
    known = {
        f"{name[2:-1]}.{name[-1]}": getattr(api.ComputeCapability, name)
        for name in dir(api.ComputeCapability)
        if name.startswith("SM") and name[2:].isdigit()
    }
    strange = [one for one in wanted if one not in known]
    if strange:
        order = sorted(known, key=lambda text: tuple(map(int, text.split("."))))
        raise ConfigError(
            f"--compute-capability: {api.__name__} {api.__version__} builds for {', '.join(order)}, not for "
            f"{', '.join(strange)}."
        )
    if len(set(wanted)) != len(wanted):
        raise ConfigError(f"--compute-capability: expected each card once, got {', '.join(wanted)}.")
    return {one: known[one] for one in wanted}


def _card() -> str:
    """The compute capability of the card that TensorRT builds on, and for."""
    try:
        cuda = Cuda(0)
    except UnavailableError as error:
        raise UnavailableError(
            f"--format tensorrt: builds on the card that the engine is for. {error} --format tensorrt-rtx "
            "builds without one."
        ) from error
    try:
        major, minor = cuda.capability
    finally:
        cuda.close()
    return f"{major}.{minor}"


def _set_capabilities(api: Any, config: Any, wanted: Sequence[str]) -> None:
    known = check_capabilities(api, wanted)
    if not wanted:
        return
    config.num_compute_capabilities = len(wanted)
    for number, one in enumerate(wanted):
        config.set_compute_capability(known[one], number)


def read_timing_cache(file: Path) -> bytes:
    """What a file of kernel times holds; nothing where there is none yet.

    Raises:
        DataError: it cannot be read or written.
    """
    if not require_place(file).exists():
        return b""
    what = "timing cache"
    advice = "Name another file with --timing-cache."
    with reading(require_file(file, what), what, advice=advice):
        size = file.stat().st_size
        if size > _LARGEST_CACHE:
            raise DataError(f"{file}: has {size} bytes, which no {what} has. {advice}")
        return file.read_bytes()


def _timing_cache(config: Any, file: Path | None) -> Any:
    if file is None:
        return None
    with reading(file, "timing cache", advice="Name another file with --timing-cache."):
        cache = config.create_timing_cache(read_timing_cache(file))
        if cache is None:
            raise ValueError("TensorRT does not take it")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _built_for(kind: Kind, options: BuildOptions, precision: str) -> list[str]:
    """What :func:`aicl_fast.engines.tensorrt.check_card` compares with; empty is any card."""
    if kind == "tensorrt-rtx":
        return list(options.compute_capability) or [f"{LEAST_CARD.get(precision, ANY_RTX)}+"]
    if options.hardware_compatible:
        return ["8.0+"]
    return [_card()]


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _monitor(api: Any, progress: Callable[[int, int, str], None]) -> Any:
    class Monitor(api.IProgressMonitor):  # type: ignore[misc]
        """Counts the steps of all phases, of which the builder names more as it goes on."""

        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[int, int]] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.phases[phase] = (0, steps)
            self.tell(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            self.phases[phase] = (step + 1, self.phases[phase][1])
            self.tell(phase)
            return True

        def phase_finish(self, phase: str) -> None:
            self.phases[phase] = (self.phases[phase][1],) * 2
            self.tell(phase)

        def tell(self, phase: str) -> None:
            done, every = (sum(part) for part in zip(*self.phases.values(), strict=True))
            progress(done, every, phase)

    return Monitor()
