"""The one way to the onnxruntime package: without its telemetry."""

from __future__ import annotations

import os
from typing import Any

from aicl_fast.errors import UnavailableError

_SWITCH = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> Any:
    """The onnxruntime package, which then sends nothing, looks up no host and keeps no identifier.

    From 1.32 its builds report how they are used unless this variable is set before the first import. A
    program that imports it earlier decides for itself, but for what its sessions do later.

    Raises:
        UnavailableError: it is not installed, or does not load.
    """
    os.environ.setdefault(_SWITCH, "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            f"onnxruntime cannot be imported ({error}): pip install onnxruntime"
        ) from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime
