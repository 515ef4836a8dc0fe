"""What other installed packages add: engines, export formats, readers of labels, writers of detections.

A package names its additions in its pyproject.toml. Each group has a name here and a table that it extends:

    [project.entry-points."aicl_fast.engines"]     # or .formats, .readers, .writers
    my_engine = "my_package.engine:ENGINE"

Nothing is looked up before a table is first asked for what it does not know, or for all that it has.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

from aicl_fast.errors import AiclWarning


@functools.cache
def load(group: str) -> dict[str, Any]:
    """The objects that installed packages register in a group, by their names.

    Args:
        group: ``aicl_fast.engines``, ``aicl_fast.formats``, ``aicl_fast.readers`` or ``aicl_fast.writers``.
    Warns:
        AiclWarning: a package's addition cannot be imported; it is skipped.
    """
    from importlib import metadata  # which takes longer than all of `import aicl_fast`

    found = {}
    for entry in metadata.entry_points(group=group):
        try:
            found[entry.name] = entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.value
            warnings.warn(
                f"{package}: expected {entry.value} to be imported as {entry.name!r} of {group}, got "
                f"{type(error).__name__}: {error}. It is skipped: upgrade {package}, or uninstall it.",
                AiclWarning,
                stacklevel=2,
            )
    return found
