"""Runs that are killed, that another one gets in the way of, or that find the disk full: nothing is lost."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import Config  # noqa: E402
from aicl_fast.data.dataset import Dataset  # noqa: E402
from aicl_fast.errors import AiclError, DataError, ModelError  # noqa: E402
from aicl_fast.locks import locked_folder  # noqa: E402
from aicl_fast.train.checkpoint import latest_checkpoint, step_of  # noqa: E402
from aicl_fast.train.trainer import train  # noqa: E402
from aicl_fast.weights import load_model  # noqa: E402

OPTIONS = {"steps": 60, "save_every": 4, "eval_every": 15, "keep": "test", "ema_decay": 0.9, "lr": 1e-2}

# One process imports torch and what takes seconds, and forks one that trains for every kill.
_FORKED = """
import json, os, random, resource, signal, sys, time, traceback
from pathlib import Path
from typing import Any
import torch; torch.set_num_threads(1)
import torch._dynamo
from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.errors import AiclError
from aicl_fast.train import trainer

data, out, config, what, count = sys.argv[1:]
config = Config.from_dict(json.loads(Path(config).read_text()))

def begin(folder, limit=None):
    pid = os.fork()
    if pid:
        return pid
    try:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        trainer.train(Dataset.open(data, config), folder, resume=True)
        os._exit(0)
    except AiclError as error:
        print(f"refused: {error}", flush=True)
        os._exit(2)
    except BaseException:
        traceback.print_exc()
        os._exit(1)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

start = time.monotonic()
assert ended(begin(f"{out}/whole")) == 0
seconds = time.monotonic() - start
if what == "kill":
    draw, kills, number = random.Random(int(count)), 0, 0
    while kills < int(count):
        folder = f"{out}/cut{number}"
        pid = begin(folder)
        time.sleep(draw.uniform(0, 0.7 * seconds))
        os.kill(pid, 9)
        code = ended(pid)
        assert code in (-9, 0), code
        number += code == 0
        kills += code == -9
        if code:
            print(f"killed {folder}", flush=True)
            sys.stdin.readline()
    assert ended(begin(folder)) == 0
