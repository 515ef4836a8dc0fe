"""export and parity: trained weights to other formats, and the proof that they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from aicl_fast.cli.console import err, note_missing, out, progress
from aicl_fast.errors import ConfigError
from aicl_fast.files import is_stdout

if TYPE_CHECKING:
    from aicl_fast.detector import Detector
    from aicl_fast.export.formats import ExportOptions
    from aicl_fast.export.parity import Parity


def run_export(
    model: Path,
    file: Path | None,
    options: Callable[[], ExportOptions],
    *,
    network: str,
    verify: bool,
    data: Path | None,
    refit: Path | None,
    trust: bool = False,
) -> None:
    """``aicl-fast export``. ``options`` is called here, so that ``--help`` imports no torch."""
    from aicl_fast.export.formats import check_combination, check_weights, export_model

    chosen = options()
    if chosen.allow_missing and data is None and chosen.calibrate is None:
        raise ConfigError("--allow-missing: is for a data set; give --verify --data or --calibrate with it.")
    if verify and is_stdout(file):
        raise ConfigError("--verify: runs the file that was written; name one with --out.")
    if network != "aicl":
        if data is not None or refit is not None:
            raise ConfigError(f"--data, --refit: are for a detector's weights; got --model {network}.")
        _export_i3d(network, model, file, chosen, verify=verify)
        return
    if data is not None and not verify:
        raise ConfigError("--data: is what --verify runs on; give both, or neither.")
    check_combination(chosen)
    check_weights(model)
    if verify:
        _check_verify(model, chosen, data)
    if refit is not None:
        target = _refit(model, file, chosen, refit, trust=trust)
    else:
        show = chosen.format in ("tensorrt", "tensorrt-rtx")
        with progress("building", show=show) as bar:
            target = export_model(model, file, chosen, progress=bar if show else None)
    _print_size(target)
    if chosen.format == "onnx" and chosen.precision == "bf16":
        _note("run this file with --engine openvino")
    if verify:
        written = target / chosen.server.name / "1" / "model.onnx" if target.is_dir() else target
        models = [str(model), str(written)]
        run_parity(
            models,
            data,
            threads=None,
            runs=20,
            seed=0,
            allow_missing=chosen.allow_missing,
            trust=trust or refit is None,  # what was built here is known
        )


def run_parity(
    models: Sequence[str],
    data: Path | None,
    threads: int | None,
    runs: int,
    seed: int,
    *,
    device: str | None = None,
    providers: Sequence[str] | None = None,
    pin_threads: bool | None = None,
    allow_missing: bool = False,
    trust: bool = False,
) -> None:
    """``aicl-fast parity``; raises ``typer.Exit(1)`` past tolerance.

    ``device`` is of every file; the other options are of the files whose engines have them.
    """
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.export.parity import compare_detectors

    if len(models) < 2:
        raise ConfigError(f"parity: expected at least two model files, got {models[0]} alone.")
    if allow_missing and data is None:
        raise ConfigError("--allow-missing: is for a data set; give --data with it.")
    options = {"threads": threads, "providers": providers or None, "pin_threads": pin_threads}
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
    out.print(parity_table(f"Compared with {results[0].name} on {where}", results))
    failed = [each.name for each in results if not each.passed]
    if failed:
        out.print(f"past tolerance: {', '.join(failed)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def parity_table(title: str, results: Sequence[Parity]) -> Table:
    """A row a file with its mAP, latency and verdict, and under it a row an output."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
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
        for each in result.differences:
            where = ",".join(map(str, each.where))
            table.add_row(f"  {each.output}", f"{each.absolute:.1e}", f"{each.relative:.1e}", where)
        table.add_section()
    return table


def _open(text: str, device: str | None, options: dict[str, Any], *, trust: bool) -> Detector:
    """A model file, or ``engine:file`` to say what runs it."""
    from aicl_fast.detector import Detector
    from aicl_fast.engines import ENGINES, options_of

    before, colon, after = text.partition(":")
    engine, file = (before, after) if colon and before in ENGINES else (None, text)
    if colon and engine is None and not Path(text).exists() and Path(after).exists():
        raise ConfigError(f"{text}: there is no engine {before!r}; expected one of {', '.join(ENGINES)}.")
    has = options_of(file, engine)
    return Detector(
        file,
        engine=engine,
        device=device,
        trust=trust,
        **{name: options[name] for name in has & set(options)},
    )


