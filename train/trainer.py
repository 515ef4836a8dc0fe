"""Training, from a data set to a model file. Reads top to bottom."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor, nn

from aicl_fast.config import Config, TrainConfig
from aicl_fast.data.annotations import GroundTruth
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.detections import Detections
from aicl_fast.data.scores import Scores
from aicl_fast.devices import torch_device
from aicl_fast.errors import AiclError, DataError
from aicl_fast.evaluate import (
    Classification,
    MapResult,
    SegmentAccuracy,
    mean_average_precision,
    segment_accuracy,
    video_classification,
)
from aicl_fast.files import remove_temporary
from aicl_fast.kernels.mining import above_median
from aicl_fast.locks import locked_folder
from aicl_fast.model import TwoBranchNet, TwoBranchOutputs
from aicl_fast.train.checkpoint import (
    State,
    fingerprint,
    latest_checkpoint,
    load_checkpoint,
    remove_unfinished,
    save_checkpoint,
    step_of,
)
from aicl_fast.train.distributed import Ranks, joined_ranks
from aicl_fast.train.localize import localize
from aicl_fast.train.logs import LOG_EVERY, RunLog
from aicl_fast.train.losses import TERMS, Losses, SegmentTargets, aicl_loss
from aicl_fast.train.sampling import BatchOrder, Progress, Videos
from aicl_fast.train.schedules import learning_rate, selection_gamma
from aicl_fast.train.targets import Targets
from aicl_fast.weights import save_model

Loss = Callable[[Tensor, Tensor, Tensor | None, SegmentTargets | None], tuple[TwoBranchOutputs, Losses]]
"""(features, labels, γ of the selection, targets of segments) -> outputs and losses."""
MakeNet = Callable[[Config], TwoBranchNet]
_RECORDS = ("model.safetensors", "log.csv", "tensorboard")
"""What a run leaves in its folder beside checkpoints."""


@dataclass(frozen=True)
class Measured:
    """How good weights are on some videos.

    Attributes:
        localization: mAP of the detections; None where no video has times.
        accuracy: A_bin and A_ca_bin accuracy, the same.
        classification: of the video scores.
        scores, detections: of each video, from which these were measured.
    """

    localization: MapResult | None
    accuracy: SegmentAccuracy | None
    classification: Classification
    scores: Mapping[str, Scores] = field(default_factory=dict, repr=False, compare=False)
    detections: Mapping[str, Detections] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        net: the kept weights, on the CPU in evaluation mode.
        config: the settings, with the data set's classes.
        step: the step that the weights are of.
        measured: how good they are on the test videos; None where there are none.
        history: (step, average mAP) of every evaluation on the videos that choose.
        started_at: the step of the checkpoint that it went on from; 0 where it started from the beginning.
    """

    net: TwoBranchNet
    config: Config
    step: int
    measured: Measured | None
    history: list[tuple[int, float]]
    started_at: int = 0

    @property
    def localization(self) -> MapResult:
        """mAP on the test videos.

        Raises:
            DataError: there are none, or none has times.
        """
        if self.measured is None or self.measured.localization is None:
            raise DataError("no test video has times, so there is no mAP. Annotate some with start and end.")
        return self.measured.localization

    @property
    def accuracy(self) -> SegmentAccuracy:
        """A_bin and A_ca_bin accuracy on the test videos. Raises as :attr:`localization`."""
        if self.measured is None or self.measured.accuracy is None:
            raise DataError("no test video has times, so there is no accuracy of segments.")
        return self.measured.accuracy


def train(
    dataset: Dataset,
    out: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    reading: Progress | None = None,
    starting: Callable[[int], None] | None = None,
    training: Callable[[int, int, float], None] | None = None,
    evaluated: Callable[[int, Measured], None] | None = None,
    make_net: MakeNet = TwoBranchNet,
) -> TrainResult:
    """Train AICL on a data set's video-level labels.

    Started by torchrun, the processes share each batch, by torch.distributed.

    Args:
        dataset: opened with both splits; its config holds every setting. It may have no test videos, or some
            with labels alone, if ``train.keep`` is ``last``.
        out: folder for ``model.safetensors``, ``log.csv``, TensorBoard's logs and checkpoints; None writes
            nothing.
        device: ``cpu``, ``cuda`` or ``cuda:N``; several processes take a GPU each.
        resume: start from the newest checkpoint in ``out`` to the same weights that an uninterrupted run ends
            with, bit for bit on one kind of machine with as many threads; another number of threads is warned
            of. Where there is no checkpoint, start from the beginning.
        overwrite: throw away a run that ``out`` holds.
        reading: called with (training videos read, all of them).
        starting: called once with the step that the run resumes from, 0 from the beginning.
        training: called every few steps with (step, steps, total loss of the batch).
        evaluated: called after each evaluation with (step, what was measured).
        make_net: makes the network that is trained; the ablations pass variants of it. Model files hold
            the method's own network only, so another one is trained with ``out`` None.
    Raises:
        ConfigError: a device that training does not run on.
        UnavailableError: a CUDA device was asked for and there is none.
        DataError: ``out`` cannot be written to, another process trains in it, there is no room, or it holds
            a run and neither ``resume`` nor ``overwrite`` is given; or ``train.keep`` chooses by mAP, and the
            videos that choose have no times.
        ModelError: ``resume`` with other settings or other data than the run was started with.
        AiclError: a loss or a weight became NaN or infinite; the last checkpoint stays.
    """
    torch_device(device)
    folder = None if out is None else Path(out)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_determinism(dataset.config.train.deterministic))
        ranks, place = stack.enter_context(joined_ranks(device))
        if ranks.is_main and folder is not None:
            stack.enter_context(locked_folder(folder))
            _make_room(folder, resume, overwrite)
        return _run(dataset, folder, place, ranks, resume, reading, starting, training, evaluated, make_net)


