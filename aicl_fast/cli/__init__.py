"""The command line. It stands above all other packages and is the only part that may use them all.

A command is one file, named as the command: its function ``run`` has the options and does the work. It is
one line in ``COMMANDS``; another package adds one by the entry-point group ``aicl_fast.commands``:

    [project.entry-points."aicl_fast.commands"]
    toy = "my_package.toy:run"

Only the module of the command that is called is imported. ``--help`` imports them all, so a command imports
NumPy, torch and what uses them within its functions.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

COMMANDS = {
    "demo": "aicl_fast.cli.demo",
    "train": "aicl_fast.cli.train",
    "tune": "aicl_fast.cli.tune",
    "auto": "aicl_fast.cli.auto",
    "ensemble": "aicl_fast.cli.ensemble",
    "detect": "aicl_fast.cli.detect",
    "watch": "aicl_fast.cli.watch",
    "features": "aicl_fast.cli.features",
    "annotations": "aicl_fast.cli.annotations",
    "evaluate": "aicl_fast.cli.evaluate",
    "compare": "aicl_fast.cli.compare",
    "plot": "aicl_fast.cli.plot",
    "report": "aicl_fast.cli.report",
    "export": "aicl_fast.cli.export",
    "parity": "aicl_fast.cli.parity",
    "info": "aicl_fast.cli.info",
    "import-checkpoint": "aicl_fast.cli.import_checkpoint",
    "synthetic": "aicl_fast.cli.synthetic",
    "ablate": "aicl_fast.cli.ablate",
    "bench": "aicl_fast.cli.bench",
}
"""The module of each command, in the order of ``aicl-fast --help``."""


def main() -> None:
    """Entry point of ``aicl-fast``: prints our errors without a traceback; exits with 2, or 130 by Ctrl-C."""
    from aicl_fast.cli.ending import exit_code, open_streams

    def run() -> None:
        from aicl_fast.cli.group import build
        from aicl_fast.extras import needs

        with needs(what="this command"), _notes():
            build(COMMANDS)()

    open_streams()
    sys.exit(exit_code(run))


@contextmanager
def _notes() -> Iterator[None]:
    """Print each of our own warnings once, as a note; others as Python does."""
    from aicl_fast.errors import AiclWarning

    printed: set[str] = set()

    with warnings.catch_warnings():
        warnings.simplefilter("always", AiclWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, AiclWarning):
                others(message, category, *where, **more)
            elif str(message) not in printed:
                from aicl_fast.cli.console import note

                printed.add(str(message))
                note(str(message))

        warnings.showwarning = cast(Any, show)
        yield
