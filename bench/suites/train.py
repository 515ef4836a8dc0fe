"""What a training step costs, against a reference: the same step in plain torch.

    python -m aicl_fast.bench train --json bench/results/train-cpu.json

At THUMOS14's size (batch 16, T 750, 2 x 1024 features) on random features: forward, losses, backward and
Adam. The contenders take turns in one process. Before anything is timed, their losses are compared; one whose
loss is another is not timed. On a GPU all of them may multiply float32 as tf32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aicl_fast.bench.baselines import train as reference_train
from aicl_fast.bench.harness import machine, suite
from aicl_fast.bench.harness.arguments import count
from aicl_fast.bench.harness.measure import Timing, take_turns
from aicl_fast.config import Config, load_config
from aicl_fast.model import TwoBranchNet
from aicl_fast.train.trainer import make_loss

BASELINE = "reference, float32"
AGREEMENT = 1e-3


def contenders(
    config: Config, features: Tensor, labels: Tensor, compiled: bool | None = None
) -> dict[str, Callable[[], Tensor]]:
    """Steps by name; each has weights of its own that begin alike, and returns its loss.

    Args:
        config: settings.
        features: (B, T, D).
        labels: (B, C).
        compiled: beside the baseline only those with torch.compile, or only those without; None: all.
    """
    variants = {
        BASELINE: None,
        "aicl_fast, float32": {},
        "aicl_fast, bfloat16": {"precision": "bf16"},
        "aicl_fast, bfloat16, compiled": {"precision": "bf16", "compile": True},
        "aicl_fast, float32, winograd, compiled": {"convolution": "winograd", "compile": True},
        "aicl_fast, bfloat16, winograd, compiled": {
            "precision": "bf16",
            "convolution": "winograd",
            "compile": True,
        },
    }
    return {
        name: _step(config, changes, features, labels)
        for name, changes in variants.items()
        if changes is None or compiled in (None, "compile" in changes)
    }


def _step(
    config: Config, changes: dict[str, Any] | None, features: Tensor, labels: Tensor
) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    net = TwoBranchNet(config).to(features.device)
    train = config.train
    # The reference takes Adam as it comes.
    optimizer = torch.optim.Adam(
        net.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=changes is not None
    )
    settings = config if changes is None else config.with_values(changes)
    loss = make_loss(net, settings)

    def step() -> Tensor:
        if changes is None:
            total = reference_train.total_loss(net, features, labels, config)
        else:
            total = loss(features, labels, None, None)[1]["total"]
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return total.detach()

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, and record where ``--json`` says."""
    parser = suite.parser(__doc__, seconds=120.0, threads=torch.get_num_threads(), device="cpu")
    parser.add_argument("--batch", type=count, default=16)
    parser.add_argument("--segments", type=count, default=750)
    rivals = parser.add_mutually_exclusive_group()
    rivals.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    rivals.add_argument("--compiled", action="store_true", help="torch.compile alone beside the reference")
    options = parser.parse_args(arguments)
    machine.require(options.device)
    torch.set_num_threads(options.threads)
    config = load_config("thumos14", overrides=[f"segments={options.segments}"])
    torch.manual_seed(1)
    features = torch.rand(options.batch, options.segments, config.data.input_width, device=options.device)
    labels = torch.zeros(options.batch, config.model.num_classes, device=options.device)
    labels[torch.arange(options.batch), torch.arange(options.batch) % config.model.num_classes] = 1

    chosen = True if options.compiled else False if options.no_compile else None
    steps = contenders(config, features, labels, chosen)
    wrong = disagreeing(steps)
    more = {"batch": options.batch, "segments": options.segments, "threads": options.threads}
    right = [name for name in steps if name not in {row["step"] for row in wrong}]
    if options.device != "cpu":
        steps = {name: _synchronized(step) for name, step in steps.items()}
        # What a program would set that wants the speed; the same for all.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = more["tf32"] = True

    rows: list[dict[str, Any]] = []

    def keep(timings: Mapping[str, Timing]) -> None:
        rows[:] = [
            {"step": name, **timing.row(), "steps_per_second": 1 / timing.median}
            for name, timing in timings.items()
        ]
        suite.record(options.json, "train", [*rows, *wrong], **more)

    chosen_steps = {name: steps[name] for name in right}
    timings = take_turns(chosen_steps, BASELINE, seconds=options.seconds, least=5, keep=keep)
    keep(timings)
    suite.show("train", [*rows, *wrong], **more)


def disagreeing(steps: Mapping[str, Callable[[], Tensor]]) -> list[dict[str, Any]]:
    """Take every first step in full float32, and give a row for each whose loss is not the baseline's."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        first = {name: float(step()) for name, step in steps.items()}
    rows = []
    for name, value in first.items():
        tolerance = AGREEMENT * (10 if "bfloat16" in name else 1)
        if not abs(value - first[BASELINE]) <= tolerance * abs(first[BASELINE]):
            why = f"its first loss is {value:.6g}, the reference's {first[BASELINE]:.6g}"
            rows.append({"step": name, "correct": False, "failed": why})
    return rows


def _synchronized(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def waiting() -> Tensor:
        total = step()
        torch.cuda.synchronize()
        return total

    return waiting
