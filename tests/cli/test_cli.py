"""The commands as a user types them: results, and errors without a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from aicl_fast import load_detections
from aicl_fast.config import load_config


def run(*arguments: object, cwd: Path, expect: int = 0) -> str:
    """Run ``aicl-fast`` and return its output, stdout and stderr together."""
    command = [str(Path(sys.executable).with_name("aicl-fast")), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == expect, output
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "train",
        "detect",
        "evaluate",
        "compare",
        "plot",
        "report",
        "export",
        "parity",
        "info",
        "bench",
        "import-checkpoint",
        "synthetic",
        "ablate",
    ],
)
def test_help_has_examples(command: str, tmp_path: Path) -> None:
    text = run(command, "--help", cwd=tmp_path)
    assert f"aicl-fast {command}" in text
    assert "Examples" in text


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from aicl_fast.cli.app import app\n"
        "heavy = {'torch', 'numba', 'onnxruntime', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_by_script_and_by_module(tmp_path: Path) -> None:
    expected = f"aicl-fast {version('aicl-fast')}\n"
    assert run("--version", cwd=tmp_path) == expected
    module = [sys.executable, "-m", "aicl_fast", "--version"]
    done = subprocess.run(module, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == expected


def test_from_data_to_metrics(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = [
        "segments=32",
        "rgb_width=6",
        "flow_width=5",
        "embedding_width=8",
        "steps=5",
        "warmup_steps=2",
    ]
    options = [part for setting in settings for part in ("--set", setting)]
    text = run("train", "-p", "demo", "-d", tiny_dataset, "-o", "run", *options, cwd=tmp_path)
    assert "6 train, 3 test videos, 3 classes" in text
    assert "run/model.safetensors" in text
    run("export", "run/model.safetensors", cwd=tmp_path)
    text = run("detect", "run/model.onnx", tiny_dataset, "-o", "found.json", cwd=tmp_path)
    assert "in 3 recordings: found.json" in text
    assert list(load_detections(tmp_path / "found.json")) == ["test_0", "test_1", "test_2"]
    run("evaluate", tiny_dataset / "gt.json", "found.json", "--subset", "test", "-o", "m.json", cwd=tmp_path)
    assert 0 <= json.loads((tmp_path / "m.json").read_text())["average_mAP"] <= 1
    text = run("info", "run/model.onnx", cwd=tmp_path)
    assert "Jump, Run, Throw" in text
    assert "train.steps" in text


def test_a_resumed_run_says_where_it_starts(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = ["segments=32", "rgb_width=6", "flow_width=5", "embedding_width=8", "ramp_steps=0"]
    options = [part for setting in settings for part in ("--set", setting)]
    command = ["train", "-p", "demo", "-d", tiny_dataset, "-o", "run", *options, "--set", "steps=5"]
    text = run(*command, "--resume", cwd=tmp_path)
    assert "run: starting anew, no checkpoint is there" in text
    text = run(*command[:-1], "steps=8", "--resume", cwd=tmp_path)
    assert "run: going on from step 5" in text
    text = run(*command, "--overwrite", cwd=tmp_path)
    assert "starting anew" not in text
    assert "going on" not in text


def test_ways_to_name_recordings(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    model = tiny_model.with_suffix(".onnx")
    folder = tiny_dataset / "features" / "test"
    rgb, flow = folder / "rgb" / "test_1.npy", folder / "flow" / "test_1.npy"
    run("detect", model, "--rgb", rgb, "--flow", flow, "-o", "pair.json", cwd=tmp_path)
    np.save(tmp_path / "test_1.npy", np.concatenate([np.load(rgb), np.load(flow)], axis=1))
    run("detect", model, "test_1.npy", "-o", "joined.json", cwd=tmp_path)
    run("detect", model, folder, "-o", "folder.json", "--threads", 1, cwd=tmp_path)
    pair = load_detections(tmp_path / "pair.json")["test_1"]
    assert len(pair) > 0
    assert load_detections(tmp_path / "joined.json")["test_1"] == pair
    assert len(load_detections(tmp_path / "folder.json")) == 3
    run("detect", model, "test_1.npy", "-o", "few.json", "--set", "max_detections=2", cwd=tmp_path)
    assert len(load_detections(tmp_path / "few.json")["test_1"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detect", "none.onnx", "x.npy"], "none.onnx: the model file does not exist"),
        (["detect", "MODEL"], "nothing to detect in"),
        (["detect", "MODEL", "--rgb", "a.npy"], "--rgb and --flow go together"),
        (["detect", "MODEL", "x.npy", "--rgb", "a", "--flow", "b"], "not both"),
        (["detect", "MODEL", "gone.npy"], "gone.npy: the feature file does not exist"),
        (["detect", "MODEL", "empty"], "empty: holds no features"),
        (["detect", "MODEL", "DATA", "--split", "val"], "--split: data has no 'val': expected features/val/"),
        *[
            (
                ["detect", "MODEL", "x.npy", "--set", f"{name}=2", "--set", "nms=hard"],
                f"--set {name}: fixed in a model's file",
            )
            for name in ("segments", "lr", "train.steps", "tious", "gce_q")
        ],
        (["detect", "MODEL", "x.npy", "--set", "clases=a,b"], "Did you mean classes"),
        (["detect", "MODEL", "x.npy", "--engine", "onnx"], "engine: expected one of onnxruntime, openvino"),
        (["detect", "MODEL", "x.npy", "--engine", "torch"], "cannot run in torch"),
        (["detect", "MODEL", "x.npy", "--device", "gpu"], "device: expected cpu, cuda or cuda:N, got 'gpu'"),
        (["detect", "MODEL", "x.npy", "--batch", "3"], "--batch: how a video becomes features"),
        (
            ["detect", "MODEL", "DATA", "--rgb-weights", "x", "--flow-algorithm", "z", "--precision", "fp16"],
            "--rgb-weights, --flow-algorithm, --precision: how a video becomes features",
        ),
        (["detect", "MODEL", "x.npy", "--flow-weights", "x"], "none of the recordings is a video"),
        (["detect", "MODEL", "x.npy", "--allow-damaged"], "--allow-damaged: how a video becomes features"),
        (["detect", "MODEL", "x.npy", "--render", "a.mp4"], "got 1 recording, 0 videos among them"),
        (["parity", "MODEL"], "expected at least two model files"),
        (["parity", "MODEL", "foo:MODEL"], "there is no engine 'foo'; expected one of onnxruntime"),
        (["train", "-d", "nowhere", "--device", "gpu"], "device: expected cpu, cuda or cuda:N, got 'gpu'"),
        (["ablate", "losses", "--device", "gpu"], "device: expected cpu, cuda or cuda:N, got 'gpu'"),
        (["detect", "MODEL", "x.npy", "--set", "nms"], "name=value"),
        (["train", "-d", "nowhere"], "nowhere: the data set folder does not exist"),
        (["train", "-d", ".", "-p", "thumos"], "Did you mean thumos14"),
        (["train", "-d", ".", "--set", "train.step=3"], "train.steps"),
        (["train", "-d", ".", "--set", "keep=val"], "Set eval_every to a number from 1 to 11700"),
        (["train", "-d", ".", "--set", "seed=99999999999999999999999"], "seed: expected a whole number"),
        (["evaluate", "gt.json", "d.json"], "gt.json: the annotation file does not exist"),
        (["evaluate", "bad.json", "bad.json"], "not valid JSON"),
        (["evaluate", "bad.json", "bad.json", "--tiou", "a"], "--tiou: expected numbers"),
        (["export", "bad.json"], "is not a safetensors file"),
        (["export", "none.safetensors"], "does not exist"),
        (["export", "none.safetensors", "--format", "gif"], "--format: expected onnx"),
        (["info", "bad.json"], "bad.json"),
        (["bench", "speed"], "there is no suite 'speed'"),
        (["info", "--preset", "imagenet"], "there is no 'imagenet'"),
    ],
)
def test_errors_exit_with_2_and_write_nothing(
    arguments: list[str], words: str, tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.json").write_text("{oops")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    names = {"MODEL": str(tiny_model.with_suffix(".onnx")), "DATA": "data"}
    names["foo:MODEL"] = f"foo:{names['MODEL']}"
    arguments = [names.get(argument, argument) for argument in arguments]
    text = " ".join(run(*arguments, cwd=tmp_path, expect=2).split())
    assert words in text
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_detectors_engine_and_device_are_chosen(
    engine: str, tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    pytest.importorskip(engine)
    model = tiny_model.with_suffix(".onnx")
    run("detect", model, tiny_dataset, "--engine", engine, "--device", "cpu", cwd=tmp_path)
    assert len(load_detections(tmp_path / "detections.json")) == 3
    # Neither has a GPU here, and each says so in its own words.
    text = run(
        "detect", model, tiny_dataset, "--engine", engine, "--device", "cuda:7", cwd=tmp_path, expect=2
    )
    assert {"onnxruntime": "CUDAExecutionProvider", "openvino": "OpenVINO runs on the CPU"}[engine] in text


def test_a_bad_recording_does_not_cost_the_others(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    path = tiny_dataset / "features/test/rgb/test_2.npy"
    array = np.load(path)
    array[3, 3] = np.nan
    np.save(path, array)
    model = tiny_model.with_suffix(".onnx")
    text = run("detect", model, tiny_dataset, cwd=tmp_path, expect=1)
    assert "1 of 3 recordings could not be used" in text
    assert "test_2.npy: 1 values are NaN" in text
    assert sorted(load_detections(tmp_path / "detections.json")) == ["test_0", "test_1"]
    (tmp_path / "detections.json").unlink()
    pair = ("--rgb", path, "--flow", tiny_dataset / "features/test/flow/test_2.npy")
    run("detect", model, *pair, cwd=tmp_path, expect=2)
    assert not (tmp_path / "detections.json").exists()


@pytest.mark.slow
def test_the_demo_in_short(tmp_path: Path) -> None:
    """Every artefact of the demo, with a training too short to be good."""
    pytest.importorskip("seglearn")
    run("demo", "--set", "steps=5", "-o", "out", cwd=tmp_path)
    # A second run takes the prepared data as they are and trains anew.
    text = run("demo", "--set", "steps=20", "--seeds", 2, "--ablate", "-o", "out", cwd=tmp_path)
    assert "L_a alone" in text
    assert "timeline.png" in text
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [(r["name"], r["seed"]) for r in metrics["runs"]][:2] == [
        ("all five losses", 1),
        ("all five losses", 2),
    ]
    for name in ("model.safetensors", "model.onnx", "detections.json", "scores.npz", "tensorboard"):
        assert (tmp_path / "out" / name).exists(), name
    assert (tmp_path / "out" / "timeline.png").read_bytes()[:4] == b"\x89PNG"
    assert len(load_detections(tmp_path / "out" / "detections.json")) == 80
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    _judge(tmp_path)


def _judge(folder: Path) -> None:
    """What can be asked of a run's folder afterwards."""
    text = run("compare", "out", "out", "-o", "compare.json", cwd=folder)
    assert "within noise" in text
    run("plot", "out", "--video", "watch_test_000", "-o", "one.svg", cwd=folder)
    assert "<svg" in (folder / "one.svg").read_text()
    run("plot", "out", "--worst", 3, "-o", "worst.png", cwd=folder)
    run("report", "out", "--baseline", "out", "-o", "page.html", cwd=folder)
    truth = "out/data/gt.json"
    text = run("evaluate", truth, "out/detections.json", "--subset", "test", "--detad", "e.png", cwd=folder)
    assert "background" in text.lower()
    for name in ("compare.json", "worst.png", "page.html", "e.png"):
        assert (folder / name).stat().st_size > 0


