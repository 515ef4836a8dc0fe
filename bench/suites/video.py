"""What a segment of video costs: decoding, optical flow, the network, and all of it from file to features.

    python -m aicl_fast.bench video --json bench/results/video-cpu.json
    python -m aicl_fast.bench video --weights rgb_imagenet.pt --batch 1,8

A row is one way through one stage, at one batch of segments. Without weights they are random: the network's
speed is the same. The baseline of the stage *network* is float32 torch as one writes it, BatchNorm apart and
channels first. Every contender's features are compared with its before anything is timed. The stages
*decode*, *flow* and *whole* are in ``video_file.py``. A stage whose packages are not here is skipped, with
the reason.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from aicl_fast.bench.harness import machine, suite
from aicl_fast.bench.harness.arguments import count
from aicl_fast.bench.harness.measure import take_turns
from aicl_fast.data.features import Floats
from aicl_fast.errors import AiclError, ModelError, UnavailableError
from aicl_fast.export.i3d import TOLERANCES, export_i3d, random_clips
from aicl_fast.export.options import ExportOptions
from aicl_fast.metadata import FRAMES, Stream
from aicl_fast.video.i3d import FLOW_BOUND, I3D, DeployedI3D
from aicl_fast.video.i3d_weights import load_i3d
from aicl_fast.video.networks import SegmentNetwork, open_network

BASELINE = "torch eager, fp32"
STREAMS: tuple[Stream, ...] = ("rgb", "flow")
Clips = npt.NDArray[Any]
Extract = Callable[[Clips], Floats]


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        weights: of I3D.
        batches: segments a run.
        threads: of the CPU.
        device: ``cpu`` or ``cuda``.
        seconds: for each batch of each stage.
        turns: of each contender, at least.
        pairs: of frames, between which the stage *flow* computes it.
        compiled: measure torch.compile, which takes minutes to compile, too.
    """

    weights: Path
    batches: tuple[int, ...]
    threads: int
    device: str
    seconds: float
    compiled: bool
    turns: int = 5
    pairs: int = FRAMES


class PlainI3D:
    """The network in torch as one writes it: BatchNorm apart, channels first, normalisation before it."""

    def __init__(self, net: I3D, device: str) -> None:
        self.net = net.to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, clips: Clips) -> Floats:
        """(N, 1024) features of raw clips."""
        x = torch.from_numpy(clips).to(self.device).float().permute(0, 4, 1, 2, 3).contiguous()
        x = x / 127.5 - 1 if self.net.stream == "rgb" else x.clamp(-FLOW_BOUND, FLOW_BOUND) / FLOW_BOUND
        return self.net(x).features.cpu().numpy()  # type: ignore[no-any-return]


def measure_network(subject: Subject) -> list[dict[str, Any]]:
    """Clips in memory to features, by every engine and precision that runs here."""
    baseline = PlainI3D(load_i3d(subject.weights), subject.device)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        networks = open_networks(subject, Path(folder))
        contenders: dict[str, Extract] = {BASELINE: baseline, **networks}
        if subject.compiled:
            contenders |= compiled(subject)
        for batch in subject.batches:
            clips = random_clips(next(iter(networks.values())), batch)
            apart = check(contenders, clips, exact="fp32" if subject.device == "cpu" else "tf32")
            timings = take_turns(
                {name: partial(call, clips) for name, call in contenders.items()},
                BASELINE,
                seconds=subject.seconds,
                least=subject.turns,
            )
            for name, timing in timings.items():
                rows.append(
                    {
                        "stage": "network",
                        "way": name,
                        "batch": batch,
                        **timing.row(),
                        "segments_per_second": batch / timing.median,
                        "apart": apart[name],
                    }
                )
    return rows


def decode_stage(subject: Subject) -> list[dict[str, Any]]:
    """A file to frames; needs PyAV and OpenCV, which the network does not."""
    from aicl_fast.bench.suites.video_file import measure_decode

    return measure_decode(subject.seconds, least=subject.turns)


def flow_stage(subject: Subject) -> list[dict[str, Any]]:
    """Frames to optical flow; needs PyAV and OpenCV, too."""
    from aicl_fast.bench.suites.video_file import measure_flow

    return measure_flow(subject.seconds, subject.threads, pairs=subject.pairs, least=subject.turns)


def whole_stage(subject: Subject) -> list[dict[str, Any]]:
    """A file to features; needs them, too."""
    from aicl_fast.bench.suites.video_file import measure_whole

    with tempfile.TemporaryDirectory() as folder:
        networks: dict[str, Any] = {}
        for stream in STREAMS:
            weights = random_weights(Path(folder, f"i3d-{stream}.pt"), stream)
            networks[stream] = open_network(weights, device=subject.device, threads=subject.threads)
        return measure_whole(networks, subject.seconds, subject.threads, least=subject.turns)


STAGES: Mapping[str, Callable[[Subject], list[dict[str, Any]]]] = {
    "decode": decode_stage,
    "network": measure_network,
    "whole": whole_stage,
    "flow": flow_stage,
}
"""A function a stage, each giving rows with ``stage`` and ``way``."""


