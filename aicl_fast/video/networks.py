"""A segment of video to 1024 features, by whatever runs the file. Imports no torch unless it is to run.

====================================  =================================================
files                                 run by
====================================  =================================================
``.npz``, ``.pt``, ``.safetensors``   torch, CPU or GPU
``.onnx``                             ONNX Runtime
``.openvino``, ``.xml``               OpenVINO
``.engine``                           TensorRT and TensorRT-RTX
====================================  =================================================
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from aicl_fast.data.features import Floats
from aicl_fast.engines.base import filled_with_zeros, run_in_parts, running
from aicl_fast.engines.container import Container
from aicl_fast.engines.onnx_file import read_onnx
from aicl_fast.engines.tensorrt import TensorRTEngine, Tensors
from aicl_fast.errors import DataError, ModelError, UnavailableError
from aicl_fast.extras import needs
from aicl_fast.files import require_file
from aicl_fast.metadata import Range, SegmentInfo, Stream, parse_segment_info, require_sizes
from aicl_fast.signature import SegmentOutputs

PICKLED = (".pt", ".pth", ".ckpt", ".tar")
TORCH_SUFFIXES = (".npz", *PICKLED, ".safetensors")
"""Of weights of I3D, in any case. torch.save's have several, ``.pth.tar`` among them."""


