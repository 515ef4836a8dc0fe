"""What takes part in a measure, and how its odd cases count: one list of options for all of this package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

import numpy as np

from aicl_fast.errors import ConfigError
from aicl_fast.evaluate.matching import Floats, Ties
from aicl_fast.text import require_label

Duplicates = Literal["keep", "drop"]
Ambiguous = Literal["drop", "forgive"]

TIOUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""THUMOS14's thresholds."""


class Options(TypedDict, total=False):
    """The fields of :class:`Protocol` other than its thresholds, as keywords of a measure."""

    subset: str | Iterable[str] | None
    classes: Iterable[str] | None
    exclude: str | Iterable[str]
    duplicates: Duplicates
    ambiguous: Ambiguous
    ties: Ties


@dataclass(frozen=True)
class Protocol:
    """A way of measuring, such as a benchmark's own.

    Attributes:
        tious: K numbers above 0, at most 1.
        subset: names of subsets to measure on. None takes those that the detections touch, and warns where
            the file has others.
        duplicates: annotations of one video and class that have the same two times (within a millisecond):
            ``keep`` wants a detection for each, ``drop`` counts them once.
        ambiguous: what THUMOS14's Ambiguous segments do. They are never a class. ``drop``: nothing.
            ``forgive``: a false positive that overlaps one is not counted, as in THUMOS14's own evaluator.
        exclude: videos to leave out on both sides, the name of a list in ``EXCLUSIONS`` (``"thumos14"``), or
            files that list videos: a JSON list, or one name per line.
        classes: names to measure; None takes every label of the subset. A class without an annotated
            instance has no AP and is not part of the mean; one without detections has AP 0.
        ties: the order of equal scores and of equal tIoUs. ``activitynet``: of equal scores the later in the
            file first, of equal tIoUs as ``network_order`` says; these give what ActivityNet's evaluator
            prints on a processor with AVX2 or later. ``file``: the earlier in the file first, in both.
            Neither depends on the machine.
    Raises:
        ConfigError: an option without meaning.
    """

    tious: Iterable[float] = TIOUS
    subset: str | Iterable[str] | None = None
    duplicates: Duplicates = "keep"
    ambiguous: Ambiguous = "drop"
    exclude: str | Iterable[str] = ()
    classes: Iterable[str] | None = None
    ties: Ties = "activitynet"

    def __post_init__(self) -> None:
        kept: dict[str, Any] = {"tious": check_tious(self.tious), "exclude": _several(self.exclude)}
        if self.subset is not None and not isinstance(self.subset, str):
            kept["subset"] = tuple(self.subset)
        if self.classes is not None:
            names = tuple(
                require_label(name, "classes", error=ConfigError) for name in _several(self.classes)
            )
            if not names or len(set(names)) != len(names):
                raise ConfigError(
                    f"classes: expected class names, each once, got {names!r}. None measures every label."
                )
            kept["classes"] = names
        for name, kind in (("duplicates", Duplicates), ("ambiguous", Ambiguous), ("ties", Ties)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ConfigError(
                    f"{name}: expected {' or '.join(map(repr, get_args(kind)))}, got {value!r}."
                )
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @property
    def thresholds(self) -> Floats:
        """``tious`` as an array, (K,)."""
        return np.array(self.tious, dtype=np.float64)

    @classmethod
    def of(
        cls,
        protocol: Protocol | str | None,
        options: Options,
        tious: Iterable[float] | None = None,
        name: str = "tious",
    ) -> Protocol:
        """A measure's ``protocol`` and keywords as one; the keywords win.

        Args:
            protocol: the name of one in ``PROTOCOLS``, or None for the default.
            options: the keywords given.
            tious: thresholds, where those were given.
            name: of that argument, for messages.
        Raises:
            ConfigError: no protocol of this name, or an option without meaning.
        """
        if isinstance(protocol, str):
            if protocol not in PROTOCOLS:
                raise ConfigError(f"protocol: there is no {protocol!r}; there are {', '.join(PROTOCOLS)}.")
            protocol = PROTOCOLS[protocol]
        result = replace(protocol or cls(), **options)
        return result if tious is None else replace(result, tious=check_tious(tious, name))


def check_tious(tious: Iterable[float], name: str = "tious") -> tuple[float, ...]:
    """The thresholds, each above 0 and at most 1.

    Raises:
        ConfigError: none, or another number.
    """
    values = tuple(float(value) for value in tious)
    if not values or not all(0 < value <= 1 for value in values):
        raise ConfigError(f"{name}: expected numbers above 0 and at most 1, got {list(values)}.")
    return values


def _several(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


_ACTIVITYNET = Protocol((0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95), "validation")
PROTOCOLS: Mapping[str, Protocol] = {
    "thumos14": Protocol(TIOUS, "test"),
    "activitynet12": _ACTIVITYNET,
    "activitynet13": _ACTIVITYNET,
}
