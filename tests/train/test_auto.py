"""auto: what is held out and how it judges, the rounds, time budgets, processes, and going on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("optuna")

from aicl_fast.config import Config, load_config  # noqa: E402
from aicl_fast.data.annotations import GroundTruth  # noqa: E402
from aicl_fast.data.dataset import Dataset  # noqa: E402
from aicl_fast.errors import AiclError, DataError  # noqa: E402
from aicl_fast.train.ablate.supervision import with_points  # noqa: E402
from aicl_fast.train.auto import contest, find_model  # noqa: E402
from aicl_fast.train.auto.candidates import CANDIDATES, candidates  # noqa: E402
from aicl_fast.train.auto.jobs import Job, Trained, run_jobs  # noqa: E402
from aicl_fast.train.auto.judge import Judgement, by_agreement, hold_out, sources  # noqa: E402
from aicl_fast.train.synthetic import SyntheticConfig, write_synthetic  # noqa: E402
from aicl_fast.tune import Curves  # noqa: E402
from aicl_fast.weights import load_model, save_model  # noqa: E402

Run = Callable[..., str]
SETTINGS = ("segments=32", "rgb_width=6", "flow_width=6", "embedding_width=4", "steps=4", "batch_size=4")
SET = tuple(part for setting in SETTINGS for part in ("--set", setting))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty training recordings with times, two classes."""
    folder = tmp_path_factory.mktemp("auto") / "data"
    made = SyntheticConfig(train_videos=30, test_videos=4, classes=2, width=6, longest=60.0)
    write_synthetic(folder, made)
    (folder / "settings.toml").unlink()
    return folder


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "QUICK_TRIALS", 3)
    monkeypatch.setattr(contest, "TRIALS", 3)
    monkeypatch.setattr(contest, "ROUNDS", (("half", 0.5, 3), ("whole", 1.0, 2)))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aicl_fast.train.auto.candidates.CANDIDATES", CANDIDATES[:2])


def _open(root: Path, *more: str) -> Dataset:
    return Dataset.open(root, load_config("own", overrides=[*SETTINGS, *more]))


def _without_times(dataset: Dataset) -> Dataset:
    videos = {name: video.without_times() for name, video in dataset.ground_truth.videos.items()}
    return replace(dataset, ground_truth=GroundTruth(videos))


# --- candidates and what is held out --------------------------------------------------------------------


def test_candidates_differ_and_leave_named_settings_alone(root: Path) -> None:
    config = load_config("own")
    timed = _open(root)
    labelled, pointed = _without_times(timed).ground_truth, with_points(1.0)(timed, 1).ground_truth
    every = candidates(config, timed.ground_truth)
    assert every[0].changes == {}
    assert len({each.name for each in CANDIDATES}) == len(CANDIDATES)
    assert len(every) == len({repr(config.with_values(each.changes)) for each in every}) > 5
    plain = candidates(config, labelled)
    assert {each.name for each in every} - {each.name for each in plain} == {"with start and end"}
    found = {each.name for each in candidates(config, pointed)} - {each.name for each in plain}
    assert "without the points" in found
    fixed = candidates(config, timed.ground_truth, ["model.topk_divisor"])
    assert {each.name for each in every} - {each.name for each in fixed} == {
        "more segments a class",
        "fewer segments a class",
    }
    # One that changes nothing is the first one again.
    assert len(candidates(config.with_values({"model.topk_divisor": 4}), labelled)) == len(plain) - 1


