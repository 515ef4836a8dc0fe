"""What decoding costs, against NumPy on the grid.

    python -m aicl_fast.bench decode --json bench/results/decode-cpu.json

Two baselines. *Naive* is the implementation that the tests compare decoding with, the method word by word. It
is in a checkout only. *Reference* is `baselines/decode.py`: the same on arrays, with NMS vectorised.

Each round times every contender once, in one process and on one thread, so that a busy moment hits all of
them, and what is counted there is the thread's own processor time, which waiting for a processor does not
add to. Tables have medians over the rounds, and a ratio is the median of the rounds' own ratios, with its
bootstrap interval; batches and cold starts have medians alone, on the wall. A call is the whole of it: from
score arrays to a `Detections`. The baselines stop at plain arrays or lists.

The videos are made here, from a seed: a class's score is a random walk between segments, smoothed until the
number of proposals is near the one asked for.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from aicl_fast.bench.baselines import decode as reference_decode
from aicl_fast.bench.harness import suite
from aicl_fast.bench.harness.measure import median_interval
from aicl_fast.config import PRESETS, DecodeConfig
from aicl_fast.data.detections import Detections
from aicl_fast.data.scores import Scores
from aicl_fast.decode.decoder import Backend, Decoder, available_backends
from aicl_fast.decode.nms import NMS_MODES
from aicl_fast.errors import AiclError

PRESET = PRESETS["thumos14"]
SEGMENTS = PRESET.data.segments
NUM_SEGMENTS = 900

Video = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def make_video(rng: np.random.Generator, classes_present: int, smoothing: float) -> Video:
    """(T, C) scores and (C,) video scores with so many classes above the class threshold."""
    width = PRESET.model.num_classes
    reach = np.arange(-60, 61)
    kernel = np.exp(-0.5 * (reach / smoothing) ** 2)
    noise = rng.standard_normal((SEGMENTS + len(reach) - 1, width))
    smooth = np.stack([np.convolve(noise[:, c], kernel, "valid") for c in range(width)], axis=1)
    smooth = (smooth - smooth.mean(axis=0)) / smooth.std(axis=0)
    scores = 1 / (1 + np.exp(-1.5 * smooth))
    video_scores = np.full(width, 0.1 / width)
    video_scores[rng.permutation(width)[:classes_present]] = 0.9 / classes_present
    return scores.astype(np.float32), video_scores.astype(np.float32)


def count_proposals(video: Video, config: DecodeConfig) -> int:
    """Proposals before NMS; decay_once keeps them all."""
    every = replace(config, nms="decay_once")
    return len(reference_decode.decode(*video, NUM_SEGMENTS, every, PRESET.data)[0])


def make_videos(seed: int, count: int, classes_present: int, proposals: int) -> list[Video]:
    """``count`` videos whose proposals are on average near ``proposals``."""
    low, high = 0.05, 20.0
    for _ in range(12):
        smoothing = (low * high) ** 0.5
        rng = np.random.default_rng(seed)
        videos = [make_video(rng, classes_present, smoothing) for _ in range(count)]
        mean = statistics.mean(count_proposals(video, PRESET.decode) for video in videos)
        # Smoother curves cross thresholds less often.
        low, high = (smoothing, high) if mean > proposals else (low, smoothing)
    return videos


def time_rounds(
    contenders: dict[str, Callable[[Video], object]], videos: Sequence[Video], rounds: int
) -> dict[str, list[float]]:
    """Processor seconds a video of every contender in every round, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        for video in videos:
            call(video)
    for _ in range(rounds):
        for name, call in contenders.items():
            # A baseline's one pass is long; the others repeat until caches and predictors are theirs.
            passes = 1 if name in ("naive", "reference") else 20
            begin = time.thread_time()
            for _ in range(passes):
                for video in videos:
                    call(video)
            seconds[name].append((time.thread_time() - begin) / passes / len(videos))
    return seconds


def load_naive() -> ModuleType | None:
    """The tests' twin, from the checkout that this file is in."""
    path = Path(__file__).resolve().parents[2] / "tests" / "decode" / "naive.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("decode_naive", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules["decode_naive"] = module
    spec.loader.exec_module(module)
    return module


def call_naive(naive: ModuleType, config: DecodeConfig) -> Callable[[Video], object]:
    return lambda video: naive.decode(video[0], video[1], NUM_SEGMENTS, config, PRESET.data)


def call_reference(config: DecodeConfig) -> Callable[[Video], object]:
    return lambda video: reference_decode.decode(video[0], video[1], NUM_SEGMENTS, config, PRESET.data)


def call_ours(config: DecodeConfig, backend: str) -> Callable[[Video], Detections]:
    decoder, data = Decoder(config, PRESET.classes, cast(Backend, backend)), PRESET.data
    return lambda video: decoder.decode(*video, NUM_SEGMENTS, data.fps, data.frames_per_segment)


def _scores(video: Video) -> Scores:
    """What a detector gives of it, without the curves that decoding does not look at."""
    none, data = np.empty(0, np.float32), PRESET.data
    return Scores(*video, none, none, NUM_SEGMENTS, data.fps, data.frames_per_segment, PRESET.classes)


