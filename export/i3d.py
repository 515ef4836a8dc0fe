"""I3D to ONNX, OpenVINO and TensorRT: raw clips in, features and Kinetics' logits out."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.extras import needs

with needs("export"):
    import torch

from aicl_fast.errors import ConfigError
from aicl_fast.export.export import check_combination, check_target, target_of
from aicl_fast.export.formats import all_formats, get_format
from aicl_fast.export.onnx import NARROW, graph_of, set_metadata
from aicl_fast.export.options import ExportOptions, Progress, check_range
from aicl_fast.metadata import BATCH, Precision, Range, SegmentInfo, require_sizes
from aicl_fast.video.i3d import I3D, DeployedI3D
from aicl_fast.video.i3d_weights import i3d_hash, load_i3d
from aicl_fast.video.networks import SegmentNetwork, open_network

NETWORKS = ("i3d-rgb", "i3d-flow")
"""What ``aicl-fast export --model`` takes beside a detector's weights."""
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")

TOLERANCES = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 1e-2, "bf16": 6e-2}
"""How far features may be from those of float32 torch, as a share of the largest."""


def export_i3d(
    network: str,
    weights: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Write trained weights of I3D in a format that runs without torch.

    Args:
        network: one of :data:`NETWORKS`; the weights must be of that stream.
        weights: as :func:`aicl_fast.video.i3d_weights.load_i3d` takes them.
        out: the file to write; None is beside the weights, under their name.
        options: of :data:`PRECISIONS`, in a format that is one file; None is float32 ONNX.
        progress: told (steps done, steps in all, phase) while TensorRT builds.
    Returns:
        What was written.
    Raises:
        AiclError: as :func:`check_i3d_options`, ``load_i3d`` and the format's own function.
    """
    weights, out = Path(weights), None if out is None else Path(out)
    options = options or ExportOptions()
    check_i3d_options(network, options)
    target = target_of(weights, out, options)
    check_target(weights, target, options)
    net = load_i3d(weights, stream="flow" if network == "i3d-flow" else "rgb")
    row, precision = get_format(options.format), options.precision
    info = i3d_info(net, precision=precision, batch=options.batch)  # type: ignore[arg-type]
    narrow = row.narrow_graph and precision in NARROW
    model = build_i3d_onnx(net, info if narrow else replace(info, precision="fp32"), opset=options.opset)
    set_metadata(model, info)
    row.write(model, info, target, options, progress)
    return target


def check_i3d_options(network: str, options: ExportOptions) -> None:
    """Refuse what cannot be written, before any work starts.

    Raises:
        ConfigError: an unknown network, or a format, precision or option that I3D does not have.
        UnavailableError: a package or device that the format needs is missing.
    """
    if network not in NETWORKS:
        raise ConfigError(f"--model: expected {' or '.join(NETWORKS)}, got {network!r}.")
    files = tuple(row.name for row in all_formats().values() if row.suffix)
    for option, value, possible in (
        ("--format", options.format, files),
        ("--precision", options.precision, PRECISIONS),
    ):
        if value not in possible:
            raise ConfigError(f"{option}: expected {', '.join(possible)} for {network}, got {value!r}.")
    if options.segments is not None:
        raise ConfigError(f"--segments: is not of {network}, which takes one segment of 16 frames at a time.")
    if options.convolution != "auto":
        raise ConfigError(f"--convolution: is not of {network}; got {options.convolution!r}.")
    check_combination(options)


def i3d_info(net: I3D, *, precision: Precision = "fp32", batch: Range | None = None) -> SegmentInfo:
    """What an exported file will say about itself.

    Raises:
        ConfigError: a batch that cannot be, or that no file of these weights would be opened with.
    """
    from aicl_fast import __version__

    sizes = BATCH if batch is None else check_range(batch, "batch")
    classes = net.logits.conv3d.out_channels
    info = SegmentInfo(net.stream, i3d_hash(net), precision, sizes, classes, version=__version__)
    size = sum(each.nbytes for each in net.state_dict().values())
    require_sizes(info, size, f"a file of batch {sizes}", error=ConfigError)
    return info


def build_i3d_onnx(net: I3D, info: SegmentInfo, *, opset: int | None = None) -> Any:
    """The network as an ``onnx.ModelProto``, checked by onnx and by strict shape inference.

    Normalisation is in the graph and BatchNorm in the convolutions.

    Args:
        net: trained weights.
        info: from :func:`i3d_info`; of precision fp32, fp16 or bf16.
        opset: as :func:`aicl_fast.export.onnx.build_onnx`.
    Raises:
        ConfigError: an opset that cannot be written.
        UnavailableError: onnx or onnxscript is not installed.
    """
    return graph_of(DeployedI3D(net, NARROW.get(info.precision, torch.float32)), info, opset)


@dataclass(frozen=True)
class Agreement:
    """How far an exported network's features are from those of float32 torch."""

    name: str
    precision: str
    apart: float
    """Largest difference, as a share of the largest feature."""

    @property
    def passed(self) -> bool:
        """Within the tolerance of the file's precision."""
        return self.apart <= TOLERANCES[self.precision]


def verify_i3d(weights: Path, exported: Path, *, segments: int = 2, seed: int = 0) -> Agreement:
    """Run the same segments through the weights in torch and through what was made of them.

    The segments are smooth noise that drifts, so that neither space nor time is all alike.

    Raises:
        AiclError: as :func:`aicl_fast.video.networks.open_network`.
    """
    with open_network(weights) as reference, open_network(exported, stream=reference.stream) as other:
        clips = random_clips(reference, segments, seed)
        expected, found = reference(clips), other(clips)
        apart = float(np.abs(expected - found).max() / np.abs(expected).max())
        return Agreement(exported.name, other.precision, apart if np.isfinite(apart) else np.inf)


def random_clips(network: SegmentNetwork, count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Segments of smooth noise that drifts, as a :class:`SegmentNetwork` takes them."""
    info = network.info
    rng = np.random.default_rng(seed)
    cell = 16
    shape = (count, 1, info.size // cell + 2, info.size // cell + 2, info.channels)
    coarse = rng.random(shape, dtype=np.float32).repeat(cell, 2).repeat(cell, 3)
    views = [coarse[:, 0, frame : frame + info.size, : info.size] for frame in range(info.frames)]
    drifting = np.stack(views, 1)
    if info.stream == "rgb":
        return (255 * drifting).astype(np.uint8)
    return 50 * (drifting - 0.5)
