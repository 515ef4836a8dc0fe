"""Cameras, streams, growing files and pipes, on this machine's own addresses."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av")
pytest.importorskip("cv2")

from aicl_fast.detect_features import detect_features  # noqa: E402
from aicl_fast.detector import Detector  # noqa: E402
from aicl_fast.errors import AiclError, ConfigError, DataError  # noqa: E402
from aicl_fast.stream_events import Event, final_detections  # noqa: E402
from aicl_fast.video.extract import Extraction, extract_features  # noqa: E402
from aicl_fast.video.live import Ended, Limits, LiveReader, LiveSegment, Opened  # noqa: E402
from aicl_fast.video.live_source import parse_source  # noqa: E402
from aicl_fast.video.rolling import Rolling  # noqa: E402
from aicl_fast.video.watching import Notice, Watch  # noqa: E402

MakeClip = Callable[..., Path]
FRAMES = 165
"""11 segments, the last one filled up."""
ONCE = Limits(reconnect=0, timeout=5.0, idle=0.3)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class QuickFlow:
    """In place of optical flow: how much brighter it becomes, everywhere."""

    def __init__(self, algorithm: str) -> None:
        del algorithm

    def __call__(self, before: Any, after: Any) -> Any:
        level = float(after[0, 0]) - float(before[0, 0])
        return np.full((*before.shape, 2), level / 20, np.float32)


@pytest.fixture(scope="module", autouse=True)
def _quick_flow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aicl_fast.video.extract.Flow", QuickFlow)
        yield


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> Path:
    return tiny_model.with_suffix(".onnx")


@pytest.fixture
def detector(model: Path) -> Iterator[Detector]:
    with Detector(model, threads=1) as found:
        yield found


class Network:
    """Features that vary over the segments, and cost nothing."""

    frames, size, precision = 16, 224, "fp32"

    def __init__(self, stream: str, width: int, seconds: float = 0.0) -> None:
        self.width, self.weights_hash, self._seconds = width, stream[0] * 64, seconds
        self._mix = np.random.default_rng(width).normal(size=(16, width)).astype(np.float32)

    def __call__(self, clips: Any) -> Any:
        time.sleep(self._seconds * len(clips))
        means = clips.mean((2, 3, 4), dtype=np.float64)
        return ((means - means.mean(1, keepdims=True)) / 20 @ self._mix).astype(np.float32)


def plan_of(seconds: float = 0.0) -> Extraction:
    return Extraction(Network("rgb", 6, seconds), Network("flow", 5), algorithm="dis", batch=4, workers=1)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory, write_grey: Callable[..., None]) -> Path:
    """A folder of one recording in several formats."""
    folder = tmp_path_factory.mktemp("clips")
    options = {"growing.mp4": {"movflags": "frag_keyframe+empty_moov"}}
    for name in ("clip.ts", "clip.mkv", "whole.mp4", "growing.mp4"):
        write_grey(folder / name, FRAMES, options.get(name))
    return folder


@pytest.fixture(scope="module")
def expected(clips: Path, model: Path) -> Any:
    """What the file gives: as a whole, and as a stream."""
    plan = plan_of()
    features = extract_features(clips / "clip.ts", plan.rgb, plan.flow, algorithm="dis", batch=4, workers=1)
    with Detector(model, threads=1) as detector:
        whole = detect_features(detector, features)
        stream = detector.stream(fps=25.0)
        events = []
        for rows in np.concatenate(features.streams(detector.config.data), axis=1):
            events += stream.push(rows)
        events += stream.finish()
    assert len(whole) > 2
    return whole, final_detections(events)


class Served:
    """A TCP server that sends a file to whoever connects: in pieces, with pauses."""

    def __init__(
        self,
        content: bytes,
        port: int = 0,
        piece: int = 1 << 20,
        pause: float = 0.0,
        once: bool = False,
    ) -> None:
        self._content, self._piece, self._pause, self._once = content, piece, pause, once
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self.ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._once:
                self.kill()
            with client:
                try:
                    for start in range(0, len(self._content), self._piece):
                        client.sendall(self._content[start : start + self._piece])
                        time.sleep(self._pause)
                except OSError:
                    continue
            self.ended.set()

    def kill(self) -> None:
        # An accept that waits keeps a closed socket's port.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def watched(
    source: object, detector: Detector, limits: Limits = ONCE, plan: Extraction | None = None, **more: Any
) -> tuple[list[Event], list[Notice]]:
    plan = plan or plan_of()
    reader = LiveReader(parse_source(str(source)), plan, limits)
    events, notices = [], []
    for item in Watch(detector, plan, reader, **more).events():
        (events if isinstance(item, Event) else notices).append(item)
    return events, notices


def same(first: Any, second: Any) -> None:
    """Equal detections: scores decide the order, and those of a batch differ in the last bits."""
    assert len(first) == len(second)
    assert first.labels.tolist() == second.labels.tolist()
    np.testing.assert_allclose(first.segments, second.segments, atol=1e-6)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-5)


# --- sources that give what the file gives ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.ts", "clip.mkv", "whole.mp4", "growing.mp4"])
def test_a_file_gives_what_it_gives_as_a_whole(
    clips: Path, detector: Detector, expected: Any, name: str
) -> None:
    events, notices = watched(clips / name, detector, retract=True)
    same(final_detections(events), expected[0])
    assert [notice.kind for notice in notices] == ["opened", "ended"]
    assert notices[1].segments == 11
    assert notices[1].seconds == FRAMES / 25


def test_tcp_gives_what_the_file_gives(clips: Path, detector: Detector, expected: Any) -> None:
    server = Served((clips / "clip.ts").read_bytes(), piece=2000)
    events, notices = watched(f"tcp://127.0.0.1:{server.port}", detector)
    assert max(event.end for event in events) <= FRAMES / 25
    same(final_detections(events), clipped(expected[1]))
    events, notices = watched(f"tcp://127.0.0.1:{server.port}", detector, retract=True)
    same(final_detections(events), expected[0])
    assert [notice.kind for notice in notices] == ["opened", "ended"]
    server.kill()


def clipped(found: Any) -> Any:
    """As the file's end does: no detection reaches beyond it."""
    keep = found.segments[:, 0] < FRAMES / 25
    return replace(
        found,
        labels=found.labels[keep],
        scores=found.scores[keep],
        segments=np.minimum(found.segments[keep], FRAMES / 25),
    )


