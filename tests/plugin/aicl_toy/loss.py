"""A loss term: actionness costs."""

from __future__ import annotations

from aicl_fast.train.losses import TERMS, Batch, Losses, Term


def compute(batch: Batch) -> Losses:
    return {"toy": batch.outputs.A.mean()}


TERMS["L_toy"] = Term(("toy",), 0.5, compute)
