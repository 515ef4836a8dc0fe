"""A segment of video to 1024 features, by whatever engine runs the file: ``engines/registry.py``."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from aicl_fast.data.features import Floats
from aicl_fast.engines.registry import engines_for, open_session
from aicl_fast.engines.session import Session
from aicl_fast.errors import DataError, ModelError
from aicl_fast.files import require_file
from aicl_fast.metadata import I3D, SegmentInfo, Stream
from aicl_fast.signature import SegmentOutputs, signature_of


class SegmentNetwork:
    """A network that turns segments of raw video into features.

    Normalisation is inside, so that frames and flow go in as they come.

    Args:
        session: what runs it, of a segment network.

    Attributes:
        path: the file.
        stream: ``rgb`` or ``flow``.
        frames: of a segment.
        size: height and width of a frame.
        width: features per segment.
        weights_hash: SHA-256 of the weights in hexadecimal, the same for every file made of them.
        name: ``i3d-rgb`` or ``i3d-flow``.
        precision: what convolutions are computed in (by OpenVINO: where the processor has such products).
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.info: SegmentInfo = session.info
        self.path = session.path
        self.stream: Stream = self.info.stream
        self.frames, self.size, self.width = self.info.frames, self.info.size, self.info.width
        self.weights_hash = self.info.weights
        self.name = self.info.name
        self.precision = session.precision

    def __call__(self, clips: npt.NDArray[Any]) -> Floats:
        """Features of N segments.

        Args:
            clips: RGB: (N, 16, 224, 224, 3) uint8. Flow: (N, 16, 224, 224, 2) float32, (dx, dy) in pixels per
                frame, not clipped.
        Returns:
            (N, 1024) float32.
        Raises:
            DataError: another shape or type, or flow that is not finite.
        """
        return self._outputs(clips, exact=True).features

    def classify(self, clips: npt.NDArray[Any]) -> Floats:
        """(N, classes) float32 logits of N segments; for Kinetics, :func:`kinetics_classes` names them.

        Args:
            clips: as :meth:`__call__` takes them; trained weights in torch take longer ones, too.
        Raises:
            DataError: as :meth:`__call__`.
        """
        return self._outputs(clips).logits

    def _outputs(self, clips: Any, *, exact: bool = False) -> SegmentOutputs:
        signature = signature_of(self.info) if exact else self.session.signature
        if not isinstance(clips, np.ndarray) or clips.dtype != signature.input.dtype:
            meaning = "RGB in 0 to 255" if self.stream == "rgb" else "flow in pixels per frame"
            raise DataError(
                f"clips: {self.name} takes a {signature.input.dtype} array of {meaning}, got "
                f"{getattr(clips, 'dtype', type(clips).__name__)}."
            )
        signature.check(clips.shape, self.name)
        if self.stream == "flow" and not np.isfinite(clips).all():
            raise DataError("clips: the flow is NaN or infinite in places; expected pixels per frame.")
        outputs: SegmentOutputs = self.session(clips)
        return outputs

    def close(self) -> None:
        """Give back what runs the network. It cannot be called afterwards; closing twice does no harm."""
        self.session.close()

    def __enter__(self) -> SegmentNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_network(
    path: str | os.PathLike[str],
    *,
    stream: Stream | None = None,
    device: str = "cpu",
    precision: str | None = None,
    threads: int | None = None,
    trust: bool = False,
) -> SegmentNetwork:
    """Open a network that turns segments of video into features.

    Args:
        path: weights of I3D (``.npz``, ``.pt``, ``.safetensors``; torch runs them), or what ``aicl-fast
            export --model i3d-rgb`` made of them (``.onnx``, ``.openvino``, ``.xml``, ``.engine``; no torch
            is needed).
        stream: what the file must be for; None takes what it is for.
        device: ``cpu``, ``cuda`` or ``cuda:N``; an ``.engine`` runs on a GPU in any case.
        precision: what convolutions are computed in, where that is chosen at load: torch and OpenVINO on the
            CPU fp32 or bf16, torch on a GPU fp16 (by default), bf16 or fp32 (products in tf32). None is
            what an exported file has in it, and for weights fp32 on the CPU and fp16 on a GPU.
        threads: of the CPU; None takes every core. torch has one number for the whole process.
        trust: run native code that an ``.engine`` carries, as version-compatible ones do.
    Raises:
        DataError: no such file.
        ModelError: not I3D, damaged, of the other stream, with native code and not trusted, or a device,
            precision or number of threads that is not for it.
        UnavailableError: what runs it, or the device, is missing.
    """
    if stream not in (None, *get_args(Stream)):
        raise ModelError(f"stream: expected rgb or flow, got {stream!r}.")
    # The file's own engine. One on a GPU takes neither the CPU, which is the default here, nor its threads.
    spec = next(iter(engines_for(require_file(path, "network"), I3D).values()))
    session = open_session(
        path,
        kind=I3D,
        device=None if device == "cpu" and "cpu" not in spec.devices else device,
        precision=precision,
        threads=threads if "cpu" in spec.devices else None,
        trust=trust,
    )
    network = SegmentNetwork(session)
    if stream not in (None, network.stream):
        network.close()
        raise ModelError(f"{path}: is of the {network.stream} stream, not of {stream}.")
    return network


@cache
def kinetics_classes() -> tuple[str, ...]:
    """The 400 classes of Kinetics in alphabetical order, which is that of the released head."""
    text = Path(__file__).with_name("kinetics400.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
