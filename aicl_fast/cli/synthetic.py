"""synthetic: a generated data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument

from aicl_fast.cli.console import progress, show
from aicl_fast.cli.options import Settings


def run(root: Annotated[Path, Argument(help="Folder to make.")], set_: Settings = None) -> None:
    """Generate a synthetic data set shaped like THUMOS14, for measuring and trying things out.

    Settings are the generator's own (train_videos, width, scene_confusion, seed, …).

    Examples:

      aicl-fast synthetic runs/synthetic

      aicl-fast synthetic runs/small --set train_videos=40 --set test_videos=20 --set width=64
    """
    from aicl_fast.config import parse_overrides
    from aicl_fast.train.synthetic import SyntheticConfig, write_synthetic

    config = SyntheticConfig.with_values(parse_overrides(set_ or []))
    with progress("generating") as bar:
        summary = write_synthetic(root, config, progress=bar)
    show(f"{root}: {summary}")
