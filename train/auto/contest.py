"""The contest: short trainings of every candidate, longer ones of the best, then the best one's model.

Reads top to bottom; docs/accuracy.md says why each step is so.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import ConfigError, DataError
from aicl_fast.extras import needs
from aicl_fast.files import write_json
from aicl_fast.locks import locked_folder
from aicl_fast.model import TwoBranchNet
from aicl_fast.train.auto.candidates import Candidate, candidates
from aicl_fast.train.auto.jobs import WEIGHTS, Job, Trained, finished, run_jobs
from aicl_fast.train.auto.judge import HeldOut, Judgement, by_agreement, by_times, curves_of, hold_out
from aicl_fast.train.ensemble import merge_networks
from aicl_fast.train.finished import slug
from aicl_fast.tune.search import TRIALS
from aicl_fast.weights import load_model, save_model

ROUNDS = (("half", 0.5, 99), ("whole", 1.0, 3), ("double", 2.0, 1))
"""Each round's name, its share of the configured steps, and how many candidates take part, the best first."""
SEEDS = 3
LEAST_RECORDINGS = 10
QUICK_TRIALS = 60
"""Of the search of a candidate's decoding; the best one has as many as ``tune``."""
_CERTAIN = 2.0
"""Standard errors behind the best after which a candidate is not trained further."""

RoundProgress = Callable[[str, int, int], None]
"""Called with (the round, steps done in it, all its steps)."""


@dataclass(frozen=True)
class Entry:
    """One line of the contest.

    Attributes:
        candidate: what was trained.
        round: ``half``, ``whole`` or ``double`` for the steps, ``seeds`` or ``ensemble``.
        seed: of the training; the first one of an ensemble.
        steps: of the training.
        seconds: that it took, with judging.
        judgement: on the recordings that were held out.
    """

    candidate: Candidate
    round: str
    seed: int
    steps: int
    seconds: float
    judgement: Judgement


