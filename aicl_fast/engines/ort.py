"""An ONNX file in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.engines.base import Engine, leave_after_fork
from aicl_fast.engines.onnx_file import read_onnx
from aicl_fast.engines.ort_import import import_onnxruntime
from aicl_fast.errors import ModelError, UnavailableError
from aicl_fast.files import require_file
from aicl_fast.metadata import parse_info, require_sizes
from aicl_fast.processors import processor_count, processor_quota, usable_processors
from aicl_fast.signature import NetworkOutputs
from aicl_fast.text import error_text

Provider = str | tuple[str, dict[str, Any]]
"""An execution provider by name, with options or without."""


class OnnxRuntimeEngine(Engine):
    """An ONNX file in ONNX Runtime.

    float16 files run on the CPU too, where ONNX Runtime raises each product to float32 and back.

    Args:
        path: written by ``aicl-fast export``.
        threads: threads within an operation; None lets ONNX Runtime take every core, or what a quota grants.
        pin_threads: tie each but the caller's own to a core; None is ONNX Runtime's own choice.
        providers: execution providers by name or (name, options), in order of preference; None is the CPU.
    Raises:
        DataError: no such file.
        ModelError: not an ONNX model, damaged, without our settings in its metadata, or bfloat16, which
            ONNX Runtime has no convolution for on a CPU.
        UnavailableError: ONNX Runtime is not installed, or lacks a provider that was asked for.
    """

    name = "onnxruntime"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        pin_threads: bool | None = None,
        providers: Sequence[Provider] | None = None,
    ) -> None:
        self.path = require_file(path, "model file")
        self.info = parse_info(read_onnx(self.path), self.path)
        require_sizes(self.info, self.path.stat().st_size, self.path)
        self._settings: dict[str, Any] = {
            "threads": threads,
            "pin_threads": pin_threads,
            "providers": providers,
        }
        self._process = os.getpid()
        self._session = open_session(self.path, **self._settings)

    def run(self, features: npt.NDArray[np.float32]) -> NetworkOutputs:
        """Run (B, T, D) float32 features. Safe to call from several threads."""
        self._check_open()
        session = self._session
        if session is None:  # another thread closed the engine just now
            self._check_open()
        return NetworkOutputs(*session.run(NetworkOutputs._fields, {"features": features}))

    def _after_fork(self) -> None:
        if any(provider != "CPUExecutionProvider" for provider in self._session.get_providers()):
            super()._after_fork()
        read_onnx(self.path)  # the file may be another one by now
        self._session = open_session(self.path, **self._settings)

    def _free(self) -> None:
        self._session = None


def open_session(
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
        ModelError: as :class:`OnnxRuntimeEngine`.
        UnavailableError: as :class:`OnnxRuntimeEngine`.
    """
    onnxruntime = import_onnxruntime()
    wanted = list(providers) if providers is not None else ["CPUExecutionProvider"]
    there = onnxruntime.get_available_providers()
    names = [each if isinstance(each, str) else each[0] for each in wanted]
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
