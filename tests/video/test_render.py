"""The rendered video: the original's times and sound, and a timeline that says what was detected when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

av = pytest.importorskip("av")
pytest.importorskip("cv2")

from aicl_fast.data.detections import Detections  # noqa: E402
from aicl_fast.errors import DataError  # noqa: E402
from aicl_fast.video import render_video  # noqa: E402

MakeClip = Callable[..., Path]

FOUND = Detections(
    np.array(["Jump", "跳水", "Jump", "faint"]),
    np.array([0.9, 0.6, 0.5, 0.1]),
    np.array([[0.4, 1.2], [1.0, 1.8], [1.4, 1.6], [0.0, 2.0]]),
)


def frames(path: Path) -> tuple[list[float], list[npt.NDArray[np.uint8]]]:
    with av.open(str(path)) as container:
        found = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [time for time, _ in found], [image for _, image in found]


def test_picture_above_timeline_below(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(frames=50, size=(320, 240), draw=lambda _: np.full((240, 320, 3), 128, np.uint8))
    assert render_video(clip, FOUND, tmp_path / "seen.mp4") == []
    times, images = frames(tmp_path / "seen.mp4")
    assert times == pytest.approx(np.arange(50) / 25, abs=1e-3)
    height = images[0].shape[0]
    assert images[0].shape[1] == 320
    assert 240 < height < 300

    def tagged(image: npt.NDArray[np.uint8]) -> int:
        """Rows of the picture in which something is written on the grey."""
        written = np.abs(image[:240, 4:40].astype(int) - 128).max(axis=(1, 2)) > 40
        return int(written.sum())

    assert tagged(images[2]) == 0  # 0.08 s: nothing
    one, two = tagged(images[15]), tagged(images[27])  # 0.6 s: Jump; 1.08 s: both
    assert 10 < one < two
    assert tagged(images[48]) == 0

    # The row of the best class: a bar from 0.4 to 1.2 s and one from 1.4 to 1.6 s, of two seconds.
    row = images[0][240 + 4, :, 2].astype(int)
    lively = row > 60
    assert lively[70:190].all()
    assert not lively[200:220].any()
    assert lively[228:252].all()
    assert row[80] > row[240] + 30  # paler where the score is lower
    # "faint" is below a quarter of the best score: two rows, not three.
    assert height - 240 < 3 * 17


def test_any_label_can_be_drawn(make_clip: MakeClip, tmp_path: Path) -> None:
    """In another process: OpenCV crashed on some."""
    labels = ["\ud800", "a\udfff b\x00\x1b[0m", "\uffff", "$x_1^2$", "[/red]", "x" * 100_000, ""]
    code = (
        "import sys, numpy as np\n"
        "from aicl_fast.data.detections import Detections\n"
        "from aicl_fast.video import render_video\n"
        f"for label in {labels!a}:\n"
        "    found = Detections(np.array([label], object), np.array([0.9]), np.array([[0.0, 1.0]]))\n"
        "    print(render_video(sys.argv[1], found, sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, make_clip(frames=5), tmp_path / "seen.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n" * len(labels)), done.stderr


def test_characters_without_a_glyph_are_said(make_clip: MakeClip, tmp_path: Path) -> None:
    labels = np.array(["\U0001f3ca swim", "跳水", "Прыжок"], object)
    found = Detections(labels, np.array([0.9, 0.8, 0.7]), np.array([[0.0, 1.0]] * 3))
    (remark,) = render_video(make_clip(frames=5), found, tmp_path / "seen.mp4")
    assert "no characters '\U0001f3ca'" in remark


def test_the_present_moves_along(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(frames=50, size=(320, 240))
    render_video(clip, Detections.empty(), tmp_path / "seen.mp4")
    _, images = frames(tmp_path / "seen.mp4")
    places = [int(image[-3].astype(int).sum(axis=1).argmax()) for image in images]
    assert places == pytest.approx(np.arange(50) / 50 * 319, abs=3)


def test_which_detections_are_shown(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(frames=10, size=(320, 240))
    heights = []
    for score in (0.0, 0.55, 0.95):
        render_video(clip, FOUND, tmp_path / "seen.mp4", min_score=score)
        heights.append(frames(tmp_path / "seen.mp4")[1][0].shape[0])
    assert heights[0] > heights[1] > heights[2]


@pytest.mark.parametrize(
    ("name", "sound", "kept"),
    [
        ("a.mp4", "aac", True),
        ("a.webm", "libopus", True),
        ("a.avi", "libmp3lame", True),
        ("a.mpg", "mp2", True),
        ("a.avi", "pcm_s16le", False),
    ],
)
def test_sound(make_clip: MakeClip, tmp_path: Path, name: str, sound: str, kept: bool) -> None:
    """Kept as it is where the new file can hold it, and otherwise said to be dropped."""
    try:
        av.Codec(sound, "w")
    except ValueError:
        pytest.skip(f"this FFmpeg writes no {sound}")
    clip = make_clip(name, frames=50, audio=2.0, sound=sound)
    remarks = render_video(clip, FOUND, tmp_path / "seen.mp4")
    with av.open(str(tmp_path / "seen.mp4")) as container:
        assert bool(container.streams.audio) == kept
        if kept:
            sound = [frame.time + frame.samples / frame.rate for frame in container.decode(audio=0)]
            assert sound[-1] == pytest.approx(2.0, abs=0.06)
    assert [("pcm_s16le" in remark, "dropped" in remark) for remark in remarks] == [(True, True)] * (not kept)


def test_sound_that_is_all_before_the_picture(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("a.mkv", times=[5000 + 40 * number for number in range(10)], frames=10, audio=2.0)
    remarks = render_video(clip, FOUND, tmp_path / "seen.mp4")
    assert remarks == ["the audio (aac) is dropped: nothing of it comes after the first picture"]
    with av.open(str(tmp_path / "seen.mp4")) as container:
        assert not container.streams.audio


def test_sound_whose_clock_jumps(make_clip: MakeClip, tmp_path: Path) -> None:
    """Two recordings one after the other: pictures and sound go on from where they were."""
    parts = [make_clip(name, frames=50, audio=2.0).read_bytes() for name in ("a.ts", "b.ts")]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    assert render_video(tmp_path / "both.ts", FOUND, tmp_path / "seen.mp4", allow_damaged=True) == []
    with av.open(str(tmp_path / "seen.mp4")) as container:
        ends = {"video": 0.0, "audio": 0.0}
        for frame in container.decode(video=0, audio=0):
            kind = "video" if isinstance(frame, av.VideoFrame) else "audio"
            ends[kind] = max(ends[kind], frame.time)
    assert ends["video"] == pytest.approx(3.96, abs=0.2)
    assert ends["audio"] == pytest.approx(3.98, abs=0.2)


def test_sound_that_begins_too_late_to_be_known(make_clip: MakeClip, tmp_path: Path) -> None:
    """FFmpeg looks for an MPEG-TS stream's rate in the first seconds."""
    clip = make_clip("a.ts", frames=350, audio=1.0, sound_from=12.0)
    (remark,) = render_video(clip, FOUND, tmp_path / "seen.mp4")
    assert "the audio (aac) is dropped: the new file does not take it as it is" in remark
    assert len(frames(tmp_path / "seen.mp4")[0]) == 350


