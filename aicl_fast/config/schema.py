"""The settings: every constant of the method, as frozen dataclasses whose fields declare their limits.

Field names are unique across sections, so ``lr`` and ``train.lr`` mean the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from aicl_fast.config.fields import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, OneOf, Range, Section, coerce, hints
from aicl_fast.decode.nms import NMS_MODES
from aicl_fast.errors import ConfigError
from aicl_fast.text import require_label

Variant = Literal["released", "paper"]
Keep = Literal["last", "val", "test"]
Streams = Literal["both", "rgb", "flow"]
Schedule = Literal["constant", "cosine"]
Precision = Literal["fp32", "bf16"]
Convolution = Literal["direct", "winograd"]
Supervision = Literal["videos", "points", "times"]

# Far above any use, and far below what only fails when memory for it is asked for.
MAX_SEGMENTS = 100_000
MAX_CLASSES = 100_000
MAX_STREAM_WIDTH = 65_536
MAX_EMBEDDING_WIDTH = 16_384
MAX_UPSCALE = 10_000


@dataclass(frozen=True)
class DataConfig(Section):
    """What a recording looks like to the model."""

    segments: Annotated[int, Range(2, MAX_SEGMENTS)] = 750
    """T, the number of segments every video is sampled to."""
    frames_per_segment: Annotated[int, Range(1, 2**31 - 1)] = 16
    fps: Annotated[float, Range(0, 1e30, open_low=True)] = 25.0
    """Frames (or samples) a second of the recordings."""
    rgb_width: Annotated[int, Range(1, MAX_STREAM_WIDTH)] = 1024
    """Features a segment in the first stream."""
    flow_width: Annotated[int, Range(1, MAX_STREAM_WIDTH)] = 1024
    """Features a segment in the second stream."""
    streams: Streams = "both"
    """Which streams the model reads. With one stream, A_ca is that stream's actionness."""
    train_subset: str = "train"
    """The annotations' subset to train on, where the data set has no ``split_train.txt``."""
    test_subset: str = "test"
    """The annotations' subset to test on, where the data set has no ``split_test.txt``."""
    typical_segments: Annotated[int, NOT_NEGATIVE] = 0
    """The median number of segments of the training recordings; 0 is not known. Filled in by the trainer."""
    longest_segments: Annotated[int, NOT_NEGATIVE] = 0
    """The largest number of segments of a training recording; 0 is not known. Filled in by the trainer."""
    recipe: str = ""
    """How the features that it is trained on were made, where they say so; others are refused. Filled in from
    the features, see :meth:`aicl_fast.data.feature_file.Recipe.text`."""

    @property
    def input_width(self) -> int:
        """Features a segment that the model reads: the streams of ``streams`` side by side."""
        return (self.streams != "flow") * self.rgb_width + (self.streams != "rgb") * self.flow_width


