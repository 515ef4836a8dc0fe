"""Weights of the authors' program (``CAS_Only.pkl``) as a model file of ours.

The file is a pickled state dict. It is read by torch's restricted loader, which knows tensors and plain
containers and runs nothing else.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor

from aicl_fast.config import Config
from aicl_fast.errors import ConfigError, ModelError
from aicl_fast.limits import reading, require_size
from aicl_fast.model import TwoBranchNet
from aicl_fast.text import listed
from aicl_fast.torch_file import load_state_dict
from aicl_fast.weights import save_model

_PREFIX = "actionness_module."
_LAYERS = {
    "base_module.0": "embed",
    "cls.0": "classify",
    "action_module_rgb.0": "embed_rgb",
    "cls_rgb": "actionness_rgb",
    "action_module_flow.0": "embed_flow",
    "cls_flow": "actionness_flow",
}
NAMES: Mapping[str, str] = {
    f"{_PREFIX}{theirs}.{kind}": f"{ours}.{kind}"
    for theirs, ours in _LAYERS.items()
    for kind in ("weight", "bias")
}
"""The authors' keys and ours."""
_SHOWN = len(NAMES)
"""Keys that a message lists: all of the authors', and as many strange ones."""


def import_checkpoint(
    checkpoint: str | os.PathLike[str], model: str | os.PathLike[str], config: Config
) -> TwoBranchNet:
    """Read the authors' weights and write them as a model file.

    A state dict inside a dict (``{"state_dict": …}``) is found, and ``module.`` before the keys, which
    DataParallel puts there, is taken off.

    Args:
        checkpoint: the authors' file.
        model: safetensors file to write; it carries the config.
        config: settings of the training that the weights come from. They must be the released variant's:
            both streams, not standardised.
    Returns:
        The network, in evaluation mode. Its outputs are those of the authors' program.
    Raises:
        DataError: no such file.
        ModelError: not a file of tensors, or with other code in it (which is not run); keys are missing or
            unknown (they are listed); or a shape differs from the preset's.
        ConfigError: the settings have an input that the authors' network does not, or no class names.
    """
    if config.data.streams != "both" or config.model.standardize_input:
        raise ConfigError(
            "the authors' network reads both streams as they are: use a preset with streams=both and "
            "standardize_input=false (thumos14, activitynet12 or activitynet13)."
        )
    if not config.classes:
        raise ConfigError(
            f"classes: the preset {config.preset} has no names of its {config.model.num_classes} classes, "
            "without which the model could not say what it detects. Give them in the weights' order: "
            "--gt FILE takes an annotation file's labels, sorted; or --set classes=NAME,NAME,…; or "
            'classes = ["NAME", …] in a --config file.'
        )
    path = Path(checkpoint)
    read = load_state_dict(path, "checkpoint")
    with reading(path, "checkpoint", error=ModelError):
        # A tensor may be a view that is far larger than what it is a view of.
        needed = sum(4 * value.numel() for value in read.values())
        require_size(needed, path.stat().st_size, path, "its tensors", error=ModelError)
        state = _rename(read, path)
    net = TwoBranchNet(config)
    _check_shapes(state, net, config, path)
    net.load_state_dict(state)
    net.eval()
    save_model(model, net, config)
    return net


def _rename(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    if len(plain) != len(state):
        raise ModelError(f"{path}: some keys are there twice, with and without 'module.' before them.")
    missing = [key for key in NAMES if key not in plain]
    unknown = [key for key in plain if key not in NAMES]
    if missing or unknown:
        lines = [f"{path}: is not a checkpoint of the authors' network."]
        if missing:
            lines.append(f"missing: {listed(missing, _SHOWN)}")
        if unknown:
            lines.append(f"unknown: {listed([_with_hint(key, missing) for key in unknown], _SHOWN)}")
        lines.append(f"Expected exactly the {len(NAMES)} keys of {_PREFIX}*; convert or rename the others.")
        raise ModelError("\n  ".join(lines))
    state = {ours: plain[theirs] for theirs, ours in NAMES.items()}
    for theirs, ours in NAMES.items():
        value = state[ours]
        if not value.is_floating_point():
            raise ModelError(f"{path}: {theirs} holds {value.dtype}; expected floating-point weights.")
        if not torch.isfinite(value).all():
            raise ModelError(
                f"{path}: {theirs} holds NaN or infinity. The training diverged, or the file is damaged."
            )
    return {name: value.float().contiguous() for name, value in state.items()}


def _check_shapes(state: dict[str, Tensor], net: TwoBranchNet, config: Config, path: Path) -> None:
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    wrong = [
        f"{theirs}: expected {expected[ours]}, got {tuple(state[ours].shape)}"
        for theirs, ours in NAMES.items()
        if tuple(state[ours].shape) != expected[ours]
    ]
    if not wrong:
        return
    shapes = "\n  ".join(wrong)
    raise ModelError(
        f"{path}: {len(wrong)} shapes differ from the preset {config.preset}'s:\n  {shapes}\n"
        f"{_settings(state)}"
    )


def _settings(state: dict[str, Tensor]) -> str:
    """The settings that would fit, where the shapes leave no doubt."""
    embed, rgb, flow = (state[f"{name}.weight"] for name in ("embed", "embed_rgb", "embed_flow"))
    classify = state["classify.weight"]
    if not all(weight.ndim == 3 for weight in (embed, rgb, flow, classify)) or embed.shape[2] != 3:
        return "Its layers are of another kind than this network's."
    settings = (
        f"num_classes={classify.shape[0]}",
        f"embedding_width={embed.shape[0]}",
        f"rgb_width={rgb.shape[1]}",
        f"flow_width={flow.shape[1]}",
    )
    return f"The file's own are: {', '.join(settings)}. Name the preset that has these, or --set them."


def _with_hint(key: str, missing: list[str]) -> str:
    close = difflib.get_close_matches(key, missing, n=1, cutoff=0.75)
    return f"{key} (is it {close[0]}?)" if close else key


__all__ = ["NAMES", "import_checkpoint"]