class SegmentNetwork(ABC):
    """A network that turns segments of raw video into features.

    Normalisation is inside, so that frames and flow go in as they come.

    Attributes:
        path: the file.
        stream: ``rgb`` or ``flow``.
        frames: of a segment.
        size: height and width of a frame.
        width: features a segment.
        weights_hash: SHA-256 of the weights in hexadecimal, the same for every file made of them.
        name: ``i3d-rgb`` or ``i3d-flow``.
        precision: what convolutions are computed in (by OpenVINO: where the processor has such products).
    """

    any_length = False
    """Whether :meth:`classify` takes clips of more frames than a segment has."""

    def __init__(self, path: Path, info: SegmentInfo) -> None:
        self.path = path
        self.info = info
        self.stream: Stream = info.stream
        self.frames = info.frames
        self.size = info.size
        self.width = info.width
        self.weights_hash = info.weights
        self.name = info.name
        self.precision: str = info.precision
        self._process = os.getpid()

    @abstractmethod
    def run(self, clips: npt.NDArray[Any]) -> SegmentOutputs:
        """Run contiguous clips that were checked, as many as the file allows."""

    def __call__(self, clips: npt.NDArray[Any]) -> Floats:
        """Features of N segments.

        Args:
            clips: RGB: (N, 16, 224, 224, 3) uint8. Flow: (N, 16, 224, 224, 2) float32, (dx, dy) in pixels a
                frame, not clipped.
        Returns:
            (N, 1024) float32.
        Raises:
            DataError: another shape or type, or flow that is not finite.
        """
        return self._outputs(clips).features

    def classify(self, clips: npt.NDArray[Any]) -> Floats:
        """(N, classes) float32 logits of N segments; for Kinetics, :func:`kinetics_classes` names them.

        Args:
            clips: as :meth:`__call__` takes them; trained weights in torch take longer ones, too.
        Raises:
            DataError: as :meth:`__call__`.
        """
        return self._outputs(clips, longer=self.any_length).logits

    def _outputs(self, clips: npt.NDArray[Any], *, longer: bool = False) -> SegmentOutputs:
        clips = np.ascontiguousarray(self._checked(clips, longer=longer))
        if self._process != os.getpid():
            raise UnavailableError(
                f"{self.path}: was opened in another process, and its threads are not in one that was forked "
                "from it. Open the file here, or start processes by spawn."
            )
        low, _, high = self.info.batch
        return run_in_parts(self._run_checked, clips, low, high, filled_with_zeros)

    def _run_checked(self, clips: npt.NDArray[Any]) -> SegmentOutputs:
        """Run, and see that the outputs are what the settings say."""
        with running(self.path):
            outputs = self.run(clips)
        for name, output, width in zip(
            SegmentOutputs._fields, outputs, (self.width, self.info.classes), strict=True
        ):
            # Longer clips have an output for each place in time.
            if output.dtype != np.float32 or (len(output), output.shape[-1]) != (len(clips), width):
                raise ModelError(
                    f"{self.path}: gives {name} of shape {output.shape}, {output.dtype}; its settings say "
                    f"({len(clips)}, {width}), float32. Export the weights again."
                )
        return outputs

    def _checked(self, clips: Any, *, longer: bool) -> npt.NDArray[Any]:
        dtype = np.uint8 if self.stream == "rgb" else np.float32
        inner = (self.size, self.size, self.info.channels)
        shape, kind = getattr(clips, "shape", None), getattr(clips, "dtype", None)
        if not isinstance(clips, np.ndarray) or clips.dtype != dtype:
            raise DataError(
                f"clips: {self.name} takes a {np.dtype(dtype).name} array of {self._meaning}, got "
                f"{type(clips).__name__ if kind is None else kind}."
            )
        fits = clips.ndim == 5 and len(clips) > 0 and clips.shape[2:] == inner
        if not fits or not (clips.shape[1] == self.frames or (longer and clips.shape[1] > self.frames)):
            raise DataError(
                f"clips: {self.name} takes (N, {self.frames}, {', '.join(map(str, inner))}) with N at least "
                f"1, {self._meaning}; got {shape}. Resize and crop the frames, and cut them into segments."
            )
        if self.stream == "flow" and not np.isfinite(clips).all():
            raise DataError("clips: the flow is NaN or infinite in places; expected pixels a frame.")
        return clips

    @property
    def _meaning(self) -> str:
        return "RGB in 0 to 255" if self.stream == "rgb" else "flow in pixels a frame"

    def close(self) -> None:
        """Give back what runs the network. It cannot be called afterwards; closing twice does no harm."""
        return None

    def __enter__(self) -> SegmentNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TorchNetwork(SegmentNetwork):
    """Trained weights in torch. Arguments as :func:`open_network`."""

    any_length = True

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        precision: str | None = None,
        threads: int | None = None,
    ) -> None:
        with needs("train", f"{path}: running weights (export the file to run it without)"):
            import torch

        from aicl_fast.devices import torch_device
        from aicl_fast.video.i3d import DeployedI3D
        from aicl_fast.video.i3d_weights import i3d_hash, load_i3d

        self._device = torch_device(device)
        on_gpu = self._device.type == "cuda"
        possible = ("fp16", "bf16", "fp32") if on_gpu else ("fp32", "bf16")
        chosen: Any = possible[0] if precision is None else precision
        if chosen not in possible:
            raise ModelError(
                f"precision: expected {' or '.join(possible)} for {path} on {device}, got {precision!r}."
            )
        if threads is not None and not on_gpu:
            torch.set_num_threads(threads)
        net = load_i3d(path)
        # The first convolution's results alone are 26 MB a float32 segment.
        batch = Range(1, 8, 64) if on_gpu else Range(1, 1, 8)
        classes = net.logits.conv3d.out_channels
        super().__init__(path, SegmentInfo(net.stream, i3d_hash(net), chosen, batch, classes))
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[chosen]
        self._net = DeployedI3D(net, dtype).to(self._device)

    def run(self, clips: npt.NDArray[Any]) -> SegmentOutputs:
        """Run N clips of any length."""
        import torch

        # torch warns of arrays that it might write to and may not.
        tensor = torch.from_numpy(clips if clips.flags.writeable else clips.copy())
        with torch.inference_mode():
            found = self._net(tensor.to(self._device))
            return SegmentOutputs(*(output.cpu().numpy() for output in found))


class OnnxRuntimeNetwork(SegmentNetwork):
    """An exported ``.onnx`` in ONNX Runtime. Arguments as :func:`open_network`."""

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        from aicl_fast.engines.ort import Provider, open_session

        providers: list[Provider] = ["CPUExecutionProvider"]
        if device != "cpu":
            number = int(device.partition(":")[2] or 0)
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": number}))
        super().__init__(path, parse_segment_info(read_onnx(path), path))
        require_sizes(self.info, path.stat().st_size, path)
        self._session = open_session(path, threads=threads, providers=providers)

    def run(self, clips: npt.NDArray[Any]) -> SegmentOutputs:
        """Run N clips."""
        return SegmentOutputs(*self._session.run(SegmentOutputs._fields, {"clips": clips}))


