"""New weights in an engine that is built already."""

from __future__ import annotations

import os
from typing import Any

from aicl_fast.engines.container import Container, read_container, write_container
from aicl_fast.engines.cuda.driver import Cuda
from aicl_fast.engines.packages import NAMES, Kind, load_tensorrt
from aicl_fast.engines.session import running
from aicl_fast.engines.tensorrt.logger import last_error, make_logger
from aicl_fast.engines.tensorrt.plan import check_builder, check_card, require_trust
from aicl_fast.errors import ModelError
from aicl_fast.metadata import ModelInfo


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
