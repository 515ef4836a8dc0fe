"""Running a model file: features in, scores out. One class an engine, all alike to use.

==================  ============================  ==================================================
engine              files                         runs on
==================  ============================  ==================================================
``onnxruntime``     ``.onnx``                     CPU; GPUs by its CUDA and TensorRT providers
``openvino``        ``.openvino``, ``.onnx``      CPU
``tensorrt``        ``.engine``                   GPU, torch-free (TensorRT and TensorRT-RTX)
``torch``           ``.safetensors``              CPU; GPU by our Triton kernels in CUDA graphs
==================  ============================  ==================================================
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aicl_fast.engines.base import Engine
from aicl_fast.engines.container import is_container, read_container
from aicl_fast.engines.ort import Provider
from aicl_fast.errors import ModelError
from aicl_fast.extras import needs
from aicl_fast.files import require_file

if TYPE_CHECKING:
    import torch

__all__ = ["ENGINES", "Engine", "Provider", "open_engine"]

ENGINES = ("onnxruntime", "openvino", "tensorrt", "torch")


def open_engine(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    threads: int | None = None,
    pin_threads: bool | None = None,
    providers: Sequence[Provider] | None = None,
    trust: bool = False,
) -> Engine:
    """Open a model file in the engine that it is for.

    Args:
        path: ``.onnx``, ``.openvino``, ``.engine`` or ``.safetensors``; what it holds counts, not its name.
        engine: one of :data:`ENGINES`; None is the file's own, and ONNX Runtime for ONNX.
        device: ``cpu`` or ``cuda`` (``cuda:1``, …), as text or as torch's device; None is where the file runs
            (the CPU, for one that can run on both).
        precision: what products are computed in, where that is chosen at load (OpenVINO, torch).
        threads: threads within an operation, of an engine on the CPU; None takes every core.
        pin_threads: tie these threads to cores (ONNX Runtime, OpenVINO); None leaves that to the engine.
        providers: ONNX Runtime execution providers by name or (name, options), in order of preference; those
            of a GPU run on ``device``. None follows ``device``.
        trust: run native code that the file carries: version-compatible TensorRT engines have some. Say so
            only of a file whose origin you trust.
    Raises:
        DataError: no such file.
        ModelError: not a model of ours, damaged, with something in it that our exports never have, or not
            for that engine, device or option; options that contradict each other; or settings that ask for
            much more memory than the file warrants.
        UnavailableError: the engine's package, or the device, is not here.
    """
    target = require_file(path, "model file")
    own = _own_engine(target)
    chosen = own if engine is None else engine
    if chosen not in ENGINES:
        raise ModelError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}.")
    possible = ("onnxruntime", "openvino") if own == "onnxruntime" else (own,)
    if chosen not in possible:
        raise ModelError(
            f"{target}: cannot run in {chosen}; this kind of file runs in {' or '.join(possible)}. Export "
            f"the weights for {chosen} (aicl-fast export --format), or leave the engine out."
        )
    where = None if device is None else str(device)
    index = _check_device(where, chosen, target)
    given = {"precision": precision, "threads": threads, "pin_threads": pin_threads, "providers": providers}
    _check_options(chosen, {name for name, value in given.items() if value is not None})
    _check_threads(threads)
    if chosen == "onnxruntime":
        from aicl_fast.engines.ort import OnnxRuntimeEngine

        chosen_providers = _providers(providers, where, index)
        return OnnxRuntimeEngine(target, threads=threads, pin_threads=pin_threads, providers=chosen_providers)
    if chosen == "openvino":
        from aicl_fast.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(target, threads=threads, pin_threads=pin_threads, precision=precision)
    if chosen == "tensorrt":
        from aicl_fast.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(target, device=index or 0, trust=trust)
    with needs("train", f"{target}: running weights (export the file to run it without)"):
        from aicl_fast.engines.torch import TorchEngine
    return TorchEngine(target, device=where or "cpu", precision=precision, threads=threads)


def options_of(path: str | os.PathLike[str], engine: str | None = None) -> frozenset[str]:
    """The options of :func:`open_engine` that a file's engine has: ``threads``, ``precision``, …

    Raises:
        DataError: no such file.
        ModelError: not a model of ours.
    """
    own = _own_engine(require_file(path, "model file"))
    return frozenset(_OPTIONS.get(own if engine is None else engine, ()))


def _own_engine(path: Path) -> str:
    if is_container(path):
        return "openvino" if read_container(path).kind == "openvino" else "tensorrt"
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or start[8:] == b"{":
        return "torch"
    if path.suffix in (".engine", ".openvino", ".plan", ".trt"):
        raise ModelError(
            f"{path}: is not a file that `aicl-fast export` wrote: it does not begin with our mark. A bare "
            "TensorRT plan or OpenVINO model carries no settings: export the weights again."
        )
    if path.suffix != ".onnx" and start[:1] != _ONNX_START:
        raise ModelError(
            f"{path}: is no model file. Expected a file of `aicl-fast export` (.onnx, .openvino, .engine) or "
            "`aicl-fast train` (.safetensors); `aicl-fast import-checkpoint` reads the authors' weights."
        )
    return "onnxruntime"


_ONNX_START = b"\x08"
"""The tag of an ONNX file's first field, the IR version."""
_OPTIONS = {
    "onnxruntime": {"threads", "pin_threads", "providers"},
    "openvino": {"threads", "pin_threads", "precision"},
    "tensorrt": set[str](),
    "torch": {"precision", "threads"},
}


