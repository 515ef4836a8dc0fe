"""watch, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

av = pytest.importorskip("av")
pytest.importorskip("cv2")

from aicl_fast.errors import ConfigError  # noqa: E402
from aicl_fast.hook import Hook  # noqa: E402

Run = Callable[..., str]
WEIGHTS = ("--rgb-weights", "r.npz")
FRAMES = 160

PROGRAM = """
import sys
import numpy as np
from aicl_fast import video

class Network:
    frames, size, width, weights_hash, precision = 16, 224, 6, "r" * 64, "fp32"
    mix = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    def __call__(self, clips):
        means = clips.mean((2, 3, 4), dtype=np.float64)
        return ((means - means.mean(1, keepdims=True)) / 20 @ self.mix).astype(np.float32)

video.open_network = lambda *_, **options: Network()
"""
"""I3D that costs nothing."""
START = PROGRAM + 'from aicl_fast.cli import main\nsys.argv = ["aicl-fast", "watch", *sys.argv[1:]]\nmain()\n'


@pytest.fixture(autouse=True)
def _quick_network(monkeypatch: pytest.MonkeyPatch) -> None:
    scope: dict[str, Any] = {}
    from aicl_fast import video

    own = video.open_network
    exec(PROGRAM, scope)
    monkeypatch.setattr(video, "open_network", own)
    network = scope["Network"]()
    monkeypatch.setattr(video, "open_network", lambda *_, **options: network)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="session")
def rgb_model(tmp_path_factory: pytest.TempPathFactory, tiny_config: Any) -> Path:
    """An untrained model of the RGB stream, one of whose classes has what a shell would read."""
    torch = pytest.importorskip("torch")
    from aicl_fast.export.onnx import export_onnx
    from aicl_fast.model import TwoBranchNet

    torch.manual_seed(0)
    labels = ["Jump; touch 'x' \"y\" $(z) {score}", "-n", "Throw"]
    config = tiny_config.with_values({"streams": "rgb"}).with_classes(labels)
    path = tmp_path_factory.mktemp("rgb") / "model.onnx"
    export_onnx(TwoBranchNet(config), config, path)
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, write_grey: Callable[..., None]) -> Path:
    """Changing grey, in MPEG-TS. The model's frame rate is twice the clip's: it has 20 segments."""
    path = tmp_path_factory.mktemp("clip") / "clip.ts"
    write_grey(path, FRAMES)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def finals(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    standing = {}
    for record in records:
        if record["event"] == "final":
            standing[record["id"]] = record
        elif record["event"] == "withdrawn":
            standing.pop(record["id"], None)
    return sorted((each["label"], each["start"], each["end"], each["score"]) for each in standing.values())


def test_a_file_gives_what_detect_gives(run: Run, clip: Path, rgb_model: Path, tmp_path: Path) -> None:
    run("detect", rgb_model, clip, *WEIGHTS, "-o", "found.json")
    (found,) = json.loads((tmp_path / "found.json").read_text())["results"].values()
    text = run(
        "watch",
        clip,
        "--model",
        rgb_model,
        *WEIGHTS,
        "-o",
        "e.jsonl",
        "--retract",
        "--idle",
        0.2,
        "--render",
        "n.png",
    )
    records = lines(tmp_path / "e.jsonl")
    expected = sorted((each["label"], *each["segment"], each["score"]) for each in found)
    got = finals(records)
    assert len(got) == len(expected) > 0
    for (label, *numbers), (other, *others) in zip(got, expected, strict=True):
        assert label == other
        assert numbers == pytest.approx(others, abs=1e-3)
    assert records[0]["event"] == "opened"
    assert records[-1]["event"] == "ended"
    assert records[-1]["segments"] == 20
    assert records[-1]["seconds"] == FRAMES / 25
    assert {record["video"] for record in records} == {"clip"}
    assert "note" not in text
    assert f"{len(got)} detections in {clip}" in text
    assert (tmp_path / "n.png").read_bytes().startswith(b"\x89PNG")

    # A file of events is added to, after a line that was cut off, too.
    with (tmp_path / "e.jsonl").open("a") as file:
        file.write('{"event": "fin')
    run("watch", clip, "--model", rgb_model, *WEIGHTS, "-o", "e.jsonl", "--idle", 0.2, "--name", "door\x1b 2")
    texts = (tmp_path / "e.jsonl").read_text().splitlines()
    assert texts[len(records)] == '{"event": "fin'
    assert json.loads(texts[-1])["video"] == "door\ufffd 2"


def test_a_command_gets_the_label_as_one_argument(
    run: Run, clip: Path, rgb_model: Path, tmp_path: Path
) -> None:
    program = tmp_path / "write it.py"
    program.write_text(
        "import json, sys\n"
        "print('no result')\n"
        "with open('calls.jsonl', 'a') as file: print(json.dumps(sys.argv[1:]), file=file)\n"
    )
    command = (
        f"{sys.executable} '{program}' {{label}} '{{start}} to {{end}}' x{{score}} {{video}} '{{print}}'"
    )
    text = run(
        "watch", clip, "--model", rgb_model, *WEIGHTS, "--idle", 0.2, "--exec", command, "-o", "-", "--set",
        "max_detections=4",
    )  # fmt: skip
    assert "no result" not in text.split("watching")[0]
    calls = lines(tmp_path / "calls.jsonl")
    assert calls
    assert all(len(call) == 5 for call in calls)
    labels = {str(call[0]) for call in calls}  # type: ignore[index]
    assert labels <= {"Jump; touch 'x' \"y\" $(z) {score}", "-n", "Throw"}
    assert all(call[3:] == ["clip", "{print}"] for call in calls)  # type: ignore[index]
    assert not (tmp_path / "x").exists()


def test_a_label_is_never_read_by_a_shell(tmp_path: Path) -> None:
    said: list[str] = []
    label = "a 'b' \"c\"; touch hacked $(touch hacked) `touch hacked` {score} \\ *"
    out = tmp_path / "out"
    code = f"import sys; open({str(out)!r}, 'a').write(repr(sys.argv[1:]))"
    with Hook(f'{sys.executable} -c "{code}" {{label}} "<{{label}}>"', said.append) as hook:
        hook({"label": label, "score": "1", "start": "0", "end": "1", "video": "v"})
    assert out.read_text() == repr([label, f"<{label}>"])
    assert said == []
    with Hook(f"{sys.executable} -c 'raise SystemExit(3)'", said.append) as hook:
        hook({})
    assert said == [f"--exec: {sys.executable} ended with 3"]


def test_a_slow_command_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aicl_fast.hook._WAITING", 2)
    said: list[str] = []
    with Hook("sleep 0.2", said.append) as hook:
        for _ in range(9):
            hook({})
        assert hook.skipped >= 5
    assert "were skipped" in said[-1]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "expected a program"),
        ("notify 'it", "cannot be split into arguments"),
        ("{label} x", "the program itself cannot be a placeholder"),
        ("no-such-program {label}", "there is no program 'no-such-program'"),
    ],
)
def test_commands_that_cannot_be_run(command: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Hook(command, print)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["file:CLIP"], "file: is no protocol that is opened; expected rtsp://"),
        (["concat:CLIP|CLIP"], "concat: is no protocol"),
        (["data:video/mp2t;base64,AA"], "data: is no protocol"),
        (["none.ts"], "none.ts: the video does not exist"),
        (["CLIP", "--reconnect", "3"], "only a camera or an address is"),
        (["tcp://127.0.0.1:1", "--reconnect", "often"], "expected a number of tries or forever, got 'often'"),
        (["tcp://127.0.0.1:1"], "tcp://127.0.0.1:1: cannot be opened as a video (Connection refused)"),
        (["/dev/video97"], "/dev/video97: cannot be opened as a video (No such file or directory)"),
        (["CLIP", "-o", "CLIP"], "was read, and would be replaced"),
        (["CLIP", "--render", "x.gif"], ".png, .mp4 or .mkv"),
        (["CLIP", "--exec", "no-such-program"], "there is no program"),
        (["CLIP", "--wait", "-1"], "wait: expected seconds"),
        (["CLIP", "--idle", "0"], "idle: expected a positive number"),
        (["CLIP", "--set", "segments=9"], "fixed in a model's file"),
    ],
)
def test_requests_that_cannot_be_met(
    run: Run, clip: Path, rgb_model: Path, arguments: list[str], words: str
) -> None:
    before = clip.read_bytes()
    given = [each.replace("CLIP", str(clip)) for each in arguments]
    assert words in run("watch", *given, "--model", rgb_model, *WEIGHTS, expect=2)
    assert clip.read_bytes() == before


def test_a_source_that_is_lost(run: Run, rgb_model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    text = run(
        "watch",
        f"tcp://127.0.0.1:{port}",
        "--model",
        rgb_model,
        *WEIGHTS,
        "--reconnect",
        1,
        "-o",
        "e.jsonl",
        expect=1,
    )
    assert "refused). Check that it is there, and that it sends video.; opened again in 0.5 s" in text
    assert "it was tried as often as --reconnect allows" in text
    assert [record["event"] for record in lines(tmp_path / "e.jsonl")] == ["ended", "ended"]


def test_a_pipe(clip: Path, rgb_model: Path, tmp_path: Path) -> None:
    """Standard input, with results on standard output alone."""
    command = [sys.executable, "-c", START, "-", "--model", str(rgb_model), *WEIGHTS, "--retract", "-o", "-"]
    done = subprocess.run(
        command, cwd=tmp_path, input=clip.read_bytes(), capture_output=True, timeout=100, check=True
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert records[-1]["segments"] == 20
    assert records[-1]["video"] == "stdin"
    assert finals(records)
    assert b"detections in standard input" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_what_is_known(
    clip: Path, rgb_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    content = clip.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            client, _ = server.accept()
            client.sendall(content)
            time.sleep(30.0)  # it stays open, and silent

        threading.Thread(target=serve, daemon=True).start()
        arguments = ["--wait", "60", "-o", "e.jsonl", "--render", "seen.mkv", *WEIGHTS]
        command = [
            sys.executable,
            "-c",
            START,
            f"tcp://127.0.0.1:{port}",
            "--model",
            str(rgb_model),
            *arguments,
        ]
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("started")
            time.sleep(0.5)
            process.send_signal(number)
            text, errors = process.communicate(timeout=50)
    assert process.returncode == (0 if number == signal.SIGTERM else 130), errors
    assert ("interrupted; what was found is final" in errors) == (number == signal.SIGINT)
    assert "Traceback" not in errors
    records = lines(tmp_path / "e.jsonl")
    assert finals(records)
    assert "final" in text
    with av.open(str(tmp_path / "seen.mkv")) as container:
        assert len(list(container.decode(video=0))) >= 100
    assert sorted(os.listdir(tmp_path)) == ["e.jsonl", "seen.mkv"]


def test_a_file_makes_no_connection(clip: Path, rgb_model: Path, tmp_path: Path) -> None:
    """Python's own calls are refused and noted. FFmpeg is told that it may use no protocol at all."""
    guard = Path(__file__).resolve().parents[1] / "install" / "guard"
    notes = tmp_path / "notes.txt"
    command = [sys.executable, "-c", START, str(clip), "--model", str(rgb_model), *WEIGHTS, "--idle", "0.2"]
    environment = {**os.environ, "PYTHONPATH": str(guard), "AICL_FAST_GUARD": str(notes)}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=100, check=True)
    assert not notes.exists(), notes.read_text()
