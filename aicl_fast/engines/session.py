"""A model file that is open and ready to run, whatever runs it and whatever it is a model of."""

from __future__ import annotations

import ctypes
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aicl_fast.engines.cuda.arrays import is_gpu_array
from aicl_fast.errors import DataError, ModelError, UnavailableError
from aicl_fast.limits import reading
from aicl_fast.metadata import (
    DETECTOR,
    ModelInfo,
    Range,
    SegmentInfo,
    parse_info,
    parse_segment_info,
    require_sizes,
)
from aicl_fast.signature import signature_of


def run_batched(run: Callable[[Any], Any], inputs: Any, batch: Range) -> Any:
    """Run any number of rows in batches that a model takes.

    Args:
        run: gives a named tuple of arrays, one row per input's row.
        inputs: an array, or a tensor on a GPU. A batch that is too small is padded with zeros, whose outputs
            are not returned.
        batch: how many rows ``run`` takes.
    """
    results: list[Any] = []
    for start in range(0, len(inputs), batch.max):
        part = inputs[start : start + batch.max]
        count = len(part)
        if count >= batch.min:
            results.append(run(part))
        else:
            outputs = run(pad_batch(part, batch.min))
            results.append(type(outputs)(*(output[:count] for output in outputs)))
    if len(results) == 1:
        return results[0]
    return type(results[0])(*(np.concatenate(parts) for parts in zip(*results, strict=True)))


def pad_batch(inputs: Any, count: int) -> Any:
    """The inputs with rows of zeros after them, ``count`` in all, in the same memory."""
    missing = (count - len(inputs), *inputs.shape[1:])
    if isinstance(inputs, np.ndarray):
        return np.concatenate([inputs, np.zeros(missing, inputs.dtype)])
    import torch

    return torch.cat([inputs, inputs.new_zeros(missing)])


def running(path: Path) -> AbstractContextManager[None]:
    """Whatever an engine raises over a model that it loads or runs, as a ModelError that names the file."""
    advice = "If it was cut off while being copied, copy it again; or export the weights again."
    return reading(path, "model", verb="run", error=ModelError, advice=advice)


_with_threads: weakref.WeakSet[Any] = weakref.WeakSet()


def leave_after_fork(native: Any) -> None:
    """Never close this in a process that was forked: it would wait there for threads that do not exist."""
    _with_threads.add(native)


def _leave() -> None:
    for native in list(_with_threads):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
    _with_threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave)


class Session(ABC):
    """A model file that is open and ready to run. Use it as a context manager, or call :meth:`close`.

    In a process that was forked from the one that opened it, it opens the file again, or says that it cannot
    be used there.

    Args:
        path: the file.
        info: what the file says about itself, from :func:`read_settings`.

    Attributes:
        name: the engine's.
        signature: the model's input and outputs.
        precision: what products are computed in.
    """

    name: ClassVar[str]
    any_float_on_gpu: ClassVar[bool] = False
    """Arrays on its GPU may be of any floating-point type, not of float32 alone."""
    _closed = False

    def __init__(self, path: Path, info: ModelInfo | SegmentInfo) -> None:
        self.path = path
        self.info: Any = info
        self.signature = signature_of(info)
        self.precision: str = info.precision
        self._process = os.getpid()

    @abstractmethod
    def run(self, inputs: npt.NDArray[Any]) -> Any:
        """Run one batch.

        Args:
            inputs: contiguous, of the type and a shape that :attr:`signature` has.
        Returns:
            The signature's named tuple: :class:`aicl_fast.signature.NetworkOutputs`, …
        """

    def __call__(self, inputs: Any) -> Any:
        """Run any number of rows: videos, or segments.

        A file for at most M rows per run gets them M at a time; one for at least N gets rows of zeros to make
        up the number, which are not returned.

        Args:
            inputs: an array on the host; or, for an engine that takes them, one on the engine's GPU.
        Raises:
            DataError: the input has another shape than the file was exported for, or is on a GPU that this
                engine does not read.
            UnavailableError: the session is closed.
        """
        self._check_open()
        if not isinstance(inputs, np.ndarray) and is_gpu_array(inputs):
            return self._call_on_gpu(inputs)
        inputs = np.ascontiguousarray(inputs, dtype=self.signature.input.dtype)
        self.signature.check(inputs.shape, self.path)
        return run_batched(self._run_checked, inputs, self.info.batch)

    def _run_checked(self, inputs: npt.NDArray[Any]) -> Any:
        """Run, and see that the outputs are what the settings say."""
        with running(self.path):
            outputs = self.run(inputs)
        wrong = self.signature.differences(outputs, inputs.shape)
        if wrong:
            raise ModelError(f"{self.path}: {wrong}. Export the weights again.")
        return outputs

    def _call_on_gpu(self, inputs: Any) -> Any:
        """Run an array that is on a GPU. Engines that can do so replace this."""
        raise DataError(
            f"{self.signature.input.name}: these are on a GPU, and {self.path} takes them from the host "
            f"({self.name}). Copy them there, or open weights or a TensorRT engine on the GPU."
        )

    def close(self) -> None:
        """Give back what the session holds. It cannot run afterwards; closing twice does no harm.

        What runs in another thread ends first, or in its own time.
        """
        if not self._closed:
            self._closed = True
            self._free()

    def _free(self) -> None:
        """Release what the session holds; called once."""
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError(f"{self.path}: this engine is closed. Open the file again.")
        if self._process != os.getpid():
            self._after_fork()
            self._process = os.getpid()

    def _after_fork(self) -> None:
        """Make it run in a process that was forked from its own, whose threads are not there.

        Raises:
            UnavailableError: it cannot.
        """
        raise UnavailableError(
            f"{self.path}: was opened in another process, and what it holds on a GPU cannot be used in one "
            "that was forked from it. Open the file here, in a process that was started by spawn."
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_settings(text: str | None, path: Path, kind: str = DETECTOR) -> ModelInfo | SegmentInfo:
    """What a file's metadata says of a model of this kind, once a run with it is known to be affordable.

    Raises:
        ModelError: there are none, or of another kind of model, or a run would take much more memory than
            the file warrants.
    """
    info = parse_info(text, path) if kind == DETECTOR else parse_segment_info(text, path)
    require_sizes(info, path.stat().st_size, path)
    return info
