"""Reading: a steady rate from any clock, upright, and every kind of broken file."""

from __future__ import annotations

import itertools
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

av = pytest.importorskip("av")
pytest.importorskip("cv2")

from aicl_fast.errors import DataError  # noqa: E402
from aicl_fast.video import (  # noqa: E402
    opening,
    probe,
    read_frames,
)
from aicl_fast.video.mp4 import claimed_samples  # noqa: E402
from aicl_fast.video.opening import is_still  # noqa: E402
from aicl_fast.video.reader import Timed, _tolerance, steady  # noqa: E402

MakeClip = Callable[..., Path]


def grey(number: int) -> int:
    return 20 + (number * 37) % 200


def seen(path: Path, frames: int, **options: Any) -> list[int]:
    """Which of the clip's frames come out."""
    return recognised((float(image.mean()) for image in read_frames(path, **options)), frames)


def recognised(shown: Iterable[float], frames: int) -> list[int]:
    """Frame numbers by grey levels: of those with such a level, the first that is not before the last."""
    levels = np.array([grey(number) for number in range(frames)])
    found = [0]
    for level in shown:
        near = np.flatnonzero(np.abs(levels - level) < 4)
        assert len(near), level
        found.append(int(min(near, key=lambda index: (index < found[-1], index))))
    return found[1:]


# --- the clock -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [10, 24, 25, 30, 50, Fraction(30000, 1001)])
def test_constant_rates_become_25(make_clip: MakeClip, fps: int | Fraction) -> None:
    path = make_clip(frames=40, fps=fps)
    expected = through_ffmpeg(path, 40)
    assert seen(path, 40) == expected
    assert len(expected) == pytest.approx(40 / fps * 25, abs=1)


def through_ffmpeg(path: Path, frames: int) -> list[int]:
    """The same by FFmpeg's own filter."""
    shown: list[float] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream)
        source.link_to(rate := graph.add("fps", "25"))
        rate.link_to(sink := graph.add("buffersink"))
        graph.configure()

        def drain() -> Iterator[Any]:
            while True:
                try:
                    yield sink.pull()
                except (av.BlockingIOError, av.error.EOFError):
                    return

        for frame in itertools.chain(container.decode(stream), [None]):
            source.push(frame)
            shown.extend(float(out.to_ndarray(format="rgb24").mean()) for out in drain())
    return recognised(shown, frames)


def test_a_variable_rate(make_clip: MakeClip) -> None:
    times = [0, 40, 80, 400, 410, 420, 430, 440, 1000, 1480]
    path = make_clip(frames=10, times=times)
    found = seen(path, 10)
    assert found == through_ffmpeg(path, 10)
    assert found[:4] == [0, 1, 2, 2]
    assert found[24] == 7
    assert found[25] == 8


def test_another_rate_is_read_as_asked(make_clip: MakeClip) -> None:
    path = make_clip(frames=30, fps=30)
    assert seen(path, 30, fps=30) == list(range(30))
    assert seen(path, 30, fps=15) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28]
    with pytest.raises(DataError, match="fps: expected a positive number"):
        next(read_frames(path, fps=0))


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=40),
    st.sampled_from([Fraction(25), Fraction(10), Fraction(30000, 1001)]),
)
def test_every_instant_shows_the_nearest_frame(steps: list[int], fps: Fraction) -> None:
    starts = [Fraction(sum(steps[:number]), 1000) for number in range(len(steps))]
    lengths = [Fraction(step, 1000) for step in steps]
    shown = list(steady(map(Timed, starts, lengths, range(len(steps))), fps))
    assert shown == sorted(shown)
    assert abs(len(shown) - sum(lengths) * fps) <= 1
    for position, number in enumerate(shown[:-1]):
        # It has begun by then, and the next one has not, to within half a frame.
        assert starts[number] <= (position + Fraction(1, 2)) / fps
        if number + 1 < len(starts):
            assert starts[number + 1] > (position - Fraction(1, 2)) / fps


def test_repeated_frames_are_transformed_once(make_clip: MakeClip) -> None:
    path = make_clip(frames=10, fps=5)
    calls: list[int] = []
    found = list(read_frames(path, transform=lambda image: calls.append(1) or len(calls)))
    assert len(calls) == 10
    assert found == [number for number in range(1, 11) for _ in range(5)]


def test_a_clock_that_jumps(make_clip: MakeClip, tmp_path: Path) -> None:
    """Two recordings one after the other: the second's clock starts again."""
    first = make_clip("a.ts", frames=20)
    second = make_clip("b.ts", frames=20)
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    assert 38 <= len(list(read_frames(both, allow_damaged=True))) <= 42