def _check_options(engine: str, given: set[str]) -> None:
    for name in sorted(given - _OPTIONS[engine]):
        where = [other for other, names in _OPTIONS.items() if name in names]
        raise ModelError(f"{name}: is not an option of the {engine} engine; it is of {', '.join(where)}.")


def _check_threads(threads: object) -> None:
    if threads is None or (isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1):
        return
    raise ModelError(f"threads: expected a number of at least 1, or None for every core; got {threads!r}.")


_ON_GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


def _providers(
    given: Sequence[Provider] | None, device: str | None, index: int | None
) -> list[Provider] | None:
    """What ONNX Runtime is asked for, with the GPU's number where one was named."""
    if given is None:
        if index is None:
            return None
        return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
    if isinstance(given, str):
        raise ModelError(f"providers: expected a list of names, got {given!r}. Write [{given!r}].")
    found: list[Provider] = []
    on_gpu = False
    for each in given:
        if not (isinstance(each, str) or (isinstance(each, tuple) and len(each) == 2)):
            raise ModelError(f"providers: expected names, or tuples (name, options), got {each!r} too.")
        name, options = (each, {}) if isinstance(each, str) else each
        if name not in _ON_GPU or device is None:
            found.append(each)
            continue
        on_gpu = True
        if index is None or int(options.get("device_id", index)) != index:
            raise ModelError(
                f"providers: {each!r} contradicts device={device!r}. Name the GPU once, or leave the device "
                "out."
            )
        found.append((name, {**options, "device_id": index}))
    if index is not None and not on_gpu:
        raise ModelError(
            f"providers: {', '.join(map(str, given))} run on the CPU, and device={device!r} was asked for. "
            f"Name one of {', '.join(_ON_GPU)}, or leave the providers out."
        )
    return found


def _check_device(device: str | None, engine: str, path: Path) -> int | None:
    """The GPU's number, or None for the CPU."""
    if device is None:
        return 0 if engine == "tensorrt" else None
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise ModelError(f"device: expected cpu, cuda or cuda:N, got {device!r}.")
    if engine == "tensorrt" and kind == "cpu":
        raise ModelError(f"{path}: is a TensorRT engine, which runs on a GPU only; got device='cpu'.")
    if engine == "openvino" and kind == "cuda":
        raise ModelError(
            f"{path}: OpenVINO runs on the CPU here; got device={device!r}. For a GPU export with "
            "--format tensorrt-rtx, or open the .safetensors file with device='cuda'."
        )
    return int(number or 0) if kind == "cuda" else None
