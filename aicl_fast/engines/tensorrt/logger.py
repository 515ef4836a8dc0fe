"""What TensorRT says while it builds and loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from aicl_fast.errors import DataError


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
    """The last error that TensorRT logged, on one line."""
    return logger.errors[-1].splitlines()[0][:300] if logger.errors else "it gives no reason"
