"""How a setting is declared and checked: its type, its limits, and what may stand for it in text."""

from __future__ import annotations

import math
import numbers
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from aicl_fast.errors import ConfigError

_LARGEST_WHOLE = 2**63 - 1
RENAMED = {"float32": "fp32", "bfloat16": "bf16"}
"""Choices that earlier versions called otherwise."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have: ``steps: Annotated[int, Range(1)]``.

    Attributes:
        low: the least.
        high: the largest.
        open_low: ``low`` itself is refused.
        open_high: ``high`` itself is refused.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return "a positive number" if self.open_low and not self.low else f"at least {self.low:g}"
        if not (self.open_low or self.open_high):
            return f"from {self.low:g} to {self.high:g}"
        low, high = "above" if self.open_low else "at least", "below" if self.open_high else "at most"
        return f"{low} {self.low:g}, {high} {self.high:g}"


@dataclass(frozen=True)
class OneOf:
    """The names of a table, which may grow: ``nms: Annotated[str, OneOf(NMS_MODES)]``."""

    table: Mapping[str, Any]

    def __contains__(self, value: str) -> bool:
        return value in self.table

    def __str__(self) -> str:
        return f"one of {', '.join(self.table)}"


POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)
COUNT = Range(1)
SHARE = Range(0, 1)


class Section:
    """Settings that belong together, as a frozen dataclass whose fields are checked as they are declared."""

    def __post_init__(self) -> None:
        """Check every field, and make numbers Python's own.

        A caller's may be numpy's or whole floats; strings are for files and the command line.

        Raises:
            ConfigError: a value of another type, or outside its limits.
        """
        section = type(self).__name__.removesuffix("Config").lower()
        for name, kind in hints(type(self)).items():
            value = getattr(self, name)
            valid = coerce(value, kind, f"{section}.{name}", parse=False)
            if valid is not value:
                object.__setattr__(self, name, valid)


_known_hints: dict[type[Any], dict[str, Any]] = {}


def hints(section: type[Any]) -> dict[str, Any]:
    """The declared types of a section's fields, with their limits."""
    if section not in _known_hints:
        _known_hints[section] = get_type_hints(section, include_extras=True)
    return _known_hints[section]


def coerce(value: Any, kind: Any, name: str, *, parse: bool = True) -> Any:
    """``value`` as ``kind``.

    Args:
        parse: a string may stand for something else, as from the command line, TOML or JSON.
    Raises:
        ConfigError: it cannot be one, or is outside the kind's limits.
    """
    if get_origin(kind) is Annotated:
        inner, limits = get_args(kind)
        number = coerce(value, inner, name, parse=parse)
        if number not in limits:
            whole = "a whole number " if inner is int and limits.high < math.inf else ""
            raise ConfigError(f"{name}: expected {whole}{limits}, got {value!r}.")
        return number
    if kind is int or kind is float:
        return _number(value, kind, name, parse=parse)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        first, other = get_args(kind)
        words = get_args(other) if get_origin(other) is Literal else (None,)
        if other is types.NoneType and parse and isinstance(value, str) and value.lower() == "none":
            return None
        if value is None or isinstance(value, str):
            for word in words:
                if value == word:
                    return word
        try:
            return coerce(value, first, name, parse=parse)
        except ConfigError as error:
            spoken = " or ".join(str(word).lower() for word in words)
            raise ConfigError(str(error).replace(", got ", f" or {spoken}, got ", 1)) from None
    if origin is Literal:
        if isinstance(value, str):
            value = value if value in get_args(kind) else RENAMED.get(value, value)
            if value in get_args(kind):
                return value
        raise ConfigError(f"{name}: expected one of {', '.join(get_args(kind))}, got {value!r}.")
    if origin is tuple:
        inner = get_args(kind)[0]
        items = value
        if parse and isinstance(value, str):
            items = [part.strip() for part in value.split(",") if part.strip()]
        try:
            items = None if isinstance(items, (str, Mapping)) else tuple(items)
        except TypeError:
            items = None
        if items is None:
            raise ConfigError(f"{name}: expected several values, got {value!r}.")
        if not items and inner is not str:
            raise ConfigError(f"{name}: expected at least one number, got {value!r}.")
        return tuple(coerce(item, inner, name, parse=parse) for item in items)
    if kind is bool:
        truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, bool):
            return value
        if parse and isinstance(value, str) and value.lower() in truths:
            return truths[value.lower()]
        raise ConfigError(f"{name}: expected true or false, got {value!r}.")
    if isinstance(value, str):
        return value
    raise ConfigError(f"{name}: expected text, got {value!r}.")


def _number(value: Any, kind: Any, name: str, *, parse: bool) -> int | float:
    number: int | float = 0
    try:
        if parse and isinstance(value, str):
            number = kind(value.replace("_", ""))
        elif isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError
        else:
            number = kind(value)
            if kind is int and number != value:
                raise ValueError
    except (ValueError, OverflowError):
        expected = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name}: expected {expected}, got {value!r}.") from None
    if kind is int:
        if abs(number) > _LARGEST_WHOLE:
            raise ConfigError(f"{name}: expected a whole number of 64 bits, got {value!r}.")
    elif not math.isfinite(number):
        raise ConfigError(f"{name}: expected a finite number, got {value!r}.")
    return number
