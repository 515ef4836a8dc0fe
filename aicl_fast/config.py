"""Presets: every constant of the method, as frozen dataclasses.

Four presets exist: ``thumos14``, ``activitynet12``, ``activitynet13`` (the paper's settings) and ``demo``
(the wrist-watch recordings). Any field can be overridden by ``name=value`` or from a TOML file; a field is
named by itself (``lr``) or with its section (``train.lr``), and field names are unique across sections.

    >>> from aicl_fast.config import load_config
    >>> load_config("thumos14", overrides=["train.steps=2000", "nms=gaussian"]).train.steps
    2000
"""

from __future__ import annotations

import difflib
import math
import numbers
import os
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from aicl_fast.errors import ConfigError, DataError
from aicl_fast.text import clean_values, error_text, require_label

Variant = Literal["released", "paper"]
NmsMode = Literal["decay_once", "hard", "gaussian"]
Keep = Literal["last", "val", "test"]
Modal = Literal["both", "rgb", "flow"]
Schedule = Literal["constant", "cosine"]
Ramp = int | Literal["all"]
Precision = Literal["float32", "bfloat16"]
Convolution = Literal["direct", "winograd"]


# Far above any use, and far below what only fails when memory for it is asked for.
_MOST_SEGMENTS = 100_000
_MOST_CLASSES = 100_000
_WIDEST_STREAM = 65_536
_WIDEST_EMBEDDING = 16_384
_FINEST_GRID = 10_000
_LARGEST_WHOLE = 2**63 - 1


def _require(condition: bool, name: str, expected: str, came: object) -> None:
    if not condition:
        raise ConfigError(f"{name}: expected {expected}, got {came!r}.")


def _require_between(low: int, high: int, name: str, came: int) -> None:
    _require(low <= came <= high, name, f"a whole number from {low} to {high}", came)


_known_hints: dict[type[Any], dict[str, Any]] = {}


def _hints(cls: type[Any]) -> dict[str, Any]:
    if cls not in _known_hints:
        _known_hints[cls] = get_type_hints(cls)
    return _known_hints[cls]


def _settle(section: Any) -> None:
    """Refuse fields of another type than they are declared with, and make numbers Python's own.

    A caller's may be numpy's or whole floats; strings are for files and the command line.
    """
    home = type(section).__name__.removesuffix("Config").lower()
    for name, kind in _hints(type(section)).items():
        value = getattr(section, name)
        # The common case first: settings are made anew for each recording.
        if type(value) is kind and (
            kind is bool
            or kind is str
            or (kind is int and abs(value) <= _LARGEST_WHOLE)
            or (kind is float and math.isfinite(value))
        ):
            continue
        settled = _coerce(value, kind, f"{home}.{name}", parse=False)
        if settled is not value:
            object.__setattr__(section, name, settled)


def _coerce(value: Any, kind: Any, name: str, *, parse: bool = True) -> Any:
    """``value`` as ``kind``.

    Args:
        parse: a string may stand for something else, as from the command line, TOML or JSON.
    """
    if kind is int or kind is float:
        return _number(value, kind, name, parse=parse)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        first, other = get_args(kind)
        words = get_args(other) if get_origin(other) is Literal else (None,)
        if other is types.NoneType and parse and isinstance(value, str) and value.lower() == "none":
            return None
        if value is None or isinstance(value, str):
            for word in words:
                if value == word:
                    return word
        try:
            return _coerce(value, first, name, parse=parse)
        except ConfigError as error:
            spoken = " or ".join(str(word).lower() for word in words)
            raise ConfigError(str(error).replace(", got ", f" or {spoken}, got ", 1)) from None
    if origin is Literal:
        if isinstance(value, str) and value in get_args(kind):
            return value
        raise ConfigError(f"{name}: expected one of {', '.join(get_args(kind))}, got {value!r}.")
    if origin is tuple:
        inner = get_args(kind)[0]
        items = value
        if parse and isinstance(value, str):
            items = [part.strip() for part in value.split(",") if part.strip()]
        try:
            items = None if isinstance(items, (str, Mapping)) else tuple(items)
        except TypeError:
            items = None
        if items is None:
            raise ConfigError(f"{name}: expected several values, got {value!r}.")
        return tuple(_coerce(item, inner, name, parse=parse) for item in items)
    if kind is bool:
        truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, bool):
            return value
        if parse and isinstance(value, str) and value.lower() in truths:
            return truths[value.lower()]
        raise ConfigError(f"{name}: expected true or false, got {value!r}.")
    if isinstance(value, str):
        return value
    raise ConfigError(f"{name}: expected text, got {value!r}.")