def test_a_fifth_is_held_out_and_no_class_loses_its_recordings(root: Path) -> None:
    dataset = _open(root)
    held = hold_out(dataset, 1)
    assert held == hold_out(dataset, 1)
    assert held != hold_out(dataset, 2)
    assert held.timed
    assert len(held.videos) == 6
    assert set(held.videos) < set(dataset.videos["train"])
    # One class in two recordings only: one of them stays.
    names = dataset.videos["train"]
    videos = dict(dataset.ground_truth.videos)
    one, other = dataset.config.classes
    for number, name in enumerate(names):
        label = other if number < 2 else one
        count = len(videos[name].labels)
        videos[name] = replace(videos[name], labels=(label,) * count)
    rare = replace(dataset, ground_truth=GroundTruth(videos))
    for seed in range(20):
        assert len(set(names[:2]) & set(hold_out(rare, seed).videos)) <= 1


def test_recordings_with_times_judge_if_there_are_enough(root: Path) -> None:
    dataset = _open(root)
    names = dataset.videos["train"]
    for timed in (0, 2, 8):
        videos = {
            name: video if name not in names[timed:] else video.without_times()
            for name, video in dataset.ground_truth.videos.items()
        }
        held = hold_out(replace(dataset, ground_truth=GroundTruth(videos)), 1)
        assert held.timed == (timed == 8)
        assert len(held.videos) == 6
        assert not held.timed or set(held.videos) < set(names[:8])


def test_recordings_of_one_source_are_held_out_together(root: Path, tmp_path: Path) -> None:
    assert sources(["a_1", "a_2", "b_1"]) == {"a_1": ("a_1",), "a_2": ("a_2",), "b_1": ("b_1",)}
    names = [f"day{number}-{part:03}" for number in range(10) for part in range(3)]
    found = sources(names)
    assert found["day4"] == ("day4-000", "day4-001", "day4-002")
    assert len(found) == 10
    dataset = _open(root)
    videos = dict(zip(names, dataset.ground_truth.videos.values(), strict=False))
    cut = replace(dataset, ground_truth=GroundTruth(videos), videos={"train": tuple(names), "test": ()})
    for seed in range(5):
        held = set(hold_out(cut, seed).videos)
        assert len(held) == 6
        assert all(set(each) <= held or held.isdisjoint(each) for each in found.values())


# --- judging --------------------------------------------------------------------------------------------


def test_models_that_agree_are_better(root: Path) -> None:
    """Two that find the same, and one that finds something else."""
    dataset = _open(root)
    config = dataset.config.with_values({"decode.class_threshold": 0.1})
    names = list(dataset.videos["train"])[:6]
    labels = {name: config.classes.index(dataset.ground_truth.videos[name].classes[0]) for name in names}

    def curves(start: int) -> dict[str, Curves]:
        made = {}
        for name, label in labels.items():
            probability = np.full((32, 2), 0.05, np.float32)
            probability[start : start + 6, label] = 0.95
            video_scores = np.eye(2, dtype=np.float32)[label]
            agnostic = probability.max(1)
            made[name] = Curves(probability, agnostic, probability, video_scores, 32, False)
        return made

    models = {"a": curves(4), "b": curves(4), "c": curves(20)}
    found = by_agreement(models, dict.fromkeys(models, config), dataset.ground_truth)
    assert found["a"].value == found["b"].value == pytest.approx(0.5, abs=0.05)
    assert found["c"].value == 0
    assert len(found["a"].parts) == 6
    assert by_agreement({"a": models["a"]}, {"a": config}, dataset.ground_truth)["a"].value == 0


def test_the_error_of_a_difference_is_smaller_where_both_vary_alike() -> None:
    one = Judgement(0.5, (0.4, 0.5, 0.6), Config())
    other = Judgement(0.4, (0.3, 0.4, 0.5), Config())
    assert one.error() == pytest.approx(np.std([0.4, 0.5, 0.6], ddof=1) * np.sqrt(3) * 2 / 3)
    assert one.error(other) == pytest.approx(0, abs=1e-12)


# --- the whole ------------------------------------------------------------------------------------------


