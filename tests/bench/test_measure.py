"""Turns, ratios and intervals, on clocks that are made up."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.bench.harness import machine, measure
from aicl_fast.bench.harness.measure import Timing, median_interval, rotating, sustained, take_turns, wall
from aicl_fast.errors import ConfigError, UnavailableError


class FakeClock:
    """Gives each call the next of its own times, and notes the order of the calls."""

    def __init__(self, times: dict[str, list[float]]) -> None:
        self.times = {name: iter(values) for name, values in times.items()}
        self.order: list[str] = []

    def __call__(self, call: object) -> float:
        name = str(call())  # type: ignore[operator]
        self.order.append(name)
        return next(self.times[name])


def test_a_ratio_is_of_the_same_turn() -> None:
    # The machine is four times slower in the second turn; the ratio does not see it.
    timing = Timing([1.0, 4.0, 1.0], [2.0, 8.0, 2.0])
    assert timing.ratio == 2.0
    assert timing.interval() == (2.0, 2.0)
    row = timing.row()
    assert row["p50_ms"] == 1000.0
    assert row["max_ms"] == 4000.0
    assert row["turns"] == 3


def test_a_machine_that_slows_down_is_noticed() -> None:
    assert Timing([1.0, 1.0, 1.0, 1.2, 1.3, 1.5, 1.6, 1.5, 1.5], [1.0] * 9).drift == 1.5


def test_the_interval_holds_the_median_and_narrows() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(10, 1, 15), rng.normal(10, 1, 1500)
    low, high = median_interval(few)
    assert low < np.median(few) < high
    narrow = median_interval(many)
    assert narrow[1] - narrow[0] < (high - low) / 4
    assert narrow[0] < 10.0 < narrow[1]


def test_turns_are_shuffled_and_warm_up_is_not_counted() -> None:
    cold = {"a": [0.9, 0.3, 0.1, 0.1, 0.1], "b": [0.2, 0.2, 0.2]}
    clock = FakeClock({name: values + [0.1 if name == "a" else 0.2] * 40 for name, values in cold.items()})
    calls = {"a": lambda: "a", "b": lambda: "b"}
    timings = take_turns(calls, "b", seconds=0.0, least=30, clock=clock)
    assert timings["a"].seconds == [0.1] * 30
    assert timings["a"].ratio == 2.0
    assert timings["b"].ratio == 1.0
    # Warm-up: a until three calls agree, b at once.
    assert clock.order[:8] == ["a"] * 5 + ["b"] * 3
    turns = ["".join(clock.order[at : at + 2]) for at in range(8, len(clock.order), 2)]
    assert set(turns) == {"ab", "ba"}


def test_a_call_that_never_steadies_is_not_warmed_up_for_ever() -> None:
    clock = FakeClock({"a": [float(1 + number % 2) * 0.01 for number in range(1000)]})
    take_turns({"a": lambda: "a"}, "a", seconds=0.0, least=1, clock=clock)
    assert len(clock.order) == 31


def test_a_short_call_fills_its_turn() -> None:
    count = {"short": 0, "long": 0}
    kept: list[dict[str, Timing]] = []

    def call(name: str) -> object:
        count[name] += 1
        return name

    def clock(run: object) -> float:
        before = dict(count)
        run()  # type: ignore[operator]
        times = {"short": 0.001, "long": 0.02}
        return sum(times[name] * (count[name] - before[name]) for name in count)

    calls = {name: lambda name=name: call(name) for name in count}  # type: ignore[misc]
    timings = take_turns(calls, "long", seconds=0.0, least=4, clock=clock, fill=0.005, keep=kept.append)
    assert timings["short"].seconds == pytest.approx([0.001] * 4)
    assert timings["short"].ratio == pytest.approx(20.0)
    # Three to warm up, and four turns of five calls.
    assert count == {"short": 3 + 4 * 5, "long": 3 + 4}
    short, long = (timings[name].row() for name in ("short", "long"))
    assert (short["calls_a_turn"], long["calls_a_turn"]) == (5, 1)
    assert "p99_ms" not in short
    assert "p99_ms" in long
    assert not kept


def test_what_there_is_is_handed_on_while_turns_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_KEEP_EVERY", 0.0)
    turns: list[int] = []
    clock = FakeClock({"a": [0.1] * 40})
    take_turns(
        {"a": lambda: "a"}, "a", seconds=0.0, least=3, clock=clock,
        keep=lambda found: turns.append(len(found["a"].seconds)),
    )  # fmt: skip
    assert turns == [1, 2, 3]


def test_back_to_back_calls_are_counted() -> None:
    assert 10 < sustained(lambda: time.sleep(0.01), 0.1) < 100.0
    assert sustained(lambda: time.sleep(0.02), 0.0) < 50.0


def test_a_graph_is_launched_while_the_device_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    order: list[str] = []

    class Event:
        def __init__(self, **_: object) -> None: ...

        def record(self) -> None:
            order.append("event")

        def synchronize(self) -> None: ...

        def elapsed_time(self, other: object) -> float:
            return 2.0

    class CUDAGraph:
        def replay(self) -> None:
            order.append("replay")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: order.append("sleep"))
    graph = CUDAGraph()

    def holds_it() -> None:
        graph.replay()

    for call in (graph.replay, holds_it):
        order.clear()
        assert measure.device_events(call) == 2e-3
        assert order == ["sleep", "event", "replay", "event"]
    order.clear()
    measure.device_events(lambda: order.append("launch"))
    assert order == ["event", "launch", "event"]


def test_inputs_rotate() -> None:
    seen: list[int] = []
    run = rotating(seen.append, [1, 2, 3])
    for _ in range(5):
        run()
    assert seen == [1, 2, 3, 1, 2]
    assert wall(run) > 0


def test_inputs_are_together_larger_than_the_cache() -> None:
    assert machine.sets_beyond_cache(1 << 20, 32 << 20) == 64
    assert machine.sets_beyond_cache(16 << 20, 32 << 20) == 6
    assert machine.sets_beyond_cache(1 << 30, 32 << 20) == 2
    assert machine.last_level_cache() > 1 << 15


def test_a_floor_is_the_slower_of_moving_and_multiplying() -> None:
    rates = {"copy_bytes_per_s": 100.0, "float32_operations_per_s": 1000.0}
    assert machine.floor_seconds(rates, 200, 1000, "float32") == 2.0
    assert machine.floor_seconds(rates, 200, 5000, "float32") == 5.0
    assert machine.floor_seconds(rates, 200, 5000, "int8") is None
    assert machine.floor_seconds(rates, 200, 0, "int8") == 2.0


def test_clocks_and_temperature_are_read_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2500000",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "3100000",
        "class/thermal/thermal_zone0/temp": "41000",
        "class/thermal/thermal_zone1/temp": "67500",
        "devices/system/cpu/cpu0/cache/index0/size": "48K",
        "devices/system/cpu/cpu0/cache/index3/size": "36M",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(machine, "_SYSTEM", tmp_path)
    monkeypatch.setattr(machine, "on_gpu", lambda: False)
    assert machine.state() == {"clock_mhz": 3100, "temperature_c": 67.5}
    assert machine.last_level_cache() == 36 << 20


def test_a_throttled_gpu_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"clocks_throttle_reasons.active": ["0x0000000000000024"]}
    full = ["580.1", "1980", "2619", "71", "[N/A]"]
    monkeypatch.setattr(machine, "on_gpu", lambda: True)
    monkeypatch.setattr(
        machine, "_ask_gpu", lambda field: full if field.startswith("driver") else answers.get(field, [])
    )
    gpu = machine.state()["gpu"]
    assert gpu == {
        "driver": "580.1",
        "sm_clock_mhz": 1980.0,
        "memory_clock_mhz": 2619.0,
        "temperature_c": 71.0,
        "throttled": True,
    }
    answers["clocks_throttle_reasons.active"] = ["0x0000000000000001"]
    assert machine.state()["gpu"]["throttled"] is False


def test_throttling_is_read_all_the_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of drivers before 2023, which refuse the newer name; clocks that somebody has set do not count."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in *throttle_reasons*) ;; *) echo unknown field; exit 2;; esac\n'
        "echo 0x0000000000000000; echo 0x0000000000000024; echo 0x0000000000000002; echo 0x0000000000000001\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    seen = machine.Watch()
    seen.thread.join(10)
    assert seen.masks == [0, 0x24, 2, 1]
    monkeypatch.setattr(machine, "watch", lambda: seen)
    monkeypatch.setattr(machine, "on_gpu", lambda: True)
    gpu = machine.state()["gpu"]
    assert (gpu["throttled"], gpu["throttled_share"]) == (True, 0.25)
    seen.masks[1] = 0
    assert machine.state()["gpu"]["throttled"] is False


def test_a_device_is_cpu_or_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine.require("cpu")
    with pytest.raises(UnavailableError, match="there is no CUDA device here"):
        machine.require("cuda:1")
    with pytest.raises(ConfigError, match="expected cpu or cuda, got 'gpu'"):
        machine.require("gpu")


def test_a_gpu_is_seen_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_DEVICES", tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert not machine.has_gpu()
    (tmp_path / "nvidia0").touch()
    assert machine.has_gpu()


def test_rates_of_this_processor() -> None:
    torch = pytest.importorskip("torch")
    rates = machine.gpu_rates(torch.device("cpu"), wall, size=32)
    assert set(rates) == {"copy_bytes_per_s"} | {
        f"{name}_operations_per_s" for name in ("float32", "bfloat16", "float16")
    }
    assert min(rates.values()) > 0