def _run(
    dataset: Dataset,
    folder: Path | None,
    device: torch.device,
    ranks: Ranks,
    resume: bool,
    reading: Progress | None,
    starting: Callable[[int], None] | None,
    training: Callable[[int, int, float], None] | None,
    evaluated: Callable[[int, Measured], None] | None,
    make_net: MakeNet,
) -> TrainResult:
    config, settings = dataset.config, dataset.config.train
    rng = np.random.default_rng(settings.seed)
    names, held_out = _hold_out(dataset, rng)
    _check_times(dataset, held_out)
    videos = Videos(dataset, "train", names, device=device, progress=reading)
    model_config = _with_lengths(config, videos.counts)
    dataset = Dataset(dataset.root, dataset.ground_truth, dataset.videos, model_config)
    targets = Targets(dataset, videos)
    # The main process alone evaluates, so it alone reads what is evaluated on, out of the same budget.
    choosing = test = None
    if ranks.is_main:
        left = settings.memory_gb - videos.memory_gb
        if dataset.truth("test").classes:
            choosing = test = Videos(dataset, "test", device=device, memory_gb=left)
            left -= test.memory_gb
        if settings.keep == "val":
            choosing = Videos(dataset, "train", held_out, device=device, memory_gb=left)

    torch.manual_seed(settings.seed)
    net = make_net(config)
    if config.model.standardize_input:
        net.set_input_statistics(*videos.statistics())
    net.to(device).train()
    optimizer = torch.optim.Adam(
        net.parameters(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    order = BatchOrder(len(videos), settings.batch_size, rng)
    state = State(net, optimizer, order, fingerprint(dataset, names, held_out, videos.counts.tolist()))
    checkpoint = latest_checkpoint(folder / "checkpoints") if folder is not None and resume else None
    if checkpoint is not None:
        load_checkpoint(checkpoint, state, config)
    if targets.needs_teacher and state.teacher is None:
        state.teacher = _copy(net.state_dict())
    if state.labelled_by is not None:
        labelled = max(step for step in range(1, state.step + 1) if targets.due(step))
        targets.label(_net_with(state.labelled_by, config, make_net, device), labelled)
    if settings.compile:
        # Else what earlier runs of this process compiled counts against torch's limit for one function.
        torch.compiler.reset()
    loss = make_loss(net, config, ranks)
    log = RunLog(folder if ranks.is_main else None, config.evaluate.tious, after=state.step)
    started_at = state.step
    if starting is not None:
        starting(started_at)

    while state.step < settings.steps and not _out_of_patience(state, settings):
        state.step += 1
        step, last = state.step, state.step == settings.steps
        logged = last or step == 1 or step % LOG_EVERY == 0
        evaluates = settings.eval_every > 0 and step % settings.eval_every == 0
        saved = last or (settings.save_every > 0 and step % settings.save_every == 0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        gamma = selection_gamma(step, config)
        if state.teacher is not None and targets.due(step):
            state.labelled_by = _copy(state.teacher)
            targets.label(_net_with(state.labelled_by, config, make_net, device), step)

        # Every process draws the whole batch, so all agree on it, and takes its share.
        batch = state.order.next()
        samples = [videos.sample(index, rng) for index in batch]
        share = ranks.share(len(batch))
        mine = batch[share]
        # A process left without a video in a short last batch runs one at no weight, to stay in step.
        indices, drawn = (mine, samples[share]) if mine else (batch[:1], samples[:1])
        features = videos.gather(indices, drawn)
        labels = videos.labels_of(indices)

        selection = None if gamma is None else torch.full((), gamma, device=device)
        outputs, terms = loss(features, labels, selection, targets.of(indices, drawn))
        optimizer.zero_grad(set_to_none=True)
        # Weighted so, the processes' losses add up to the whole batch's mean. Their gradients are averaged.
        weight = len(mine) / len(batch)
        (terms["total"] * (weight * ranks.world)).backward()  # type: ignore[no-untyped-call]
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(net.parameters(), settings.clip_norm)
        optimizer.step()
        if settings.ema_decay:
            state.average = _averaged(state.average, net, settings.ema_decay)
        if state.teacher is not None:
            state.teacher = _averaged(state.teacher, net, settings.teacher_decay)

        if logged or evaluates or saved:
            measured = torch.stack([*terms.values(), _consistent(outputs)]).detach() * weight
            *losses, agree = ranks.sum(measured).tolist()
            _check_finite(net, losses[-1], step, settings)
        if logged:
            if training is not None:
                training(step, settings.steps, losses[-1])
            inconsistent = config.data.segments - agree
            rate = optimizer.param_groups[0]["lr"]
            log.step(
                step, losses, lr=rate, selection_gamma=gamma, consistent=agree, inconsistent=inconsistent
            )
        if evaluates:
            if choosing is not None:
                now = evaluate(_candidate(state, config, make_net), choosing, dataset)
                if now.localization is not None:
                    log.evaluation(step, now.localization, now.accuracy)
                    state.history.append((step, now.localization.average))
                if evaluated is not None:
                    evaluated(step, now)
            state.history = ranks.from_main(state.history)
            score = state.history[-1][1] if state.history else -math.inf
            if score > state.best_score:
                state.best_score, state.best_step = score, step
                if settings.keep != "last":
                    state.best = _copy(_weights(state))
        log.flush()
        if folder is not None and ranks.is_main and (saved or _out_of_patience(state, settings)):
            log.sync()
            save_checkpoint(folder / "checkpoints", state, config)

    log.close()
    chosen = state.best is not None and settings.keep != "last"
    final = make_net(config)
    final.load_state_dict(state.best if chosen and state.best is not None else _weights(state))
    final.eval()
    if folder is not None and ranks.is_main:
        save_model(folder / "model.safetensors", final, model_config)
    found = evaluate(final.to(device), test, dataset) if test is not None else None
    reached = ranks.from_main(found)
    step = state.best_step if chosen else state.step
    return TrainResult(final.cpu(), model_config, step, reached, state.history, started_at)


class _Step(nn.Module):
    """The forward pass and the losses. Only the total carries a gradient."""

    def __init__(self, net: TwoBranchNet, config: Config) -> None:
        super().__init__()
        self.net, self.config = net, config
        self.device_type = next(net.parameters()).device.type
        self.mixed = config.train.precision == "bf16"

    def forward(
        self, features: Tensor, labels: Tensor, gamma: Tensor | None, segments: SegmentTargets | None = None
    ) -> tuple[TwoBranchOutputs, Losses]:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.mixed):
            outputs = self.net(features)
        if self.mixed:
            outputs = TwoBranchOutputs(*(value.float() for value in outputs))
        terms = aicl_loss(outputs, labels, self.config, selection_gamma=gamma, segments=segments)
        # The total alone keeps its gradient. Copied, since of L_a alone it is L_a itself: compiled, the two
        # would be one tensor, and that without a gradient.
        shown = dict(zip(terms, torch.stack([*terms.values()]).detach().unbind(), strict=True))
        return TwoBranchOutputs(*(value.detach() for value in outputs)), {**shown, "total": terms["total"]}


def make_loss(net: TwoBranchNet, config: Config, ranks: Ranks | None = None) -> Loss:
    """The forward pass and the losses of one batch as one function, compiled and distributed as configured.

    Nothing in it waits for the device: it compiles without a graph break and can be captured in a CUDA graph.
    """
    net.winograd = config.train.convolution == "winograd"
    step: nn.Module = _Step(net, config)
    alone = ranks is None or ranks.world == 1
    if not alone:
        device = next(net.parameters()).device
        off = any(not term.weight_in(config) for term in TERMS.values())
        step = nn.parallel.DistributedDataParallel(
            step,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=off,
        )
    if config.train.compile:
        return cast(Loss, torch.compile(step, fullgraph=alone))
    return step


def _with_lengths(config: Config, counts: npt.NDArray[np.int64]) -> Config:
    """The settings with the lengths of the training recordings, which a model carries."""
    typical, longest = int(np.median(counts)), int(counts.max())
    data = replace(config.data, typical_segments=typical, longest_segments=longest)
    return replace(config, data=data)


def evaluate(net: TwoBranchNet, videos: Videos, dataset: Dataset) -> Measured:
    """How good a network is on these videos, with the preset's tIoU thresholds."""
    truth = dataset.truth(videos.names)
    scores, detections = localize(net, videos, dataset.config)
    classification = video_classification(scores, truth)
    if not has_times(truth):
        return Measured(None, None, classification, scores, detections)
    result = mean_average_precision(truth, detections, dataset.config.evaluate.tious)
    return Measured(result, segment_accuracy(scores, truth), classification, scores, detections)


def has_times(truth: GroundTruth) -> bool:
    """Whether there is anything to measure detections against."""
    return any(video.timed.any() for video in truth.videos.values())


def _check_times(dataset: Dataset, held_out: Sequence[str]) -> None:
    """Refuse to choose weights by an mAP that cannot be measured."""
    keep = dataset.config.train.keep
    chosen = {"val": held_out, "test": dataset.videos["test"]}.get(keep)
    if chosen is not None and not has_times(dataset.truth(chosen)):
        raise DataError(
            f"train.keep: {keep} chooses the weights by mAP, and not one of the {len(chosen)} videos that "
            "choose has times. Annotate them with start and end, or set keep=last."
        )


def _make_room(folder: Path, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs in one folder; throw the old one away only if told to."""
    checkpoints = folder / "checkpoints"
    held = latest_checkpoint(checkpoints)
    left = [name for name in _RECORDS if (folder / name).exists()]
    if not resume and not overwrite:
        if held is not None:
            raise DataError(
                f"{folder}: holds a run at step {step_of(held)}. Go on with it (--resume), throw it away "
                "(--overwrite), or name another folder (--out)."
            )
        if left:
            raise DataError(
                f"{folder}: holds a run ({', '.join(left)}) without a checkpoint. Throw it away "
                "(--overwrite), or name another folder (--out)."
            )
    remove_unfinished(checkpoints)
    for name in (*_RECORDS, "metrics.json"):
        remove_temporary(folder / name)
    if overwrite and not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
        for name in ("model.safetensors", "metrics.json"):
            (folder / name).unlink(missing_ok=True)
    if not resume or held is None:
        # The curves start again; log.csv is replaced when there is another one.
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def _hold_out(dataset: Dataset, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """(to train on, held out): nothing is held out unless the held-out videos choose the weights."""
    names = list(dataset.videos["train"])
    settings = dataset.config.train
    if settings.keep != "val":
        return names, []
    count = max(1, round(settings.val_share * len(names)))
    if count >= len(names):
        raise DataError(
            f"train.val_share: holding out {count} of {len(names)} videos leaves none to train on."
        )
    chosen = set(rng.permutation(len(names))[:count].tolist())
    kept = [name for number, name in enumerate(names) if number not in chosen]
    return kept, [names[number] for number in sorted(chosen)]


def _out_of_patience(state: State, settings: TrainConfig) -> bool:
    return settings.patience > 0 and state.waited >= settings.patience


def _check_finite(net: TwoBranchNet, loss: float, step: int, settings: TrainConfig) -> None:
    """Before anything is written, shown or evaluated: the weights after a step, and the loss before it."""
    if not math.isfinite(loss):
        became = f"the loss became {loss}"
    elif not torch.stack([value.isfinite().all() for value in net.parameters()]).all().item():
        became = "a weight became NaN or infinite"
    else:
        return
    raise AiclError(
        f"training: {became} at step {step}. Lower train.lr (now {settings.lr:g}) and look for extreme "
        "values in the features."
    )


def _averaged(average: dict[str, Tensor] | None, net: TwoBranchNet, decay: float) -> dict[str, Tensor]:
    """The moving average after a step; the first step's weights begin it."""
    weights = net.state_dict()
    if average is None:
        return _copy(weights)
    for name, value in weights.items():
        average[name].lerp_(value.detach(), 1 - decay)
    return average


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def _weights(state: State) -> dict[str, Tensor]:
    """What would be kept if training ended here: the moving average if there is one."""
    return state.average if state.average is not None else state.net.state_dict()


def _candidate(state: State, config: Config, make_net: MakeNet) -> TwoBranchNet:
    if state.average is None:
        return state.net
    return _net_with(state.average, config, make_net, next(state.net.parameters()).device)


def _net_with(
    weights: dict[str, Tensor], config: Config, make_net: MakeNet, device: torch.device
) -> TwoBranchNet:
    net = make_net(config)
    net.load_state_dict(weights)
    return net.to(device)


def _consistent(outputs: TwoBranchOutputs) -> Tensor:
    """Segments a video on which the branches agree, mean over the batch."""
    with torch.no_grad():
        agree = above_median(outputs.A) == above_median(outputs.A_ca)
        return agree.sum(1).float().mean()


@contextlib.contextmanager
def _determinism(on: bool) -> Iterator[None]:
    if not on:
        yield
        return
    # cuBLAS is deterministic only with a fixed workspace, which it reads from here when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


__all__ = ["Measured", "TrainResult", "evaluate", "make_loss", "train"]
