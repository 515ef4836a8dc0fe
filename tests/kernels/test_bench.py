"""The measuring script, as far as it runs without a GPU: the same steps on the CPU, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from aicl_fast.bench.suites import kernel_cases, kernels, sanitize  # noqa: E402
from aicl_fast.errors import UnavailableError  # noqa: E402
from aicl_fast.kernels import harness  # noqa: E402

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
            assert row["reference"]["times_faster"] == 1
        else:
            assert row["correct"]
            assert row["kernels"]["replay_us"] > 0
            low, high = row["eager_replay_ratio_interval"]
            assert low <= row["eager_replay_ratio"] <= high


def test_a_kernel_is_timed_in_the_interpreter(target32: Any) -> None:
    if target32.device.type != CPU:
        pytest.skip("the GPU's own run is what this rehearses")
    case = next(kernel_cases.cases("fusion", True, target32.device))
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


def test_a_rival_that_fails_leaves_the_kernels_their_time() -> None:
    def failing(_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    case = next(kernel_cases.cases("pooling", True, torch.device(CPU)))
    case.exact, case.reference = case.reference, failing
    rates = {"copy_bytes_per_s": 1e9}
    row = kernels.measure(case, rates, torch.device(CPU), kernels.Effort(0.0, 1))
    assert row["correct"]
    assert row["kernels"]["replay_us"] > 0
    assert row["kernels"]["call_us"] > 0
    assert row["eager"] == {"failed": "RuntimeError: operation not permitted when stream is capturing"}
    assert "eager_replay_ratio" not in row
    kernels._print(row)


def test_every_set_has_outputs_of_its_own() -> None:
    case = next(kernel_cases.cases("fusion", True, torch.device(CPU)))
    sets = kernels.input_sets(case, torch.device(CPU))
    outputs = kernels.replay(case.kernels, sets, torch.device(CPU))()
    places = {value.data_ptr() for found in outputs for value in found}  # type: ignore[attr-defined]
    assert len(places) == 3 * len(sets) == 6


class _NoKernels(TorchDispatchMode):
    """Fails on an operation of ours."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function.namespace != "aicl_fast", function
        return function(*args, **(kwargs or {}))