def _export_i3d(
    network: str, weights: Path, file: Path | None, options: ExportOptions, *, verify: bool
) -> None:
    """A segment network; verified on random clips."""
    from aicl_fast.export.i3d import check_i3d_options, export_i3d, verify_i3d

    check_i3d_options(network, options)
    show = options.format in ("tensorrt", "tensorrt-rtx")
    if verify and (show or (options.format == "onnx" and options.precision == "bf16")):
        raise ConfigError(
            f"--verify: compares {network} on this processor: in ONNX Runtime, which has no bfloat16 "
            "convolution there, or OpenVINO. Export without it, or --format openvino."
        )
    with progress("building", show=show) as bar:
        target = export_i3d(network, weights, file, options, progress=bar if show else None)
    _print_size(target)
    if options.format == "onnx" and options.precision == "bf16":
        _note("for one, export with --format openvino")
    if not verify:
        return
    found = verify_i3d(weights, target)
    verdict = "ok" if found.passed else "FAILS"
    out.print(
        f"{found.name}, {found.precision}: features differ from float32 torch by {found.apart:.1e} of the "
        f"largest: {verdict}",
        highlight=False,
        soft_wrap=True,
    )
    if not found.passed:
        raise typer.Exit(1)


def _note(remedy: str) -> None:
    """Of ONNX files in bfloat16."""
    err.print(
        f"note: ONNX Runtime has no bfloat16 convolution on a CPU; {remedy}", highlight=False, soft_wrap=True
    )


def _print_size(target: Path) -> None:
    if is_stdout(target):
        return
    size = sum(each.stat().st_size for each in [target, *target.rglob("*")] if each.is_file())
    out.print(f"{target}: {size / 1e6:.1f} MB", highlight=False, soft_wrap=True)


def _check_verify(weights: Path, options: ExportOptions, data: Path | None) -> None:
    """What cannot be verified here is refused before it is built."""
    from aicl_fast.data.dataset import Dataset
    from aicl_fast.weights import load_model

    if options.format == "onnx" and options.precision == "bf16":
        raise ConfigError(
            "--verify: ONNX Runtime has no bfloat16 convolution on a CPU. Export without --verify, then "
            "compare in OpenVINO: aicl-fast parity model.safetensors openvino:model.onnx"
        )
    if options.format == "triton-repository" and options.server.backend == "tensorrt":
        raise ConfigError("--verify: a bare plan cannot be opened; verify --format tensorrt first.")
    if options.format in ("tensorrt", "tensorrt-rtx"):
        from aicl_fast.engines.tensorrt import Cuda

        Cuda(0).close()
    _, config = load_model(weights)
    length, sizes = config.data.segments, options.segments
    if sizes is not None and not sizes.min <= length <= sizes.max:
        raise ConfigError(
            f"--verify: {weights} runs at its own T, {length}, which --segments {sizes} leaves out. Export "
            "with a range that has it in, or without --verify."
        )
    if data is not None:
        Dataset.open(data, config, splits=("test",), allow_missing=options.allow_missing)


def _refit(model: Path, file: Path | None, options: ExportOptions, old: Path, *, trust: bool) -> Path:
    from aicl_fast.engines.container import read_container
    from aicl_fast.export.formats import SUFFIXES, check_target, exported_onnx
    from aicl_fast.export.tensorrt import refit_tensorrt
    from aicl_fast.weights import load_model

    if options.format not in ("tensorrt", "tensorrt-rtx"):
        raise ConfigError(f"--refit: is for --format tensorrt and tensorrt-rtx; got {options.format}.")
    target = file if file is not None else model.with_suffix(SUFFIXES[options.format])
    check_target(model, target, options)
    read_container(old)
    graph, info = exported_onnx(*load_model(model), options)
    refit_tensorrt(old, graph, info, target, trust=trust)
    return target
