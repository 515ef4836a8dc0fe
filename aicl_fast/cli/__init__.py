"""The command line. It stands above all other packages and is the only part that may use them all.

Only typer is imported to answer ``--help``; a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


def main() -> None:
    """Entry point of ``aicl-fast``: prints our errors without a traceback; exits with 2, or 130 by Ctrl-C."""
    from aicl_fast.cli.ending import exit_code, open_streams

    def run() -> None:
        from aicl_fast.cli.app import app
        from aicl_fast.extras import needs

        with needs(what="this command"), _notes():
            app()

    open_streams()
    sys.exit(exit_code(run))


@contextmanager
def _notes() -> Iterator[None]:
    """Print each of our own warnings once, as a note; others as Python does."""
    from aicl_fast.errors import AiclWarning

    said: set[str] = set()

    with warnings.catch_warnings():
        warnings.simplefilter("always", AiclWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, AiclWarning):
                others(message, category, *where, **more)
            elif str(message) not in said:
                from aicl_fast.cli.console import err

                said.add(str(message))
                err.print(f"note: {message}", soft_wrap=True)

        warnings.showwarning = cast(Any, show)
        yield
