"""Detector: a model file, and then features to detections in one call."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from aicl_fast.config import Config, DecodeConfig, WindowsConfig
from aicl_fast.data.detections import Detections
from aicl_fast.data.features import Array, check_features, check_lengths
from aicl_fast.data.sampling import sample, sample_on_gpu
from aicl_fast.data.scores import Scores
from aicl_fast.decode.decoder import Decoder
from aicl_fast.engines.cuda.arrays import is_gpu_array
from aicl_fast.engines.registry import Provider, open_session
from aicl_fast.engines.session import Session
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.kernels.outputs import NetworkOutputs
from aicl_fast.windows import Progress, Windows, score_by_windows, warn_if_long, weighted

if TYPE_CHECKING:
    import torch

    from aicl_fast.stream import Stream

Recording = Array | tuple[Array, Array]
"""One (n, D_rgb + D_flow) array, or the two streams apart; on the host or on a GPU."""


Rate = SupportsFloat
"""Frames a second: any real number, as ``Fraction(30000, 1001)``."""


def is_on_gpu(recording: Any) -> bool:
    """Whether a recording's features, or those of its first stream, lie on a GPU."""
    first = recording[0] if isinstance(recording, tuple) and recording else recording
    return not isinstance(first, np.ndarray) and is_gpu_array(first)


def _several(recordings: Iterable[Recording]) -> list[Recording]:
    one = isinstance(recordings, (str, os.PathLike, Mapping)) or getattr(recordings, "ndim", 3) == 2
    if one or not isinstance(recordings, Iterable):
        raise DataError(
            f"recordings: expected a list of arrays or of tuples (rgb, flow), got one "
            f"{type(recordings).__name__}. For one recording call detector(rgb, flow), or write a list of it."
        )
    return list(recordings)


def _frame_rate(fps: Any) -> float:
    """Frames a second, of whatever numbers are: ``Fraction(30000, 1001)``, ``Decimal("29.97")``.

    Raises:
        DataError: no number, or not one that is positive and finite.
    """
    try:
        rate = math.nan if isinstance(fps, (bool, str, bytes, bytearray, np.bool_)) else float(fps)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if not 0 < rate < math.inf:
        raise DataError(f"fps: expected a positive number of frames a second, got {fps!r}.")
    return rate


def _opened(kind: type[Detector], path: str, arguments: Mapping[str, Any]) -> Detector:
    """A pickled detector, where it is unpickled."""
    return kind(path, **arguments)


