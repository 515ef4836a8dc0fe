"""Training, from a data set to a model file. Reads top to bottom."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aicl_fast.config import Config
from aicl_fast.dataset import Dataset
from aicl_fast.decode import decode
from aicl_fast.detections import Detections
from aicl_fast.errors import AiclError, UnavailableError
from aicl_fast.evaluate import MapResult, mean_average_precision
from aicl_fast.model import TwoBranchNet
from aicl_fast.train.losses import LossTerms, aicl_loss
from aicl_fast.train.sampling import Progress, Videos, batches
from aicl_fast.weights import save_model

LOG_EVERY = 10
"""Steps between two points of the loss curves."""


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        net: the kept weights.
        config: the settings, with the data set's classes.
        step: the step that the weights are of.
        result: mAP of those weights on the test videos.
        history: (step, average mAP) of every evaluation.
    """

    net: TwoBranchNet
    config: Config
    step: int
    result: MapResult
    history: list[tuple[int, float]]


def train(
    dataset: Dataset,
    out: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    reading: Progress | None = None,
    training: Callable[[int, int, float], None] | None = None,
) -> TrainResult:
    """Train AICL on a data set's video-level labels.

    Args:
        dataset: opened with both splits; its config holds every setting.
        out: folder for ``model.safetensors`` and TensorBoard's logs; None writes nothing.
        device: ``cpu`` or ``cuda``.
        reading: called with (videos read, all videos).
        training: called after each step with (step, steps, total loss).
    Raises:
        UnavailableError: a CUDA device was asked for and there is none.
        AiclError: a loss became NaN or infinite; nothing is kept.
    """
    config = dataset.config
    settings = config.train
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UnavailableError("device: 'cuda' was asked for, but torch finds no CUDA device. Use 'cpu'.")
    train_videos = Videos(dataset, "train", reading)
    test_videos = Videos(dataset, "test")

    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    net = TwoBranchNet(config)
    if config.model.standardize_input:
        mean, deviation = train_videos.statistics()
        net.set_input_statistics(torch.from_numpy(mean), torch.from_numpy(deviation))
    net.to(device).train()
    optimizer = torch.optim.Adam(
        net.parameters(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    labels = torch.from_numpy(train_videos.labels).to(device)
    log = _Log(out)
    history: list[tuple[int, float]] = []
    best: tuple[int, MapResult, dict[str, torch.Tensor]] | None = None

    for step, indices in zip(
        range(1, settings.steps + 1), batches(len(train_videos), settings.batch_size, rng), strict=False
    ):
        features = torch.from_numpy(train_videos.train_batch(indices.tolist(), rng)).to(device)
        warming = step <= settings.warmup_steps
        terms = aicl_loss(net(features), labels[indices], config, selection_gamma=1.0 if warming else None)
        optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

        if step % LOG_EVERY == 0 or step in (1, settings.steps) or training is not None:
            total = terms.total.item()
            if not math.isfinite(total):
                raise AiclError(
                    f"training: the loss became {total} at step {step}. Lower train.lr (now "
                    f"{settings.lr:g}) and look for extreme values in the features."
                )
            if training is not None:
                training(step, settings.steps, total)
        if step % LOG_EVERY == 0:
            log.losses(step, terms)
        last = step == settings.steps
        if last or (settings.eval_every and step % settings.eval_every == 0):
            result = evaluate(net, test_videos, dataset)
            history.append((step, result.average))
            log.mean_average_precision(step, result)
            if settings.keep == "last" or best is None or result.average > best[1].average:
                best = step, result, {k: v.detach().clone() for k, v in net.state_dict().items()}

    log.close()
    assert best is not None  # the last step always evaluates
    step, result, state = best
    net.load_state_dict(state)
    net.cpu().eval()
    if out is not None:
        save_model(Path(out) / "model.safetensors", net, config)
    return TrainResult(net, config, step, result, history)


@torch.no_grad()
def localize(net: TwoBranchNet, videos: Videos, config: Config) -> dict[str, Detections]:
    """Detections of every video by the network in torch, one video at a time."""
    device = next(net.parameters()).device
    was_training = net.training
    net.eval()
    found: dict[str, Detections] = {}
    k = config.topk
    for index, name in enumerate(videos.names):
        outputs = net(torch.from_numpy(videos.test_sample(index)[None]).to(device))
        order = outputs.A_score.topk(k, dim=1).indices
        video_scores = outputs.CAS.gather(1, order).mean(1).softmax(-1)
        found[name] = decode(
            outputs.A_score[0].cpu().numpy(),
            video_scores[0].cpu().numpy(),
            num_segments=len(videos.features[index]),
            classes=config.classes,
            config=config.decode,
            data=config.data,
            video=name,
        )
    net.train(was_training)
    return found


def evaluate(net: TwoBranchNet, videos: Videos, dataset: Dataset) -> MapResult:
    """mAP of the network on the test videos, at the preset's tIoU thresholds."""
    return mean_average_precision(
        dataset.truth("test"), localize(net, videos, dataset.config), dataset.config.evaluate.tious
    )


class _Log:
    """TensorBoard's curves, or nothing where no folder is given."""

    def __init__(self, out: str | os.PathLike[str] | None) -> None:
        self.writer: Any = None
        if out is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UnavailableError(
                "TensorBoard's logs need the package tensorboard: pip install 'aicl-fast[train]'"
            ) from error
        self.writer = SummaryWriter(str(Path(out) / "tensorboard"))

    def losses(self, step: int, terms: LossTerms) -> None:
        if self.writer is not None:
            for name, value in terms._asdict().items():
                self.writer.add_scalar(f"loss/{name}", value.item(), step)

    def mean_average_precision(self, step: int, result: MapResult) -> None:
        if self.writer is not None:
            self.writer.add_scalar("mAP/average", result.average, step)
            for tiou, value in zip(result.tious, result.mAP, strict=True):
                self.writer.add_scalar(f"mAP/{tiou:g}", float(value), step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