class OpenVinoNetwork(SegmentNetwork):
    """An exported ``.openvino``, ``.xml`` or ``.onnx`` in OpenVINO. Arguments as :func:`open_network`."""

    def __init__(self, path: Path, *, precision: str | None = None, threads: int | None = None) -> None:
        from aicl_fast.engines.openvino import compile_model, open_model

        file = open_model(path)
        super().__init__(path, parse_segment_info(file.metadata, path))
        require_sizes(self.info, path.stat().st_size, path)
        self._compiled = compile_model(file.read(), path, self.precision, precision, threads=threads)
        self.precision = precision or self.precision
        with running(path):
            self._results = [self._compiled.output(name) for name in SegmentOutputs._fields]

    def run(self, clips: npt.NDArray[Any]) -> SegmentOutputs:
        """Run N clips."""
        found = self._compiled.create_infer_request().infer({"clips": clips}, share_inputs=True)
        return SegmentOutputs(*(np.array(found[output]) for output in self._results))


class TensorRTNetwork(SegmentNetwork):
    """An exported ``.engine`` on a GPU. Arguments as :func:`open_network`."""

    def __init__(self, path: Path, *, device: int = 0, trust: bool = False) -> None:
        self._engine = _ClipEngine(path, device=device, trust=trust)
        super().__init__(path, self._engine.info)

    def run(self, clips: npt.NDArray[Any]) -> SegmentOutputs:
        """Run N clips. Safe to call from several threads."""
        outputs: SegmentOutputs = self._engine.submit(clips).result()
        return outputs

    def close(self) -> None:
        """Free everything on the GPU."""
        self._engine.close()


class _ClipEngine(TensorRTEngine):
    """The runtime of detectors' plans, with clips in the place of features."""

    info: Any

    def _read_info(self, container: Container) -> SegmentInfo:
        info = parse_segment_info(container.metadata, container.path)
        self._tensors = Tensors("clips", np.uint8 if info.stream == "rgb" else np.float32, SegmentOutputs)
        return info

    def _require_sizes(self) -> None:
        require_sizes(self.info, self.path.stat().st_size, self.path)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """The network has seen to it."""


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
            CPU fp32 or bf16, torch on a GPU fp16 (if left out), bf16 or fp32 (products in tf32). None is
            what an exported file has in it, and for weights fp32 on the CPU and fp16 on a GPU.
        threads: of the CPU; None takes every core. torch has one number for the whole process.
        trust: run native code that an ``.engine`` carries, as version-compatible ones do.
    Raises:
        DataError: no such file.
        ModelError: not I3D, damaged, of the other stream, with native code and not trusted, or a device,
            precision or number of threads that is not for it.
        UnavailableError: what runs it, or the device, is not here.
    """
    if stream not in (None, *get_args(Stream)):
        raise ModelError(f"stream: expected rgb or flow, got {stream!r}.")
    kind, _, number = device.partition(":")
    digits = number.isascii() and number.isdigit()
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not digits)):
        raise ModelError(f"device: expected cpu, cuda or cuda:N, got {device!r}.")
    if threads is not None and threads < 1:
        raise ModelError(f"threads: expected at least 1, got {threads}.")
    target = require_file(path, "network")
    network: SegmentNetwork
    if target.suffix.lower() in TORCH_SUFFIXES:
        network = TorchNetwork(target, device=device, precision=precision, threads=threads)
    elif target.suffix == ".onnx":
        if precision is not None:
            raise ModelError(
                f"precision: is in the file for ONNX Runtime; got {precision!r} for {target}. Export with "
                "--precision, or to --format openvino."
            )
        network = OnnxRuntimeNetwork(target, device=device, threads=threads)
    elif target.suffix in (".openvino", ".xml"):
        if device != "cpu":
            raise ModelError(f"{target}: OpenVINO runs on the CPU here; got device={device!r}.")
        network = OpenVinoNetwork(target, precision=precision, threads=threads)
    elif target.suffix == ".engine":
        if precision is not None:
            raise ModelError(f"precision: is in the engine; got {precision!r} for {target}.")
        network = TensorRTNetwork(target, device=int(number or 0), trust=trust)
    else:
        raise ModelError(
            f"{target}: expected weights of I3D ({', '.join(TORCH_SUFFIXES)}) or an exported network (.onnx, "
            ".openvino, .xml, .engine)."
        )
    if stream not in (None, network.stream):
        network.close()
        raise ModelError(f"{target}: is of the {network.stream} stream, not of {stream}.")
    return network


@cache
def kinetics_classes() -> tuple[str, ...]:
    """The 400 classes of Kinetics in alphabetical order, which is that of the released head."""
    text = Path(__file__).with_name("kinetics400.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
