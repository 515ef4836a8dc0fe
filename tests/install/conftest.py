"""Small inputs for every command, and what an installation with an extra has."""

from __future__ import annotations

import csv
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aicl_fast.config import Config

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from aicl_fast.video.i3d import I3D


@pytest.fixture(scope="session")
def inputs(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_config: Config,
    tiny_model: Path,
    make_tiny_dataset: Callable[[Path, Config], Path],
    random_i3d: Callable[[str], I3D],
    add_times: Callable[[Path], Path],
) -> Path:
    """A folder with all that the calls read: a data set, models, a run, a clip, weights of I3D."""
    av = pytest.importorskip("av")
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from aicl_fast.export.export import export_model
    from aicl_fast.export.options import ExportOptions
    from aicl_fast.train.import_checkpoint import NAMES
    from aicl_fast.train.synthetic import SyntheticConfig, write_synthetic

    folder = make_tiny_dataset(tmp_path_factory.mktemp("inputs") / "data", tiny_config)
    add_times(make_tiny_dataset(folder / "timed", tiny_config))
    made = SyntheticConfig(train_videos=12, test_videos=2, classes=2, width=6, longest=60.0)
    write_synthetic(folder / "many", made)
    for name in ("model.safetensors", "model.onnx"):
        shutil.copy(tiny_model.with_name(name), folder)
    script = Path(sys.executable).with_name("aicl-fast")
    arguments = ["detect", "model.onnx", ".", "-o", "detections.json", "--scores", "scores.npz"]
    subprocess.run([script, *arguments], cwd=folder, check=True, capture_output=True)
    export_model(folder / "model.safetensors", options=ExportOptions(format="openvino"))
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = [(f"video_{number}", "Jump", 1.0, 2.0 + number) for number in range(4)]
        csv.writer(file).writerows([("video", "label", "start", "end"), *rows])
    rng = np.random.default_rng(0)
    from aicl_fast.config import load_config
    from aicl_fast.model import TwoBranchNet
    from aicl_fast.weights import save_model

    state = TwoBranchNet(load_config("thumos14")).state_dict()
    torch.save({theirs: state[ours] for theirs, ours in NAMES.items()}, folder / "authors.pkl")
    save_file(
        {name: value.contiguous() for name, value in random_i3d("rgb").state_dict().items()},
        folder / "i3d.safetensors",
    )
    wide = tiny_config.with_values({"streams": "rgb", "rgb_width": 1024})
    save_model(folder / "wide.safetensors", TwoBranchNet(wide), wide)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(20):
            image = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return folder


def requirements(extra: str | None) -> set[str]:
    """Names of every distribution that an installation with an extra has, as their metadata says."""
    found: set[tuple[str, str]] = set()
    wanted = [("aicl-fast", extra or ""), ("aicl-fast", "")]
    while wanted:
        name, of = wanted.pop()
        if (name, of) in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue  # not for this platform, or not installed here
        found.add((name, of))
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": of}):
                target = canonicalize_name(requirement.name)
                wanted += [(target, each) for each in ("", *requirement.extras)]
    return {name for name, _ in found}
