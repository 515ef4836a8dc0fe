"""Trained weights without an export: torch on the CPU, CUDA graphs of Triton kernels on a GPU."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy.typing as npt

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import nn

from aicl_fast.config import Config
from aicl_fast.devices import torch_device
from aicl_fast.engines.cuda.features import as_tensor
from aicl_fast.engines.session import Session, run_batched
from aicl_fast.errors import DataError, ModelError
from aicl_fast.kernels import pack_two_branch, topk_pool
from aicl_fast.kernels.runner import TwoBranchRunner
from aicl_fast.metadata import DETECTOR, I3D, ModelInfo, Range, SegmentInfo
from aicl_fast.model import TwoBranchNet
from aicl_fast.signature import Axis
from aicl_fast.video.i3d import DeployedI3D
from aicl_fast.video.i3d_weights import i3d_hash, load_i3d
from aicl_fast.weights import load_model, weights_hash

_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}
_LONGEST = 1_000_000
"""Frames of a clip that I3D may classify as a whole."""
_PROCESS = os.getpid()
"""The one that imported this; torch's threads are in it alone."""


def _without_threads_after_fork() -> None:
    """In a process that was forked, one thread: torch would wait for ever for those of the process before."""
    if os.getpid() != _PROCESS:
        torch.set_num_threads(1)


class TorchSession(Session):
    """Trained weights in torch. Calls from several threads take turns. Arguments as :func:`open_session`.

    On the CPU a localisation network is the reference that every other engine is measured against, in
    float32. On CUDA it is :func:`aicl_fast.kernels.two_branch_infer` in one CUDA graph per batch size with
    pinned staging, in ``fp16`` (if no precision is asked for), ``bf16``, ``fp32`` (products in tf32) or
    ``fp8``; a model of one stream runs there as plain torch. I3D runs on CUDA in ``fp16`` (if none is asked
    for), ``bf16`` or ``fp32``, on the CPU in ``fp32`` or ``bf16``.

    On the CPU torch's number of threads is one for the whole process; one that was forked has one thread.
    """

    name = "torch"
    any_float_on_gpu = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str = DETECTOR,
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._device = torch_device("cpu" if device is None else device)
        if self._device.type == "cpu":
            if threads is not None and os.getpid() == _PROCESS:
                torch.set_num_threads(threads)
            _without_threads_after_fork()
        self._runner: TwoBranchRunner | None = None
        self._lock = threading.Lock()  # a batch size has one set of staging buffers
        (self._load_i3d if kind == I3D else self._load_detector)(Path(path), precision)

    def _load_detector(self, path: Path, precision: str | None) -> None:
        net, config = load_model(path)
        on_kernels = self._device.type == "cuda" and config.data.streams == "both"
        chosen = self._choose(path, precision, ("fp16", "bf16", "fp32", "fp8") if on_kernels else ("fp32",))
        length = config.data.segments
        info = ModelInfo(
            config,
            precision="fp32",
            batch=Range(1, 1, 64),
            segments=Range(length, length, length),
            weights=weights_hash(net.state_dict()),
        )
        super().__init__(path, info)
        self.precision = chosen
        if on_kernels:
            weights = pack_two_branch(net.state_dict(), _DTYPES[chosen], device=self._device)
            self._runner = TwoBranchRunner(weights, config.model.fusion_gamma, length, config.topk)
        self._net: Any = None if on_kernels else _Localization(net, config).to(self._device)

    def _load_i3d(self, path: Path, precision: str | None) -> None:
        on_gpu = self._device.type == "cuda"
        chosen: Any = self._choose(path, precision, ("fp16", "bf16", "fp32") if on_gpu else ("fp32", "bf16"))
        net = load_i3d(path)
        # The first convolution's results alone are 26 MB per float32 segment.
        batch = Range(1, 8, 64) if on_gpu else Range(1, 1, 8)
        classes = net.logits.conv3d.out_channels
        super().__init__(path, SegmentInfo(net.stream, i3d_hash(net), chosen, batch, classes))
        count, frames, *picture = self.signature.input.axes
        longer = Axis(frames.sizes._replace(max=_LONGEST))
        clips = self.signature.input._replace(axes=(count, longer, *picture))
        self.signature = self.signature._replace(input=clips)
        self._net = DeployedI3D(net, _DTYPES[chosen]).to(self._device)

    def _choose(self, path: Path, precision: str | None, possible: tuple[str, ...]) -> str:
        if precision not in (None, *possible):
            raise ModelError(
                f"precision: expected {' or '.join(possible)} for {path} on {self._device}, got "
                f"{precision!r}."
            )
        return precision or possible[0]

    def _call_on_gpu(self, inputs: Any) -> Any:
        """Run an array of any floating-point type on this session's GPU, without a copy to the host.

        Args:
            inputs: a torch tensor, or an array that offers DLPack or ``__cuda_array_interface__``.
        Raises:
            DataError: another shape, type or place.
        """
        name = self.signature.input.name
        tensor = as_tensor(inputs, name)
        self.signature.check(tuple(tensor.shape), self.path)
        if not tensor.is_floating_point():
            raise DataError(f"{name}: expected a floating-point type, got {tensor.dtype}. Convert them.")
        if (tensor.device.type, tensor.device.index or 0) != (self._device.type, self._device.index or 0):
            raise DataError(f"{name}: are on {tensor.device}, and {self.path} runs on {self._device}.")
        return run_batched(self._run, tensor if self._runner else tensor.float(), self.info.batch)

    def run(self, inputs: npt.NDArray[Any]) -> Any:
        """Run one batch."""
        if self._runner is not None:
            return self._run(inputs)
        # torch warns of arrays that it might write to and may not.
        return self._run(torch.from_numpy(inputs if inputs.flags.writeable else inputs.copy()))

    def _run(self, inputs: Any) -> Any:
        self._check_open()
        with self._lock:
            self._check_open()
            if self._runner is None:
                return self._plain(inputs.to(self._device))
            with torch.cuda.device(self._device):
                return self.signature.result(*self._runner(inputs))

    @torch.inference_mode()
    def _plain(self, inputs: torch.Tensor) -> Any:
        outputs = self._net(inputs)
        return self.signature.result(*(output.contiguous().cpu().numpy() for output in outputs))

    def _after_fork(self) -> None:
        if self._device.type != "cpu":
            super()._after_fork()
        self._lock = threading.Lock()  # a thread of the other process may have held it
        _without_threads_after_fork()

    def _free(self) -> None:
        with self._lock:
            self._net = self._runner = None


class _Localization(nn.Module):
    """A trained network and the pooling that gives a video's scores: the outputs that exports have."""

    def __init__(self, net: TwoBranchNet, config: Config) -> None:
        super().__init__()
        self.net, self.config = net, config

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.net(features)
        k = self.config.model.topk(features.shape[1])
        pooled, _ = topk_pool(outputs.CAS, outputs.A_score, k)
        return outputs.A_score, pooled.softmax(1), outputs.A, outputs.A_ca
