"""ablate: an experiment of the paper, repeated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from aicl_fast.cli.console import note_missing, progress, show
from aicl_fast.cli.ending import resumed_by
from aicl_fast.cli.options import AllowMissing, Device, Settings, SettingsFile
from aicl_fast.errors import ConfigError
from aicl_fast.locks import locked_folder

if TYPE_CHECKING:
    from aicl_fast.config import Config
    from aicl_fast.train.ablate import Ablation, Experiment


@resumed_by("the same command resumes with the runs that are not finished")
def run(
    experiment: Annotated[
        str, Argument(help="losses, fusion, accuracy, consistency, selection or supervision.")
    ],
    data: Annotated[
        Path | None, Option("--data", "-d", help="Data set folder; the demo's recordings by default.")
    ] = None,
    preset: Annotated[
        str | None,
        Option(
            "--preset",
            "-p",
            help="thumos14, activitynet12, activitynet13 or own; own by default, and demo without --data.",
        ),
    ] = None,
    out: Annotated[
        Path | None, Option("--out", "-o", help="Folder for every run; runs/ablate-EXPERIMENT by default.")
    ] = None,
    seeds: Annotated[int, Option(min=1, help="Train each arm with this many seeds.")] = 3,
    config: SettingsFile = None,
    set_: Settings = None,
    device: Device = "cpu",
    allow_missing: AllowMissing = False,
) -> None:
    """Repeat an experiment of the paper: a table, a picture, and a record of every run.

    Started again, it resumes with the runs that are not finished.

    Examples:

      aicl-fast ablate supervision

      aicl-fast ablate losses --data THUMOS14 --preset thumos14 --seeds 3
    """
    from aicl_fast.config import load_config
    from aicl_fast.data.own_settings import chosen_config
    from aicl_fast.devices import torch_device
    from aicl_fast.plot.canvas import load_matplotlib
    from aicl_fast.train.ablate import find_experiment
    from aicl_fast.train.ablate.picture import plot_ablation

    wanted = find_experiment(experiment)
    load_matplotlib()  # missed before the training, not after it
    folder = Path(f"runs/ablate-{wanted.name}") if out is None else out
    if data is None:
        usual = "demo" if config is None else None
        settings = load_config(preset or usual, file=config, overrides=set_ or [])
    else:
        settings, origin = chosen_config(data, preset, config, set_ or [])
        if origin:
            show(origin)
    torch_device(device)
    if data is None and settings.preset != "demo":
        raise ConfigError(f"--data: the preset {settings.preset} needs its data set's folder.")
    with locked_folder(folder):
        ablation = _ablate(wanted, data, folder, seeds, settings, device, allow_missing=allow_missing)
        picture = folder / f"{wanted.name}.png"
        plot_ablation(ablation, picture)
    show(ablation_table(ablation))
    show(f"picture: {picture}\nresults: {folder / 'ablation.json'}")


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
