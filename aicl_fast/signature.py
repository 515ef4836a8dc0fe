"""A model's inputs and outputs: names, types and sizes, and what a run of it returns. Imports no torch.

Engines check against it what they are given and what they give; exports, what they write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aicl_fast.data.features import Floats
from aicl_fast.errors import DataError
from aicl_fast.kernels.outputs import NetworkOutputs
from aicl_fast.metadata import ModelInfo, Range, SegmentInfo

__all__ = ["Axis", "NetworkOutputs", "SegmentOutputs", "Signature", "Tensor", "signature_of"]

_LETTERS = {"batch": "B", "clips": "N", "segments": "T", "width": "D"}
_ONNX_TYPES = {"float32": "FLOAT", "uint8": "UINT8"}


class SegmentOutputs(NamedTuple):
    """What a segment network gives for N clips, float32."""

    features: Floats
    """(N, 1024)"""
    logits: Floats
    """(N, classes), before softmax"""


class Axis(NamedTuple):
    """One dimension of an input or output."""

    sizes: Range
    name: str = ""
    """``batch``, ``clips``, ``segments`` or ``width``; empty where a message says the size alone."""


class Tensor(NamedTuple):
    """An input or output."""

    name: str
    dtype: str
    """As NumPy calls it."""
    axes: tuple[Axis, ...]

    @property
    def onnx_type(self) -> str:
        """The type as ONNX and TensorRT call it."""
        return _ONNX_TYPES[self.dtype]

    @property
    def sizes(self) -> list[int | str]:
        """One size per dimension; where it may vary, the name that ONNX files give it."""
        return [
            axis.sizes.opt if axis.sizes.fixed else "segments" if axis.name == "segments" else "batch"
            for axis in self.axes
        ]

    @property
    def dynamic_sizes(self) -> tuple[int, ...]:
        """One size per dimension; -1 where it may vary."""
        return tuple(-1 if isinstance(size, str) else size for size in self.sizes)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be run, in batches of any size."""
        return len(shape) == len(self.axes) and all(
            size >= 1 if place == 0 else axis.sizes.min <= size <= axis.sizes.max
            for place, (size, axis) in enumerate(zip(shape, self.axes, strict=True))
        )

    def __str__(self) -> str:
        """``(B, T, D) with B at least 1, T 32 and D 11``."""
        letters = [_LETTERS.get(axis.name, str(axis.sizes)) for axis in self.axes]
        sizes = [f"{letters[0]} at least 1"]
        for letter, (low, _, high) in zip(letters[1:], (axis.sizes for axis in self.axes[1:]), strict=True):
            if letter.isalpha():
                sizes.append(f"{letter} {low}" if low == high else f"{letter} {low} to {high}")
        last = f" and {sizes.pop()}" if len(sizes) > 1 else ""
        return f"({', '.join(letters)}) with {', '.join(sizes)}{last}"


class Signature(NamedTuple):
    """One input, and outputs in the order of the named tuple that holds them."""

    input: Tensor
    outputs: tuple[Tensor, ...]
    result: type[Any]
    """:class:`NetworkOutputs` or :class:`SegmentOutputs`."""
    advice: str
    """What to do with an input of another shape."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Input and outputs by name."""
        return {tensor.name: tensor for tensor in (self.input, *self.outputs)}

    def check(self, shape: tuple[int, ...], source: object) -> None:
        """Compare an input's shape with what the model takes.

        Raises:
            DataError: another number of dimensions, an empty batch, or a size that the model does not allow.
        """
        if not self.input.fits(shape):
            raise DataError(f"{self.input.name}: {source} takes {self.input}; got {shape}. {self.advice}")

    def differences(self, outputs: Any, shape: tuple[int, ...]) -> str:
        """How outputs differ from the signature; empty where they do not.

        Args:
            outputs: arrays in order.
            shape: the input's.
        """
        known = {axis.name: size for axis, size in zip(self.input.axes, shape, strict=True) if axis.name}
        for tensor, output in zip(self.outputs, outputs, strict=True):
            expected = tuple(known.get(axis.name, axis.sizes.opt) for axis in tensor.axes)
            if output.shape != expected or output.dtype != np.dtype(tensor.dtype):
                return (
                    f"gives {tensor.name} of shape {output.shape}, {output.dtype}; its settings say "
                    f"{expected}, {tensor.dtype}"
                )
        return ""


def signature_of(info: ModelInfo | SegmentInfo) -> Signature:
    """The inputs and outputs of a model that says this of itself."""
    return _segment_signature(info) if isinstance(info, SegmentInfo) else _localization_signature(info)


def _localization_signature(info: ModelInfo) -> Signature:
    batch, segments = Axis(info.batch, "batch"), Axis(info.segments, "segments")
    classes = _fixed(info.config.model.num_classes)
    return Signature(
        Tensor("features", "float32", (batch, segments, _fixed(info.config.data.input_width, "width"))),
        (
            Tensor("scores", "float32", (batch, segments, classes)),
            Tensor("video_scores", "float32", (batch, classes)),
            Tensor("actionness", "float32", (batch, segments)),
            Tensor("actionness_agnostic", "float32", (batch, segments)),
        ),
        NetworkOutputs,
        "Sample the recording to T segments, or export with another --segments.",
    )


def _segment_signature(info: SegmentInfo) -> Signature:
    count = Axis(info.batch, "clips")
    dtype = "uint8" if info.stream == "rgb" else "float32"
    return Signature(
        Tensor("clips", dtype, (count, *map(_fixed, info.clip_shape))),
        (
            Tensor("features", "float32", (count, _fixed(info.width))),
            Tensor("logits", "float32", (count, _fixed(info.classes))),
        ),
        SegmentOutputs,
        "Resize and crop the frames, and cut them into segments.",
    )


def _fixed(size: int, name: str = "") -> Axis:
    return Axis(Range(size, size, size), name)
