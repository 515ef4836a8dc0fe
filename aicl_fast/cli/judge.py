"""evaluate, compare, plot and report: how good detections are, and what they look like."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from aicl_fast.cli.console import err, out, result_table
from aicl_fast.config import PRESETS
from aicl_fast.errors import ConfigError
from aicl_fast.evaluate import compare, diagnose, mean_average_precision
from aicl_fast.files import is_stdout, write_json


def run_evaluate(
    ground_truth: Path,
    detections: Path,
    tiou: str | None,
    preset: str,
    subset: str | None,
    exclude: list[str],
    detad: Path | None,
    file: Path | None,
) -> None:
    """``aicl-fast evaluate``."""
    tious = _tious(tiou, preset)
    result = mean_average_precision(ground_truth, detections, tious, subset=subset, exclude=exclude)
    _warn(result.warnings)
    out.print(result_table(f"{detections} against {ground_truth}", "mAP", result))
    document = result.to_dict()
    if detad is not None:
        from aicl_fast.plot import plot_diagnosis

        diagnosis = diagnose(ground_truth, detections, tious=tious, subset=subset, exclude=exclude)
        plot_diagnosis(diagnosis, detad)
        table = Table(title=f"What the best {diagnosis.factor}G detections are", title_justify="left")
        for column in ("", "share (%)", "average mAP without it (%)"):
            table.add_column(column, justify="left" if not column else "right")
        for name, share in diagnosis.shares.items():
            gain = diagnosis.gains.get(name)
            cell = "" if gain is None else f"{100 * (diagnosis.average + gain):.2f} ({100 * gain:+.2f})"
            table.add_row(name, f"{100 * share:.2f}", cell)
        out.print(table)
        out.print(f"picture: {detad}", highlight=False, soft_wrap=True)
        document["detad"] = diagnosis.to_dict()
    if file is not None:
        write_json(file, document)


def run_compare(
    first: Path,
    second: Path,
    ground_truth: Path | None,
    tiou: str | None,
    preset: str,
    subset: str | None,
    file: Path | None,
) -> None:
    """``aicl-fast compare``."""
    from aicl_fast.report import load_run

    runs = [load_run(path) for path in (first, second)]
    truth = ground_truth if ground_truth is not None else runs[0].ground_truth or runs[1].ground_truth
    if truth is None:
        raise ConfigError(f"--gt: neither {first} nor {second} holds a gt.json; name the annotation file.")
    names = (str(first), str(second))
    found = compare(
        truth, runs[0].detections, runs[1].detections, _tious(tiou, preset), names=names, subset=subset
    )
    _warn(tuple(dict.fromkeys((*found.first.warnings, *found.second.warnings))))
    table = Table(title="Differences, second minus first", title_justify="left", title_style="bold")
    for column in ("mAP (%)", "first", "second", "difference", f"{100 * found.level:g} % interval", ""):
        table.add_column(column, justify="left" if column in ("mAP (%)", "") else "right")
    rows = {"average": found.average, **{f"at {tiou:g}": each for tiou, each in found.at.items()}}
    for name, each in rows.items():
        numbers = (f"{100 * each.first:.2f}", f"{100 * each.second:.2f}", f"{100 * each.value:+.2f}")
        table.add_row(name, *numbers, f"{100 * each.low:+.2f} to {100 * each.high:+.2f}", each.verdict)
    out.print(table)
    out.print(found.verdict, highlight=False, soft_wrap=True)
    if file is not None:
        write_json(file, found.to_dict())


def run_plot(
    run: Path,
    file: Path,
    videos: list[str],
    worst: int | None,
    baseline: Path | None,
    ground_truth: Path | None,
    min_score: float | None,
) -> None:
    """``aicl-fast plot``."""
    from aicl_fast.report import plot_run

    drawn = plot_run(
        run,
        file,
        videos=videos,
        worst=worst,
        baseline=baseline,
        ground_truth=ground_truth,
        min_score=min_score,
    )
    out.print(f"{file}: {len(drawn)} drawn", highlight=False, soft_wrap=True)


def run_report(
    run: Path,
    file: Path | None,
    baseline: Path | None,
    ground_truth: Path | None,
    media: Path | None,
    preset: str,
    subset: str | None,
    title: str | None,
) -> None:
    """``aicl-fast report``."""
    from aicl_fast.report import load_run, write_report

    current = load_run(run)
    other = None if baseline is None else load_run(baseline)
    page = write_report(
        current,
        run / "report.html" if file is None else file,
        baseline=other,
        ground_truth=ground_truth,
        tious=_tious(None, preset),
        subset=subset,
        media=media,
        title=title,
        buckets="thumos14" if not preset.startswith("activitynet") else "activitynet",
    )
    if ground_truth is None and not any(each.ground_truth for each in (current, other) if each is not None):
        err.print("note: no annotations, so nothing is measured; name them with --gt", highlight=False)
    size = "" if is_stdout(page) else f": {page.stat().st_size / 1e6:.2f} MB"
    out.print(f"{page}{size}", highlight=False, soft_wrap=True)


def _tious(text: str | None, preset: str) -> tuple[float, ...]:
    """The thresholds typed, or else the preset's."""
    if text is None:
        if preset not in PRESETS:
            raise ConfigError(f"--preset: there is no {preset!r}; there are {', '.join(PRESETS)}.")
        return PRESETS[preset].evaluate.tious
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--tiou: expected numbers separated by commas, got {text!r}.") from None


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        err.print(f"note: {warning}", highlight=False, soft_wrap=True)
