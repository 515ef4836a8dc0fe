"""The state of a run on disk, so that it resumes exactly where it was cut off.

A checkpoint is a folder ``checkpoints/step_00000500`` that is made under another name and renamed when it is
complete: whatever moment a run is killed at, the newest folder of that name is whole. Tensors are
safetensors, the rest is JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor

from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import AiclError, ModelError
from aicl_fast.files import atomic_folder, read_json, write_json
from aicl_fast.limits import reading
from aicl_fast.model import TwoBranchNet
from aicl_fast.train.sampling import BatchOrder
from aicl_fast.train.schedules import learning_rate, selection_gamma
from aicl_fast.weights import load_model, load_tensors, save_model, save_tensors

_WEIGHTS = ("average", "teacher", "labelled_by", "best")
"""Attributes of :class:`State` that are the network's weights at other times."""
KEPT = 2
"""Checkpoints kept; older ones are removed."""
_ADVICE = "Remove the folder; the one before it is used then."
_LONGEST = 60
_FREE = ("steps", "eval_every", "save_every", "patience", "memory_gb", "compile")
"""Training settings that may differ when a run resumes; ``steps`` only where no schedule follows it."""


@dataclass
class State:
    """Everything that a training run changes as it goes."""

    net: TwoBranchNet
    optimizer: torch.optim.Optimizer
    order: BatchOrder
    data: dict[str, str] = field(default_factory=dict)
    """What the run is trained on, see :func:`fingerprint`."""
    step: int = 0
    average: dict[str, Tensor] | None = None
    """Moving average of the weights, if there is one."""
    teacher: dict[str, Tensor] | None = None
    """The teacher's moving average, if there is one (``train.self_training``, ``train.supervision``)."""
    labelled_by: dict[str, Tensor] | None = None
    """The teacher's weights when it last labelled the videos."""
    best: dict[str, Tensor] | None = None
    """Weights of the best evaluation so far, if the best are kept."""
    best_step: int = 0
    best_score: float = -1.0
    history: list[tuple[int, float]] = field(default_factory=list)
    """(step, average mAP) of every evaluation, on the videos that choose."""

    @property
    def waited(self) -> int:
        """Evaluations since the best one."""
        return sum(step > self.best_step for step, _ in self.history)


def save_checkpoint(folder: Path, state: State, config: Config) -> None:
    """Write ``folder/step_NNNNNNNN`` whole, then remove all but the newest :data:`KEPT`."""
    tensors = dict(_optimizer_tensors(state.optimizer))
    for name in _WEIGHTS:
        tensors.update({f"{name}.{key}": value for key, value in (getattr(state, name) or {}).items()})
    target = folder / f"step_{state.step:08d}"
    with atomic_folder(target) as whole:
        save_model(whole / "model.safetensors", state.net, config)
        save_tensors(whole / "trainer.safetensors", tensors)
        document = {
            "step": state.step,
            "order": state.order.state(),
            "best_step": state.best_step,
            "best_score": state.best_score,
            "history": state.history,
            "threads": torch.get_num_threads(),
            "data": state.data,
        }
        write_json(whole / "trainer.json", document)
        if target.exists():
            shutil.rmtree(target)
    for old in _complete(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's ``checkpoints`` folder, or None."""
    complete = _complete(folder)
    return complete[-1] if complete else None


def remove_unfinished(folder: Path) -> None:
    """Remove what processes left in a run's ``checkpoints`` folder that were killed while they saved."""
    for left in folder.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(checkpoint.name.partition("_")[2])


def fingerprint(
    dataset: Dataset, train: Sequence[str], held_out: Sequence[str], segments: Sequence[int]
) -> dict[str, str]:
    """Tells one run's data from another's, part by part. Features are taken as they are.

    Args:
        dataset: with the test videos.
        train, held_out: the training videos, divided.
        segments: the numbers of segments of those in ``train``.
    """
    parts: dict[str, list[Any]] = {
        "training videos": list(train),
        "their labels": [list(dataset.ground_truth.videos[name].labels) for name in train],
        "their numbers of segments": [int(count) for count in segments],
        "held-out videos": list(held_out),
        "test videos": list(dataset.videos["test"]),
    }
    if dataset.config.train.supervision != "videos":
        parts["their times"] = [dataset.ground_truth.videos[name].segments.tolist() for name in train]
    return {
        name: hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16] for name, values in parts.items()
    }


