"""features and detect on videos, as a user types them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av")
pytest.importorskip("cv2")

from aicl_fast.config import Config  # noqa: E402
from aicl_fast.data.detections import load_detections  # noqa: E402
from aicl_fast.data.feature_file import load_video_features  # noqa: E402
from aicl_fast.errors import DataError  # noqa: E402
from aicl_fast.report import load_scores  # noqa: E402
from aicl_fast.video.extract import Extraction  # noqa: E402

MakeClip = Callable[..., Path]
Run = Callable[..., str]
WEIGHTS = ("--rgb-weights", "r.npz", "--flow-weights", "f.npz", "--flow-algorithm", "dis")
RGB = ("-o", "feats", "--rgb-weights", "x.npz")


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch, fake_network: Any) -> list[tuple[str, dict[str, Any]]]:
    """Networks that cost nothing in place of I3D: the name of the weights says their hash; with widths as
    the tiny model has them. What was opened is listed."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def open_network(path: Path, **options: Any) -> Any:
        calls.append((str(path), options))
        width = 6 if options["stream"] == "rgb" else 5
        network = fake_network(options["stream"], path.stem[0], width)
        network.precision = options["precision"] or "fp32"
        return network

    monkeypatch.setattr("aicl_fast.video.open_network", open_network)
    return calls


@pytest.fixture
def model(tiny_model: Path) -> Path:
    """An exported model of both streams."""
    return tiny_model.with_suffix(".onnx")


@pytest.fixture
def make_clips(make_clip: MakeClip, tmp_path: Path) -> Callable[..., Path]:
    """``make_clips("a.mp4", …, frames=50)``: a folder of clips."""

    def make(*names: str, frames: int = 50) -> Path:
        for name in names:
            make_clip(name, frames=frames, parent=tmp_path / "videos")
        return tmp_path / "videos"

    return make


@pytest.fixture
def detected(tmp_path: Path) -> Callable[..., list[str]]:
    """``detected()``: the recordings that a file of detections has."""
    return lambda name="detections.json": list(load_detections(tmp_path / name))


_BEGIN = """
import sys, time
from pathlib import Path
import numpy as np
from aicl_fast import video
from aicl_fast.cli import main
from aicl_fast.cli.ending import exit_code
from aicl_fast.cli.video import render_detections
from aicl_fast.data import feature_file
from aicl_fast.data.detections import Detections
from aicl_fast.files import atomic_path
from aicl_fast.video import render

def wait(*_):
    print("now", flush=True)
    time.sleep(60)

"""
_WRITING = {
    "features": _BEGIN
    + """
class Network:
    frames, size, width, weights_hash, precision = 16, 224, 4, "", "fp32"
    def __call__(self, clips):
        return np.zeros((len(clips), 4), np.float32)

def save(path, features):
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"half of it")
        wait()

video.open_network = lambda *_, **options: Network()
feature_file.save_video_features = save
sys.argv = ["aicl-fast", "features", sys.argv[1], "-o", sys.argv[2], "--rgb-weights", "x.npz"]
main()
""",
    "render": _BEGIN
    + """
render.Canvas.draw = wait
target = sys.argv[2] + "/seen.mp4"
sys.exit(exit_code(lambda: render_detections(
    Path(sys.argv[1]), Detections.empty(), target, allow_damaged=False)))
""",
}


@pytest.mark.parametrize("what", _WRITING)
def test_sigterm_leaves_no_half_file(make_clip: MakeClip, tmp_path: Path, what: str) -> None:
    clip, folder = make_clip(frames=20), tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-c", _WRITING[what], str(clip), str(folder)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        assert list(folder.iterdir())
        process.terminate()
        _, text = process.communicate(timeout=50)
    assert process.returncode == 128 + signal.SIGTERM
    assert "aicl-fast: terminated; " in text
    assert "Traceback" not in text
    assert not list(folder.iterdir())


# --- features --------------------------------------------------------------------------------------------


