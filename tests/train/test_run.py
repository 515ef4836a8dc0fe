"""What a run can be put through: killed and resumed, shared between processes, compiled, kept by choice."""

from __future__ import annotations

import csv
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import Config  # noqa: E402
from aicl_fast.data.dataset import Dataset  # noqa: E402
from aicl_fast.errors import ConfigError, DataError, ModelError  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402
from aicl_fast.train.checkpoint import latest_checkpoint  # noqa: E402
from aicl_fast.train.losses import loss_names  # noqa: E402
from aicl_fast.train.sampling import Videos  # noqa: E402
from aicl_fast.train.trainer import make_loss, train  # noqa: E402
from aicl_fast.weights import load_model  # noqa: E402

OPTIONS = {"steps": 30, "save_every": 4, "ema_decay": 0.9, "lr": 1e-2, "eval_every": 5, "keep": "test"}


def test_a_resumed_run_ends_with_the_same_bits(
    open_tiny: Callable[..., Dataset], tmp_path: Path, same_weights: Callable[..., bool]
) -> None:
    whole = train(open_tiny(**OPTIONS), tmp_path / "whole")
    cut = tmp_path / "cut"
    train(open_tiny(**{**OPTIONS, "steps": 18}), cut)
    again = train(open_tiny(**OPTIONS), cut, resume=True)
    assert same_weights(whole.net, again.net)
    assert whole.history == again.history
    assert whole.step == again.step
    rows = list(csv.DictReader((cut / "log.csv").open()))
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps))
    expected = list(csv.DictReader((tmp_path / "whole" / "log.csv").open()))
    losses = {row["step"]: row["loss_total"] for row in expected if row["loss_total"]}
    assert all(
        losses.get(row["step"], row["loss_total"]) == row["loss_total"] for row in rows if row["loss_total"]
    )


RUN = """
import sys, time
from pathlib import Path
from typing import Any
import torch; torch.set_num_threads(1)
from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.train import checkpoint, trainer
import json
config = Config.from_dict(json.loads(Path(sys.argv[3]).read_text()))
moment = sys.argv[4]
save, where = checkpoint.save_model, []
if moment == "mid-save":
    def slow(*arguments):
        save(*arguments)
        where.append(1)
        if len(where) == 3:
            print("now", flush=True); time.sleep(60)
    checkpoint.save_model = slow
def tell(step, steps, loss):
    if moment == "mid-epoch" and step == 20: print("now", flush=True); time.sleep(60)
trainer.train(Dataset.open(sys.argv[1], config), sys.argv[2], resume=True, training=tell)
"""


