"""The tiny data set under other settings, and whether two networks are the same."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset

if TYPE_CHECKING:
    from aicl_fast.model import TwoBranchNet


@pytest.fixture
def open_tiny(tiny_dataset: Path, tiny_config: Config) -> Callable[..., Dataset]:
    """``open_tiny(steps=4)`` opens the tiny data set with this setting changed."""
    return lambda **changes: Dataset.open(tiny_dataset, tiny_config.with_values(changes))


@pytest.fixture
def add_points(tiny_dataset: Path) -> Callable[[int], None]:
    """``add_points(2)`` makes three points of the annotations of the first two training videos."""

    def add(videos: int) -> None:
        truth = json.loads((tiny_dataset / "gt.json").read_text())
        for number in range(videos):
            video = truth["database"][f"train_{number}"]
            label = video["annotations"][0]["label"]
            video["annotations"] = [{"label": label, "segment": [time, time]} for time in (1.0, 3.0, 5.5)]
        (tiny_dataset / "gt.json").write_text(json.dumps(truth))

    return add


# What torchrun starts two of, each a fork of a process that has torch.
_TWO = """
import os, runpy, sys, traceback
port, kind, what, *rest = sys.argv[1:]
children = []
for rank in range(2):
    children.append(os.fork())
    if not children[-1]:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        sys.argv = [what, *rest]
        status = 1
        try:
            if kind == "-m":
                runpy.run_module(what, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(what, run_name="__main__")
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
sys.exit(max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children))
"""


@pytest.fixture
def fork_two(fork_python: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """``fork_two("-m", module, …)`` or ``fork_two("", script, …)``: two processes that train together."""

    def run(kind: str, what: str, *arguments: str) -> Any:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return fork_python("-c", _TWO, str(port), kind, what, *arguments, cwd=tmp_path)

    return run


@pytest.fixture(scope="session")
def same_weights() -> Callable[[TwoBranchNet, TwoBranchNet], bool]:
    """Whether two networks' weights are equal bit for bit."""
    torch = pytest.importorskip("torch")

    def same(first: TwoBranchNet, second: TwoBranchNet) -> bool:
        other = second.state_dict()
        return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())

    return same
