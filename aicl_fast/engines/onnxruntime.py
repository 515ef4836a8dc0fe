"""An ONNX file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from aicl_fast.devices import parse_device
from aicl_fast.engines.onnx_file import read_onnx
from aicl_fast.engines.packages import import_onnxruntime
from aicl_fast.engines.registry import Provider
from aicl_fast.engines.session import Session, leave_after_fork, read_settings
from aicl_fast.errors import ModelError, UnavailableError
from aicl_fast.metadata import DETECTOR
from aicl_fast.processors import processor_count, processor_quota, usable_processors
from aicl_fast.text import error_text

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ON_GPU = (_CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


class OnnxRuntimeSession(Session):
    """An ONNX file in ONNX Runtime. Safe to call from several threads. Arguments as :func:`open_session`.

    float16 files run on the CPU too, where ONNX Runtime raises each product to float32 and back; bfloat16
    ones do not, for it has no such convolution there. By default it takes every core, or what a quota grants.
    """

    name = "onnxruntime"

    def __init__(
        self,
        path: Path,
        *,
        kind: str = DETECTOR,
        device: str | None = None,
        threads: int | None = None,
        pin_threads: bool | None = None,
        providers: Sequence[Provider] | None = None,
    ) -> None:
        chosen = choose_providers(providers, device)
        super().__init__(path, read_settings(read_onnx(path), path, kind))
        self._settings: dict[str, Any] = {
            "threads": threads,
            "pin_threads": pin_threads,
            "providers": chosen,
        }
        self._session = load(path, **self._settings)

    def run(self, inputs: npt.NDArray[Any]) -> Any:
        """Run one batch."""
        self._check_open()
        session = self._session
        if session is None:  # another thread closed it just now
            self._check_open()
        result = self.signature.result
        return result(*session.run(result._fields, {self.signature.input.name: inputs}))

    def _after_fork(self) -> None:
        if any(provider != _CPU for provider in self._session.get_providers()):
            super()._after_fork()
        read_onnx(self.path)  # the file may be another one by now
        self._session = load(self.path, **self._settings)

    def _free(self) -> None:
        self._session = None


def choose_providers(given: Sequence[Provider] | None, device: str | None) -> list[Provider] | None:
    """What ONNX Runtime is asked for, with the GPU's number where one was named; None is the CPU.

    Raises:
        ModelError: no list of providers, or they contradict the device.
    """
    index = parse_device(device)
    if given is None:
        return None if index is None else [(_CUDA, {"device_id": index}), _CPU]
    if isinstance(given, str):
        raise ModelError(f"providers: expected a list of names, got {given!r}. Write [{given!r}].")
    providers: list[Provider] = []
    on_gpu = False
    for provider in given:
        if not (isinstance(provider, str) or (isinstance(provider, tuple) and len(provider) == 2)):
            raise ModelError(f"providers: expected names, or tuples (name, options), got {provider!r} too.")
        name, options = (provider, {}) if isinstance(provider, str) else provider
        if name not in _ON_GPU or device is None:
            providers.append(provider)
            continue
        on_gpu = True
        if index is None or int(options.get("device_id", index)) != index:
            raise ModelError(
                f"providers: {provider!r} contradicts device={device!r}. Name the GPU once, or leave the "
                "device out."
            )
        providers.append((name, {**options, "device_id": index}))
    if index is not None and not on_gpu:
        raise ModelError(
            f"providers: {', '.join(map(str, given))} run on the CPU, and device={device!r} was asked for. "
            f"Name one of {', '.join(_ON_GPU)}, or leave the providers out."
        )
    return providers


def load(
    path: Path,
    *,
    threads: int | None = None,
    pin_threads: bool | None = None,
    providers: Sequence[Provider] | None = None,
) -> Any:
    """Load an ONNX file that :func:`aicl_fast.engines.onnx_file.read_onnx` has looked through.

    Returns:
        The ``InferenceSession``.
    Raises:
        ModelError: ONNX Runtime cannot load it.
        UnavailableError: ONNX Runtime is not installed, or lacks a provider that was asked for.
    """
    onnxruntime = import_onnxruntime()
    wanted = list(providers) if providers is not None else [_CPU]
    there = onnxruntime.get_available_providers()
    names = [provider if isinstance(provider, str) else provider[0] for provider in wanted]
    lacking = [name for name in names if name not in there]
    if lacking:
        raise UnavailableError(
            f"device, providers: this ONNX Runtime has no {', '.join(lacking)}; it has {', '.join(there)}. "
            "An NVIDIA GPU needs the package onnxruntime-gpu in place of onnxruntime; device='cpu' runs here."
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, too
    if threads is None and (pin_threads is not None or processor_quota() is not None):
        # Where it is not told how many, ONNX Runtime ties them by itself, and counts without the quota.
        threads = processor_count()
    if threads is not None:
        options.intra_op_num_threads = threads
    if pin_threads and threads is not None and threads > 1:
        options.add_session_config_entry("session.intra_op_thread_affinities", _affinities(threads))
    try:
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # ONNX Runtime raises bare classes of its own for damaged files
        first = error_text(error)
        if "NOT_IMPLEMENTED" in first:
            raise ModelError(
                f"{path}: ONNX Runtime has no kernels for it on {', '.join(names)} ({first}). "
                "bfloat16 files are meant for TensorRT and OpenVINO: open it with engine='openvino', or "
                "export with --precision fp32 or fp16."
            ) from error
        raise ModelError(
            f"{path}: ONNX Runtime cannot load it ({first}). Expected a file written by "
            "`aicl-fast export`; if it was cut off while being copied, copy it again."
        ) from error
    # Where a provider cannot start, ONNX Runtime goes on without it.
    failed = [name for name in names if name not in session.get_providers()]
    if failed:
        raise UnavailableError(
            f"device, providers: {', '.join(failed)} cannot start on this machine, and ONNX Runtime would "
            f"run {path} on {', '.join(session.get_providers())}. Check the device and "
            "its driver, or choose the CPU."
        )
    leave_after_fork(session)
    return session


def _affinities(threads: int) -> str:
    """A core for each thread but the caller's, as ONNX Runtime counts them: from one."""
    cores = usable_processors()
    return ";".join(str(cores[number % len(cores)] + 1) for number in range(1, threads))