def test_a_variable_rate_keeps_its_times(make_clip: MakeClip, tmp_path: Path) -> None:
    times = [0, 40, 80, 400, 410, 420, 1000, 1480]
    render_video(make_clip(frames=8, times=times), FOUND, tmp_path / "seen.mkv")
    assert frames(tmp_path / "seen.mkv")[0] == pytest.approx(np.array(times) / 1000, abs=2e-3)


@pytest.mark.parametrize("turns", [0, 1])
def test_rotated_and_odd_sizes(make_clip: MakeClip, tmp_path: Path, turns: int) -> None:
    clip = make_clip(frames=3, size=(66, 50), quarter_turns=turns)
    render_video(clip, FOUND, tmp_path / "seen.mp4")
    shape = frames(tmp_path / "seen.mp4")[1][0].shape
    assert shape[1] == (50 if turns else 66)
    assert shape[0] % 2 == 0


def test_odd_sizes_are_filled_up() -> None:
    from aicl_fast.video.render import Canvas

    image = np.arange(51 * 67 * 3, dtype=np.int64).astype(np.uint8).reshape(51, 67, 3)
    canvas = Canvas(image, [], 1.0)
    drawn = canvas.draw(image, 0.5)
    assert drawn.shape == (*canvas.shape, 3)
    assert canvas.shape[1] == 68
    np.testing.assert_array_equal(drawn[:51, :67], image)
    np.testing.assert_array_equal(drawn[51, :67], image[50])
    np.testing.assert_array_equal(drawn[:51, 67], image[:, 66])
    assert canvas.draw(np.zeros((90, 30, 3), np.uint8), 0.5).shape == (*canvas.shape, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 48), (3, 5), (64, 1)])
