"""evaluate: how good detections are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from aicl_fast.cli.console import note, result_table, show, titled_table
from aicl_fast.cli.options import JsonFile, Preset, Subset, Tious, parse_tious
from aicl_fast.files import inputs_kept, write_json

if TYPE_CHECKING:
    from aicl_fast.evaluate import Diagnosis


@inputs_kept()
def run(
    ground_truth: Annotated[Path, Argument(help="Annotation file (gt.json).")],
    detections: Annotated[Path, Argument(help="Detection file (detections.json).")],
    tiou: Tious = None,
    preset: Preset = "thumos14",
    subset: Subset = None,
    exclude: Annotated[
        list[str] | None,
        Option(
            help="Skip this video, those in this file, or the list 'thumos14'; comma-separated or repeated."
        ),
    ] = None,
    detad: Annotated[
        Path | None, Option(help="Also diagnose the errors (DETAD) and draw them here, .png or .svg.")
    ] = None,
    out: JsonFile = None,
) -> None:
    """Measure detections against ground truth: mean average precision at each tIoU.

    Examples:

      aicl-fast evaluate gt.json detections.json --subset test --detad errors.png

      aicl-fast evaluate gt.json detections.json --tiou 0.5,0.75,0.95 -o metrics.json
    """
    from aicl_fast.evaluate import Protocol, diagnose, mean_average_precision

    protocol = Protocol(parse_tious(tiou, preset), subset, exclude=exclude or ())
    result = mean_average_precision(ground_truth, detections, protocol=protocol)
    for warning in result.warnings:
        note(warning)
    show(result_table(f"{detections} against {ground_truth}", "mAP", result))
    document = result.to_dict()
    if detad is not None:
        from aicl_fast.plot import plot_diagnosis

        diagnosis = diagnose(ground_truth, detections, protocol=protocol)
        plot_diagnosis(diagnosis, detad)
        _print_diagnosis(diagnosis)
        show(f"picture: {detad}")
        document["detad"] = diagnosis.to_dict()
    if out is not None:
        write_json(out, document)


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    table = titled_table(f"What the best {diagnosis.factor}G detections are")
    for column in ("", "share (%)", "average mAP without it (%)"):
        table.add_column(column, justify="right" if column else "left")
    for name, share in diagnosis.shares.items():
        gain = diagnosis.gains.get(name)
        cell = "" if gain is None else f"{100 * (diagnosis.average + gain):.2f} ({100 * gain:+.2f})"
        table.add_row(name, f"{100 * share:.2f}", cell)
    show(table)
