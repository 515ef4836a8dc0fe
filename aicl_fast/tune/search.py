"""The search: settings by Optuna, and what they are worth on recordings that were not searched."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aicl_fast.config import PRESETS, Config
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.detections import Detections
from aicl_fast.decode.decoder import Decoder
from aicl_fast.errors import AiclWarning, ConfigError, DataError
from aicl_fast.evaluate.average_precision import Judged
from aicl_fast.evaluate.matching import Floats
from aicl_fast.evaluate.protocol import Protocol
from aicl_fast.evaluate.table import build_table
from aicl_fast.extras import needs
from aicl_fast.tune.curves import Curves

Values = Mapping[str, Any]
"""Settings by their full names."""
Progress = Callable[[int, int], None]
"""Called with (trials done, all)."""

LEAST_INSTANCES, FEW_INSTANCES = 20, 100
"""Annotated instances below which tuning is refused, and below which it is warned of."""
TRIALS, FOLDS = 150, 5

GAMMA = "model.fusion_gamma"
SPACE: Mapping[str, tuple[Any, ...]] = {
    GAMMA: (0.05, 1.0),
    "decode.class_threshold": (0.005, 0.5, "log"),
    "decode.class_power": (0.0, 1.5),
    "decode.nms": ("gaussian", "hard", "decay_once"),
    "decode.nms_tiou": (0.2, 0.8),
    "decode.nms_sigma": (0.1, 1.0, "log"),
    "decode.nms_added_seconds": (0.0, 0.0),
    "decode.outer_ratio": (0.05, 0.6),
    "decode.video_score_weight": (0.0, 0.5),
    "decode.density_weight": (0.0, 2.0),
    "decode.min_seconds": (0.0, 1.0, "of the shortest"),
    "decode.merge_gap": (0.0, 1.0, "of the shortest"),
}
"""What is chosen, and between what: two ends, or names. ``of the shortest`` is a share of the tenth
percentile of the instances' lengths."""
_DIGITS = 4
_PARTS = 10
"""Parts of the recordings that are left out in turn, for the standard error of a gain."""
_OPTIONAL = ("decode.density_weight", "decode.min_seconds", "decode.merge_gap")
"""Settings that are off in every second trial."""


@dataclass(frozen=True)
class Choice:
    """One setting.

    Attributes:
        before, after: its values.
        folds: the values that the searches without each fold chose.
        importance: its share in how much the trials differ (PED-ANOVA), 0 to 1.
    """

    name: str
    before: Any
    after: Any
    folds: tuple[Any, ...]
    importance: float


@dataclass(frozen=True, eq=False)
class Tuned:
    """What :func:`tune` found. mAP are averages over the tIoU thresholds, as fractions.

    Attributes:
        config: the settings with what was chosen.
        choices: one a setting, the most important first.
        before: for each fold, the mAP of the settings as they were.
        held_out: for each fold, the mAP of what was chosen without it.
        searched: mAP of what was chosen, on the recordings that it was chosen on, which is optimistic.
        trials: the values and the mAP of every trial of the search on all recordings.
        videos, instances: what was searched on.
        left_out: the detections of each recording, by what was chosen without its fold.
    """

    config: Config
    choices: tuple[Choice, ...]
    before: tuple[float, ...]
    held_out: tuple[float, ...]
    searched: float
    trials: tuple[tuple[Values, float], ...]
    videos: int
    instances: int
    left_out: Mapping[str, Detections]

    @property
    def gain(self) -> float:
        """What tuning is worth on recordings that were not searched: the mean over folds."""
        return float(np.mean(np.subtract(self.held_out, self.before)))


class Recordings:
    """Recordings with their annotations, decoded and measured by settings.

    Args:
        curves: by recording.
        truth: their annotations.
        config: the model's settings, for its classes, frame rate and tIoU thresholds.
    """

    def __init__(self, curves: Mapping[str, Curves], truth: GroundTruth, config: Config) -> None:
        self.curves, self.truth, self.config = curves, truth, config

    def of(self, videos: Sequence[str]) -> Recordings:
        """Some of them."""
        curves = {name: self.curves[name] for name in videos}
        truth = GroundTruth({name: self.truth.videos[name] for name in videos}, self.truth.source)
        return Recordings(curves, truth, self.config)

    def detections(self, config: Config) -> dict[str, Detections]:
        """What these settings find, by recording."""
        decoder, data = Decoder(config.decode, config.classes), config.data
        gamma = config.model.fusion_gamma
        return {
            name: curves.decode(decoder, gamma, data.fps, data.frames_per_segment, name)
            for name, curves in self.curves.items()
        }

    def average(self, found: Mapping[str, Detections]) -> float:
        """mAP, the average over the thresholds; 0 where nothing was found."""
        return float(self.averages(found, np.ones((1, len(self.curves))))[0])

    def averages(self, found: Mapping[str, Detections], weights: Floats) -> Floats:
        """The same with recordings counted as often as (K, V) weights say, in their names' order: (K,)."""
        if not any(map(len, found.values())):
            return np.zeros(len(weights))
        protocol = Protocol.of(None, {}, self.config.evaluate.tious, "tious")
        judged = Judged.of(build_table(self.truth, found, protocol))
        place = {name: column for column, name in enumerate(self.curves)}
        columns = [place[name] for name in judged.table.videos]
        return np.array([np.nanmean(judged.class_precisions(each[columns])) for each in weights])


