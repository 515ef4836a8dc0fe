"""The sweep of launch settings, as far as it runs without a GPU."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.bench.suites import attempts, kernels, launches, sweep  # noqa: E402
from aicl_fast.errors import UnavailableError  # noqa: E402
from aicl_fast.kernels import cases, fusion, harness, mining, two_branch  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", ["network", "contrast", "fusion", "pooling", "mining"])
def test_a_family_from_candidates_to_record(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [spec for spec in cases.specs("sweep") if spec.operation != "network" or spec.shape[0] == 1]
    monkeypatch.setattr(cases, "CASES", few)
    monkeypatch.setattr(launches, "_TILES", ((128, 128, 8),))
    monkeypatch.setattr(launches, "_CONTRAST_BACKWARD", ((2048, 4), (4096, 8)))
    monkeypatch.setattr(launches, "_CONTRAST", {"FORWARD": ((4096, 4),), "FORWARD_PLANAR": ((4096, 4),)})
    path = tmp_path / "sweep.json"
    assert sweep.main(["--dry-run", "--only", family, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["suite"] == "sweep"
    told = capsys.readouterr().out
    expected = list(launches.swept(family, True, CPU, float8=False))
    assert len(found["rows"]) == len(expected) == len(told.splitlines())
    for row, what in zip(found["rows"], expected, strict=True):
        assert (row["family"], row["case"], row["launch"]) == (
            family, what.case.name, what.launch.name
        )  # fmt: skip
        assert [each["settings"] for each in row["candidates"]] == [
            launches.fields(settings) for settings in what.launch.candidates
        ]
        assert row["correct"]
        assert row["replay_us"] > 0
        assert row["best"] in [each["settings"] for each in row["candidates"]]
        assert row["faster"] == (row["times_faster_interval"][0] > 1)
        for each in row["candidates"]:
            low, high = each["times_faster_interval"]
            assert low <= each["times_faster"] <= high
            assert each["error"] <= what.case.allowed


def test_what_the_issue_names_is_swept() -> None:
    rows = [(row.case.name, row.launch.name) for row in launches.swept("", False, CPU, float8=True)]
    cases = {name for name, _ in rows}
    network = {f"B {batch} T 750 De 512 bfloat16" for batch in (1, 4, 8, 64)}
    network |= {f"B {batch} T 750 De 512 float8_e4m3fn" for batch in (1, 64)}
    both = "forward+backward"
    other = {f"{both} x3 B 16 T 750 De 512 float32 {layout}" for layout in ("rows", "planar")}
    other |= {f"{way} B 256 T 750 C 20 float32 {layout}" for way in ("forward", both)
              for layout in ("rows", "planar")}  # fmt: skip
    other |= {f"{way} B 16 T 750 C 20 k 93 float32 planar" for way in ("forward", both)}
    assert cases == network | other | {"B 16 T 750 K 37 float32"}
    assert {launch for name, launch in rows if name in network} == {"product", "heads", "rounding"}


def test_settings_are_back_after_the_block_whatever_happens() -> None:
    first, second = two_branch.LAUNCHES["hopper"][0], two_branch.LAUNCHES["hopper_float8"][0]
    assert first == second
    before = {family: tuple(each) for family, each in two_branch.LAUNCHES.items()}
    other = dataclasses.replace(first, num_stages=3)
    launch = launches.Launch("product", two_branch, "LAUNCHES", first, (other,))

    def fail() -> None:
        with launches.launched_with(launch, other):
            assert two_branch.LAUNCHES["hopper"] == (other, before["hopper"][1])
            # Settings that are equal, of other products, stay.
            assert two_branch.LAUNCHES["hopper_float8"] == before["hopper_float8"]
            assert two_branch._settings(750, torch.empty(0, dtype=torch.bfloat16)) is other
            raise RuntimeError("no registers")

    with pytest.raises(RuntimeError, match="no registers"):
        fail()
    assert before == two_branch.LAUNCHES
    assert two_branch._settings(750, torch.empty(0, dtype=torch.bfloat16)) is first


_RECORDED = """
import torch
from aicl_fast.bench.suites.attempts import Attempts, jobs_of
from aicl_fast.bench.suites.launches import swept
rows = list(swept("", False, torch.device("cpu"), float8=True))
jobs = jobs_of(rows)
launched = Attempts(rows, torch.device("cpu")).recorded(jobs, 90)
assert sum(len(row.launch.choices) for row in rows) == sum(len(job.at) for job in jobs)
seen = {}
for job, own in zip(jobs, launched, strict=True):
    row, choice = job.at[0]
    what = rows[row].case.name, rows[row].launch.name, rows[row].launch.choices[choice]
    assert own, what
    key = frozenset((each.kernel.__name__, repr(sorted(each.settings.items()))) for each in own)
    assert seen.setdefault((rows[row].case.name, rows[row].launch.name, key), what) is what, what
