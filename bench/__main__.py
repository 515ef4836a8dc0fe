"""``python -m aicl_fast.bench SUITE …`` is ``aicl-fast bench SUITE …``, and needs no command line."""

from __future__ import annotations

import importlib
import sys

from aicl_fast.bench import SUITES, TOOLS, module_of
from aicl_fast.bench.harness.arguments import program
from aicl_fast.errors import ConfigError


def main() -> int:
    """Run one suite or tool.

    Raises:
        ConfigError: none is named, or there is none of that name.
    """
    name, *arguments = sys.argv[1:] or [""]
    if name not in SUITES | TOOLS:
        raise ConfigError(f"expected one of {', '.join(SUITES | TOOLS)}, got {name!r}.")
    sys.argv = [f"aicl-fast bench {name}", *arguments]
    return int(importlib.import_module(module_of(name)).main(arguments) or 0)


if __name__ == "__main__":
    program(main)
