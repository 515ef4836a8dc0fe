"""What every picture shares: colours, the look of axes, loading matplotlib, and saving whole files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aicl_fast.errors import DataError
from aicl_fast.extras import needs
from aicl_fast.files import atomic_path, require_place
from aicl_fast.plot.fonts import prepare_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B",
    "#56B4E9", "#882255", "#44AA99", "#661100", "#7A68A6",
)  # fmt: skip
"""Class colours, told apart with the common colour-vision deficiencies (Okabe and Ito, then Tol)."""

GRID, TEXT, LINE, FAINT = "#E4E7EB", "#323F4B", "#9AA5B1", "#7B8794"

DPI, MIN_DPI, MAX_PIXELS = 140, 60, 65_000
"""A picture too high for the rasteriser (2^16 pixels) is drawn coarser, down to MIN_DPI."""


def picture_path(path: str | os.PathLike[str]) -> Path:
    """``path``, if it names a kind of picture that can be written.

    Raises:
        DataError: another suffix, or a place that cannot be written to.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise DataError(f"{target}: expected a picture's name that ends in {', '.join(SUFFIXES)}.")
    return require_place(target)


def load_matplotlib() -> Any:
    """The package, with the parts that a figure drawn without a display needs.

    Imported when the first picture is drawn. Figures are made directly, without pyplot and its global state,
    so drawing from several threads or inside a notebook is safe.

    Raises:
        UnavailableError: it is not installed.
    """
    with needs("plot", "drawing"):
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    return matplotlib


def style(chart: Axes) -> None:
    """Quiet axes: two spines, small grey ticks, the grid behind."""
    chart.set_axisbelow(True)
    for side in ("top", "right"):
        chart.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        chart.spines[side].set_color(LINE)
    chart.tick_params(labelsize=8.5, color=LINE, labelcolor=TEXT, length=3)


def save(figure: Figure, target: Path) -> None:
    """Write a figure in its suffix's format, whole or not at all; the same figure gives the same file.

    A character that no font of this system has is said in an :class:`aicl_fast.errors.AiclWarning`.
    """
    matplotlib = load_matplotlib()
    kind = target.suffix.lower()[1:]
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    height = figure.get_size_inches()[1]
    whole = prepare_text(figure, target)
    with (
        warnings.catch_warnings(),
        atomic_path(target) as temporary,
        matplotlib.rc_context({"svg.hashsalt": "aicl"}),
    ):
        if not whole:
            warnings.filterwarnings("ignore", "Glyph ", UserWarning)
        figure.savefig(temporary, format=kind, dpi=min(DPI, MAX_PIXELS / height), metadata=metadata)
