"""What is measured, how, and the recorded results (``results/``). Each suite is a module with a ``main``.

Every suite takes turns between contenders and a baseline in one process, and records ratios: they survive a
noisy machine, times do not. ``record.py`` says what each result file holds of where it comes from.
"""

from __future__ import annotations

SUITES = {
    "detect": "features to detections against the textbook pipeline; cold start",
    "decode": "fused scores to detections against textbook NumPy; batches; cold start",
    "train": "a training step against the textbook's",
    "evaluate": "mAP of real detections against textbook evaluators",
    "accuracy": "the demo's mAP over seeds and losses",
    "kernels": "each Triton kernel against eager and compiled torch (needs a GPU)",
}
"""What ``aicl-fast bench`` offers, by module."""
