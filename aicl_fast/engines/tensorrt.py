"""TensorRT and TensorRT-RTX engines on a GPU, without torch: cuda-python, CUDA graphs, pinned staging.

A *slot* (``tensorrt_slot.py``) is all that one batch in flight needs. Slots are made for a shape when it
first comes, as many as there are calls at once (up to ``pool``), and are used again. Of those that no call is
using, the last used are kept. The plan itself is in ``tensorrt_plan.py``, the GPU in ``cuda.py``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from aicl_fast.engines.base import Engine
from aicl_fast.engines.container import Container, read_container
from aicl_fast.engines.cuda import Cuda
from aicl_fast.engines.gpu_array import is_gpu_array
from aicl_fast.engines.tensorrt_plan import Plan, check_builder, check_card
from aicl_fast.engines.tensorrt_slot import Slot, Tensors
from aicl_fast.errors import DataError, ModelError, UnavailableError
from aicl_fast.metadata import require_sizes
from aicl_fast.signature import NetworkOutputs

__all__ = ["Cuda", "Pending", "TensorRTEngine", "Tensors", "check_builder", "check_card"]

_KEPT = 8
"""Slots that are kept though no call is using them; a pool of one shape is, if it is larger."""


class Pending:
    """A batch in flight, from :meth:`TensorRTEngine.submit`. Ask for its result at most once."""

    def __init__(self, engine: TensorRTEngine, slot: Slot) -> None:
        self._engine = engine
        self._slot: Slot | None = slot
        # One that nobody asks leaves its slot to others, who wait for what it has started.
        self._dropped = weakref.finalize(self, engine._release, slot)
        self._dropped.atexit = False

    def result(self) -> Any:
        """Wait for the GPU and return the :class:`NetworkOutputs`.

        Raises:
            RuntimeError: asked for a second time.
            UnavailableError: the engine was closed meanwhile, or the GPU failed.
        """
        slot, self._slot = self._slot, None
        if slot is None:
            raise RuntimeError("TensorRTEngine: the result of this batch was taken already.")
        self._dropped.detach()
        try:
            return slot.finish()
        finally:
            self._engine._release(slot)


class TensorRTEngine(Engine):
    """An ``.engine`` file on a GPU.

    Args:
        path: written by ``aicl-fast export --format tensorrt`` or ``tensorrt-rtx``.
        device: the GPU's number.
        pool: how many batches of one shape may be in flight at once; further calls wait.
        cache: TensorRT-RTX: folder for kernels compiled at first use; None is ``aicl_fast`` in the user's
            cache folder.
        trust: run the native code that a version-compatible plan carries. It can do whatever a program can.
    Raises:
        DataError: no such file.
        ModelError: not ours, damaged, built by another TensorRT version, for another card, or with native
            code and not trusted.
        UnavailableError: no driver, no such GPU, or a package is missing.

    Safe to call from several threads. An engine that is not closed is when nothing refers to it any more, and
    when the interpreter ends.
    """

    name = "tensorrt"
    # A subclass runs plans of another network.
    _tensors = Tensors("features", np.float32, NetworkOutputs)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: int = 0,
        pool: int = 4,
        cache: str | os.PathLike[str] | None = None,
        trust: bool = False,
    ) -> None:
        container = read_container(path)
        if container.kind not in ("tensorrt", "tensorrt-rtx"):
            raise ModelError(f"{path}: holds an {container.kind} model, not a TensorRT engine.")
        self.path, self.info = container.path, self._read_info(container)
        self._require_sizes()
        self._plan = Plan(container, cache, trust=trust)
        self._process = os.getpid()
        self._pool = pool
        self._changed = threading.Condition()
        self._idle: list[Slot] = []  # the last used is last
        self._slots: list[Slot] = []
        self.cuda = Cuda(device)
        try:
            self._plan.load(self.cuda.capability)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is on its way up
                self.close()
            raise
        _OPEN.add(self)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it may not have got as far as to hold anything
            self.close()

    def __call__(self, features: Any) -> NetworkOutputs:
        """Run any number of videos from the host, or one batch that lies on the GPU.

        Args:
            features: (B, T, D) float32: a numpy array; or, read where it is, an array on this GPU that offers
                DLPack or ``__cuda_array_interface__``, in C order, its B within the file's range.
        Raises:
            DataError: another shape, type or place.
        """
        if isinstance(features, np.ndarray) or not is_gpu_array(features):
            return super().__call__(features)
        return self._run_on_gpu(features)

    def run(self, features: npt.NDArray[np.float32]) -> NetworkOutputs:
        """Run (B, T, D) contiguous float32 features whose shape the file allows, and wait."""
        outputs: NetworkOutputs = self.submit(features).result()
        return outputs

    def submit(self, features: npt.NDArray[Any]) -> Pending:
        """Start a batch and return at once; the features may be changed as soon as this returns.

        Raises:
            DataError: the shape is not one that the file allows.
        """
        self._check_open()
        self.check_shape(features.shape)
        self._check_batch(features.shape)
        slot = self._acquire(features.shape)
        try:
            captured = slot.launch(features)
        except BaseException:
            self._release(slot)
            raise
        pending = Pending(self, slot)
        if captured:  # kernels for this shape are compiled, and kept though the engine may never be closed
            self._plan.save_kernels()
        return pending

    def close(self) -> None:
        """Wait for what is in flight, keep the compiled kernels, and free everything on the GPU.

        What fails keeps nothing else from being freed. Kernels that cannot be kept are a warning.

        Raises:
            UnavailableError: the GPU failed.
        """
        if self._process not in (0, os.getpid()):
            self._closed = True  # the GPU is the other process's
            return
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()  # calls that wait for a slot
        with contextlib.ExitStack() as last_first:  # each is called, whatever the others raise
            last_first.callback(self.cuda.close)
            last_first.callback(self._let_go)
            last_first.callback(self._plan.save_kernels)
            for slot in self._slots:
                last_first.callback(slot.close)
            self.cuda.make_current()

    def _let_go(self) -> None:
        self._slots, self._idle = [], []
        self._plan.let_go()

    def _read_info(self, container: Container) -> Any:
        return container.info

    def _require_sizes(self) -> None:
        require_sizes(self.info, self.path.stat().st_size, self.path)

    def _check_batch(self, shape: tuple[int, ...]) -> None:
        low, _, high = self.info.batch
        if not low <= shape[0] <= high:
            raise DataError(
                f"features: {self.path} takes {self.info.batch} videos a run, got {shape[0]}. Split the "
                "batch, or export with another --batch."
            )

    def _run_on_gpu(self, features: Any) -> NetworkOutputs:
        # The stream must exist before the producer can make it wait, the shape be known before there is one.
        self._check_open()
        shape = tuple(features.shape)
        self.check_shape(shape)
        self._check_batch(shape)
        slot = self._acquire(shape)
        try:
            array = slot.launch_on(features)
            outputs: NetworkOutputs = slot.finish()
            del array  # until here the GPU may have read it
            return outputs
        finally:
            self._release(slot)

    def _acquire(self, shape: tuple[int, ...]) -> Slot:
        with self._changed:
            while True:
                if self._closed:
                    raise UnavailableError(f"{self.path}: this engine is closed. Open the file again.")
                self.cuda.make_current()
                for place in reversed(range(len(self._idle))):
                    if self._idle[place].shape == shape:
                        return self._idle.pop(place)
                if sum(slot.shape == shape for slot in self._slots) < self._pool:
                    slot = Slot(self.cuda, self._plan, self._tensors, shape)
                    self._slots.append(slot)
                    return slot
                self._changed.wait()

    def _release(self, slot: Slot) -> None:
        with self._changed:
            if self._closed:
                return
            self._idle.append(slot)
            surplus = self._idle[: -max(_KEPT, self._pool)]
            self._idle = self._idle[len(surplus) :]
            self._slots = [each for each in self._slots if each not in surplus]
            self._changed.notify_all()  # they may wait for different shapes
            for each in surplus:
                # What fails has let go of all it could, and the next call meets the same device.
                with contextlib.suppress(UnavailableError):
                    self.cuda.make_current()
                    each.close()


_OPEN: weakref.WeakSet[TensorRTEngine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter ends: later, the packages that this takes may be gone."""
    for engine in list(_OPEN):
        with contextlib.suppress(Exception):
            engine.close()