def tune(
    curves: Mapping[str, Curves],
    truth: GroundTruth,
    config: Config,
    *,
    gamma: bool = True,
    trials: int = TRIALS,
    folds: int = FOLDS,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Tuned:
    """Choose settings by mAP on annotated recordings, and measure the choice by cross-validation over videos.

    The search starts with the model's own settings and those of the preset for one's own data. For each fold
    it is repeated on the other recordings, and the fold is decoded with what that chose.

    Args:
        curves: by recording, from :func:`collect_curves`.
        truth: their annotations.
        config: the model's settings.
        gamma: choose the fusion's γ, too.
        trials: of each search.
        folds: K.
        seed: of the folds and the searches.
        progress: called after each trial.
    Raises:
        DataError: fewer than 20 annotated instances, or fewer recordings than folds.
        ConfigError: fewer than two folds, or fewer than three trials.
        UnavailableError: Optuna is not installed.
    Warns:
        AiclWarning: fewer than 100 annotated instances.
    """
    with needs("tune", "tuning"):
        import optuna
    if folds < 2 or trials < 3:
        raise ConfigError(f"tune: expected at least 2 folds and 3 trials, got {folds} and {trials}.")
    names = sorted(curves)
    every = Recordings(curves, truth, config).of(names)
    instances = sum(len(truth.videos[name].labels) for name in names)
    where = f"{truth.source}: {instances} annotated instances in {len(names)} recordings"
    if instances < LEAST_INSTANCES or len(names) < folds:
        raise DataError(
            f"{where} are too few to choose settings by; expected at least {LEAST_INSTANCES} in {folds} "
            "recordings. Annotate the times of more, or keep the settings as they are."
        )
    if instances < FEW_INSTANCES:
        warnings.warn(
            f"{where}: below {FEW_INSTANCES} the choice depends much on which they are. Look at the spread "
            "over the folds.",
            AiclWarning,
            stacklevel=2,
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    order = np.random.default_rng(seed).permutation(len(names))
    parts = [[names[i] for i in order[first::folds]] for first in range(folds)]
    steps = _Steps(trials * (folds + 1), progress)
    chosen, held_out, before = [], [], []
    left_out: dict[str, Detections] = {}
    for number, part in enumerate(parts):
        rest, fold = every.of([name for name in names if name not in part]), every.of(part)
        chosen.append(_search(rest, gamma, trials, seed + number + 1, steps).best)
        found = fold.detections(_applied(config, chosen[-1]))
        left_out.update(found)
        held_out.append(fold.average(found))
        before.append(fold.average(fold.detections(config)))
    last = _search(every, gamma, trials, seed, steps)
    result = _applied(config, last.best)
    return Tuned(
        config=result,
        choices=_choices(config, result, [_applied(config, each) for each in chosen], last),
        before=tuple(before),
        held_out=tuple(held_out),
        searched=last.value,
        trials=last.trials,
        videos=len(names),
        instances=instances,
        left_out=left_out,
    )


@dataclass(frozen=True, eq=False)
class _Search:
    best: Values
    value: float
    trials: tuple[tuple[Values, float], ...]
    importances: Mapping[str, float]


class _Steps:
    """Counts trials of all searches."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, *_: object) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _search(recordings: Recordings, gamma: bool, trials: int, seed: int, steps: _Steps) -> _Search:
    import optuna

    config = recordings.config
    lengths = np.concatenate([np.diff(each.segments).ravel() for each in recordings.truth.videos.values()])
    shortest = float(np.quantile(lengths, 0.1))
    made: list[tuple[Values, float]] = []

    def value(trial: Any) -> float:
        number = len(made)
        # The settings as they are, and those for one's own data: found values are never worse on these.
        start = (config, PRESETS["own"])[number] if number < 2 else None
        values = _start(config, start, gamma) if start else _suggested(trial, gamma, shortest)
        measured = recordings.average(recordings.detections(_applied(config, values)))
        made.append((values, measured))
        steps()
        return measured

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Optuna calls experimental
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(value, n_trials=trials)
        importances = _importances(optuna, study)
    best, _ = max(made, key=lambda each: each[1])
    best = _kept(recordings, best, gamma, seed)
    measured = recordings.average(recordings.detections(_applied(config, best)))
    return _Search(best, measured, tuple(made), importances)


def _kept(recordings: Recordings, best: Values, gamma: bool, seed: int) -> Values:
    """The best values without those that gain nothing certain.

    One after the other, the setting goes back to what it was whose change gains least, as long as that is
    less than the gain's standard error, by the jackknife over ten parts of the recordings.
    """
    config = recordings.config
    before = _start(config, config, gamma)
    values = {**before, **best}
    weights = parts_weights(len(recordings.curves), seed)

    def measured(chosen: Values) -> Floats:
        return recordings.averages(recordings.detections(_applied(config, chosen)), weights)

    now = measured(values)
    while changed := [name for name in before if values[name] != before[name]]:
        gains = {}
        for name in changed:
            without = measured({**values, name: before[name]})
            gain = now - without
            gains[name] = float(gain[0] - jackknife_error(gain[1:])), without
        least = min(gains, key=lambda name: gains[name][0])
        certain, without = gains[least]
        if certain > 0:
            break
        values[least], now = before[least], without
    return values


def parts_weights(number: int, seed: int) -> Floats:
    """(1 + P, V) weights of recordings: all of them, then without each of at most ten parts."""
    parts = np.random.default_rng(seed).permutation(number) % min(_PARTS, number)
    return np.array([np.ones(number), *(parts != part for part in range(parts.max() + 1))], np.float64)


def jackknife_error(without: Floats) -> float:
    """The standard error of a value, from (P,) what it is without each part."""
    return float(np.sqrt(np.square(without - without.mean()).sum() * (len(without) - 1) / len(without)))


def _importances(optuna: Any, study: Any) -> Mapping[str, float]:
    searched = [trial for trial in study.trials if trial.params]
    if len(searched) < 2 or len({trial.value for trial in searched}) < 2:
        return {}
    only = optuna.create_study(direction=study.direction)
    only.add_trials(searched)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    try:
        found: Mapping[str, float] = optuna.importance.get_param_importances(only, evaluator=evaluator)
    except (RuntimeError, ValueError):  # too few trials have one setting in common
        return {}
    return found


def _suggested(trial: Any, gamma: bool, shortest: float) -> Values:
    values: dict[str, Any] = {}
    for name, (low, *rest) in SPACE.items():
        if name == GAMMA and not gamma:
            continue
        if isinstance(low, str):
            values[name] = trial.suggest_categorical(name, [low, *rest])
            continue
        high, kind = rest[0], rest[1] if len(rest) > 1 else ""
        if name == "decode.nms_sigma" and values["decode.nms"] == "hard":
            continue
        if name == "decode.nms_tiou" and values["decode.nms"] == "gaussian":
            continue
        if name in _OPTIONAL and not trial.suggest_categorical(f"{name}?", [False, True]):
            values[name] = 0.0
            continue
        scale = shortest if kind == "of the shortest" else 1.0
        if low == high:
            values[name] = low
        else:
            values[name] = round(scale * trial.suggest_float(name, low, high, log=kind == "log"), _DIGITS)
    return values


def _start(config: Config, start: Config, gamma: bool) -> Values:
    """The values of settings as they stand."""
    found = start.to_dict()
    names = [name for name in SPACE if name != GAMMA or gamma]
    values = {name: found[name.partition(".")[0]][name.partition(".")[2]] for name in names}
    if gamma and start is not config:
        values[GAMMA] = config.model.fusion_gamma
    return values


def _applied(config: Config, values: Values) -> Config:
    decode = {name.partition(".")[2]: value for name, value in values.items() if name != GAMMA}
    model = replace(config.model, fusion_gamma=values.get(GAMMA, config.model.fusion_gamma))
    return replace(config, decode=replace(config.decode, **decode), model=model)


def _choices(config: Config, result: Config, folds: Sequence[Config], search: _Search) -> tuple[Choice, ...]:
    documents = [each.to_dict() for each in (config, result, *folds)]
    choices = []
    for name in SPACE:
        section, _, key = name.partition(".")
        before, after, *others = (document[section][key] for document in documents)
        share = sum(search.importances.get(each, 0.0) for each in (name, f"{name}?"))
        choices.append(Choice(name, before, after, tuple(others), share))
    return tuple(sorted(choices, key=lambda each: -each.importance))
