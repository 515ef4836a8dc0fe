"""The modes of non-maximum suppression, which the setting ``nms`` chooses from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aicl_fast.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from aicl_fast.config import DecodeConfig

    Floats = npt.NDArray[np.float64]
    Suppress = Callable[[Floats, Floats, Floats, DecodeConfig], npt.NDArray[np.bool_]]
    """A mode as a function: ``suppress(start, end, score, config)`` gets one pool of proposals, in seconds,
    in the order of class, threshold and start. It may lower ``score`` in place, and gives a mask of those
    that stay."""

NMS_MODES: dict[str, int | Suppress] = {
    "decay_once": 0,
    "hard": 1,
    "gaussian": 2,
}
"""By name: a function, or the number that a mode has in the C++ and numba kernels, where it is compiled."""


def register_nms(name: str, suppress: Suppress) -> None:
    """Add a mode from outside: ``register_nms("mine", suppress)``, then ``nms=mine`` in any settings.

    Decoding runs in numba then, and calls ``suppress`` for each class (for all at once with
    ``nms_across_classes``).

    Raises:
        ConfigError: the name is taken, or no name.
    """
    if not (isinstance(name, str) and name.isidentifier() and callable(suppress)):
        raise ConfigError(
            f"register_nms: expected a name as in Python and a function, got {name!r}, {suppress!r}."
        )
    if NMS_MODES.setdefault(name, suppress) is not suppress:
        raise ConfigError(f"register_nms: there is a mode {name!r} already. Choose another name.")


def compiled_mode(name: str) -> int | None:
    """The mode's number in the kernels; None for one that is a function."""
    mode: Any = NMS_MODES[name]
    return mode if isinstance(mode, int) else None