def test_a_contest_by_times(root: Path, tmp_path: Path) -> None:
    seen: dict[str, list[int]] = {}

    def progress(name: str, done: int, total: int) -> None:
        assert done <= total
        seen.setdefault(name, []).append(done)

    found = find_model(_open(root), tmp_path / "run", seeds=2, progress=progress)
    rounds = [entry.round for entry in found.entries]
    assert rounds.count("half") == 3
    assert 1 <= rounds.count("whole") <= 2
    assert rounds.count("ensemble") == 1
    assert list(seen) == [each for each in ("half", "whole", "seeds", "all recordings") if each in seen]
    assert all(steps == sorted(steps) for steps in seen.values())
    _net, config = load_model(found.weights)
    assert config == found.config
    members = len(found.members)
    assert config.model.embedding_width == 4 * members
    assert members == (2 if found.best.round == "ensemble" else 1)
    assert found.retrained
    document = json.loads((tmp_path / "run" / "auto.json").read_text())
    assert document["judged_by"] == "times"
    assert document["held_out"] == list(found.held.videos)
    assert [each["value"] for each in document["entries"]] == [each.judgement.value for each in found.entries]
    # What judged was not trained on; what the model is made of was trained on everything.
    for folder in sorted((tmp_path / "run" / "trainings").iterdir()):
        if folder.is_dir():
            assert (folder / "result.json").is_file()
            assert not (folder / "checkpoints").exists()


def test_a_contest_by_labels(root: Path, tmp_path: Path, few: None) -> None:
    found = find_model(_without_times(_open(root)), tmp_path, seeds=2)
    assert not found.held.timed
    assert {entry.round for entry in found.entries} <= {"half", "whole"}
    assert all(0 <= entry.judgement.value <= 1 for entry in found.entries)
    assert found.members == (1, 2)
    # No times choose the decoding.
    assert found.config.decode == _open(root).config.decode


def test_going_on_trains_nothing_again(root: Path, tmp_path: Path, few: None) -> None:
    first = find_model(_open(root), tmp_path, seeds=2)
    weights = first.weights.read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    # One is missing, as if it had been cut off.
    lost = min(stamps)
    lost.unlink()
    again = find_model(_open(root), tmp_path, seeds=2)
    assert again.weights.read_bytes() == weights
    assert [each.judgement for each in again.entries] == [each.judgement for each in first.entries]
    changed = {path for path in stamps if path.stat().st_mtime_ns != stamps[path]}
    assert changed == {lost}
    with pytest.raises(DataError, match=r"trained with other settings: train\.lr differ"):
        find_model(_open(root, "lr=0.1"), tmp_path, seeds=2)


def test_two_processes_do_the_same(
    root: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "ROUNDS", (("half", 0.5, 2),))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = find_model(_open(root), tmp_path / "one", seeds=1)
    finally:
        torch.set_num_threads(before)
    two = find_model(_open(root), tmp_path / "two", seeds=1, processes=2)
    assert one.weights.read_bytes() == two.weights.read_bytes()
    assert [each.judgement.parts for each in one.entries] == [each.judgement.parts for each in two.entries]


def test_a_budget(root: Path, tmp_path: Path) -> None:
    """The first training is always finished, nothing else is begun, and it is said."""
    found = find_model(_open(root), tmp_path, minutes=1e-6)
    assert [(entry.candidate.name, entry.round) for entry in found.entries] == [("as configured", "half")]
    assert len(found.skipped) >= 2
    assert not found.retrained
    assert found.members == ()
    assert load_model(found.weights)[1] == found.config
    # With more time the same command goes on.
    more = find_model(_open(root), tmp_path, minutes=60, seeds=1)
    assert more.entries[0].judgement == found.entries[0].judgement
    assert more.retrained


