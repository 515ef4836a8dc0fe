"""What every engine has in common: its results, its checks, and any number of videos in runs that fit."""

from __future__ import annotations

import ctypes
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from aicl_fast.config import Config
from aicl_fast.engines.gpu_array import is_gpu_array
from aicl_fast.errors import AiclError, DataError, ModelError, UnavailableError
from aicl_fast.metadata import ModelInfo
from aicl_fast.signature import NetworkOutputs, Signature, signature_of
from aicl_fast.text import error_text

Outputs = TypeVar("Outputs", bound=tuple[Any, ...])
"""A NamedTuple of arrays, a row a video."""


def run_in_parts(
    run: Callable[[Any], Outputs], inputs: Any, low: int, high: int, filled: Callable[[Any, int], Any]
) -> Outputs:
    """Run any number of videos, or of segments.

    Args:
        run: for ``low`` to ``high`` of them at once.
        inputs: an array with a row for each; more than ``high`` are cut, fewer than ``low`` made up.
        low: the least that ``run`` takes.
        high: the most.
        filled: gives inputs with so many empty rows after them, whose outputs are left out.
    """
    results: list[Any] = []
    for start in range(0, len(inputs), high):
        part = inputs[start : start + high]
        count = len(part)
        if count >= low:
            results.append(run(part))
        else:
            outputs: Any = run(filled(part, low - count))
            results.append(type(outputs)(*(output[:count] for output in outputs)))
    if len(results) > 1:
        results = [type(results[0])(*(np.concatenate(parts) for parts in zip(*results, strict=True)))]
    found: Outputs = results[0]
    return found


def filled_with_zeros(inputs: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """An array with so many rows of zeros after its own."""
    return np.concatenate([inputs, np.zeros((count, *inputs.shape[1:]), inputs.dtype)])


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Whatever an engine raises over a model that it loads or runs, as a ModelError that names the file."""
    try:
        yield
    except AiclError:
        raise
    except Exception as error:  # every engine has classes of its own
        why = "there is not enough memory" if isinstance(error, MemoryError) else error_text(error)
        raise ModelError(
            f"{path}: cannot be run ({why}). If it was cut off while being copied, copy it again; or export "
            "the weights again."
        ) from error


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


class Engine(ABC):
    """A model file that is open and ready to run. Use it as a context manager, or call :meth:`close`.

    In a process that was forked from the one that opened it, it opens the file again, or says that it cannot
    be used there.
    """

    name: ClassVar[str]
    path: Path
    info: ModelInfo
    _closed = False
    _process = 0
    """The process that opened it; each engine sets it."""

    @property
    def config(self) -> Config:
        """The model's settings."""
        return self.info.config

    @property
    def signature(self) -> Signature:
        """The model's inputs and outputs."""
        return signature_of(self.info)

    @abstractmethod
    def run(self, features: npt.NDArray[np.float32]) -> NetworkOutputs:
        """Run (B, T, D) contiguous float32 features whose shape the file allows."""

    def __call__(self, features: Any) -> NetworkOutputs:
        """Run any number of videos.

        A file for at most M videos a run gets them M at a time; one for at least N gets empty videos to make
        up the number, which are not returned.

        Args:
            features: (B, T, D) float32, on the host.
        Raises:
            DataError: the features have another shape than the file was exported for, or lie on a GPU.
            UnavailableError: the engine is closed.
        """
        self._check_open()
        if is_gpu_array(features):
            raise DataError(
                f"features: these are on a GPU, and {self.path} takes them from the host ({self.name}). Copy "
                "them there, or open weights or a TensorRT engine on the GPU."
            )
        features = np.ascontiguousarray(features, dtype=np.float32)
        self.check_shape(features.shape)
        low, _, high = self.info.batch
        return run_in_parts(self._run_checked, features, low, high, filled_with_zeros)

    def _run_checked(self, features: npt.NDArray[np.float32]) -> NetworkOutputs:
        """Run, and see that the outputs are what the settings say."""
        with running(self.path):
            outputs = self.run(features)
        wrong = self.signature.differences(outputs, features.shape)
        if wrong:
            raise ModelError(f"{self.path}: {wrong}. Export the weights again.")
        return outputs

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Compare a batch's shape with what the file was exported for.

        Raises:
            DataError: another number of dimensions, no video, or a T or D that the file does not allow.
        """
        self.signature.check(shape, self.path)

    def close(self) -> None:
        """Give back what the engine holds. It cannot run afterwards; closing twice does no harm.

        What runs in another thread ends first, or in its own time.
        """
        if not self._closed:
            self._closed = True
            self._free()

    def _free(self) -> None:
        """Let go of what the engine holds; called once."""
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError(f"{self.path}: this engine is closed. Open the file again.")
        if self._process not in (0, os.getpid()):
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

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
