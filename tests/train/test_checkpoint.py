"""What a run resumes from, what it refuses to resume from, and what it leaves behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import Config  # noqa: E402
from aicl_fast.data.dataset import Dataset  # noqa: E402
from aicl_fast.errors import AiclError, ConfigError, DataError, ModelError  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402
from aicl_fast.train import trainer  # noqa: E402
from aicl_fast.train.checkpoint import State, latest_checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from aicl_fast.train.distributed import Ranks  # noqa: E402
from aicl_fast.train.sampling import BatchOrder, Videos  # noqa: E402
from aicl_fast.train.trainer import train  # noqa: E402


def _steps(run: Path) -> list[int]:
    return [int(path.name[5:]) for path in sorted((run / "checkpoints").glob("step_*"))]


# Nothing changes at this rate: every evaluation ties with the first.
TIES: dict[str, Any] = {"keep": "test", "eval_every": 2, "patience": 3, "lr": 1e-12}


def test_patience_counts_on_across_a_resume(
    open_tiny: Callable[..., Dataset], tmp_path: Path, same_weights: Callable[..., bool]
) -> None:
    whole = train(open_tiny(**TIES, steps=400), tmp_path / "whole")
    assert [step for step, _ in whole.history] == [2, 4, 6, 8]
    train(open_tiny(**TIES, steps=4), tmp_path / "cut")
    again = train(open_tiny(**TIES, steps=400), tmp_path / "cut", resume=True)
    assert again.history == whole.history
    assert same_weights(again.net, whole.net)


def test_a_run_ended_by_patience_can_go_on(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = open_tiny(**TIES, steps=400, save_every=0)
    ended = train(dataset, tmp_path)
    assert _steps(tmp_path) == [8]
    again = train(dataset, tmp_path, resume=True)
    assert (again.started_at, again.history) == (8, ended.history)
    longer = open_tiny(**{**TIES, "patience": 4}, steps=400)
    assert [step for step, _ in train(longer, tmp_path, resume=True).history] == [2, 4, 6, 8, 10]


def test_a_run_without_a_checkpoint_is_a_run(
    open_tiny: Callable[..., Dataset], tmp_path: Path, same_weights: Callable[..., bool]
) -> None:
    dataset = open_tiny(save_every=0)

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path, training=kill)
    assert latest_checkpoint(tmp_path / "checkpoints") is None
    with pytest.raises(DataError, match=r"holds a run \(log\.csv, tensorboard\) without a checkpoint"):
        train(dataset, tmp_path)
    started: list[int] = []
    result = train(dataset, tmp_path, resume=True, starting=started.append)
    assert (result.started_at, started) == (0, [0])
    assert same_weights(result.net, train(dataset).net)
    # The killed run's curves are gone.
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert [line.partition(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()] == [
        "step",
        "1",
        "10",
        "12",
    ]


@pytest.mark.parametrize("left", ["model.safetensors", "log.csv"])
def test_what_a_run_leaves_is_thrown_away_only_when_told(
    open_tiny: Callable[..., Dataset], tmp_path: Path, left: str
) -> None:
    (tmp_path / left).write_text("kept")
    (tmp_path / "metrics.json").write_text("{}")
    dataset = open_tiny()
    with pytest.raises(DataError, match=f"holds a run \\({left}\\)"):
        train(dataset, tmp_path)
    assert (tmp_path / left).read_text() == "kept"

    def kill(step: int, steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path, overwrite=True, training=kill)
    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "metrics.json").exists()


def test_a_resumed_run_says_where_it_went_on(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    assert train(open_tiny(), tmp_path).started_at == 0
    started: list[int] = []
    longer = open_tiny(steps=14)
    assert train(longer, tmp_path, resume=True, starting=started.append).started_at == 12
    assert started == [12]


def test_other_data_is_named(open_tiny: Callable[..., Dataset], tiny_dataset: Path, tmp_path: Path) -> None:
    train(open_tiny(), tmp_path / "run")

    def refused(what: str) -> None:
        with pytest.raises(ModelError, match=f"with other data: {what} differ. Go on with the same data"):
            train(open_tiny(steps=14), tmp_path / "run", resume=True)

    listed = tiny_dataset / "split_train.txt"
    names = listed.read_text()
    listed.write_text("\n".join(reversed(names.split())))
    refused("training videos, their labels, their numbers of segments")
    listed.write_text("\n".join(names.split()[:-1]))
    refused("training videos, their labels, their numbers of segments")
    listed.write_text(names)
    truth = tiny_dataset / "gt.json"
    text = truth.read_text()
    truth.write_text(text.replace('"Run"', '"Jump"', 1).replace('"Jump"', '"Run"', 1))
    refused("their labels")
    truth.write_text(text)
    for stream in ("rgb", "flow"):
        path = tiny_dataset / "features/train" / stream / "train_0.npy"
        np.save(path, np.load(path)[:-1])
    refused("their numbers of segments")


@pytest.mark.parametrize("schedule", [{"lr_schedule": "cosine"}, {"ramp_steps": "all", "warmup_steps": 0}])
def test_the_steps_of_a_schedule_do_not_change(
    open_tiny: Callable[..., Dataset], tmp_path: Path, schedule: dict[str, Any]
) -> None:
    train(open_tiny(**schedule), tmp_path)
    longer = open_tiny(**schedule, steps=14)
    changed = r"other settings: train\.steps was 12, now 14\. .*A schedule runs over all"
    with pytest.raises(ModelError, match=changed):
        train(longer, tmp_path, resume=True)


def test_other_threads_are_warned_of(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    train(open_tiny(), tmp_path)
    record = tmp_path / "checkpoints" / "step_00000012" / "trainer.json"
    document = json.loads(record.read_text())
    document["threads"] = torch.get_num_threads() + 1
    record.write_text(json.dumps(document))
    with pytest.warns(RuntimeWarning, match=f"written with {torch.get_num_threads() + 1} threads"):
        train(open_tiny(), tmp_path, resume=True)


@pytest.mark.parametrize("name", ["trainer.json", "model.safetensors", "trainer.safetensors"])
def test_a_checkpoint_with_a_file_lost_is_damaged(
    open_tiny: Callable[..., Dataset], tmp_path: Path, name: str
) -> None:
    train(open_tiny(), tmp_path)
    (tmp_path / "checkpoints" / "step_00000012" / name).unlink()
    with pytest.raises(ModelError, match=r"step_00000012: the checkpoint is damaged .* Remove the folder"):
        train(open_tiny(), tmp_path, resume=True)


def test_only_checkpoints_are_taken_for_checkpoints(
    open_tiny: Callable[..., Dataset], tmp_path: Path
) -> None:
    own = tmp_path / "checkpoints" / "step_backup00"
    own.mkdir(parents=True)
    train(open_tiny(save_every=3), tmp_path)
    assert own.is_dir()
    latest = latest_checkpoint(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.name == "step_00000012"
    with pytest.raises(DataError, match="holds a run at step 12"):
        train(open_tiny(), tmp_path)


@pytest.mark.parametrize(("changes", "step"), [({"save_every": 4}, 4), ({"eval_every": 3}, 3)])
def test_a_diverged_network_is_neither_kept_nor_evaluated(
    open_tiny: Callable[..., Dataset], tmp_path: Path, changes: dict[str, int], step: int
) -> None:
    dataset = open_tiny(lr=1e30, **changes)
    with pytest.raises(AiclError, match=rf"the loss became .* at step {step}\. Lower train\.lr"):
        train(dataset, tmp_path)
    assert latest_checkpoint(tmp_path / "checkpoints") is None


def test_weights_that_overflow_are_not_kept(
    open_tiny: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is of the weights before it."""
    original = torch.optim.Adam.step
    taken: list[int] = []

    def overflow(self: torch.optim.Adam, *arguments: object) -> object:
        result = original(self, *arguments)
        taken.append(1)
        if len(taken) == 4:
            self.param_groups[0]["params"][0].data[0] = math.inf
        return result

    monkeypatch.setattr(torch.optim.Adam, "step", overflow)
    with pytest.raises(AiclError, match="a weight became NaN or infinite at step 4"):
        train(open_tiny(save_every=2), tmp_path)
    assert _steps(tmp_path) == [2]