def open_networks(subject: Subject, folder: Path) -> dict[str, SegmentNetwork]:
    """Every engine and precision that runs here, by name; what does not is named on stderr."""
    on_gpu = subject.device != "cpu"
    weights, found = subject.weights, {}
    name = "i3d-flow" if load_i3d(weights).stream == "flow" else "i3d-rgb"

    def exported(format_: str, suffix: str) -> Path:
        target = folder / f"network{suffix}"
        return target if target.exists() else export_i3d(name, weights, target, ExportOptions(format_))

    def opened(path: Path, precision: str | None) -> SegmentNetwork:
        return open_network(path, device=subject.device, precision=precision, threads=subject.threads)

    ways: dict[str, Callable[[], SegmentNetwork]] = {}
    for precision in ("fp32", "bf16", "fp16") if on_gpu else ("fp32", "bf16"):
        ways[f"torch, {precision}"] = partial(opened, weights, precision)
    if not on_gpu:
        ways["ONNX Runtime, fp32"] = lambda: opened(exported("onnx", ".onnx"), None)
        for precision in ("fp32", "bf16"):
            ways[f"OpenVINO, {precision}"] = partial(
                lambda precision: opened(exported("openvino", ".openvino"), precision), precision
            )
    for way, call in ways.items():
        try:
            found[way] = call()
        except (UnavailableError, ModelError) as error:
            sys.stderr.write(f"{way}: skipped ({error})\n")
    return found


def compiled(subject: Subject) -> dict[str, Extract]:
    """``torch.compile`` of the network as it is deployed."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    found: dict[str, Extract] = {}
    for precision in ("fp32", "bf16") if subject.device == "cpu" else ("fp32", "bf16", "fp16"):
        net: nn.Module = DeployedI3D(load_i3d(subject.weights), dtypes[precision]).to(subject.device)
        ready: Any = torch.compile(net)

        @torch.inference_mode()
        def run(clips: Clips, ready: Any = ready) -> Floats:
            features: Floats = ready(torch.from_numpy(clips).to(subject.device))[0].cpu().numpy()
            return features

        found[f"torch compiled, {precision}"] = run
    return found


def check(contenders: Mapping[str, Extract], clips: Clips, exact: str = "fp32") -> dict[str, float]:
    """How far each one's features are from the baseline's, as a share of the largest.

    Args:
        contenders: by name, which ends with the precision; the baseline among them.
        clips: what they all get.
        exact: the precision whose tolerance float32 has; a GPU's float32 convolutions are ``tf32``.
    Raises:
        AiclError: further than its precision allows; its times would mean nothing.
    """
    expected = contenders[BASELINE](clips)
    found = {}
    for name, call in contenders.items():
        apart = float(np.abs(call(clips) - expected).max() / np.abs(expected).max())
        precision = name.rpartition(" ")[2]
        if not apart <= TOLERANCES[exact if precision == "fp32" else precision]:
            raise AiclError(
                f"{name}: features differ by {apart:.1e} of the largest, so its times mean nothing"
            )
        found[name] = apart
    return found


def random_weights(path: Path, stream: Stream = "rgb") -> Path:
    """Untrained weights whose activations neither vanish nor explode."""
    torch.manual_seed(0)
    net = I3D(stream)
    for unit in net.modules():
        if isinstance(unit, nn.Conv3d):
            nn.init.kaiming_normal_(unit.weight)
    torch.save(net.state_dict(), path)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, and record where ``--json`` says."""
    parser = suite.parser(
        __doc__, weights=None, batch=(1, 4), seconds=60.0, threads=torch.get_num_threads(), device="cpu"
    )
    parser.add_argument("--stage", choices=STAGES, action="append", help="may be repeated; all by default")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes minutes")
    parser.add_argument("--turns", type=count, default=5, help="of each way, however long they take (5)")
    parser.add_argument(
        "--pairs", type=count, default=FRAMES, help="of frames, for the flow between them (a segment's)"
    )
    options = parser.parse_args(arguments)
    machine.require(options.device)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or random_weights(Path(folder, "i3d-rgb.pt"))
        subject = Subject(
            weights, options.batch, options.threads, options.device, options.seconds, options.compile,
            options.turns, options.pairs,
        )  # fmt: skip
        about = options.weights.name if options.weights else "random weights"
        for stage in options.stage or STAGES:
            try:
                found = STAGES[stage](subject)
            except ModuleNotFoundError as error:
                if error.name not in ("av", "cv2"):
                    raise
                left_out.append({"stage": stage, "why": f"{error.name} is not installed"})
                print(f"{stage}: skipped, {left_out[-1]['why']}")
                continue
            rows += found
            more = {"threads": options.threads, "weights": about, "left_out": left_out}
            suite.show("video", found, **more)
            suite.record(options.json, "video", rows, **more)
    if not rows:
        raise UnavailableError("no stage can be measured: " + "; ".join(each["why"] for each in left_out))
