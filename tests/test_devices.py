"""Devices by their names, for training and for running weights."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.devices import torch_device  # noqa: E402
from aicl_fast.engines.torch import TorchSession  # noqa: E402
from aicl_fast.errors import ConfigError, UnavailableError  # noqa: E402
from aicl_fast.train.distributed import joined_ranks  # noqa: E402


def _gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_devices_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_device("cpu") == torch.device("cpu")
    _gpus(monkeypatch, 2)
    assert torch_device("cuda") == torch.device("cuda")
    assert torch_device("cuda:1") == torch_device("cuda:01") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("count", "name", "words"),
    [
        (0, "cuda", "finds no CUDA device here. Use 'cpu'"),
        (0, "cuda:1", "finds no CUDA device here. Use 'cpu'"),
        (1, "cuda:1", "finds 1 CUDA device here. Use cuda:0."),
        (2, "cuda:2", "finds 2 CUDA devices here. Use cuda:0 to cuda:1."),
        (2, "cuda:300", "finds 2 CUDA devices here."),  # more than torch's own type can hold
    ],
)
def test_a_device_that_is_not_here(
    monkeypatch: pytest.MonkeyPatch, count: int, name: str, words: str
) -> None:
    _gpus(monkeypatch, count)
    with pytest.raises(UnavailableError) as raised:
        torch_device(name)
    assert f"device: '{name}' was asked for, but torch" in str(raised.value)
    assert words in str(raised.value)


@pytest.mark.parametrize("name", ["foo", "mps", "meta", "cuda:", "cuda:-1", "cuda:²", "cpu:0", "", "cuda 0"])
def test_names_that_mean_no_device(tiny_model: Path, name: str) -> None:
    for ask in (torch_device, lambda name: TorchSession(tiny_model, device=name)):
        with pytest.raises(ConfigError) as raised:
            ask(name)
        assert str(raised.value) == f"device: expected cpu, cuda or cuda:N, got {name!r}."
    with pytest.raises(ConfigError, match="expected cpu, cuda or cuda:N"), joined_ranks(name):
        pass
