"""Trained weights on disk: safetensors with the settings in the header. Imports torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aicl_fast.extras import needs

with needs("train"):
    from torch import Tensor

from aicl_fast.config import Config
from aicl_fast.errors import ModelError
from aicl_fast.files import atomic_path, require_file
from aicl_fast.metadata import METADATA_KEY, model_metadata, parse_metadata
from aicl_fast.model import TwoBranchNet


def save_model(path: str | os.PathLike[str], net: TwoBranchNet, config: Config) -> None:
    """Write the network's weights and its settings as one safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: model_metadata(config)})


def load_model(path: str | os.PathLike[str]) -> tuple[TwoBranchNet, Config]:
    """Read what :func:`save_model` wrote: the network on the CPU in evaluation mode, and its settings.

    Raises:
        DataError: no such file.
        ModelError: not safetensors, truncated, not ours, or its weights do not fit its settings.
    """
    from safetensors import SafetensorError, safe_open

    target = require_file(path, "model file")
    try:
        with safe_open(target, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        hint = " Checkpoints of other programs are pickled." if _is_pickle(target) else ""
        raise ModelError(
            f"{target}: is not a safetensors file, or is truncated ({error}).{hint} Expected the "
            "model.safetensors that `aicl-fast train` writes."
        ) from error
    config = parse_metadata(metadata.get(METADATA_KEY), target)
    net = TwoBranchNet(config)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{target}: its weights do not fit its settings: {error}") from error
    return net.eval(), config


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of a network's parameters: names, shapes and float32 values in name order.

    It is the same for every file that was exported from the same weights, whatever its precision.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().float().contiguous()
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(2)
    return head in (b"PK", b"\x80\x02", b"\x80\x04")
