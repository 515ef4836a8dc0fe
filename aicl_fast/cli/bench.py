"""bench: this machine against baselines."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer
from typer import Argument

from aicl_fast.cli.options import takes_more
from aicl_fast.errors import ConfigError
from aicl_fast.extras import needs


@takes_more
def run(
    context: typer.Context,
    suite: Annotated[
        str,
        Argument(
            help="detect, engines, decode, train, evaluate, load, video, accuracy, kernels or sweep; all of "
            "them; or report or compare, for what was recorded."
        ),
    ],
) -> None:
    """Measure this machine, each suite against a baseline in the same process.

    What follows the suite is its own; aicl-fast bench SUITE -h lists it.

    Examples:

      aicl-fast bench detect --seconds 5

      aicl-fast bench detect --model m.onnx --batch 1,8,64 --seconds 5

      aicl-fast bench all

      aicl-fast bench compare old.json new.json
    """
    from aicl_fast.bench import SUITES, TOOLS, module_of

    every = {**SUITES, **TOOLS}
    if suite not in every:
        listed = "".join(f"\n  {name:10} {what}" for name, what in every.items())
        raise ConfigError(f"there is no suite {suite!r}. There are:{listed}")
    sys.argv = [f"aicl-fast bench {suite}", *context.args]
    with needs("dev", f"aicl-fast bench {suite}"):
        code = importlib.import_module(module_of(suite)).main(context.args)
    if code:
        sys.exit(code)
