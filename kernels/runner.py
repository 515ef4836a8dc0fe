"""The network on a GPU for callers on the host: one CUDA graph a batch size, pinned staging, one wait.

A replay copies the features in, runs the network, the top-k pooling and its softmax, and copies what decoding
needs out; the host waits once, for the last copy. Without a GPU the same steps run as they are, so that they
can be tested.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels.outputs import Floats, NetworkOutputs
from aicl_fast.kernels.pooling import topk_pool
from aicl_fast.kernels.two_branch import two_branch_infer
from aicl_fast.kernels.two_branch_weights import TwoBranchWeights

_KEPT = 8
"""Batch sizes whose buffers and graphs are kept: those that were used last."""
_CAPTURE_LOCK = threading.Lock()
"""One capture at a time in a process: warm-up compiles, and captures share the device's allocator."""


class _Stage:
    """Buffers and graph of one batch size."""

    def __init__(self, runner: TwoBranchRunner, batch: int) -> None:
        width = sum(runner.weights.widths)
        shape = (batch, runner.length, width)
        on_gpu = runner.device.type == "cuda"
        self._host_features: Tensor | None = None
        self.features = torch.zeros(shape, dtype=runner.dtype, device=runner.device)
        classes = runner.weights.classify.shape[0]
        shapes = (
            (batch, runner.length, classes),
            (batch, classes),
            (batch, runner.length),
            (batch, runner.length),
        )
        # One block, so that everything comes back in one copy.
        sizes = [int(np.prod(shape)) for shape in shapes]
        self.packed = torch.zeros(sum(sizes), device=runner.device)
        self.host_packed = torch.zeros(sum(sizes), pin_memory=on_gpu)
        parts = torch.split(self.host_packed, sizes)
        self.views = NetworkOutputs(*(part.view(s).numpy() for part, s in zip(parts, shapes, strict=True)))
        self.graphs: dict[bool, Any] = {}

    @property
    def host_features(self) -> Tensor:
        """Where features from the host wait to be copied; there from the first use on."""
        if self._host_features is None:
            pinned = self.features.is_cuda
            self._host_features = torch.zeros(self.features.shape, dtype=torch.float32, pin_memory=pinned)
        return self._host_features

    def step(self, runner: TwoBranchRunner, from_host: bool) -> None:
        """What one replay does."""
        if from_host:
            staged = self.host_features.to(runner.device, non_blocking=True)
            self.features.copy_(staged)
        outputs = two_branch_infer(self.features, runner.weights, runner.gamma)
        pooled, _ = topk_pool(outputs.CAS, outputs.A_score, runner.topk)
        parts = (outputs.A_score, pooled.softmax(1), outputs.A, outputs.A_ca)
        torch.cat([part.flatten() for part in parts], out=self.packed)
        self.host_packed.copy_(self.packed, non_blocking=True)

    def replay(self, runner: TwoBranchRunner, from_host: bool) -> None:
        """Capture at the first call of either kind, then replay, and wait."""
        if runner.device.type != "cuda":
            self.step(runner, from_host)
            return
        if from_host not in self.graphs:
            with _CAPTURE_LOCK:
                self.graphs[from_host] = self._capture(runner, from_host)
        self.graphs[from_host].replay()
        torch.cuda.current_stream(runner.device).synchronize()

    def _capture(self, runner: TwoBranchRunner, from_host: bool) -> Any:
        """The graph of one step, captured on a stream of the runner's own device.

        torch's own stream for captures is of the device that was current when it was first asked for.
        """
        stream: Any = torch.cuda.Stream(runner.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(runner.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles the kernels, which a capture must not
                self.step(runner, from_host)
        torch.cuda.current_stream(runner.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: only what this one does is an error of the capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self.step(runner, from_host)
        return graph

    def close(self) -> None:
        """Let go of the graphs, once nothing of them runs any more."""
        if self.graphs:
            torch.cuda.synchronize(self.features.device)
            self.graphs.clear()


class TwoBranchRunner:
    """Features to scores on the host.

    Args:
        weights: from :func:`aicl_fast.kernels.pack_two_branch`, on the device to run on.
        gamma: γ of the fusion.
        length: T, the segments of a video.
        topk: k of the top-k pooling.

    Buffers and graphs of the eight batch sizes that were used last are kept.

    Not safe to call from several threads at once: a batch size has one set of buffers. With the kernels
    turned off every call lays out the weights again: that is for comparing results, not times.
    """

    def __init__(self, weights: TwoBranchWeights, gamma: float, length: int, topk: int) -> None:
        self.weights, self.gamma, self.length, self.topk = weights, gamma, length, topk
        self.device = weights.bias.device
        float8 = weights.rgb.dtype == torch.float8_e4m3fn
        self.dtype = torch.bfloat16 if float8 else weights.rgb.dtype
        self._stages: OrderedDict[int, _Stage] = OrderedDict()

    @torch.inference_mode()
    def __call__(self, features: Floats | Tensor, *, copy: bool = True) -> NetworkOutputs:
        """Run one batch.

        Args:
            features: (B, T, D_rgb + D_flow), an array on the host or a tensor on the device.
            copy: False returns views of the staging buffers, valid until the next call.
        Raises:
            ValueError: the features have another shape.
        """
        width = sum(self.weights.widths)
        if features.ndim != 3 or features.shape[1:] != (self.length, width):
            raise ValueError(
                f"features: expected shape (B, {self.length}, {width}), got {tuple(features.shape)}"
            )
        guard = torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()
        with guard:
            return self._run(self._stage(len(features)), features, copy)

    def _stage(self, batch: int) -> _Stage:
        if batch not in self._stages:
            while len(self._stages) >= _KEPT:
                self._stages.popitem(last=False)[1].close()
            self._stages[batch] = _Stage(self, batch)
        self._stages.move_to_end(batch)
        return self._stages[batch]

    def _run(self, stage: _Stage, features: Floats | Tensor, copy: bool) -> NetworkOutputs:
        from_host = isinstance(features, np.ndarray)
        if isinstance(features, np.ndarray):
            np.copyto(stage.host_features.numpy(), features)
        else:
            stage.features.copy_(features)
        stage.replay(self, from_host)
        return NetworkOutputs(*(view.copy() for view in stage.views)) if copy else stage.views
