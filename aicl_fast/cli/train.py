"""train: a model from video-level labels."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from aicl_fast.cli.console import note, note_missing, progress, remark, result_table, show
from aicl_fast.cli.ending import resumed_by
from aicl_fast.cli.options import AllowMissing, Device, Settings, SettingsFile, require_other_folder
from aicl_fast.errors import DataError
from aicl_fast.files import write_json
from aicl_fast.locks import locked_folder

if TYPE_CHECKING:
    from aicl_fast.config import Config
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.train.trainer import Measured, TrainResult


@resumed_by("run the same command with --resume to resume from the last checkpoint")
def run(
    data: Annotated[Path, Option("--data", "-d", help="Data set folder (features/, gt.json, split_*.txt).")],
    preset: Annotated[
        str | None,
        Option(
            "--preset",
            "-p",
            help="thumos14, activitynet12, activitynet13, demo or own; own by default, with what --data's "
            "features say.",
        ),
    ] = None,
    out: Annotated[Path, Option("--out", "-o", help="Folder for the model and the logs.")] = Path(
        "runs/train"
    ),
    config: SettingsFile = None,
    set_: Settings = None,
    device: Device = "cpu",
    resume: Annotated[bool, Option("--resume", help="Resume from the newest checkpoint in --out.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Throw away the run that --out holds.")] = False,
    allow_missing: AllowMissing = False,
    seeds: Annotated[
        int, Option(min=1, help="Train so many, from train.seed on, and merge them into one model.")
    ] = 1,
) -> None:
    """Train a model on a data set's video-level labels.

    Several processes: torchrun --nproc-per-node N -m aicl_fast.train, with these same options.

    Examples:

      aicl-fast train --preset thumos14 --data THUMOS14 --out runs/thumos14

      aicl-fast train --data DATA --out runs/own --seeds 3

      aicl-fast train -p demo -d runs/demo/data --set steps=300 --set lr=3e-4
    """
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.data.own_settings import chosen_config
    from aicl_fast.devices import torch_device

    require_other_folder(data, out)
    torch_device(device)
    settings, origin = chosen_config(data, preset, config, set_ or [])
    dataset = Dataset.open(data, settings, allow_missing=allow_missing, may_lack_test=True)
    main = os.environ.get("RANK", "0") == "0"
    if main:
        if origin:
            show(origin)
        counts = ", ".join(f"{len(videos)} {split}" for split, videos in dataset.videos.items())
        show(f"{data}: {counts} videos, {len(dataset.config.classes)} classes")
        note_missing(dataset.missing, out / "metrics.json")
        _show_points(dataset)

    # Until the metrics are written, too.
    with locked_folder(out) if main else nullcontext():
        if seeds == 1:
            result = _train(dataset, out, device, resume=resume, overwrite=overwrite, main=main)
        else:
            result = _train_ensemble(
                dataset, out, device, seeds, resume=resume, overwrite=overwrite, main=main
            )
        if main:
            complete_run(out, dataset, result)
    if main:
        show_run(out, result)


def _show_points(dataset: Dataset) -> None:
    """How many of the training annotations are points, and whether they are used."""
    counts = [int(dataset.ground_truth.videos[name].points.sum()) for name in dataset.videos["train"]]
    if not any(counts):
        return
    text = f"{sum(counts)} points in {sum(count > 0 for count in counts)} training videos"
    if dataset.config.train.supervision == "videos":
        note(f"{text} are not used; --set supervision=points uses them")
    else:
        show(text)


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
                where = f"resuming from step {step}" if step else "starting at step 0, there is no checkpoint"
                remark(f"{folder}: {where}")
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
            evaluated=lambda step, measured: remark(f"step {step}: {_summary(measured)}"),
        )


def _train_ensemble(
    dataset: Dataset, folder: Path, device: str, seeds: int, *, resume: bool, overwrite: bool, main: bool
) -> TrainResult:
    """Train one model a seed, each in a folder of its own, and merge them."""
    from aicl_fast.train.ensemble import merge_networks
    from aicl_fast.train.sampling import Videos
    from aicl_fast.train.trainer import TrainResult, evaluate
    from aicl_fast.weights import save_model

    target = folder / "model.safetensors"
    if target.exists() and not (resume or overwrite):
        raise DataError(f"{folder}: holds a run. Give --resume, --overwrite, or another --out.")
    first = dataset.config.train.seed
    members = []
    for seed in range(first, first + seeds):
        config = replace(dataset.config, train=replace(dataset.config.train, seed=seed))
        each = replace(dataset, config=config)
        place = folder / f"seed-{seed}"
        result = _train(each, place, device, resume=resume, overwrite=overwrite, main=main)
        members.append((place, result))
        if main and result.measured is not None:
            remark(f"{place}: {_summary(result.measured)}")
    net, config = merge_networks(
        [(result.net, result.config) for _, result in members], [str(place) for place, _ in members]
    )
    if not main:
        return members[-1][1]
    save_model(target, net, config)
    measured = replace(dataset, config=config)
    last = members[-1][1]
    found = None if last.measured is None else evaluate(net, Videos(measured, "test"), measured)
    return TrainResult(net, config, last.step, found, [], 0)


def complete_run(folder: Path, dataset: Dataset, result: TrainResult) -> None:
    """Write what the other commands read of a run: its figures, and what was found in the test videos."""
    from aicl_fast.report import write_run

    write_metrics(folder / "metrics.json", dataset, result)
    measured = result.measured
    if measured is not None:
        write_run(folder, dataset.truth(list(measured.scores)), measured.scores, measured.detections)


def show_run(folder: Path, result: TrainResult) -> None:
    """What was measured on the test videos, or why nothing was; the model; and the next command."""
    measured, model = result.measured, folder / "model.safetensors"
    if measured is None:
        show("no test video has a label, so nothing was measured")
        show(f"model: {model}\nnext: aicl-fast export {shlex.quote(str(model))}")
        return
    if measured.localization is not None:
        leak = leak_note(result.config, result.history)
        show(result_table(f"Step {result.step}{leak}", "test videos", measured.localization))
    else:
        show("no test video has times, so only the video scores were measured")
    classification = measured.classification
    show(
        f"video scores: mAP {classification.mAP:.1%}, accuracy {classification.accuracy:.1%} of "
        f"{classification.videos} test videos"
    )
    show(f"model: {model}\nnext: aicl-fast report {shlex.quote(str(folder))}")


def _summary(measured: Measured) -> str:
    if measured.localization is not None:
        return f"average mAP {measured.localization.average:.1%}"
    return f"mAP of the video scores {measured.classification.mAP:.1%}"


def write_metrics(file: Path, dataset: Dataset, result: TrainResult) -> None:
    """What was measured on the test videos, as far as they allow, and the settings."""
    measured = result.measured
    localization = measured.localization if measured else None
    accuracy = measured.accuracy if measured else None
    document = {
        **(localization.to_dict() if localization else {}),
        **({"accuracy_A_bin": accuracy.aware, "accuracy_A_ca_bin": accuracy.agnostic} if accuracy else {}),
        **({"video_scores": measured.classification.to_dict()} if measured else {}),
        "step": result.step,
        "keep": result.config.train.keep,
        "history": [{"step": step, "average_mAP": average} for step, average in result.history],
        "missing": list(dataset.missing),
        "config": result.config.to_dict(),
    }
    write_json(file, document)


def leak_note(config: Config, history: list[tuple[int, float]]) -> str:
    """What a title says of weights that evaluations on the test videos chose."""
    by_test = config.train.keep == "test" and history
    return " (chosen by test mAP, which is optimistic)" if by_test else ""