print(len(jobs))
"""


def test_every_candidate_launches_something_of_its_own(outside: Callable[..., Any]) -> None:
    pytest.importorskip("triton")
    done = outside("-c", _RECORDED)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.long
def test_candidates_are_compiled_for_a_gpu_that_is_not_here(outside: Callable[..., Any]) -> None:
    """Those of one family; all take minutes: ``python -m aicl_fast.bench sweep --compile 90``."""
    pytest.importorskip("triton")
    done = outside("-m", "aicl_fast.bench", "sweep", "--compile", "90", "--only", "mining")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "mining_kernel" in line]
    assert len(lines) == 3
    assert "num_warps 4 (shipped)" in lines[0]
    assert "3 settings compiled for 90, 0 spill" in done.stdout


def test_a_candidate_is_launched_in_the_interpreter(target32: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if target32.device.type != "cpu":
        pytest.skip("the GPU's own run is what this rehearses")
    grids = []
    grid = fusion._grid

    def noted(*arguments: Any) -> Any:
        found = grid(*arguments)
        grids.append(found[1]["BLOCK_T"])
        return found

    monkeypatch.setattr(fusion, "_grid", noted)
    row = next(launches.swept("fusion", True, target32.device, float8=False))
    shipped = row.launch.shipped
    candidate = dataclasses.replace(shipped, elements=256)
    row = launches.Swept(row.case, dataclasses.replace(row.launch, candidates=(candidate,)))
    tried = [found for job in attempts.jobs_of([row])
             for found in attempts.Attempts([row], target32.device).checked(job)]  # fmt: skip
    found = sweep.measure(row, tried, target32.device, kernels.Effort(0.0, 1))
    assert found["correct"]
    assert found["candidates"][0]["correct"]
    assert found["candidates"][0]["replay_us"] > 0
    assert set(grids) == {min(64, shipped.block_t(20)), candidate.block_t(20)}
    assert len(set(grids)) == 2


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mining that fails with two warps and is wrong with sixteen."""
    mine = harness.mine_segments

    def mined(*inputs: Any) -> Any:
        warps = mining.LAUNCHES[0].num_warps
        if warps == 2:
            raise RuntimeError("no registers\n.visible .entry kernel(\n.param .u64 p_a")
        found = mine(*inputs)
        return found._replace(ca=~found.ca) if warps == 16 else found

    monkeypatch.setattr(harness, "mine_segments", mined)