@dataclass(frozen=True)
class ModelConfig(Section):
    """The network (docs/method.md, section 2) and how its branches are fused."""

    num_classes: Annotated[int, Range(1, MAX_CLASSES)] = 20
    embedding_width: Annotated[int, Range(1, MAX_EMBEDDING_WIDTH)] = 512
    topk_divisor: Annotated[int, COUNT] = 8
    """k = T // topk_divisor segments are averaged into a class's video logit."""
    fusion_gamma: Annotated[float, SHARE] = 1 / 3
    """γ of A_score = γ·softmax(CAS) + (1-γ)·A_ca (eq. 4, normalised as the released program does)."""
    standardize_input: bool = False
    """Subtract the training features' mean and divide by their deviation, inside the network."""

    def topk(self, segments: int) -> int:
        """k, of T segments those averaged into a video logit: T // topk_divisor, at least 1."""
        return max(1, segments // self.topk_divisor)


@dataclass(frozen=True)
class LossConfig(Section):
    """Loss weights and constants (eq. 5 to 16). A weight of 0 leaves the term out."""

    variant: Variant = "released"
    """``released``: the authors' program (three embeddings in L_c, no stop-gradient in L_mc and L_ac).
    ``paper``: eq. 14's two embeddings, and the stop-gradients of eq. 11 and 15."""
    weight_agnostic: Annotated[float, NOT_NEGATIVE] = 1.0
    weight_contrast: Annotated[float, NOT_NEGATIVE] = 0.01
    """γ1"""
    weight_modality: Annotated[float, NOT_NEGATIVE] = 5.0
    """γ2"""
    weight_consistency: Annotated[float, NOT_NEGATIVE] = 0.1
    """γ3"""
    weight_segment_class: Annotated[float, NOT_NEGATIVE] = 0.3
    """Of L_sc, which the paper does not have: the classes of single segments, see ``supervision``."""
    weight_segment_actionness: Annotated[float, NOT_NEGATIVE] = 1.0
    """Of L_sa, the same: whether they are action or background."""
    gce_q: Annotated[float, Range(0, 1, open_low=True)] = 0.7
    """Noise tolerance q of the generalised cross entropy."""
    mining_divisor: Annotated[int, COUNT] = 20
    """K = T // mining_divisor segments are mined from each region."""
    temperature: Annotated[float, POSITIVE] = 0.1
    """τ of the contrastive loss."""


@dataclass(frozen=True)
class TrainConfig(Section):
    """Optimisation. Adam with L2 weight decay, as the released program."""

    steps: Annotated[int, COUNT] = 11_700
    batch_size: Annotated[int, COUNT] = 16
    """Videos a step, over all processes."""
    lr: Annotated[float, POSITIVE] = 1e-4
    lr_schedule: Schedule = "constant"
    """``cosine`` falls to 0 over ``steps``."""
    beta1: Annotated[float, Range(0, 1, open_high=True)] = 0.9
    beta2: Annotated[float, Range(0, 1, open_high=True)] = 0.999
    weight_decay: Annotated[float, NOT_NEGATIVE] = 5e-4
    clip_norm: Annotated[float, NOT_NEGATIVE] = 0.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    ema_decay: Annotated[float, Range(0, 1, open_high=True)] = 0.0
    """Decay of an exponential moving average of the weights, which is then what is kept; 0 is off."""
    selection_gamma: Annotated[float, SHARE] | None = None
    """γ of the scores that select the top-k segments in training, once the warm-up is over; none is the
    fusion's own, as in the authors' code, and 1 selects by softmax(CAS) alone throughout."""
    warmup_steps: Annotated[int, NOT_NEGATIVE] = 0
    """Steps at the start in which segments are selected by softmax(CAS) alone; 0 is as in the authors' code.
    Untrained actionness makes the first selections arbitrary, and training may never recover."""
    ramp_steps: Annotated[int, NOT_NEGATIVE] | Literal["all"] = 0
    """Steps after the warm-up in which the selection's γ falls linearly from 1 to ``selection_gamma``.
    ``all`` is every step after it, however many ``steps`` there are."""
    supervision: Supervision = "videos"
    """What is used of the training annotations: labels of ``videos`` alone, as in the paper; also ``points``,
    one time in each instance, where there are any; or also ``times``, the instances' start and end."""
    self_training: bool = False
    """A teacher, the moving average of the network, labels the segments of videos without points or times, in
    the second half of the steps."""
    teacher_start: Annotated[float, SHARE] = 0.25
    """The share of the steps after which the teacher labels videos: then points grow into spans."""
    teacher_every: Annotated[int, COUNT] = 100
    """Steps after which it does so again."""
    teacher_decay: Annotated[float, Range(0, 1, open_high=True)] = 0.99
    """Decay of the teacher's moving average."""
    eval_every: Annotated[int, NOT_NEGATIVE] = 0
    """Steps between evaluations; 0 evaluates after the last step only, which chooses nothing."""
    save_every: Annotated[int, NOT_NEGATIVE] = 500
    """Steps between checkpoints that a run can resume from; 0 keeps only the last step's."""
    keep: Keep = "last"
    """``last`` keeps the last step's weights. ``val`` keeps the step of the best mAP on a share of the
    training videos that is held out. ``test`` keeps the best on *test*, as the released program does:
    that leaks the test set into the choice, so results are optimistic. Both need ``eval_every``."""
    val_share: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.15
    """The share of the training videos that ``keep = val`` holds out."""
    patience: Annotated[int, NOT_NEGATIVE] = 0
    """Stop after this many evaluations without a better one (needs ``keep`` val or test); 0 never does."""
    precision: Precision = "fp32"
    """Of the network's forward and backward pass; losses and weights stay in float32."""
    convolution: Convolution = "direct"
    """``winograd`` computes the embeddings with half the products, equal to rounding: the faster one on a
    CPU, above all with ``compile``."""
    compile: bool = False
    """Compile network and losses with torch.compile."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time; slower on a GPU."""
    memory_gb: Annotated[float, NOT_NEGATIVE] = 16.0
    """Features up to this size are read into memory once; larger sets are memory-mapped."""
    seed: Annotated[int, NOT_NEGATIVE] = 1

    @property
    def ramp(self) -> int:
        """Steps of the ramp: ``ramp_steps``, or for ``all`` every step after the warm-up."""
        if self.ramp_steps == "all":
            return max(0, self.steps - self.warmup_steps)
        return self.ramp_steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience and self.keep == "last":
            raise ConfigError("train.patience: needs keep=val or keep=test, which say what 'better' means.")
        if self.keep != "last" and not 1 <= self.eval_every <= self.steps:
            raise ConfigError(
                f"train.keep: {self.keep} keeps the best of the evaluations, and with "
                f"eval_every={self.eval_every} there is none in {self.steps} steps. Set eval_every to a "
                f"number from 1 to {self.steps}, or keep=last."
            )


@dataclass(frozen=True)
class DecodeConfig(Section):
    """From fused scores to detections."""

    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """θ: maximal runs of a class's score at or above each of these are proposals. Their order does not
    matter, and one that is repeated counts once."""
    class_threshold: float = 0.25
    """Classes with at least this video score are localised; the best one if none has it."""
    class_power: Annotated[float, NOT_NEGATIVE] | Literal["auto"] = "auto"
    """The fused score is multiplied by the class score of the moment to this power, which tells apart several
    classes in one recording (docs/windows.md). ``auto`` is 0, as in the authors' code, for a recording that
    is scored whole, and 0.5 for one that is scored in windows."""
    class_span: Annotated[int, Range(1, 1001)] = 5
    """Segments over which softmax(CAS) is averaged, with triangular weights, into the class scores of each
    moment. An odd number."""
    upscale: Annotated[int, Range(1, MAX_UPSCALE)] = 24
    """Grid points a segment that proposal ends are rounded to."""
    merge_gap: Annotated[float, Range(0, 1e30)] = 0.0
    """Seconds: runs of a class at one threshold that are no further apart are one proposal. In a stream,
    detections are final so much later."""
    min_seconds: Annotated[float, Range(0, 1e30)] = 0.0
    """Shorter proposals are dropped before they are scored, so they suppress nothing."""
    outer_ratio: Annotated[float, NOT_NEGATIVE] = 0.2
    """λ: the outer part, to each side, as a share of the proposal's length. The paper's lineage says
    0.25; the released program runs with 0.2."""
    video_score_weight: Annotated[float, Range(-1e100, 1e100)] = 0.2
    """How much of the class's video score is added to a proposal's score."""
    density_weight: Annotated[float, Range(0, 1e100)] = 0.0
    """How much of a proposal's density is added to its score, before NMS: its mean plain tIoU with the ten
    proposals of its class that it overlaps most."""
    nms: Annotated[str, OneOf(NMS_MODES)] = "decay_once"
    """``decay_once`` and ``hard``: the released program's two. ``gaussian``: Bodla et al. 2017."""
    nms_tiou: Annotated[float, SHARE] = 0.4
    """tIoU from which ``decay_once`` and ``hard`` suppress."""
    nms_sigma: Annotated[float, POSITIVE] = 0.35
    """σ of exp(-tIoU²/σ) in ``decay_once`` and ``gaussian``."""
    nms_added_seconds: Annotated[float, Range(0, 1e30)] = 1.0
    """Seconds added to every length and intersection in the tIoU: 1 in the authors' code, 0 is plain."""
    nms_across_classes: bool = False
    """Detections of one class suppress another's too; as in the authors' code, each class is on its own."""
    min_score: float = 0.001
    """``gaussian`` drops detections whose decayed score falls below this."""
    max_detections: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Detections kept a video, the best first; 0 keeps all."""

    @property
    def power_whole(self) -> float:
        """``class_power`` for a recording that is scored whole."""
        return 0.0 if self.class_power == "auto" else self.class_power

    @property
    def power_in_windows(self) -> float:
        """``class_power`` for a recording that is scored in windows."""
        return 0.5 if self.class_power == "auto" else self.class_power

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_span % 2 == 0:
            raise ConfigError(f"decode.class_span: expected an odd number, got {self.class_span}.")


@dataclass(frozen=True)
class WindowsConfig(Section):
    """How recordings longer than those of training are scored: in overlapping windows (docs/windows.md)."""

    window: Annotated[float, POSITIVE] | Literal["auto", "off"] = "auto"
    """Seconds of a window. ``auto`` takes as many segments as the median training recording has, at least
    T / 4, and cuts only what has more than T segments and more than the longest training recording.
    ``off`` samples every recording to T segments, however long it is."""
    hop: Annotated[float, POSITIVE] | Literal["auto"] = "auto"
    """Seconds from one window's start to the next one's. ``auto`` is half a window, or seven eighths of one
    that has T segments, since such windows agree where they overlap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.window, float) and isinstance(self.hop, float) and self.hop > self.window:
            raise ConfigError(
                f"windows.hop: {self.hop:g} s is longer than the window, {self.window:g} s: segments in "
                "between would never be seen. Give at most the window's length; half of it is usual."
            )


