"""A device by its name, as torch has it."""

from __future__ import annotations

import re

from aicl_fast.extras import needs

with needs("train"):
    import torch

from aicl_fast.errors import ConfigError, UnavailableError


def torch_device(name: str) -> torch.device:
    """The device that a name means, and that is here.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:N``.
    Raises:
        ConfigError: another name.
        UnavailableError: torch finds no such GPU.
    """
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", name, re.ASCII)
    if found is None:
        raise ConfigError(f"device: expected cpu, cuda or cuda:N, got {name!r}.")
    if name == "cpu":
        return torch.device("cpu")
    number = int(found[1] or 0)
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
    return torch.device("cuda") if found[1] is None else torch.device("cuda", number)