else:
    for limit in range(200, int(count), int(count) // 6):
        folder = f"{out}/cut{limit}"
        print(f"ended {ended(begin(folder, limit))} {folder}", flush=True)
        assert ended(begin(folder)) == 0
"""


@pytest.fixture
def forked(tiny_dataset: Path, tiny_config: Config, tmp_path: Path) -> Callable[..., list[str]]:
    """``forked("kill", 5)``: arguments of a Python that trains in ``whole`` to the end, and in ``cut0`` on is
    killed five times."""

    def command(what: str, count: int, **options: int) -> list[str]:
        config = tmp_path / "config.json"
        config.write_text(json.dumps(tiny_config.with_values({**OPTIONS, **options}).to_dict()))
        return ["-c", _FORKED, str(tiny_dataset), str(tmp_path), str(config), what, str(count)]

    return command


def _rows(run: Path) -> list[dict[str, str]]:
    """What ``log.csv`` holds, every row of it whole."""
    text = (run / "log.csv").read_text()
    assert text.endswith("\n")
    header, *lines = csv.reader(text.splitlines())
    assert header[0] == "step"
    assert all(len(line) == len(header) for line in lines)
    return [dict(zip(header, line, strict=True)) for line in lines]


def _curves(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without what no two runs have alike."""
    return [{k: v for k, v in row.items() if k not in ("steps_per_second", "memory_mb")} for row in rows]


def _events(run: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard")).Reload()
    return [(each.step, each.value) for each in found.Scalars("loss/total")]


def _same_runs(run: Path, whole: Path) -> None:
    same = [(path / "model.safetensors").read_bytes() for path in (run, whole)]
    assert same[0] == same[1]
    assert _curves(_rows(run)) == _curves(_rows(whole))
    assert _events(run) == _events(whole)


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.long)])
def test_kills_at_any_moment_lose_nothing(
    forked: Callable[..., list[str]], tmp_path: Path, kills: int
) -> None:
    whole = tmp_path / "whole"
    with subprocess.Popen(
        [sys.executable, *forked("kill", kills)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            run = Path(line.split()[1])
            held = latest_checkpoint(run / "checkpoints") if run.is_dir() else None
            if held is not None or (run / "log.csv").exists():
                rows, expected = _curves(_rows(run)), _curves(_rows(whole))
                # Whole, in order, and with every row that the run resumes from.
                assert rows == expected[: len(rows)]
                saved = 0 if held is None else step_of(held)
                assert len(rows) >= sum(int(row["step"]) <= saved for row in expected)
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0
    for run in tmp_path.glob("cut*"):
        _same_runs(run, whole)
        assert not [path.name for path in run.rglob(".*")]


def test_a_full_disk_is_a_sentence_and_costs_nothing(
    forked: Callable[..., list[str]], tmp_path: Path, fork_python: Callable[..., Any]
) -> None:
    # Files of any kind grow past one of these sizes: curves, weights, the optimizer's state, records.
    largest = 12_000
    done = fork_python(*forked("full", largest, steps=12, eval_every=6), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    refused = [line for line in text.splitlines() if line.startswith("refused: ")]
    ended = [line.split()[:2] for line in text.splitlines() if line.startswith("ended ")]
    assert ["ended", "2"] in ended
    assert ["ended", "1"] not in ended
    assert len(refused) == ended.count(["ended", "2"])
    assert all("cannot be written" in line for line in refused)
    for run in tmp_path.glob("cut*"):
        _same_runs(run, tmp_path / "whole")


def test_two_runs_do_not_share_a_folder(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset, run = open_tiny(), tmp_path / "run"
    code = (
        "import sys, time\nfrom aicl_fast.locks import locked_folder\n"
        "with locked_folder(sys.argv[1]):\n print('now', flush=True)\n time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(DataError, match=rf"run: another aicl-fast .* \(process {other.pid}, since 2"):
            train(dataset, run, overwrite=True)
        other.send_signal(signal.SIGKILL)
    # The system has released it.
    train(dataset, run)
    assert not (run / ".lock").exists()
    with locked_folder(run):
        train(dataset, run, overwrite=True)


def test_all_files_of_a_checkpoint_may_be_read_alike(
    open_tiny: Callable[..., Dataset], tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        train(open_tiny(steps=1), tmp_path)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}
    assert {path.name for path in files} >= {"trainer.safetensors", "trainer.json", "log.csv"}


def test_nothing_that_is_written_names_the_machine(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    import socket

    train(open_tiny(steps=1), tmp_path / "run")
    names = [socket.gethostname().encode(), str(tmp_path).encode(), str(Path.home()).encode() + b"/"]
    for path in (tmp_path / "run").rglob("*"):
        content = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        assert not [name for name in names if name in content], path


def test_what_a_killed_process_left_is_removed(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    left = [tmp_path / ".model.0123456789ab.safetensors", tmp_path / ".log.0123456789ab.csv"]
    own = [tmp_path / ".model.mine.safetensors", tmp_path / ".other.0123456789ab.csv"]
    unfinished = tmp_path / "checkpoints" / ".step_00000004.abcd" / "whole"
    unfinished.mkdir(parents=True)
    for path in (*left, *own, unfinished / "model.safetensors"):
        path.write_text("half")
    train(open_tiny(), tmp_path)
    assert not [path for path in left if path.exists()]
    assert not unfinished.parent.exists()
    assert all(path.exists() for path in own)
    load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["trainer.json", "trainer.safetensors", "log.csv"])
def test_a_damaged_file_of_a_run_is_named(
    open_tiny: Callable[..., Dataset], tmp_path: Path, name: str
) -> None:
    dataset = open_tiny(steps=4)
    train(dataset, tmp_path)
    path = tmp_path / name if name == "log.csv" else tmp_path / "checkpoints" / "step_00000004" / name
    whole = path.read_bytes()
    draw = random.Random(0)
    told: list[str] = []
    for number in range(15):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[draw.randrange(len(whole))] = draw.choice((0, 10, 34, 44, 45, 57, 93, 125, 255))
        path.write_bytes(damaged[: draw.randrange(len(whole))] if number % 3 == 0 else damaged)
        try:
            train(dataset, tmp_path, resume=True)
        except AiclError as error:
            told.append(str(error))
    assert told
    assert all(str(tmp_path) in text for text in told)


def test_an_optimizer_s_state_of_another_network_is_refused(
    open_tiny: Callable[..., Dataset], tmp_path: Path
) -> None:
    train(open_tiny(steps=1), tmp_path / "small")
    train(open_tiny(steps=1, embedding_width=9), tmp_path / "wide")
    small, wide = (tmp_path / run / "checkpoints" / "step_00000001" for run in ("small", "wide"))
    (small / "trainer.safetensors").write_bytes((wide / "trainer.safetensors").read_bytes())
    with pytest.raises(
        ModelError, match=r"optimizer\.0\.\w+: torch\.float32 of shape .* not of this network"
    ):
        train(open_tiny(steps=2), tmp_path / "small", resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"position": -1}, "order"), ({"order": [0, 0, 1]}, "order"), ({"order": [7]}, "order")],
)
def test_an_order_of_other_videos_is_refused(
    open_tiny: Callable[..., Dataset], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    train(open_tiny(steps=1), tmp_path)
    record = tmp_path / "checkpoints" / "step_00000001" / "trainer.json"
    document = json.loads(record.read_text())
    document["order"] |= changes
    record.write_text(json.dumps(document))
    with pytest.raises(ModelError, match=words):
        train(open_tiny(steps=2), tmp_path, resume=True)


def test_what_differs_is_named_and_nothing_else(open_tiny: Callable[..., Dataset], tmp_path: Path) -> None:
    train(open_tiny(steps=2), tmp_path)
    with pytest.raises(ModelError) as found:
        train(open_tiny(steps=4, lr=0.5), tmp_path, resume=True)
    assert "train.lr was" in str(found.value)
    assert "now 0.5." in str(found.value)
    assert not re.search("steps|schedule", str(found.value))
