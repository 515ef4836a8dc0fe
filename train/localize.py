"""Curves and detections of videos by the network in torch: for evaluations, and for labels of segments."""

from __future__ import annotations

from collections.abc import Sequence

from aicl_fast.extras import needs

with needs("train"):
    import torch

from aicl_fast.config import Config
from aicl_fast.data.detections import Detections
from aicl_fast.data.sampling import sample_indices
from aicl_fast.data.scores import Scores
from aicl_fast.decode.decoder import Decoder
from aicl_fast.kernels.outputs import NetworkOutputs
from aicl_fast.kernels.pooling import topk_pool
from aicl_fast.model import TwoBranchNet, TwoBranchOutputs
from aicl_fast.train.sampling import Videos
from aicl_fast.windows import Windows, score_by_windows, warn_if_long, weighted


def localize(
    net: TwoBranchNet, videos: Videos, config: Config
) -> tuple[dict[str, Scores], dict[str, Detections]]:
    """Curves and detections of every video by the network in torch."""
    scores = score_videos(net, videos, config)
    found = Decoder(config.decode, config.classes).batch(list(scores.values()))
    return scores, dict(zip(videos.names, found, strict=True))


@torch.no_grad()
def score_videos(net: TwoBranchNet, videos: Videos, config: Config) -> dict[str, Scores]:
    """Curves of every video by the network in torch, one video at a time.

    Videos longer than those of training are scored in windows, as :class:`aicl_fast.Detector` does.
    """
    was_training = net.training
    net.eval()
    data = config.data
    windows = Windows.of(config, config.windows, data.fps, data.segments)
    scores: dict[str, Scores] = {}
    for index, name in enumerate(videos.names):
        count = int(videos.counts[index])
        if windows is not None and count > windows.limit:
            outputs = _windowed(net, videos, index, windows, config)
        else:
            rows = _outputs(net(videos.gather([index], [videos.sample(index)])), config)
            outputs = NetworkOutputs(*(value[0] for value in rows))
            outputs = weighted(outputs, config, config.decode)
            warn_if_long(count, data, data.segments, name)
        scores[name] = Scores(
            fused=outputs.scores,
            video_scores=outputs.video_scores,
            actionness=outputs.actionness,
            actionness_agnostic=outputs.actionness_agnostic,
            num_segments=count,
            fps=data.fps,
            frames_per_segment=data.frames_per_segment,
            classes=config.classes,
            name=name,
        )
    net.train(was_training)
    return scores


def _windowed(
    net: TwoBranchNet, videos: Videos, index: int, windows: Windows, config: Config
) -> NetworkOutputs:
    sampled = sample_indices(windows.length, windows.samples)

    def run(starts: Sequence[int]) -> NetworkOutputs:
        return _outputs(
            net(videos.gather([index] * len(starts), [start + sampled for start in starts])), config
        )

    count = int(videos.counts[index])
    return score_by_windows(count, windows, config, config.decode, run, lambda done, every: None)


def _outputs(outputs: TwoBranchOutputs, config: Config) -> NetworkOutputs:
    """What an exported network gives, from what the network in torch gives."""
    logits, _ = topk_pool(outputs.CAS, outputs.A_score, config.topk)
    values = (outputs.A_score, logits.softmax(-1), outputs.A, outputs.A_ca)
    return NetworkOutputs(*(value.float().cpu().numpy() for value in values))
