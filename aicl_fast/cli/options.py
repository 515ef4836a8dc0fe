"""Options that several commands have, and how a command is marked. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer import Option

from aicl_fast.errors import ConfigError

if TYPE_CHECKING:
    from aicl_fast.report import Run

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_more(run: _Function) -> _Function:
    """Let a command take arguments that its signature does not have: they come in ``typer.Context.args``."""
    vars(run)["context_settings"] = {"allow_extra_args": True, "ignore_unknown_options": True}
    return run


Preset = Annotated[str, Option("--preset", "-p", help="thumos14, activitynet12, activitynet13, demo or own.")]
AllowMissing = Annotated[bool, Option("--allow-missing", help="Skip videos that have no features.")]
Trust = Annotated[
    bool,
    Option(
        "--trust", help="Run native code that a version-compatible .engine carries; if you trust its origin."
    ),
]
Settings = Annotated[
    list[str] | None, Option("--set", "-s", metavar="NAME=VALUE", help="Override a setting; may be repeated.")
]
SettingsFile = Annotated[Path | None, Option("--config", "-c", help="TOML file with settings.")]
Threads = Annotated[int | None, Option(min=1, help="Threads of the engine; every core by default.")]
Device = Annotated[str, Option(help="cpu, cuda or cuda:N.")]

# --- videos ---------------------------------------------------------------------------------------------

VIDEO = "Videos"
BATCH = 8
FLOW = "tvl1"
FLOW_HELP = f"Optical flow by tvl1 or dis, as the model's training features; {FLOW} by default."
RgbWeights = Annotated[
    Path | None,
    Option(help="I3D for RGB: weights, or an exported .onnx or .openvino.", rich_help_panel=VIDEO),
]
FlowWeights = Annotated[Path | None, Option(help="I3D for optical flow, the same.", rich_help_panel=VIDEO)]
VideoBatch = Annotated[
    int | None, Option(min=1, help=f"Segments a run of I3D; {BATCH} by default.", rich_help_panel=VIDEO)
]
VideoPrecision = Annotated[
    str | None,
    Option(
        help="Of I3D: fp32, bf16 or fp16; by default an exported file's own, and for weights "
        "fp32 on the CPU and fp16 on a GPU.",
        rich_help_panel=VIDEO,
    ),
]
AllowDamaged = Annotated[
    bool,
    Option(
        "--allow-damaged", help="Take what can be read of cut off or corrupt files.", rich_help_panel=VIDEO
    ),
]

# --- how good detections are ----------------------------------------------------------------------------

Subset = Annotated[str | None, Option(help="Only this subset of the annotations (test, validation, …).")]
Tious = Annotated[
    str | None, Option("--tiou", help="Thresholds: 0.3,0.5 or 0.5:0.05:0.95; the preset's by default.")
]
GroundTruthFile = Annotated[
    Path | None, Option("--gt", help="Annotation file; the run's own gt.json by default.")
]
JsonFile = Annotated[Path | None, Option("--out", "-o", help="Also write the result as JSON.")]
Baseline = Annotated[Path | None, Option(help="Folder of a second run on the same videos, shown beside.")]


RunPreset = Annotated[
    str | None,
    Option(
        "--preset", "-p", help="Whose thresholds are used; those that the run was trained with by default."
    ),
]
DEFAULT_PRESET = "thumos14"
_MOST_THRESHOLDS = 1000


def run_settings(preset: str | None, *runs: Run) -> tuple[str, tuple[float, ...]]:
    """(preset, thresholds) of the preset that was typed, or else of the first run that says its own."""
    trained = next((run.config for run in runs if run.config is not None), None)
    if preset is None and trained is not None:
        return trained.preset, trained.evaluate.tious
    return preset or DEFAULT_PRESET, parse_tious(None, preset or DEFAULT_PRESET)


def parse_tious(text: str | None, preset: str) -> tuple[float, ...]:
    """The thresholds typed, or else the preset's."""
    from aicl_fast.config import PRESETS

    if text is None:
        if preset not in PRESETS:
            raise ConfigError(f"--preset: there is no {preset!r}; there are {', '.join(PRESETS)}.")
        return PRESETS[preset].evaluate.tious
    try:
        return tuple(value for part in text.split(",") for value in _numbers(part))
    except ValueError:
        raise ConfigError(
            "--tiou: expected numbers separated by commas, or FIRST:STEP:LAST as 0.5:0.05:0.95; got "
            f"{text!r}."
        ) from None


def _numbers(part: str) -> list[float]:
    """A number, or those from the first to the last one of ``first:step:last``."""
    first, *more = (float(each) for each in part.split(":"))
    if not more:
        return [first]
    step, last = more
    if not (0 < step < math.inf and 0 <= first <= last <= 1) or (last - first) / step > _MOST_THRESHOLDS:
        raise ValueError(part)
    return [round(first + number * step, 9) for number in range(int((last - first) / step + 1e-6) + 1)]


def require_other_folder(data: Path, out: Path) -> None:
    """Refuse a run's folder that is the data set's: a run has a gt.json of its own.

    Raises:
        ConfigError: it is.
    """
    if out.resolve() == data.resolve():
        raise ConfigError(
            f"--out {out}: is the data set's folder, whose gt.json a run would replace. Name another."
        )
