"""Weights of I3D as people have them: the PyTorch port's state dict, or the Flax layout. Imports torch."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor

from aicl_fast.data.arrays import open_archive
from aicl_fast.engines.registry import I3D_SUFFIXES
from aicl_fast.errors import ModelError
from aicl_fast.files import require_file
from aicl_fast.limits import reading, require_size
from aicl_fast.metadata import METADATA_KEY, Stream
from aicl_fast.torch_file import load_state_dict, without_prefix
from aicl_fast.video.i3d import I3D
from aicl_fast.weights import weights_hash

_WHAT = "weights of I3D"
_HEAD = "logits.conv3d.weight"
_STEM = "Conv3d_1a_7x7.conv3d.weight"
_COUNTER = "num_batches_tracked"
"""In each BatchNorm of a program that trains; not used."""
_BRANCHES = {"0/0a": "b0", "1/0a": "b1a", "1/0b": "b1b", "2/0a": "b2a", "2/0b": "b2b", "3/0b": "b3b"}
_PARAMETERS = {
    "Conv_0/kernel": "conv3d.weight",
    "Conv_0/bias": "conv3d.bias",
    "BatchNorm_0/scale": "bn.weight",
    "BatchNorm_0/bias": "bn.bias",
    "BatchNorm_0/mean": "bn.running_mean",
    "BatchNorm_0/var": "bn.running_var",
}


def load_i3d(path: str | os.PathLike[str], *, stream: Stream | None = None) -> I3D:
    """Read trained weights: the network on the CPU in evaluation mode, BatchNorm not folded.

    Args:
        path: ``.pt`` (``.pth``, ``.ckpt``, ``.tar``) or ``.safetensors``, a state dict of the PyTorch port
            (``rgb_imagenet.pt``), also with
            ``module.`` or the like before all its names, or in a checkpoint under ``state_dict``,
            ``model_state_dict`` or ``model``; or ``.npz``, arrays of the Flax layout
            (``params/Mixed_3b/Branch_0/Conv3d_0a_1x1/Conv_0/kernel``, channels last), or of
            the port's names.
        stream: what the weights must be for; None takes what they are for.
    Raises:
        DataError: no such file, or an array of Python objects.
        ModelError: damaged, not I3D, lacking a parameter, of the other stream, or of far more memory than the
            file's size warrants (see :mod:`aicl_fast.limits`).
    """
    target = require_file(path, _WHAT)
    with reading(target, _WHAT, error=ModelError):
        state = without_prefix(_read(target), _STEM)
        found = _stream(state, target)
        if stream not in (None, found):
            raise ModelError(f"{target}: holds weights of the {found} stream, not of {stream!r}.")
        # Without memory, until it is known that the file's tensors are those of this network.
        with torch.device("meta"):
            net = I3D(found, classes=len(state[_HEAD]))
        net.load_state_dict(_checked(state, net.state_dict(), target), assign=True)
        return net.eval()


def _stream(state: Mapping[str, Tensor], path: Path) -> Stream:
    """What the weights are for, of a network that begins and ends as I3D does."""
    missing = [name for name in (_STEM, _HEAD) if name not in state]
    if missing:
        raise ModelError(
            f"{path}: is not I3D: it lacks {' and '.join(missing)}. Expected the PyTorch port's state dict "
            "(rgb_imagenet.pt, flow_imagenet.pt) or the arrays of the Flax layout (.npz)."
        )
    for name in (_STEM, _HEAD):
        if state[name].ndim != 5:
            raise ModelError(
                f"{path}: {name} has shape {tuple(state[name].shape)}; expected a convolution of three "
                "dimensions, which has five."
            )
    return "flow" if state[_STEM].shape[1] == 2 else "rgb"


def _checked(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors in float32, all of the network's names and shapes."""
    counters = {name for name in {*state, *own} if name.endswith(_COUNTER)}
    # The release has no scale: its BatchNorm is followed by ReLU and a convolution.
    scales = {name for name in own if name.endswith("bn.weight") and name not in state}
    wrong = [
        name
        for name, value in own.items()
        if name not in counters | scales and (name not in state or state[name].shape != value.shape)
    ]
    wrong += [name for name in state if name not in own and name not in counters]
    if wrong:
        listed = ", ".join(wrong[:3]) + (", …" if len(wrong) > 3 else "")
        raise ModelError(
            f"{path}: {len(wrong)} parameters are missing, unknown or of another shape than I3D's: "
            f"{listed}. Expected the weights of the two-stream inflated Inception-v1."
        )
    needed = 4 * sum(value.numel() for value in own.values())
    require_size(needed, path.stat().st_size, path, "the network", error=ModelError)
    found = {}
    for name, value in own.items():
        if name in counters or name in scales:
            found[name] = torch.ones(value.shape, dtype=value.dtype)
            continue
        found[name] = state[name].float().contiguous()
        if not found[name].isfinite().all():
            raise ModelError(
                f"{path}: {name} holds NaN or infinite values. Copy or download the weights again."
            )
    return found


