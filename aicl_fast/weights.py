"""Trained weights on disk: safetensors with the settings in the header. Imports torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor

from aicl_fast.config import Config
from aicl_fast.engines.checksum import mapped, properties, write_checksum
from aicl_fast.engines.safetensors_file import StoredTensor, read_header
from aicl_fast.errors import ModelError
from aicl_fast.files import atomic_path, require_file
from aicl_fast.metadata import METADATA_KEY, ModelInfo, model_metadata, parse_metadata, require_sizes
from aicl_fast.model import TwoBranchNet
from aicl_fast.text import clean_text


def save_model(path: str | os.PathLike[str], net: TwoBranchNet, config: Config) -> None:
    """Write the network's weights and its settings as one safetensors file, whole or not at all."""
    save_tensors(path, net.state_dict(), {METADATA_KEY: model_metadata(config)})


def load_model(path: str | os.PathLike[str]) -> tuple[TwoBranchNet, Config]:
    """Read what :func:`save_model` wrote: the network on the CPU in evaluation mode, and its settings.

    Raises:
        DataError: no such file.
        ModelError: not safetensors, truncated, damaged, without settings, its weights do not fit these, or
            they ask for much more memory than the file warrants.
    """
    target = require_file(path, "model file")
    with mapped(target) as data:
        metadata, stored = read_header(data, target)
        config = parse_metadata(metadata.get(METADATA_KEY), target)
        require_sizes(ModelInfo(config), len(data), target)
        with torch.device("meta"):  # it has no memory yet
            net = TwoBranchNet(config)
        expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
        found = {name: each.shape for name, each in stored.items() if each.dtype in _FLOATS}
        if found != expected:
            odd = sorted(name for name in expected.keys() | stored if found.get(name) != expected.get(name))[
                0
            ]
            raise ModelError(
                f"{target}: its weights do not fit its settings: expected {clean_text(odd)} of shape "
                f"{expected.get(odd)}, found {found.get(odd)}. Copy it again, or train again."
            )
        state = {name: _tensor(data, each).float() for name, each in stored.items()}
    net.load_state_dict(state, assign=True)
    return net.eval(), config


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as a safetensors file with a checksum over all of it, whole or not at all."""
    with needs("train"):
        from safetensors.torch import save_file
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(ready, temporary, metadata={**(metadata or {}), **properties()})
        _sort_metadata(temporary)
        write_checksum(temporary)


def _sort_metadata(path: Path) -> None:
    """The library writes these in any order; the same tensors shall give the same bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length, "the library wrote its header in another way"
        file.seek(8)
        file.write(text.ljust(length))


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read what :func:`save_tensors` wrote, onto the CPU.

    Raises:
        DataError: no such file.
        ModelError: not safetensors, truncated or damaged.
    """
    target = require_file(path, "file of weights")
    with mapped(target) as data:
        return {name: _tensor(data, each) for name, each in read_header(data, target)[1].items()}


_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_FLOATS = ("F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64")


def _tensor(data: memoryview, stored: StoredTensor) -> Tensor:
    values = torch.empty(stored.stop - stored.start, dtype=torch.uint8)
    values.numpy()[:] = np.frombuffer(data[stored.start : stored.stop], np.uint8)
    return values.view(_DTYPES[stored.dtype]).reshape(stored.shape)


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
