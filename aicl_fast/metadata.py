"""The settings that every model file carries, whatever its format. Imports no torch."""

from __future__ import annotations

import json
import os

from aicl_fast.config import Config
from aicl_fast.errors import ConfigError, ModelError

METADATA_KEY = "aicl_fast"
"""The header or property that holds our JSON, in every kind of model file."""
FORMAT = 1


def model_metadata(config: Config) -> str:
    """The JSON that a model file carries: the settings with the classes, and who wrote it."""
    from aicl_fast import __version__

    return json.dumps({"format": FORMAT, "version": __version__, "config": config.to_dict()})


def parse_metadata(text: str | None, source: str | os.PathLike[str]) -> Config:
    """The settings in a model file's metadata.

    Raises:
        ModelError: there is none (the file is not ours), or a newer version wrote it.
    """
    if text is None:
        raise ModelError(
            f"{source}: is not an aicl_fast model: it carries no settings. Expected a file written by "
            "`aicl-fast train` or `aicl-fast export`."
        )
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ModelError(
                f"{source}: has metadata format {document['format']}, written by aicl_fast "
                f"{document.get('version')}; this version reads format {FORMAT}. Upgrade aicl_fast."
            )
        return Config.from_dict(document["config"], source=str(source))
    except (KeyError, TypeError, json.JSONDecodeError, ConfigError) as error:
        raise ModelError(f"{source}: its settings cannot be read ({error}). Export it again.") from error
