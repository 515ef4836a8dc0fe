"""auto: from labels to the best model there is, in one command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.box import SIMPLE_HEAD
from typer import Argument, Option

from aicl_fast.cli.console import note, note_missing, progress, show, titled_table
from aicl_fast.cli.ending import resumed_by
from aicl_fast.cli.options import AllowMissing, Device, Settings, SettingsFile, require_other_folder
from aicl_fast.cli.train import complete_run, show_run
from aicl_fast.locks import locked_folder

if TYPE_CHECKING:
    from rich.table import Table

    from aicl_fast.data.dataset import Dataset
    from aicl_fast.train.auto import Contest, Entry
    from aicl_fast.train.trainer import TrainResult


@resumed_by("the same command resumes with what is not finished")
def run(
    data: Annotated[Path, Argument(help="Data set folder (features/, gt.json, split_*.txt).")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for the model and every training.")] = Path(
        "runs/auto"
    ),
    minutes: Annotated[
        float | None, Option(help="Start no training that would end later; no limit by default.")
    ] = None,
    processes: Annotated[int, Option("--processes", "-j", min=1, help="Trainings at the same time.")] = 1,
    seeds: Annotated[int, Option(min=1, help="Members of the ensemble; 1 makes none.")] = 3,
    preset: Annotated[
        str | None, Option("--preset", "-p", help="Settings that the trainings change; own by default.")
    ] = None,
    config: SettingsFile = None,
    set_: Settings = None,
    device: Device = "cpu",
    allow_missing: AllowMissing = False,
) -> None:
    """Find the best model for a data set: several trainings, compared on recordings that are held out.

    Training recordings alone decide. A setting that --set names is not tried otherwise. Started again, it
    resumes with what is not finished.

    Examples:

      aicl-fast auto DATA --out runs/best

      aicl-fast auto DATA --out runs/best --minutes 30 --processes 4
    """
    from aicl_fast.config import locate_setting, parse_overrides
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.data.own_settings import chosen_config
    from aicl_fast.devices import torch_device
    from aicl_fast.plot.canvas import load_matplotlib
    from aicl_fast.train.auto import find_model
    from aicl_fast.train.auto.picture import plot_contest

    torch_device(device)
    load_matplotlib()
    require_other_folder(data, out)
    settings, origin = chosen_config(data, preset, config, set_ or [])
    fixed = {".".join(locate_setting(name)) for name in parse_overrides(set_ or [])}
    dataset = Dataset.open(data, settings, allow_missing=allow_missing, may_lack_test=True)
    if origin:
        show(origin)
    note_missing(dataset.missing, out / "metrics.json")
    with locked_folder(out):
        with progress("training") as bar:
            found = find_model(
                dataset,
                out,
                fixed=fixed,
                minutes=minutes,
                processes=processes,
                seeds=seeds,
                device=device,
                progress=lambda name, done, total: bar(done, total, name),
            )
        picture = plot_contest(found, out / "contest.png")
        measured = _measured(found, dataset)
        complete_run(out, dataset, measured)
        exported = _exported(found.weights)
    show(contest_table(found))
    show(chosen_lines(found))
    show(f"picture: {picture}")
    if exported is not None:
        show(f"exported: {exported}")
    show_run(out, measured)


def _measured(found: Contest, dataset: Dataset) -> TrainResult:
    """The model with what it is worth on the test recordings, which chose nothing."""
    from aicl_fast.train.sampling import Videos
    from aicl_fast.train.trainer import TrainResult, evaluate
    from aicl_fast.weights import load_model

    net, config = load_model(found.weights)
    measured = None
    if dataset.truth("test").classes:
        tested = replace(dataset, config=config)
        measured = evaluate(net, Videos(tested, "test"), tested)
    return TrainResult(net, config, config.train.steps, measured, [])


def _exported(weights: Path) -> Path | None:
    from aicl_fast.errors import UnavailableError
    from aicl_fast.export.export import export_model

    try:
        return export_model(weights)
    except UnavailableError as error:
        note(f"not exported: {error}")
        return None


def contest_table(found: Contest) -> Table:
    """A line for every training, the best of each round first."""
    by = "times" if found.held.timed else "agreement"
    title = f"{len(found.held.videos)} training recordings held out, judged by {by}"
    table = titled_table(title, box=SIMPLE_HEAD)
    for name in (
        "training",
        "round",
        "steps",
        "mAP (%)" if found.held.timed else "agreement (%)",
        "behind",
        "s",
    ):
        table.add_column(name, justify="left" if name in ("training", "round") else "right")
    for entry in found.ranked():
        table.add_row(
            entry.candidate.name,
            "another seed" if entry.round == "seeds" else entry.round,
            str(entry.steps),
            f"{100 * entry.judgement.value:.1f}",
            _behind(entry, found.best),
            f"{entry.seconds:.0f}",
        )
    return table


def _behind(entry: Entry, best: Entry) -> str:
    if entry is best:
        return f"± {100 * entry.judgement.error():.1f}"
    difference = 100 * (best.judgement.value - entry.judgement.value)
    return f"{difference:.1f} ± {100 * entry.judgement.error(best.judgement):.1f}"


def chosen_lines(found: Contest) -> str:
    """What was chosen and what it is made of."""
    changes = ", ".join(
        f"{name.partition('.')[2]}={value}" for name, value in found.best.candidate.changes.items()
    )
    lines = [f"chosen: {found.best.candidate.name}" + (f" ({changes})" if changes else "")]
    if found.retrained:
        members = len(found.members)
        what = "one training" if members == 1 else f"an ensemble of {members} trainings"
        lines.append(f"model: {what} on all training recordings")
    else:
        lines.append("model: the best training of the contest; there was no time to train on all recordings")
    if found.held.timed:
        lines.append("γ and decoding: chosen on the recordings that were held out (auto.json lists them)")
    else:
        lines.append("γ and decoding: as configured, since no times say otherwise")
    if found.skipped:
        lines.append(f"not tried for lack of time: {', '.join(found.skipped)}")
    return "\n".join(lines)
