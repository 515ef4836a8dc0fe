"""From a file to features: which frames and flows make a segment, bounded memory, and clean ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("cv2")

from aicl_fast.errors import ConfigError, DataError
from aicl_fast.video import Transform, extract_features, read_frames
from aicl_fast.video import extract as module

MakeClip = Callable[..., Path]
Fake = Callable[..., Any]


@pytest.mark.parametrize(
    ("frames", "stride", "segments"),
    [(1, 16, 1), (15, 16, 1), (16, 16, 1), (17, 16, 2), (32, 16, 2), (33, 16, 3), (20, 4, 2), (21, 4, 3)],
)
def test_which_frames_make_a_segment(
    make_clip: MakeClip, fake_network: Fake, frames: int, stride: int, segments: int
) -> None:
    path, network = make_clip(frames=frames), fake_network("rgb")
    features = extract_features(path, network, stride=stride, batch=3)
    assert features.rgb is not None
    assert features.rgb.shape == (segments, 1024)
    assert features.rgb.dtype == np.float32
    assert features.flow is None
    assert (len(features), features.frames, features.duration) == (segments, frames, frames / 25)
    assert module.Extraction(network, stride=stride).segments(frames) == segments
    # Every segment's frames are the video's, and past its end the last one's.
    levels = [image.mean() for image in read_frames(path)]
    for number, clip in enumerate(network.seen):
        wanted = [levels[min(number * stride + index, frames - 1)] for index in range(16)]
        np.testing.assert_allclose(clip.mean(axis=1), wanted, atol=2.5)


def moving(number: int) -> np.ndarray[Any, Any]:
    """A texture that goes right by 1, 2, 3, 1, 2, 3 … pixels a frame (in a 256 pixel high picture)."""
    noise = np.random.default_rng(5).integers(0, 256, (32, 120, 3)).astype(np.uint8)
    import cv2

    large = cv2.resize(noise, (960, 256), interpolation=cv2.INTER_CUBIC)
    shift = 400 - sum(STEPS[:number])
    return np.ascontiguousarray(large[:, shift : shift + 256])


STEPS = [1, 2, 3] * 20


@pytest.mark.parametrize("frames", [18, 34])
def test_flow_goes_from_each_frame_to_the_next(make_clip: MakeClip, fake_network: Fake, frames: int) -> None:
    path = make_clip(frames=frames, size=(256, 256), draw=moving)
    network = fake_network("flow")
    features = extract_features(path, flow=network, algorithm="dis")
    assert features.rgb is None
    assert features.flow is not None
    assert features.recipe.flow_algorithm == "dis"
    found = np.concatenate(network.seen)[:, 0]
    # Where there is no next frame the last flow is repeated.
    wanted = [STEPS[min(number, frames - 2)] for number in range(len(found))]
    np.testing.assert_allclose(found, wanted, atol=0.5)


def test_a_video_of_one_frame_does_not_move(make_clip: MakeClip, fake_network: Fake) -> None:
    features = extract_features(make_clip(frames=1), flow=fake_network("flow"))
    assert features.flow is not None
    assert features.flow.shape == (1, 1024)
    assert not features.flow.any()


def test_frames_that_are_shown_twice_do_not_move(make_clip: MakeClip, fake_network: Fake) -> None:
    path = make_clip(frames=8, fps=Fraction(25, 2), size=(256, 256), draw=moving)
    network = fake_network("flow")
    extract_features(path, flow=network, algorithm="dis")
    found = network.seen[0][:, 0]
    assert not found[0:14:2].any()
    np.testing.assert_allclose(found[1:14:2], STEPS[:7], atol=0.5)


def test_both_streams_and_the_recipe(make_clip: MakeClip, fake_network: Fake) -> None:
    path = make_clip("a.b.mp4", frames=40)
    calls: list[tuple[int, str]] = []
    features = extract_features(
        path,
        fake_network("rgb", "a"),
        fake_network("flow", "b"),
        algorithm="dis",
        batch=2,
        progress=lambda done, name: calls.append((done, name)),
    )
    assert calls == [(2, "a.b.mp4"), (3, "a.b.mp4")]
    assert features.video == "a.b"
    assert features.source == ("a.b.mp4", path.stat().st_size)
    recipe = features.recipe
    assert (recipe.rgb_weights, recipe.flow_weights) == ("a" * 64, "b" * 64)
    assert (recipe.fps, recipe.stride, recipe.frames_per_segment) == (25, 16, 16)
    assert recipe.transform == "short side 256 bilinear, centre crop 224"


def test_batches_do_not_change_the_features(make_clip: MakeClip, fake_network: Fake) -> None:
    path = make_clip(frames=100)
    one, other = fake_network("rgb"), fake_network("rgb")
    first = extract_features(path, one, batch=1)
    second = extract_features(path, other, batch=5)
    np.testing.assert_array_equal(first.rgb, second.rgb)
    assert one.batches == [1] * 7
    assert other.batches == [5, 2]


def test_memory_does_not_grow_with_the_length(
    fake_network: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow network and a fast decoder: what waits between them is bounded."""
    (tmp_path / "long.mp4").write_bytes(b"x")
    decoded = 0

    def endless(path: Path, **options: Any) -> Iterator[Any]:
        nonlocal decoded
        for number in range(1600):
            decoded += 1
            yield options["transform"](np.full((48, 64, 3), number % 256, np.uint8))

    monkeypatch.setattr(module, "read_frames", endless)
    network = fake_network("rgb")
    network.seen = _Nothing()
    ahead = []

    def slow(clips: Any) -> Any:
        time.sleep(0.01)
        ahead.append(decoded - 16 * sum(network.batches))
        return network(clips)

    slow.__dict__.update(frames=16, size=224, width=1024, weights_hash="", precision="fp32")
    tracemalloc.start()
    features = extract_features(tmp_path / "long.mp4", slow, batch=4)  # type: ignore[arg-type]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(features) == 100
    # The batch that is running, a queue of as many, and what is being cut.
    assert max(ahead) <= 16 * (4 + 4 + 2)
    whole = 1600 * 224 * 224 * 3
    assert peak < whole / 3


