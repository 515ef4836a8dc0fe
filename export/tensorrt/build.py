"""One engine: parse the network, check it, build the plan, store it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from aicl_fast.engines.container import write_container
from aicl_fast.engines.packages import NAMES, Kind, load_tensorrt
from aicl_fast.engines.tensorrt.logger import last_error, make_logger
from aicl_fast.errors import ModelError, UnavailableError
from aicl_fast.export.options import BuildOptions, Progress
from aicl_fast.export.tensorrt.cards import (
    cards_of,
    check_capabilities,
    check_options,
    read_timing_cache,
    reading_cache,
)
from aicl_fast.files import atomic_path
from aicl_fast.metadata import ModelInfo, SegmentInfo
from aicl_fast.signature import signature_of


class Network(NamedTuple):
    """A parsed network and what must live as long as it does."""

    network: Any
    builder: Any
    parser: Any
    logger: Any
    api: Any


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
    actual = {tensor.name: (tensor.dtype.name, tuple(tensor.shape)) for tensor in tensors}
    expected = {
        name: (tensor.onnx_type, tensor.dynamic_sizes) for name, tensor in signature_of(info).tensors.items()
    }
    if actual != expected:
        raise ModelError(f"the parsed network differs: expected {expected}, got {actual}.")
    return actual


def build_plan(
    parsed: Network,
    info: ModelInfo | SegmentInfo,
    options: BuildOptions | None = None,
    *,
    progress: Progress | None = None,
) -> bytes:
    """Build the engine.

    Args:
        parsed: from :func:`network_from_onnx`.
        info: its ranges of sizes become the optimisation profile.
        options: None is the defaults.
        progress: told (steps done, steps in all, phase) while the builder works.
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
    inputs = signature_of(info).input
    shapes = list(zip(*(axis.sizes for axis in inputs.axes), strict=True))
    profile.set_shape(inputs.name, *shapes)
    if [tuple(shape) for shape in profile.get_shape(inputs.name)] != shapes or not profile:
        raise ModelError(f"TensorRT did not take the profile {shapes}: {last_error(parsed.logger)}")
    config.add_optimization_profile(profile)
    cache = _timing_cache(config, options.timing_cache)
    if progress is not None:
        monitor = _monitor(api, progress)  # the builder keeps no reference
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
    progress: Progress | None = None,
) -> None:
    """Build an engine from an ONNX model and write it as one ``.engine`` file.

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
        "compute_capability": cards_of(kind, options, info.precision),
        "version_compatible": options.version_compatible,
        "refittable": options.refittable,
    }
    write_container(path, kind, info, builder, {"plan": plan})


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


def _set_capabilities(api: Any, config: Any, wanted: tuple[str, ...]) -> None:
    known = check_capabilities(api, wanted)
    if known:
        config.num_compute_capabilities = len(wanted)
    for number, card in enumerate(wanted):
        config.set_compute_capability(known[card], number)


def _timing_cache(config: Any, file: Path | None) -> Any:
    if file is None:
        return None
    with reading_cache(file):
        cache = config.create_timing_cache(read_timing_cache(file))
        if cache is None:
            raise ValueError("TensorRT does not take it")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _monitor(api: Any, progress: Progress) -> Any:
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
