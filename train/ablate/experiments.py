"""What each experiment compares: its arms, each a change of settings or of the network."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aicl_fast.config import Config
from aicl_fast.errors import ConfigError
from aicl_fast.train.ablate import fusion
from aicl_fast.train.ablate.supervision import Annotate, with_points
from aicl_fast.train.losses import only
from aicl_fast.train.trainer import MakeNet

Arms = tuple["Arm", ...]


@dataclass(frozen=True)
class Arm:
    """One line of an experiment's table.

    Attributes:
        name: as the table names it.
        changes: settings that differ from the base's.
        make_net: another network than the method's.
        annotate: other annotations of the training videos than the data set's.
        paper: what the paper measures on THUMOS14, by the result's field, as fractions.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    make_net: MakeNet | None = None
    annotate: Annotate | None = None
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """One command's worth of training.

    Attributes:
        name: of the command.
        title: of the table and the picture.
        measures: fields of a run's result that the table shows, the first its main one.
        arms: from the base settings, since schedules are a share of the steps.
        curve: the column of ``log.csv`` that is drawn over training, or none.
        evaluations: evaluations a run, for curves of what only an evaluation measures.
    """

    name: str
    title: str
    measures: tuple[str, ...]
    arms: Callable[[Config], Arms]
    curve: str = ""
    evaluations: int = 0


def _average(percent: float) -> dict[str, float]:
    return {"average_mAP": percent / 100}


def _losses(config: Config) -> Arms:
    return (
        Arm("L_a", only("L_a"), paper=_average(31.9)),
        # The untrained actionness is most of the fused score above, so here L_a localises by its own
        # scores alone. The paper has no such row.
        Arm("L_a, by softmax(CAS)", {**only("L_a"), "model.fusion_gamma": 1.0}),
        Arm("L_a + L_ca", only("L_a", "L_ca"), paper=_average(43.2)),
        Arm("L_a + L_ca + L_c", only("L_a", "L_ca", "L_c"), paper=_average(44.8)),
        Arm("L_a + L_ca + L_mc", only("L_a", "L_ca", "L_mc"), paper=_average(44.6)),
        Arm("L_a + L_ca + L_c + L_mc", only("L_a", "L_ca", "L_c", "L_mc"), paper=_average(46.0)),
        Arm("all five", paper=_average(46.4)),
    )


def _fusion(config: Config) -> Arms:
    return (
        Arm("early / early", make_net=fusion.early_early, paper=_average(40.7)),
        Arm("late / early", make_net=fusion.late_early, paper=_average(41.6)),
        Arm("late / late", make_net=fusion.late_late, paper=_average(45.7)),
        Arm("early / late (the method)", paper=_average(46.4)),
    )


def _accuracy(config: Config) -> Arms:
    def paper(aware: float, agnostic: float) -> dict[str, float]:
        return {"accuracy_A_bin": aware / 100, "accuracy_A_ca_bin": agnostic / 100}

    return (
        Arm("baseline (L_a + L_ca)", only("L_a", "L_ca"), paper=paper(37.3, 65.7)),
        Arm("AICL (all five)", paper=paper(60.3, 65.3)),
    )


def _consistency(config: Config) -> Arms:
    return (
        Arm("without L_ac", only("L_a", "L_ca", "L_c", "L_mc")),
        Arm("with L_ac"),
    )


def _selection(config: Config) -> Arms:
    third = max(1, config.train.steps // 3)
    as_released = {"train.warmup_steps": 0, "train.ramp_steps": 0, "train.selection_gamma": None}
    return (
        Arm("released", as_released),
        Arm("warm-up, a third", {**as_released, "train.warmup_steps": third}),
        Arm(
            "warm-up, then a ramp",
            {**as_released, "train.warmup_steps": third, "train.ramp_steps": third},
        ),
        Arm("ramp throughout", {**as_released, "train.ramp_steps": config.train.steps}),
        Arm(
            "ramp to 0.6, then held",
            {**as_released, "train.ramp_steps": config.train.steps // 2, "train.selection_gamma": 0.6},
        ),
        Arm("0.6 throughout", {**as_released, "train.selection_gamma": 0.6}),
        Arm("class-aware only", {**as_released, "train.selection_gamma": 1.0}),
    )


def _supervision(config: Config) -> Arms:
    videos = {"train.supervision": "videos", "train.self_training": False}
    points = {**videos, "train.supervision": "points"}
    return (
        Arm("labels of videos", videos),
        Arm("labels of videos, self-training", {**videos, "train.self_training": True}),
        *(
            Arm(f"points in {share} % of the videos", points, annotate=with_points(share / 100))
            for share in (10, 50, 100)
        ),
        Arm("start and end of every instance", {**videos, "train.supervision": "times"}),
    )


_ALL = (
    Experiment("losses", "The losses (Table 4 of the paper)", ("average_mAP",), _losses),
    Experiment(
        "fusion",
        "Fusion of the streams, class-aware / class-agnostic (Table 6 of the paper)",
        ("average_mAP",),
        _fusion,
    ),
    Experiment(
        "accuracy",
        "Accuracy of action and background segments (Table 5 of the paper)",
        ("accuracy_A_bin", "accuracy_A_ca_bin", "average_mAP"),
        _accuracy,
    ),
    Experiment(
        "consistency",
        "Consistent segments over training (Fig. 3 of the paper)",
        ("consistent", "average_mAP"),
        _consistency,
        curve="consistent",
    ),
    Experiment(
        "selection",
        "What selects segments in training",
        ("average_mAP", "accuracy_A_bin", "accuracy_A_ca_bin"),
        _selection,
        curve="average_mAP",
        evaluations=8,
    ),
    Experiment("supervision", "What is known of the training recordings", ("average_mAP",), _supervision),
)
EXPERIMENTS: Mapping[str, Experiment] = {experiment.name: experiment for experiment in _ALL}


def find_experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigError: there is none; those that there are are listed.
    """
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, list(EXPERIMENTS), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"EXPERIMENT: there is no '{name}'.{hint} ({', '.join(EXPERIMENTS)})")
    return EXPERIMENTS[name]
