"""The command line. It stands above every room of the house and is the only part that may use them all.

Only typer is imported to answer ``--help``; a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``aicl-fast``: prints our errors without a traceback and exits with 2."""
    from aicl_fast.cli.app import app
    from aicl_fast.errors import AiclError

    try:
        app()
    except AiclError as error:
        sys.stderr.write(f"aicl-fast: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("aicl-fast: interrupted; files already complete are kept\n")
        sys.exit(130)