# --- upright ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_rotation_flags_are_followed(make_clip: MakeClip, turns: int) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:16, :16] = 255  # white in the top left corner
    path = make_clip(frames=5, quarter_turns=turns, draw=lambda _: image)
    shown = next(read_frames(path))
    expected = np.rot90(image, -turns)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 5
    info = probe(path)
    assert (info.height, info.width) == expected.shape[:2]
    assert info.rotation == (-turns) % 4


def test_a_mirrored_picture_is_taken_as_stored(make_clip: MakeClip) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = 255
    path = make_clip(frames=5, mirrored=True, draw=lambda _: image)
    with av.open(str(path)) as container:
        assert abs(next(container.decode(video=0)).rotation) == 180  # what FFmpeg makes of it
    assert probe(path).rotation == 0
    frame = next(read_frames(path))
    assert frame[5, 5].min() > 200
    assert frame[40, 60].max() < 50


def test_what_a_file_says_of_itself(make_clip: MakeClip) -> None:
    info = probe(make_clip(frames=50, audio=2.0))
    assert (info.width, info.height, info.fps, info.codec, info.audio) == (64, 48, 25, "h264", "aac")
    assert info.duration == pytest.approx(2, abs=0.05)


def test_formats_are_named_and_not_their_decoders() -> None:
    """AV1 and MP3. The file is kept: FFmpeg's AV1 encoder gives its caller real-time priority for good."""
    path = Path(__file__).with_name("av1.mkv")
    info = probe(path)
    assert (info.width, info.height, info.codec, info.audio) == (64, 48, "av1", "mp3")
    assert [round(frame.mean(), -1) for frame in read_frames(path)] == [20, 80, 140]


# --- files that are not what they should be --------------------------------------------------------------


def test_not_a_video(make_clip: MakeClip, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.mp4: the video does not exist"):
        next(read_frames(tmp_path / "none.mp4"))
    with pytest.raises(DataError, match="found a folder"):
        next(read_frames(tmp_path))
    for name, content in (("text.mp4", b"hello"), ("empty.mp4", b""), ("zeros.mp4", bytes(5000))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: cannot be opened as a video"):
            next(read_frames(tmp_path / name))
    (tmp_path / "notes.txt").write_text("a text is not a film\n" * 50)
    with pytest.raises(DataError, match=r"notes\.txt"):
        next(read_frames(tmp_path / "notes.txt"))
    with pytest.raises(DataError, match=r"no video stream.*holds audio"):
        next(read_frames(make_clip("sound.mp4", frames=0, audio=1.0)))


def test_a_picture_is_not_a_video(tmp_path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
    with av.open(str(tmp_path / "still.png"), "w", format="image2") as container:
        stream = container.add_stream("png")
        stream.width = stream.height = 32
        stream.pix_fmt = "rgb24"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match="is a picture"):
        next(read_frames(tmp_path / "still.png"))


def test_the_cover_of_a_piece_of_music_is_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound, cover = container.add_stream("aac", rate=48000), container.add_stream("mjpeg")
        sound.layout = "mono"
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(cover.encode(image.reformat(format="yuvj420p")))
        container.mux(cover.encode(None))
        for start in range(0, 48000, 960):
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), "fltp", "mono")
            piece.sample_rate, piece.pts, piece.time_base = 48000, start, Fraction(1, 48000)
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(DataError, match=r"no video stream that can be decoded \(holds audio, video\)"):
        next(read_frames(path))


def test_a_title_that_is_not_utf_8_is_no_obstacle(tmp_path: Path, make_clip: MakeClip) -> None:
    plain, titled = make_clip("plain.avi", frames=3), tmp_path / "titled.avi"
    with av.open(str(plain)) as source, av.open(str(titled), "w") as target:
        target.metadata["title"] = "cafeteria"
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    before = titled.read_bytes()
    titled.write_bytes(before.replace(b"cafeteria", b"caf\xe9teria"))
    assert titled.read_bytes() != before
    assert len(list(read_frames(titled))) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile other.ts\n"),
        ("list.mp4", "ffconcat version 1.0\nfile other.ts\n"),
        ("list%d.png", "x"),
        ("list.idx", "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n"),
    ],
)
def test_a_file_does_not_lead_to_others(tmp_path: Path, make_clip: MakeClip, name: str, text: str) -> None:
    make_clip("other.ts", frames=25)
    picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
    picture.save(str(tmp_path / "list1.png"))
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="cannot be opened as a video"):
        next(read_frames(tmp_path / name))