class _Nothing(list[Any]):
    """Keeps nothing of what it is given."""

    def extend(self, items: Any) -> None:
        pass


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_an_hour_takes_the_memory_of_some_minutes(make_clip: MakeClip) -> None:
    """Peak resident size of a process of its own, in which FFmpeg's and OpenCV's memory counts, too."""

    def peak(frames: int) -> int:
        clip = make_clip(f"{frames}.avi", frames=frames, fps=Fraction(1, 3), size=(320, 240))
        found = subprocess.run(
            [sys.executable, "-c", PEAK, str(clip)], check=True, capture_output=True, text=True
        )
        segments, kilobytes = map(int, found.stdout.split())
        assert segments == -(-frames // 16)
        return kilobytes << 10

    # Of an hour's frames: as they are decoded, in grey, and each crop with its flow.
    each = 320 * 240 * 3 // 2, 128 * 171, 112 * 112 * 3, 112 * 112 * 2 * 4
    growth = peak(1200) - peak(240)
    assert growth < (1200 - 240) * min(each)


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
from aicl_fast.video import Transform, extract_features

class Network:
    frames, size, width, weights_hash, precision = 16, 112, 4, "", "fp32"
    def __call__(self, clips):
        return np.zeros((len(clips), 4), np.float32)

features = extract_features(sys.argv[1], Network(), Network(), fps=1/3, algorithm="dis",
                            transform=Transform(128, 112), batch=4, workers=2)
print(len(features), re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_what_goes_wrong_in_a_thread_is_raised(make_clip: MakeClip, fake_network: Fake) -> None:
    before = threading.active_count()
    path = make_clip("bad.mkv", frames=300)
    path.write_bytes(path.read_bytes()[:-2500])
    with pytest.raises(DataError, match=r"bad\.mkv: ends after"):
        extract_features(path, fake_network("rgb"))
    with pytest.raises(DataError, match=r"none\.mp4: the video does not exist"):
        extract_features(path.with_name("none.mp4"), fake_network("rgb"))
    features = extract_features(path, fake_network("rgb"), allow_damaged=True)
    assert 0 < features.frames < 300
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [None, 2])
def test_flow_has_a_thread_for_each_processor_it_may_use(
    make_clip: MakeClip, fake_network: Fake, monkeypatch: pytest.MonkeyPatch, workers: int | None
) -> None:
    asked: list[int] = []

    class Pool(module.ThreadPoolExecutor):
        def __init__(self, threads: int, **options: Any) -> None:
            asked.append(threads)
            super().__init__(threads, **options)

    monkeypatch.setattr(module, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 4, 6}, raising=False)
    extract_features(make_clip(frames=2), fake_network("rgb"), workers=workers)
    assert asked == [workers or 3]


