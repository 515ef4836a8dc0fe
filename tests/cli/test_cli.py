"""The commands as a user types them: results, and errors without a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer

from aicl_fast import cli, load_detections, plugins
from aicl_fast.cli import COMMANDS
from aicl_fast.config import load_config
from aicl_fast.errors import AiclError, ConfigError

Run = Callable[..., str]
SMALL = ("segments=32", "rgb_width=6", "flow_width=5", "embedding_width=8")


def settings(*values: str) -> list[str]:
    """Each as an option."""
    return [part for value in values for part in ("--set", value)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(run: Run, command: str) -> None:
    text = run(command, "--help")
    assert f"aicl-fast {command}" in text
    assert "Examples" in text


def in_a_process(code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Code that calls ``main`` with arguments, in an interpreter of its own."""
    command = [sys.executable, "-c", f"import sys\nfrom aicl_fast.cli import COMMANDS, main\n{code}"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, cwd=folder)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numba', 'onnxruntime', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert in_a_process(code, *arguments, folder=tmp_path).stdout


def test_one_command_is_loaded(tmp_path: Path) -> None:
    code = (
        "try: main()\n"
        "except SystemExit: pass\n"
        "loaded = {name for name, module in COMMANDS.items() if module in sys.modules}\n"
        "assert loaded == {'synthetic'}, loaded"
    )
    in_a_process(code, "synthetic", "--help", folder=tmp_path)


def test_every_file_is_a_command_or_shared() -> None:
    shared = {"__init__", "console", "ending", "group", "options", "video"}
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    assert files == shared | {name.replace("-", "_") for name in COMMANDS}


def test_another_packages_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(name: Annotated[str, typer.Argument(help="Whom to greet.")], loud: bool = False) -> None:
        """Greet somebody."""
        typer.echo(f"hello {name}{'!' * loud}")

    monkeypatch.setattr(plugins, "load", {"aicl_fast.commands": {"toy": toy, "train": toy}}.__getitem__)
    assert run("toy", "you", "--loud") == "hello you!"
    text = run("--help")
    assert "toy Greet somebody." in text
    assert "train Train a model" in text
    assert "Whom to greet." in run("toy", "--help")
    assert "No such command 'toi'. Did you mean 'toy'?" in run("toi", expect=2)


def test_another_packages_command_that_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "load", {"aicl_fast.commands": {"toy": sys}}.__getitem__)
    assert "aicl_fast.commands: expected 'toy' to be a function, got a module" in run("toy", expect=2)


