"""The curves of annotated recordings, scored once, from which any γ and decoding settings are tried."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aicl_fast.config import DecodeConfig
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.dataset import Dataset, Split
from aicl_fast.data.detections import Detections
from aicl_fast.data.features import Floats
from aicl_fast.data.sampling import sample
from aicl_fast.decode.decoder import Decoder
from aicl_fast.detector import Detector
from aicl_fast.errors import ModelError
from aicl_fast.windows import Windows, smoothed

if TYPE_CHECKING:
    from aicl_fast.model import TwoBranchNet

_BOTH = 0.5
"""A γ that shows both branches."""


@dataclass(frozen=True, eq=False)
class Curves:
    """What the network gives for one recording, before γ and the decoding.

    Attributes:
        probability: (T, C) softmax(CAS).
        agnostic: (T,) A_ca.
        classes: (T, C) class scores of each moment (docs/windows.md).
        video_scores: (C,) with the model's own γ.
        num_segments: n.
        in_windows: whether the recording is scored in windows.
        cas: (T, C) the class activation sequence, for the video scores at another γ; None where γ stays, and
            for a recording that is scored in windows, whose video scores are those of its moments.
        topk: k, of T segments those averaged into a video logit.
    """

    probability: Floats
    agnostic: Floats
    classes: Floats
    video_scores: Floats
    num_segments: int
    in_windows: bool
    cas: Floats | None = None
    topk: int = 1

    def scores(self, gamma: float, settings: DecodeConfig) -> tuple[Floats, Floats]:
        """(T, C) the fused score that these settings decode, and (C,) the video scores."""
        fused = (gamma * self.probability + (1 - gamma) * self.agnostic[:, None]).astype(np.float32)
        video_scores = self.video_scores
        if self.cas is not None:
            best = np.argpartition(-fused, self.topk - 1, axis=0)[: self.topk]
            logits = np.take_along_axis(self.cas, best, 0).mean(0)
            powers = np.exp(logits - logits.max())
            video_scores = powers / powers.sum()
        power = settings.power_in_windows if self.in_windows else settings.power_whole
        if power:
            fused *= self.classes ** np.float32(power)
        return fused, video_scores

    def decode(self, decoder: Decoder, gamma: float, fps: float, frames: int, video: str) -> Detections:
        """The detections that a decoder's settings give with this γ."""
        fused, video_scores = self.scores(gamma, decoder.config)
        return decoder.decode(fused, video_scores, self.num_segments, fps, frames, video)


def collect_curves(
    detector: Detector,
    dataset: Dataset,
    split: Split,
    videos: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    net: TwoBranchNet | None = None,
) -> dict[str, Curves]:
    """Score recordings with a model.

    Args:
        detector: its γ is above 0.
        dataset: where the features are.
        split: of these videos.
        videos: their names.
        progress: called with (recordings done, all).
        net: the model's network, if γ is to be chosen: the video scores depend on it.
    Raises:
        ModelError: the model's γ is 0, so its scores hold nothing of the classes.
        DataError: features that cannot be used.
    """
    gamma = detector.config.model.fusion_gamma
    if gamma == 0:
        raise ModelError(
            f"{detector.path}: was exported with γ = 0, so its scores hold nothing of the classes. Tune the "
            "weights (.safetensors), and export again."
        )
    plain = detector.decode_config
    detector.decode_config = replace(plain, class_power=0.0)
    data, span = detector.config.data, plain.class_span
    windows = Windows.of(detector.config, detector.windows_config, data.fps, detector.segments)
    found = {}
    try:
        for done, video in enumerate(videos):
            features = dataset.features(split, video)
            scores = detector.scores(features, video=video)
            in_windows = windows is not None and scores.num_segments > windows.limit
            agnostic = scores.actionness_agnostic
            aware = scores.fused - (1 - gamma) * agnostic[:, None]
            probability = (aware / gamma).astype(np.float32)
            found[video] = Curves(
                probability,
                agnostic,
                smoothed(np.clip(probability, 0, 1), span),
                scores.video_scores,
                scores.num_segments,
                in_windows,
                None if net is None or in_windows else _cas(net, features, detector.segments),
                detector.config.model.topk(detector.segments),
            )
            progress(done + 1, len(videos))
    finally:
        detector.decode_config = plain
    return found


def weights_curves(
    path: str | os.PathLike[str],
    dataset: Dataset,
    split: Split,
    videos: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Curves]:
    """:func:`collect_curves` of weights (.safetensors), for any γ. Imports torch.

    They are scored with a γ that shows both branches, whatever their own is.

    Raises:
        ModelError: no file of weights.
        DataError: features that cannot be used.
    """
    from aicl_fast.weights import load_model, save_model

    net, config = load_model(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(path).name
        save_model(copy, net, replace(config, model=replace(config.model, fusion_gamma=_BOTH)))
        with Detector(copy) as detector:
            return collect_curves(detector, dataset, split, videos, progress, net=net)


def _cas(net: TwoBranchNet, features: Floats, segments: int) -> Floats:
    """(T, C) the class activation sequence of a recording."""
    import torch

    with torch.inference_mode():
        cas: Floats = net(torch.from_numpy(sample([(features,)], segments))).CAS[0].numpy()
    return cas


def timed_videos(truth: GroundTruth) -> list[str]:
    """The videos whose annotations have times: no points, and not all of them cover the whole video."""
    return [name for name, video in truth.videos.items() if video.timed.any() and not video.points.any()]
