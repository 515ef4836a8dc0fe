"""What detect's arguments mean: names, splits, pairs and missing files."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.config import Config
from aicl_fast.data.recordings import Inputs
from aicl_fast.errors import AiclWarning, ConfigError, DataError


@pytest.fixture
def find(tiny_config: Config) -> Callable[..., list[str]]:
    """``find(paths, rgb=…, split=…)``: the recordings' names, each of which can be read."""

    def names(
        *paths: Path, rgb: Path | None = None, flow: Path | None = None, split: str = "test", **options: Any
    ) -> list[str]:
        streams = options.pop("streams", "both")
        inputs = Inputs(tiny_config.with_values({"streams": streams}).data, split, pytest.fail, **options)
        found = inputs.find(list(paths), rgb, flow)
        for _, load in found:
            assert sum(stream.shape[1] for stream in load().streams) == {"both": 11, "rgb": 6}[streams]
        return [name for name, _ in found]

    return names


def _joined(root: Path, name: Callable[[str], str], *, flat: bool = False) -> None:
    """Both streams side by side, in files of other names."""
    for split in ("train", "test"):
        folder = root / "features" / split
        for rgb in sorted((folder / "rgb").iterdir()):
            array = np.concatenate([np.load(rgb), np.load(folder / "flow" / rgb.name)], 1)
            np.save((root / "features" if flat else folder) / name(rgb.name), array)
        for stream in ("rgb", "flow"):
            shutil.rmtree(folder / stream)
        if flat:
            folder.rmdir()
        (root / f"split_{split}.txt").unlink()


def _rename_subsets(root: Path) -> None:
    path = root / "gt.json"
    path.write_text(path.read_text().replace('"train"', '"training"').replace('"test"', '"validation"'))


TEST = ["test_0", "test_1", "test_2"]


@pytest.mark.parametrize("flat", [True, False])
def test_without_split_files_the_annotations_say_it(tiny_dataset: Path, find: Any, flat: bool) -> None:
    _joined(tiny_dataset, "v_{}".format, flat=flat)
    assert find(tiny_dataset) == TEST
    assert find(tiny_dataset, split="train") == [f"train_{number}" for number in range(6)]


def test_subsets_of_other_names(tiny_dataset: Path, find: Any) -> None:
    """A split's own folder says it, with names as the annotations have them; or the subset is named."""
    _joined(tiny_dataset, "v_{}".format)
    _rename_subsets(tiny_dataset)
    assert find(tiny_dataset) == TEST
    assert find(tiny_dataset, split="validation") == TEST
    (tiny_dataset / "gt.json").unlink()
    assert find(tiny_dataset) == [f"v_{name}" for name in TEST]


def test_a_split_that_nothing_tells(tiny_dataset: Path, find: Any) -> None:
    _joined(tiny_dataset, str, flat=True)
    _rename_subsets(tiny_dataset)
    with pytest.raises(DataError, match=r"--split: .* has no 'test'.*'training', 'validation'"):
        find(tiny_dataset)
    (tiny_dataset / "gt.json").unlink()
    with pytest.warns(AiclWarning, match="all 9 are taken"):
        assert len(find(tiny_dataset)) == 9


def test_missing_files(tiny_dataset: Path, find: Any) -> None:
    (tiny_dataset / "features/test/flow/test_1.npy").unlink()
    with pytest.raises(DataError, match=r"1 of 6 feature files is missing:\n.*flow.test_1\.npy\n"):
        find(tiny_dataset)
    with pytest.warns(AiclWarning, match="1 of 3 videos have no features and are skipped: test_1"):
        assert find(tiny_dataset, allow_missing=True) == ["test_0", "test_2"]
    for path in (tiny_dataset / "features/test/rgb").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="are missing"):
        find(tiny_dataset, allow_missing=True)


