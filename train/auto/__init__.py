"""auto: the best model that a data set's labels give, found by a contest of trainings (docs/accuracy.md).

from aicl_fast.train.auto import find_model
found = find_model(dataset, "runs/auto", minutes=30)
"""

from __future__ import annotations

from aicl_fast.train.auto.candidates import CANDIDATES, Candidate
from aicl_fast.train.auto.contest import Contest, Entry, find_model
from aicl_fast.train.auto.judge import Judgement

__all__ = ["CANDIDATES", "Candidate", "Contest", "Entry", "Judgement", "find_model"]
