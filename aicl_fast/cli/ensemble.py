"""ensemble: several trained models as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from aicl_fast.cli.console import note, show
from aicl_fast.errors import ConfigError
from aicl_fast.files import require_place


def run(
    models: Annotated[list[Path], Argument(help="Weights (.safetensors), two or more.")],
    out: Annotated[Path, Option("--out", "-o", help="The ensemble's weights (.safetensors).")],
) -> None:
    """Merge models of the same data and settings into one wider network: the mean of their logits.

    It is a model like any other, and takes as long as its members together. The first model's decoding is
    kept; tune the ensemble afterwards.

    Examples:

      aicl-fast ensemble runs/a/model.safetensors runs/b/model.safetensors -o all.safetensors
    """
    from aicl_fast.train.ensemble import merge_networks
    from aicl_fast.weights import load_model, save_model

    if out.suffix.lower() != ".safetensors":
        raise ConfigError(f"--out {out}: expected a name that ends in .safetensors.")
    require_place(out)
    members = [load_model(path) for path in models]
    net, config = merge_networks(members, [str(path) for path in models])
    if any(each.decode != config.decode for _, each in members):
        note(f"the models differ in their decoding; {models[0]}'s is kept")
    save_model(out, net, config)
    show(f"{len(members)} models, embeddings of {config.model.embedding_width}: {out}")
