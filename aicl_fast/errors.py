"""The exceptions and warnings a user of the package can meet. The lowest module: it imports nothing.

A message names the file or argument, what was expected, what came, and the next step. The command line
prints an exception without a traceback and exits with 2; a warning it prints once, as a note.
"""

from __future__ import annotations


class AiclError(Exception):
    """Anything that the caller can put right. Every error below is one."""


class ConfigError(AiclError, ValueError):
    """A setting, preset or override that does not exist or has no meaning."""


class DataError(AiclError, ValueError):
    """Features, annotations or detections that cannot be used as they are."""


class ModelError(AiclError, ValueError):
    """A file that is not an aicl_fast model, is damaged, or does not fit the data."""


class UnavailableError(AiclError, RuntimeError):
    """Something optional (a package, a device, a compiled part) that this installation lacks."""


class AiclWarning(UserWarning):
    """Something odd about the data that does not stop the work: ``warnings.warn(text, AiclWarning)``."""
