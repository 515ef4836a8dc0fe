"""A safetensors file's header, looked through before any tensor is read, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aicl_fast.engines.checksum import NAME, check_checksum
from aicl_fast.errors import ModelError
from aicl_fast.text import error_text, parse_json

_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4,
    "F32": 4, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of a value."""


class StoredTensor(NamedTuple):
    """Where a tensor is in a file."""

    dtype: str
    """As safetensors names it: ``F32``."""
    shape: tuple[int, ...]
    start: int
    """Of its bytes in the file."""
    stop: int


def read_header(data: memoryview, path: Path) -> tuple[Mapping[str, str], dict[str, StoredTensor]]:
    """What a safetensors file holds: its metadata, and its tensors by name. Its checksum is compared.

    Args:
        data: the whole file.
        path: for messages.
    Raises:
        ModelError: not safetensors, truncated or damaged.
    """
    begin = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or begin > len(data):
        raise ModelError(
            f"{path}: is not a safetensors file, or is truncated: it has {len(data)} bytes.{_hint(data)} "
            "Expected the model.safetensors that `aicl-fast train` writes."
        )
    try:
        text = str(data[8:begin], "utf-8")
        header = parse_json(text, path, "header")
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that is not text")
        tensors = {name: _tensor(entry, begin) for name, entry in header.items()}
        _check_layout(tensors, begin, len(data))
    except Exception as error:  # whatever a damaged header leads to
        why = error_text(error).removeprefix(f"{path}: ")
        raise ModelError(
            f"{path}: is not a safetensors file, or is truncated ({why}).{_hint(data)} Expected the "
            "model.safetensors that `aicl-fast train` writes."
        ) from error
    at = bytes(data[8:begin]).find(metadata.get(NAME, NAME).encode())
    check_checksum(data, metadata, 8 + at, path)
    return metadata, tensors


def _tensor(entry: Mapping[str, Any], begin: int) -> StoredTensor:
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(size) is int and size >= 0 for size in (*shape, start, stop)):
        raise ValueError(f"a tensor of shape {entry['shape']}")
    if stop - start != math.prod(shape) * _SIZES[entry["dtype"]]:
        raise ValueError(f"a tensor of shape {shape} in {stop - start} bytes")
    return StoredTensor(entry["dtype"], shape, begin + start, begin + stop)


def _check_layout(tensors: Mapping[str, StoredTensor], begin: int, end: int) -> None:
    """Every byte after the header belongs to one tensor."""
    for tensor in sorted(tensors.values(), key=lambda each: (each.start, each.stop)):
        if tensor.start != begin:
            raise ValueError(f"tensors that leave a gap, or overlap, at byte {begin}")
        begin = tensor.stop
    if begin != end:
        raise ValueError(f"expected {begin} bytes, found {end}")


def _hint(data: memoryview) -> str:
    pickled = bytes(data[:2]) in (b"PK", b"\x80\x02", b"\x80\x04")
    return " Checkpoints of other programs are pickled." if pickled else ""
