"""One training of the contest, here or in a process of its own, and what is kept of it on disk."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

from aicl_fast.extras import needs

with needs("train"):
    import torch

from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import AiclError, AiclWarning
from aicl_fast.files import read_json, write_json
from aicl_fast.limits import reading
from aicl_fast.train.auto.candidates import Candidate
from aicl_fast.train.auto.judge import HeldOut, Judgement, by_times, curves_of
from aicl_fast.train.finished import data_id_of, require_same
from aicl_fast.train.trainer import train

WEIGHTS, RECORD = "model.safetensors", "result.json"
_WAIT = 0.05
"""Seconds between two looks at the processes."""


@dataclass(frozen=True, eq=False)
class Job:
    """A training.

    Attributes:
        candidate: whose settings the data set has.
        name: of the candidate, seed and steps, for people.
        dataset: with its own settings and its training recordings alone.
        folder: for the weights, the log, checkpoints and ``result.json``.
        held: recordings that judge it afterwards; None judges nothing.
        trials: of the search of its decoding, where times judge.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """

    candidate: Candidate
    name: str
    dataset: Dataset
    folder: Path
    held: HeldOut | None
    trials: int
    device: str = "cpu"

    @property
    def steps(self) -> int:
        """Of the training."""
        return self.dataset.config.train.steps

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.dataset.config.train.seed


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        weights: the file.
        config: its settings.
        judgement: by times; None where nothing or labels judge.
        train_seconds, judge_seconds: how long it took.
    """

    weights: Path
    config: Config
    judgement: Judgement | None
    train_seconds: float
    judge_seconds: float


StepProgress = Callable[[Job, int], None]
"""Called with (job, steps done)."""


def finished(job: Job) -> Trained | None:
    """What is on disk of a job that was done before.

    Raises:
        DataError: its folder holds another training's record.
    """
    file = job.folder / RECORD
    if not (file.is_file() and (job.folder / WEIGHTS).is_file()):
        return None
    document = read_json(file, "record of a run")
    with reading(file, "record of a run", advice="Remove it: the run is then done again."):
        require_same(file, document, job.dataset.config, data_id_of(job.dataset))
        config = Config.from_dict(document["trained"])
        judged = document["judgement"]
        judgement = None
        if judged is not None:
            parts = tuple(float(part) for part in judged["parts"])
            judgement = Judgement(float(judged["value"]), parts, Config.from_dict(judged["config"]))
        seconds = document["seconds"]
        return Trained(
            job.folder / WEIGHTS, config, judgement, float(seconds["train"]), float(seconds["judge"])
        )


def do(job: Job, stepped: StepProgress = lambda job, step: None) -> Trained:
    """Train, judge by times if they do, and write the record."""
    started = time.perf_counter()
    result = train(
        job.dataset,
        job.folder,
        device=job.device,
        resume=True,
        starting=lambda step: stepped(job, step),
        training=lambda step, steps, loss: stepped(job, step),
    )
    trained = time.perf_counter()
    weights, judgement = job.folder / WEIGHTS, None
    if job.held is not None and job.held.timed:
        held = replace(job.dataset, config=result.config)
        judgement = by_times(curves_of(weights, held, job.held), held, job.trials)
    done = time.perf_counter()
    seconds = {"train": round(trained - started, 1), "judge": round(done - trained, 1)}
    document = {
        "data": data_id_of(job.dataset),
        "config": job.dataset.config.to_dict(),
        "trained": result.config.to_dict(),
        "seconds": seconds,
        "judgement": None
        if judgement is None
        else {"value": judgement.value, "parts": judgement.parts, "config": judgement.config.to_dict()},
    }
    write_json(job.folder / RECORD, document)
    # Only now: until the record is whole, a run that is cut off still resumes from its last checkpoint.
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    return Trained(weights, result.config, judgement, seconds["train"], seconds["judge"])


def run_jobs(
    jobs: Iterator[Job], processes: int, stepped: StepProgress, ended: Callable[[Job, Trained], None]
) -> None:
    """Do jobs as they come, ``processes`` at a time.

    Args:
        jobs: the next one is taken when a process is free for it.
        processes: how many at once. One is this process itself.
        stepped: called after some steps.
        ended: called after each job.
    Raises:
        AiclError: what a job raised, or that its process was killed.
    """
    if processes == 1:
        for job in jobs:
            ended(job, finished(job) or do(job, stepped))
        return
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[Job, SpawnProcess]] = {}
    more = True
    try:
        while more or running:
            while more and len(running) < processes:
                following = next(jobs, None)
                if following is None:
                    more = False
                elif (before := finished(following)) is not None:
                    ended(following, before)
                else:
                    mine, its = context.Pipe(duplex=False)
                    threads = max(1, torch.get_num_threads() // processes)
                    process = context.Process(
                        target=_work, args=(following, its, threads, os.getpid()), daemon=True
                    )
                    process.start()
                    its.close()
                    running[mine] = following, process
            for ready in wait([*running], timeout=_WAIT):
                mine = cast(Connection, ready)
                job, process = running[mine]
                try:
                    kind, value = mine.recv()
                except (EOFError, OSError, pickle.UnpicklingError):
                    process.join()
                    raise AiclError(
                        f"{job.name}: its process ended without a result (exit status {process.exitcode}), "
                        "for lack of memory perhaps. The same command goes on; try fewer --processes."
                    ) from None
                if kind == "step":
                    stepped(job, value)
                elif kind == "warning":
                    warnings.warn(value, AiclWarning, stacklevel=2)
                elif kind == "error":
                    raise value
                else:
                    del running[mine]
                    process.join()
                    ended(job, value)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _work(job: Job, results: Any, threads: int, parent: int) -> None:
    """What a process does: a job, whose steps, warnings and end it sends."""
    torch.set_num_threads(threads)

    def stepped(_: Job, step: int) -> None:
        if os.getppid() != parent:  # which was killed
            os._exit(1)
        results.send(("step", step))

    def warned(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, AiclWarning):
            results.send(("warning", str(message)))

    warnings.simplefilter("always", AiclWarning)
    warnings.showwarning = cast(Any, warned)
    try:
        results.send(("done", do(job, stepped)))
    except KeyboardInterrupt:  # which the parent says
        pass
    except AiclError as error:
        results.send(("error", error))