def test_steps_that_write_nothing_do_not_wait_for_the_loss(
    open_tiny: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    original = trainer._check_finite

    def watch(net: TwoBranchNet, loss: float, step: int, settings: Any) -> None:
        checked.append(step)
        original(net, loss, step, settings)

    monkeypatch.setattr(trainer, "_check_finite", watch)
    train(open_tiny(save_every=4, eval_every=6), tmp_path)
    assert checked == [1, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_checkpoint_is_loaded_to_the_network_s_device(
    tiny_config: Config, tmp_path: Path, device: str
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")

    def state() -> State:
        net = TwoBranchNet(tiny_config).to(device)
        net(torch.rand(1, 32, 11, device=device)).CAS.sum().backward()
        optimizer = torch.optim.Adam(net.parameters(), fused=True)
        optimizer.step()
        return State(net, optimizer, BatchOrder(3, 2, np.random.default_rng(0)), {"videos": "these"})

    before = state()
    before.step = 3
    before.average = {name: value.clone() for name, value in before.net.state_dict().items()}
    before.best = {name: value + 1 for name, value in before.net.state_dict().items()}
    save_checkpoint(tmp_path, before, tiny_config)
    after = state()
    load_checkpoint(tmp_path / "step_00000003", after, tiny_config)
    for name in ("average", "best"):
        found, expected = getattr(after, name), getattr(before, name)
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert value.device == expected[key].device
            assert torch.equal(value, expected[key])
    trainer._averaged(after.average, after.net, 0.9)
    for kept in after.optimizer.state.values():
        assert kept["exp_avg"].device.type == device


def test_one_budget_counts_for_all_that_is_read(
    open_tiny: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Videos] = []
    original = Videos.__init__

    def watch(self: Videos, *arguments: Any, **more: Any) -> None:
        original(self, *arguments, **more)
        seen.append(self)

    options = {"keep": "val", "eval_every": 6, "steps": 6}
    monkeypatch.setattr(Videos, "__init__", watch)
    train(open_tiny(**options))
    assert not any(videos.mapped for videos in seen)
    sizes = [videos.memory_gb for videos in seen]
    for short in range(3):
        seen.clear()
        budget = sum(sizes[: short + 1]) - 0.1 * min(sizes)
        train(open_tiny(**options, memory_gb=budget))
        assert seen[short].mapped
        assert sum(videos.memory_gb for videos in seen) <= budget


def test_the_main_process_alone_reads_what_is_evaluated_on(
    open_tiny: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train(open_tiny())

    class Second(Ranks):
        """The second of two processes, whose other one adds nothing."""

        def sum(self, value: Any) -> Any:
            return value

        def from_main(self, value: Any) -> Any:
            assert value is None
            return result.measured

    @contextmanager
    def joined(device: str) -> Iterator[tuple[Ranks, Any]]:
        yield Second(1, 2), torch.device(device)

    seen: list[str] = []
    original = Videos.__init__

    def watch(self: Videos, dataset: Dataset, split: Any, *arguments: Any, **more: Any) -> None:
        original(self, dataset, split, *arguments, **more)
        seen.append(split)

    monkeypatch.setattr(trainer, "joined_ranks", joined)
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda step, **_: step)
    monkeypatch.setattr(Videos, "__init__", watch)
    train(open_tiny())
    assert seen == ["train"]


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_a_folder_that_cannot_be_made(open_tiny: Callable[..., Dataset], tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"{place}: cannot be made .* Choose a folder"):
        train(open_tiny(), tmp_path / place)


@pytest.mark.parametrize("device", ["foo", "mps", "meta", "cuda:", "cuda:-1", "cpu:0", "", "cuda 0"])
def test_devices_that_training_does_not_run_on(
    open_tiny: Callable[..., Dataset], tmp_path: Path, device: str
) -> None:
    with pytest.raises(ConfigError, match="device: expected cpu, cuda or cuda:N, got"):
        train(open_tiny(), tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()