def test_a_playlist_cannot_reach_the_network(tmp_path: Path) -> None:
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(DataError, match=r"list\.m3u8"):
        next(read_frames(tmp_path / "list.m3u8"))


def test_names_that_look_like_protocols(make_clip: MakeClip, tmp_path: Path) -> None:
    path = tmp_path / "http:clip é.mp4"
    make_clip(frames=3).rename(path)
    assert len(list(read_frames(path))) == 3


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.webm", "cut.flv"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_cut_off_files_are_refused(make_clip: MakeClip, name: str, share: float) -> None:
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = make_clip(name, frames=200, options=options)
    whole = path.read_bytes()
    assert len(list(read_frames(path))) == 200
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=name):
        list(read_frames(path))
    try:
        taken = len(list(read_frames(path, allow_damaged=True)))
    except DataError:
        assert share < 0.5  # the header itself is cut off, or not one frame is left
    else:
        assert 0 < taken < 200


@pytest.mark.parametrize("name", ["cut.avi", "cut.ts"])
def test_formats_that_do_not_state_their_length_end_where_they_end(make_clip: MakeClip, name: str) -> None:
    path = make_clip(name, frames=200)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert 50 < len(list(read_frames(path, allow_damaged=True))) < 150


def test_an_mp4_without_its_index_is_refused(make_clip: MakeClip) -> None:
    path = make_clip(frames=100)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="lacks the index"):
        list(read_frames(path, allow_damaged=True))


def test_bytes_changed_inside(make_clip: MakeClip) -> None:
    """Whatever noise does to a file, it ends in frames or in a DataError."""
    path = make_clip("noise.mkv", frames=100, size=(128, 96))
    whole = path.read_bytes()
    refused = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        content = np.frombuffer(whole, np.uint8).copy()
        start = int(rng.integers(1000, len(content) - 400))
        content[start : start + 300] = rng.integers(0, 256, 300)
        path.write_bytes(content.tobytes())
        try:
            assert list(read_frames(path))
        except DataError:
            refused += 1
            assert list(read_frames(path, allow_damaged=True))
    assert refused > 0


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("whole.mp4", "libx264"),
        ("whole.mkv", "libx265"),
        ("whole.webm", "libvpx"),
        ("two.webm", "libvpx-vp9"),
        ("whole.avi", "mpeg4"),
        ("whole.mpg", "mpeg2video"),
        ("whole.ts", "libx264"),
        ("whole.mov", "mpeg4"),
    ],
)
def test_whole_files_are_taken_by_a_decoder_that_reports_damage(
    make_clip: MakeClip, name: str, codec: str
) -> None:
    try:
        av.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"this FFmpeg writes no {codec}")
    path = make_clip(name, frames=60, codec=codec, size=(128, 96))
    assert len(list(read_frames(path))) == pytest.approx(60, abs=1)