@pytest.mark.parametrize("line", ["../train/rgb/train_0", "/etc/passwd", "a/../../b", "C:/x"])
def test_names_that_lead_outside(tiny_dataset: Path, find: Any, line: str) -> None:
    (tiny_dataset / "split_test.txt").write_text(line)
    with pytest.raises(DataError, match=r"split_test\.txt: .* cannot name a video"):
        find(tiny_dataset)


def test_a_pair_has_its_common_name(tiny_dataset: Path, find: Any, tmp_path: Path) -> None:
    folder = tiny_dataset / "features/test"
    rgb, flow = folder / "rgb/test_1.npy", folder / "flow/test_1.npy"
    assert find(rgb=rgb, flow=flow) == ["test_1"]
    assert find(rgb=rgb, flow=flow, name="my clip") == ["my clip"]
    marked = [shutil.copy(path, tmp_path / f"clip_{path.parent.name}.npy") for path in (rgb, flow)]
    assert find(rgb=marked[0], flow=marked[1]) == ["clip"]
    assert find(*marked) == ["clip"]
    (tmp_path / "pairs").mkdir()
    for path in marked:
        shutil.copy(path, tmp_path / "pairs")
    assert find(tmp_path / "pairs") == ["clip"]
    assert find(rgb=marked[0], streams="rgb") == ["clip"]
    with pytest.raises(DataError, match="is named as the flow features"):
        find(rgb=marked[1], flow=marked[0])
    with pytest.raises(DataError, match="are the same file"):
        find(rgb=rgb, flow=rgb)
    with pytest.raises(DataError, match="the model reads rgb alone"):
        find(flow=marked[1], streams="rgb")
    with pytest.raises(DataError, match=r"two recordings, 'test_1' and 'test_0'.*--name"):
        find(rgb=rgb, flow=folder / "flow/test_0.npy")
    within = [shutil.copy(path, tmp_path / f"i3d_{path.parent.name}_25fps.npy") for path in (rgb, flow)]
    assert find(rgb=within[0], flow=within[1]) == ["i3d_25fps"]
    with pytest.raises(DataError, match="the other stream's each"):
        find(rgb=within[1], flow=within[0])
    plain = [shutil.copy(path, tmp_path / f"{path.parent.name[0]}.npy") for path in (rgb, flow)]
    with pytest.warns(AiclWarning, match="Stored as 'r'"):
        assert find(rgb=plain[0], flow=plain[1]) == ["r"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find(rgb=plain[0], flow=plain[1], name="clip") == ["clip"]


def test_a_file_of_no_known_kind_is_no_video(tiny_dataset: Path, find: Any, tmp_path: Path) -> None:
    """It is said before weights for a video are asked for."""
    pytest.importorskip("av")
    path = tmp_path / "features.lmdb"
    path.write_bytes(b"\xde\xc0\xef\xbe" * 30)
    with pytest.raises(DataError, match=r"features\.lmdb: is no .npy file of features.* and no video"):
        find(path)


def test_a_name_is_of_one_recording(tiny_dataset: Path, find: Any) -> None:
    with pytest.raises(ConfigError, match="--name: names one recording, and there are 3"):
        find(tiny_dataset, name="clip")
    with pytest.raises(DataError, match=r"--name: .* cannot name a video"):
        find(tiny_dataset / "features/test/rgb/test_1.npy", name="../clip")


def test_what_is_no_recording(find: Any, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(DataError, match=r"x\.pkl: is no \.npy file.*It is a Python pickle"):
        find(tmp_path / "x.pkl")
    with pytest.raises(DataError, match=r"holds no features.*x\.pkl is there"):
        find(tmp_path)
    (tmp_path / "features/test").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no features itself, but test/"):
        find(tmp_path / "features")
    with pytest.raises(DataError, match="the video or folder"):
        find(tmp_path / ("a" * 300))


def test_an_annotation_file_that_is_not_needed(tiny_dataset: Path, find: Any) -> None:
    (tiny_dataset / "gt.json").write_text(json.dumps([]))
    with pytest.warns(AiclWarning, match="Detecting goes on without it"):
        assert find(tiny_dataset) == TEST
