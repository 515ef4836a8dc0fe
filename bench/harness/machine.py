"""What the machine is and can: caches, clocks, temperature, and the rates that floors are computed from.

Clocks are read and never set. What cannot be read here is skipped.
"""

from __future__ import annotations

import atexit
import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aicl_fast.bench.harness.measure import Clock, device_events, wall
from aicl_fast.errors import ConfigError, UnavailableError

_SYSTEM = Path("/sys")
_DEVICES = Path("/dev")
_GPU_FIELDS = {
    "driver_version": "driver",
    "clocks.sm": "sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "temperature.gpu": "temperature_c",
    "power.draw": "power_w",
}
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""What holds the clocks down; the second name is of drivers before 2023."""
_HARMLESS = 0x1 | 0x2
"""The reasons for low clocks that an idle GPU gives, and one whose clocks somebody has set."""


def state() -> dict[str, Any]:
    """Clocks and temperature now; of the GPU too, where torch is loaded and finds one."""
    found: dict[str, Any] = {}
    clocks = _processor_mhz()
    if clocks:
        found["clock_mhz"] = round(max(clocks))
    degrees = [_number(path) for path in _SYSTEM.glob("class/thermal/thermal_zone*/temp")]
    warm = [value / 1000 for value in degrees if value]
    if warm:
        found["temperature_c"] = max(warm)
    if on_gpu():
        found["gpu"] = _gpu_state()
    return found


def require(device: str) -> None:
    """Stop where the device is not.

    Raises:
        UnavailableError: ``cuda`` was asked for and torch finds none, or is not there.
        ConfigError: neither ``cpu`` nor ``cuda``.
    """
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"--device: expected cpu or cuda, got {device!r}.")
    try:
        import torch
    except ImportError as error:
        raise UnavailableError(
            f"torch cannot be imported ({error}): pip install 'aicl-fast[train]'"
        ) from error
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise UnavailableError("there is no CUDA device here.")
    watch()


def has_gpu() -> bool:
    """Whether the system has an NVIDIA GPU, asked without torch."""
    return any(_DEVICES.glob("nvidia[0-9]*"))


def on_gpu() -> bool:
    """Whether this process has loaded torch and it finds a CUDA device."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def last_level_cache() -> int:
    """Bytes of the processor's largest cache; 32 MiB where the system does not say."""
    sizes = []
    for path in _SYSTEM.glob("devices/system/cpu/cpu0/cache/index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=32 << 20)


def sets_beyond_cache(size: int, cache: int, most: int = 64) -> int:
    """How many input sets of ``size`` bytes are together at least three times the cache; two at least."""
    return min(most, max(2, -(-3 * cache // max(1, size))))


def processor_rates(*, size: int = 1536) -> dict[str, float]:
    """Bytes a second of a large copy (read plus written), operations a second of large products, by torch.

    Args:
        size: of the square matrices; the copy is of 14 times as many float32 values.
    """
    import torch

    source = torch.ones(14 * size * size)
    target = torch.empty_like(source)
    rates = {"copy_bytes_per_s": 8 * source.numel() / _fastest(lambda: target.copy_(source), wall, 7)}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        out = torch.empty(size, size, dtype=dtype)
        taken = _fastest(lambda a=a, b=b, out=out: torch.matmul(a, b, out=out), wall, 7)  # type: ignore[misc]
        rates[f"{short(dtype)}_operations_per_s"] = 2 * size**3 / taken
    return rates


def gpu_rates(device: Any, clock: Clock = device_events, *, size: int = 8192) -> dict[str, float]:
    """The same of a GPU, in every type that it multiplies; float32 as tf32, its fastest way.

    Args:
        device: a torch.device.
        clock: of the device.
        size: of the square matrices; the copy is of four times as many float32 values.
    """
    import torch

    source = torch.randn(4 * size * size, device=device)
    target = torch.empty_like(source)
    taken = _fastest(lambda: target.copy_(source), clock, 20)
    rates = {"copy_bytes_per_s": 2 * source.numel() * 4 / taken}
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            out = torch.empty(size, size, device=device, dtype=dtype)
            taken = _fastest(lambda a=a, b=b, out=out: torch.matmul(a, b, out=out), clock, 10)  # type: ignore[misc]
            rates[f"{short(dtype)}_operations_per_s"] = 2 * size**3 / taken
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        float8 = torch.float8_e4m3fn
        a = torch.randn(size, size, device=device).to(float8)
        b = torch.randn(size, size, device=device).to(float8).t()
        one = torch.ones((), device=device)
        taken = _fastest(
            lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16), clock, 10
        )
        rates[f"{short(float8)}_operations_per_s"] = 2 * size**3 / taken
    return rates


def floor_seconds(rates: dict[str, float], moved: int, operations: int, dtype: str) -> float | None:
    """The least that so many bytes and operations can take; None if the type's rate is not known."""
    rate = rates.get(f"{dtype}_operations_per_s")
    if operations and rate is None:
        return None
    return max(moved / rates["copy_bytes_per_s"], operations / rate if rate else 0.0)


def short(dtype: Any) -> str:
    """A torch dtype's name without torch."""
    return str(dtype).removeprefix("torch.")


def _fastest(call: Callable[[], object], clock: Clock, rounds: int) -> float:
    """A rate is what can be reached, so the fastest counts: a noisy neighbour only takes away."""
    for _ in range(3):
        call()
    return min(clock(call) for _ in range(rounds))


def _processor_mhz() -> list[float]:
    current = [_number(path) for path in _SYSTEM.glob("devices/system/cpu/cpu*/cpufreq/scaling_cur_freq")]
    found = [value / 1000 for value in current if value]
    if found:
        return found
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _gpu_state() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in zip(_GPU_FIELDS.values(), _ask_gpu(",".join(_GPU_FIELDS)), strict=False):
        try:
            found[name] = text if name == "driver" else float(text)
        except ValueError:
            continue  # "[N/A]"
    seen = watch()
    if seen.masks:
        held = [bool(mask & ~_HARMLESS) for mask in seen.masks]
        return {**found, "throttled": any(held), "throttled_share": round(sum(held) / len(held), 3)}
    for field in _REASONS:
        for text in _ask_gpu(field):
            if text.startswith("0x"):
                return {**found, "throttled": bool(int(text, 16) & ~_HARMLESS)}
    return found


class Watch:
    """Reads, each second until the process ends, what holds a GPU's clocks down: one program says it all."""

    def __init__(self) -> None:
        self.masks: list[int] = []
        self.thread = threading.Thread(target=self._read, daemon=True, name="throttling")
        self.thread.start()

    def _read(self) -> None:
        for field in _REASONS:
            command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0", "-l", "1"]
            try:
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
            except OSError:
                return
            atexit.register(process.kill)
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("0x"):
                    self.masks.append(int(line, 16))
            if self.masks:
                return


@functools.cache
def watch() -> Watch:
    """The one of this process, started when it is first asked for."""
    return Watch()


def _ask_gpu(fields: str) -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [text.strip() for text in done.stdout.strip().split(",")]