def _number(value: Any, kind: Any, name: str, *, parse: bool) -> int | float:
    number: int | float = 0
    try:
        if parse and isinstance(value, str):
            number = kind(value.replace("_", ""))
        elif isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError
        else:
            number = kind(value)
            if kind is int and number != value:
                raise ValueError
    except (ValueError, OverflowError):
        expected = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name}: expected {expected}, got {value!r}.") from None
    if kind is int:
        _require(abs(number) <= _LARGEST_WHOLE, name, "a whole number of 64 bits", value)
    else:
        _require(math.isfinite(number), name, "a finite number", value)
    return number


@dataclass(frozen=True)
class DataConfig:
    """What a recording looks like to the model."""

    segments: int = 750
    """T, the number of segments every video is sampled to."""
    frames_per_segment: int = 16
    fps: float = 25.0
    """Frames (or samples) a second of the recordings."""
    rgb_width: int = 1024
    """Features a segment in the first stream."""
    flow_width: int = 1024
    """Features a segment in the second stream."""
    modal: Modal = "both"
    """Which streams the model reads. With one stream, A_ca is that stream's actionness."""
    train_subset: str = "train"
    """The annotations' subset to train on, where the data set has no ``split_train.txt``."""
    test_subset: str = "test"
    """The annotations' subset to test on, where the data set has no ``split_test.txt``."""
    recipe: str = ""
    """How the features that it is trained on were made, where they say so; others are refused. Filled in from
    the features, see :meth:`aicl_fast.data.feature_file.Recipe.text`."""

    @property
    def input_width(self) -> int:
        """Features a segment that the model reads: the streams of ``modal`` side by side."""
        return (self.modal != "flow") * self.rgb_width + (self.modal != "rgb") * self.flow_width

    def __post_init__(self) -> None:
        _settle(self)
        _require_between(2, _MOST_SEGMENTS, "data.segments", self.segments)
        _require(
            self.frames_per_segment >= 1, "data.frames_per_segment", "at least 1", self.frames_per_segment
        )
        _require(self.fps > 0, "data.fps", "a positive number", self.fps)
        _require_between(1, _WIDEST_STREAM, "data.rgb_width", self.rgb_width)
        _require_between(1, _WIDEST_STREAM, "data.flow_width", self.flow_width)


