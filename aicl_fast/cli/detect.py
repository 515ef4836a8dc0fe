"""detect: recordings on disk to a detection file. Imports nothing that a single recording does not need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aicl_fast.config import DecodeConfig, parse_overrides
from aicl_fast.detections import Detections, save_detections
from aicl_fast.detector import Detector
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.features import Floats, load_features
from aicl_fast.files import require_file

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
    inputs = list(_inputs(features, rgb, flow, split))
    found: dict[str, Detections] = {}
    if len(inputs) == 1:
        name, paths = inputs[0]
        found[name] = detector(*_load(detector, paths), fps=fps, video=name)
    else:
        from aicl_fast.cli.console import progress

        with progress("detecting") as bar:
            for start in range(0, len(inputs), BATCH):
                chunk = inputs[start : start + BATCH]
                recordings = [_joined(_load(detector, paths)) for _, paths in chunk]
                names = [name for name, _ in chunk]
                found.update(zip(names, detector.batch(recordings, fps=fps, videos=names), strict=True))
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
    features: list[Path], rgb: Path | None, flow: Path | None, split: str
) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """(name, its file or its two files) of every recording that the arguments mean."""
    if rgb is not None or flow is not None:
        if rgb is None or flow is None:
            raise DataError("--rgb and --flow go together: give both streams of the recording.")
        if features:
            raise DataError("give either --rgb and --flow, or feature files and folders, not both.")
        yield rgb.stem, (rgb, flow)
        return
    if not features:
        raise DataError("nothing to detect in: give --rgb and --flow, .npy files, or a folder of features.")
    for path in features:
        if not path.is_dir():
            yield path.stem, (path,)
        elif (path / "features").is_dir():
            names = require_file(path / f"split_{split}.txt", "split file").read_text().split()
            yield from _pairs(path / "features" / split, names)
        elif (path / "rgb").is_dir():
            yield from _pairs(path, sorted(found.stem for found in (path / "rgb").glob("*.npy")))
        else:
            raise DataError(
                f"{path}: holds neither rgb/ and flow/ nor features/. Expected a folder of features."
            )


def _pairs(folder: Path, names: list[str]) -> Iterator[tuple[str, tuple[Path, ...]]]:
    if not names:
        raise DataError(f"{folder}: holds no recordings; expected rgb/<name>.npy and flow/<name>.npy.")
    for name in names:
        yield name, (folder / "rgb" / f"{name}.npy", folder / "flow" / f"{name}.npy")


def _load(detector: Detector, paths: tuple[Path, ...]) -> tuple[Floats, ...]:
    data = detector.config.data
    if len(paths) == 1:
        return (load_features(paths[0], width=data.rgb_width + data.flow_width),)
    return load_features(paths[0], width=data.rgb_width), load_features(paths[1], width=data.flow_width)


def _joined(streams: tuple[Floats, ...]) -> Floats | tuple[Floats, Floats]:
    return streams[0] if len(streams) == 1 else (streams[0], streams[1])


def _print_summary(found: dict[str, Detections], file: Path) -> None:
    import sys

    if len(found) == 1:
        (only,) = found.values()
        for detection in list(only)[:5]:
            label, score, start, end = detection
            sys.stdout.write(f"{start:9.2f} s to {end:8.2f} s  {score:7.3f}  {label}\n")
    total = sum(len(each) for each in found.values())
    sys.stdout.write(f"{total} detections in {len(found)} recording{'s'[: len(found) != 1]}: {file}\n")
