"""Finished runs on disk: whether one was trained on the same data with the same settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import DataError

_FREE = ("memory_gb", "compile", "save_every")
"""Training settings that do not change what is measured."""


def require_same(file: Path, document: Mapping[str, Any], wanted: Config, data_id: str) -> None:
    """Refuse the record of a run that answers another question.

    Args:
        file: the record's, for messages.
        document: what it holds, with ``data`` and ``config``.
        wanted: the settings that are asked for.
        data_id: of the data set, from :func:`data_id_of`.
    Raises:
        DataError: the run was trained on other data, or with other settings, which are named.
    """
    if document["data"] != data_id:
        raise DataError(
            f"{file}: this run was trained on other data. Name another folder (--out), or remove it."
        )
    differing = _differing(document["config"], wanted)
    if differing:
        raise DataError(
            f"{file}: this run was trained with other settings: {', '.join(differing)} differ. Go on with "
            "the same ones, name another folder (--out), or remove the file."
        )


def data_id_of(dataset: Dataset) -> str:
    """Tells one data set from another: its videos and annotations. Features are taken as they are."""
    truth = dataset.ground_truth.videos
    digest = hashlib.sha256()
    for split, names in dataset.videos.items():
        for name in names:
            segments = truth[name].segments.round(6).tolist()
            digest.update(json.dumps([split, name, list(truth[name].labels), segments]).encode())
    return digest.hexdigest()[:16]


def slug(name: str) -> str:
    """A run's name as that of its file or folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _differing(before: dict[str, Any], wanted: Config) -> list[str]:
    # As settings, since an earlier version may have had other names for the same.
    before, now = (_with_ramp(config.to_dict()) for config in (Config.from_dict(before), wanted))
    differing: list[str] = []
    for section, values in now.items():
        old = before.get(section)
        if isinstance(values, dict) and isinstance(old, dict):
            free = _FREE if section == "train" else ()
            differing += [f"{section}.{k}" for k, v in values.items() if k not in free and old.get(k, v) != v]
        elif old != values:
            differing.append(section)
    return differing


def _with_ramp(config: dict[str, Any]) -> dict[str, Any]:
    """Settings with the ramp's steps for ``all``, so that the two are the same."""
    train = config.get("train", {})
    if train.get("ramp_steps") != "all":
        return config
    return {**config, "train": {**train, "ramp_steps": max(0, train["steps"] - train["warmup_steps"])}}