def test_a_network_that_fails_ends_the_threads(make_clip: MakeClip, fake_network: Fake) -> None:
    network = fake_network("rgb")
    network.frames = 16
    before = threading.active_count()

    class Broken(type(network)):  # type: ignore[misc]
        def __call__(self, clips: Any) -> Any:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        extract_features(make_clip(frames=400), Broken("rgb"), fake_network("flow"), algorithm="dis", batch=1)
    assert threading.active_count() == before


def test_a_size_that_changes_on_the_way(make_clip: MakeClip, fake_network: Fake, tmp_path: Path) -> None:
    first, second = make_clip("a.ts", frames=20), make_clip("b.ts", frames=20, size=(96, 48))
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    features = extract_features(
        both, fake_network("rgb"), fake_network("flow"), algorithm="dis", allow_damaged=True
    )
    assert features.rgb is not None
    assert len(features) >= 2


def test_a_picture_like_a_thread_is_refused(make_clip: MakeClip, fake_network: Fake) -> None:
    path = make_clip("thread.avi", frames=3, size=(17000, 2), codec="rawvideo")
    with pytest.raises(DataError, match=r"thread\.avi: a frame of 17000 x 2 pixels would be 2176000 x 256"):
        extract_features(path, fake_network("rgb"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clean and jerk", "arm wrestling"])
def test_the_network_sees_what_happens(shared_data: Path, name: str) -> None:
    """Frames as they are read here, and weights trained on Kinetics: the right one of 400 classes."""
    pytest.importorskip("torch")
    from aicl_fast.video import open_network
    from aicl_fast.video.networks import kinetics_classes

    transform = Transform()
    frames = read_frames(
        shared_data / "i3d" / f"{name.replace(' ', '_')}.mp4",
        transform=lambda image: transform.cropped(transform.resized(image)),
    )
    clip = np.stack(list(frames)[92:156:2])
    logits = open_network(shared_data / "i3d" / "i3d_kinetics400_rgb.npz").classify(clip[None])
    assert kinetics_classes()[int(logits.argmax())] == name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stride": 0}, "stride: expected 1 to 16"),
        ({"stride": 17}, "stride: expected 1 to 16"),
        ({"batch": 0}, "batch: expected at least 1"),
        ({"workers": 0}, "workers: expected at least 1"),
        ({"fps": 0}, "fps: expected a positive number"),
        ({"fps": float("nan")}, "fps: expected a positive number"),
        ({"fps": float("inf")}, "fps: expected a positive number"),
        ({"algorithm": "raft"}, "tvl1 or dis"),
        ({"transform": Transform(128, 112)}, "takes 16 frames of 224 pixels"),
    ],
)
def test_arguments_without_meaning(
    make_clip: MakeClip, fake_network: Fake, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        extract_features(make_clip(frames=2), fake_network("rgb"), **options)


def test_no_network(make_clip: MakeClip) -> None:
    with pytest.raises(ConfigError, match="at least one network"):
        extract_features(make_clip(frames=2))