def measure_calls(rounds: int) -> list[dict[str, Any]]:
    """One video a call, on one thread, by number of proposals and NMS mode."""
    rows = []
    naive = load_naive()
    for classes_present, proposals in ((1, 100), (1, 500), (2, 840)):
        videos = make_videos(1, 8, classes_present, proposals)
        for mode in NMS_MODES:
            config = replace(PRESET.decode, nms=mode)
            contenders = {"reference": call_reference(config)}
            contenders |= {backend: call_ours(config, backend) for backend in available_backends()}
            check_agreement(videos, config)
            seconds = time_rounds(contenders, videos, rounds)
            times: dict[tuple[str, str], list[float]] = {}
            for slow in ("reference", "naive"):
                if slow == "naive":
                    if naive is None:
                        continue
                    # Rounds of its own, and fewer: at 800 proposals one takes seconds.
                    contenders = {"naive": call_naive(naive, config)} | {
                        backend: call_ours(config, backend) for backend in available_backends()
                    }
                    again = time_rounds(contenders, videos[:4], max(3, rounds // 10))
                    seconds["naive"] = again["naive"]
                else:
                    again = seconds
                for backend in available_backends():
                    pairs = zip(again[slow], again[backend], strict=True)
                    times[slow, backend] = [a / b for a, b in pairs]
            row: dict[str, Any] = {
                "nms": mode,
                "classes": classes_present,
                # Asked for, which tells the row from others, and made.
                "target": proposals,
                "proposals": statistics.mean(count_proposals(video, config) for video in videos),
            }
            row |= {f"{name}_us": statistics.median(values) * 1e6 for name, values in seconds.items()}
            for (slow, backend), ratios in times.items():
                row[f"{backend}_x_{slow}"] = statistics.median(ratios)
                row[f"{backend}_x_{slow}_interval"] = list(median_interval(ratios))
            rows.append(row)
    return rows


def check_agreement(videos: Sequence[Video], config: DecodeConfig) -> None:
    """A figure for a wrong answer is worth nothing: every contender has to find the same detections."""
    for video in videos:
        labels, boxes = reference_decode.decode(*video, NUM_SEGMENTS, config, PRESET.data)
        for backend in available_backends():
            found = call_ours(config, backend)(video)
            same = len(found) == len(labels) and np.allclose(found.scores, boxes[:, 2], rtol=0, atol=1e-6)
            if not same:
                raise AiclError(f"{backend} and the reference differ on a video of this benchmark.")


def measure_batches(rounds: int) -> list[dict[str, Any]]:
    """Decoder.batch on 1 and more threads."""
    videos = [_scores(video) for video in make_videos(2, 64, 1, 500)]
    rows = []
    for backend in available_backends():
        decoder = Decoder(PRESET.decode, PRESET.classes, cast(Backend, backend))
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(rounds + 1):
            for threads, values in seconds.items():
                begin = time.perf_counter()
                decoder.batch(videos, threads)
                values.append((time.perf_counter() - begin) / len(videos))
        one, two = (values[1:] for values in seconds.values())
        rows.append(
            {
                "backend": backend,
                "videos": len(videos),
                "one_thread_us": statistics.median(one) * 1e6,
                "two_threads_us": statistics.median(two) * 1e6,
                "scaling": statistics.median(a / b for a, b in zip(one, two, strict=True)),
            }
        )
    return rows


_COLD = """
import time
begin = time.perf_counter()
import numpy as np
numpy_at = time.perf_counter()
from aicl_fast.config import PRESETS
from aicl_fast.decode.decoder import Decoder
preset = PRESETS["thumos14"]
t = np.linspace(0, 30, 750)[:, None]
scores = (0.5 + 0.5 * np.sin(t + np.arange(20))).astype(np.float32)
video_scores = np.full(20, 0.05, np.float32)
decoder = Decoder(preset.decode, preset.classes, backend={backend!r})
decoder.decode(scores, video_scores, 900, preset.data.fps, preset.data.frames_per_segment)
print(time.perf_counter() - begin, numpy_at - begin)
"""


def measure_cold(rounds: int) -> list[dict[str, Any]]:
    """From the first import to the first result, in fresh processes whose files the system has cached."""
    rows = []
    for backend in available_backends():
        runs = []
        for _ in range(rounds + 1):
            command = [sys.executable, "-c", _COLD.format(backend=backend)]
            # The folder of a checkout would shadow the installed package.
            printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
            runs.append([float(word) for word in printed.split()])
        total, of_numpy = (statistics.median(column) for column in zip(*runs[1:], strict=True))
        rows.append({"backend": backend, "seconds": total, "of_which_numpy": of_numpy})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write them as JSON when asked."""
    parser = suite.parser(__doc__, rounds=40)
    options = parser.parse_args(arguments)
    rows, batch = measure_calls(options.rounds), measure_batches(options.rounds)
    more = {"batch": batch, "cold_start": measure_cold(max(3, options.rounds // 4))}
    suite.show("decode", rows, **more)
    suite.record(options.json, "decode", rows, **more)
