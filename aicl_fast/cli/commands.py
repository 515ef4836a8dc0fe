"""train and bench: a few lines each around the functions that do the work."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aicl_fast.cli.console import err, note_missing, out, progress, result_table
from aicl_fast.config import Config, load_config
from aicl_fast.errors import ConfigError
from aicl_fast.extras import needs
from aicl_fast.files import write_json
from aicl_fast.locks import locked_folder

if TYPE_CHECKING:
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.train.trainer import TrainResult


def run_train(
    data: Path,
    preset: str,
    folder: Path,
    file: Path | None,
    overrides: list[str],
    device: str,
    *,
    resume: bool,
    overwrite: bool,
    allow_missing: bool,
) -> None:
    """``aicl-fast train``."""
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.devices import torch_device

    config = load_config(preset, file=file, overrides=overrides)
    torch_device(device)
    dataset = Dataset.open(data, config, allow_missing=allow_missing)
    main = os.environ.get("RANK", "0") == "0"
    if main:
        counts = ", ".join(f"{len(videos)} {split}" for split, videos in dataset.videos.items())
        out.print(
            f"{data}: {counts} videos, {len(dataset.config.classes)} classes", highlight=False, soft_wrap=True
        )
        note_missing(dataset.missing, folder / "metrics.json")

    # Until the metrics are written, too.
    with locked_folder(folder) if main else contextlib.nullcontext():
        result = _train(dataset, folder, device, resume=resume, overwrite=overwrite, main=main)
        if main:
            _write_metrics(folder / "metrics.json", dataset, result)
    if main:
        leak = leak_note(result.config, result.history)
        out.print(result_table(f"Step {result.step}{leak}", "test videos", result.result))
        out.print(f"model: {folder / 'model.safetensors'}", highlight=False, soft_wrap=True)


def _train(
    dataset: Dataset, folder: Path, device: str, *, resume: bool, overwrite: bool, main: bool
) -> TrainResult:
    from aicl_fast.train.trainer import train

    with (
        # Neither is drawn before the trainer has found nothing to refuse.
        progress("reading", show=main, lazy=True) as reading,
        progress("training", show=main, lazy=True) as bar,
    ):

        def starting(step: int) -> None:
            if main and resume:
                where = f"going on from step {step}" if step else "starting anew, no checkpoint is there"
                err.print(f"{folder}: {where}", highlight=False, soft_wrap=True)
            bar(step, dataset.config.train.steps)

        return train(
            dataset,
            folder,
            device=device,
            resume=resume,
            overwrite=overwrite,
            reading=reading,
            starting=starting,
            training=lambda step, steps, loss: bar(step, steps, f"loss {loss:.3f}"),
        )


def _write_metrics(file: Path, dataset: Dataset, result: TrainResult) -> None:
    document = {
        **result.result.to_dict(),
        "accuracy_A_bin": result.accuracy.aware,
        "accuracy_A_ca_bin": result.accuracy.agnostic,
        "step": result.step,
        "keep": result.config.train.keep,
        "history": [{"step": step, "average_mAP": average} for step, average in result.history],
        "missing": list(dataset.missing),
        "config": result.config.to_dict(),
    }
    write_json(file, document)


def leak_note(config: Config, history: list[tuple[int, float]]) -> str:
    """What a title says of weights that evaluations on the test videos chose."""
    chosen = config.train.keep == "test" and history
    return " (chosen by test mAP, which is optimistic)" if chosen else ""


def run_bench(name: str, arguments: list[str]) -> None:
    """``aicl-fast bench``."""
    import importlib
    import sys

    from aicl_fast.bench import SUITES, TOOLS

    every = {**SUITES, **TOOLS}
    if name not in every:
        listed = "".join(f"\n  {each:10} {what}" for each, what in every.items())
        raise ConfigError(f"there is no suite {name!r}. There are:{listed}")
    sys.argv = [f"aicl-fast bench {name}", *arguments]
    with needs("dev", f"aicl-fast bench {name}"):
        code = importlib.import_module(f"aicl_fast.bench.{name}").main(arguments)
    if code:
        sys.exit(code)
