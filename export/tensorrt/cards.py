"""Which cards an engine is for, and which options a package has: checked before any work starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from aicl_fast.engines.cuda.driver import Cuda
from aicl_fast.engines.packages import NAMES, Kind, load_tensorrt
from aicl_fast.errors import ConfigError, DataError, UnavailableError
from aicl_fast.export.options import BuildOptions
from aicl_fast.files import require_file, require_place
from aicl_fast.limits import reading

LOWEST_CARD = {"tf32": "8.0", "bf16": "8.0", "fp8": "8.9"}
"""The first compute capability whose cards have products in a precision; every card has the others."""
ANY_RTX = "8.0"
"""The compute capability from which on TensorRT-RTX builds where none is named."""

MAX_WORKSPACE = 1 << 24
MAX_CACHE = 1 << 30
_CACHE_ADVICE = "Name another file with --timing-cache."


def check_options(kind: Kind, options: BuildOptions, precision: str = "fp32") -> None:
    """Refuse options that a package does not have, before any work starts.

    Raises:
        ConfigError: an option of the other package, a card that this version does not know, or one that has
            no products in this precision.
        UnavailableError: the package is not installed; or no GPU, for TensorRT and for refittable engines.
    """
    parse_capabilities(",".join(options.compute_capability))
    lowest = LOWEST_CARD.get(precision, "0.0")
    if kind == "tensorrt-rtx" and precision == "int8":
        lowest = ANY_RTX  # Turing has such products, but TensorRT-RTX does not quantise for it
    older = [card for card in options.compute_capability if _number(card) < _number(lowest)]
    if older:
        raise ConfigError(
            f"--compute-capability: cards have {precision} products from {lowest} on; got {', '.join(older)}."
        )
    if options.hardware_compatible and _number(lowest) > (8, 0):
        raise ConfigError(
            f"--hardware-compatible: is every card from Ampere (8.0) on, and cards have {precision} products "
            f"from {lowest} on. Leave it out, or export fp16, bf16 or int8."
        )
    _check_package(kind, options)
    if options.workspace_mb is not None and not 1 <= options.workspace_mb <= MAX_WORKSPACE:
        raise ConfigError(f"--workspace: expected 1 to {MAX_WORKSPACE} MiB, got {options.workspace_mb}.")
    check_capabilities(load_tensorrt(kind), options.compute_capability)
    if kind == "tensorrt":
        card = installed_card()
        if _number(card) < _number(lowest):
            raise ConfigError(
                f"--precision: cards have {precision} products from compute capability {lowest} on; this one "
                f"has {card}, and TensorRT builds for the card at hand. Export fp16 or int8."
            )
    elif options.refittable:
        Cuda(0).close()  # it folds constants on the card then, which it does not for other engines


def _check_package(kind: Kind, options: BuildOptions) -> None:
    """Refuse an option that only the other package has."""
    if kind == "tensorrt-rtx":
        for given, option, instead in (
            (options.hardware_compatible, "--hardware-compatible", "its engines are portable already"),
            (options.version_compatible, "--version-compatible", "build again with the new version"),
            (options.timing_cache, "--timing-cache", "it measures nothing while building"),
        ):
            if given:
                raise ConfigError(
                    f"{option}: is an option of --format tensorrt; {NAMES[kind]} has none, {instead}."
                )
        if options.refittable and len(options.compute_capability) > 1:
            raise ConfigError("--refittable: TensorRT-RTX builds such engines for one card at a time.")
    elif options.compute_capability:
        raise ConfigError(
            "--compute-capability: is an option of --format tensorrt-rtx; TensorRT builds for the card at "
            "hand, or with --hardware-compatible for all from Ampere on."
        )


def parse_capabilities(text: str) -> tuple[str, ...]:
    """``8.6,8.9`` as a tuple.

    Raises:
        ConfigError: another form.
    """
    cards = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", card) for card in cards):
        raise ConfigError(f"--compute-capability: expected for example 8.6 or 8.6,8.9, got {text!r}.")
    return cards


def check_capabilities(api: Any, wanted: Sequence[str]) -> dict[str, Any]:
    """Compare the cards to build for with those that this version of TensorRT-RTX knows.

    Returns:
        Name to its own constant, of those that are wanted.
    Raises:
        ConfigError: one that it does not know, or one twice.
    """
    if not wanted:
        return {}
    known = {
        f"{name[2:-1]}.{name[-1]}": getattr(api.ComputeCapability, name)
        for name in dir(api.ComputeCapability)
        if name.startswith("SM") and name[2:].isdigit()
    }
    unknown = [card for card in wanted if card not in known]
    if unknown:
        raise ConfigError(
            f"--compute-capability: {api.__name__} {api.__version__} builds for "
            f"{', '.join(sorted(known, key=_number))}, not for {', '.join(unknown)}."
        )
    if len(set(wanted)) != len(wanted):
        raise ConfigError(f"--compute-capability: expected each card once, got {', '.join(wanted)}.")
    return {card: known[card] for card in wanted}


def installed_card() -> str:
    """The compute capability of the card that TensorRT builds on, and for.

    Raises:
        UnavailableError: there is no GPU.
    """
    try:
        cuda = Cuda(0)
    except UnavailableError as error:
        raise UnavailableError(
            f"--format tensorrt: builds on the card that the engine is for. {error} --format tensorrt-rtx "
            "builds without one."
        ) from error
    try:
        major, minor = cuda.capability
    finally:
        cuda.close()
    return f"{major}.{minor}"


def cards_of(kind: Kind, options: BuildOptions, precision: str) -> list[str]:
    """What :func:`aicl_fast.engines.tensorrt.plan.check_card` compares with; empty is any card."""
    if kind == "tensorrt-rtx":
        return list(options.compute_capability) or [f"{LOWEST_CARD.get(precision, ANY_RTX)}+"]
    return ["8.0+"] if options.hardware_compatible else [installed_card()]


def read_timing_cache(file: Path) -> bytes:
    """What a file of kernel times holds; nothing where there is none yet.

    Raises:
        DataError: it cannot be read or written.
    """
    if not require_place(file).exists():
        return b""
    with reading_cache(require_file(file, "timing cache")):
        size = file.stat().st_size
        if size > MAX_CACHE:
            raise DataError(f"{file}: has {size} bytes, which no timing cache has. {_CACHE_ADVICE}")
        return file.read_bytes()


def reading_cache(file: Path) -> AbstractContextManager[None]:
    """What fails in reading a timing cache, as a DataError that names the file and the option."""
    return reading(file, "timing cache", advice=_CACHE_ADVICE)


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
