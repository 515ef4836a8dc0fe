"""The paper's experiments, and one of our own, each as one function over a data set and several seeds.

from aicl_fast.train.ablate import EXPERIMENTS, run_ablation
ablation = run_ablation(dataset, EXPERIMENTS["losses"], "runs/ablate-losses", seeds=3)
"""

from __future__ import annotations

from aicl_fast.train.ablate.experiments import EXPERIMENTS, Arm, Experiment, find_experiment
from aicl_fast.train.ablate.run import Ablation, Run, mean_curve, run_ablation

__all__ = [
    "EXPERIMENTS",
    "Ablation",
    "Arm",
    "Experiment",
    "Run",
    "find_experiment",
    "mean_curve",
    "run_ablation",
]
