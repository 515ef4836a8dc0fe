"""One file that holds an engine and its settings: what `aicl-fast export` writes as .engine and .openvino.

Little-endian, so that a C++ program finds the TensorRT plan with two reads (docs/export.md):

=======  =====  =================================================================
offset   bytes  what
=======  =====  =================================================================
0        8      ``AICLFAST``
8        4      version of this layout, 1
12       4      length of the header
16       8      offset of the first section (the TensorRT plan)
24       8      its size
32       32     SHA-256 of the header
64       ...    the header, JSON: kind, builder, metadata, sections
...      ...    sections, each at a multiple of 4096 and with its SHA-256 in the header
=======  =====  =================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aicl_fast.errors import ModelError
from aicl_fast.files import atomic_path, require_file
from aicl_fast.metadata import ModelInfo, SegmentInfo, parse_info, reading_settings
from aicl_fast.text import parse_json

MAGIC = b"AICLFAST"
VERSION = 1
KINDS = ("tensorrt", "tensorrt-rtx", "openvino")
_PREFACE = struct.Struct("<8sIIQQ32s")
_ALIGN = 4096


@dataclass(frozen=True)
class Container:
    """A container's header, checked; its sections are read when asked for.

    Attributes:
        path: the file.
        kind: one of :data:`KINDS`.
        builder: who built the engine and for what: ``name``, ``version``, and more by kind.
        metadata: the settings as JSON; :attr:`info` is a detector's.
        sections: name to (offset, size, SHA-256).
    """

    path: Path
    kind: str
    builder: Mapping[str, Any]
    metadata: str
    sections: Mapping[str, tuple[int, int, str]]

    @cached_property
    def info(self) -> ModelInfo:
        """The settings of a detector's model.

        Raises:
            ModelError: it is a model of another kind, or its settings cannot be read.
        """
        return parse_info(self.metadata, self.path)

    def read(self, name: str) -> bytes:
        """One section.

        Raises:
            ModelError: the file has no such section, or the section is damaged.
        """
        if name not in self.sections:
            raise ModelError(f"{self.path}: has no section {name!r}, only {', '.join(self.sections)}.")
        offset, size, digest = self.sections[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ModelError(
                f"{self.path}: its {name} is damaged: the checksum differs from the header's. Copy the file "
                "again, or export it again."
            )
        return data


def write_container(
    path: str | os.PathLike[str],
    kind: str,
    info: ModelInfo | SegmentInfo,
    builder: Mapping[str, Any],
    sections: Mapping[str, bytes],
) -> None:
    """Write a container, whole or not at all.

    Args:
        kind: one of :data:`KINDS`.
        info: what the file will say about itself.
        builder: at least ``name`` and ``version``; values that JSON can hold.
        sections: name to content. The first is the one that the fixed part of the header points at.
    """
    listed = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sections.items()
    }
    document: dict[str, Any] = {
        "kind": kind,
        "builder": dict(builder),
        "metadata": json.loads(info.to_json()),
    }
    # Offsets follow from the header's length, which does not depend on them: they are not in the header.
    header = json.dumps({**document, "sections": listed}, indent=1).encode()
    offsets = _offsets(len(header), [len(data) for data in sections.values()])
    first = next(iter(sections.values()))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(
            _PREFACE.pack(
                MAGIC, VERSION, len(header), offsets[0], len(first), hashlib.sha256(header).digest()
            )
        )
        file.write(header)
        for offset, data in zip(offsets, sections.values(), strict=True):
            file.seek(offset)
            file.write(data)


def is_container(path: Path) -> bool:
    """Whether a file begins with the aicl_fast header."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_container(path: str | os.PathLike[str]) -> Container:
    """Read and check a container's header; no section is read.

    Raises:
        DataError: no such file.
        ModelError: not a container, of a newer version, cut off, or its header is damaged.
    """
    target = require_file(path, "engine file")
    size = target.stat().st_size
    with target.open("rb") as file:
        preface = file.read(_PREFACE.size)
        if preface[: len(MAGIC)] != MAGIC:
            raise ModelError(
                f"{target}: is not a file that `aicl-fast export` wrote: it begins with {preface[:8]!r}, "
                f"expected {MAGIC!r}."
            )
        if len(preface) < _PREFACE.size:
            raise _cut_off(target, _PREFACE.size, size)
        _, version, length, *first, digest = _PREFACE.unpack(preface)
        if version != VERSION:
            raise ModelError(
                f"{target}: has layout {version}; this aicl_fast reads layout {VERSION}. Upgrade aicl_fast, "
                "or export again."
            )
        if _PREFACE.size + length > size:
            raise _cut_off(target, _PREFACE.size + length, size)
        header = file.read(length)
    if hashlib.sha256(header).digest() != digest:
        raise ModelError(f"{target}: its header is damaged. Copy the file again, or export it again.")
    with reading_settings(target):
        container = _container(target, parse_json(header.decode(), target, "header"), length)
    offset, section, _ = next(iter(container.sections.values()))
    if [offset, section] != first or not _is_padded(container, _PREFACE.size + length):
        raise ModelError(f"{target}: is damaged between its parts. Copy the file again, or export it again.")
    return container


def _container(path: Path, document: Any, header: int) -> Container:
    """What a header of so many bytes says."""
    kind = document["kind"]
    if kind not in KINDS:
        raise ModelError(f"{path}: holds a {kind!r} engine; this aicl_fast knows {', '.join(KINDS)}.")
    sizes = [int(section["size"]) for section in document["sections"].values()]
    if not sizes or min(sizes) < 0:
        raise ValueError("the sections' sizes")
    builder = dict(document["builder"])
    if not isinstance(builder.get("compute_capability", []), list):
        raise ValueError("the cards that it is for")
    offsets = _offsets(header, sizes)
    size = path.stat().st_size
    if offsets[-1] + sizes[-1] != size:
        raise _cut_off(path, offsets[-1] + sizes[-1], size)
    return Container(
        path=path,
        kind=kind,
        builder=builder,
        metadata=json.dumps(document["metadata"]),
        sections={
            name: (offset, length, str(section["sha256"]))
            for (name, section), offset, length in zip(
                document["sections"].items(), offsets, sizes, strict=True
            )
        },
    )


def _is_padded(container: Container, start: int) -> bool:
    """Whether nothing but zeros is between the sections, the first of which may begin at ``start``."""
    with container.path.open("rb") as file:
        for offset, size, _ in container.sections.values():
            file.seek(start)
            if any(file.read(offset - start)):
                return False
            start = offset + size
    return True


def _cut_off(path: Path, expected: int, size: int) -> ModelError:
    return ModelError(
        f"{path}: expected {expected} bytes, found {size}. It was cut off or changed while being copied: "
        "copy it again."
    )


def _offsets(header: int, sizes: list[int]) -> list[int]:
    offsets, end = [], _PREFACE.size + header
    for size in sizes:
        start = -(-end // _ALIGN) * _ALIGN
        offsets.append(start)
        end = start + size
    return offsets