def i3d_hash(net: I3D) -> str:
    """SHA-256 of the weights in hexadecimal, the same for every file format that they came in."""
    state = net.state_dict()
    return weights_hash({name: value for name, value in state.items() if not name.endswith(_COUNTER)})


def _read(path: Path) -> dict[str, Tensor]:
    suffix = path.suffix.lower()
    if suffix not in (".pt", ".pth") and _is_pickle(path):
        raise ModelError(
            f"{path}: is a Python pickle, which is not read: it could run code. If you trust where it comes "
            "from, make an .npz of it; docs/video.md says how."
        )
    if suffix == ".npz":
        return _from_flax(path)
    if suffix == ".safetensors":
        return _from_safetensors(path)
    if suffix in I3D_SUFFIXES:
        return load_state_dict(path, _WHAT)
    raise ModelError(f"{path}: expected weights of I3D in one of {', '.join(I3D_SUFFIXES)}.")


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        if METADATA_KEY in (file.metadata() or {}):
            raise ModelError(
                f"{path}: is a detector's model, which reads features; expected weights of I3D, which "
                "reads video. Open it with aicl_fast.Detector."
            )
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as pickles of protocol 2 and later do."""
    with path.open("rb") as file:
        mark, protocol = (file.read(2) + b"\0\0")[:2]
    return mark == 0x80 and 2 <= protocol <= pickle.HIGHEST_PROTOCOL


def _from_flax(path: Path) -> dict[str, Tensor]:
    state = {}
    with open_archive(path, _WHAT, error=ModelError) as archive:
        if "meta" in archive.names:
            raise ModelError(
                f"{path}: is a features file, which `aicl-fast features` wrote; expected weights of I3D, "
                "which reads video."
            )
        for key in archive.names:
            value = torch.from_numpy(np.ascontiguousarray(archive.read(key)))
            if _port_name(key) == key:  # of the port, or unknown
                state[key] = value
                continue
            # (T, H, W, in, out) is (out, in, T, H, W) here; statistics keep their ones for broadcasting.
            state[_port_name(key)] = (
                value.permute(4, 3, 0, 1, 2) if key.endswith("kernel") else value.flatten()
            )
    return state


def _port_name(key: str) -> str:
    """``params/Mixed_3b/Branch_1/Conv3d_0b_3x3/Conv_0/kernel`` as ``Mixed_3b.b1b.conv3d.weight``.

    A name of another form is kept, for the error that lists it.
    """
    match = re.fullmatch(r"(?:params|batch_stats)/(.+)/(\w+_0/\w+)", key)
    if match is None or match[2] not in _PARAMETERS:
        return key
    layer, parameter = match[1], _PARAMETERS[match[2]]
    branch = re.fullmatch(r"(Mixed_\w+)/Branch_(\d)/Conv3d_(0\w)_\dx\d", layer)
    if branch is not None:
        # The release itself calls one 3x3 convolution 0a.
        place = "0b" if layer.endswith("3x3") else branch[3]
        return f"{branch[1]}.{_BRANCHES.get(f'{branch[2]}/{place}', layer)}.{parameter}"
    return f"{'logits' if layer.startswith('Logits/') else layer}.{parameter}"
