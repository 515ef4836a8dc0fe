"""Streams: the same scores and detections as offline, events that hold, memory that does not grow."""

from __future__ import annotations

import io
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aicl_fast import Detections, Detector
from aicl_fast.config import Config, WindowsConfig
from aicl_fast.errors import AiclWarning, ConfigError, DataError
from aicl_fast.stream import Event, Stream, final_detections

WINDOW = 32 * 16 / 50
"""Seconds of a window of T segments."""
SEGMENT = 16 / 50


@pytest.fixture(scope="module")
def detector(tiny_model: Path) -> Detector:
    return Detector(
        tiny_model.with_suffix(".onnx"), threads=1, windows=WindowsConfig(window=WINDOW, hop=WINDOW / 2)
    )


@pytest.fixture(scope="module")
def short(tiny_model: Path, tiny_config: Config) -> Detector:
    """Of a file that takes a few segments."""
    pytest.importorskip("onnxscript")
    from aicl_fast.export.onnx import export_onnx
    from aicl_fast.metadata import Range
    from aicl_fast.weights import load_model

    net, _ = load_model(tiny_model)
    path = tiny_model.with_name("range.onnx")
    export_onnx(net, tiny_config, path, segments=Range(8, 32, 64))
    return Detector(path, threads=1, windows=WindowsConfig(window=WINDOW, hop=WINDOW / 2))