@pytest.mark.parametrize("moment", ["mid-epoch", "mid-save"])
def test_a_killed_run_resumes_to_the_same_bits(
    tiny_dataset: Path,
    tiny_config: Config,
    tmp_path: Path,
    moment: str,
    same_weights: Callable[..., bool],
    fork_python: Callable[..., Any],
) -> None:
    import json

    config = tiny_config.with_values({**OPTIONS, "eval_every": 0, "keep": "last"})
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))

    def command(folder: str, when: str) -> list[str]:
        paths = tiny_dataset, tmp_path / folder, tmp_path / "config.json"
        return ["-c", RUN, *map(str, paths), when]

    assert fork_python(*command("whole", "never")).returncode == 0
    cut = [sys.executable, *command("cut", moment)]
    with subprocess.Popen(cut, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    held = latest_checkpoint(tmp_path / "cut" / "checkpoints")
    assert held is not None
    assert held.name == {"mid-epoch": "step_00000016", "mid-save": "step_00000008"}[moment]
    assert fork_python(*command("cut", "never")).returncode == 0
    assert not list((tmp_path / "cut" / "checkpoints").glob(".*"))
    whole, _ = load_model(tmp_path / "whole" / "model.safetensors")
    again, _ = load_model(tmp_path / "cut" / "model.safetensors")
    assert same_weights(whole, again)


def test_a_folder_with_a_run_is_not_overwritten(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = open_tiny()
    train(dataset, tmp_path)
    with pytest.raises(DataError, match=r"holds a run at step 12\. Go on with it"):
        train(dataset, tmp_path)
    train(dataset, tmp_path, overwrite=True)
    changed = r"other settings: loss\.weight_contrast was 0\.\d+, now 1\.0; train\.lr was 0\.\d+, now 1\.0\. "
    with pytest.raises(ModelError, match=changed):
        train(open_tiny(lr=1.0, weight_contrast=1.0), tmp_path, resume=True)
    longer = train(open_tiny(steps=14), tmp_path, resume=True)
    assert longer.step == 14


def test_a_damaged_checkpoint_says_so(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    train(open_tiny(), tmp_path)
    path = tmp_path / "checkpoints" / "step_00000012" / "trainer.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="the checkpoint is damaged"):
        train(open_tiny(), tmp_path, resume=True)


ACTION_ALONE = [f"weight_{term}=0" for term in ("agnostic", "contrast", "modality", "consistency")]


@pytest.mark.parametrize(
    ("batch", "changes"),
    [
        pytest.param(4, [], marks=pytest.mark.long, id="4"),
        pytest.param(5, [], id="5"),
        pytest.param(5, ACTION_ALONE, id="action alone"),
    ],
)
def test_two_processes_train_as_one(
    tiny_dataset: Path,
    tmp_path: Path,
    batch: int,
    changes: list[str],
    fork_python: Callable[..., Any],
    fork_two: Callable[..., Any],
) -> None:
    """The same global batches, an odd one and a short last one among them: the same losses and weights.

    L_a alone leaves most of the network without a gradient. torchrun starts the processes once.
    """
    settings = [
        "segments=32",
        "rgb_width=6",
        "flow_width=5",
        "embedding_width=8",
        "steps=12",
        "warmup_steps=4",
    ]
    settings += [f"batch_size={batch}", "lr=0.01", "save_every=0", *changes]
    options = ["-p", "demo", "-d", str(tiny_dataset)] + [
        part for item in settings for part in ("--set", item)
    ]
    command = ["-m", "aicl_fast.train", *options, "-o"]
    assert fork_python(*command, str(tmp_path / "one")).returncode == 0
    if batch == 4:
        # Outside the source tree, whose aicl_fast/ would be imported instead of the installed package.
        launcher = [*_torchrun(), *command, str(tmp_path / "two")]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(launcher, cwd=tmp_path, env=env, capture_output=True, text=True)
    else:
        done = fork_two(*command, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    one, _ = load_model(tmp_path / "one" / "model.safetensors")
    two, _ = load_model(tmp_path / "two" / "model.safetensors")
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=2e-4, atol=2e-5, msg=name)
    expected, rows = (list(csv.DictReader((tmp_path / run / "log.csv").open())) for run in ("one", "two"))
    assert [row["step"] for row in rows] == ["1", "10", "12"]
    columns = [*(f"loss_{name}" for name in loss_names()), "consistent", "inconsistent"]
    for name in columns:
        # Rounding may move one segment of a video across the median.
        tolerance = (
            {"rtol": 2e-4, "atol": 2e-5} if name.startswith("loss") else {"rtol": 0, "atol": 1 / batch}
        )
        ours, theirs = (np.array([float(row[name]) for row in each]) for each in (rows, expected))
        np.testing.assert_allclose(ours, theirs, **tolerance, err_msg=name)


GROUP = """
import contextlib, os, sys
import torch
with contextlib.suppress(ImportError):
    import tqdm
    tqdm.tqdm.monitor_interval = 0  # torch's compiler shows bars where tqdm is installed, which keep a thread
from torch import nn
from aicl_fast.train.distributed import joined_ranks

def threads():
    # torch's own, which a build for GPUs starts for backward passes, are the process's and not the group's.
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    return sum(not name.startswith("pt_autograd") for name in names)

def use(ranks, fail, compiled):
    net = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
    def loss(x):
        return net(x).sum()
    run = torch.compile(loss, backend="aot_eager") if compiled else loss
    run(torch.zeros(1, 2)).backward()
    ranks.from_main("agreed")
    inside = threads()
    if fail:
        raise ValueError(inside)
    return inside

before = threads()
try:
    with joined_ranks("cpu") as (ranks, _):
        inside = use(ranks, "fail" in sys.argv, "compiled" in sys.argv)
except ValueError as error:
    held = error
    inside = error.args[0]
os.write(1, f"{before} {inside} {threads()}\\n".encode())
"""


@pytest.mark.parametrize("how", [[], ["fail"], ["compiled"]], ids=str)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_the_group_s_threads_end_with_it(
    tmp_path: Path, how: list[str], fork_two: Callable[..., Any]
) -> None:
    """One that outlives the run can abort the interpreter at its end."""
    script = tmp_path / "group.py"
    script.write_text(GROUP)
    done = fork_two("", str(script), *how)
    assert done.returncode == 0, done.stderr
    rows = [[int(count) for count in line.split()] for line in done.stdout.splitlines()]
    assert len(rows) == 2, done
    for before, inside, after in rows:
        assert after == before < inside


def _torchrun() -> list[str]:
    """Starts two processes of a script, or of a module after ``-m``."""
    options = ["--nproc-per-node", "2", "--master-port", str(_free_port())]
    return [sys.executable, "-m", "torch.distributed.run", *options]


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_held_out_videos_choose_and_are_not_trained_on(
    open_tiny: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    original = Videos.__init__

    def watch(self: Videos, dataset: Dataset, split: str, names=None, **more: object) -> None:
        original(self, dataset, split, names, **more)
        seen.append((split, *self.names))

    monkeypatch.setattr(Videos, "__init__", watch)
    result = train(open_tiny(keep="val", eval_every=4, val_share=0.3))
    trained, test, held_out = (set(names[1:]) for names in seen)
    assert [names[0] for names in seen] == ["train", "test", "train"]
    assert len(held_out) == 2
    assert not trained & held_out
    assert len(trained | held_out) == 6
    assert len(test) == 3
    assert result.step == max(result.history, key=lambda item: item[1])[0]


def test_patience_stops_early(open_tiny: Callable[..., Dataset]) -> None:
    options = {"keep": "test", "eval_every": 2, "patience": 2, "lr": 1e-12, "steps": 400}
    result = train(open_tiny(**options))
    # Nothing changes at this rate, so the first evaluation stays the best.
    assert [step for step, _ in result.history] == [2, 4, 6]
    assert result.step == 2


def test_the_moving_average_is_what_is_kept(open_tiny: Callable[..., Dataset]) -> None:
    plain = train(open_tiny(lr=1e-2, steps=2)).net.embed.weight
    first = train(open_tiny(lr=1e-2, steps=1)).net.embed.weight
    averaged = train(open_tiny(lr=1e-2, steps=2, ema_decay=0.75)).net.embed.weight
    torch.testing.assert_close(averaged, 0.75 * first + 0.25 * plain)


def test_clipping_bounds_the_gradient(open_tiny: Callable[..., Dataset]) -> None:
    norms: list[float] = []
    original = torch.optim.Adam.step

    def watch(self: torch.optim.Adam, *arguments: object) -> object:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", watch)
        train(open_tiny(clip_norm=0.01))
    assert max(norms) <= 0.01 * (1 + 1e-5)


@pytest.mark.parametrize("streams", ["rgb", "flow"])
def test_one_stream_trains_exports_and_detects(
    open_tiny: Callable[..., Dataset], tmp_path: Path, streams: str
) -> None:
    from aicl_fast import Detector
    from aicl_fast.export.onnx import export_onnx

    dataset = open_tiny(streams=streams)
    result = train(dataset, tmp_path)
    assert not any(("flow" if streams == "rgb" else "rgb") in name for name in result.net.state_dict())
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(rows[0]["loss_modality"]) == 0
    export_onnx(result.net, result.config, tmp_path / "m.onnx")
    detector = Detector(tmp_path / "m.onnx")
    features = dataset.features("test", "test_0")
    assert len(detector(features)) > 0
    with pytest.raises(DataError, match=f"reads {streams} alone"):
        detector(features, features)


def test_memory_mapped_features_train_the_same(
    open_tiny: Callable[..., Dataset], same_weights: Callable[..., bool]
) -> None:
    inside = train(open_tiny())
    outside = train(open_tiny(memory_gb=0))
    assert same_weights(inside.net, outside.net)
    assert Videos(open_tiny(memory_gb=0), "test").mapped


def test_the_log_has_every_curve(
    open_tiny: Callable[..., Dataset], tiny_config: Config, tmp_path: Path
) -> None:
    train(open_tiny(eval_every=6, warmup_steps=11), tmp_path)
    rows = {int(row["step"]): row for row in csv.DictReader((tmp_path / "log.csv").open())}
    assert sorted(rows) == [1, 6, 10, 12]
    for step in (1, 10, 12):
        row = rows[step]
        assert all(np.isfinite(float(row[f"loss_{name}"])) for name in loss_names())
        assert float(row["consistent"]) + float(row["inconsistent"]) == pytest.approx(32)
        assert float(row["lr"]) == tiny_config.train.lr
        assert float(row["memory_mb"]) > 0
    assert (rows[10]["selection_gamma"], rows[12]["selection_gamma"]) == ("1.0", "")
    assert float(rows[12]["steps_per_second"]) > 0
    for name in ("mAP_0.1", "average_mAP", "accuracy_A_bin", "accuracy_A_ca_bin", "eval_consistent"):
        assert 0 <= float(rows[6][name]) <= 1
        assert rows[10][name] == ""


def _batch(config: Config) -> tuple[TwoBranchNet, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    features = torch.rand(3, config.data.segments, config.data.input_width)
    return TwoBranchNet(config), features, torch.eye(3)


@pytest.mark.parametrize(
    ("changes", "gammas"),
    [
        # Not every change with every gamma: a compilation takes seconds.
        ({"variant": "released"}, (None, 1.0)),
        ({"variant": "paper"}, (1.0,)),
        ({"convolution": "winograd"}, (None,)),
    ],
)
def test_the_step_is_one_graph(
    tiny_config: Config, changes: dict[str, str], gammas: tuple[float | None, ...]
) -> None:
    """No graph break: nothing in network, selection, mining or losses goes by way of the host."""
    config = tiny_config.with_values(changes)
    net, features, labels = _batch(config)
    loss = make_loss(net, config)
    for gamma in (None if value is None else torch.tensor(value) for value in gammas):
        graph = torch.compile(loss, fullgraph=True, backend="aot_eager")
        _, compiled = graph(features, labels, gamma)
        _, plain = loss(features, labels, gamma)
        for name in loss_names():
            torch.testing.assert_close(compiled[name], plain[name], msg=name)
        compiled["total"].backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_compiled_training_stays_close(
    open_tiny: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """With code generated by `make long` only: that takes most of the time."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    # One shape of batch and one way of selecting: one compilation.
    options = {"steps": 4, "batch_size": 3, "warmup_steps": 0}
    plain = train(open_tiny(**options))
    compiled = train(open_tiny(compile=True, **options))
    for name, value in plain.net.state_dict().items():
        torch.testing.assert_close(compiled.net.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_bfloat16_keeps_weights_and_losses_in_float32(
    open_tiny: Callable[..., Dataset], tiny_config: Config
) -> None:
    config = tiny_config.with_values({"precision": "bf16"})
    net, features, labels = _batch(config)
    outputs, terms = make_loss(net, config)(features, labels, None)
    assert {value.dtype for value in (*outputs, *terms.values())} == {torch.float32}
    _, exact = make_loss(net, tiny_config)(features, labels, None)
    assert terms["total"] != exact["total"]
    assert terms["total"].item() == pytest.approx(exact["total"].item(), rel=0.05)
    result = train(open_tiny(precision="bf16"))
    assert {p.dtype for p in result.net.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_winograd_trains_alike(open_tiny: Callable[..., Dataset], precision: str) -> None:
    options = {"steps": 4, "warmup_steps": 0, "precision": precision}
    direct = train(open_tiny(**options))
    winograd = train(open_tiny(convolution="winograd", **options))
    assert not winograd.net.winograd  # what is kept is a network as it is
    tolerance = {"fp32": 1e-4, "bf16": 2e-2}[precision]
    for name, value in direct.net.state_dict().items():
        torch.testing.assert_close(winograd.net.state_dict()[name], value, rtol=tolerance, atol=tolerance)


def test_deterministic_mode_is_left_as_it_was_found(
    open_tiny: Callable[..., Dataset], same_weights: Callable[..., bool]
) -> None:
    first = train(open_tiny(deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()
    assert same_weights(first.net, train(open_tiny(deterministic=True)).net)


def test_settings_that_make_no_sense(open_tiny: Callable[..., Dataset], tiny_config: Config) -> None:
    with pytest.raises(ConfigError, match="patience: needs keep"):
        tiny_config.with_values({"patience": 3})
    with pytest.raises(DataError, match="leaves none to train on"):
        train(open_tiny(keep="val", eval_every=4, val_share=0.99))


@pytest.mark.gpu
def test_the_step_can_be_captured_in_a_cuda_graph(tiny_config: Config) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    net, features, labels = _batch(tiny_config)
    net.cuda()
    features, labels = features.cuda(), labels.cuda()
    loss = make_loss(net, tiny_config)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            net.zero_grad()
            loss(features, labels, None)[1]["total"].backward()
    torch.cuda.current_stream().wait_stream(stream)
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad(set_to_none=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss(features, labels, None)[1]["total"].backward()
    net.zero_grad(set_to_none=False)
    graph.replay()
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
