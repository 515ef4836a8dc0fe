"""Benchmarks: what is measured (``suites/``), against what (``baselines/``), how (``harness/``), results.

Every suite takes turns between contenders and a baseline and records ratios, which a slower clock leaves as
they are; other programs on the cores do not. ``harness/record.py`` says what each result file holds of where
it comes from. A new suite is a module with a ``main`` in ``suites/``, and a line in :data:`SUITES`.
"""

from __future__ import annotations

SUITES = {
    "detect": "features to detections against the reference pipeline; cold start",
    "engines": "every engine, precision and batch that runs here, with the mAP of the same file",
    "decode": "fused scores to detections against NumPy; batches; cold start",
    "train": "a training step against the reference's",
    "evaluate": "mAP of real detections against reference evaluators",
    "load": "start-up and memory of new processes against the reference's",
    "video": "segments of video per second, by stage and from file to features; I3D by every engine",
    "kernels": "each Triton kernel against eager and compiled torch (needs a GPU)",
    "sweep": "launch settings of the Triton kernels against the shipped ones (needs a GPU)",
    "accuracy": "the demo's mAP over seeds and losses",
    "long": "recordings far longer than those of training: mAP in windows and without; a day of segments",
    "stream": "streams: mAP against waiting, microseconds a segment, memory over a day",
    "own": "the preset for one's own data against the decoding of THUMOS14",
    "proposals": "raw proposals of another model: NMS, density and shortest proposal",
    "tune": "settings tuned on a fifth of the training recordings: mAP on the test recordings",
    "auto": "the model that `aicl-fast auto` finds against every single choice",
    "predictors": "what predicts a training's mAP on test recordings, of an auto's contest",
    "quantisation": "int8 and fp8 quantisers against float32",
    "ablation": "what `aicl-fast ablate` measured, as a record",
}
"""What ``aicl-fast bench`` measures, by module."""

TOOLS = {
    "all": "every suite that this machine can run, into one file",
    "report": "tables and pictures of a result file, and the documents that quote it",
    "compare": "what got slower or less accurate between two result files",
    "quote": "the recorded tables in the documents named",
}
"""What else ``aicl-fast bench`` does, by module."""


def module_of(name: str) -> str:
    """The module of a suite or a tool, whose ``main`` runs it."""
    return f"aicl_fast.bench.{'harness' if name in TOOLS else 'suites'}.{name}"
