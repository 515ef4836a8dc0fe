"""Weights of the authors' program (``CAS_Only.pkl``) as a model file of ours.

The file is a pickled state dict. It is read by torch's restricted loader, which knows tensors and plain
containers and runs nothing else.
"""

from __future__ import annotations

import difflib
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor

from aicl_fast.config import Config
from aicl_fast.errors import ConfigError, ModelError
from aicl_fast.files import require_file
from aicl_fast.model import TwoBranchNet
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
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
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
    if config.data.modal != "both" or config.model.standardize_input:
        raise ConfigError(
            "the authors' network reads both streams as they are: use a preset with modal=both and "
            "standardize_input=false (thumos14, activitynet12 or activitynet13)."
        )
    if not config.classes:
        raise ConfigError(
            f"classes: the preset {config.preset} has no names of its {config.model.num_classes} classes, "
            "without which the model could not say what it detects. Give them in the weights' order: "
            "--gt FILE takes an annotation file's labels, sorted; or --set classes=NAME,NAME,…; or "
            'classes = ["NAME", …] in a --config file.'
        )
    path = require_file(checkpoint, "checkpoint")
    state = _rename(_tensors(_load(path), path), path)
    net = TwoBranchNet(config)
    _check_shapes(state, net, config, path)
    net.load_state_dict(state)
    net.eval()
    save_model(model, net, config)
    return net


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(2)
    if head != b"PK" and head[:1] != b"\x80":
        raise ModelError(
            f"{path}: is not a file that torch.save wrote, or is damaged. Expected the authors' "
            "CAS_Only.pkl, a state dict of tensors."
        )
    try:
        with warnings.catch_warnings():
            # That a pickle is of another protocol is no remark for the user: it is refused below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message goes on to advise how to load such a file all the same; ours does not.
        reason = str(error)
        if "nsupported" not in reason:
            raise _unreadable(path, error) from error
        named = _GLOBAL.search(reason)
        what = f"{named.group(1)}, which could run code" if named else "objects that could run code"
        raise ModelError(
            f"{path}: holds more than tensors ({what}), so it was not loaded. Expected a state dict, written "
            "with torch.save(net.state_dict(), path). Take the weights out only if you trust the file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path}: cannot be read as a file that torch.save wrote ({type(error).__name__}). It is truncated "
        f"({path.stat().st_size} bytes) or of another format: copy it again."
    )


def _tensors(document: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(2):
        if isinstance(document, Mapping) and not any(isinstance(v, Tensor) for v in document.values()):
            inner = [document[name] for name in _WRAPPERS if isinstance(document.get(name), Mapping)]
            if inner:
                document = inner[0]
    if not isinstance(document, Mapping):
        raise ModelError(
            f"{path}: holds a {type(document).__name__}; expected a state dict: names and tensors."
        )
    found = {str(key): value for key, value in document.items() if isinstance(value, Tensor)}
    if not found:
        keys = ", ".join(map(str, list(document)[:_SHOWN])) or "nothing"
        raise ModelError(
            f"{path}: holds no tensors but {keys}. Expected the authors' state dict, by itself or under "
            f"{', '.join(_WRAPPERS)}."
        )
    others = sorted(str(key) for key in document if str(key) not in found)
    if others:
        raise ModelError(
            f"{path}: the state dict holds {_listed(others)}, which is no tensor. Expected weights alone."
        )
    return found


def _rename(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    if len(plain) != len(state):
        raise ModelError(f"{path}: some keys are there twice, with and without 'module.' before them.")
    missing = [key for key in NAMES if key not in plain]
    unknown = [key for key in plain if key not in NAMES]
    if missing or unknown:
        lines = [f"{path}: is not a checkpoint of the authors' network."]
        if missing:
            lines.append(f"missing: {_listed(missing)}")
        if unknown:
            lines.append(f"unknown: {_listed([_with_hint(key, missing) for key in unknown])}")
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


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


__all__ = ["NAMES", "import_checkpoint"]
