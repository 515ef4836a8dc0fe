"""Trained weights as they are, without an export: torch on the CPU, our kernels in CUDA graphs on a GPU."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.extras import needs

with needs("train"):
    import torch

from aicl_fast.devices import torch_device
from aicl_fast.engines.base import Engine, run_in_parts
from aicl_fast.engines.gpu_array import is_gpu_array
from aicl_fast.engines.gpu_features import as_tensor, filled_on_gpu
from aicl_fast.errors import DataError, ModelError
from aicl_fast.kernels import pack_two_branch, topk_pool
from aicl_fast.kernels.runner import TwoBranchRunner
from aicl_fast.metadata import ModelInfo, Range
from aicl_fast.signature import NetworkOutputs
from aicl_fast.weights import load_model, weights_hash

_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}


_PROCESS = os.getpid()
"""The one that imported this; torch's threads are in it alone."""


def _without_threads_after_fork() -> None:
    """In a process that was forked, one thread: torch would wait for ever for those of the process before."""
    if os.getpid() != _PROCESS:
        torch.set_num_threads(1)


class TorchEngine(Engine):
    """A safetensors model in torch.

    On the CPU it is the reference that every other engine is measured against, in float32. On CUDA it is
    :func:`aicl_fast.kernels.two_branch_infer` in one CUDA graph a batch size with pinned staging; a model of
    one stream runs there as plain torch.

    Args:
        path: ``model.safetensors``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: on CUDA ``fp16`` (if left out), ``bf16``, ``fp32`` (products in tf32) or ``fp8``; on the
            CPU ``fp32``.
        threads: torch's threads on the CPU. It is one number for the whole process; one that was forked has
            one thread.
    Raises:
        ConfigError: a device by another name.
        DataError: no such file.
        ModelError: not a model of ours, or a precision that the device has not.
        UnavailableError: torch finds no such GPU.
    """

    name = "torch"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        precision: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._device = torch_device(device)
        on_gpu = self._device.type == "cuda"
        net, config = load_model(path)
        possible = ("fp16", "bf16", "fp32", "fp8") if on_gpu and config.data.modal == "both" else ("fp32",)
        chosen = possible[0] if precision is None else precision
        if chosen not in possible:
            raise ModelError(
                f"precision: expected {' or '.join(possible)} for {path} on {device}, got {precision!r}."
            )
        if not on_gpu:
            if threads is not None and os.getpid() == _PROCESS:
                torch.set_num_threads(threads)
            _without_threads_after_fork()
        self.path = Path(path)
        self._process = os.getpid()
        length = config.data.segments
        self.info = ModelInfo(
            config,
            precision="fp32",
            batch=Range(1, 1, 64),
            segments=Range(length, length, length),
            weights=weights_hash(net.state_dict()),
        )
        self._net: Any = None
        self._runner: TwoBranchRunner | None = None
        if on_gpu and config.data.modal == "both":
            weights = pack_two_branch(net.state_dict(), _DTYPES[chosen], device=self._device)
            self._runner = TwoBranchRunner(weights, config.model.fusion_gamma, length, config.topk)
        else:
            self._net = net.to(self._device)
        self._lock = threading.Lock()  # a batch size has one set of staging buffers

    def __call__(self, features: Any) -> NetworkOutputs:
        """Run any number of videos.

        Args:
            features: (B, T, D): float32 on the host; or, read where it is, an array of any floating-point
                type on this engine's GPU: a torch tensor, or one that offers DLPack or
                ``__cuda_array_interface__``.
        Raises:
            DataError: another shape, type or place.
            UnavailableError: the engine is closed.
        """
        if not is_gpu_array(features):
            return super().__call__(features)
        self._check_open()
        tensor = as_tensor(features, "features")
        self.check_shape(tuple(tensor.shape))
        if not tensor.is_floating_point():
            raise DataError(f"features: expected a floating-point type, got {tensor.dtype}. Convert them.")
        if (tensor.device.type, tensor.device.index or 0) != (self._device.type, self._device.index or 0):
            raise DataError(f"features: are on {tensor.device}, and {self.path} runs on {self._device}.")
        low, _, high = self.info.batch
        return run_in_parts(self._run_there, tensor, low, high, filled_on_gpu)

    def _run_there(self, features: torch.Tensor) -> NetworkOutputs:
        with self._lock:
            self._check_open()
            if self._runner is None:
                return self._plain(features.float())
            with torch.cuda.device(self._device):
                return NetworkOutputs(*self._runner(features))

    def run(self, features: npt.NDArray[np.float32]) -> NetworkOutputs:
        """Run (B, T, D) float32 features. Calls from several threads take turns."""
        self._check_open()
        with self._lock:
            self._check_open()
            if self._runner is not None:
                with torch.cuda.device(self._device):
                    return NetworkOutputs(*self._runner(features))
            return self._plain(torch.from_numpy(features).to(self._device))

    @torch.inference_mode()
    def _plain(self, features: torch.Tensor) -> NetworkOutputs:
        outputs = self._net(features)
        pooled, _ = topk_pool(outputs.CAS, outputs.A_score, self.config.model.topk(features.shape[1]))
        found = (outputs.A_score, pooled.softmax(1), outputs.A, outputs.A_ca)
        return NetworkOutputs(*(output.contiguous().cpu().numpy() for output in found))

    def _after_fork(self) -> None:
        if self._device.type != "cpu":
            super()._after_fork()
        self._lock = threading.Lock()  # a thread of the other process may have held it
        _without_threads_after_fork()

    def _free(self) -> None:
        with self._lock:
            self._net = self._runner = None
