"""Shared fixtures: where the reference material is, and how kernels run without a GPU."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aicl_fast.config import Config, load_config

if TYPE_CHECKING:
    from aicl_fast.metadata import ModelInfo, SegmentInfo
    from aicl_fast.video.i3d import I3D

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """torch's own generator starts alike in every test, whichever ran before."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _stays_an_ordinary_process() -> Iterator[None]:
    """A library may make its caller real-time; what that starts later then keeps all others from running."""
    yield
    if hasattr(os, "sched_getscheduler"):
        policy = os.sched_getscheduler(0)
        if policy != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        assert policy == os.SCHED_OTHER, f"the test left its process with the scheduling policy {policy}"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of recorded outputs of the authors' program."""
    folder = SHARED / "goldens"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {os.path.relpath(folder)}")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real annotations, detections, clips and weights."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {os.path.relpath(folder)}")
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of the tests have."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _graphs_are_built_once(shared_folder: Path) -> Iterator[None]:
    """torch's exporter takes seconds; the same weights, precision and sizes give the same graph.

    So all processes take a graph from the first that builds it. ``build_onnx.__wrapped__`` always builds.
    A third of an export is reading the exporter's own operators, which a process does once.
    """
    if "torch" not in sys.modules or importlib.util.find_spec("onnx") is None:
        yield
        return
    from torch.onnx._internal.exporter import _registration

    from aicl_fast.export import i3d, onnx

    def remembering(build: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(build)
        def remember(net: object, info: ModelInfo | SegmentInfo, **options: object) -> Any:
            from onnx import load_from_string

            given = sorted((name, value) for name, value in options.items() if value)
            name = hashlib.sha256(repr((build.__name__, info.to_json(), given)).encode()).hexdigest()
            path = shared_folder / f"{name}.graph"
            if not path.exists():
                new = path.with_suffix(f".{os.getpid()}")
                new.write_bytes(build(net, info, **options).SerializeToString())
                new.replace(path)
            return load_from_string(path.read_bytes())

        return remember

    operators = getattr(_registration, "ONNXRegistry", None)
    with pytest.MonkeyPatch.context() as patch:
        for build in (onnx.build_onnx, i3d.build_i3d_onnx):
            remember = remembering(build)
            for module in list(sys.modules.values()):
                if getattr(module, "__dict__", {}).get(build.__name__) is build:
                    patch.setattr(module, build.__name__, remember)
        if operators is not None:
            once = functools.cache(operators.from_torchlib)
            patch.setattr(operators, "from_torchlib", staticmethod(once))
        yield


@pytest.fixture(scope="session")
def fork_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """``fork_python("-c", code, env=…, cwd=…)``: as ``subprocess.run([sys.executable, …])``, output captured,
    of a process that has torch already."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("forks")
    before = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("forks.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=before,
    ) as server:  # fmt: skip
        assert server.stdin is not None
        assert server.stdout is not None

        def run(*arguments: str, env: Mapping[str, str] = before, cwd: Path = folder) -> Any:
            outputs = [folder / name for name in ("stdout", "stderr")]
            command = [arguments, dict(env), str(cwd), list(map(str, outputs))]
            server.stdin.write(json.dumps(command) + "\n")
            server.stdin.flush()
            status = int(server.stdout.readline())
            told = (path.read_text(errors="replace") for path in outputs)
            return subprocess.CompletedProcess(arguments, status, *told)

        yield run
        server.stdin.close()


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """Settings of a model that trains and exports in a second."""
    values = {
        "segments": 32,
        "rgb_width": 6,
        "flow_width": 5,
        "embedding_width": 8,
        "standardize_input": True,
    }
    training = {"steps": 12, "batch_size": 4, "warmup_steps": 4, "ramp_steps": 0, "class_threshold": 0.1}
    return load_config("demo").with_values({**values, **training}).with_classes(["Jump", "Run", "Throw"])


@pytest.fixture
def tiny_dataset(tmp_path: Path, tiny_config: Config) -> Path:
    """A complete data set folder of six training and three test videos of different lengths."""
    return write_tiny_dataset(tmp_path / "data", tiny_config)


@pytest.fixture(scope="session")
def make_tiny_dataset() -> Callable[[Path, Config], Path]:
    """``make_tiny_dataset(folder, config)``, for fixtures of a session."""
    return write_tiny_dataset


@pytest.fixture(scope="session")
def add_times() -> Callable[[Path], Path]:
    """``add_times(folder)`` annotates six actions in every video of a data set."""

    def add(folder: Path) -> Path:
        truth = json.loads((folder / "gt.json").read_text())
        for video in truth["database"].values():
            label = video["annotations"][0]["label"]
            times = [[place + 0.2, place + 0.8] for place in range(6)]
            video["annotations"] = [{"label": label, "segment": each} for each in times]
        (folder / "gt.json").write_text(json.dumps(truth))
        return folder

    return add


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    """Weights of an untrained tiny model, and beside them its exported ``.onnx``."""
    torch = pytest.importorskip("torch")
    from aicl_fast.export.onnx import export_onnx
    from aicl_fast.model import TwoBranchNet
    from aicl_fast.weights import save_model

    torch.manual_seed(0)
    net = TwoBranchNet(tiny_config)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, net, tiny_config)
    export_onnx(net, tiny_config, path.with_suffix(".onnx"))
    return path


@pytest.fixture(scope="session")
def random_i3d() -> Callable[[str], I3D]:
    """``random_i3d("rgb")``: untrained, with weights and statistics that keep activations about 1."""
    torch = pytest.importorskip("torch")
    from aicl_fast.video.i3d import I3D

    @functools.cache
    def make(stream: str) -> I3D:
        torch.manual_seed(0)
        net = I3D(stream, classes=7)
        for unit in net.modules():
            if isinstance(unit, torch.nn.Conv3d):
                torch.nn.init.kaiming_normal_(unit.weight)
            elif isinstance(unit, torch.nn.BatchNorm3d):
                for value in (unit.weight, unit.running_var):
                    torch.nn.init.uniform_(value, 0.5, 1.5)
                for value in (unit.bias, unit.running_mean):
                    torch.nn.init.uniform_(value, -0.3, 0.3)
        return net.eval()

    return make


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """``run("info", …, expect=0)`` calls the command in this process, in the test's folder, and returns what
    it printed, in one line."""
    from aicl_fast.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, expect: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["aicl-fast", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        text = " ".join("".join(capsys.readouterr()).split())
        assert int(end.value.code or 0) == expect, text
        return text

    return call


@pytest.fixture(scope="session")
def write_grey() -> Callable[..., None]:
    """``write_grey(path, frames)`` writes a clip of 25 frames a second whose grey level changes, at different
    speeds; always the same levels. ``options`` are the container's.
    """
    av = pytest.importorskip("av")

    def write(path: Path, frames: int, options: dict[str, str] | None = None) -> None:
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "18", "g": "25"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.thread_count = 1
            drawn = np.random.default_rng(1).normal(0, 9, frames)
            for level in np.clip(np.cumsum(drawn) % 200 + 25, 0, 255).astype(np.uint8):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return write


def write_tiny_dataset(root: Path, config: Config) -> Path:
    """Write a data set in the layout that :class:`aicl_fast.data.dataset.Dataset` reads."""
    rng = np.random.default_rng(0)
    database = {}
    for split, count in (("train", 6), ("test", 3)):
        names = [f"{split}_{number}" for number in range(count)]
        for number, name in enumerate(names):
            segments = 20 + 13 * number
            for stream, width in (("rgb", config.data.rgb_width), ("flow", config.data.flow_width)):
                path = root / "features" / split / stream / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, rng.random((segments, width), dtype=np.float32))
            label = config.classes[number % len(config.classes)]
            database[name] = {"subset": split, "annotations": [{"label": label, "segment": ["0.5", "2.5"]}]}
        (root / f"split_{split}.txt").write_text("\n".join(names) + "\n")
    (root / "gt.json").write_text(json.dumps({"database": database}))
    return root
