"""The measuring script, as far as it runs without a GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.bench import kernels  # noqa: E402


@pytest.mark.parametrize("family", ["mining", "contrast"])
def test_every_contender_runs_and_is_right(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert kernels.dry_run(family) == 0
    assert family in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kernels.main([]) == 2
    assert "not measured: no CUDA device" in capsys.readouterr().err
