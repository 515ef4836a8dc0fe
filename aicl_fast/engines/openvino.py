"""OpenVINO on the CPU: an .openvino container, an ONNX file, or OpenVINO's own form."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aicl_fast.engines.container import is_container, read_container
from aicl_fast.engines.ir_file import check_ir
from aicl_fast.engines.onnx_file import read_onnx
from aicl_fast.engines.packages import import_openvino
from aicl_fast.engines.session import Session, leave_after_fork, read_settings, running
from aicl_fast.errors import ModelError
from aicl_fast.files import require_file
from aicl_fast.metadata import DETECTOR
from aicl_fast.processors import processor_count, processor_quota
from aicl_fast.signature import Signature
from aicl_fast.text import clean_text

# Left to itself OpenVINO computes float32 files in bfloat16 wherever the processor can, so the type is
# always said. A processor without float16 products runs such a file in float32.
_HINT = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


_KEPT = 8
"""Shapes whose compiled models are kept."""
_ANY = ()
"""In place of a shape: all that the file allows."""


class OpenVinoSession(Session):
    """A model in OpenVINO's CPU plugin. Safe to call from several threads. Arguments as :func:`open_session`.

    Where a localisation network's file fixes T, each size of a batch has a compiled model of its own, made
    when it first comes (the smallest's when the file is opened): OpenVINO is faster where it knows the sizes.
    The last eight are kept. Where T varies, and for segment networks, one compiled model runs every shape,
    since another must not cost a compilation.

    The precision is ``fp32``, ``bf16`` or ``fp16``; the file's own by default. The last layers, from the
    heads' sums on, stay in float32.
    """

    name = "openvino"

    def __init__(
        self,
        path: Path,
        *,
        kind: str = DETECTOR,
        threads: int | None = None,
        pin_threads: bool | None = None,
        precision: str | None = None,
    ) -> None:
        file = open_model(path)
        super().__init__(path, read_settings(file.metadata, path, kind))
        self._model: Any = file.read()
        self._settings: dict[str, Any] = {"asked": precision, "threads": threads, "pin_threads": pin_threads}
        self.precision = precision or self.precision
        self._compiled: dict[tuple[int, ...], _Compiled] = {}
        self._by_shape = kind == DETECTOR and self.info.segments.fixed
        self._lock = threading.Lock()
        self._compiled_for((self.info.batch.min, *(axis.sizes.opt for axis in self.signature.input.axes[1:])))

    def run(self, inputs: npt.NDArray[Any]) -> Any:
        """Run one batch."""
        return self._compiled_for(inputs.shape).run(inputs)

    def _compiled_for(self, shape: tuple[int, ...]) -> _Compiled:
        if not self._by_shape:
            shape = _ANY
        with self._lock:
            self._check_open()
            compiled = self._compiled.pop(shape, None) or self._compile(shape)
            self._compiled[shape] = compiled  # the last used is last
            if len(self._compiled) > _KEPT:
                del self._compiled[next(iter(self._compiled))]
            return compiled

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread of the other process may have held it
        self._compiled = {}
        self._model = open_model(self.path).read()

    def _free(self) -> None:
        with self._lock:
            self._compiled.clear()
            self._model = None

    def _compile(self, shape: tuple[int, ...]) -> _Compiled:
        with running(self.path):
            model = self._model.clone()
            if shape != _ANY:
                model.reshape({self.signature.input.name: list(shape)})
            own = self.info.precision
            return _Compiled(compile_model(model, self.path, own, **self._settings), self.signature)


class _Compiled:
    """A model for one shape, or for any, and the requests that no thread is using."""

    def __init__(self, compiled: Any, signature: Signature) -> None:
        self.compiled, self.signature = compiled, signature
        leave_after_fork(self)
        self.outputs = [compiled.output(tensor.name) for tensor in signature.outputs]
        self.idle: list[Any] = []

    def run(self, inputs: npt.NDArray[Any]) -> Any:
        """Run inputs of a shape that it is for."""
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        found = request.infer({self.signature.input.name: inputs}, share_inputs=True, share_outputs=False)
        outputs = self.signature.result(*(found[output] for output in self.outputs))
        self.idle.append(request)
        return outputs


class ModelFile(NamedTuple):
    """A file that was looked through, and not read by OpenVINO yet."""

    path: Path
    metadata: str | None
    """aicl_fast's settings, if there are any."""
    network: bytes | None
    """In OpenVINO's form; None is the file itself."""
    weights: bytes | None
    """The constants; None is in, or beside, the file itself."""
    version: str
    """Of the OpenVINO that wrote it, if that is known."""

    def read(self) -> Any:
        """The ``openvino.Model``.

        Raises:
            ModelError: this OpenVINO cannot read it.
            UnavailableError: OpenVINO is not installed.
        """
        openvino = import_openvino(f"running {self.path}")
        core: Any = openvino.Core()
        try:
            if self.network is None:
                return core.read_model(str(self.path))
            # Without a path, the weights must be a tensor.
            return core.read_model(
                self.network, openvino.Tensor(np.frombuffer(self.weights or b"", np.uint8))
            )
        except Exception as error:  # its front ends have classes of their own
            written = f", written by {self.version}," if self.version else ""
            raise ModelError(
                f"{self.path}: this OpenVINO {openvino.__version__} cannot load the model{written} "
                f"({_last_line(error)}). Expected a file written by `aicl-fast export`; if it was cut off "
                "while being copied, copy it again, or export it again here."
            ) from error


def open_model(path: Path) -> ModelFile:
    """Look through a container, an ONNX file or OpenVINO's own.

    Raises:
        ModelError: damaged, of another kind, or with something in it that no export writes.
    """
    if is_container(path):
        container = read_container(path)
        if container.kind != "openvino":
            raise ModelError(f"{path}: holds a {container.kind} engine, not an OpenVINO model.")
        xml, weights = container.read("xml"), container.read("bin")
        check_ir(xml, weights, path)
        version = clean_text(str(container.builder.get("version")))
        return ModelFile(path, container.metadata, xml, weights, version)
    if path.suffix != ".xml":
        return ModelFile(path, read_onnx(path), None, None, "")
    xml, weights = path.read_bytes(), require_file(path.with_suffix(".bin"), "file of weights").read_bytes()
    return ModelFile(path, check_ir(xml, weights, path), xml, weights, "")


def compile_model(
    model: Any,
    path: Path,
    own: str,
    asked: str | None = None,
    *,
    threads: int | None = None,
    pin_threads: bool | None = None,
) -> Any:
    """Compile a model for the CPU.

    Args:
        model: from :meth:`ModelFile.read`.
        path: its file, for messages.
        own: the precision that the file asks for.
        asked: the precision that the caller asks for.
    Raises:
        ModelError: OpenVINO cannot compile it, or a precision that this processor has no products in.
    """
    core: Any = import_openvino(f"running {path}").Core()
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _hint(core, own, asked),
    }
    if threads is None and processor_quota() is not None:
        threads = processor_count()
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if pin_threads is not None:
        settings["ENABLE_CPU_PINNING"] = pin_threads
    try:
        return core.compile_model(model, "CPU", settings)
    except Exception as error:  # RuntimeError, or a class of its own
        raise ModelError(f"{path}: OpenVINO cannot compile it ({_last_line(error)}).") from error


def _hint(core: Any, own: str, asked: str | None) -> str:
    can = {"fp32", *(name.lower() for name in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))}
    if asked is None:
        # What the processor has no products in runs in float32, with the file's own rounded weights.
        return _HINT.get(own if own in can else "fp32", "f32")
    if asked not in ("fp32", "fp16", "bf16"):
        raise ModelError(f"precision: expected fp32, bf16 or fp16 for OpenVINO, got {asked!r}.")
    if asked not in can:
        raise ModelError(f"precision: OpenVINO has no {asked} products on this processor. Use fp32.")
    return _HINT[asked]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return clean_text(lines[-1])[:200] if lines else type(error).__name__