def test_damage_that_the_decoder_would_hide_is_refused(shared_data: Path, tmp_path: Path) -> None:
    """Bytes overwritten in the middle of real H.264: without being asked FFmpeg fills in for most of it."""
    whole = (shared_data / "i3d" / "arm_wrestling.mp4").read_bytes()
    path = tmp_path / "damaged.mp4"
    refused = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        content = np.frombuffer(whole, np.uint8).copy()
        start = int(rng.integers(len(content) // 4, len(content) // 2))
        content[start : start + 2000] = rng.integers(0, 256, 2000)
        path.write_bytes(content.tobytes())
        try:
            for _ in read_frames(path):
                pass
        except DataError:
            refused += 1
            assert sum(1 for _ in read_frames(path, allow_damaged=True)) > 100
    assert refused >= 3


@pytest.mark.parametrize(("length", "allowed"), [(0, 0.25), (100, 0.75), (400, 2.25), (3600, 2.25)])
def test_how_much_may_be_missing(length: float, allowed: float) -> None:
    assert _tolerance(length) == pytest.approx(allowed)


def test_formats_are_known_by_their_whole_names() -> None:
    assert all(map(is_still, ("image2", "png_pipe", "bin", "tty")))
    assert not any(map(is_still, ("bink", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")))


def test_one_frame(make_clip: MakeClip) -> None:
    assert len(list(read_frames(make_clip(frames=1)))) == 1


def test_an_iterator_that_is_left_closes_the_file(make_clip: MakeClip) -> None:
    frames = read_frames(make_clip(frames=100))
    next(frames)
    frames.close()  # type: ignore[attr-defined]


def test_real_clips(shared_data: Path) -> None:
    expected = {"clean_and_jerk": (452, 18.04), "arm_wrestling": (250, 10.0)}
    for name, (frames, seconds) in expected.items():
        path = shared_data / "i3d" / f"{name}.mp4"
        assert sum(1 for _ in read_frames(path)) == frames
        assert probe(path).duration == pytest.approx(seconds, abs=0.01)


# --- files that claim more than they hold -----------------------------------------------------------------


def changed(path: Path, mark: bytes, offset: int, *values: int) -> Path:
    """The file with little-endian 32-bit numbers at so many bytes after the first such mark."""
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{len(values)}I", data, data.index(mark) + offset, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("seconds", [3600 * 6, 86_400, 2**31 - 1])
def test_pictures_cannot_be_shown_for_ever(make_clip: MakeClip, seconds: int) -> None:
    path = changed(make_clip("long.avi", frames=24), b"strh", 28, seconds, 1)
    shown: list[int] = []
    with pytest.raises(DataError, match=r"long\.avi: features of its [\d,]+ frames at 25 a second would"):
        shown.extend(1 for _ in read_frames(path))
    assert not shown
    assert probe(path).width == 64


def test_a_video_of_long_pictures_is_read_where_the_user_says_so(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(make_clip("slides.avi", frames=4), b"strh", 28, 2000, 1)
    with pytest.raises(DataError, match="AICL_FAST_MAX_UNPACKED"):
        sum(1 for _ in read_frames(path, transform=lambda image: image[0, 0, 0]))
    monkeypatch.setenv("AICL_FAST_MAX_UNPACKED", "1GiB")
    assert sum(1 for _ in read_frames(path, transform=lambda image: image[0, 0, 0])) == 4 * 2000 * 25


@pytest.mark.parametrize(("name", "options"), [("a.mp4", {}), ("a.mov", {"movflags": "frag_keyframe"})])
def test_an_index_of_more_samples_than_a_file_can_hold_is_refused(
    make_clip: MakeClip, name: str, options: dict[str, str]
) -> None:
    path = make_clip(name, frames=24, options=options)
    assert claimed_samples(path) == 24
    data = bytearray(path.read_bytes())
    mark, place = (b"trun", 8) if options else (b"stsz", 12)
    struct.pack_into(">I", data, data.index(mark) + place, 10_000_000)
    path.write_bytes(data)
    for read in (probe, lambda path: list(read_frames(path))):
        with pytest.raises(DataError, match=r"the index of its 10,000,0\d\d samples would take 610 MiB"):
            read(path)


def test_plain_sound_is_no_claim(make_clip: MakeClip) -> None:
    path = make_clip("a.mov", frames=50, audio=2.0, sound="pcm_s16le")
    assert claimed_samples(path) == 50
    assert sum(1 for _ in read_frames(path)) == 50


def test_pictures_of_too_many_pixels_are_refused_before_they_are_decoded(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_clip("big.mkv", frames=2, size=(640, 480))
    assert probe(path).width == 640
    monkeypatch.setattr(opening, "MAX_PIXELS", 640 * 480 - 1)
    monkeypatch.setattr(opening, "_PIXEL_BYTES", 1 << 20)
    for read in (probe, lambda path: list(read_frames(path))):
        with pytest.raises(DataError, match="its pictures of 640 x 480 pixels would take"):
            read(path)


def test_a_host_programs_logging_of_pyav_does_not_hang_reading(make_clip: MakeClip) -> None:
    path = make_clip("a.mp4", frames=60)
    code = (
        "import av, sys; av.logging.set_level(av.logging.DEBUG)\n"
        "from aicl_fast.video import probe, read_frames\n"
        "for _ in range(5): probe(sys.argv[1]); next(read_frames(sys.argv[1]))\n"
        "print(sum(1 for _ in read_frames(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert done.stdout == "60\n"


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4", "a.ts"])
def test_whatever_bytes_are_changed_ends_in_frames_or_a_named_error(
    make_clip: MakeClip, tmp_path: Path, name: str
) -> None:
    whole = make_clip(name, frames=6).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / f"changed{name}"
    for _ in range(60):
        data = bytearray(whole)
        # Half of the changes where the header is.
        for place in random.integers(0, random.choice([400, len(data)]), random.integers(1, 6)):
            data[place] = random.choice([0, 255, 127, 128, random.integers(256)])
        path.write_bytes(data[: random.choice([len(data), random.integers(1, len(data))])])
        for read in (probe, lambda path: list(itertools.islice(read_frames(path), 200))):
            try:
                read(path)
            except DataError as error:
                assert str(path) in str(error)  # noqa: PT017
