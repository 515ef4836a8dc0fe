"""TensorRT and TensorRT-RTX engines on a GPU, without torch: cuda-python, CUDA graphs, pinned staging.

A *slot* (``slot.py``) is all that one batch in flight needs. Slots are made for a shape when it
first comes, as many as there are calls at once (up to ``pool``), and are used again. Of those that no call is
using, the last used are kept. The plan itself is in ``plan.py``, the GPU in
``engines/cuda/driver.py``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import Any

import numpy.typing as npt

from aicl_fast.devices import parse_device
from aicl_fast.engines.container import read_container
from aicl_fast.engines.cuda.driver import Cuda
from aicl_fast.engines.session import Session, read_settings, run_batched
from aicl_fast.engines.tensorrt.plan import Plan
from aicl_fast.engines.tensorrt.slot import Slot
from aicl_fast.errors import DataError, ModelError, UnavailableError
from aicl_fast.metadata import DETECTOR

_KEPT = 8
"""Slots that are kept though no call is using them; a pool of one shape is, if it is larger."""


class Pending:
    """A batch in flight, from :meth:`TensorRTSession.submit`. Ask for its result at most once."""

    def __init__(self, engine: TensorRTSession, slot: Slot) -> None:
        self._engine = engine
        self._slot: Slot | None = slot
        # One that nobody asks leaves its slot to others, who wait for what it has started.
        self._dropped = weakref.finalize(self, engine._release, slot)
        self._dropped.atexit = False

    def result(self) -> Any:
        """Wait for the GPU and return the outputs.

        Raises:
            RuntimeError: asked for a second time.
            UnavailableError: the engine was closed meanwhile, or the GPU failed.
        """
        slot, self._slot = self._slot, None
        if slot is None:
            raise RuntimeError("TensorRTSession: the result of this batch was taken already.")
        self._dropped.detach()
        try:
            return slot.finish()
        finally:
            self._engine._release(slot)


class TensorRTSession(Session):
    """An ``.engine`` file on a GPU. Safe to call from several threads. Arguments as :func:`open_session`.

    One that is not closed is when nothing refers to it any more, and when the interpreter ends.

    Args:
        pool: how many batches of one shape may be in flight at once; further calls wait.
        cache: TensorRT-RTX: folder for kernels compiled at first use; None is ``aicl_fast`` in the user's
            cache folder.
    """

    name = "tensorrt"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str = DETECTOR,
        device: str | None = None,
        pool: int = 4,
        cache: str | os.PathLike[str] | None = None,
        trust: bool = False,
    ) -> None:
        container = read_container(path)
        if container.kind not in ("tensorrt", "tensorrt-rtx"):
            raise ModelError(f"{path}: holds an {container.kind} model, not a TensorRT engine.")
        super().__init__(container.path, read_settings(container.metadata, container.path, kind))
        self._plan = Plan(container, cache, trust=trust)
        self._pool = pool
        self._changed = threading.Condition()
        self._idle: list[Slot] = []  # the last used is last
        self._slots: list[Slot] = []
        self.cuda = Cuda(parse_device(device) or 0)
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

    def run(self, inputs: npt.NDArray[Any]) -> Any:
        """Run one batch, and wait."""
        return self.submit(inputs).result()

    def submit(self, inputs: npt.NDArray[Any]) -> Pending:
        """Start a batch and return at once; the inputs may be changed as soon as this returns.

        Raises:
            DataError: the shape is not one that the file allows.
        """
        self._check_open()
        self._check_batch(inputs.shape)
        slot = self._acquire(inputs.shape)
        try:
            captured = slot.launch(inputs)
        except BaseException:
            self._release(slot)
            raise
        pending = Pending(self, slot)
        if captured:  # kernels for this shape are compiled, and kept though the session may never be closed
            self._plan.save_kernels()
        return pending

    def close(self) -> None:
        """Wait for what is in flight, keep the compiled kernels, and free everything on the GPU.

        What fails keeps nothing else from being freed. Kernels that cannot be kept are a warning.

        Raises:
            UnavailableError: the GPU failed.
        """
        if self._process != os.getpid():
            self._closed = True  # the GPU is the other process's
            return
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()  # calls that wait for a slot
        with contextlib.ExitStack() as last_first:  # each is called, whatever the others raise
            last_first.callback(self.cuda.close)
            last_first.callback(self._release_plan)
            last_first.callback(self._plan.save_kernels)
            for slot in self._slots:
                last_first.callback(slot.close)
            self.cuda.make_current()

    def _release_plan(self) -> None:
        self._slots, self._idle = [], []
        self._plan.release()

    def _check_batch(self, shape: tuple[int, ...]) -> None:
        self.signature.check(shape, self.path)
        low, _, high = self.info.batch
        if not low <= shape[0] <= high:
            raise DataError(
                f"{self.signature.input.name}: {self.path} takes {self.info.batch} rows per run, got "
                f"{shape[0]}. Split the batch, or export with another --batch."
            )

    def _call_on_gpu(self, inputs: Any) -> Any:
        """Run an array that is on this GPU, without a copy.

        Args:
            inputs: float32 in C order, of what offers DLPack or ``__cuda_array_interface__``: a torch tensor
                of any number of rows, or another array of one batch.
        Raises:
            DataError: another shape, type or place.
        """
        if hasattr(inputs, "new_zeros"):  # a tensor, which can be cut and padded
            self.signature.check(tuple(inputs.shape), self.path)
            return run_batched(self._run_on_gpu, inputs, self.info.batch)
        return self._run_on_gpu(inputs)

    def _run_on_gpu(self, inputs: Any) -> Any:
        # The stream must exist before the producer can make it wait, the shape be known before there is one.
        shape = tuple(inputs.shape)
        self._check_batch(shape)
        slot = self._acquire(shape)
        try:
            array = slot.launch_on(inputs)
            outputs = slot.finish()
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
                    slot = Slot(self.cuda, self._plan, self.signature, shape)
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
            self._slots = [held for held in self._slots if held not in surplus]
            self._changed.notify_all()  # they may wait for different shapes
            for old in surplus:
                # What fails has released all it could, and the next call meets the same device.
                with contextlib.suppress(UnavailableError):
                    self.cuda.make_current()
                    old.close()


_OPEN: weakref.WeakSet[TensorRTSession] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter ends: later, the packages that this takes may be gone."""
    for session in list(_OPEN):
        with contextlib.suppress(Exception):
            session.close()
