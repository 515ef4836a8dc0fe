"""The state of a run on disk, so that it goes on exactly where it was cut off.

A checkpoint is a folder ``checkpoints/step_00000500`` that is made under another name and renamed when it is
complete: whatever moment a run is killed at, the newest folder of that name is whole. Tensors are
safetensors, the rest is JSON.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aicl_fast.config import Config
from aicl_fast.errors import ModelError
from aicl_fast.files import read_json, write_json
from aicl_fast.model import TwoBranchNet
from aicl_fast.train.sampling import BatchOrder
from aicl_fast.weights import load_model, save_model

KEPT = 2
"""Checkpoints kept; older ones are removed."""
_FREE = ("steps", "eval_every", "save_every", "patience", "memory_gb", "compile")
"""Training settings that may differ when a run goes on."""


@dataclass
class State:
    """Everything that a training run changes as it goes."""

    net: TwoBranchNet
    optimizer: torch.optim.Optimizer
    order: BatchOrder
    step: int = 0
    average: dict[str, Tensor] | None = None
    """Moving average of the weights, if there is one."""
    best: dict[str, Tensor] | None = None
    """Weights of the best evaluation so far, if the best are kept."""
    best_step: int = 0
    best_score: float = -1.0
    history: list[tuple[int, float]] = field(default_factory=list)
    """(step, average mAP) of every evaluation, on the videos that choose."""


def save_checkpoint(folder: Path, state: State, config: Config) -> None:
    """Write ``folder/step_NNNNNNNN`` whole, then remove all but the newest :data:`KEPT`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(_optimizer_tensors(state.optimizer))
    for name, group in (("average", state.average), ("best", state.best)):
        tensors.update({f"{name}.{key}": value for key, value in (group or {}).items()})
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as scratch:
        whole = Path(scratch) / "step"
        whole.mkdir()
        save_model(whole / "model.safetensors", state.net, config)
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, whole / "trainer.safetensors"
        )
        document = {
            "step": state.step,
            "order": state.order.state(),
            "best_step": state.best_step,
            "best_score": state.best_score,
            "history": state.history,
            "threads": torch.get_num_threads(),
        }
        write_json(whole / "trainer.json", document)
        target = folder / f"step_{state.step:08d}"
        if target.exists():
            shutil.rmtree(target)
        os.replace(whole, target)
    for old in _complete(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's ``checkpoints`` folder, or None."""
    complete = _complete(folder)
    return complete[-1] if complete else None


def load_checkpoint(path: Path, state: State, config: Config) -> None:
    """Put a checkpoint's contents into ``state``.

    Raises:
        ModelError: it is damaged, or of a run with other settings; the settings that differ are named.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    net, stored = load_model(path / "model.safetensors")
    _check_same(stored, config, path)
    document = read_json(path / "trainer.json", "checkpoint's record")
    try:
        tensors = load_file(path / "trainer.safetensors")
        state.net.load_state_dict(net.state_dict())
        _restore_optimizer(state.optimizer, tensors)
        for name in ("average", "best"):
            found = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{name}.")}
            setattr(state, name, found or None)
        state.step = int(document["step"])
        state.order.restore(document["order"])
        state.best_step, state.best_score = int(document["best_step"]), float(document["best_score"])
        state.history = [(int(step), float(score)) for step, score in document["history"]]
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise ModelError(
            f"{path}: the checkpoint is damaged ({error}). Remove the folder; the one before it is used then."
        ) from error


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_????????"))


def _check_same(stored: Config, config: Config, path: Path) -> None:
    before, now = stored.to_dict(), config.to_dict()
    for name in _FREE:
        before["train"].pop(name, None)
        now["train"].pop(name, None)
    differing: list[str] = []
    for section, values in now.items():
        if isinstance(values, dict):
            differing += [f"{section}.{k}" for k, v in values.items() if before[section].get(k) != v]
        elif before[section] != values:
            differing.append(section)
    if differing:
        raise ModelError(
            f"{path}: the run was started with other settings: {', '.join(differing)} differ. Go on with the "
            "same ones, or start another run in another folder."
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
