"""What to install where an optional package is missing. Imports only our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aicl_fast.errors import UnavailableError

EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "onnx": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "tensorrt_rtx_bindings": "tensorrt-rtx",
    "cuda": "cuda",
    "google": "export",
    "matplotlib": "plot",
    "mpl_toolkits": "plot",
    "av": "video",
    "cv2": "video",
    "triton": "triton",
    "optuna": "tune",
    "seglearn": "demo",
    "pandas": "demo",
}
"""The extra of pyproject.toml that installs a package, by the name it is imported with."""


@contextmanager
def needs(extra: str | None = None, what: str = "this") -> Iterator[None]:
    """Import optional packages: one that is missing is told in a sentence.

        with needs("train"):
            import torch

    Of blocks within each other the outermost that has an extra words the sentence: it knows best what for.

    Args:
        extra: the extra that has what the block uses; None takes the missing package's own.
        what: what needs it, as the start of a sentence.
    Raises:
        UnavailableError: a package of an extra is missing, or is there and does not load.
    """
    try:
        yield
    except (ImportError, UnavailableError) as error:
        reason = error if isinstance(error, ImportError) else error.__cause__
        module = (reason.name if isinstance(reason, ImportError) else None) or ""
        package = module.partition(".")[0]
        if package not in EXTRAS or (extra is None and reason is not error):
            raise
        absent = isinstance(reason, ModuleNotFoundError) and module == package
        problem = "is not installed" if absent else f"cannot be imported ({reason})"
        raise UnavailableError(
            f"{what} needs the package {package}, which {problem}: "
            f"pip install 'aicl-fast[{extra or EXTRAS[package]}]'"
        ) from reason
