"""What a measure gives, as a dataclass that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np


class Result:
    """A dataclass with :meth:`to_dict`. A field's metadata ``json`` is its name there; None leaves it out."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not a finite number is None."""
        names = {field.name: field.metadata.get("json", field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {shown: _plain(getattr(self, name)) for name, shown in names.items() if shown is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {f"{key:g}" if isinstance(key, float) else key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
