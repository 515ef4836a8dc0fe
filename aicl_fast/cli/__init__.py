"""The command line. It stands above every room of the house and is the only part that may use them all.

Only typer is imported to answer ``--help``; a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``aicl-fast``: prints our errors without a traceback; exits with 2, or 130 by Ctrl-C."""
    from aicl_fast.cli.app import Interrupted, app
    from aicl_fast.errors import AiclError

    try:
        app()
    except AiclError as error:
        sys.stderr.write(f"aicl-fast: {error}\n")
        sys.exit(2)
    except Interrupted as interrupted:
        sys.stderr.write(f"aicl-fast: interrupted; {interrupted}\n")
        sys.exit(130)
