"""The measuring script, as far as it runs without a GPU: the same steps on the CPU, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.bench import kernels  # noqa: E402
from aicl_fast.errors import UnavailableError  # noqa: E402

CPU = "cpu"


@pytest.mark.parametrize("family", ["fusion", "pooling", "mining", "contrast", "network", "latency"])
def test_a_family_from_case_to_record(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kernels.json"
    assert kernels.main(["--dry-run", "--no-compile", "--only", family, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert rows
    assert {row["family"] for row in rows} == {family}
    assert capsys.readouterr().out.count(family) >= len(rows)
    for row in rows:
        if family == "latency":
            assert row["kernels"]["p50_ms"] > 0
            assert row["textbook"]["times_faster"] == 1
        else:
            assert row["correct"]
            assert row["kernels"]["replay_us"] > 0
            low, high = row["eager_replay_ratio_interval"]
            assert low <= row["eager_replay_ratio"] <= high


def test_a_kernel_is_timed_in_the_interpreter(target32: Any) -> None:
    if target32.device.type != CPU:
        pytest.skip("the GPU's own run is what this rehearses")
    case = next(kernels.cases("fusion", True, target32.device))
    rates = {"copy_bytes_per_s": 1e9, "float32_operations_per_s": 1e9}
    row = kernels.measure(case, rates, target32.device, kernels.Effort(0.0, 1))
    assert row["correct"]
    # The interpreter is slower than torch by far: it was the kernel that was timed.
    assert row["kernels"]["replay_us"] > row["eager"]["replay_us"]


def test_the_compiled_rival_is_added_and_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = []

    def compiler(function: Any, **_: Any) -> Any:
        compiled.append(function)
        if len(compiled) == 2:
            raise RuntimeError("no compiler here")
        return function

    monkeypatch.setattr(torch, "compile", compiler)
    path = tmp_path / "kernels.json"
    assert kernels.main(["--dry-run", "--only", "mining", "--json", str(path)]) == 0
    first, second, third = json.loads(path.read_text())["rows"]
    assert first["compiled"]["replay_us"] > 0
    assert first["compiled_call_ratio"] > 0
    assert second["compiled"] == {"failed": "RuntimeError: no compiler here"}
    assert "compiled_replay_ratio" not in second
    assert third["compiled"]["call_us"] > 0
    assert "no compiler here" in capsys.readouterr().out


def test_nothing_is_compiled_when_the_time_is_up(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    kernels.main(["--dry-run", "--only", "mining", "--seconds", "0", "--json", str(path)])
    assert not any("compiled" in row for row in json.loads(path.read_text())["rows"])


def test_a_wrong_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*inputs: Any) -> Any:
        found = mine(*inputs)
        return found._replace(**{found._fields[0]: ~found[0]})

    mine = kernels.mine_segments
    monkeypatch.setattr(kernels, "mine_segments", wrong)
    assert kernels.run_once("mining", torch.device(CPU)) == 1
    assert kernels.main(["--dry-run", "--no-compile", "--only", "mining"]) == 1


def test_a_kernel_that_fails_or_finds_nan_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []
    mine, pool = kernels.mine_segments, kernels.topk_pool

    def failing(*inputs: Any) -> Any:
        calls.append(inputs)
        if len(calls) == 1:
            raise RuntimeError("out of registers")
        return mine(*inputs)

    def not_numbers(scores: Any, *inputs: Any) -> Any:
        return pool(scores * float("nan"), *inputs)

    monkeypatch.setattr(kernels, "mine_segments", failing)
    monkeypatch.setattr(kernels, "topk_pool", not_numbers)
    path = tmp_path / "kernels.json"
    assert kernels.main(["--dry-run", "--no-compile", "--only", "in", "--json", str(path)]) == 1
    rows = json.loads(path.read_text())["rows"]
    failed, *others = [row for row in rows if row["family"] == "mining"]
    assert failed["failed"] == "RuntimeError: out of registers"
    assert not failed["correct"]
    assert all(row["correct"] for row in others)
    assert {row["kernels"]["error"] for row in rows if row["family"] == "pooling"} == {None}
    told = capsys.readouterr().out
    assert "FAILED RuntimeError: out of registers" in told
    assert "error not finite WRONG" in told


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="no CUDA device"):
        kernels.main([])


@pytest.mark.parametrize(
    ("said", "code", "expected"),
    [
        ("fine", 0, "nothing"),
        ("========= Invalid __global__ write", 9, "something"),
        ("mining is WRONG", 1, "failed: mining is WRONG"),
        ("", None, "not finished in 5 s"),
    ],
)
def test_the_sanitizers_verdict(
    said: str, code: int | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def watched(command: list[str], *_: Any, **__: Any) -> Any:
        commands.append(command)
        return code, [f"{said}\n"]

    monkeypatch.setattr(kernels.shutil, "which", lambda _: "compute-sanitizer")
    monkeypatch.setattr(kernels, "watched", watched)
    path = tmp_path / "sanitize.json"
    assert kernels.sanitize("", path, 5.0) == (1 if code else 0)
    rows = json.loads(path.read_text())["rows"]
    assert [row["tool"] for row in rows] == ["memcheck", "racecheck", "initcheck"]
    assert {row["found"] for row in rows} == {expected}
    assert all("--once" in command for command in commands if command[0] == "compute-sanitizer")


def test_a_sanitizer_that_cannot_work_is_not_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.shutil, "which", lambda _: None)
    with pytest.raises(UnavailableError, match="not on the PATH"):
        kernels.sanitize("", None, 5.0)
    monkeypatch.setattr(kernels.shutil, "which", lambda _: "compute-sanitizer")
    refused = 1, ["========= Error: Device not supported\n"]
    monkeypatch.setattr(kernels, "watched", lambda *_, **__: refused)
    with pytest.raises(UnavailableError, match="does not support"):
        kernels.sanitize("", None, 5.0)