def _features(n: int, seed: int = 0) -> np.ndarray:
    """(n, 11): slow changes, so that there are actions of many lengths."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n + 20, 11))
    kernel = np.hanning(12)[:, None] / 3
    smooth = sum(kernel[i] * noise[i : i + n] for i in range(12))
    return np.asarray(smooth + 0.5, np.float32)


def _run(stream: Stream, features: np.ndarray, size: int = 1) -> list[Event]:
    events: list[Event] = []
    for first in range(0, len(features), size):
        events += stream.push(features[first : first + size])
    return events + stream.finish()


@pytest.mark.parametrize("which", ["detector", "short"])
@pytest.mark.parametrize("hop", [WINDOW / 2, WINDOW, 5 * SEGMENT])
@pytest.mark.parametrize("window", [WINDOW, 1.5 * WINDOW, 0.6 * WINDOW])
def test_scores_are_the_offline_ones_once_settled(
    which: str, hop: float, window: float, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which).path
    found = Detector(path, threads=1, windows=WindowsConfig(window=window, hop=min(hop, window)))
    features = _features(211)
    whole = found.scores(features)
    stream = found.stream()
    compared = 0

    def compare() -> None:
        nonlocal compared
        if stream.settled > compared:
            scores, low = stream.scores(), max(compared, stream.first)
            assert low == compared  # nothing settles that is no longer there
            for name in ("fused", "actionness", "actionness_agnostic"):
                part = getattr(scores, name)[low - stream.first : stream.settled - stream.first]
                np.testing.assert_allclose(part, getattr(whole, name)[low : stream.settled], atol=1e-6)
            compared = stream.settled

    for row in features:
        stream.push(row)
        compare()
    assert compared > 100
    stream.finish()
    compare()
    assert compared == len(features)


@pytest.mark.parametrize("name", ["detector", "short"])
@pytest.mark.parametrize("n", [2, 7, 31, 32])
def test_a_recording_that_fits_has_the_offline_detections(
    name: str, n: int, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(name)
    features = _features(n, seed=n)
    expected = found(features)
    stream = found.stream(wait=0, retract=True)
    events = _run(stream, features)
    assert stream.detections == expected
    assert len(expected) > 0
    assert final_detections(events) == expected
    kept = found.stream(wait=0)
    events = _run(kept, features)
    assert kept.detections == expected  # whatever was announced


def test_without_known_windows_up_to_twice_t_fits(tiny_model: Path) -> None:
    found = Detector(tiny_model.with_suffix(".onnx"), threads=1)
    features = _features(64)
    stream = found.stream(retract=True)
    assert final_detections(_run(stream, features)) == found(features) == stream.detections
    longer = found.stream()
    _run(longer, _features(65))
    assert longer.detections is None


@pytest.mark.parametrize("retract", [False, True])
def test_one_or_many_a_push_and_both_streams(short: Detector, retract: bool) -> None:
    features = _features(150)
    alone = _run(short.stream(retract=retract), features)
    assert _run(short.stream(retract=retract), features, 37) == alone
    assert _run(short.stream(retract=retract), features, 150)[-1].id == alone[-1].id
    apart = short.stream(retract=retract)
    events = [event for row in features for event in apart.push(row[:6], row[6:])]
    assert events + apart.finish() == alone


@pytest.mark.parametrize("name", ["detector", "short"])
@pytest.mark.parametrize("retract", [False, True])
def test_events_follow_their_order(name: str, retract: bool, request: pytest.FixtureRequest) -> None:
    """started, updated, …, final: and what is final stays, unless it may be withdrawn."""
    stream = request.getfixturevalue(name).stream(wait=0.5, retract=retract)
    state: dict[int, str] = {}
    before: dict[str, tuple[str, ...]] = {
        "started": ("",),
        "updated": ("started", "updated"),
        "final": ("", "started", "updated"),
        "withdrawn": ("started", "updated", *(("final",) if retract else ())),
    }
    time = 0.0
    for event in _run(stream, _features(300, seed=3)):
        assert state.get(event.id, "") in before[event.kind], event
        assert event.time >= time
        assert 0 <= event.start < event.end <= event.time + 1e-9
        state[event.id], time = event.kind, event.time
    assert set(state.values()) == {"final", "withdrawn"}
    assert list(state.values()).count("final") > 20


def test_final_waits(short: Detector) -> None:
    for wait in (0.0, 3.0):
        stream = short.stream(wait=wait)
        events = [event for row in _features(120) for event in stream.push(row)]
        late = [event.time - event.end for event in events if event.kind == "final"]
        settling = (short.decode_config.class_span // 2 + 1) * SEGMENT
        assert min(late) >= wait + settling - 1e-9
        assert np.median(late) < wait + settling + 2 * SEGMENT


@pytest.mark.parametrize("name", ["detector", "short"])
@pytest.mark.parametrize("cut", [1, 20, 33, 140])
def test_a_restored_stream_goes_on(name: str, cut: int, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(name)
    features = _features(200)
    expected = _run(found.stream(retract=True), features)
    first = found.stream(retract=True)
    events = [event for row in features[:cut] for event in first.push(row)]
    file = io.BytesIO()
    np.savez(file, **first.state())
    file.seek(0)
    second = found.stream(retract=True)
    with np.load(file, allow_pickle=False) as state:
        second.restore(state)
    assert events + _run(second, features[cut:]) == expected


def test_a_state_that_does_not_fit_is_refused(short: Detector) -> None:
    stream = short.stream()
    stream.push(_features(90))
    state = stream.state()
    with pytest.raises(DataError, match="other arguments"):
        short.stream(wait=9).restore(state)
    with pytest.raises(DataError, match="other arguments"):
        short.stream(fps=25).restore(state)
    with pytest.raises(DataError, match="lacks features"):
        short.stream().restore({name: array for name, array in state.items() if name != "features"})
    for name, array in state.items():
        if name != "arguments":
            with pytest.raises(DataError, match="state"):
                short.stream().restore({**state, name: array[:-1] if array.ndim else array.astype("S")})
    with pytest.raises(DataError, match="damaged"):
        short.stream().restore({**state, "features": state["features"] * np.float32(np.nan)})
    counts = state["counts"].copy()
    for place, value in ((0, -5), (0, 20), (0, 2**40), (1, -5), (1, 3), (1, 2**40)):
        changed = counts.copy()
        changed[place] = value
        with pytest.raises(DataError, match="counts"):
            short.stream().restore({**state, "counts": changed})


def test_memory_is_flat(short: Detector) -> None:
    stream = short.stream()
    features = _features(200)

    def push(times: int) -> int:
        for _ in range(times):
            for row in features:
                stream.push(row)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early = push(2)
        late = push(5)
    finally:
        tracemalloc.stop()
    assert late < early + 50_000
    assert len(stream.state()["features"]) < 100


def test_what_may_still_be_joined_is_not_final(short: Detector) -> None:
    config = replace(short.decode_config, merge_gap=2.0, min_seconds=1.0, density_weight=0.5)
    found = Detector(short.path, threads=1, windows=short.windows_config, decode=config)
    features = _features(120)
    stream = found.stream(wait=1.0)
    events = [event for row in features for event in stream.push(row)]
    late = [event.time - event.end for event in events if event.kind == "final"]
    assert min(late) >= 1.0 + 2.0 + (config.class_span // 2 + 1) * SEGMENT - 1e-9
    events += stream.finish()
    detections = final_detections(events)
    assert len(detections) > 0
    assert np.diff(detections.segments).min() >= 1.0 - 1e-9
    whole = _features(30)  # fits a window
    stream = found.stream(retract=True)
    assert final_detections(_run(stream, whole)) == stream.detections == found(whole)


def test_long_actions_keep_their_start(short: Detector) -> None:
    """Longer than a window: its beginning is not forgotten with the curve."""
    low = short.decode_config.thresholds
    found = Detector(
        short.path,
        threads=1,
        windows=short.windows_config,
        decode=replace(short.decode_config, thresholds=(-1.0, *low)),  # reached throughout
    )
    events = _run(found.stream(), _features(200))
    longest = max(events, key=lambda event: event.end - event.start)
    assert longest.kind == "final"
    assert longest.start == 0
    assert longest.end == pytest.approx(200 * SEGMENT)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda x: (x[:, :6], None), "expected 11 features a segment, got 6"),
        (lambda x: (x[0, :5], x[0, 6:]), "rgb: expected 6 features a segment, got 5"),
        (lambda x: (x[:, :6], x[:, :6]), "flow: expected 5 features a segment, got 6"),
        (lambda x: (x[:2, :6], x[:3, 6:]), "rgb has 2 segments and flow 3"),
        (lambda x: (x[None], None), "expected shape"),
        (lambda x: (x[:0], None), "empty"),
        (lambda x: (x.astype(int), None), "floating-point"),
        (lambda x: (x.tolist(), None), "got list"),
        (lambda x: ("a.npy", None), "got str"),
    ],
)
def test_bad_segments_are_refused_and_the_stream_goes_on(
    short: Detector, given: Callable[..., tuple[object, object]], words: str
) -> None:
    features = _features(60)
    expected = _run(short.stream(), features)
    stream = short.stream()
    events = stream.push(features[:30])
    with pytest.raises(DataError, match=f"stream.*{words}"):
        stream.push(*given(features))  # type: ignore[arg-type]
    assert events + _run(stream, features[30:], 30) == expected


def test_nan_is_refused_by_number_and_time_or_skipped(short: Detector) -> None:
    features = _features(60)
    damaged = features.copy()
    damaged[41, 3] = np.nan
    stream = short.stream()
    events = stream.push(damaged[:40])
    with pytest.raises(DataError, match=r"segment 41 \(at 13\.12 s\) has 1 values that are NaN"):
        stream.push(damaged[40:])
    assert stream.num_segments == 40
    events += stream.push(features[40:])
    assert events + stream.finish() == _run(short.stream(), features)

    going_on = short.stream(skip_damaged=True)
    with pytest.warns(AiclWarning, match=r"segment 41 \(at 13\.12 s\)"):
        events = going_on.push(damaged[:42]) + going_on.push(damaged[42:])
    repaired = features.copy()
    repaired[41] = features[40]
    assert events + going_on.finish() == _run(short.stream(), repaired)
    assert going_on.skipped == 1
    beginning = short.stream(skip_damaged=True)
    with pytest.warns(AiclWarning, match="segment 0"):
        beginning.push(damaged[41])


def test_an_ended_stream_and_another_frame_rate_are_refused(short: Detector) -> None:
    features = _features(40)
    with short.stream(fps=25) as stream:
        stream.push(features, fps=25.0)
        with pytest.raises(DataError, match="frame rate changed from 25 to 30 at segment 40"):
            stream.push(features, fps=30)
    with pytest.raises(DataError, match="has ended"):
        stream.push(features)
    stream.finish()
    for again in (stream.finish, stream.state):
        with pytest.raises(DataError, match=r"finish was called before|has ended"):
            again()
    with pytest.raises(DataError, match="fps"):
        short.stream(fps=0)


def test_hardly_anything_has_no_detections(short: Detector) -> None:
    for n in (0, 1):
        stream = short.stream()
        if n:
            assert stream.push(_features(1)) == []
        with pytest.raises(DataError, match="no scores yet"):
            stream.scores()
        assert stream.finish() == []
        assert stream.detections == Detections.empty()


def test_settings_without_a_meaning_are_refused(short: Detector) -> None:
    tiny = Detector(short.path, threads=1, windows=WindowsConfig(window=2 * SEGMENT))
    with pytest.raises(ConfigError, match="at least 3 segments"):
        tiny.stream()
    for name in ("wait", "every"):
        for value in (-1, np.nan, "2", True, None if name == "wait" else np.inf):
            with pytest.raises(ConfigError, match=f"{name}: expected seconds"):
                short.stream(**{name: value})
    for name in ("retract", "skip_damaged"):
        with pytest.raises(ConfigError, match=f"{name}: expected True or False, got 'yes'"):
            short.stream(**{name: "yes"})
    with pytest.raises(DataError, match="expected the arrays of state"):
        short.stream().restore("stream.npz")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="more than half a window"):
        short.stream(every=WINDOW)
    assert len(_run(short.stream(every=4 * SEGMENT), _features(90))) > 0


def test_the_documented_example(
    short: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/streaming.md runs as it stands, where the demo has run."""
    text = (Path(__file__).parents[1] / "docs" / "streaming.md").read_text(encoding="utf-8")
    code = text.partition("tests/test_stream.py runs -->")[2].partition("```python\n")[2].partition("```")[0]
    demo = tmp_path / "runs" / "demo"
    for kind, width in (("rgb", 6), ("flow", 5)):
        folder = demo / "data" / "features" / "test" / kind
        folder.mkdir(parents=True)
        for seed, name in enumerate(("a", "b")):
            np.save(folder / f"{name}.npy", _features(40, seed)[:, :width])
    (demo / "data" / "split_test.txt").write_text("a\nb\n")
    shutil.copy(short.path, demo / "stream.onnx")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/streaming.md", "exec"), {})
    assert "Detections(" in capsys.readouterr().out


def test_class_scores_of_windows(tiny_model: Path, tiny_config: Config, tmp_path: Path) -> None:
    """Without softmax(CAS) in the fused score, the windows' video scores stand in."""
    pytest.importorskip("torch")
    from aicl_fast.weights import load_model, save_model

    config = tiny_config.with_values({"fusion_gamma": 0.0})
    save_model(tmp_path / "model.safetensors", load_model(tiny_model)[0], config)
    found = Detector(tmp_path / "model.safetensors", windows=WindowsConfig(window=WINDOW))
    features = _features(100)
    stream = found.stream()
    _run(stream, features)
    whole, scores = found.scores(features), stream.scores()
    np.testing.assert_allclose(scores.fused, whole.fused[stream.first :], atol=1e-5)
