"""Devices by their names: cpu, cuda, cuda:N."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aicl_fast.errors import AiclError, ConfigError, ModelError, UnavailableError
from aicl_fast.extras import needs

if TYPE_CHECKING:
    import torch


def parse_device(device: str | None, error: type[AiclError] = ModelError) -> int | None:
    """The number of a GPU, 0 where the name has none; None for the CPU, and where no device is named.

    Raises:
        AiclError: ``error``: the name means no device.
    """
    found = re.fullmatch(r"cpu|cuda(?::([0-9]+))?", "cpu" if device is None else device)
    if found is None:
        raise error(f"device: expected cpu, cuda or cuda:N, got {device!r}.")
    return int(found[1] or 0) if found[0] != "cpu" else None


def torch_device(name: str) -> torch.device:
    """The device that a name means, as torch has it.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:N``.
    Raises:
        ConfigError: another name.
        UnavailableError: torch finds no such GPU.
    """
    with needs("train"):
        import torch
    number = parse_device(name, ConfigError)
    if number is None:
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise UnavailableError(
            f"device: {name!r} was asked for, but torch {torch.__version__} finds no CUDA device here. Use "
            "'cpu'; or, where there is a GPU, install a CUDA build of torch."
        )
    if number >= count:
        raise UnavailableError(
            f"device: {name!r} was asked for, but torch finds {count} CUDA device{'s'[: count != 1]} here. "
            f"Use {'cuda:0' if count == 1 else f'cuda:0 to cuda:{count - 1}'}."
        )
    return torch.device("cuda", number) if ":" in name else torch.device("cuda")
