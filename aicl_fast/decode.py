"""From scores to detections: proposals above thresholds, outer-inner contrast, NMS (METHOD section 5).

    >>> found = postprocess(cas, a_rgb, a_flow, num_segments=900, fps=25.0, preset="thumos14")
    >>> for detection in found:
    ...     print(detection.label, detection.score, detection.start, detection.end)

Two backends give the same detections: ``native`` (C++, when it was compiled at installation) and ``numba``.
Neither is loaded before it is used. All arithmetic is in float64, whatever the scores come in: a float32
score of 0.7 lies just below the threshold 0.7.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from aicl_fast.config import PRESETS, Config, DataConfig, DecodeConfig, NmsMode, class_names
from aicl_fast.data.detections import Detections
from aicl_fast.errors import ConfigError, DataError, UnavailableError
from aicl_fast.processors import processor_count

if TYPE_CHECKING:
    from types import ModuleType

Backend = Literal["auto", "native", "numba"]
Array = npt.NDArray[Any]

_NMS_MODES = {"decay_once": 0, "hard": 1, "gaussian": 2}
# Far above any score, and low enough that no sum over a grid of 2³¹ points overflows.
_LARGEST = 1e38
_MOST_SEGMENTS = 2**40
# How far above 1 half precision may round a probability.
_ROUNDING = 1e-3
_MOST_POINTS = 2**31 - 2


def available_backends() -> tuple[str, ...]:
    """The backends that this installation has, the default first."""
    found = ["native"] if _native() is not None else []
    if importlib.util.find_spec("numba") is not None:
        found.append("numba")
    return tuple(found)


def default_backend() -> str:
    """The backend that ``auto`` means here: ``native`` when it was built, else ``numba``.

    Raises:
        UnavailableError: neither is there.
    """
    return _choose("auto")


def decode(
    scores: npt.ArrayLike,
    video_scores: npt.ArrayLike,
    *,
    num_segments: int,
    classes: Sequence[str],
    config: DecodeConfig,
    data: DataConfig,
    backend: Backend = "auto",
    video: str = "video",
) -> Detections:
    """Detections of one video.

    Args:
        scores: (T, C) A_score, finite; any real type. A C-contiguous float32 or float64 array is not copied.
        video_scores: (C,) softmax of the video logits. Classes at or above ``config.class_threshold`` are
            localised; the best one if none is.
        num_segments: n, the video's own number of segments before it was sampled to T.
        classes: C names.
        config: thresholds, λ, NMS. Equal thresholds count once; their order does not matter.
        data: ``fps`` and ``frames_per_segment``, which turn grid points into seconds.
        backend: ``auto`` takes ``native`` when it was built, else ``numba``.
        video: the name that the detections carry.
    Returns:
        Detections by descending score; equal scores by class, threshold and start.
    Raises:
        DataError: shapes that do not fit each other, a NaN or an infinity, no segments.
        UnavailableError: the backend is not installed.
        ConfigError: a backend or setting that does not exist or has no meaning.
    """
    setup = _last
    if setup is None or not (
        setup[3] is config and setup[4] is data and setup[5] is classes and setup[6] == backend
    ):
        setup = _setup(config, data, classes, backend)
    found = setup[0](scores, video_scores, num_segments, setup[1], video)
    if found is None:
        a_score, v = _checked(scores, video_scores, num_segments, len(classes), config.upscale, video)
        found = setup[2].run(a_score, v, int(num_segments), setup[1], video)
        if found is None:
            raise _not_finite(a_score, v, video)
    return found


def decode_batch(
    scores: Sequence[npt.ArrayLike],
    video_scores: Sequence[npt.ArrayLike],
    *,
    num_segments: Sequence[int],
    classes: Sequence[str],
    config: DecodeConfig,
    data: DataConfig,
    backend: Backend = "auto",
    threads: int | None = None,
    videos: Sequence[str] | None = None,
) -> list[Detections]:
    """Detections of many videos, of any lengths, on several threads without the interpreter lock.

    The result is that of :func:`decode` on each, whatever the number of threads, and several Python threads
    may call this at once.

    Args:
        scores: B arrays (T_b, C), as in :func:`decode`.
        video_scores: B arrays (C,), or one (B, C).
        num_segments: B whole numbers.
        classes, config, data, backend: as in :func:`decode`.
        threads: at most this many; None means the processors that this process may use.
        videos: B names; ``video0``, ``video1`` … if None.
    Raises:
        DataError: as :func:`decode`, naming the video; or sequences of different lengths.
        UnavailableError, ConfigError: as :func:`decode`.
    """
    videos = [f"video{b}" for b in range(len(scores))] if videos is None else list(videos)
    if not len(scores) == len(video_scores) == len(num_segments) == len(videos):
        raise DataError(
            f"decode_batch: {len(scores)} scores, {len(video_scores)} video_scores, {len(num_segments)} "
            f"num_segments and {len(videos)} videos; expected one of each a video."
        )
    counted = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
    if threads is not None and not (counted and threads >= 1):
        raise ConfigError(
            f"threads: expected at least 1, a whole number, or None for all processors, got {threads!r}."
        )
    _, names, engine, *_ = _setup(config, data, classes, backend)
    inputs = [
        (*_checked(s, v, n, len(classes), config.upscale, name), int(n), names, name)
        for s, v, n, name in zip(scores, video_scores, num_segments, videos, strict=True)
    ]
    found = engine.run_batch(inputs, max(1, min(threads or processor_count(), len(inputs))))
    result = []
    for (a_score, v, _, _, name), one in zip(inputs, found, strict=True):
        if one is None:
            raise _not_finite(a_score, v, name)
        result.append(one)
    return result


def postprocess(
    cas: npt.ArrayLike,
    actionness_rgb: npt.ArrayLike,
    actionness_flow: npt.ArrayLike,
    *,
    num_segments: int,
    fps: float | None = None,
    preset: str | Config = "thumos14",
    nms: NmsMode | None = None,
    classes: Sequence[str] | None = None,
    backend: Backend = "auto",
    video: str = "video",
) -> Detections:
    """Detections from the outputs of any AICL network: score fusion, top-k pooling, :func:`decode`.

    A_score = γ·softmax(CAS) + (1-γ)·(A_rgb + A_flow)/2; a class's video logit is the mean CAS of the
    k = max(1, T // topk_divisor) segments where its A_score is highest.

    Args:
        cas: (T, C) class activation sequence, logits.
        actionness_rgb: (T,) probabilities of the RGB branch.
        actionness_flow: (T,) probabilities of the flow branch.
        num_segments: n >= 2, the video's own number of segments before it was sampled to T.
        fps: frames a second; the preset's if None.
        preset: a preset's name or a :class:`~aicl_fast.config.Config`: γ, thresholds, NMS, frame rate and
            frames a segment, and the classes where it has them.
        nms: the preset's if None.
        classes: C names; the preset's own if None.
        backend, video: as in :func:`decode`.
    Raises:
        DataError: shapes that do not fit each other, a NaN or an infinity, actionness that is no
            probability, fewer than two segments.
        UnavailableError: the backend is not installed.
        ConfigError: an unknown preset or NMS, a preset without class names when none are given, a class
            that is no text, empty, or there twice.
    """
    from dataclasses import replace

    if not isinstance(preset, Config):
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ConfigError(
                f"preset: there is no {preset!r}. Choose from {', '.join(PRESETS)}, or give a Config."
            )
        preset = PRESETS[preset]
    _check_count(num_segments, 2, video)
    names = preset.classes if classes is None else classes
    class_names(names if isinstance(names, str) else tuple(names))
    logits = _real(cas, "cas", video)
    streams = [_real(a, name, video) for a, name in (
        (actionness_rgb, "actionness_rgb"), (actionness_flow, "actionness_flow"))]  # fmt: skip
    if logits.ndim != 2 or any(a.shape != logits.shape[:1] for a in streams):
        raise DataError(
            f"{video}: expected cas (T, C) and actionness (T,) of the same T, got {logits.shape}, "
            f"{streams[0].shape} and {streams[1].shape}."
        )
    if classes is None and not names and logits.shape[1]:
        raise ConfigError(
            f"preset '{preset.preset}' has no class names of its own: pass classes=, one name for each of "
            f"the {logits.shape[1]} columns of cas."
        )
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        raise DataError(f"{video}: cas has a NaN or an infinity; expected finite logits.")
    for name, stream in zip(("actionness_rgb", "actionness_flow"), streams, strict=True):
        if not (np.abs(stream - 0.5) <= 0.5 + _ROUNDING).all():
            raise DataError(
                f"{video}: {name} goes from {stream.min():g} to {stream.max():g}; expected probabilities, "
                "from 0 to 1. If these are logits, apply the sigmoid first."
            )
    gamma = preset.model.fusion_gamma
    agnostic = (streams[0].astype(np.float64) + streams[1]) / 2
    a_score = gamma * _softmax(logits) + (1 - gamma) * agnostic[:, None]
    k = preset.model.topk(len(logits))
    if a_score.size:
        top = np.argpartition(-a_score, min(k, len(logits)) - 1, axis=0)[:k]
        v = _softmax(np.take_along_axis(logits, top, axis=0).mean(axis=0))
    else:
        v = np.zeros(logits.shape[1])
    config = preset.decode if nms is None else replace(preset.decode, nms=nms)
    data = preset.data if fps is None else replace(preset.data, fps=fps)
    return decode(
        a_score,
        v,
        num_segments=num_segments,
        classes=names,
        config=config,
        data=data,
        backend=backend,
        video=video,
    )


# ---- inputs and outputs ---------------------------------------------------------------------------------


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if logits.shape[-1] == 0:
        return logits
    exps = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast("npt.NDArray[np.float64]", exps / exps.sum(axis=-1, keepdims=True))


def _real(values: npt.ArrayLike, name: str, video: str) -> Array:
    """``values`` as an aligned C-contiguous float32 or float64 array."""
    if type(values) is np.ndarray and values.dtype.char in "fd" and values.dtype.isnative:
        flags = values.flags
        if flags.c_contiguous and flags.aligned:
            return values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{video}: {name} cannot be read as an array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise DataError(f"{video}: expected real numbers in {name}, got an array of {array.dtype}.")
    kind = np.float32 if array.dtype == np.float32 else np.float64
    return np.require(array, kind, ["C", "A"])


def _checked(
    scores: npt.ArrayLike,
    video_scores: npt.ArrayLike,
    num_segments: int,
    num_classes: int,
    upscale: int,
    video: str,
) -> tuple[Array, Array]:
    """Both as C-contiguous arrays of one float type that fit each other."""
    a_score, v = _real(scores, "scores", video), _real(video_scores, "video_scores", video)
    if a_score.ndim != 2 or v.ndim != 1 or not a_score.shape[1] == len(v) == num_classes:
        raise DataError(
            f"{video}: expected scores (T, {num_classes}) and video_scores ({num_classes},) for "
            f"{num_classes} classes, got {a_score.shape} and {v.shape}. Are scores transposed, or the "
            "classes another model's?"
        )
    if a_score.shape[0] == 0:
        raise DataError(f"{video}: scores has no segments; expected at least one row.")
    if a_score.shape[0] * upscale > _MOST_POINTS:
        raise DataError(
            f"{video}: {a_score.shape[0]} segments of {upscale} grid points each are more than 2**31; "
            "expected a shorter recording, or a smaller upscale."
        )
    _check_count(num_segments, 1, video)
    if v.dtype != a_score.dtype:
        # The larger of the two: what was given in float64 is not rounded.
        a_score, v = a_score.astype(np.float64), v.astype(np.float64)
    return a_score, v


def _check_count(num_segments: int, least: int, video: str) -> None:
    whole = isinstance(num_segments, (int, np.integer))
    if not (whole and least <= num_segments <= _MOST_SEGMENTS):
        raise DataError(
            f"{video}: num_segments is {num_segments!r}; expected the video's own number of segments, "
            f"a whole number from {least} to 2**40."
        )


def _not_finite(a_score: Array, v: Array, video: str) -> DataError:
    for name, array in (("scores", a_score), ("video_scores", v)):
        bad = np.argwhere(~(np.abs(array) <= _LARGEST))
        if len(bad):
            where = tuple(int(i) for i in bad[0])
            index = where if len(where) > 1 else where[0]
            return DataError(
                f"{video}: {name}[{', '.join(map(str, where))}] is {array[index]}; expected finite numbers. "
                f"{len(bad)} of {array.size} are not: check the features that the network was given."
            )
    return DataError(f"{video}: scores too large to decode; expected numbers of at most {_LARGEST:g}.")


# ---- backends -------------------------------------------------------------------------------------------

# What `_checked` gave, num_segments, class names, and the video's name.
Input = tuple[Array, Array, int, Array, str]


class _Engine(Protocol):
    """One backend with one set of settings. Runs return None where a score is not finite."""

    def attempt(
        self, scores: npt.ArrayLike, video_scores: npt.ArrayLike, num_segments: int, names: Array, video: str
    ) -> Detections | None:
        """A run on input that nobody checked; None also where it would have to be checked first."""

    def run(
        self, a_score: Array, v: Array, num_segments: int, names: Array, video: str
    ) -> Detections | None: ...

    def run_batch(self, inputs: list[Input], threads: int) -> list[Detections | None]: ...


_native_module: ModuleType | None = None
_native_tried = False


def _native() -> ModuleType | None:
    """The compiled module, or None where it was not built."""
    global _native_module, _native_tried
    if not _native_tried:
        try:
            _native_module = importlib.import_module("aicl_fast.kernels._native")
        except ImportError:
            _native_module = None
        _native_tried = True
    return _native_module


def _choose(backend: str) -> str:
    if backend not in ("auto", "native", "numba"):
        raise ConfigError(f"backend: expected auto, native or numba, got {backend!r}.")
    if backend == "numba" or (backend == "auto" and _native() is None):
        if importlib.util.find_spec("numba") is None:
            raise UnavailableError("backend 'numba': numba is not installed. `pip install numba` adds it.")
        return "numba"
    if _native() is None:
        raise UnavailableError(
            "backend 'native': the C++ part was not built when aicl-fast was installed. Reinstall where "
            "there is a C++17 compiler, without AICL_FAST_NO_NATIVE, or use backend='numba'."
        )
    return "native"


# An engine's `attempt`, the class names as an array, the engine; and what they were made for.
_Setup = tuple[
    Callable[..., "Detections | None"], Array, "_Engine", DecodeConfig, DataConfig, Sequence[str], str
]
_last: _Setup | None = None
"""What the call before needed, which is mostly what the next one needs."""
_setups: dict[tuple[int, int, int, str], _Setup] = {}
_engines: dict[tuple[int, int, str], tuple[_Engine, DecodeConfig, DataConfig]] = {}
_caches_lock = threading.Lock()

# All are looked up by identity: hashing 14 fields takes microseconds. An entry holds what its key names, so
# no other object can have that id for as long as it is there.


def _setup(config: DecodeConfig, data: DataConfig, classes: Sequence[str], backend: str) -> _Setup:
    """All that a call needs to know about these arguments."""
    global _last
    key = id(config), id(data), id(classes), backend
    setup = _setups.get(key)
    if setup is None:
        names = np.array(list(classes), dtype=np.str_)
        engine = _engine(config, data, backend)
        setup = engine.attempt, names, engine, config, data, classes, backend
        # A list could change, and its array would not.
        if not isinstance(classes, tuple):
            return setup
        with _caches_lock:
            if len(_setups) >= 64:
                _setups.clear()
            _setups[key] = setup
    _last = setup
    return setup


def _engine(config: DecodeConfig, data: DataConfig, backend: str) -> _Engine:
    """The backend set up for these settings."""
    known = _engines.get((id(config), id(data), backend))
    if known is not None:
        return known[0]
    kind = _choose(backend)
    _check_settings(config, data)
    engine: _Engine = _NativeEngine(config, data) if kind == "native" else _NumbaEngine(config, data)
    with _caches_lock:
        if len(_engines) >= 32:
            _engines.clear()
        _engines[id(config), id(data), backend] = engine, config, data
    return engine


def _check_settings(config: DecodeConfig, data: DataConfig) -> None:
    """What the presets' own checks leave open, and decoding cannot do."""
    ranges = {
        "video_score_weight": (config.video_score_weight, -1e100, 1e100),
        "nms_added_seconds": (config.nms_added_seconds, 0.0, 1e30),
        "fps": (data.fps, 1e-30, 1e30),
        "frames_per_segment": (data.frames_per_segment, 1, 2**31 - 1),
        "max_detections": (config.max_detections, 0, 2**31 - 1),
    }
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise ConfigError(f"{name}: expected {low:g} to {high:g}, got {value!r}.")


class _NativeEngine:
    def __init__(self, config: DecodeConfig, data: DataConfig) -> None:
        decoder = cast(Any, _native()).Decoder(
            thresholds=[float(threshold) for threshold in config.thresholds],
            class_threshold=float(config.class_threshold),
            upscale=config.upscale,
            outer_ratio=float(config.outer_ratio),
            video_score_weight=float(config.video_score_weight),
            nms=_NMS_MODES[config.nms],
            nms_tiou=float(config.nms_tiou),
            nms_sigma=float(config.nms_sigma),
            nms_added_seconds=float(config.nms_added_seconds),
            nms_across_classes=config.nms_across_classes,
            min_score=float(config.min_score),
            max_detections=config.max_detections,
            fps=float(data.fps),
            frames_per_segment=data.frames_per_segment,
            result=Detections,
        )

        # It looks at its input itself, and quicker than Python could.
        self.attempt = self.run = decoder.decode
        self.run_batch = decoder.decode_batch


class _NumbaEngine:
    def __init__(self, config: DecodeConfig, data: DataConfig) -> None:
        from aicl_fast.kernels import decode_numba

        self.kernels = decode_numba
        self.config, self.data = config, data
        self.thresholds = np.unique(np.asarray(config.thresholds, dtype=np.float64))

    def attempt(
        self, scores: npt.ArrayLike, video_scores: npt.ArrayLike, num_segments: int, names: Array, video: str
    ) -> Detections | None:
        return None

    def run(self, a_score: Array, v: Array, num_segments: int, names: Array, video: str) -> Detections | None:
        config = self.config
        length = a_score.shape[0]
        if not len(v):
            return Detections.empty(video)
        # float32 would round the threshold too.
        v = v.astype(np.float64)
        if not (np.abs(v) <= _LARGEST).all():
            return None
        columns = np.flatnonzero(v >= config.class_threshold)
        if not len(columns):
            columns = np.array([np.argmax(v)])
        curves = np.empty((len(columns), length))
        if not self.kernels.gather(a_score, columns, _LARGEST, curves):
            return None
        rows, scores, segments = self.kernels.decode(
            curves,
            config.video_score_weight * v[columns],
            self.thresholds,
            config.upscale,
            float(config.outer_ratio),
            self.data.frames_per_segment * num_segments / (config.upscale * length * self.data.fps),
            _NMS_MODES[config.nms],
            float(config.nms_tiou),
            float(config.nms_sigma),
            float(config.nms_added_seconds),
            float(config.min_score),
            bool(config.nms_across_classes),
            config.max_detections,
        )
        return Detections(names[columns[rows]], scores, segments, video)

    def run_batch(self, inputs: list[Input], threads: int) -> list[Detections | None]:
        found: list[Detections | None] = [None] * len(inputs)

        def work(first: int) -> None:
            for b in range(first, len(inputs), threads):
                found[b] = self.run(*inputs[b])

        if threads == 1:
            work(0)
        else:
            from concurrent.futures import ThreadPoolExecutor

            # One task a thread, not one a video: handing out a task takes as long as a small video.
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, range(threads)))
        return found
