"""import-checkpoint, synthetic and ablate: a few lines each around the functions that do the work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from aicl_fast.cli.console import note_missing, out, progress
from aicl_fast.config import Config, load_config, parse_overrides
from aicl_fast.errors import ConfigError
from aicl_fast.locks import locked_folder

if TYPE_CHECKING:
    from aicl_fast.train.ablate import Ablation, Experiment


def run_import_checkpoint(
    checkpoint: Path, model: Path, preset: str, gt: Path | None, file: Path | None, overrides: list[str]
) -> None:
    """``aicl-fast import-checkpoint``."""
    from aicl_fast.data.annotations import GroundTruth
    from aicl_fast.train.import_checkpoint import import_checkpoint

    config = load_config(preset, file=file, overrides=overrides)
    if gt is not None:
        names = GroundTruth.load(gt).classes
        if len(names) != config.model.num_classes:
            raise ConfigError(
                f"--gt {gt}: has {len(names)} labels, and the preset {config.preset} "
                f"{config.model.num_classes} classes. Give the annotation file that the weights were trained "
                "with, or --set num_classes."
            )
        config = replace(config, classes=names)
    net = import_checkpoint(checkpoint, model, config)
    count = sum(value.numel() for value in net.parameters())
    out.print(
        f"{model}: {count / 1e6:.1f} M parameters, preset {config.preset}, {len(config.classes)} classes",
        highlight=False,
        soft_wrap=True,
    )


def run_synthetic(root: Path, overrides: list[str]) -> None:
    """``aicl-fast synthetic``."""
    from aicl_fast.train.synthetic import SyntheticConfig, write_synthetic

    config = SyntheticConfig.with_values(parse_overrides(overrides))
    with progress("generating") as bar:
        summary = write_synthetic(root, config, progress=bar)
    out.print(f"{root}: {summary}", highlight=False, soft_wrap=True)


def run_ablate(
    experiment: str,
    data: Path | None,
    preset: str | None,
    folder: Path | None,
    seeds: int,
    file: Path | None,
    overrides: list[str],
    device: str,
    *,
    allow_missing: bool,
) -> None:
    """``aicl-fast ablate``."""
    from aicl_fast.devices import torch_device
    from aicl_fast.plot.canvas import load_matplotlib
    from aicl_fast.train.ablate import find_experiment
    from aicl_fast.train.ablate.picture import plot_ablation

    wanted = find_experiment(experiment)
    load_matplotlib()  # missed before the training, not after it
    folder = Path(f"runs/ablate-{wanted.name}") if folder is None else folder
    if data is not None and preset is None and file is None:
        raise ConfigError(
            "--preset: say which settings fit --data (thumos14, activitynet12, …), or --config."
        )
    # A settings file may name its preset itself.
    chosen = preset or ("demo" if file is None else "thumos14")
    config = load_config(chosen, file=file, overrides=overrides)
    torch_device(device)
    if data is None and config.preset != "demo":
        raise ConfigError(f"--data: the preset {config.preset} needs its data set's folder.")
    with locked_folder(folder):
        ablation = _ablate(wanted, data, folder, seeds, config, device, allow_missing=allow_missing)
        picture = folder / f"{wanted.name}.png"
        plot_ablation(ablation, picture)
    out.print(ablation_table(ablation))
    out.print(f"picture: {picture}\nresults: {folder / 'ablation.json'}", highlight=False, soft_wrap=True)


def _ablate(
    experiment: Experiment,
    data: Path | None,
    folder: Path,
    seeds: int,
    config: Config,
    device: str,
    *,
    allow_missing: bool,
) -> Ablation:
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.train.ablate import run_ablation

    if data is None:
        from aicl_fast.train.watch import prepare_watch

        data = folder / "data"
        with progress("preparing") as bar:
            prepare_watch(data, progress=bar)
    dataset = Dataset.open(data, config, allow_missing=allow_missing)
    note_missing(dataset.missing, folder / "ablation.json")
    with progress("training") as bar:
        # One bar over all runs, in steps; a run that stops early jumps to its end.
        return run_ablation(
            dataset,
            experiment,
            folder,
            seeds=seeds,
            device=device,
            progress=lambda run, runs, name, step, steps, loss: bar(
                (run - 1) * steps + step, runs * steps, f"run {run} of {runs}: {name}, loss {loss:.3f}"
            ),
        )


def ablation_table(ablation: Ablation) -> Group:
    """One row an arm: mean ± spread in percent of each measure, and the paper's where they belong beside."""
    from aicl_fast.train.ablate.picture import NAMES

    experiment, seeds = ablation.experiment, len(ablation.seeds)
    what = f"mean of {seeds} seeds ± their standard deviation" if seeds > 1 else "one seed"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for measure in experiment.measures:
        table.add_column(NAMES[measure], justify="right")
        if _has_paper(ablation, measure):
            table.add_column("the paper's", justify="right", style="dim")
    for arm in ablation.arms:
        cells = [arm.name]
        for measure in experiment.measures:
            text = f"{100 * ablation.mean(arm, measure):.1f}"
            if seeds > 1:
                text += f" ± {100 * ablation.spread(arm, measure):.1f}"
            cells.append(text)
            if _has_paper(ablation, measure):
                cells.append(f"{100 * arm.paper[measure]:.1f}" if measure in arm.paper else "–")
        table.add_row(*cells)
    # A table's own title would be wrapped at the table's width.
    note = f"{ablation.data}; {ablation.config.train.steps} steps; {what}"
    return Group(Text(ablation.title, style="bold"), Text(note), table)


def _has_paper(ablation: Ablation, measure: str) -> bool:
    return ablation.with_paper and any(measure in arm.paper for arm in ablation.arms)
