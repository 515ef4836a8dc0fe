"""One way to both TensorRT packages: the API is the same, the names to import differ."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal, TextIO

from aicl_fast.errors import DataError, UnavailableError

Kind = Literal["tensorrt", "tensorrt-rtx"]

# TensorRT-RTX is imported as tensorrt_rtx from NVIDIA's archive and as tensorrt_rtx_bindings from wheels.
_MODULES: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
NAMES: dict[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def load_tensorrt(kind: Kind) -> Any:
    """The TensorRT (10 or 11) or TensorRT-RTX module.

    Raises:
        UnavailableError: it is not installed, or its libraries do not load.
    """
    reasons = []
    for name in _MODULES[kind]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(str(error))
    raise UnavailableError(
        f"{NAMES[kind]} cannot be imported ({'; '.join(reasons)}): pip install 'aicl-fast[{kind}]'."
    )


def make_logger(api: Any, file: Path | None = None) -> Any:
    """A TensorRT logger that keeps the errors (``logger.errors``) and writes all it hears to a file.

    Args:
        file: where to write, from information up; None keeps the errors alone.
    Raises:
        DataError: the file cannot be written.
    """

    class Logger(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []
            self.stream = None if file is None else _opened(file)

        def log(self, severity: Any, message: str) -> None:
            if severity in (api.ILogger.Severity.ERROR, api.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            if self.stream is not None and severity != api.ILogger.Severity.VERBOSE:
                self.stream.write(f"{str(severity).rpartition('.')[2]:<14} {message}\n")

        def close(self) -> None:
            if self.stream is not None:
                self.stream.close()
                self.stream = None

    return Logger()


def _opened(file: Path) -> TextIO:
    try:
        return file.open("w", encoding="utf-8")
    except OSError as error:
        raise DataError(f"--log: {file} cannot be written ({error.strerror}). Name another file.") from error


def last_error(logger: Any) -> str:
    """The last thing that TensorRT complained of, on one line."""
    return logger.errors[-1].splitlines()[0][:300] if logger.errors else "it gives no reason"