def test_a_folder_resumes_and_goes_on_after_bad_videos(
    run: Run, make_clips: MakeClip, tmp_path: Path
) -> None:
    videos = make_clips("a.mp4", "b.mkv", "d.mp4", frames=40)
    (videos / "c.mp4").write_bytes(b"not a video")
    (videos / "notes.txt").write_text("not looked at")
    command = ("features", videos, *RGB)
    text = run(*command, expect=1)
    assert "feats: 3 videos extracted" in text
    assert "1 of 4 videos could not be used" in text
    assert "c.mp4: cannot be opened as a video" in text
    assert "rgb alone" in text
    assert "models/flow_imagenet.pt" in text
    made = sorted((tmp_path / "feats").iterdir())
    assert [path.name for path in made] == ["a.npz", "b.npz", "d.npz"]
    features = load_video_features(made[0])
    assert features.rgb is not None
    assert features.rgb.shape == (3, 6)
    assert features.recipe.rgb_weights == "x" * 64
    before = {path: path.stat().st_mtime_ns for path in made}

    (videos / "c.mp4").unlink()
    (tmp_path / "feats" / "b.npz").unlink()
    text = run(*command)
    assert "1 video extracted, 2 videos already there" in text
    assert made[0].stat().st_mtime_ns == before[made[0]]
    assert made[1].exists()

    text = run(*command[:-1], "y.npz", expect=1)
    assert "a.npz: is there, but was extracted otherwise" in text
    assert "rgb weights: xxxxxxxxxxxx and yyyyyyyyyyyy" in text
    assert "--overwrite" in text
    run(*command[:-1], "y.npz", "--overwrite")
    assert load_video_features(made[0]).recipe.rgb_weights == "y" * 64


def test_a_choice_of_flow_without_its_weights(run: Run, make_clip: MakeClip, tmp_path: Path) -> None:
    text = run("features", make_clip(frames=20), *RGB, "--flow", "dis", expect=2)
    assert "--flow: says how optical flow is computed, which needs --flow-weights too" in text
    assert not (tmp_path / "feats").exists()


@pytest.fixture
def fails_at_b(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's own error in the middle of videos whose name begins with b."""
    whole = Extraction.__call__

    def extract(self: Any, path: Path, **options: Any) -> Any:
        if path.name.startswith("b"):
            raise FAILURES[path.stem](1, "conversion failed")
        return whole(self, path, **options)

    monkeypatch.setattr(Extraction, "__call__", extract)


FAILURES: dict[str, Any] = {
    "b_av": av.error.InvalidDataError,
    "b_cv2": lambda *said: pytest.importorskip("cv2").error(said[1]),
    "b_value": lambda *said: ValueError(said[1]),
}


@pytest.mark.usefixtures("fails_at_b")
def test_a_library_that_fails_is_the_failure_of_one_video(
    run: Run, make_clips: MakeClip, tmp_path: Path
) -> None:
    make_clips(*(f"{name}.mp4" for name in ("a", *FAILURES, "c")), frames=20)
    text = run("features", "videos", *RGB, expect=1)
    assert "3 of 5 videos could not be used" in text
    for name in FAILURES:
        assert f"{name}.mp4: its frames cannot be used (" in text
    assert sorted(path.name for path in (tmp_path / "feats").iterdir()) == ["a.npz", "c.npz"]


@pytest.mark.usefixtures("fails_at_b")
def test_detect_keeps_what_it_found_when_a_video_fails(
    run: Run, make_clips: MakeClip, model: Path, detected: Any
) -> None:
    make_clips("a.mp4", "b_av.mp4", "c.mp4")
    text = run("detect", model, "videos", *WEIGHTS, expect=1)
    assert "1 of 3 recordings could not be used" in text
    assert "b_av.mp4: its frames cannot be used" in text
    assert detected() == ["a", "c"]


def test_bad_videos_of_a_folder_are_listed_and_the_others_read(
    run: Run, make_clip: MakeClip, make_clips: MakeClip, model: Path, detected: Any
) -> None:
    videos = make_clips("a.mp4", "c.mkv")
    make_clip("short.mp4", frames=12, fps=50, parent=videos)
    whole = make_clip("cut.mkv", frames=100, parent=videos)
    whole.write_bytes(whole.read_bytes()[:-1500])
    (videos / "text.mp4").write_bytes(b"not a video")
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "gone.mp4").symlink_to("nowhere")
    (videos / "folder.mp4").mkdir()
    text = run("detect", model, "videos", *WEIGHTS, expect=1)
    assert "5 of 7 recordings could not be used" in text
    for words in (
        "text.mp4: cannot be opened as a video",
        "empty.mp4: cannot be opened as a video",
        "cut.mkv: ends after",
        "short.mp4: has 1 segment; expected at least 2",
        "gone.mp4: the video does not exist",
    ):
        assert f"videos/{words}" in text
    assert "folder.mp4" not in text
    assert detected() == ["a", "c"]
    # One that is named itself is an error.
    for name, words in (("short.mp4", "has 1 segment"), ("text.mp4", "cannot be opened")):
        text = run("detect", model, videos / name, *WEIGHTS, expect=2)
        assert f"{name}: {words}" in text


