"""The one way to the openvino package: without its telemetry."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aicl_fast.extras import needs

_TELEMETRY = "openvino_telemetry"
_lock = threading.Lock()


def import_openvino(what: str) -> Any:
    """The openvino package, which from then on sends nothing and looks up no host.

    Its tools report what they convert by ``openvino_telemetry``. Where that package is missing they take an
    empty stand-in of their own; so it counts as missing while they are imported. What the program imported
    before is given the stand-in, too.

    Args:
        what: what needs it, as the start of a sentence.
    Raises:
        UnavailableError: it is not installed, or does not load.
    """
    with needs("openvino", what), _lock:
        with _missing(_TELEMETRY):
            openvino = importlib.import_module("openvino")
        for name, module in list(sys.modules.items()):
            reports = getattr(module, "tm", None) if name.startswith("openvino.") else None
            if getattr(reports, "__name__", "") == _TELEMETRY:
                module.__dict__["tm"] = importlib.import_module("openvino.tools.ovc.telemetry_stub")
        return openvino


@contextmanager
def _missing(name: str) -> Iterator[None]:
    """A package cannot be imported meanwhile, if it was not yet."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