def test_the_smallest_pictures(make_clip: MakeClip, tmp_path: Path, size: tuple[int, int]) -> None:
    clip = make_clip("tiny.avi", frames=5, size=size, codec="rawvideo")
    render_video(clip, FOUND, tmp_path / "seen.mp4", min_score=0.0)
    times, images = frames(tmp_path / "seen.mp4")
    assert len(times) == 5
    assert images[0].shape[1] == size[0] + size[0] % 2


def test_where_ffmpeg_has_no_h264(make_clip: MakeClip, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    clip = make_clip(frames=50, size=(320, 240), fps=Fraction(30000, 1001), draw=lambda _: noise)
    render_video(clip, FOUND, tmp_path / "seen.mp4")
    times, images = frames(tmp_path / "seen.mp4")
    assert times == pytest.approx(np.arange(50) * 1001 / 30000, abs=1e-3)
    decoded = frames(clip)[1][-1].astype(float)
    assert np.abs(images[-1][:240] - decoded)[60:].mean() < 12


def test_what_is_refused(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(frames=100)
    with pytest.raises(DataError, match=r"ends in \.mp4 or \.mkv"):
        render_video(clip, FOUND, tmp_path / "seen.gif")
    with pytest.raises(DataError, match="is the video itself"):
        render_video(clip, FOUND, clip)
    with pytest.raises(DataError, match=r"gone\.mp4: the video does not exist"):
        render_video(tmp_path / "gone.mp4", FOUND, clip)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(DataError, match=r"folder\.mp4: cannot be written, a folder has"):
        render_video(clip, FOUND, tmp_path / "folder.mp4")
    (tmp_path / "folder.mp4").rmdir()
    cut = make_clip("cut.mkv", frames=200)
    cut.write_bytes(cut.read_bytes()[:-2500])
    with pytest.raises(DataError, match=r"cut\.mkv: ends after"):
        render_video(cut, FOUND, tmp_path / "seen.mp4")
    assert not (tmp_path / "seen.mp4").exists()
    render_video(cut, FOUND, tmp_path / "seen.mp4", allow_damaged=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "cut.mkv", "seen.mp4"]


def test_a_size_that_the_encoder_lacks(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("wide.avi", frames=2, size=(17000, 2), codec="rawvideo")
    with pytest.raises(DataError, match=r"seen\.mp4: the rendered video cannot be written \(.*\)\. Convert"):
        render_video(clip, FOUND, tmp_path / "seen.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wide.avi"]


def test_a_picture_that_cannot_be_drawn_on(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aicl_fast.video import render

    def fail(*_: Any) -> None:
        raise av.error.InvalidDataError(1, "conversion failed")

    monkeypatch.setattr(render.Canvas, "draw", fail)
    with pytest.raises(DataError, match=r"clip\.mp4: its frames cannot be used \(conversion failed\)"):
        render_video(make_clip(frames=5), FOUND, tmp_path / "seen.mp4")


def test_a_full_disk(make_clip: MakeClip, tmp_path: Path) -> None:
    """No file may be longer than 3000 bytes, which ends writing as a full disk does."""
    resource = pytest.importorskip("resource")
    clip = make_clip(frames=50)
    code = (
        "import resource, signal, sys\n"
        "from aicl_fast.data.detections import Detections\n"
        "from aicl_fast.errors import DataError\n"
        "from aicl_fast.video import render_video\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (3000, {resource.RLIM_INFINITY}))\n"
        "try: render_video(sys.argv[1], Detections.empty(), sys.argv[2])\n"
        "except DataError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(clip), str(tmp_path / "seen.mp4")]
    found = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "seen.mp4: cannot be written (" in found.stdout
    assert "Make room" in found.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_real_clip_with_sound(shared_data: Path, tmp_path: Path) -> None:
    found: Any = Detections(np.array(["Clean and jerk"]), np.array([0.8]), np.array([[5.82, 16.2]]))
    assert render_video(shared_data / "i3d/clean_and_jerk.mp4", found, tmp_path / "seen.mp4") == []
    with av.open(str(tmp_path / "seen.mp4")) as container:
        assert container.duration / 1e6 == pytest.approx(18.16, abs=0.15)
        assert sum(1 for _ in container.decode(video=0)) == 355
