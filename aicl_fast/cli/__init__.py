"""The command line. It stands above all other packages and is the only part that may use them all.

Only typer is imported to answer ``--help``; a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``aicl-fast``: prints our errors without a traceback; exits with 2, or 130 by Ctrl-C."""
    from aicl_fast.cli.ending import exit_code, open_streams

    def run() -> None:
        from aicl_fast.cli.app import app
        from aicl_fast.extras import needs

        with needs(what="this command"):
            app()

    open_streams()
    sys.exit(exit_code(run))