@dataclass(frozen=True)
class Contest:
    """How the model was found.

    Attributes:
        held: the recordings that judged.
        entries: every training and the ensemble, in the order of the rounds.
        best: the entry whose settings the model has.
        skipped: names of candidates that the time did not allow.
        members: seeds that the model was trained with.
        retrained: whether it was trained on all training recordings, or the time did not allow it and it is
            the best one's of the contest.
        weights: the model's file.
        config: its settings.
        seconds: since the command began; what was there before is not in it.
    """

    held: HeldOut
    entries: tuple[Entry, ...]
    best: Entry
    skipped: tuple[str, ...]
    members: tuple[int, ...]
    retrained: bool
    weights: Path
    config: Config
    seconds: float

    def ranked(self) -> tuple[Entry, ...]:
        """The entries: the longest trainings first, and of these the best."""
        return tuple(sorted(self.entries, key=lambda entry: (-entry.steps, -entry.judgement.value)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "judged_by": "times" if self.held.timed else "agreement",
            "held_out": list(self.held.videos),
            "entries": [
                {
                    "candidate": entry.candidate.name,
                    "changes": dict(entry.candidate.changes),
                    "round": entry.round,
                    "seed": entry.seed,
                    "steps": entry.steps,
                    "seconds": entry.seconds,
                    "value": entry.judgement.value,
                    "error": entry.judgement.error(),
                    "behind": self.best.judgement.value - entry.judgement.value,
                    "behind_error": entry.judgement.error(self.best.judgement),
                }
                for entry in self.entries
            ],
            "best": {"candidate": self.best.candidate.name, "round": self.best.round},
            "skipped": list(self.skipped),
            "members": list(self.members),
            "retrained": self.retrained,
            "seconds": round(self.seconds, 1),
            "config": self.config.to_dict(),
        }


def find_model(
    dataset: Dataset,
    out: str | os.PathLike[str],
    *,
    fixed: Collection[str] = (),
    minutes: float | None = None,
    processes: int = 1,
    seeds: int = SEEDS,
    device: str = "cpu",
    progress: RoundProgress = lambda name, done, total: None,
) -> Contest:
    """Train what differs in what matters, compare on recordings that are held out, and train the best on all.

    Test recordings are not used. Started again with the same arguments, what is finished is not trained
    again.

    Args:
        dataset: opened with its training recordings; its config is what the candidates change.
        out: folder for ``model.safetensors``, ``auto.json`` and every training.
        fixed: settings that no candidate may change, as ``section.name``.
        minutes: no training is begun that would end later, as far as those before tell; None is no limit.
            The first one is always finished.
        processes: trainings at the same time. Above 1, a script that calls this needs the usual
            ``if __name__ == "__main__":``.
        seeds: members of the ensemble, from ``train.seed`` on; 1 makes none.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        progress: see :data:`RoundProgress`.
    Raises:
        DataError: fewer than ten training recordings; ``out`` is another process', cannot be written to, or
            holds trainings of other data or settings.
        ConfigError: a number out of its range, or settings that choose weights by the test recordings.
        UnavailableError: Optuna is not installed, and there are times.
    """
    if processes < 1 or seeds < 1 or (minutes is not None and not 0 < minutes < math.inf):
        raise ConfigError(
            f"auto: expected at least one process and seed and minutes above 0, got {processes}, {seeds} and "
            f"{minutes}."
        )
    if dataset.config.train.keep != "last":
        raise ConfigError("auto: chooses by recordings that it holds out itself. Set keep=last.")
    if len(dataset.videos["train"]) < LEAST_RECORDINGS:
        raise DataError(
            f"{dataset.root}: {len(dataset.videos['train'])} training recordings are too few to compare "
            f"trainings by some of them; expected at least {LEAST_RECORDINGS}. Use `aicl-fast train`."
        )
    with locked_folder(out):
        found = _Run(dataset, Path(out), minutes, processes, device, progress).contest(fixed, seeds)
        write_json(Path(out) / "auto.json", found.to_dict())
    return found


class _Run:
    """The state of one command."""

    def __init__(
        self,
        dataset: Dataset,
        folder: Path,
        minutes: float | None,
        processes: int,
        device: str,
        progress: RoundProgress,
    ) -> None:
        self.memory_gb = dataset.config.train.memory_gb
        config = dataset.config.with_values({"train.memory_gb": self.memory_gb / processes})
        # Test recordings are not there for anything that follows.
        self.dataset = replace(dataset, config=config, videos={"train": dataset.videos["train"], "test": ()})
        self.folder, self.processes = folder, processes
        self.device, self.progress = device, progress
        self.held = hold_out(self.dataset, config.train.seed)
        if self.held.timed:
            with needs("tune", "tuning"):
                import optuna  # noqa: F401  before anything is trained
        others = tuple(name for name in dataset.videos["train"] if name not in self.held.videos)
        self.others = replace(self.dataset, videos={"train": others, "test": ()})
        self.started = time.monotonic()
        self.end = math.inf if minutes is None else self.started + 60 * minutes
        self.entries: list[Entry] = []
        self.trained: list[tuple[Job, Trained]] = []

    def contest(self, fixed: Collection[str], seeds: int) -> Contest:
        """All rounds."""
        steps, first = self.dataset.config.train.steps, self.dataset.config.train.seed
        every = candidates(self.dataset.config, self.others.truth("train"), fixed)
        taking_part = list(every)
        for name, share, number in ROUNDS:
            self.round(name, taking_part[:number], (first,), max(1, round(share * steps)))
            taking_part = [entry.candidate for entry in _promising(self.entries) if entry.round == name]
        best = max(self.entries, key=lambda entry: entry.judgement.value)
        if seeds > 1 and self.held.timed:
            best = self.ensemble(best, seeds)
        members = seeds if best.round == "ensemble" or not self.held.timed else 1
        final = self.retrain(best, members)
        weights, config = self.write(best, final)
        tried = {entry.candidate.name for entry in self.entries}
        return Contest(
            held=self.held,
            entries=tuple(self.entries),
            best=best,
            skipped=tuple(each.name for each in every if each.name not in tried),
            members=tuple(job.seed for job, _ in final),
            retrained=bool(final),
            weights=weights,
            config=config,
            seconds=time.monotonic() - self.started,
        )

    def round(self, name: str, every: Sequence[Candidate], seeds: Sequence[int], steps: int) -> None:
        """Train candidates with seeds, and add an entry for each."""
        jobs = [self.job(each, seed, steps) for each in every for seed in seeds]
        whole = self.dataset.config.train.steps
        # A short training is worth little without a whole one, and that without one on all recordings. What
        # still runs and judging take time, too.
        done = self.run(name, jobs, then=3 * whole if steps < whole else steps)
        judged = {job: trained.judgement for job, trained in done}
        if not self.held.timed:
            judged |= self.agreement(done)
        for job, trained in done:
            if (judgement := judged[job]) is not None:
                seconds = trained.train_seconds + trained.judge_seconds
                self.entries.append(Entry(job.candidate, name, job.seed, job.steps, seconds, judgement))

    def agreement(self, done: Sequence[tuple[Job, Trained]]) -> dict[Job, Judgement]:
        """Judgements of these trainings by their agreement with all that are done."""
        # In one order, in whichever they ended.
        models = {job.name: trained for job, trained in self.trained}
        models = {name: models[name] for name in sorted(models)}
        curves = {
            name: curves_of(trained.weights, self.others, self.held) for name, trained in models.items()
        }
        configs = {name: trained.config for name, trained in models.items()}
        found = by_agreement(curves, configs, self.dataset.ground_truth)
        return {job: found[job.name] for job, _ in done}

    def ensemble(self, best: Entry, seeds: int) -> Entry:
        """The better of the best training and an ensemble of it with other seeds."""
        others = range(best.seed + 1, best.seed + seeds)
        self.round("seeds", [best.candidate], others, best.steps)
        alone = [best, *(entry for entry in self.entries if entry.round == "seeds")]
        if len(alone) < seeds:
            return best
        started = time.monotonic()
        merged = replace(best, round="ensemble")
        net, config = _merged([self.weights_of(entry) for entry in alone])
        save_model(self.weights_of(merged), net, config)
        judgement = self.judged(merged, QUICK_TRIALS)
        seconds = sum(entry.seconds for entry in alone) + time.monotonic() - started
        merged = replace(merged, seconds=seconds, judgement=judgement)
        self.entries.append(merged)
        mean = sum(entry.judgement.value for entry in alone) / len(alone)
        return merged if judgement.value >= mean else best

    def retrain(self, best: Entry, members: int) -> list[tuple[Job, Trained]]:
        """Train the best candidate on all training recordings, as often as there is time for."""
        seeds = range(best.seed, best.seed + members)
        jobs = [self.job(best.candidate, seed, best.steps, all_of_them=True) for seed in seeds]
        return self.run("all recordings", jobs, then=0)

    def write(self, best: Entry, final: Sequence[tuple[Job, Trained]]) -> tuple[Path, Config]:
        """The model, with the γ and the decoding that the best one's held-out recordings choose."""
        net, config = _merged([trained.weights for _, trained in final] or [self.weights_of(best)])
        chosen = self.judged(best, TRIALS).config if self.held.timed else config
        model = replace(config.model, fusion_gamma=chosen.model.fusion_gamma)
        train = replace(config.train, memory_gb=self.memory_gb)
        config = replace(config, model=model, decode=chosen.decode, train=train)
        target = self.folder / WEIGHTS
        save_model(target, net, config)
        return target, config

    def weights_of(self, entry: Entry) -> Path:
        """The file of an entry's weights."""
        if entry.round == "ensemble":
            return self.folder / "trainings" / f"{slug(entry.candidate.name)}-ensemble.safetensors"
        return self.job(entry.candidate, entry.seed, entry.steps).folder / WEIGHTS

    def judged(self, entry: Entry, trials: int) -> Judgement:
        """An entry by the times of the recordings that were held out."""
        weights = self.weights_of(entry)
        held = replace(self.others, config=load_model(weights)[1])
        return by_times(curves_of(weights, held, self.held), held, trials)

    # --- trainings ------------------------------------------------------------------------------------

    def job(self, candidate: Candidate, seed: int, steps: int, *, all_of_them: bool = False) -> Job:
        """A training of a candidate on the recordings that are not held out, or on all."""
        dataset = self.dataset if all_of_them else self.others
        config = dataset.config.with_values({**candidate.changes, "train.seed": seed, "train.steps": steps})
        name = f"{candidate.name}, seed {seed}, {steps} steps" + ", all recordings" * all_of_them
        folder = self.folder / "trainings" / slug(name)
        held = None if all_of_them else self.held
        return Job(candidate, name, replace(dataset, config=config), folder, held, QUICK_TRIALS, self.device)

    def run(self, name: str, jobs: Sequence[Job], then: int) -> list[tuple[Job, Trained]]:
        """Do those that there is time for, with time left for a training of so many steps afterwards."""
        done: list[tuple[Job, Trained]] = []
        steps = {job.name: 0 for job in jobs}
        total = sum(job.steps for job in jobs)

        def in_time() -> Iterator[Job]:
            for job in jobs:
                needed = 0.0 if finished(job) else self.seconds(job.steps)
                if time.monotonic() + needed + self.seconds(then) <= self.end or not self.trained:
                    yield job

        def stepped(job: Job, step: int) -> None:
            steps[job.name] = step
            self.progress(name, sum(steps.values()), total)

        def ended(job: Job, trained: Trained) -> None:
            stepped(job, job.steps)
            done.append((job, trained))
            self.trained.append((job, trained))

        run_jobs(in_time(), self.processes, stepped, ended)
        self.progress(name, total, total)
        done.sort(key=lambda each: jobs.index(each[0]))
        return done

    def seconds(self, steps: int) -> float:
        """What a training of so many steps takes, as those before tell; 0 before the first one."""
        if not (self.trained and steps):
            return 0.0
        speed = max(trained.train_seconds / job.steps for job, trained in self.trained)
        return steps * speed + max(trained.judge_seconds for _, trained in self.trained)


def _promising(entries: Sequence[Entry]) -> list[Entry]:
    """The best ones first, without those that are clearly behind the best."""
    ranked = sorted(entries, key=lambda entry: -entry.judgement.value)
    best = ranked[0].judgement
    return [
        entry
        for entry in ranked
        if best.value - entry.judgement.value <= _CERTAIN * entry.judgement.error(best) or entry is ranked[0]
    ]


def _merged(weights: Sequence[Path]) -> tuple[TwoBranchNet, Config]:
    """One network of these, and its settings."""
    if len(weights) == 1:
        return load_model(weights[0])
    return merge_networks([load_model(path) for path in weights], [str(path) for path in weights])
