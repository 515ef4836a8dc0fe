"""Ensembles: several networks as one wider one, whose logits are the mean of theirs. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor

from aicl_fast.config import Config
from aicl_fast.config.schema import MAX_EMBEDDING_WIDTH
from aicl_fast.errors import ModelError
from aicl_fast.model import TwoBranchNet

_FREE = ("typical_segments", "longest_segments")
"""Settings of the data in which members may differ."""


def merge_networks(
    members: Sequence[tuple[TwoBranchNet, Config]], names: Sequence[str]
) -> tuple[TwoBranchNet, Config]:
    """One network that gives the mean of several networks' logits, class by class and segment by segment.

    The embeddings lie side by side, and each head has all of its members' weights, divided by their number.
    So the result is a network like any other, as wide and as costly as its members together, and exports,
    kernels and engines take it as such.

    Args:
        members: networks and their settings: of the same classes, streams, widths, T, fusion and features.
            Their embeddings may differ in width.
        names: of the members, for messages.
    Returns:
        The network, and the first member's settings with its width.
    Raises:
        ModelError: fewer than two members, or members that do not belong together; what differs is named.
    """
    if len(members) < 2:
        raise ModelError(f"ensemble: expected at least two models, got {len(members)}.")
    (first, config), *others = members
    for (_, other), name in zip(others, names[1:], strict=True):
        if differences := _differences(config, other):
            raise ModelError(
                f"{names[0]} and {name}: differ in {', '.join(differences)}. The members of an ensemble are "
                "trained on the same data with the same settings, but for the seed and the embedding width."
            )
    for (net, _), name in zip(others, names[1:], strict=True):
        if config.model.standardize_input and not (
            torch.equal(net.input_mean, first.input_mean) and torch.equal(net.input_scale, first.input_scale)
        ):
            raise ModelError(
                f"{names[0]} and {name}: were trained on other recordings, as their features' means say. "
                "Train the members of an ensemble on the same data."
            )
    width = sum(each.model.embedding_width for _, each in members)
    if width > MAX_EMBEDDING_WIDTH:
        raise ModelError(
            f"ensemble: its embeddings are {width} wide; expected at most {MAX_EMBEDDING_WIDTH}. Take fewer "
            "members."
        )
    merged = replace(config, model=replace(config.model, embedding_width=width))
    result = TwoBranchNet(merged)
    states = [net.state_dict() for net, _ in members]
    result.load_state_dict({name: _merged(name, [state[name] for state in states]) for name in states[0]})
    return result.eval(), merged


def _merged(name: str, values: list[Tensor]) -> Tensor:
    if name.startswith("embed"):
        return torch.cat(values)
    if name.startswith("input_"):
        return values[0]
    if name.endswith(".weight"):
        return torch.cat(values, dim=1) / len(values)
    return torch.stack(values).mean(0)


def _differences(first: Config, other: Config) -> list[str]:
    """Settings that differ and must not, by name."""
    found = [] if first.classes == other.classes else ["classes"]
    for section, free in (("data", _FREE), ("model", ("embedding_width",))):
        mine, theirs = (each.to_dict()[section] for each in (first, other))
        found += [f"{section}.{name}" for name in mine if name not in free and mine[name] != theirs[name]]
    return found
