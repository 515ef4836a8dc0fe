"""Detector: the exported file and nothing beside it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aicl_fast import Detections, Detector, processors
from aicl_fast.config import Config
from aicl_fast.errors import AiclError, ConfigError, DataError, ModelError, UnavailableError


@pytest.fixture(scope="module")
def detector(tiny_model: Path) -> Detector:
    return Detector(tiny_model.with_suffix(".onnx"), threads=1)


def _streams(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((n, 6), dtype=np.float32), rng.random((n, 5), dtype=np.float32)


def test_the_file_carries_everything(tiny_model: Path, tmp_path: Path, tiny_config: Config) -> None:
    alone = tmp_path / "elsewhere.onnx"
    shutil.copy(tiny_model.with_suffix(".onnx"), alone)
    detector = Detector(alone)
    assert detector.config == tiny_config
    assert detector.classes == ("Jump", "Run", "Throw")


@pytest.mark.parametrize("n", [2, 3, 31, 32, 33, 500])
def test_any_length_from_two(detector: Detector, n: int) -> None:
    rgb, flow = _streams(n)
    found = detector(rgb, flow, fps=50.0)
    assert isinstance(found, Detections)
    assert len(found) > 0
    assert set(found.labels) <= set(detector.classes)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.segments[:, 0] < found.segments[:, 1]).all()
    assert found.segments.min() >= 0
    assert found.segments.max() <= n * 16 / 50 + 1e-9
    assert detector(np.concatenate([rgb, flow], axis=1)) == found
    assert Detections.from_json(found.to_json()) == found


def test_seconds_follow_the_frame_rate(detector: Detector) -> None:
    rgb, flow = _streams(40)
    # Without suppression, which may depend on lengths in seconds, only the unit changes.
    plain = Detector(detector.path, decode=replace(detector.decode_config, nms="hard", nms_tiou=1.0))
    fast, slow = plain(rgb, flow, fps=50), plain(rgb, flow, fps=25)
    np.testing.assert_allclose(fast.segments * 2, slow.segments)


def test_a_batch_is_its_recordings(detector: Detector) -> None:
    recordings = [_streams(n, seed=n) for n in (2, 40, 300)]
    together = detector.batch(recordings, videos=["a", "b", "c"])
    assert [found.video for found in together] == ["a", "b", "c"]
    for (rgb, flow), found in zip(recordings, together, strict=True):
        alone = detector(rgb, flow)
        np.testing.assert_array_equal(alone.labels, found.labels)
        np.testing.assert_allclose(alone.scores, found.scores, atol=1e-5)
    assert detector.batch([]) == []


def test_scores_agree_with_torch(detector: Detector, tiny_model: Path) -> None:
    torch = pytest.importorskip("torch")
    from aicl_fast.weights import load_model

    net, config = load_model(tiny_model)
    rgb, flow = _streams(32)
    curves = detector.scores(rgb, flow)
    outputs = net(torch.from_numpy(np.concatenate([rgb, flow], 1))[None])
    np.testing.assert_allclose(curves.fused, outputs.A_score[0].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(curves.actionness, outputs.A[0].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(curves.actionness_agnostic, outputs.A_ca[0].detach().numpy(), atol=1e-5)
    assert curves.video_scores.sum() == pytest.approx(1, abs=1e-5)
    assert curves.duration == pytest.approx(32 * 16 / 50)
    assert len(curves.times) == config.data.segments


def _nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[1, 1] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r, f: (r[:, :3], f), "expected 6 features a segment, got 3"),
        (lambda r, f: (r, f[:7]), "rgb has 10 segments and flow 7"),
        (lambda r, f: (r[:0], f[:0]), "empty"),
        (lambda r, f: (r[:1], f[:1]), "at least 2"),
        (lambda r, f: (r, _nan(f)), "flow: 1 values are NaN"),
        (lambda r, f: (r.astype(int), f), "floating-point"),
        (lambda r, f: (r.tolist(), f), "got list"),
        (
            lambda r, f: (r, None),
            r"expected 11 .*, got 6, as one stream.*give both, as detector\(rgb, flow\)",
        ),
        (lambda r, f: (f, None), "got 5, as one stream"),
        (lambda r, f: (np.ones((9, 7)), None), "expected 11 features a segment, got 7"),
        (lambda r, f: ("clip.npy", None), r"path 'clip.npy'.*numpy\.load.*aicl-fast detect.*detect_features"),
        (lambda r, f: (Path("clip.mp4"), f), r"rgb: .*the path 'clip\.mp4'"),
    ],
)
def test_bad_recordings_are_refused_by_name(detector: Detector, change, words: str) -> None:
    with pytest.raises(DataError, match=f"clip: .*{words}"):
        detector(*change(*_streams(10)), video="clip")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r, f: np.hstack([r, f]), "recordings: expected a list .*, got one ndarray"),
        (lambda r, f: "clip.npy", "recordings: .* got one str"),
        (lambda r, f: {"clip": (r, f)}, "recordings: .* got one dict"),
        (lambda r, f: 3, "recordings: .* got one int"),
        (lambda r, f: (r, f), r"video 0: .*got 6, as one stream.*detector\.batch\(\[\(rgb, flow\)"),
        (lambda r, f: [[r, f]], r"video 0: expected an array, or a tuple \(rgb, flow\).*got a list of 2"),
        (lambda r, f: [(r, f), (r, f, r)], "video 1: .*got a tuple of 3"),
        (lambda r, f: [(r,)], "video 0: .*got a tuple of 1"),
    ],
)
def test_what_is_no_list_of_recordings_is_refused(detector: Detector, change, words: str) -> None:
    with pytest.raises(DataError, match=words):
        detector.batch(change(*_streams(10)))


def test_recordings_may_come_from_anything_that_iterates(detector: Detector) -> None:
    joined = [np.hstack(_streams(10, seed)) for seed in (1, 2)]
    expected = detector.batch(joined)
    assert detector.batch(each for each in joined) == expected
    assert detector.batch(np.stack(joined)) == expected


@pytest.mark.parametrize("fps", [0, float("inf"), float("nan"), "25"])
def test_a_frame_rate_that_is_none(detector: Detector, fps) -> None:
    with pytest.raises(DataError, match=r"^fps: expected a positive number"):
        detector(*_streams(10), fps=fps)


def test_bad_arguments(detector: Detector) -> None:
    with pytest.raises(DataError, match="2 names for 1 recordings"):
        detector.batch([_streams(10)], videos=["a", "b"])
    with pytest.raises(UnavailableError, match=r"no NoSuchProvider.*onnxruntime-gpu in place of onnxruntime"):
        Detector(detector.path, providers=["NoSuchProvider"])
    with pytest.raises(DataError, match="takes 32 segments, got '32'"):
        Detector(detector.path, segments="32")
    with pytest.raises(ConfigError, match=r"decode: expected .*DecodeConfig, got dict.*decode_config, nms="):
        Detector(detector.path, decode={"nms": "hard"})
    for model in (None, b"model.onnx"):
        with pytest.raises(DataError, match=f"model: expected the path .* got {type(model).__name__}"):
            Detector(model)


def test_files_that_are_not_our_models(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.onnx: the model file does not exist"):
        Detector(tmp_path / "gone.onnx")
    content = tiny_model.with_suffix(".onnx").read_bytes()
    for name, data in {"cut": content[: len(content) // 2], "text": b"hello", "empty": b""}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        with pytest.raises(ModelError, match=rf"{name}\.onnx"):
            Detector(path)
    foreign = tmp_path / "foreign.onnx"
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_model.with_suffix(".onnx"))
    del model.metadata_props[:]
    onnx.save(model, foreign)
    with pytest.raises(ModelError, match=r"foreign\.onnx: is not an aicl_fast model"):
        Detector(foreign)
    onnx.helper.set_model_props(model, {"aicl_fast": '{"format": 99, "version": "9.0"}'})
    onnx.save(model, foreign)
    with pytest.raises(ModelError, match=r"metadata format 99.*Upgrade"):
        Detector(foreign)


def test_every_error_is_ours(tmp_path: Path) -> None:
    with pytest.raises(AiclError):
        Detector(tmp_path / "none.onnx")


def test_detecting_imports_no_torch(tiny_model: Path) -> None:
    code = (
        "import sys, numpy; from aicl_fast import Detector\n"
        f"d = Detector({str(tiny_model.with_suffix('.onnx'))!r})\n"
        "d(numpy.ones((9, 11), numpy.float32))\n"
        "heavy = {'torch', 'triton', 'onnx', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readme_runs_as_it_stands(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After `make demo`, whose files these stand for."""
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    first, more, on_gpu, decoding = (part.partition("```")[0] for part in text.split("```python\n")[1:])
    assert "cuda" in on_gpu
    monkeypatch.chdir(tmp_path)
    demo = tmp_path / "runs" / "demo"
    for stream, array in zip(("rgb", "flow"), _streams(40), strict=True):
        folder = demo / "data" / "features" / "test" / stream
        folder.mkdir(parents=True)
        np.save(folder / "watch_test_000.npy", array)
    shutil.copy(tiny_model.with_suffix(".onnx"), demo / "model.onnx")
    exec(first + more, {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(Detections.from_json("out.json")) > 0
    random = np.random.default_rng(0)
    names = ["Jump", "Run", "Throw"]
    given = {"actionness_rgb": random.random(30), "actionness_flow": random.random(30), "n": 90}
    scope = {"cas": 4 * random.standard_normal((30, 3)), "names": names, **given}
    exec(decoding, scope)
    assert set(scope["found"].labels) <= set(names)


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, aicl_fast\n"
        "heavy = {'numpy', 'torch', 'triton', 'numba', 'onnxruntime', 'rich', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'Detector' in dir(aicl_fast) and aicl_fast.__version__\n"
        "try: aicl_fast.nothing\n"
        "except AttributeError: pass\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_closing(tiny_model: Path, engine: str) -> None:
    pytest.importorskip(engine)
    path = tiny_model if engine == "torch" else tiny_model.with_suffix(".onnx")
    detector = Detector(path, engine=engine, threads=1)
    detector(*_streams(10))
    runs = detector.engine
    if engine == "openvino":
        held = next(iter(runs._compiled.values()))
    else:
        held = runs._session if engine == "onnxruntime" else runs._net
    gone = weakref.ref(held)
    del held
    with detector:
        assert gone() is not None
    assert gone() is None
    detector.close()
    with pytest.raises(UnavailableError, match=rf"{path.name}: this engine is closed\. Open the file again"):
        detector(*_streams(10))
    with pytest.raises(UnavailableError, match="is closed"):
        runs.run(np.zeros((1, 32, 11), np.float32))


def test_closing_while_others_run(tiny_model: Path) -> None:
    detector = Detector(tiny_model.with_suffix(".onnx"), threads=1)
    started = threading.Barrier(4)

    def localise(seed: int) -> int:
        started.wait()
        for count in range(10_000):
            try:
                detector(*_streams(10, seed))
            except UnavailableError:
                return count
        return -1

    with ThreadPoolExecutor(3) as pool:
        counts = [pool.submit(localise, seed) for seed in range(3)]
        started.wait()
        detector.close()
        assert min(each.result() for each in counts) >= 0


def test_the_gpu_that_was_asked_for(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import aicl_fast.engines.onnxruntime as ort

    class Asked(Exception):
        pass

    def session(path: Path, *, providers: object, **_: object) -> None:
        raise Asked(providers)

    monkeypatch.setattr(ort, "load", session)
    path = tiny_model.with_suffix(".onnx")

    def asked(**options: object) -> object:
        with pytest.raises(Asked) as error:
            Detector(path, **options)
        return error.value.args[0]

    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    assert asked() is asked(device="cpu") is None
    assert asked(device="cuda") == [(cuda, {"device_id": 0}), cpu]
    assert asked(device=torch.device("cuda", 3)) == asked(device="cuda:3")
    assert asked(device="cuda:3") == [(cuda, {"device_id": 3}), cpu]
    assert asked(device="cuda:3", providers=[cuda]) == [(cuda, {"device_id": 3})]
    assert asked(device="cpu", providers=[cpu]) == asked(providers=[cpu]) == [cpu]
    assert asked(providers=[(cuda, {"device_id": 2}), cpu]) == [(cuda, {"device_id": 2}), cpu]
    for options, words in (
        ({"device": "cuda:3", "providers": [cpu]}, "run on the CPU, and device='cuda:3' was asked for"),
        ({"device": "cpu", "providers": [cuda, cpu]}, "contradicts device='cpu'"),
        ({"device": "cuda:3", "providers": [(cuda, {"device_id": 2})]}, "contradicts device='cuda:3'"),
        ({"device": 5}, "device: expected cpu, cuda or cuda:N, got '5'"),
        ({"providers": [5]}, "expected names, or tuples .name, options., got 5 too"),
        ({"providers": cpu}, "expected a list of names, got 'CPUExecutionProvider'"),
        ({"threads": "2"}, "threads: expected a number of at least 1, .* got '2'"),
        ({"threads": 0}, "threads: expected"),
    ):
        with pytest.raises(ModelError, match=words):
            Detector(path, **options)


def test_threads_are_tied_to_cores(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    import aicl_fast.engines.onnxruntime as ort

    seen: list[tuple[int, str]] = []
    real = onnxruntime.InferenceSession
    key = "session.intra_op_thread_affinities"

    def session(path: str, options: object, providers: object) -> object:
        tied = ""
        with contextlib.suppress(RuntimeError):  # it was not set
            tied = options.get_session_config_entry(key)
        seen.append((options.intra_op_num_threads, tied))
        return real(path, providers=providers)

    for module in (ort, processors):
        monkeypatch.setattr(module, "usable_processors", lambda: [2, 3, 7])
        monkeypatch.setattr(module, "processor_quota", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    for threads, pin in (
        (None, None),
        (2, None),
        (None, True),
        (None, False),
        (2, True),
        (1, True),
        (4, True),
    ):
        Detector(detector.path, threads=threads, pin_threads=pin)
    # ONNX Runtime counts cores from one, and the caller's thread is not its own.
    assert seen == [(0, ""), (2, ""), (3, "4;8"), (3, ""), (2, "4"), (1, ""), (4, "4;8;3")]
    seen.clear()
    for module in (ort, processors):
        monkeypatch.setattr(module, "processor_quota", lambda: 1.5)
    for threads, pin in ((None, None), (4, None), (None, True)):
        Detector(detector.path, threads=threads, pin_threads=pin)
    assert seen == [(2, ""), (4, ""), (2, "4")]


def test_tied_threads_find_the_same(detector: Detector) -> None:
    tied = Detector(detector.path, threads=2, pin_threads=True)
    assert tied(*_streams(40)).labels.tolist() == detector(*_streams(40)).labels.tolist()


def test_the_length_may_be_set_within_the_range(detector: Detector) -> None:
    with pytest.raises(DataError, match="takes 32 segments, got 31"):
        detector.segments = 31
    assert detector.segments == 32


def test_settings_of_decoding_may_change(detector: Detector) -> None:
    other = Detector(detector.path, threads=1)
    scores = other.scores(*_streams(40))
    before = other.decode(scores)
    other.decode_config = replace(other.decode_config, max_detections=1)
    assert other.decode(scores) == before[:1]
    # Scores that were kept may be another model's.
    renamed = other.decode(replace(scores, classes=("x", "y", "z")))
    assert renamed.labels.tolist() == [dict(zip(detector.classes, "xyz", strict=True))[before[0].label]]
    assert other.decode(scores) == before[:1]


def test_a_detector_says_what_it_is(tiny_model: Path) -> None:
    detector = Detector(tiny_model.with_suffix(".onnx"))
    assert repr(detector).endswith("model.onnx': 3 classes, T=32, onnxruntime, fp32)")
