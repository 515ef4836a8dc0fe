"""What is measured, how, and the recorded results (``results/``). Each suite is a module with a ``main``.

Every suite takes turns between contenders and a baseline and records ratios, which a slower clock leaves as
they are; other programs on the cores do not. ``record.py`` says what each result file holds of where it comes
from.
"""

from __future__ import annotations

SUITES = {
    "detect": "features to detections against the textbook pipeline; cold start",
    "engines": "every engine, precision and batch that runs here, with the mAP of the same file",
    "decode": "fused scores to detections against textbook NumPy; batches; cold start",
    "train": "a training step against the textbook's",
    "evaluate": "mAP of real detections against textbook evaluators",
    "load": "start-up and memory of fresh processes against the textbook's script",
    "video": "segments of video a second, by stage and from file to features; I3D by every engine",
    "kernels": "each Triton kernel against eager and compiled torch (needs a GPU)",
    "sweep": "launch settings of the Triton kernels against the shipped ones (needs a GPU)",
    "accuracy": "the demo's mAP over seeds and losses",
}
"""What ``aicl-fast bench`` measures, by module."""

TOOLS = {
    "all": "every suite that this machine can run, into one file",
    "report": "tables and pictures of a result file, and the documents that quote it",
    "compare": "what got slower or less accurate between two result files",
}
"""What else ``aicl-fast bench`` does, by module."""
