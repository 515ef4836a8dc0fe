"""parity: whether model files agree, and how fast each is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from typer import Argument, Option

from aicl_fast.cli.console import note_missing, progress, show, titled_table
from aicl_fast.cli.options import AllowMissing, Threads, Trust
from aicl_fast.errors import ConfigError

if TYPE_CHECKING:
    from aicl_fast.detector import Detector
    from aicl_fast.export.parity import Parity


def run(
    models: Annotated[
        list[str], Argument(help="Model files; the first is the reference. engine:file picks an engine.")
    ],
    data: Annotated[
        Path | None, Option("--data", "-d", help="Data set folder; random features by default.")
    ] = None,
    allow_missing: AllowMissing = False,
    threads: Threads = None,
    trust: Trust = False,
    runs: Annotated[int, Option(min=1, help="Timed runs of each file.")] = 20,
    seed: Annotated[int, Option(help="Of the random features.")] = 0,
    device: Annotated[
        str | None, Option(help="cpu, cuda or cuda:N, of every file; each engine's own by default.")
    ] = None,
    provider: Annotated[
        list[str] | None,
        Option(help="ONNX Runtime's execution provider, in order of preference; may be repeated."),
    ] = None,
    pin_threads: Annotated[
        bool | None, Option("--pin-threads/--no-pin-threads", help="Tie the engines' threads to cores.")
    ] = None,
) -> None:
    """Run the same features through several model files and compare outputs, mAP and latency.

    Exits with 1 when a file is further from the first than its precision allows.

    Examples:

      aicl-fast parity model.safetensors model.onnx model.openvino

      aicl-fast parity model.safetensors onnxruntime:model.onnx openvino:model.onnx --data THUMOS14
    """
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.export.parity import compare_detectors

    if len(models) < 2:
        raise ConfigError(f"parity: expected at least two model files, got {models[0]} alone.")
    if allow_missing and data is None:
        raise ConfigError("--allow-missing: is for a data set; give --data with it.")
    options = {"threads": threads, "providers": provider or None, "pin_threads": pin_threads}
    detectors: list[Detector] = []
    try:
        for text in models:
            detectors += [_open(text, device, options, trust=trust)]
        dataset = None
        if data is not None:
            dataset = Dataset.open(data, detectors[0].config, splits=("test",), allow_missing=allow_missing)
            note_missing(dataset.missing)
        with progress("comparing") as bar:
            results = compare_detectors(detectors, dataset, runs=runs, seed=seed, progress=bar)
    finally:
        for detector in detectors:
            detector.close()
    where = "random features" if data is None else f"the test videos of {data}"
    show(parity_table(f"Compared with {results[0].name} on {where}", results))
    failed = [result.name for result in results if not result.passed]
    if failed:
        show(f"past tolerance: {', '.join(failed)}")
        raise typer.Exit(1)


def parity_table(title: str, results: Sequence[Parity]) -> Table:
    """A row a file with its mAP, latency and verdict, and under it a row an output."""
    table = titled_table(title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("file and output", min_width=21, overflow="fold")
    for name in ("absolute", "relative", "at", "mAP %", "ms", "speed"):
        table.add_column(name, justify="right", no_wrap=True)
    first = results[0]
    for result in results:
        average = "" if result.mAP is None else f"{100 * result.mAP:.2f}"
        speed = f"{first.milliseconds / result.milliseconds:.2f}x"
        verdict = "reference" if result is first else "ok" if result.passed else "FAILS"
        table.add_row(
            f"{result.name}, {result.engine} {result.precision}: {verdict}",
            "" if result is first else f"≤ {result.tolerance.absolute:.2g}",
            "",
            "",
            average,
            f"{result.milliseconds:.2f}",
            speed,
        )
        for difference in result.differences:
            where = ",".join(map(str, difference.where))
            numbers = (f"{difference.absolute:.1e}", f"{difference.relative:.1e}")
            table.add_row(f"  {difference.output}", *numbers, where)
        table.add_section()
    return table


def _open(text: str, device: str | None, options: dict[str, Any], *, trust: bool) -> Detector:
    """A model file, or ``engine:file`` to say what runs it."""
    from aicl_fast.detector import Detector
    from aicl_fast.engines.registry import engines, options_of

    before, colon, after = text.partition(":")
    engine, file = (before, after) if colon and before in engines() else (None, text)
    if colon and engine is None and not Path(text).exists() and Path(after).exists():
        raise ConfigError(f"{text}: there is no engine {before!r}; expected one of {', '.join(engines())}.")
    has = options_of(file, engine)
    return Detector(
        file,
        engine=engine,
        device=device,
        trust=trust,
        **{name: options[name] for name in has & set(options)},
    )
