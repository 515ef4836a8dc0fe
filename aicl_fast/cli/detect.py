"""detect: recordings on disk to a detection file. Imports nothing that a single recording does not need."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from aicl_fast.config import DataConfig, DecodeConfig, parse_overrides
from aicl_fast.dataset import read_streams
from aicl_fast.detections import Detections, save_detections
from aicl_fast.detector import Detector
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.features import Floats, check_lengths, load_features

Load = Callable[[], Floats]

BATCH = 16
"""Recordings run at a time."""


def run_detect(
    model: Path,
    features: list[Path],
    rgb: Path | None,
    flow: Path | None,
    fps: float | None,
    split: str,
    file: Path,
    overrides: list[str],
    threads: int | None,
) -> None:
    """``aicl-fast detect``."""
    detector = Detector(model, threads=threads)
    if overrides:
        detector.decode_config = _decode_config(detector, overrides)
    inputs = list(_inputs(detector.config.data, features, rgb, flow, split))
    found: dict[str, Detections] = {}
    if len(inputs) == 1:
        name, load = inputs[0]
        found[name] = detector(load(), fps=fps, video=name)
    else:
        from aicl_fast.cli.console import progress

        with progress("detecting") as bar:
            for start in range(0, len(inputs), BATCH):
                names, loads = zip(*inputs[start : start + BATCH], strict=True)
                batch = detector.batch([load() for load in loads], fps=fps, videos=names)
                found.update(zip(names, batch, strict=True))
                bar(len(found), len(inputs))
    save_detections(file, found)
    _print_summary(found, file)


def _decode_config(detector: Detector, overrides: list[str]) -> DecodeConfig:
    config = detector.config.with_values(parse_overrides(overrides))
    changed = {name for name in ("data", "model") if getattr(config, name) != getattr(detector.config, name)}
    if changed:
        raise ConfigError(
            f"--set: {', '.join(sorted(changed))} settings are fixed in an exported model; only decode "
            "settings (class_threshold, thresholds, nms, …) can be changed when detecting."
        )
    return config.decode


def _inputs(
    data: DataConfig, features: list[Path], rgb: Path | None, flow: Path | None, split: str
) -> Iterator[tuple[str, Load]]:
    """(name, how to read it) of every recording that the arguments mean."""
    if rgb is not None or flow is not None:
        if features:
            raise DataError("give either --rgb and --flow, or feature files and folders, not both.")
        if data.modal == "both" and (rgb is None or flow is None):
            raise DataError("--rgb and --flow go together: give both streams of the recording.")
        pair = [path for path in (rgb, flow) if path is not None]
        widths = [data.rgb_width] * (rgb is not None) + [data.flow_width] * (flow is not None)
        yield pair[0].stem, functools.partial(_load_files, pair, widths)
        return
    if not features:
        raise DataError("nothing to detect in: give --rgb and --flow, .npy files, or a folder of features.")
    for path in features:
        if not path.is_dir():
            yield path.stem, functools.partial(load_features, path, width=data.input_width)
            continue
        folder = path / "features" / split if (path / "features").is_dir() else path
        for name in _names(path, folder, split):
            yield name, functools.partial(_load_video, folder, name, data)


def _names(path: Path, folder: Path, split: str) -> list[str]:
    """The recordings of a data set's split file, or else of all the files in a folder of features."""
    listed = path / f"split_{split}.txt"
    if listed.is_file():
        return listed.read_text(encoding="utf-8").split()
    home = next((folder / stream for stream in ("rgb", "flow") if (folder / stream).is_dir()), folder)
    names = sorted(found.stem for found in home.glob("*.npy"))
    if not names:
        raise DataError(
            f"{path}: holds no features. Expected .npy files, rgb/ and flow/ with .npy files in them, or a "
            "data set folder with features/."
        )
    return names


def _load_files(paths: list[Path], widths: list[int]) -> Floats:
    streams = [load_features(path, width=width) for path, width in zip(paths, widths, strict=True)]
    check_lengths(*streams, name=" and ".join(map(str, paths)))
    return np.concatenate(streams, axis=1)


def _load_video(folder: Path, name: str, data: DataConfig) -> Floats:
    return np.concatenate(read_streams(folder, name, data), axis=1)


def _print_summary(found: dict[str, Detections], file: Path) -> None:
    import sys

    if len(found) == 1:
        (only,) = found.values()
        for detection in list(only)[:5]:
            label, score, start, end = detection
            sys.stdout.write(f"{start:9.2f} s to {end:8.2f} s  {score:7.3f}  {label}\n")
    total = sum(len(each) for each in found.values())
    sys.stdout.write(f"{total} detections in {len(found)} recording{'s'[: len(found) != 1]}: {file}\n")
