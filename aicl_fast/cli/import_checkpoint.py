"""import-checkpoint: weights of the authors' program to a model file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from aicl_fast.cli.console import show
from aicl_fast.cli.options import Preset, Settings, SettingsFile
from aicl_fast.errors import ConfigError
from aicl_fast.files import inputs_kept


@inputs_kept()
def run(
    checkpoint: Annotated[Path, Argument(help="The authors' file (CAS_Only.pkl).")],
    model: Annotated[Path, Argument(help="File to write (model.safetensors).")],
    preset: Preset = "thumos14",
    gt: Annotated[
        Path | None, Option("--gt", help="Annotation file whose labels, sorted, are the classes.")
    ] = None,
    config: SettingsFile = None,
    set_: Settings = None,
) -> None:
    """Turn weights of the authors' program into a model file.

    The presets of ActivityNet have no class names: give them by --gt, --set classes=… or --config.

    Examples:

      aicl-fast import-checkpoint CAS_Only.pkl model.safetensors

      aicl-fast import-checkpoint CAS_Only.pkl model.safetensors -p activitynet12 --gt ActivityNet12/gt.json
    """
    from aicl_fast.config import load_config
    from aicl_fast.data.annotations import GroundTruth
    from aicl_fast.train.import_checkpoint import import_checkpoint

    settings = load_config(preset, file=config, overrides=set_ or [])
    if gt is not None:
        names = GroundTruth.load(gt).classes
        if len(names) != settings.model.num_classes:
            raise ConfigError(
                f"--gt {gt}: has {len(names)} labels, and the preset {settings.preset} "
                f"{settings.model.num_classes} classes. Give the annotation file that the weights were "
                "trained with, or --set num_classes."
            )
        settings = replace(settings, classes=names)
    net = import_checkpoint(checkpoint, model, settings)
    count = sum(value.numel() for value in net.parameters())
    show(
        f"{model}: {count / 1e6:.1f} M parameters, preset {settings.preset}, {len(settings.classes)} classes"
    )
