"""What the commands print: progress bars, tables and one-line results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from aicl_fast.text import clean_lines, clean_text

if TYPE_CHECKING:
    from aicl_fast.evaluate import MapResult


class _PlainConsole(Console):
    """Prints names as they are, but for what a terminal would obey: none of it is rich's markup."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """What every string goes through: a line, a table's cell, its title."""
        return super().render_str(clean_lines(text), **options)


MAX_FAILURES = 50
"""Reasons that are listed."""
out = _PlainConsole()
"""Results."""
err = _PlainConsole(stderr=True)
"""Progress and remarks, so that results can be piped."""


def show(result: str | Table | Group) -> None:
    """Print a result. Lines of text are not broken at the terminal's width: paths stay whole."""
    out.print(result, soft_wrap=isinstance(result, str))


def remark(text: str) -> None:
    """Print what is no result."""
    err.print(text, soft_wrap=True)


def note(text: str) -> None:
    """Print what should be known of a result."""
    remark(f"note: {text}")


def titled_table(title: str, **options: Any) -> Table:
    """An empty table under a title."""
    return Table(title=title, title_justify="left", title_style="bold", **options)


@contextmanager
def progress(description: str, *, show: bool = True, lazy: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on stderr, if ``lazy`` from its first update on; yields ``update(done, total, note="")``."""
    if not show:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<11}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    bars = Progress(*columns, console=err)
    task = bars.add_task(description, total=None, note="")

    def update(done: int, total: int, note: str = "") -> None:
        bars.start()
        bars.update(task, completed=done, total=total, note=clean_text(note))

    if not lazy:
        bars.start()
    try:
        yield update
    finally:
        if bars.live.is_started:
            bars.stop()


def note_missing(videos: Sequence[str], record: Path | None = None) -> None:
    """Say how many videos were skipped, and in which file all of them will be named, if in one."""
    if videos:
        have = "video has no features and is" if len(videos) == 1 else "videos have no features and are"
        where = "" if record is None else f"; every name will be in {record} under 'missing'"
        note(f"{len(videos)} {have} skipped{where}")


def print_failures(reasons: Collection[str], of: str) -> None:
    """List why recordings could not be used."""
    remark(f"{len(reasons)} of {of} could not be used:")
    for text in list(reasons)[:MAX_FAILURES]:
        remark(f"  {text}")
    if len(reasons) > MAX_FAILURES:
        remark(f"  … and {len(reasons) - MAX_FAILURES} more")


def map_table(title: str, tious: Sequence[float], rows: Sequence[tuple[str, Sequence[str], str]]) -> Group:
    """A table of mAP: one column a tIoU threshold and the average. ``rows``: (name, cells, average)."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("mAP (%) at tIoU", no_wrap=True)
    for tiou in tious:
        table.add_column(f"{tiou:g}", justify="right", no_wrap=True)
    table.add_column("average", justify="right", style="bold", no_wrap=True)
    for name, cells, average in rows:
        table.add_row(name, *cells, average)
    # A table's own title would be wrapped at the table's width, in the middle of a path.
    return Group(Text(clean_text(title), style="bold"), table)


def result_table(title: str, name: str, result: MapResult) -> Group:
    """One row of mAP in percent."""
    cells = [f"{100 * value:.2f}" for value in result.mAP]
    return map_table(title, result.tious.tolist(), [(name, cells, f"{100 * result.average:.2f}")])