@pytest.mark.parametrize(("count", "words"), [(1, "1 video has no"), (3, "3 videos have no"), (0, "")])
def test_left_out_videos_are_counted(count: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from aicl_fast.cli.console import note_missing

    note_missing([f"v{number}" for number in range(count)], Path("run/metrics.json"))
    text = capsys.readouterr().err
    assert words in text
    assert ("run/metrics.json" in text) == (count > 0)


def test_only_a_choice_by_the_test_videos_is_called_one() -> None:
    from aicl_fast.cli.train import leak_note

    chosen = load_config("demo", overrides=["keep=test", "eval_every=100"])
    assert "chosen by test mAP" in leak_note(chosen, [(100, 0.5)])
    assert leak_note(chosen, []) == ""
    held_out = load_config("demo", overrides=["keep=val", "eval_every=100"])
    assert leak_note(held_out, [(100, 0.5)]) == ""


def test_parity_takes_what_engines_are_opened_with(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    files = [str(tiny_model), str(tiny_model.with_suffix(".onnx"))]
    common = ["--device", "cpu", "--threads", "1", "--runs", "1"]
    text = run("parity", *files, *common, "--provider", "CPUExecutionProvider", "--pin-threads", cwd=tmp_path)
    assert "model.onnx" in text
    run("parity", *files, *common, "--provider", "NoSuchProvider", cwd=tmp_path, expect=2)


def test_a_warning_is_printed_once_as_a_note(tmp_path: Path) -> None:
    code = """
import sys, warnings
import aicl_fast.cli.app
from aicl_fast.cli import main
from aicl_fast.errors import AiclWarning
def odd():
    for _ in range(3):
        warnings.warn("odd [red]data[/red]", AiclWarning)
aicl_fast.cli.app.app = odd
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr == "note: odd [red]data[/red]\n"
    assert done.stdout == ""


def test_evaluate_leaves_out_a_list_of_videos(tmp_path: Path) -> None:
    annotation = {"subset": "test", "annotations": [{"label": "x", "segment": [0, 10]}]}
    (tmp_path / "gt.json").write_text(json.dumps({"database": {"a": annotation, "b": annotation}}))
    found = {"a": [{"label": "x", "score": 1, "segment": [0, 10]}], "b": []}
    (tmp_path / "d.json").write_text(json.dumps({"results": found}))
    (tmp_path / "blocked.json").write_text('["b"]')
    run("evaluate", "gt.json", "d.json", "--exclude", "blocked.json", "-o", "m.json", cwd=tmp_path)
    assert json.loads((tmp_path / "m.json").read_text())["average_mAP"] == 1
    text = run("evaluate", "gt.json", "d.json", "--exclude", "thumos", cwd=tmp_path, expect=2)
    assert "Did you mean thumos14?" in text