@dataclass(frozen=True)
class EvaluateConfig(Section):
    """How detections are measured."""

    tious: tuple[Annotated[float, Range(0, 1, open_low=True)], ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


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
    windows: WindowsConfig = field(default_factory=WindowsConfig)
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
            parsed = coerce(value, hints(SECTIONS[section])[name], key) if section else class_names(value)
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
            if key in SECTIONS:
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


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "train": TrainConfig,
    "decode": DecodeConfig,
    "windows": WindowsConfig,
    "evaluate": EvaluateConfig,
}
_FIELDS: dict[str, str] = {f.name: section for section, cls in SECTIONS.items() for f in fields(cls)}


def class_names(names: Any) -> tuple[str, ...]:
    """The names of classes, clean.

    Raises:
        ConfigError: a name that is no text or empty, or one that is there twice.
    """
    found = tuple(
        require_label(name, "classes", "class", error=ConfigError)
        for name in coerce(names, tuple[str, ...], "classes")
    )
    _check_once(found)
    return found


RENAMED_SETTINGS = {"modal": "streams"}
"""What earlier versions called settings."""
OTHER_NAMES = {
    "learning_rate": "lr",
    "batch": "batch_size",
    "epochs": "steps (batches, not rounds over the recordings)",
    "num_epochs": "steps (batches, not rounds over the recordings)",
    "iterations": "steps",
    "max_iters": "steps",
    "num_iters": "steps",
    "num_segments": "segments (T)",
    "frame_rate": "fps",
    "gamma": "fusion_gamma",
    "iou_thresholds": "tious",
    "tiou_thresholds": "tious",
    "tiou": "tious",
}
"""What others call settings."""


def locate_setting(key: str) -> tuple[str, str]:
    """(section, field) of ``field`` or ``section.field``; the section is empty for ``classes``.

    Raises:
        ConfigError: no such field; the nearest names are listed.
    """
    section, dot, name = key.rpartition(".")
    name = RENAMED_SETTINGS.get(name, name)
    if key == "classes":
        return "", key
    if not dot and name in _FIELDS:
        return _FIELDS[name], name
    if section in SECTIONS and _FIELDS.get(name) == section:
        return section, name
    known = [*_FIELDS, *(f"{section}.{name}" for name, section in _FIELDS.items()), "classes"]
    if name in OTHER_NAMES:
        raise ConfigError(f"{key}: there is no such setting. It is called {OTHER_NAMES[name]} here.")
    raise ConfigError(
        f"{key}: there is no such setting.{near(key, known)} `aicl-fast info --preset thumos14` "
        "lists them all."
    )


def near(word: str, candidates: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(candidates), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