@dataclass(frozen=True)
class ModelConfig:
    """The network (docs/method.md, section 2) and how its branches are fused."""

    num_classes: int = 20
    embedding_width: int = 512
    topk_divisor: int = 8
    """k = T // topk_divisor segments are averaged into a class's video logit."""
    fusion_gamma: float = 1 / 3
    """γ of A_score = γ·softmax(CAS) + (1-γ)·A_ca (eq. 4, normalised as the released program does)."""
    standardize_input: bool = False
    """Subtract the training features' mean and divide by their deviation, inside the network."""

    def __post_init__(self) -> None:
        _settle(self)
        _require_between(1, _MOST_CLASSES, "model.num_classes", self.num_classes)
        _require_between(1, _WIDEST_EMBEDDING, "model.embedding_width", self.embedding_width)
        _require(self.topk_divisor >= 1, "model.topk_divisor", "at least 1", self.topk_divisor)
        _require(0 <= self.fusion_gamma <= 1, "model.fusion_gamma", "between 0 and 1", self.fusion_gamma)

    def topk(self, segments: int) -> int:
        """k, of T segments those averaged into a video logit: T // topk_divisor, at least 1."""
        return max(1, segments // self.topk_divisor)


@dataclass(frozen=True)
class LossConfig:
    """Loss weights and constants (eq. 5 to 16). A weight of 0 leaves the term out."""

    variant: Variant = "released"
    """``released``: the authors' program (three embeddings in L_c, no stop-gradient in L_mc and L_ac).
    ``paper``: eq. 14's two embeddings, and the stop-gradients of eq. 11 and 15."""
    weight_agnostic: float = 1.0
    weight_contrast: float = 0.01
    """γ1"""
    weight_modality: float = 5.0
    """γ2"""
    weight_consistency: float = 0.1
    """γ3"""
    gce_q: float = 0.7
    """Noise tolerance q of the generalised cross entropy."""
    mining_divisor: int = 20
    """K = T // mining_divisor segments are mined from each region."""
    temperature: float = 0.1
    """τ of the contrastive loss."""

    def __post_init__(self) -> None:
        _settle(self)
        for name in ("weight_agnostic", "weight_contrast", "weight_modality", "weight_consistency"):
            _require(getattr(self, name) >= 0, f"loss.{name}", "at least 0", getattr(self, name))
        _require(0 < self.gce_q <= 1, "loss.gce_q", "above 0, at most 1", self.gce_q)
        _require(self.mining_divisor >= 1, "loss.mining_divisor", "at least 1", self.mining_divisor)
        _require(self.temperature > 0, "loss.temperature", "a positive number", self.temperature)


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation. Adam with L2 weight decay, as the released program."""

    steps: int = 11_700
    batch_size: int = 16
    """Videos a step, over all processes."""
    lr: float = 1e-4
    lr_schedule: Schedule = "constant"
    """``cosine`` falls to 0 over ``steps``."""
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 5e-4
    clip_norm: float = 0.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is kept; 0 is off."""
    selection_gamma: float | None = None
    """γ of the scores that select the top-k segments in training, once the warm-up is over; none is the
    fusion's own, as released, and 1 selects by softmax(CAS) alone throughout."""
    warmup_steps: int = 0
    """Steps at the start in which segments are selected by softmax(CAS) alone; 0 is as released.
    Untrained actionness makes the first selections arbitrary, and training may never recover."""
    ramp_steps: Ramp = 0
    """Steps after the warm-up in which the selection's γ falls linearly from 1 to ``selection_gamma``.
    ``all`` is every step after it, however many ``steps`` there are."""
    eval_every: int = 0
    """Steps between evaluations; 0 evaluates after the last step only, which chooses nothing."""
    save_every: int = 500
    """Steps between checkpoints that a run can go on from; 0 keeps only the last step's."""
    keep: Keep = "last"
    """``last`` keeps the last step's weights. ``val`` keeps the step of the best mAP on a share of the
    training videos that is held out. ``test`` keeps the best on *test*, as the released program does:
    that leaks the test set into the choice, so results are optimistic. Both need ``eval_every``."""
    val_share: float = 0.15
    """The share of the training videos that ``keep = val`` holds out."""
    patience: int = 0
    """Stop after this many evaluations without a better one (needs ``keep`` val or test); 0 never does."""
    precision: Precision = "float32"
    """Of the network's forward and backward pass; losses and weights stay in float32."""
    convolution: Convolution = "direct"
    """``winograd`` computes the embeddings with half the products, equal to rounding: the faster one on a
    CPU, above all with ``compile``."""
    compile: bool = False
    """Compile network and losses with torch.compile."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time; slower on a GPU."""
    memory_gb: float = 16.0
    """Features up to this size are read into memory once; larger sets are memory-mapped."""
    seed: int = 1

    @property
    def ramp(self) -> int:
        """Steps of the ramp: ``ramp_steps``, or for ``all`` every step after the warm-up."""
        if self.ramp_steps == "all":
            return max(0, self.steps - self.warmup_steps)
        return self.ramp_steps

    def __post_init__(self) -> None:
        _settle(self)
        _require(self.steps >= 1, "train.steps", "at least 1", self.steps)
        _require(self.batch_size >= 1, "train.batch_size", "at least 1", self.batch_size)
        _require(self.lr > 0, "train.lr", "a positive number", self.lr)
        for name in ("beta1", "beta2", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, f"train.{name}", "in [0, 1)", getattr(self, name))
        for name in ("weight_decay", "clip_norm", "memory_gb"):
            _require(getattr(self, name) >= 0, f"train.{name}", "at least 0", getattr(self, name))
        for name in ("warmup_steps", "eval_every", "save_every", "patience", "seed"):
            _require(getattr(self, name) >= 0, f"train.{name}", "at least 0", getattr(self, name))
        _require(self.ramp >= 0, "train.ramp_steps", "at least 0, or all", self.ramp_steps)
        _require(0 < self.val_share < 1, "train.val_share", "between 0 and 1", self.val_share)
        gamma = self.selection_gamma
        _require(gamma is None or 0 <= gamma <= 1, "train.selection_gamma", "none, or 0 to 1", gamma)
        if self.patience and self.keep == "last":
            raise ConfigError("train.patience: needs keep=val or keep=test, which say what 'better' means.")
        if self.keep != "last" and not 1 <= self.eval_every <= self.steps:
            raise ConfigError(
                f"train.keep: {self.keep} keeps the best of the evaluations, and with "
                f"eval_every={self.eval_every} there is none in {self.steps} steps. Set eval_every to a "
                f"number from 1 to {self.steps}, or keep=last."
            )


@dataclass(frozen=True)
class DecodeConfig:
    """From fused scores to detections."""

    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """θ: maximal runs of a class's score at or above each of these are proposals. Their order does not
    matter, and one that is repeated counts once."""
    class_threshold: float = 0.25
    """Classes with at least this video score are localised; the best one if none has it."""
    upscale: int = 24
    """Grid points a segment that proposal ends are rounded to."""
    outer_ratio: float = 0.2
    """λ: the outer part, to each side, as a share of the proposal's length. The paper's lineage says
    0.25; the released program runs with 0.2."""
    video_score_weight: float = 0.2
    """How much of the class's video score is added to a proposal's score."""
    nms: NmsMode = "decay_once"
    """``decay_once`` and ``hard``: the released program's two. ``gaussian``: Bodla et al. 2017."""
    nms_tiou: float = 0.4
    """tIoU from which ``decay_once`` and ``hard`` suppress."""
    nms_sigma: float = 0.35
    """σ of exp(-tIoU²/σ) in ``decay_once`` and ``gaussian``."""
    nms_added_seconds: float = 1.0
    """Seconds added to every length and intersection in the tIoU: 1 as released, 0 is the plain tIoU."""
    nms_across_classes: bool = False
    """Detections of one class suppress another's too; as released, each class is on its own."""
    min_score: float = 0.001
    """``gaussian`` drops detections whose decayed score falls below this."""
    max_detections: int = 0
    """Detections kept a video, the best first; 0 keeps all."""

    def __post_init__(self) -> None:
        _settle(self)
        _require(len(self.thresholds) >= 1, "decode.thresholds", "at least one number", self.thresholds)
        _require_between(1, _FINEST_GRID, "decode.upscale", self.upscale)
        _require(self.outer_ratio >= 0, "decode.outer_ratio", "at least 0", self.outer_ratio)
        _require(0 <= self.nms_tiou <= 1, "decode.nms_tiou", "between 0 and 1", self.nms_tiou)
        _require(self.nms_sigma > 0, "decode.nms_sigma", "a positive number", self.nms_sigma)
        _require(
            self.nms_added_seconds >= 0, "decode.nms_added_seconds", "at least 0", self.nms_added_seconds
        )
        _require(self.max_detections >= 0, "decode.max_detections", "at least 0", self.max_detections)


@dataclass(frozen=True)
class EvaluateConfig:
    """How detections are measured."""

    tious: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)

    def __post_init__(self) -> None:
        _settle(self)
        _require(
            len(self.tious) >= 1 and all(0 < t <= 1 for t in self.tious),
            "evaluate.tious",
            "numbers above 0, at most 1",
            self.tious,
        )