def test_a_budget_leaves_time_to_train_on_everything(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that passes ten seconds for each training, and with time for four."""
    clock = [0.0]

    def do(job: Job, stepped: object) -> Trained:
        clock[0] += 10
        weights = job.folder / "model.safetensors"
        weights.parent.mkdir(parents=True)
        net, config = load_model(model)
        save_model(weights, net, replace(config, train=job.dataset.config.train))
        return Trained(weights, config, judgement if job.held else None, 10.0, 0.0)

    first = find_model(_open(root), tmp_path / "first", minutes=1e-6)
    model, judgement = first.weights, first.entries[0].judgement
    monkeypatch.setattr("aicl_fast.train.auto.jobs.do", do)
    monkeypatch.setattr(contest, "ROUNDS", (("whole", 1.0, 9),))
    monkeypatch.setattr(contest.time, "monotonic", lambda: clock[0])
    found = find_model(_open(root), tmp_path / "run", minutes=41 / 60, seeds=1)
    assert len(found.entries) == 3
    assert found.skipped
    assert found.retrained
    assert clock[0] == 40


def _job(root: Path, folder: Path, steps: int) -> Job:
    dataset = _open(root, f"steps={steps}")
    dataset = replace(dataset, videos={"train": dataset.videos["train"], "test": ()})
    return Job(CANDIDATES[0], f"{steps} steps", dataset, folder, None, 3)


def test_errors_of_processes_are_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = _job(root, tmp_path / "bad", 4), _job(root, tmp_path / "good", 100_000)
    (tmp_path / "bad").write_text("a file")
    started = time.monotonic()
    with pytest.raises(AiclError, match="bad"):
        run_jobs(iter([good, bad]), 2, lambda job, step: None, lambda job, trained: None)
    assert time.monotonic() - started < 60  # the other one was stopped
    assert not (tmp_path / "good" / "result.json").exists()


def test_a_killed_process_is_told(root: Path, tmp_path: Path) -> None:
    import multiprocessing

    def stepped(job: Job, step: int) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGKILL)

    jobs = [_job(root, tmp_path / str(number), 100_000) for number in range(2)]
    with pytest.raises(
        AiclError, match=r"100000 steps: its process ended without a result \(exit status -9\)"
    ):
        run_jobs(iter(jobs), 2, stepped, lambda job, trained: None)
    assert multiprocessing.active_children() == []


# --- the command ----------------------------------------------------------------------------------------


def test_the_command(root: Path, run: Run, tmp_path: Path, few: None) -> None:
    pytest.importorskip("matplotlib")
    text = run("auto", root, "-o", "run", "--preset", "own", *SET, "--seeds", 1, "--set", "topk_divisor=8")
    assert "6 training recordings held out, judged by times" in text
    assert "chosen: as configured" in text
    assert "more segments" not in text
    assert "test videos" in text
    folder = tmp_path / "run"
    assert (folder / "contest.png").is_file()
    assert json.loads((folder / "metrics.json").read_text())["config"]["train"]["steps"] in (2, 4)
    if (folder / "model.onnx").exists():
        assert "exported: run/model.onnx" in text
    before = (folder / "model.safetensors").read_bytes()
    run("auto", root, "-o", "run", "--preset", "own", *SET, "--seeds", 1, "--set", "topk_divisor=8")
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "keep=test", "--set", "eval_every=2"), "Set keep=last"),
        (("--minutes", "0"), "minutes above 0"),
        (("--minutes", "nan"), "minutes above 0"),
        (("--set", "nonsense=1"), "there is no such setting"),
    ],
)
def test_what_is_refused(root: Path, run: Run, arguments: tuple[str, ...], words: str) -> None:
    text = run("auto", root, "--preset", "own", *SET, *arguments, expect=2)
    assert words in text


def test_few_recordings_are_refused(tiny_dataset: Path, run: Run, tmp_path: Path) -> None:
    text = run("auto", tiny_dataset, "-o", "run", expect=2)
    assert "6 training recordings are too few" in text
    assert "aicl-fast train" in text
    assert not (tmp_path / "run" / "auto.json").exists()
    shutil.rmtree(tiny_dataset)
    assert "does not exist" in run("auto", tiny_dataset, "-o", "run", expect=2)