def test_no_rival_contains_a_kernel(target32: Any) -> None:
    seen = set()
    for case in kernel_cases.cases("", True, target32.device):
        if case.family in seen:
            continue
        seen.add(case.family)
        inputs = case.make(torch.Generator(target32.device).manual_seed(0))
        with _NoKernels():
            kernel_cases.complete(case, case.reference)(inputs)
        with pytest.raises(AssertionError, match="aicl_fast"), _NoKernels():
            case.kernels(inputs)
    assert seen == {"fusion", "pooling", "mining", "contrast", "network"}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The families that are measured, in order; no time is taken."""
    order: list[str] = []

    def measure(case: kernel_cases.Case, *_: Any) -> dict[str, Any]:
        order.append(case.family)
        return {"family": case.family, "case": case.name, "eager": {}}

    def latency(*_: Any) -> dict[str, Any]:
        order.append("latency")
        return {"family": "latency", "case": kernels._latency_name(True)}

    monkeypatch.setattr(kernels, "measure", measure)
    monkeypatch.setattr(kernels, "measure_latency", latency)
    monkeypatch.setattr(kernels, "_print", lambda _: None)
    return order


def test_what_is_asked_for_first_is_measured_first(measured: list[str]) -> None:
    assert kernels.main(["--dry-run", "--no-compile"]) == 0
    assert measured[:3] == ["network", "network", "latency"]
    assert list(dict.fromkeys(measured)) == ["network", "latency", "contrast", "fusion", "mining", "pooling"]


def test_a_run_that_was_cut_off_goes_on_at_the_same_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]
) -> None:
    path = tmp_path / "kernels.json"
    here = {**kernels.environment(), "commit": "0123456789ab"}
    monkeypatch.setattr(kernels, "environment", lambda: here)
    arguments = ["--dry-run", "--no-compile", "--only", "in", "--json", str(path)]
    kernels.main(arguments)
    assert measured.count("mining") == 3
    pooled = measured.count("pooling")
    whole = json.loads(path.read_text())
    # One case of mining is missing, and one has failed.
    mining = [i for i, row in enumerate(whole["rows"]) if row["family"] == "mining"]
    whole["rows"][mining[0]]["failed"] = "RuntimeError: out of registers"
    del whole["rows"][mining[1]]

    def again(commit: str, *more: str) -> list[str]:
        path.write_text(json.dumps({**whole, "commit": commit}))
        measured.clear()
        kernels.main([*arguments, *more])
        rows = json.loads(path.read_text())["rows"]
        assert len(rows) == 3 + pooled
        assert not any("failed" in row for row in rows)
        return list(measured)

    assert again("0123456789ab") == ["mining", "mining"]
    assert len(again("0123456789ab", "--again")) == 3 + pooled
    assert len(again("ba9876543210")) == 3 + pooled
    here["commit"] += "-dirty"
    assert len(again("0123456789ab-dirty")) == 3 + pooled


def test_nothing_is_compiled_when_the_time_is_up(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    kernels.main(["--dry-run", "--only", "mining", "--seconds", "0", "--json", str(path)])
    assert not any("compiled" in row for row in json.loads(path.read_text())["rows"])


def test_a_wrong_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*inputs: Any) -> Any:
        found = mine(*inputs)
        return found._replace(**{found._fields[0]: ~found[0]})

    mine = harness.mine_segments
    monkeypatch.setattr(harness, "mine_segments", wrong)
    assert sanitize.run_once("mining", torch.device(CPU)) == 1
    assert kernels.main(["--dry-run", "--no-compile", "--only", "mining"]) == 1


def test_an_output_that_is_left_unwritten_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the memory that it lies in holds what is right."""
    monkeypatch.delenv("PYTORCH_NO_CUDA_MEMORY_CACHING", raising=False)
    case = next(kernel_cases.cases("pooling", True, torch.device(CPU)))
    inputs = case.make(torch.Generator().manual_seed(0))
    right = kernel_cases.expected(case, inputs)

    def recycled(value: Any) -> Any:
        """An allocator that hands back the block with the earlier answer, as CUDA's does."""
        found = torch.empty_like(value)
        # Asked for, not read from the memory: what an earlier test left there may be NaN, too.
        deterministic = torch.are_deterministic_algorithms_enabled()
        if not (deterministic and torch.utils.deterministic.fill_uninitialized_memory):
            return found.copy_(value)
        assert not found.is_floating_point() or found.isnan().all()
        return found

    case.kernels = lambda _: [recycled(value) for value in right]
    assert kernel_cases.check(case, lambda given: case.kernels(given), inputs, torch.device(CPU), right) == 0
    assert kernel_cases.check(case, case.kernels, inputs, torch.device(CPU), right) == float("inf")
    # A sanitizer sees for itself what is not written, if nothing else writes there.
    monkeypatch.setenv("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")
    assert kernel_cases.check(case, case.kernels, inputs, torch.device(CPU), right) == 0