def test_without_one_video_no_network_is_opened(
    run: Run, opened: list[Any], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    names = ("y.mp4", "z.mp4")
    for name in names:
        (tmp_path / "videos" / name).write_bytes(b"not a video")
    text = run("detect", model, "videos", *WEIGHTS, expect=1)
    assert all(f"{name}: cannot be opened as a video" in text for name in names)
    assert opened == []
    assert not (tmp_path / "detections.json").exists()


def test_where_nothing_can_be_written_is_found_first(
    run: Run, opened: list[Any], make_clip: MakeClip, model: Path, tmp_path: Path
) -> None:
    clip = make_clip(frames=50)
    (tmp_path / "feats" / "clip.npz").mkdir(parents=True)
    command = ("features", clip, *RGB)
    assert "clip.npz: cannot be written, a folder has this name" in run(*command, "--overwrite", expect=1)
    assert "clip.npz: expected the feature file, found a folder" in run(*command, expect=1)
    text = run(*command[:3], "clip.mp4", *command[4:], expect=1)
    assert "clip.mp4 is not a folder you may write to" in text
    opened.clear()
    for option, name in (("-o", "d.json"), ("--scores", "s.npz"), ("--render", "r.mp4")):
        (tmp_path / name).mkdir()
        text = run("detect", model, clip, *WEIGHTS, option, name, expect=2)
        assert f"{name}: cannot be written, a folder has this name" in text
    assert opened == []


@pytest.mark.parametrize("option", ["--out", "--scores"])
def test_no_output_replaces_the_video(
    run: Run, opened: list[Any], make_clip: MakeClip, model: Path, option: str
) -> None:
    clip = make_clip(frames=20)
    before = clip.read_bytes()
    text = run("detect", model, clip, *WEIGHTS, option, clip, expect=2)
    assert "clip.mp4: was read, and would be replaced" in text
    assert clip.read_bytes() == before
    assert opened == []  # said before anything takes time


def test_a_video_that_cannot_be_rendered(
    run: Run, make_clip: MakeClip, model: Path, detected: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Detections are written before, and kept."""
    from aicl_fast.video import render

    def fail(*_: Any) -> None:
        raise av.error.ExternalError(1, "no such size")

    monkeypatch.setattr(render, "make_encoder", fail)
    arguments = ("detect", model, make_clip(frames=50), *WEIGHTS)
    text = run(*arguments, "--render", "seen.mp4", expect=2)
    assert "seen.mp4: the rendered video cannot be written (no such size)" in text
    assert detected() == ["clip"]
    assert not (tmp_path / "seen.mp4").exists()


def test_two_videos_of_one_name(run: Run, make_clip: MakeClip, model: Path, tmp_path: Path) -> None:
    paths = [make_clip("a.mp4", frames=5, parent=tmp_path / folder) for folder in ("one", "two")]
    for arguments in (paths, [path.parent for path in paths]):
        text = run("detect", model, *arguments, *WEIGHTS, expect=2)
        assert "one/a.mp4 and" in text
        assert "two/a.mp4: would both be written as 'a'" in text


@pytest.mark.parametrize("name", ["x.asf", "x.unknown", "v1.5", "x.MKV"])
def test_every_command_gives_a_video_one_name(
    run: Run, make_clip: MakeClip, model: Path, detected: Any, tmp_path: Path, name: str
) -> None:
    clip = make_clip("a.mkv", frames=40).rename(tmp_path / name)
    run("features", clip, "-o", "DATA/features", *WEIGHTS)
    rows = f"video,label,start,end,split\n{name},a,0,1,test\n{name}2,a,,,train\n"
    (tmp_path / "labels.csv").write_text(rows)
    run("annotations", "labels.csv", "-o", "DATA")
    run("detect", model, clip, *WEIGHTS)
    (written,) = (path.stem for path in (tmp_path / "DATA/features").iterdir())
    assert (tmp_path / "DATA/split_test.txt").read_text().split() == [written]
    assert detected() == [written]


def test_a_name_too_long_for_a_file_is_refused_before_anything_is_read(
    run: Run, make_clips: MakeClip, tmp_path: Path
) -> None:
    folder = make_clips("b.mp4", frames=5)
    (folder / f"{'a' * 250}.mp4").write_bytes((folder / "b.mp4").read_bytes())
    text = run("features", folder, "-o", "out", *WEIGHTS, expect=1)
    assert "1 of 2 videos could not be used" in text
    assert "cannot name a video: it has more than" in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.npz"]


def test_hidden_files_are_skipped(
    run: Run, make_clips: MakeClip, model: Path, detected: Any, tmp_path: Path
) -> None:
    (make_clips("a.mp4", frames=40) / "._a.mp4").write_bytes(b"of another system")
    run("features", "videos", "-o", "DATA/features", *WEIGHTS[:4], "--flow", "dis")
    (tmp_path / "DATA/features/.b.x1y2.npz").write_bytes(b"cut off")
    run("detect", model, "DATA/features")
    assert detected() == ["a"]
    (tmp_path / "labels.csv").write_text("a,jump,1,1.5,test\nb,jump,1,2,train\n")
    run("annotations", "labels.csv", "-o", "DATA")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--fps", 30], "fps: 25.0 and 30.0"),
        (["--stride", 8], "stride: 16 and 8"),
        (["--precision", "bf16"], "precision: fp32 and bf16"),
        (["--flow-weights", "z.pt", "--flow", "dis"], "flow weights: none and zzzzzzzzzzzz"),
        ([], "video: clip.mp4 of"),
    ],
)
def test_another_request_is_refused(run: Run, make_clip: MakeClip, more: list[object], words: str) -> None:
    command = ("features", make_clip(frames=5), *RGB)
    run(*command)
    make_clip(frames=30 if not more else 5)
    assert words in run(*command, *more, expect=1)


def test_both_streams(run: Run, opened: list[Any], make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(frames=20)
    weights = ("--rgb-weights", "r.npz", "--flow-weights", "f.pt", "--flow", "dis")
    text = run("features", clip, "-o", "feats", *weights, "--batch", 1, "--device", "cpu", "--stride", 4)
    assert "note" not in text
    features = load_video_features(tmp_path / "feats" / "clip.npz")
    assert features.flow is not None
    assert features.flow.shape == (2, 5)
    assert features.recipe.flow_algorithm == "dis"
    assert opened == [
        ("r.npz", {"stream": "rgb", "device": "cpu", "precision": None, "threads": None, "trust": False}),
        ("f.pt", {"stream": "flow", "device": "cpu", "precision": None, "threads": None, "trust": False}),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["CLIP", *RGB[:2]], 2, "at least one stream"),
        (["none.mp4", *RGB], 1, "none.mp4: the video does not exist"),
        (["empty", *RGB], 2, "empty: holds no videos"),
        (["CLIP", "clip.mkv", *RGB], 2, "would both be written to clip.npz"),
        (["CLIP", *RGB, "--flow", "raft"], 2, "tvl1 or dis, got 'raft'"),
        *[
            (["CLIP", *RGB, "--fps", fps], 2, "fps: expected a positive number of frames a second")
            for fps in ("nan", "inf", "0", "-25")
        ],
    ],
)
def test_requests_that_cannot_be_met(
    run: Run,
    opened: list[Any],
    make_clip: MakeClip,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    clip = make_clip(frames=5)
    make_clip("clip.mkv", frames=5)
    (tmp_path / "empty").mkdir()
    assert words in run("features", *(clip if word == "CLIP" else word for word in arguments), expect=code)
    assert opened == [] or code == 1
    assert not (tmp_path / "feats").exists()


# --- detect ----------------------------------------------------------------------------------------------


def test_detect_on_a_video_is_features_and_detect(
    run: Run, make_clip: MakeClip, model: Path, tiny_config: Config, tmp_path: Path
) -> None:
    """The same detections, whether by a file of features or at once; the model's frame rate is used."""
    clip = make_clip(frames=60, audio=2.0)
    assert tiny_config.data.fps == 50
    text = run("detect", model, clip, *WEIGHTS, "-o", "at_once.json", "--scores", "scores.npz")
    assert "in 1 recording: at_once.json" in text
    run("features", clip, "-o", "feats", *WEIGHTS[:4], "--flow", "dis", "--fps", 50)
    run("detect", model, "feats/clip.npz", "-o", "two_steps.json")
    run("detect", model, "feats", "-o", "folder.json")
    found = load_detections(tmp_path / "at_once.json")
    assert len(found["clip"]) > 0
    # The last segment is filled up, but nothing is detected after the end.
    assert found["clip"].segments.max() <= 2.4
    for name in ("two_steps", "folder"):
        assert load_detections(tmp_path / f"{name}.json") == found
    scores = load_scores(tmp_path / "scores.npz")["clip"]
    assert scores.num_segments == 8
    assert scores.fps == 50


@pytest.fixture
def model_of(tiny_config: Config, tmp_path: Path) -> Callable[..., Path]:
    """``model_of(streams="rgb")``: an untrained model with these data settings."""
    torch = pytest.importorskip("torch")
    from aicl_fast.export.onnx import export_onnx
    from aicl_fast.model import TwoBranchNet

    def make(**data: str) -> Path:
        config = tiny_config.with_values({f"data.{name}": value for name, value in data.items()})
        torch.manual_seed(0)
        export_onnx(TwoBranchNet(config), config, tmp_path / "own.onnx")
        return tmp_path / "own.onnx"

    return make


def test_the_stream_that_a_model_does_not_read_is_not_computed(
    run: Run, opened: list[Any], make_clip: MakeClip, model_of: Callable[..., Path]
) -> None:
    run("detect", model_of(streams="rgb"), make_clip(frames=60), *WEIGHTS)
    assert [options["stream"] for _, options in opened] == ["rgb"]


def test_other_weights_or_flow_than_the_models_are_refused(
    run: Run, make_clip: MakeClip, model_of: Callable[..., Path], tmp_path: Path
) -> None:
    clip = make_clip(frames=60)
    run("features", clip, "-o", "feats", *WEIGHTS[:4], "--flow", "dis", "--fps", 50)
    model = model_of(recipe=load_video_features(tmp_path / "feats" / "clip.npz").recipe.text("both"))
    run("detect", model, clip, *WEIGHTS)
    run("detect", model, "feats/clip.npz")
    text = run("detect", model, clip, *WEIGHTS[:4], "--flow-algorithm", "tvl1", expect=2)
    assert "--flow-algorithm: not as the features that the model was trained on" in text
    assert "(flow algorithm: tvl1 and dis)" in text
    text = run("detect", model, clip, "--rgb-weights", "q.npz", *WEIGHTS[2:], expect=2)
    assert "(rgb weights: qqqqqqqqqqqq and rrrrrrrrrrrr)" in text
    other = ("features", clip, "-o", "other", *WEIGHTS[:2], "--flow-weights", "g.npz", "--flow", "dis")
    run(*other, "--fps", 50)
    text = run("detect", model, "other/clip.npz", expect=2)
    assert "clip.npz: not as the features" in text
    assert "(flow weights: gggggggggggg and ffffffffffff)" in text


def test_the_recorded_rate_is_used_for_seconds(
    run: Run, make_clip: MakeClip, model: Path, tmp_path: Path
) -> None:
    clip = make_clip(frames=75)
    ends = {}
    for fps, stride in ((25, 16), (12.5, 8)):
        folder = f"feats{stride}"
        run("features", clip, "-o", folder, *WEIGHTS[:4], "--flow", "dis", "--fps", fps, "--stride", stride)
        run("detect", model, f"{folder}/clip.npz", "-o", "d.json", "--scores", "s.npz")
        scores = load_scores(tmp_path / "s.npz")["clip"]
        assert (scores.fps, scores.frames_per_segment) == (fps, stride)
        ends[stride] = load_detections(tmp_path / "d.json")["clip"].segments.max()
    # Three seconds; the model itself believes in 50 frames a second, so in half of them or less.
    assert 2 < ends[16] <= 3
    assert 2 < ends[8] <= 3
    text = run("detect", model, f"{folder}/clip.npz", "--fps", 25, expect=2)
    assert "--fps: clip has features of 12.5 frames a second" in text


def test_features_of_different_networks_are_not_detected_in_together(
    run: Run, make_clip: MakeClip, model: Path, tmp_path: Path
) -> None:
    for name, weights in (("one.mp4", "r.npz"), ("two.mp4", "q.npz")):
        options = ("--rgb-weights", weights, "--flow-weights", "f.npz", "--flow", "dis")
        run("features", make_clip(name, frames=40), "-o", "feats", *options)
    for arguments in (["feats"], ["feats/one.npz", "feats/two.npz"]):
        text = run("detect", model, *arguments, expect=2)
        assert (
            "one.npz and feats/two.npz: were not extracted alike (rgb weights: rrrrrrrrrrrr and qqqqqq"
            in text
        )
    assert not (tmp_path / "detections.json").exists()
    run("detect", model, "feats/one.npz")


def test_detect_on_a_folder_of_videos(
    run: Run, opened: list[Any], make_clips: MakeClip, model: Path, detected: Any
) -> None:
    make_clips("one.mp4", "two.mkv")
    run("detect", model, "videos", *WEIGHTS)
    assert detected() == ["one", "two"]
    assert len(opened) == 2  # once for each stream, not for each video


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CLIP"], "--rgb-weights: the model reads rgb and flow"),
        (["CLIP", "--rgb-weights", "x.npz"], "--flow-weights: the model reads rgb and flow"),
        (["CLIP", "--rgb-weights", "x.npz"], "models/flow_imagenet.pt"),
        (["CLIP", "--rgb-weights", "x.npz"], "--set streams=rgb"),
        (["gone.mp4", *WEIGHTS], "gone.mp4: the video does not exist"),
        (["gone.mp4", "--render", "CLIP"], "gone.mp4: the video does not exist"),
        (["daat_folder"], "daat_folder: the video or folder does not exist"),
        (["x.npz"], "x.npz: the feature file does not exist"),
        (["rgb.npz"], "rgb.npz: holds rgb features alone"),
        (["rgb.npz", "--render", "out.mp4"], "--render out.mp4: expected one video"),
        (["--rgb", "rgb.npz", "--flow", "rgb.npz"], "--rgb and --flow: are the same file"),
        (["CLIP", *WEIGHTS, "--fps", "25"], "--fps: videos are read at the model's 50 frames a second"),
        (["CLIP", *WEIGHTS, "--render", "out.gif"], "ends in .mp4 or .mkv"),
        (["CLIP", "--flow", "dis"], "--flow-algorithm"),
    ],
)
def test_what_is_missing_is_said(
    run: Run, make_clip: MakeClip, model: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    clip = make_clip(frames=40)
    run("features", clip, "-o", ".", "--rgb-weights", "r.npz")
    (tmp_path / "clip.npz").rename(tmp_path / "rgb.npz")
    arguments = [str(clip) if argument == "CLIP" else argument for argument in arguments]
    assert words in run("detect", model, *arguments, expect=2)
    assert not (tmp_path / "detections.json").exists()


def test_a_model_of_one_stream(run: Run, make_clip: MakeClip, tiny_config: Config, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from aicl_fast.export.onnx import export_onnx
    from aicl_fast.model import TwoBranchNet

    config = tiny_config.with_values({"streams": "rgb", "fps": 25.0})
    torch.manual_seed(0)
    export_onnx(TwoBranchNet(config), config, tmp_path / "rgb.onnx")
    run("detect", "rgb.onnx", make_clip(frames=100), "--rgb-weights", "x.npz", "--render", "seen.mp4")
    assert len(load_detections(tmp_path / "detections.json")["clip"]) > 0
    with av.open(str(tmp_path / "seen.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 100


def test_detecting_in_features_loads_nothing_of_video(model: Path, tiny_dataset: Path) -> None:
    code = (
        "import sys; from aicl_fast.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "video = {name for name in sys.modules if name.startswith('aicl_fast.video')}\n"
        "others = {'av', 'cv2', 'torch', 'rich', 'aicl_fast.data.labels'}\n"
        "more = others & set(sys.modules)\n"
        "assert not video | more, video | more"
    )
    folder = tiny_dataset / "features/test"
    arguments = ["--rgb", folder / "rgb/test_0.npy", "--flow", folder / "flow/test_0.npy"]
    command = [sys.executable, "-c", code, "detect", model, *arguments]
    subprocess.run([*map(str, command)], check=True, cwd=tiny_dataset)
    assert (tiny_dataset / "detections.json").exists()


# --- from a table of labels to training ------------------------------------------------------------------


def test_from_videos_and_labels_to_detections(run: Run, make_clip: MakeClip, tmp_path: Path) -> None:
    """docs/video.md with networks that cost nothing."""
    pytest.importorskip("torch")
    rows = ["video,label,start,end,split"]
    for number in range(6):
        name = f"clip{number}.mp4" if number else "the first clip.mp4"
        make_clip(name, frames=66 + 8 * number, parent=tmp_path / "videos")
        label = ("wave", "jump")[number % 2]
        rows.append(f"{name},{label},1.0,2.5,test" if number < 2 else f"{name},{label},,,train")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    run("features", "videos", "-o", "DATA/features", "--rgb-weights", "x.npz")
    text = run("annotations", "labels.csv", "-o", "DATA")
    assert "4 train, 2 test videos, 2 classes: jump, wave" in text
    assert 'streams = "rgb"' in (tmp_path / "DATA/settings.toml").read_text()
    truth = json.loads((tmp_path / "DATA/gt.json").read_text())["database"]
    assert truth["the first clip"]["duration"] == pytest.approx(2.64)
    assert truth["clip2"]["annotations"] == [{"label": "wave", "segment": [0.0, 3.28]}]
    small = [("--set", f"{k}") for k in ("rgb_width=6", "segments=16", "embedding_width=8", "steps=3")]
    settings = [part for pair in small for part in pair]
    text = run("train", "-d", "DATA", "-c", "DATA/settings.toml", "-o", "run", *settings)
    assert "4 train, 2 test videos, 2 classes" in text
    run("export", "run/model.safetensors")
    run("detect", "run/model.onnx", "videos/clip1.mp4", "--rgb-weights", "x.npz", "-o", "run/detections.json")
    assert len(load_detections(tmp_path / "run/detections.json")["clip1"]) > 0
    run("detect", "run/model.onnx", "DATA", "-o", "run/detections.json", "--scores", "run/scores.npz")
    assert list(load_detections(tmp_path / "run/detections.json")) == ["the first clip", "clip1"]
    run("report", "run", "--gt", "DATA/gt.json", "--media", "videos")
    assert "videos/the%20first%20clip.mp4" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ("a,jump,3,1\nb,jump,1,2\n", [], "labels.csv: a row cannot be used: line 1: goes from 3 to 1 s"),
        ("a,jump,1,2\n", ["--videos", "nofolder"], "nofolder: the folder of videos does not exist"),
    ],
)
def test_a_bad_table_writes_nothing(
    run: Run, tmp_path: Path, rows: str, options: list[str], words: str
) -> None:
    (tmp_path / "labels.csv").write_text(rows)
    assert words in run("annotations", "labels.csv", "-o", "DATA", *options, expect=2)
    assert not (tmp_path / "DATA").exists()


def test_lengths_from_the_videos(run: Run, make_clips: MakeClip, tmp_path: Path) -> None:
    make_clips("a.mp4")
    (tmp_path / "labels.csv").write_text("a,jump,,\nb,jump,1,2\n")
    text = run("annotations", "labels.csv", "-o", "DATA", "--videos", "videos")
    assert "1 video whose length is not known" in text
    truth = json.loads((tmp_path / "DATA/gt.json").read_text())["database"]
    assert truth["a"]["duration"] == pytest.approx(2.0)
    assert "duration" not in truth["b"]


def test_the_python_way(make_clip: MakeClip, fake_network: Any, model: Path, tmp_path: Path) -> None:
    from aicl_fast import Detector
    from aicl_fast.video import extract_features, save_video_features

    features = extract_features(
        make_clip(frames=60),
        fake_network("rgb", width=6),
        fake_network("flow", width=5),
        fps=50,
        algorithm="dis",
    )
    save_video_features(tmp_path / "clip.npz", features)
    detector = Detector(model)
    found = detector(features.rgb, features.flow, fps=features.recipe.fps)
    assert len(found) > 0
    loaded = load_video_features(tmp_path / "clip.npz")
    assert detector(loaded.rgb, loaded.flow, fps=loaded.recipe.fps) == found
    with pytest.raises(DataError, match="expected 1024 features"):
        loaded.streams(Config().data)
    assert np.isfinite(found.scores).all()
