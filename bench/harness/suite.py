"""What the suites share: their options, and the table that a suite ends with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aicl_fast.bench.harness.arguments import batches, count, seconds
from aicl_fast.bench.harness.record import write_result
from aicl_fast.bench.harness.tables import TABLES

_OPTIONS: dict[str, dict[str, Any]] = {
    "model": {"type": Path, "help": "weights to export and measure, or an exported file to measure"},
    "weights": {"type": Path, "help": "of an exported --model; else the .safetensors of its name beside it"},
    "data": {"type": Path, "help": "the model's data set folder; random recordings without it"},
    "batch": {"type": batches, "help": "recordings per call, comma-separated"},
    "seconds": {"type": seconds, "help": "of measuring, in all"},
    "rounds": {"type": count, "help": "of every measurement"},
    "threads": {"type": count, "help": "of the CPU"},
    "device": {"help": "cpu or cuda"},
    "folder": {"type": Path, "help": "where exported files are kept for another suite"},
    "json": {"type": Path, "help": "where to record the rows"},
}


def parser(text: str | None, **shared: Any) -> argparse.ArgumentParser:
    """A suite's options: those named, each with its default, and ``--json``."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**shared, "json": None}.items():
        settings = _OPTIONS[name] if default is None else {**_OPTIONS[name], "default": default}
        if default is not None and "help" in settings:
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            settings = {**settings, "help": f"{settings['help']} ({shown})"}
        made.add_argument(f"--{name}", **settings)
    return made


def data_of(options: argparse.Namespace, demo: Sequence[str]) -> tuple[Path, list[str]]:
    """(data set, settings) of ``--data`` and ``--set``; without ``--data`` the demo's, its settings first."""
    if options.data is not None:
        return options.data, options.set
    from aicl_fast.train.watch import prepare_watch

    folder: Path = options.folder / "watch"
    prepare_watch(folder)
    return folder, [*demo, *options.set]


def record(path: Path | None, suite: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Write the rows where ``--json`` says, if it does."""
    if path is not None:
        write_result(path, suite, rows, **more)


def show(table: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Print rows as the table that documents quote."""
    print("\n".join(TABLES[table]({"rows": rows, **more})), "\n", flush=True)