def _check_once(names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"classes: {twice!r} is there twice. Give each class once, by its own name.")


@dataclass(frozen=True)
class Config:
    """One preset: its name, its classes in the model's order (empty: the data set's own), its sections."""

    preset: str = "thumos14"
    classes: tuple[str, ...] = ()
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        _check_once(self.classes)
        if self.classes and len(self.classes) != self.model.num_classes:
            raise ConfigError(
                f"classes: {len(self.classes)} names for model.num_classes = {self.model.num_classes}. "
                "Give one name a class, in the model's order."
            )

    @property
    def topk(self) -> int:
        """k, the segments averaged into a video logit, at the configured T."""
        return self.model.topk(self.data.segments)

    @property
    def mined(self) -> int:
        """K, the segments mined from each region: T // mining_divisor, at least 1."""
        return max(1, self.data.segments // self.loss.mining_divisor)

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """A copy with fields replaced. Keys are ``field`` or ``section.field``; strings are parsed.

        Raises:
            ConfigError: no such field (the nearest names are listed), or a value of the wrong kind.
        """
        changed: dict[str, dict[str, Any]] = {}
        top: dict[str, Any] = {}
        for key, value in values.items():
            section, name = locate_setting(key)
            parsed = _coerce(value, _hints(_SECTIONS[section])[name], key) if section else class_names(value)
            if section:
                changed.setdefault(section, {})[name] = parsed
            else:
                top[name] = parsed
        for section, new in changed.items():
            top[section] = replace(getattr(self, section), **new)
        return replace(self, **top)

    def with_classes(self, classes: Iterable[str]) -> Config:
        """A copy for a data set with these class names, in the model's order.

        Raises:
            ConfigError: a name that is no text or empty, or one that is there twice.
        """
        names = class_names(tuple(classes))
        return replace(self, classes=names, model=replace(self.model, num_classes=len(names)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored in a model file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "config") -> Config:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: a section or field that does not exist, or has a value of the wrong kind.
        """
        flat: dict[str, Any] = {}
        for key, value in values.items():
            if key in _SECTIONS:
                if not isinstance(value, Mapping):
                    raise ConfigError(f"{source}: [{key}] is a section; expected its fields, got {value!r}.")
                flat.update({f"{key}.{name}": inner for name, inner in value.items()})
            elif key != "preset":
                flat[key] = value
        # Older files may name a choice by evaluations that were never made: the last step's were kept.
        if flat.get("train.keep") in ("val", "test") and not flat.get("train.eval_every"):
            flat.update({"train.keep": "last", "train.patience": 0})
        # Classes and their number change together, so the number comes first.
        base = cls(preset=str(values.get("preset", "thumos14")))
        names = flat.pop("classes", ())
        config = base.with_values(flat)
        return replace(config, classes=class_names(names))


_SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "train": TrainConfig,
    "decode": DecodeConfig,
    "evaluate": EvaluateConfig,
}
_FIELDS: dict[str, str] = {f.name: section for section, cls in _SECTIONS.items() for f in fields(cls)}

_THUMOS14_CLASSES = (
    "BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling",
    "CricketShot", "Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow",
    "LongJump", "PoleVault", "Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking",
)  # fmt: skip


def _activitynet(name: str, embedding_width: int, num_classes: int) -> Config:
    return Config(
        preset=name,
        data=DataConfig(segments=50, train_subset="training", test_subset="validation"),
        model=ModelConfig(
            num_classes=num_classes, embedding_width=embedding_width, topk_divisor=2, fusion_gamma=0.5
        ),
        train=TrainConfig(steps=50_000, batch_size=32, lr=1e-4),
        decode=DecodeConfig(class_threshold=0.1, nms_tiou=0.7),
        evaluate=EvaluateConfig(tious=(0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)),
    )


PRESETS: Mapping[str, Config] = types.MappingProxyType(
    {
        "thumos14": Config(preset="thumos14", classes=_THUMOS14_CLASSES),
        "activitynet12": _activitynet("activitynet12", 512, 100),
        "activitynet13": _activitynet("activitynet13", 1024, 200),
        "demo": Config(
            preset="demo",
            data=DataConfig(segments=128, frames_per_segment=16, fps=50.0, rgb_width=57, flow_width=57),
            model=ModelConfig(num_classes=5, embedding_width=128, standardize_input=True),
            # The selection's γ falls from 1 to the fusion's over the whole run: of the schedules compared in
            # docs/training.md the best simple one. As released, two of three seeds never find the actions.
            train=TrainConfig(steps=1200, ramp_steps="all"),
            # The released program's two slips (the added second, λ) are left out. A stream may hold two
            # actions that share the softmax, so the class threshold is ActivityNet's.
            decode=DecodeConfig(class_threshold=0.1, nms="gaussian", nms_added_seconds=0.0, outer_ratio=0.25),
        ),
    }
)


def load_config(
    preset: str = "thumos14",
    *,
    file: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
) -> Config:
    """A preset with a TOML file's values over it, and ``name=value`` overrides over both.

    Args:
        preset: one of :data:`PRESETS`. A ``preset`` key in the file is used when this is the default.
        file: TOML; fields at the top level or in a table named after their section.
        overrides: strings ``field=value`` or ``section.field=value``; tuples are comma-separated.
    Raises:
        ConfigError: an unknown preset, field or value; the nearest names are listed.
        DataError: the file does not exist.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_toml(file)
        named = values.pop("preset", None)
        if named is not None and preset == "thumos14":
            preset = str(named)
    if preset not in PRESETS:
        raise ConfigError(f"preset: there is no '{preset}'.{_near(preset, PRESETS)} ({', '.join(PRESETS)})")
    config = PRESETS[preset]
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            if key not in _SECTIONS:
                raise ConfigError(f"{file}: there is no section [{key}].{_near(key, _SECTIONS)}")
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    flat.update(parse_overrides(overrides))
    names = flat.pop("classes", None)
    if names is not None:
        config = config.with_classes(_coerce(names, tuple[str, ...], "classes"))
    return config.with_values(flat)


def parse_overrides(items: Iterable[str]) -> dict[str, str]:
    """``name=value`` strings as a mapping for :meth:`Config.with_values`.

    Raises:
        ConfigError: a string without a name or an equals sign.
    """
    values: dict[str, str] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {item}: expected name=value, for example --set train.lr=3e-4.")
        values[name.strip()] = text.strip()
    return values


def class_names(names: Any) -> tuple[str, ...]:
    """The names of classes, clean.

    Raises:
        ConfigError: a name that is no text or empty, or one that is there twice.
    """
    found = tuple(
        require_label(name, "classes", "class", error=ConfigError)
        for name in _coerce(names, tuple[str, ...], "classes")
    )
    _check_once(found)
    return found


def _read_toml(file: str | os.PathLike[str]) -> dict[str, Any]:
    import tomllib

    from aicl_fast.files import read_text
    from aicl_fast.limits import reading

    text = read_text(file, "settings file", largest=_LARGEST_TOML)
    advice = "Write it as in docs/datasets.md."
    with reading(file, "settings file", error=ConfigError, advice=advice):
        # The parser takes time and memory by the square of a key's parts, and much for every table.
        bare = _TOML_STRING.sub("s", text)
        if _TOML_DEEP.search(bare) or sum(map(bare.count, "=[{")) > _TOML_KEYS:
            raise ConfigError(
                f"{file}: has a key of more than {_TOML_DEPTH} parts, or more than {_TOML_KEYS} keys; "
                f"expected settings, as name or section.name. {advice}"
            )
        try:
            values: dict[str, Any] = clean_values(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file}: not valid TOML: {error_text(error)}") from error
        except DataError as error:  # two keys that are equal in one Unicode form
            raise ConfigError(f"{file}: the settings file {error}") from error
        return values


_LARGEST_TOML = 1 << 20
_TOML_DEPTH = 8
_TOML_KEYS = 1000
"""Keys and brackets together: far above the number of settings."""
_TOML_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)|'
    r"'''.*?(?:'''|\Z)|"
    r'"(?:\\[^\n]|[^"\\\n])*(?:"|$)|'
    r"'[^'\n]*(?:'|$)|"
    r"\#[^\n]*",
    re.DOTALL | re.MULTILINE,
)
"""Strings, closed or not, and comments: what may hold any number of dots."""
_TOML_DEEP = re.compile(rf"(?:\.[ \t]*[\w-]+[ \t]*){{{_TOML_DEPTH}}}")


def locate_setting(key: str) -> tuple[str, str]:
    """(section, field) of ``field`` or ``section.field``; the section is empty for ``classes``.

    Raises:
        ConfigError: no such field; the nearest names are listed.
    """
    section, dot, name = key.rpartition(".")
    if key == "classes":
        return "", key
    if not dot and name in _FIELDS:
        return _FIELDS[name], name
    if section in _SECTIONS and _FIELDS.get(name) == section:
        return section, name
    every = [*_FIELDS, *(f"{home}.{name}" for name, home in _FIELDS.items()), "classes"]
    raise ConfigError(
        f"{key}: there is no such setting.{_near(key, every)} `aicl-fast info --preset thumos14` "
        "lists them all."
    )


def _near(word: str, candidates: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(candidates), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
