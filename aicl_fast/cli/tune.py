"""tune: the fusion's γ and the decoding's settings, chosen on annotated recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.box import SIMPLE_HEAD
from typer import Argument, Option

from aicl_fast.cli.console import note, note_missing, progress, show, titled_table
from aicl_fast.cli.options import AllowMissing
from aicl_fast.errors import ConfigError
from aicl_fast.extras import needs
from aicl_fast.files import require_file, require_place

if TYPE_CHECKING:
    from rich.table import Table

    from aicl_fast.config import Config
    from aicl_fast.tune import Tuned

_WEIGHTS, _ONNX = ".safetensors", ".onnx"
_BOTH = 0.5
"""A γ that shows both branches."""


def run(
    model: Annotated[Path, Argument(help="Weights (.safetensors), or an exported .onnx.")],
    data: Annotated[Path, Option("--data", "-d", help="Data set folder with annotated times.")],
    split: Annotated[str, Option(help="Whose recordings are used: train or test.")] = "train",
    share: Annotated[
        float, Option(min=0, max=1, help="Of the recordings with times, how many are used.")
    ] = 1.0,
    trials: Annotated[int, Option(min=3, help="Of each search.")] = 150,
    folds: Annotated[int, Option(min=2, help="Of the cross-validation.")] = 5,
    seed: Annotated[int, Option(min=0, help="Of the folds and the searches.")] = 0,
    out: Annotated[
        Path | None, Option("--out", "-o", help="The tuned model; the model itself by default.")
    ] = None,
    picture: Annotated[Path | None, Option(help="A picture of what mattered (.png, .svg or .pdf).")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Write no model.")] = False,
    force: Annotated[
        bool, Option("--force", help="Write the model even if recordings that were left out gain nothing.")
    ] = False,
    allow_missing: AllowMissing = False,
) -> None:
    """Choose the fusion's γ and the decoding's settings on recordings whose times are annotated.

    The search is repeated without each fold of the recordings, which is then decoded with what it chose: the
    mAP reported is of recordings that were left out. An exported file is tuned in its decoding only.

    Examples:

      aicl-fast tune runs/own/model.safetensors --data DATA

      aicl-fast tune model.onnx --data DATA --share 0.2 --picture tune.png --dry-run
    """
    with needs("tune", "tuning"):
        import optuna  # noqa: F401  before the recordings are scored
    import numpy as np

    from aicl_fast.data.dataset import SPLITS, Dataset
    from aicl_fast.detector import Detector
    from aicl_fast.tune import collect_curves, timed_videos, tune, weights_curves

    if split not in SPLITS:
        raise ConfigError(f"--split: expected train or test, got {split!r}.")
    source = require_file(model, "model file")
    suffix = source.suffix.lower()
    target = out if out is not None else source
    if not dry_run:
        _check_target(source, target)
    if picture is not None:
        from aicl_fast.plot.canvas import load_matplotlib, picture_path

        picture_path(picture)
        load_matplotlib()
    gamma = suffix == _WEIGHTS
    config = _config(source)
    dataset = Dataset.open(data, config, splits=[split], allow_missing=allow_missing)
    note_missing(dataset.missing, None)
    truth = dataset.truth(split)
    timed = timed_videos(truth)
    without = len(truth.videos) - len(timed)
    if without:
        note(f"{without} recordings have labels without times, and are left out")
    if split == "test":
        note("what is measured on the test recordings afterwards is optimistic: they chose the settings")
    drawn = np.random.default_rng(seed).permutation(len(timed))[: round(share * len(timed))]
    videos = [timed[i] for i in sorted(drawn.tolist())]
    with progress("scoring") as bar:
        if gamma:
            curves = weights_curves(source, dataset, split, videos, bar)
        else:
            with Detector(source) as detector:
                curves = collect_curves(detector, dataset, split, videos, bar)
    with progress("tuning") as bar:
        tuned = tune(
            curves, truth, dataset.config, gamma=gamma, trials=trials, folds=folds, seed=seed, progress=bar
        )
    show(_settings_table(tuned))
    show(_result_lines(tuned))
    if not gamma:
        note("an exported file keeps its γ: tune the weights to choose that, too")
    if picture is not None:
        from aicl_fast.plot.tuning import plot_tuning

        show(f"picture: {plot_tuning(tuned, picture)}")
    if dry_run:
        return
    if tuned.gain <= 0 and not force:
        note(f"recordings that were left out gain nothing, so {source} stays as it is (--force writes it)")
        return
    _write(source, target, tuned.config)
    show(f"model: {target}")


def _check_target(source: Path, target: Path) -> None:
    suffix = source.suffix.lower()
    if suffix not in (_WEIGHTS, _ONNX):
        raise ConfigError(
            f"{source}: settings are written into weights (.safetensors) and .onnx files alone. Tune the "
            "weights and export again, or give --dry-run."
        )
    if target.suffix.lower() != suffix:
        raise ConfigError(f"--out {target}: expected a name that ends in {suffix}, as the model's.")
    require_place(target)


def _config(source: Path) -> Config:
    """The settings that a model carries."""
    if source.suffix.lower() == _WEIGHTS:
        from aicl_fast.weights import load_model

        return load_model(source)[1]
    from aicl_fast.detector import Detector

    with Detector(source) as detector:
        return detector.config


def _write(source: Path, target: Path, config: Config) -> None:
    """The model with other settings, whole or not at all."""
    if source.suffix.lower() == _WEIGHTS:
        from aicl_fast.weights import load_model, save_model

        net, stored = load_model(source)
        save_model(target, net, replace(stored, decode=config.decode, model=config.model))
        return
    from aicl_fast.export.onnx import replace_decoding

    replace_decoding(source, target, config.decode)


def _settings_table(tuned: Tuned) -> Table:
    table = titled_table("Settings, the most important first", box=SIMPLE_HEAD)
    for name in ("setting", "before", "chosen", "over the folds", "importance"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for choice in tuned.choices:
        table.add_row(
            choice.name,
            _written(choice.before),
            _written(choice.after),
            _spread(choice.folds),
            f"{choice.importance:.2f}",
        )
    return table


def _result_lines(tuned: Tuned) -> str:
    import numpy as np

    before, held_out = 100 * np.array(tuned.before), 100 * np.array(tuned.held_out)
    gains = held_out - before
    return (
        f"average mAP of {tuned.videos} recordings with {tuned.instances} instances, mean over "
        f"{len(gains)} folds:\n"
        f"  {before.mean():.1f} % with the settings as they were\n"
        f"  {held_out.mean():.1f} % with those chosen without the fold: {gains.mean():+.1f} "
        f"({gains.min():+.1f} to {gains.max():+.1f})\n"
        f"  {100 * tuned.searched:.1f} % on the recordings that chose, which is optimistic"
    )


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _spread(values: tuple[Any, ...]) -> str:
    if all(isinstance(value, (int, float)) for value in values):
        low, high = min(values), max(values)
        return _written(low) if low == high else f"{_written(low)} to {_written(high)}"
    return ", ".join(dict.fromkeys(map(_written, values)))