def test_the_version_by_script_and_by_module(tmp_path: Path) -> None:
    for command in ([Path(sys.executable).with_name("aicl-fast")], [sys.executable, "-m", "aicl_fast"]):
        done = subprocess.run(
            [*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"aicl-fast {version('aicl-fast')}\n"


def test_from_data_to_metrics(run: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    options = settings(*SMALL, "steps=5", "warmup_steps=2")
    text = run("train", "-p", "demo", "-d", tiny_dataset, "-o", "run", *options)
    assert "6 train, 3 test videos, 3 classes" in text
    assert "run/model.safetensors" in text
    run("export", "run/model.safetensors")
    text = run("detect", "run/model.onnx", tiny_dataset, "-o", "found.json")
    assert "in 3 recordings: found.json" in text
    assert list(load_detections(tmp_path / "found.json")) == ["test_0", "test_1", "test_2"]
    run("evaluate", tiny_dataset / "gt.json", "found.json", "--subset", "test", "-o", "m.json")
    assert 0 <= json.loads((tmp_path / "m.json").read_text())["average_mAP"] <= 1
    text = run("info", "run/model.onnx")
    assert "Jump, Run, Throw" in text
    assert "train.steps" in text
    assert "…" not in text  # a hash may go over two lines, but none of it is skipped
    assert "run/metrics.json: is no model file. Expected a file of `aicl-fast export`" in run(
        "info", "run/metrics.json", expect=2
    )


@pytest.mark.parametrize("command", ["", "train", "bench"])
def test_a_short_option_for_help(command: str, run: Run) -> None:
    assert "Usage: aicl-fast" in run(*command.split(), "-h")


def test_ranges_of_thresholds() -> None:
    from aicl_fast.cli.options import parse_tious

    assert parse_tious("0.5:0.05:0.95", "own") == load_config("activitynet13").evaluate.tious
    assert parse_tious("0.3,0.5:0.25:1", "own") == (0.3, 0.5, 0.75, 1.0)
    for wrong in (
        "0.5:0.95",
        "0.9:0.1:0.5",
        "0.1:0:0.5",
        "0.1:-1:0.5",
        "0.1:nan:0.5",
        "0:1e-9:1",
        "x",
        "1:2:3:4",
    ):
        with pytest.raises(ConfigError, match=r"--tiou: expected numbers .* or FIRST:STEP:LAST"):
            parse_tious(wrong, "own")


def test_a_run_is_complete(
    run: Run, tiny_dataset: Path, tmp_path: Path, add_times: Callable[[Path], Path]
) -> None:
    """A trained run is compared, drawn and reported as it is, with the thresholds of its training."""
    pytest.importorskip("matplotlib")
    add_times(tiny_dataset)
    options = settings(*SMALL, "steps=4", "ramp_steps=0", "eval_every=2", "tious=0.3,0.6")
    for name, seed in (("a", 1), ("b", 2)):
        text = run("train", "-p", "demo", "-d", tiny_dataset, "-o", name, *options, *settings(f"seed={seed}"))
        assert f"next: aicl-fast report {name}" in text
        for step in (2, 4):
            assert f"step {step}: average mAP " in text
    found = json.loads((tmp_path / "a" / "metrics.json").read_text())
    text = run("evaluate", "a/gt.json", "a/detections.json", "--tiou", "0.3,0.6", "-o", "again.json")
    assert json.loads((tmp_path / "again.json").read_text())["average_mAP"] == found["average_mAP"]
    text = run("compare", "a", "b")
    assert "at 0.3" in text
    assert "at 0.5" not in text
    assert "at 0.5" in run("compare", "a", "b", "-p", "thumos14")
    run("plot", "a", "--video", "test_1", "-o", "one.png")
    run("report", "b", "--baseline", "a")
    assert "0.6" in (tmp_path / "b" / "report.html").read_text()
    text = run("train", "-p", "demo", "-d", tiny_dataset, "-o", tiny_dataset, *options, expect=2)
    assert "is the data set's folder" in text
    # What is missing, and which command makes it.
    (tmp_path / "a" / "detections.json").unlink()
    for command in (("report", "a"), ("compare", "b", "a"), ("plot", "a")):
        text = run(*command, expect=2)
        assert "a: holds no detections.json" in text
        assert "aicl-fast train" in text
        assert "-o a/detections.json" in text


def test_a_resumed_run_says_where_it_starts(run: Run, tiny_dataset: Path) -> None:
    options = settings(*SMALL, "ramp_steps=0", "steps=5")
    command = ["train", "-p", "demo", "-d", tiny_dataset, "-o", "run", *options]
    text = run(*command, "--resume")
    assert "run: starting at step 0, there is no checkpoint" in text
    text = run(*command[:-1], "steps=8", "--resume")
    assert "run: resuming from step 5" in text
    text = run(*command, "--overwrite")
    assert "starting" not in text
    assert "resuming" not in text


def test_ways_to_name_recordings(run: Run, tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    model = tiny_model.with_suffix(".onnx")
    folder = tiny_dataset / "features" / "test"
    rgb, flow = folder / "rgb" / "test_1.npy", folder / "flow" / "test_1.npy"
    run("detect", model, "--rgb", rgb, "--flow", flow, "-o", "pair.json")
    np.save(tmp_path / "test_1.npy", np.concatenate([np.load(rgb), np.load(flow)], axis=1))
    run("detect", model, "test_1.npy", "-o", "joined.json")
    run("detect", model, folder, "-o", "folder.json", "--threads", 1)
    pair = load_detections(tmp_path / "pair.json")["test_1"]
    assert len(pair) > 0
    assert load_detections(tmp_path / "joined.json")["test_1"] == pair
    assert len(load_detections(tmp_path / "folder.json")) == 3
    run("detect", model, "test_1.npy", "-o", "few.json", "--set", "max_detections=2")
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
        (["detect", "MODEL", "x.npy", "--window", "off", "--hop", "3"], "--hop: there are no windows"),
        (["train", "-d", "nowhere"], "nowhere: the data set folder does not exist"),
        (["train", "-d", ".", "-p", "thumos"], "Did you mean thumos14"),
        (["train", "-d", ".", "-p", "own", "--set", "train.step=3"], "train.steps"),
        (["train", "-d", ".", "-p", "thumos14", "--set", "keep=val"], "to a number from 1 to 11700"),
        (["train", "-d", ".", "-c", "own.toml", "--set", f"seed={'9' * 23}"], "seed: expected a whole"),
        (["train", "-d", ".", "--set", "train.step=3"], "gt.json: the annotation file does not exist"),
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
    run: Run, arguments: list[str], words: str, tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.json").write_text("{oops")
    (tmp_path / "own.toml").write_text('preset = "own"')
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    names = {"MODEL": str(tiny_model.with_suffix(".onnx")), "DATA": "data"}
    names["foo:MODEL"] = f"foo:{names['MODEL']}"
    arguments = [names.get(argument, argument) for argument in arguments]
    assert words in run(*arguments, expect=2)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_detectors_engine_and_device_are_chosen(
    run: Run, engine: str, tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    pytest.importorskip(engine)
    model = tiny_model.with_suffix(".onnx")
    run("detect", model, tiny_dataset, "--engine", engine, "--device", "cpu")
    assert len(load_detections(tmp_path / "detections.json")) == 3
    # Neither has a GPU here, and each says so in its own words.
    text = run("detect", model, tiny_dataset, "--engine", engine, "--device", "cuda:7", expect=2)
    assert {"onnxruntime": "CUDAExecutionProvider", "openvino": "OpenVINO runs on the CPU"}[engine] in text


def test_a_bad_recording_does_not_cost_the_others(
    run: Run, tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    path = tiny_dataset / "features/test/rgb/test_2.npy"
    array = np.load(path)
    array[3, 3] = np.nan
    np.save(path, array)
    model = tiny_model.with_suffix(".onnx")
    text = run("detect", model, tiny_dataset, expect=1)
    assert "1 of 3 recordings could not be used" in text
    assert "test_2.npy: 1 values are NaN" in text
    assert sorted(load_detections(tmp_path / "detections.json")) == ["test_0", "test_1"]
    (tmp_path / "detections.json").unlink()
    pair = ("--rgb", path, "--flow", tiny_dataset / "features/test/flow/test_2.npy")
    run("detect", model, *pair, expect=2)
    assert not (tmp_path / "detections.json").exists()


@pytest.mark.slow
def test_the_demo_in_short(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every artefact of the demo, with a training too short to be good."""
    pytest.importorskip("seglearn")
    from aicl_fast.export import export

    def full(*_: object) -> None:
        raise AiclError("no room for the model")

    with monkeypatch.context() as patch:
        patch.setattr(export, "export_model", full)
        assert "no room for the model" in run("demo", "--set", "steps=5", "-o", "out", expect=2)
    # A second run takes the prepared data as they are and trains again.
    text = run("demo", "--set", "steps=10", "--seeds", 2, "--ablate", "-o", "out")
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
    _judge(run, tmp_path)


def _judge(run: Run, folder: Path) -> None:
    """What can be asked of a run's folder afterwards."""
    text = run("compare", "out", "out", "-o", "compare.json")
    assert "within noise" in text
    run("plot", "out", "--video", "watch_test_000", "-o", "one.svg")
    assert "<svg" in (folder / "one.svg").read_text()
    run("plot", "out", "--worst", 3, "-o", "worst.png")
    run("report", "out", "--baseline", "out", "-o", "page.html")
    truth = "out/data/gt.json"
    text = run("evaluate", truth, "out/detections.json", "--subset", "test", "--detad", "e.png")
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


def test_parity_takes_what_engines_are_opened_with(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    files = [str(tiny_model), str(tiny_model.with_suffix(".onnx"))]
    common = ["--device", "cpu", "--threads", "1", "--runs", "1"]
    text = run("parity", *files, *common, "--provider", "CPUExecutionProvider", "--pin-threads")
    assert "model.onnx" in text
    run("parity", *files, *common, "--provider", "NoSuchProvider", expect=2)


def test_a_warning_is_printed_once_as_a_note(tmp_path: Path) -> None:
    code = (
        "import types, warnings\n"
        "from aicl_fast.errors import AiclWarning\n"
        "def odd():\n"
        "    for _ in range(3): warnings.warn('odd [red]data[/red]', AiclWarning)\n"
        "sys.modules['odd'] = types.SimpleNamespace(run=odd)\n"
        "COMMANDS['odd'] = 'odd'\n"
        "main()"
    )
    done = in_a_process(code, "odd", folder=tmp_path)
    assert done.stderr == "note: odd [red]data[/red]\n"
    assert done.stdout == ""


def test_a_file_that_looks_like_an_option(run: Run, tmp_path: Path) -> None:
    for name in ("-x.mp4", "-own.mp4"):
        (tmp_path / name).touch()
        for command in (["features", name, "-o", "out"], ["detect", "m.onnx", "a.npy", name]):
            text = run(*command, expect=2)
            assert f"{name}: begins with - as options do, but is a file, too" in text
            assert f"./{name}, or -- before the files" in text
        text = run("features", "-o", "out", "--rgb-weights", "none.pt", "--", name, expect=2)
        assert "none.pt: " in text
    # After an option that takes a value it is the value.
    assert "-x.mp4" in run("features", "a.mp4", "-o", "out", "--rgb-weights", "-x.mp4", expect=2)
    assert "No such option: -y" in run("features", "-y.mp4", expect=2)


def test_evaluate_leaves_out_a_list_of_videos(run: Run, tmp_path: Path) -> None:
    annotation = {"subset": "test", "annotations": [{"label": "x", "segment": [0, 10]}]}
    (tmp_path / "gt.json").write_text(json.dumps({"database": {"a": annotation, "b": annotation}}))
    found = {"a": [{"label": "x", "score": 1, "segment": [0, 10]}], "b": []}
    (tmp_path / "d.json").write_text(json.dumps({"results": found}))
    (tmp_path / "blocked.json").write_text('["b"]')
    run("evaluate", "gt.json", "d.json", "--exclude", "blocked.json", "-o", "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["average_mAP"] == 1
    run("evaluate", "gt.json", "d.json", "--exclude", "b,thumos14", "-o", "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["average_mAP"] == 1
    text = run("evaluate", "gt.json", "d.json", "--exclude", "thumos", expect=2)
    assert "Did you mean thumos14?" in text


def test_compare_says_which_run_is_odd(run: Run, tmp_path: Path) -> None:
    annotation = {"subset": "test", "annotations": [{"label": "x", "segment": [0, 10]}]}
    (tmp_path / "gt.json").write_text(json.dumps({"database": {"a": annotation, "b": annotation}}))
    found = [{"label": "x", "score": 1, "segment": [0, 10]}]
    for name, results in (("one", {"a": found, "b": found}), ("two", {"a": found})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "detections.json").write_text(json.dumps({"results": results}))
    text = run("compare", "one", "two", "--gt", "gt.json")
    assert "note: two: 1 annotated videos are missing from the detections (b)" in text
    (tmp_path / "two" / "detections.json").write_text(json.dumps({"results": {"c": found}}))
    text = run("compare", "one", "two", "--gt", "gt.json", expect=2)
    assert "two/detections.json: not one of its 1 videos (c) is among" in text
