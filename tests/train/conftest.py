"""The tiny data set under other settings, and whether two networks are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset

if TYPE_CHECKING:
    from aicl_fast.model import TwoBranchNet


@pytest.fixture
def open_tiny(tiny_dataset: Path, tiny_config: Config) -> Callable[..., Dataset]:
    """``open_tiny(steps=4)`` opens the tiny data set with this setting changed."""
    return lambda **changes: Dataset.open(tiny_dataset, tiny_config.with_values(changes))


@pytest.fixture(scope="session")
def same_weights() -> Callable[[TwoBranchNet, TwoBranchNet], bool]:
    """Whether two networks' weights are equal bit for bit."""
    torch = pytest.importorskip("torch")

    def same(first: TwoBranchNet, second: TwoBranchNet) -> bool:
        other = second.state_dict()
        return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())

    return same