@pytest.mark.parametrize("name", ["clip.ts", "whole.mp4"])
def test_http_gives_what_the_file_gives(clips: Path, detector: Detector, expected: Any, name: str) -> None:
    with Folder(clips) as port:
        events, _ = watched(f"http://127.0.0.1:{port}/{name}?token=secret", detector, retract=True)
        same(final_detections(events), expected[0])
        with pytest.raises(DataError, match="cannot be opened as a video") as error:
            watched(f"http://user:password@127.0.0.1:{port}/none.ts?token=secret", detector)
    assert "secret" not in str(error.value)
    assert "password" not in str(error.value)


class Folder:
    """Python's own server of files."""

    def __init__(self, folder: Path) -> None:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)

    def __enter__(self) -> int:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self._server.server_port

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_udp(clips: Path, detector: Detector) -> None:
    """Datagrams may get lost; what comes is watched until nothing comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    content = (clips / "clip.ts").read_bytes()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for start in range(0, len(content), 1316):
                sender.sendto(content[start : start + 1316], ("127.0.0.1", port))
                time.sleep(0.002)

    threading.Timer(0.3, send).start()
    events, notices = watched(f"udp://127.0.0.1:{port}", detector, replace(ONCE, timeout=1.0), retract=True)
    assert [notice.kind for notice in notices] == ["opened", "ended"]
    assert notices[1].segments > 6
    assert "nothing came for 1 s" in notices[1].why
    assert any(event.kind == "final" for event in events)


def test_rtsp_gives_what_the_file_gives_but_for_a_frame(
    clips: Path, detector: Detector, expected: Any
) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=play, args=(server, (clips / "clip.ts").read_bytes()), daemon=True).start()
    address = f"rtsp://user:secret@127.0.0.1:{server.getsockname()[1]}/live"
    events, notices = watched(address, detector, retract=True)
    server.close()
    assert [notice.kind for notice in notices] == ["opened", "ended"]
    # FFmpeg hands on a frame of MPEG-TS in RTP when the next one begins: the last one sent is missing.
    assert notices[1].seconds in ((FRAMES - 1) / 25, FRAMES / 25)
    found, (whole, _) = final_detections(events), expected
    assert found.labels.tolist() == whole.labels.tolist()
    np.testing.assert_allclose(found.segments, whole.segments, atol=0.041)
    np.testing.assert_allclose(found.scores, whole.scores, atol=5e-3)


def play(server: socket.socket, content: bytes) -> None:
    """RTSP for one client: MPEG-TS in RTP, within the connection."""
    sdp = (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"
        "c=IN IP4 0.0.0.0\r\na=control:track\r\n"
    )
    more = {
        "OPTIONS": "Public: DESCRIBE, SETUP, PLAY\r\n\r\n",
        "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
        "PLAY": "Session: 1\r\n\r\n",
    }
    client, _ = server.accept()
    with client, client.makefile("rb") as lines:
        while True:
            request = lines.readline().split()
            header = dict(line.split(b": ", 1) for line in iter(lines.readline, b"\r\n"))
            method = request[0].decode()
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {header[b'CSeq'].decode().strip()}\r\n{more[method]}"
            client.sendall(answer.encode())
            if method == "PLAY":
                break
        for number, start in enumerate(range(0, len(content), 7 * 188)):
            packet = struct.pack(">BBHII", 0x80, 33, number % 65536, number * 900, 1)
            packet += content[start : start + 7 * 188]
            client.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)


@pytest.mark.parametrize("name", ["clip.ts", "clip.mkv", "growing.mp4"])
def test_a_growing_file(clips: Path, detector: Detector, expected: Any, tmp_path: Path, name: str) -> None:
    content = (clips / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[:3000])
    began = time.monotonic()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            step = len(content) // 5
            for start in range(3000, len(content), step):
                time.sleep(0.1)
                file.write(content[start : start + step])

    thread = threading.Thread(target=grow)
    thread.start()
    events, notices = watched(path, detector, replace(ONCE, idle=0.6), retract=True)
    thread.join()
    assert time.monotonic() - began > 0.5
    same(final_detections(events), expected[0])
    assert notices[-1].segments == 11


def test_a_fifo(clips: Path, detector: Detector, expected: Any, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.write_bytes((clips / "clip.ts").read_bytes()))
    thread.start()
    events, _ = watched(path, detector, retract=True)
    thread.join()
    same(final_detections(events), expected[0])


# --- breaks, drops, ends ---------------------------------------------------------------------------------


def test_a_server_that_is_killed_and_restarted(clips: Path, detector: Detector, expected: Any) -> None:
    content = (clips / "clip.ts").read_bytes()
    server = Served(content[: len(content) // 2], once=True)
    plan = plan_of()
    source = parse_source(f"tcp://127.0.0.1:{server.port}")
    reader = LiveReader(source, plan, Limits(pause=0.4, timeout=5.0))

    def restart() -> None:
        server.ended.wait()
        time.sleep(0.6)
        Served(content, server.port, once=True)

    threading.Thread(target=restart).start()
    events: list[list[Event]] = [[], []]
    notices = []
    opened = 0
    for item in Watch(detector, plan, reader, retract=True).events():
        if isinstance(item, Event):
            events[opened - 1].append(item)
            continue
        notices.append(item)
        opened += item.kind == "opened"
        if item.kind == "ended" and opened == 2:
            reader.stop()
    kinds = [notice.kind for notice in notices if notice.segments or notice.kind == "opened"]
    assert kinds == ["opened", "ended", "opened", "ended"]
    refused = [notice for notice in notices if notice.kind == "ended" and not notice.segments]
    assert "refused" in refused[0].why  # while nobody served
    assert {notice.pause for notice in notices[:-1] if notice.kind == "ended"} == {0.4}
    second = next(notice.time for notice in notices[1:] if notice.kind == "opened")
    assert second >= notices[1].seconds > 0
    found = final_detections(events[1])
    same(replace(found, segments=found.segments - second), expected[0])
    assert not {event.id for event in events[0]} & {event.id for event in events[1]}
    assert all(event.end <= second for event in events[0])


def test_pauses_grow_and_end(detector: Detector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    limits = Limits(reconnect=2, patient=True, timeout=2.0)
    _, notices = watched(f"tcp://127.0.0.1:{port}", detector, limits)
    assert [notice.pause for notice in notices] == [0.5, 1.0, None]
    assert notices[-1].lost
    with pytest.raises(DataError, match=r"cannot be opened as a video .*refused"):
        watched(f"tcp://127.0.0.1:{port}", detector, Limits(timeout=2.0))


def test_a_source_faster_than_the_machine(clips: Path, detector: Detector) -> None:
    """A clock that runs as the fast source does: whole segments are dropped, and times stay true."""
    server = Served((clips / "clip.ts").read_bytes())
    plan = plan_of(seconds=0.1)  # of 0.04 s, by this clock
    limits = replace(ONCE, queue=2, clock=lambda: time.monotonic() * 16)
    events, notices = watched(f"tcp://127.0.0.1:{server.port}", detector, limits, plan, batch=1)
    server.kill()
    dropped = [notice for notice in notices if notice.kind == "dropped"]
    assert dropped
    assert 2 <= sum(notice.segments for notice in dropped) <= 9
    for notice in dropped:
        assert notice.seconds == pytest.approx(notice.segments * 0.64)
        assert notice.time % 0.64 == pytest.approx(0, abs=1e-6) or notice.time % 0.64 == pytest.approx(0.64)
    assert notices[-1].segments == 11
    assert notices[-1].seconds == FRAMES / 25
    assert max(event.time for event in events) == FRAMES / 25


def test_a_slow_machine_keeps_all_of_a_file(clips: Path, detector: Detector) -> None:
    plan = plan_of(seconds=0.05)
    fast = replace(ONCE, queue=1, clock=lambda: time.monotonic() * 100)
    _, notices = watched(clips / "clip.ts", detector, fast, plan, batch=1)
    assert [notice.kind for notice in notices] == ["opened", "ended"]
    _, notices = watched(clips / "clip.ts", detector, replace(fast, drop=True), plan, batch=1)
    assert "dropped" in {notice.kind for notice in notices}


def test_stopping_makes_final_what_is_known(clips: Path, detector: Detector) -> None:
    content = (clips / "clip.ts").read_bytes()
    server = Served(content, piece=len(content) // 2, pause=30.0)
    plan = plan_of()
    reader = LiveReader(parse_source(f"tcp://127.0.0.1:{server.port}"), plan, Limits(timeout=20.0))
    began = time.monotonic()
    threading.Timer(1.0, reader.stop).start()
    events = [item for item in Watch(detector, plan, reader).events() if isinstance(item, Event)]
    assert time.monotonic() - began < 6.0  # it does not wait for the network
    known = {event.id for event in events if event.kind in ("started", "updated")}
    closed = {event.id for event in events if event.kind in ("final", "withdrawn")}
    assert known <= closed
    assert closed
    server.kill()


def test_one_segment_is_no_recording(make_clip: MakeClip, detector: Detector) -> None:
    with pytest.raises(DataError, match=r"has 1 segment; expected at least 2"):
        watched(make_clip("short.ts", frames=10), detector)


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file:/etc/passwd", "file: is no protocol that is opened; expected rtsp://, http://"),
        ("file:///etc/passwd", "file: is no protocol"),
        ("concat:a.ts|b.ts", "concat: is no protocol"),
        ("data:video/mp2t;base64,AAAA", "data: is no protocol"),
        ("pipe:0", "pipe: is no protocol"),
        ("srt://127.0.0.1:1", "srt: is no protocol"),
        ("subfile,,start,0,end,9,,:a.ts", "the video does not exist"),
        ("http:a", "http: is no protocol"),
        ("http://", "http: expected an address such as http://host:port/path"),
        ("tcp://[::1", "tcp: expected an address"),
        ("none.ts", "the video does not exist"),
        ("/dev/null", "found a device or pipe"),
    ],
)
def test_what_is_no_source(text: str, words: str) -> None:
    with pytest.raises(AiclError) as error:
        parse_source(text)
    assert words in str(error.value)


def test_names_without_secrets() -> None:
    source = parse_source("RTSP://user:secret@Camera.local:554/live?key=secret")
    assert source.name == source.video == "rtsp://camera.local:554/live"
    assert parse_source("tcp://[::1]:80").name == "tcp://[::1]:80"
    assert parse_source("udp://:9000").live
    assert not parse_source("-").live


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{path}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nconcat:{path}|{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {path}\n",
        "ffconcat version 1.0\nfile 'file:{path}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 4 RTP/AVP 33\n",
    ],
)
@pytest.mark.parametrize("way", ["http", "tcp", "file"])
def test_a_playlist_leads_to_no_file(
    clips: Path, detector: Detector, tmp_path: Path, text: str, way: str
) -> None:
    (tmp_path / "list.m3u8").write_text(text.format(path=clips / "clip.ts"))
    with Folder(tmp_path) as port:
        server = Served((tmp_path / "list.m3u8").read_bytes())
        source = {
            "http": f"http://127.0.0.1:{port}/list.m3u8",
            "tcp": f"tcp://127.0.0.1:{server.port}",
            "file": str(tmp_path / "list.m3u8"),
        }[way]
        with pytest.raises(DataError, match=r"cannot be opened as a video|not one frame"):
            watched(source, detector, replace(ONCE, timeout=2.0))
        server.kill()


def test_a_playlist_by_http_is_followed_by_http(
    clips: Path, detector: Detector, expected: Any, tmp_path: Path
) -> None:
    (tmp_path / "clip.ts").write_bytes((clips / "clip.ts").read_bytes())
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:{FRAMES / 25}\n#EXTINF:{FRAMES / 25},\nclip.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(text)
    with Folder(tmp_path) as port:
        events, _ = watched(f"http://127.0.0.1:{port}/list.m3u8", detector, retract=True)
    same(final_detections(events), expected[0])


def test_a_redirection_leads_to_no_file(clips: Path, detector: Detector) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: file://{clips / 'clip.ts'}\r\nContent-Length: 0\r\n\r\n"
    server = Served(answer.encode())
    with pytest.raises(DataError, match="cannot be opened as a video"):
        watched(f"http://127.0.0.1:{server.port}/a.ts", detector, replace(ONCE, timeout=2.0))
    server.kill()


@pytest.mark.parametrize("name", ["queue", "pause", "timeout", "idle"])
def test_limits(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: 0})
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: float("nan")})


# --- the reader alone, and pictures ----------------------------------------------------------------------


def test_segments_and_pictures_of_a_file(clips: Path) -> None:
    with LiveReader(parse_source(str(clips / "clip.ts")), plan_of(), ONCE, show=True) as reader:
        items = list(reader)
    segments = [item for item in items if isinstance(item, LiveSegment)]
    assert isinstance(items[0], Opened)
    assert isinstance(items[-1], Ended)
    assert [each.number for each in segments] == list(range(11))
    assert [len(each.pictures) for each in segments] == [16] * 10 + [FRAMES - 160]
    assert segments[0].pictures[0].shape == (256, 341, 3)
    assert segments[-1].seconds == FRAMES / 25


def event(kind: str, number: int, start: float, end: float, label: str = "Jump") -> Event:
    return Event(kind, number, label, 0.5, start, end, end)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["now.png", "all.mp4", "all.mkv"])
def test_a_rolling_picture(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    picture = np.full((256, 341, 3), 90, np.uint8)
    with Rolling(target, 25.0, span=4.0) as rolling:
        rolling.event(event("started", 1, 0.0, 2.0))
        rolling.event(event("started", 2, 0.0, 2.0, "Run"))
        for number in range(1, 9):
            rolling.show((picture,) * 16, number * 0.64)
            if number == 3:
                rolling.event(event("withdrawn", 2, 0.0, 2.0, "Run"))
            if name == "now.png":
                assert target.read_bytes().startswith(b"\x89PNG")
    with av.open(str(target)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == (1 if name == "now.png" else 128)
    assert frames[0].height > 256
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_picture_of_nothing(tmp_path: Path) -> None:
    for name in ("now.png", "all.mp4"):
        with Rolling(tmp_path / name, 25.0):
            pass
    with pytest.raises(ZeroDivisionError), Rolling(tmp_path / "all.mp4", 25.0) as rolling:
        rolling.show((np.zeros((256, 341, 3), np.uint8),), 1 / 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"\.png, \.mp4 or \.mkv"):
        Rolling(tmp_path / "a.gif", 25.0)