def test_a_wrong_or_failing_candidate_never_wins(
    faulty: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep.json"
    assert sweep.main(["--dry-run", "--only", "mining", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    failed, wrong = row["candidates"]
    assert failed == {
        "settings": {"num_warps": 2}, "correct": False, "failed": "RuntimeError: no registers"
    }  # fmt: skip
    assert not wrong["correct"]
    assert wrong["error"] > 0
    assert "replay_us" not in wrong
    assert row["correct"]
    assert "best" not in row
    told = capsys.readouterr().out
    assert "2 candidates, 2 failed or wrong" in told
    assert ".visible" not in told


def test_shipped_settings_that_are_wrong_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = harness.mine_segments

    def wrong(*inputs: Any) -> Any:
        found = mine(*inputs)
        return found._replace(ca=~found.ca)

    monkeypatch.setattr(harness, "mine_segments", wrong)
    path = tmp_path / "sweep.json"
    assert sweep.main(["--dry-run", "--only", "mining", "--json", str(path)]) == 1
    (row,) = json.loads(path.read_text())["rows"]
    assert row["failed"].startswith("the shipped settings: an error of ")
    assert "wrong or failed: mining" in capsys.readouterr().out


def test_the_fastest_is_measured_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many turns' winners one is lucky: what counts is a measurement that it was not chosen by."""
    (row,) = launches.swept("mining", True, CPU, float8=False)
    taken = []

    def turns(contenders: Any, baseline: str, **_: Any) -> Any:
        taken.append(list(contenders))
        faster = {"shipped": 1.0, "0": 1.5, "1": 2.0} if len(contenders) > 2 else {"shipped": 1.0, "1": 0.9}
        return {name: sweep.Timing([1 / faster[name]] * 3, [1.0] * 3) for name in contenders}

    monkeypatch.setattr(sweep, "take_turns", turns)
    found = sweep.measure(row, [{"correct": True}] * 3, CPU, kernels.Effort(0.0, 1))
    assert taken == [["shipped", "0", "1"], ["shipped", "1"]]
    assert [each["times_faster"] for each in found["candidates"]] == pytest.approx([1.5, 2.0])
    assert found["best"] == found["candidates"][1]["settings"]
    assert found["times_faster"] == pytest.approx(0.9)
    assert not found["faster"]


def test_a_sweep_that_was_cut_off_goes_on_at_the_same_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sweep.json"
    here = {**kernels.environment(), "commit": "0123456789ab"}
    monkeypatch.setattr(kernels, "environment", lambda: here)
    measured: list[str] = []

    def measure(row: launches.Swept, *_: Any) -> dict[str, Any]:
        measured.append(row.launch.name)
        names = {"family": row.case.family, "case": row.case.name, "launch": row.launch.name}
        return {**names, "correct": True, "replay_us": 1.0}

    monkeypatch.setattr(sweep, "measure", measure)
    arguments = ["--dry-run", "--only", "fusion", "--json", str(path)]
    sweep.main(arguments)
    whole = json.loads(path.read_text())
    assert len(whole["rows"]) == len(measured) == 4
    del whole["rows"][3]
    whole["rows"][1] |= {"correct": False, "failed": "RuntimeError: no registers"}
    for commit, more, again in (
        ("0123456789ab", [], 2),
        ("0123456789ab", ["--again"], 4),
        ("ba9876543210", [], 4),
    ):
        path.write_text(json.dumps({**whole, "commit": commit}))
        measured.clear()
        assert sweep.main([*arguments, *more]) == 0
        assert len(measured) == again
        assert len(json.loads(path.read_text())["rows"]) == 4


def test_without_a_gpu_nothing_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="no CUDA device"):
        sweep.main([])


class Process:
    """A process of attempts in which job 3 ends it, job 5 hangs and after job 6 the device is lost."""

    def __init__(self) -> None:
        self.started: list[list[int]] = []

    def __call__(self, command: list[str], *_: Any, **__: Any) -> tuple[int | None, list[str]]:
        numbers = [int(each) for each in command[command.index("--attempt") + 1].split(",")]
        self.started.append(numbers)
        lines = ["a warning\n"]
        for number in numbers:
            lines.append(f'attempt: {{"job": {number}}}\n')
            if number in (3, 5):
                return -signal.SIGALRM if number == 5 else 134, [*lines, ".visible .entry\n", 'attempt: {"jo']
            failed = '{"correct": false, "failed": "lost"}' if number == 6 else '{"correct": true}'
            lines.append(f'attempt: {{"job": {number}, "found": [{failed}]}}\n')
            if number == 6:
                return 0, lines
        return 0, lines


def test_what_ends_its_process_is_told_and_the_others_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process()
    monkeypatch.setattr(attempts, "watched", process)
    monkeypatch.setattr(attempts, "_PROCESSES", 1)
    found = attempts.in_processes([1, 3, 4, 5, 6, 7], ["--only", "mining"])
    assert process.started == [[1, 3, 4, 5, 6, 7], [4, 5, 6, 7], [6, 7], [7]]
    assert {number: one[0].get("failed") for number, one in found.items()} == {
        1: None, 3: "its process ended with 134", 4: None, 5: "not finished in 40 s", 6: "lost", 7: None
    }  # fmt: skip
    assert not found[3][0]["correct"]


def test_processes_that_do_not_start_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "watched", lambda *_, **__: (1, ["ImportError: no such\n", "\n"]))
    found = attempts.in_processes([0, 1, 2], [])
    assert {one[0]["failed"] for one in found.values()} == {"ImportError: no such"}
    assert sorted(found) == [0, 1, 2]


def test_a_process_ends_where_the_device_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attempts, "_device_answers", lambda: False)
    attempts.attempt([4, 5, 6], lambda number: [{"failed": "it"} if number == 5 else {"correct": True}])
    told = capsys.readouterr().out
    assert '{"job": 5, "found": [{"failed": "it"}]}' in told
    assert '"job": 6' not in told
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_kernel_that_hangs_ends_its_process(outside: Callable[..., Any]) -> None:
    code = (
        "import time; from aicl_fast.bench.suites import attempts; attempts._PATIENCE = 0.2; "
        "attempts.attempt([1, 2], lambda number: time.sleep(30))"
    )
    done = outside("-c", code)
    assert done.returncode == -signal.SIGALRM
    assert done.stdout.split() == ["attempt:", '{"job":', "1}"]
