"""Clips made for the tests, and networks that cost nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

MakeClip = Callable[..., Path]


class FakeNetwork:
    """The mean of each clip, and a hash of its own."""

    frames, size, precision = 16, 224, "fp32"

    def __init__(self, stream: str, weights: str = "a", width: int = 1024) -> None:
        self.stream = stream
        self.width = width
        self.name = f"fake-{stream}"
        self.weights_hash = weights * 64
        self.batches: list[int] = []
        self.seen: list[npt.NDArray[Any]] = []

    def __call__(self, clips: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        channels, dtype = (3, np.uint8) if self.stream == "rgb" else (2, np.float32)
        assert clips.shape[1:] == (16, 224, 224, channels)
        assert clips.dtype == dtype
        self.batches.append(len(clips))
        means = clips.mean((1, 2, 3), dtype=np.float64)
        self.seen.extend(clips[:, :, 112, 112])
        return np.repeat(means[:, :1], self.width, axis=1).astype(np.float32)


@pytest.fixture
def fake_network() -> type[FakeNetwork]:
    """``fake_network("rgb", weights="b")``."""
    return FakeNetwork


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """``make_clip("a.mp4", frames=50)`` writes a clip whose frame k has the grey level ``grey(k)``.

    ``times`` gives each frame's start in milliseconds, for a variable rate; ``audio`` seconds of a tone that
    begins at ``sound_from``; ``quarter_turns`` clockwise, or ``mirrored``, in the header of an .mp4.
    """
    av = pytest.importorskip("av")

    def make(
        name: str = "clip.mp4",
        *,
        frames: int = 50,
        fps: int | Fraction = 25,
        size: tuple[int, int] = (64, 48),
        codec: str | None = None,
        times: Sequence[int] | None = None,
        audio: float = 0.0,
        sound: str | None = None,
        sound_from: float = 0.0,
        quarter_turns: int = 0,
        mirrored: bool = False,
        draw: Callable[[int], npt.NDArray[np.uint8]] | None = None,
        options: dict[str, str] | None = None,
        parent: Path | None = None,
    ) -> Path:
        path = (parent or tmp_path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        codec = codec or {".webm": "libvpx", ".avi": "mpeg4", ".mpg": "mpeg2video"}.get(
            path.suffix, "libx264"
        )
        with av.open(str(path), "w", options=options or {}) as container:
            if frames:
                rate = fps if times is None else 1000
                stream = container.add_stream(codec, rate=rate, options={"crf": "18", "g": "12"})
                stream.width, stream.height = size
                stream.pix_fmt = "rgb24" if codec == "rawvideo" else "yuv420p"
                stream.thread_count = 1
                if times is not None:
                    stream.codec_context.time_base = Fraction(1, 1000)
            if audio:
                tones = container.add_stream(sound or "aac", rate=48000)
                tones.layout = "mono"
                kind = "s16" if sound in ("pcm_s16le", "mp2") else "fltp"
            for number in range(frames):
                image = draw(number) if draw else np.full((size[1], size[0], 3), grey(number), np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = times[number], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            if frames:
                container.mux(stream.encode(None))
            if audio:
                wave = 0.1 * np.sin(np.arange(int(audio * 48000)) * 0.05)[None]
                tone = (wave * 32767).astype(np.int16) if kind == "s16" else wave.astype(np.float32)
                for start in range(0, tone.shape[1], 960):
                    piece = av.AudioFrame.from_ndarray(tone[:, start : start + 960], kind, "mono")
                    piece.sample_rate, piece.pts = 48000, start + round(sound_from * 48000)
                    piece.time_base = Fraction(1, 48000)
                    container.mux(tones.encode(piece))
                container.mux(tones.encode(None))
        if quarter_turns or mirrored:
            _turn(path, quarter_turns, size)
        return path

    return make


def grey(number: int) -> int:
    """The grey level of frame ``number``: neighbours differ by more than compression changes them."""
    return 20 + (number * 37) % 200


def _turn(path: Path, turns: int, size: tuple[int, int]) -> None:
    """Ask for clockwise quarter turns, or with 0 for a mirror, in the track header's matrix."""
    width, height = size
    one = 1 << 16
    matrix = {
        0: (-one, 0, 0, 0, one, 0, width * one, 0, 1 << 30),
        1: (0, one, 0, -one, 0, 0, height * one, 0, 1 << 30),
        2: (-one, 0, 0, 0, -one, 0, width * one, height * one, 1 << 30),
        3: (0, -one, 0, one, 0, 0, 0, width * one, 1 << 30),
    }[turns]
    content = bytearray(path.read_bytes())
    identity = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    place = content.index(identity, content.index(b"tkhd"))
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