def load_checkpoint(path: Path, state: State, config: Config) -> None:
    """Put a checkpoint's contents into ``state``, on the device of its network.

    Warns where torch has another number of threads than it had: the run does not resume bit for bit then.

    Raises:
        ModelError: it is damaged, or of a run with other settings or other data; what differs is named.
    """
    device = next(state.net.parameters()).device
    with reading(path, "checkpoint", error=ModelError, advice=_ADVICE):
        try:
            net, stored = load_model(path / "model.safetensors")
            document = read_json(path / "trainer.json", "checkpoint's record")
            tensors = load_tensors(path / "trainer.safetensors")
        except AiclError as error:
            raise ModelError(f"{path}: the checkpoint is damaged ({error}). {_ADVICE}") from error
        data, threads = dict(document["data"]), int(document["threads"])
        step, order = int(document["step"]), document["order"]
        best_step, best_score = int(document["best_step"]), float(document["best_score"])
        history = [(int(step), float(score)) for step, score in document["history"]]
        if step != step_of(path):
            raise ValueError(f"its record is of step {step}")
    _check_same(stored, config, path)
    _check_data(data, state.data, path)
    with reading(path, "checkpoint", error=ModelError, advice=_ADVICE):
        _check_tensors(tensors, state)
        state.net.load_state_dict(net.state_dict())
        _restore_optimizer(state.optimizer, tensors)
        _restore_order(state.order, order)
    for name in _WEIGHTS:
        found = {k.partition(".")[2]: v.to(device) for k, v in tensors.items() if k.startswith(f"{name}.")}
        setattr(state, name, found or None)
    state.step, state.history = step, history
    state.best_step, state.best_score = best_step, best_score
    if device.type == "cpu" and threads != torch.get_num_threads():
        warnings.warn(
            f"{path}: was written with {threads} threads, and torch has {torch.get_num_threads()} now: the "
            "weights will not be those of an uninterrupted run, bit for bit. Set OMP_NUM_THREADS for the "
            "same number.",
            RuntimeWarning,
            stacklevel=2,
        )


def _complete(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name, re.ASCII))
    return sorted(found, key=step_of)


def _check_tensors(tensors: dict[str, Tensor], state: State) -> None:
    """Refuse tensors that are not of this network's weights, each by its name, shape and type."""
    weights = state.net.state_dict()
    expected = {f"{kind}.{name}": value for kind in _WEIGHTS for name, value in weights.items()}
    moments = {"exp_avg", "exp_avg_sq", "step"}
    parameters = [each for group in state.optimizer.param_groups for each in group["params"]]
    for number, value in enumerate(parameters):
        expected |= {f"optimizer.{number}.{name}": value for name in moments - {"step"}}
        expected[f"optimizer.{number}.step"] = torch.zeros(())
    for name, value in tensors.items():
        wanted = expected.get(name)
        if wanted is None or (value.shape, value.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{name}: {value.dtype} of shape {tuple(value.shape)} is not of this network")
    # All of a kind, or none: a weight that no loss trains has no moments.
    groups = [{f"{kind}.{name}" for name in weights} for kind in _WEIGHTS]
    groups += [{f"optimizer.{number}.{name}" for name in moments} for number in range(len(parameters))]
    for group in groups:
        missing = group - tensors.keys()
        if missing and missing != group:
            raise ValueError(f"{min(missing)} is missing")


def _restore_order(order: BatchOrder, stored: dict[str, Any]) -> None:
    position, numbers = int(stored["position"]), sorted(int(number) for number in stored["order"])
    if position < 0 or numbers not in ([], list(range(order.count))):
        raise ValueError("its order is not one of the training videos")
    order.restore(stored)


def _check_data(before: dict[str, str], now: dict[str, str], path: Path) -> None:
    differing = [name for name, value in now.items() if before.get(name) != value]
    if differing:
        raise ModelError(
            f"{path}: the run was started with other data: {', '.join(differing)} differ. Go on with the "
            "same data, or start another run in another folder."
        )


def _check_same(stored: Config, config: Config, path: Path) -> None:
    before, now = stored.to_dict(), config.to_dict()
    scheduled = _steps_matter(stored, config)
    for name in _FREE:
        if name == "steps" and scheduled:
            continue
        before["train"].pop(name, None)
        now["train"].pop(name, None)
    differing: list[str] = []
    for section, values in now.items():
        pairs = (
            [(f"{section}.{name}", before[section].get(name), value) for name, value in values.items()]
            if isinstance(values, dict)
            else [(section, before[section], values)]
        )
        differing += [
            f"{name} was {_short(old)}, now {_short(new)}" for name, old, new in pairs if old != new
        ]
    if differing:
        hint = " A schedule runs over all steps, so they cannot change midway." * scheduled
        raise ModelError(
            f"{path}: the run was started with other settings: {'; '.join(differing)}. Go on with the same "
            f"ones, or start another run in another folder.{hint}"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _steps_matter(stored: Config, config: Config) -> bool:
    """Whether the new number of steps alone makes steps that both have other ones: a schedule over all."""
    if stored.train.supervision == "points" or stored.train.self_training:
        return True  # the teacher begins after a share of them
    longer = replace(stored, train=replace(stored.train, steps=config.train.steps))
    every = range(1, min(stored.train.steps, config.train.steps) + 1)
    return any(
        learning_rate(step, stored.train) != learning_rate(step, longer.train)
        or selection_gamma(step, stored) != selection_gamma(step, longer)
        for step in every
    )


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    entries: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, values in entries.items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            number, _, name = rest.partition(".")
            entries.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