@pytest.mark.parametrize("before", [(False, False, False), (True, True, True), (True, False, False)])
def test_memory_is_poisoned_and_torch_is_as_it_was(before: tuple[bool, bool, bool]) -> None:
    def settings() -> tuple[bool, bool, bool]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        )

    def leave() -> None:
        with kernel_cases.poisoned():
            for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn):
                assert torch.empty(100, dtype=dtype).float().isnan().all()
            assert torch.empty_like(torch.zeros(100)).isnan().all()
            assert (torch.empty(100, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()
            assert torch.empty(100, dtype=torch.bool).all()
            raise RuntimeError("out of registers")

    found = settings()
    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]
        with pytest.raises(RuntimeError, match="out of registers"):
            leave()
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(found[0], warn_only=found[1])
        torch.utils.deterministic.fill_uninitialized_memory = found[2]


def test_a_few_wrong_rows_of_a_large_batch_are_told() -> None:
    right = torch.rand(64, 750, 20, generator=torch.Generator().manual_seed(0)) + 0.5
    wrong = right.clone()
    wrong[3, 100:140] = 0
    # Of the whole batch it would pass as bfloat16's rounding.
    assert float((wrong - right).norm() / right.norm()) < 3e-2
    assert kernel_cases._error([wrong], [right]) > 0.1
    wrong[3, 100:140] = float("nan")
    assert kernel_cases._error([wrong], [right]) == float("inf")


def test_the_rounding_of_a_video_that_is_nearly_zero_is_no_error() -> None:
    right = torch.ones(4, 10)
    right[2] = 0
    rounded = right + 1e-6
    assert 0 < kernel_cases._error([rounded], [right]) < 1e-4
    assert kernel_cases._error([torch.zeros(4, 10)], [torch.zeros(4, 10)]) == 0
    assert kernel_cases._error([torch.tensor(1.5)], [torch.tensor(1.0)]) == 0.5


def test_a_kernel_that_fails_or_finds_nan_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []
    mine, pool = harness.mine_segments, harness.topk_pool

    def failing(*inputs: Any) -> Any:
        calls.append(inputs)
        if len(calls) == 1:
            raise RuntimeError("out of registers")
        return mine(*inputs)

    def not_numbers(scores: Any, *inputs: Any) -> Any:
        return pool(scores * float("nan"), *inputs)

    monkeypatch.setattr(harness, "mine_segments", failing)
    monkeypatch.setattr(harness, "topk_pool", not_numbers)
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

    monkeypatch.setattr(sanitize.shutil, "which", lambda _: "compute-sanitizer")
    monkeypatch.setattr(sanitize, "watched", watched)
    path = tmp_path / "sanitize.json"
    # Not to have finished is no verdict: it does not pass.
    assert sanitize.sanitize("", path, 5.0) == (0 if expected == "nothing" else 1)
    rows = json.loads(path.read_text())["rows"]
    assert [row["tool"] for row in rows] == ["memcheck", "racecheck", "initcheck"]
    assert {row["found"] for row in rows} == {expected}
    sanitized = [command for command in commands if command[0] == "compute-sanitizer"]
    # What compiles, a family a process, is over before the first tool.
    assert commands[-3:] == sanitized
    assert len(commands) == 3 + 5
    assert all("--once" in command for command in commands)


def test_one_tool_with_a_limit_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def watched(command: list[str], seconds: float, *_: Any, **__: Any) -> Any:
        calls.append((command, seconds))
        return 0, []

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sanitize.shutil, "which", lambda _: "compute-sanitizer")
    monkeypatch.setattr(sanitize, "watched", watched)
    monkeypatch.setattr(sanitize, "write_result", lambda *_: None)  # it would ask the GPU for its name
    arguments = ["--sanitize", "--tool", "racecheck", "--limit", "140", "--only", "mining"]
    assert kernels.main([*arguments, "--json", str(tmp_path / "t.json")]) == 0
    first, second = calls
    assert first[0][0] != "compute-sanitizer"
    assert second[0][:3] == ["compute-sanitizer", "--tool", "racecheck"]
    assert 100 < second[1] <= first[1] == 140


def test_a_sanitizer_that_cannot_work_is_not_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize.shutil, "which", lambda _: None)
    with pytest.raises(UnavailableError, match="not on the PATH"):
        sanitize.sanitize("", None, 5.0)
    monkeypatch.setattr(sanitize.shutil, "which", lambda _: "compute-sanitizer")
    refused = 1, ["========= Error: Device not supported\n"]
    monkeypatch.setattr(sanitize, "watched", lambda *_, **__: refused)
    with pytest.raises(UnavailableError, match="does not support"):
        sanitize.sanitize("", None, 5.0)
