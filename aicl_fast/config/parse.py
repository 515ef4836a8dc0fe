"""Settings from a preset, a TOML file and ``name=value``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from aicl_fast.config.fields import coerce
from aicl_fast.config.presets import PRESETS
from aicl_fast.config.schema import SECTIONS, Config, near
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.text import clean_values, error_text

_LARGEST_TOML = 1 << 20
_TOML_DEPTH = 8
_TOML_KEYS = 1000
"""Keys and brackets together: far above the number of settings."""
_TOML_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)|'
    r"'''.*?(?:'''|\Z)|"
    r'"(?:\\[^\n]|[^"\\\n])*(?:"|$)|'
    r"'[^'\n]*(?:'|$)|"
    r"\#[^\n]*",
    re.DOTALL | re.MULTILINE,
)
"""Strings, closed or not, and comments: what may hold any number of dots."""
_TOML_DEEP = re.compile(rf"(?:\.[ \t]*[\w-]+[ \t]*){{{_TOML_DEPTH}}}")


def load_config(
    preset: str | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
) -> Config:
    """A preset with a TOML file's values over it, and ``name=value`` overrides over both.

    Args:
        preset: one of :data:`PRESETS`. None: the file's ``preset``, or else thumos14.
        file: TOML; fields at the top level or in a table named after their section.
        overrides: strings ``field=value`` or ``section.field=value``; tuples are comma-separated.
    Raises:
        ConfigError: an unknown preset, field or value; the nearest names are listed.
        DataError: the file does not exist.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_toml(file)
        named = values.pop("preset", None)
        if named is not None and preset is None:
            preset = str(named)
    preset = preset or "thumos14"
    if preset not in PRESETS:
        raise ConfigError(f"preset: there is no '{preset}'.{near(preset, PRESETS)} ({', '.join(PRESETS)})")
    config = PRESETS[preset]
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            if key not in SECTIONS:
                raise ConfigError(f"{file}: there is no section [{key}].{near(key, SECTIONS)}")
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    given = parse_overrides(overrides)
    in_file = {_field(key) for key in flat} - {_field(key) for key in given}
    flat.update(given)
    try:
        names = flat.pop("classes", None)
        if names is not None:
            config = config.with_classes(coerce(names, tuple[str, ...], "classes"))
        return config.with_values(flat)
    except ConfigError as error:
        if _field(str(error).partition(":")[0]) not in in_file:
            raise
        raise ConfigError(f"{file}: {error}") from error


def _field(key: str) -> str:
    """A setting's name without its section."""
    return key.rpartition(".")[2]


def parse_overrides(items: Iterable[str]) -> dict[str, str]:
    """``name=value`` strings as a mapping for :meth:`Config.with_values`.

    Raises:
        ConfigError: a string without a name or an equals sign.
    """
    if isinstance(items, str):
        raise ConfigError(
            f"overrides: expected a list of name=value, got the text {items!r}. Write [{items!r}]."
        )
    values: dict[str, str] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {item}: expected name=value, for example --set train.lr=3e-4.")
        values[name.strip()] = text.strip()
    return values


def _read_toml(file: str | os.PathLike[str]) -> dict[str, Any]:
    import tomllib

    from aicl_fast.files import read_text
    from aicl_fast.limits import reading

    text = read_text(file, "settings file", largest=_LARGEST_TOML)
    advice = "Write it as in docs/datasets.md."
    with reading(file, "settings file", error=ConfigError, advice=advice):
        # The parser takes time and memory by the square of a key's parts, and much for every table.
        bare = _TOML_STRING.sub("s", text)
        if _TOML_DEEP.search(bare) or sum(map(bare.count, "=[{")) > _TOML_KEYS:
            raise ConfigError(
                f"{file}: has a key of more than {_TOML_DEPTH} parts, or more than {_TOML_KEYS} keys; "
                f"expected settings, as name or section.name. {advice}"
            )
        try:
            values: dict[str, Any] = clean_values(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f'{file}: not valid TOML: {error_text(error)}. Text stands in quotes: streams = "rgb".'
            ) from error
        except DataError as error:  # two keys that are equal in one Unicode form
            raise ConfigError(f"{file}: the settings file {error}") from error
        return values