class Detector:
    """Finds when actions happen in a recording, from its segment features.

    Everything but the features comes from the model file: classes, widths, frame rate, settings.

    Args:
        model: a file written by ``aicl-fast export`` (``.onnx``, ``.openvino``, ``.engine``), or trained
            weights (``.safetensors``), which need torch.
        engine: ``onnxruntime``, ``openvino``, ``tensorrt`` or ``torch``; None is the file's own.
        device: ``cpu`` or ``cuda``, as text or as torch's device; None is where the file runs, the CPU if
            both are possible.
        precision: what products are computed in, where that is chosen at load (OpenVINO, torch).
        threads: threads of the engine; None takes every core. ONNX Runtime and OpenVINO then take what a
            quota of processor time (``docker run --cpus``) grants, too.
        pin_threads: tie threads to cores (ONNX Runtime on the CPU, OpenVINO).
        providers: ONNX Runtime execution providers by name or (name, options); those of a GPU run on
            ``device``. None follows ``device``.
        segments: T to sample recordings to, for a file that was exported with a range of T; None is the
            model's own.
        decode: settings of the decoding; None takes the model's own.
        windows: how recordings longer than those of training are cut; None takes the model's own.
        trust: run native code that the file carries: version-compatible TensorRT engines have some. Say so
            only of a file whose origin you trust.
    Raises:
        DataError: no such file, or a T that the file does not allow.
        ConfigError: ``decode`` is no DecodeConfig, or ``windows`` no WindowsConfig.
        ModelError: not a model of ours, damaged, with something in it that our exports never have, or an
            engine, device or option that is not for it.
        UnavailableError: the engine's package, or the device, is not installed.

    It can be pickled: what is stored is these arguments, and the file is opened again where it is unpickled.
    In a process that was forked, it opens the file again by itself; one on a GPU says that it cannot.

    Example:
        >>> detector = Detector("model.onnx")                       # doctest: +SKIP
        >>> for found in detector(rgb, flow, fps=25.0):             # doctest: +SKIP
        ...     print(found.label, found.score, found.start, found.end)
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        engine: str | None = None,
        device: str | torch.device | None = None,
        precision: str | None = None,
        threads: int | None = None,
        pin_threads: bool | None = None,
        providers: Sequence[Provider] | None = None,
        segments: int | None = None,
        decode: DecodeConfig | None = None,
        windows: WindowsConfig | None = None,
        trust: bool = False,
    ) -> None:
        if not isinstance(model, (str, os.PathLike)):
            raise DataError(f"model: expected the path of a model file, got {type(model).__name__}.")
        if not isinstance(decode, (DecodeConfig, NoneType)):
            raise ConfigError(
                f"decode: expected an aicl_fast.config.DecodeConfig, got {type(decode).__name__}. To change "
                "some of a model's settings: dataclasses.replace(detector.decode_config, nms='hard')."
            )
        if not isinstance(windows, (WindowsConfig, NoneType)):
            raise ConfigError(
                f"windows: expected an aicl_fast.config.WindowsConfig, got {type(windows).__name__}."
            )
        self._arguments: dict[str, Any] = {
            "engine": engine,
            "device": device,
            "precision": precision,
            "threads": threads,
            "pin_threads": pin_threads,
            "providers": providers,
            "trust": trust,
        }
        self._session = open_session(model, **self._arguments)
        try:
            self.segments = self.config.data.segments if segments is None else segments
        except DataError:
            self._session.close()
            raise
        self.decode_config = decode if decode is not None else self.config.decode
        self.windows_config = windows if windows is not None else self.config.windows
        self._decoder: Decoder | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = {
            **self._arguments,
            "segments": self._segments,
            "decode": self.decode_config,
            "windows": self.windows_config,
        }
        return _opened, (type(self), os.path.abspath(self.path), arguments)

    def __repr__(self) -> str:
        classes = len(self.config.classes) or self.config.model.num_classes
        return (
            f"{type(self).__name__}({os.fspath(self.path)!r}: {classes} classes, T={self._segments}, "
            f"{self._session.name}, {self._session.precision})"
        )

    @property
    def engine(self) -> Session:
        """What runs the network."""
        return self._session

    @property
    def segments(self) -> int:
        """T, which recordings are sampled to. Of a file that was exported with a range of T it may be set.

        Raises:
            DataError: a T that the file does not allow.
        """
        return self._segments

    @segments.setter
    def segments(self, length: int) -> None:
        low, _, high = self._session.info.segments
        if not (isinstance(length, (int, np.integer)) and low <= length <= high):
            raise DataError(
                f"segments: {self.path} takes {low if low == high else f'{low} to {high}'} segments, got "
                f"{length!r}. Export with another --segments, or leave the argument out."
            )
        self._segments = length

    def close(self) -> None:
        """Give back what the engine holds. The detector cannot be called afterwards."""
        self._session.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The model file."""
        return self._session.path

    @property
    def config(self) -> Config:
        """The model's settings."""
        config: Config = self._session.info.config
        return config

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the score columns."""
        return self.config.classes

    def __call__(
        self, rgb: Array, flow: Array | None = None, *, fps: Rate | None = None, video: str = "video"
    ) -> Detections:
        """Localise the actions in one recording, of any length: one that is longer than those of training is
        scored in overlapping windows (:mod:`aicl_fast.windows`).

        Args:
            rgb: (n, D_rgb) features of the first stream, n >= 2; or (n, D_rgb + D_flow) of both; or, for
                a model of one stream, that stream. A NumPy array; or, for weights and TensorRT engines on a
                GPU, an array there (a torch tensor, or one that offers DLPack or
                ``__cuda_array_interface__``), which torch samples where it is.
            flow: (n, D_flow) features of the second stream; None if ``rgb`` is all there is.
            fps: the recording's frames a second; None is the model's.
            video: the recording's name.
        Returns:
            Detections in seconds, best first.
        Raises:
            DataError: empty, too short, of the wrong width, not floating-point, NaN or infinite (on a GPU
                seen by the scores; in fp8 infinity is clipped), two streams of different length, or on a GPU
                that the model is not on.
            ConfigError: a window or hop that makes no sense at this frame rate.
            UnavailableError: they are on a GPU and there is no torch.
        Warns:
            AiclWarning: it is far longer than any recording in training, and is not cut into windows.
        """
        return self.decode(self.scores(rgb, flow, fps=fps, video=video))

    def batch(
        self,
        recordings: Iterable[Recording],
        *,
        fps: Rate | None = None,
        videos: Sequence[str] | None = None,
    ) -> list[Detections]:
        """Localise many recordings of any lengths in one run of the network.

        Args:
            recordings: arrays as :meth:`__call__` takes them, or tuples (rgb, flow).
            fps: frames a second of all of them; None is the model's.
            videos: their names; None numbers them.
        Raises:
            DataError: as :meth:`__call__`, naming the recording; one recording instead of several; or names
                and recordings differ in number.
        """
        return [self.decode(scores) for scores in self.batch_scores(recordings, fps=fps, videos=videos)]

    def stream(
        self,
        *,
        fps: Rate | None = None,
        wait: float = 2.0,
        retract: bool = False,
        skip_damaged: bool = False,
        every: float | None = None,
    ) -> Stream:
        """Localise actions in a recording that goes on, segment by segment (docs/streaming.md).

        Args:
            fps: the recording's frames a second; None is the model's.
            wait, retract, skip_damaged, every: as :class:`aicl_fast.stream.Stream`.
        """
        from aicl_fast.stream import Stream

        rate = self.config.data.fps if fps is None else _frame_rate(fps)
        return Stream(self, rate, wait=wait, retract=retract, skip_damaged=skip_damaged, every=every)

    def scores(
        self, rgb: Array, flow: Array | None = None, *, fps: Rate | None = None, video: str = "video"
    ) -> Scores:
        """The network's curves of one recording, before decoding. Arguments as :meth:`__call__`."""
        recording = rgb if flow is None else (rgb, flow)
        return self.batch_scores([recording], fps=fps, videos=[video])[0]

    def batch_scores(
        self,
        recordings: Iterable[Recording],
        *,
        fps: Rate | None = None,
        videos: Sequence[str] | None = None,
        progress: Progress = lambda done, windows: None,
    ) -> list[Scores]:
        """The network's curves of many recordings. Arguments as :meth:`batch`.

        A recording that is scored in windows has curves of all its n segments, the others of T.

        Args:
            progress: called with (windows done, all windows) of a recording that is scored in windows.
        """
        recordings = _several(recordings)
        names = [f"video {number}" for number in range(len(recordings))] if videos is None else list(videos)
        if len(names) != len(recordings):
            raise DataError(f"videos: {len(names)} names for {len(recordings)} recordings.")
        rate = self.config.data.fps if fps is None else _frame_rate(fps)
        windows = Windows.of(self.config, self.windows_config, rate, self._segments)
        on_gpu = [is_on_gpu(item) for item in recordings]
        if any(on_gpu) and not all(on_gpu):
            raise DataError("recordings: some are on a GPU and some on the host; copy them to one place.")
        check: Callable[..., Any] = check_features
        if any(on_gpu):
            from aicl_fast.engines.cuda.features import check_on_gpu as check
        checked = [self._checked(*item, check) for item in zip(recordings, names, strict=True)]
        found: dict[int, NetworkOutputs] = {}
        whole = []
        for row, streams in enumerate(checked):
            window = windows.length if windows is not None and len(streams[0]) > windows.limit else 0
            warn_if_long(len(streams[0]), self.config.data, self._segments, names[row], window=window)
            if windows is not None and window:
                found[row] = self._windowed(streams, windows, progress)
            else:
                whole.append(row)
        if whole:
            outputs = self._run([checked[row] for row in whole])
            for i, row in enumerate(whole):
                own = NetworkOutputs(*(each[i] for each in outputs))
                found[row] = weighted(own, self.config, self.decode_config)
        return [
            Scores(
                fused=found[row].scores,
                video_scores=found[row].video_scores,
                actionness=found[row].actionness,
                actionness_agnostic=found[row].actionness_agnostic,
                num_segments=len(checked[row][0]),
                fps=rate,
                frames_per_segment=self.config.data.frames_per_segment,
                classes=self.classes,
                name=names[row],
            )
            for row in range(len(names))
        ]

    def _run(self, recordings: Sequence[tuple[Any, ...]]) -> NetworkOutputs:
        """The network's outputs for the streams of recordings, or of windows, sampled to T."""
        if isinstance(recordings[0][0], np.ndarray):
            outputs = self._session(sample(recordings, self._segments))
        else:
            sampled = sample_on_gpu(recordings, self._segments)
            outputs = self._session(sampled if self._session.any_float_on_gpu else sampled.float())
        return NetworkOutputs(*outputs)

    def _windowed(self, streams: tuple[Any, ...], windows: Windows, progress: Progress) -> NetworkOutputs:
        def run(starts: Sequence[int]) -> NetworkOutputs:
            return self._run(
                [tuple(stream[start : start + windows.length] for stream in streams) for start in starts]
            )

        return score_by_windows(len(streams[0]), windows, self.config, self.decode_config, run, progress)

    def decode(self, scores: Scores) -> Detections:
        """Decode curves into detections with this detector's settings."""
        decoder = self._decoder
        if decoder is None or decoder.config is not self.decode_config or decoder.classes != scores.classes:
            decoder = self._decoder = Decoder(self.decode_config, scores.classes)
        return decoder(scores)

    def _checked(self, recording: Recording, name: str, check: Callable[..., Any]) -> tuple[Any, ...]:
        data = self.config.data
        if isinstance(recording, list) or (isinstance(recording, tuple) and len(recording) != 2):
            raise DataError(
                f"{name}: expected an array, or a tuple (rgb, flow) of two, got a {type(recording).__name__} "
                f"of {len(recording)}."
            )
        if isinstance(recording, tuple):
            rgb, flow = recording
            if data.streams != "both":
                raise DataError(
                    f"{name}: the model reads {data.streams} alone; expected one array of shape "
                    f"(segments, {data.input_width}), got two."
                )
            streams: tuple[Any, ...] = (
                check(rgb, f"{name}: rgb", width=data.rgb_width),
                check(flow, f"{name}: flow", width=data.flow_width),
            )
            check_lengths(*streams, name=name)
        else:
            shape: Any = getattr(recording, "shape", ())
            if data.streams == "both" and len(shape) == 2 and shape[1] in (data.rgb_width, data.flow_width):
                raise DataError(
                    f"{name}: expected {data.input_width} features a segment, got {shape[1]}, as one stream "
                    f"alone has. The model reads rgb ({data.rgb_width}) and flow ({data.flow_width}): give "
                    "both, as detector(rgb, flow) or detector.batch([(rgb, flow), …])."
                )
            streams = (check(recording, f"{name}: features", width=data.input_width),)
        if len(streams[0]) < 2:
            raise DataError(
                f"{name}: has {len(streams[0])} segment; expected at least 2 to localise anything in."
            )
        return streams
