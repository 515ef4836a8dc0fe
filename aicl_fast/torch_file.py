"""State dicts that torch.save wrote, by this program or another: tensors alone, never code. Imports torch."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

from aicl_fast.errors import ModelError
from aicl_fast.extras import needs
from aicl_fast.files import require_file
from aicl_fast.limits import reading, require_size
from aicl_fast.text import listed

with needs("train"):
    import torch
    from torch import Tensor

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
"""Under which of its keys a training program's checkpoint has the weights."""
_DEPTH = 3
_SHOWN = 12
_GLOBAL = re.compile(r"\bGLOBAL ([\w.]+)")


def load_state_dict(path: str | os.PathLike[str], what: str) -> dict[str, Tensor]:
    """The tensors of a file by their names, also where a checkpoint has them among other things.

    Args:
        what: what the file is for, as a noun phrase.
    Raises:
        DataError: no such file.
        ModelError: damaged, no state dict, more than tensors in it, or tensors that would take far more
            memory than the file's size warrants (see :mod:`aicl_fast.limits`).
    """
    target = require_file(path, what)
    with reading(target, what, error=ModelError):
        if zipfile.is_zipfile(target):
            with zipfile.ZipFile(target) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            require_size(unpacked, target.stat().st_size, target, "its tensors", error=ModelError)
        found = _load(target)
        for _ in range(_DEPTH):
            if not isinstance(found, Mapping):
                break
            inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
            if inner is None:
                break
            found = inner
        if fault := _fault(found):
            raise ModelError(
                f"{target}: is not a state dict of tensors: it {fault}; expected a state dict, written with "
                "torch.save(model.state_dict(), path)."
            )
        return {str(name): value for name, value in found.items()}  # type: ignore[attr-defined]


def without_prefix(state: Mapping[str, Tensor], known: str) -> dict[str, Tensor]:
    """The same with what every name begins with removed, such as ``module.``, if ``known`` is then a name."""
    prefix = next((name.removesuffix(known) for name in state if name.endswith(f".{known}")), "")
    if known in state or not all(name.startswith(prefix) for name in state):
        return dict(state)
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _fault(found: object) -> str:
    """What makes an object no state dict, or nothing."""
    if not isinstance(found, Mapping):
        return f"holds a {type(found).__name__}"
    others = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    shown = listed(others, _SHOWN)
    if len(others) == len(found):
        return f"holds no tensors but {shown or 'nothing'}"
    return f"holds {shown}, which is no tensor" if others else ""


def _load(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(2)
    if head != b"PK" and head[:1] != b"\x80":
        raise ModelError(
            f"{path}: cannot be read: it is not a file that torch.save wrote, or is damaged. Expected a "
            "state dict of tensors."
        )
    try:
        with warnings.catch_warnings():
            # That a pickle is of another protocol is no remark for the user: it is refused below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message goes on to advise how to load such a file all the same; ours does not.
        named = _GLOBAL.search(str(error))
        if named is None and "nsupported" not in str(error):
            raise ModelError(
                f"{path}: cannot be read as a file that torch.save wrote: it is damaged or cut off. Copy it "
                "again."
            ) from error
        raise ModelError(
            f"{path}: holds more than tensors and is a pickle of Python objects"
            f"{f' ({named[1]})' if named else ''}, such as a whole module or a checkpoint of more than "
            "tensors. It is not opened, since it could run code. Where it was made, write the weights alone: "
            "torch.save(model.state_dict(), 'weights.pt')"
        ) from error
