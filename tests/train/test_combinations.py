"""Settings in combination, pair by pair: losses, streams, precision, convolution, compilation, processes."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import Config  # noqa: E402
from aicl_fast.data.dataset import Dataset  # noqa: E402
from aicl_fast.train.trainer import train  # noqa: E402

_TERMS = ("agnostic", "contrast", "modality", "consistency")


def _without(*terms: str) -> dict[str, Any]:
    return {f"weight_{term}": 0.0 for term in terms}


LOSSES: Mapping[str, dict[str, Any]] = {
    "released": {"variant": "released"},
    "paper": {"variant": "paper"},
    "L_a": _without(*_TERMS),
    "no agnostic": _without("agnostic"),
    **{f"{term} alone": _without(*set(_TERMS) - {term}) for term in _TERMS},
}
OPTIONS: Mapping[str, Sequence[Any]] = {
    "losses": list(LOSSES),
    "streams": ["both", "rgb", "flow"],
    "compile": [False, True],
    "precision": ["fp32", "bf16"],
    "convolution": ["direct", "winograd"],
    "schedule": ["released", "ramp", "cosine"],
    "keep": ["last", "test", "val"],
    "ema_decay": [0.0, 0.9],
    "supervision": ["videos", "points", "times"],
    "self_training": [False, True],
    "processes": [1, 2],
}
_SCHEDULES: Mapping[str, dict[str, Any]] = {
    "released": {"warmup_steps": 0},
    "ramp": {"warmup_steps": 1, "ramp_steps": 1},
    "cosine": {"lr_schedule": "cosine", "warmup_steps": 0, "ramp_steps": "all"},
}
_PLAIN = ("streams", "compile", "precision", "convolution", "ema_decay", "supervision", "self_training")
Row = dict[str, Any]
Pair = tuple[tuple[str, Any], tuple[str, Any]]


def _pairs(row: Row) -> set[Pair]:
    return set(itertools.combinations(row.items(), 2))


def _rows() -> Iterator[Row]:
    """So many rows that every two values of two options meet in one."""
    every = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]
    some = [(row, _pairs(row)) for row in every[::23]]  # enough to choose from
    left = set().union(*(pairs for _, pairs in some))
    while left:
        row, pairs = max(some, key=lambda one: len(one[1] & left))
        left -= pairs
        yield row


ROWS = list(_rows())


def _settings(row: Row) -> dict[str, Any]:
    chosen = {name: row[name] for name in _PLAIN}
    # Five videos or six in batches of four: a short last batch, which one of two processes sits out.
    common = {"steps": 2, "batch_size": 4, "keep": row["keep"], "val_share": 0.2, "teacher_start": 0.5}
    if row["keep"] != "last":
        common["eval_every"] = 2
    return {**LOSSES[row["losses"]], **_SCHEDULES[row["schedule"]], **chosen, **common}


def test_every_two_values_meet() -> None:
    met = set().union(*map(_pairs, ROWS))
    for (first, one), (second, other) in itertools.combinations(OPTIONS.items(), 2):
        for pair in itertools.product(one, other):
            assert ((first, pair[0]), (second, pair[1])) in met


_COMPILED = pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.long)])


@_COMPILED
def test_settings_train_in_combination(
    open_tiny: Callable[..., Dataset],
    add_points: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    compiled: bool,
) -> None:
    """Compiled without code being generated, which takes most of the time."""
    add_points(2)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    for row in ROWS:
        if row["processes"] == 1 and row["compile"] == compiled:
            result = train(open_tiny(**_settings(row)))
            assert all(value.isfinite().all() for value in result.net.state_dict().values()), row


_TWO = """
import functools, json, os, sys, traceback
from pathlib import Path
import torch; torch.set_num_threads(1)
import torch._dynamo  # once, not in each process: it takes seconds
from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.train import trainer
torch.compile = functools.partial(torch.compile, backend="eager")

configs = json.loads(Path(sys.argv[2]).read_text())
for number, document in enumerate(configs):
    children = []
    for rank in range(2):
        pid = os.fork()
        if not pid:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(int(sys.argv[3]) + number)}
            try:
                result = trainer.train(Dataset.open(sys.argv[1], Config.from_dict(document)))
                assert all(v.isfinite().all() for v in result.net.state_dict().values())
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print(number, *codes, flush=True)
"""


@pytest.mark.slow
@_COMPILED
def test_settings_train_in_combination_in_two_processes(
    tiny_dataset: Path,
    add_points: Callable[[int], None],
    tiny_config: Config,
    tmp_path: Path,
    compiled: bool,
    fork_python: Callable[..., Any],
) -> None:
    add_points(2)
    rows = [row for row in ROWS if row["processes"] == 2 and row["compile"] == compiled]
    configs = [tiny_config.with_values(_settings(row)).to_dict() for row in rows]
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [str(tiny_dataset), str(tmp_path / "configs.json"), "29600"]
    done = fork_python("-c", _TWO, *arguments, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ended = dict(zip(done.stdout.splitlines(), rows, strict=True))
    failed = {line: row for line, row in ended.items() if not line.endswith(" 0 0")}
    assert not failed, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_l_a_alone_trains_compiled(
    open_tiny: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Its total is L_a itself, and once compiled the two were one without a gradient."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    options = {**LOSSES["L_a"], "steps": 2, "batch_size": 3, "warmup_steps": 0}
    plain = train(open_tiny(**options))
    compiled = train(open_tiny(compile=True, **options))
    for name, value in plain.net.state_dict().items():
        torch.testing.assert_close(compiled.net.state_dict()[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("losses", list(LOSSES))
@pytest.mark.parametrize("streams", OPTIONS["streams"])
def test_every_loss_trains_with_every_stream(
    open_tiny: Callable[..., Dataset], losses: str, streams: str
) -> None:
    result = train(open_tiny(**LOSSES[losses], streams=streams, steps=2))
    assert math.isfinite(result.localization.average)
