"""The C++ library on its own: built, checked under sanitizers, installed, linked; and a wheel without it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aicl_fast.config import PRESETS, DecodeConfig
from aicl_fast.decode.decoder import Decoder, available_backends
from aicl_fast.kernels.outputs import NetworkOutputs
from aicl_fast.windows import Blend, Windows

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "kernels" / "native"
PRESET = PRESETS["thumos14"]


def run(command: Sequence[str | Path], **environment: str) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd="/",
    )
    assert done.returncode == 0, f"{command[0]}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def cmake() -> str:
    """The cmake program, where there is one and a C++ compiler."""
    beside_python = Path(sysconfig.get_path("scripts")) / "cmake"
    found = shutil.which("cmake") or (str(beside_python) if beside_python.exists() else None)
    if found is None:
        pytest.skip("cmake is not installed")
    compiler = os.environ.get("CXX", "c++")
    if not any(shutil.which(name) for name in (compiler, "g++", "clang++")):
        pytest.skip("there is no C++ compiler")
    return found


@pytest.fixture(scope="session")
def installed(cmake: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `cmake --install` put the library."""
    folder = tmp_path_factory.mktemp("library")
    run([cmake, "-S", ROOT, "-B", folder / "build", "-DCMAKE_INSTALL_LIBDIR=lib"])
    run([cmake, "--build", folder / "build", "--parallel", "2"])
    run([cmake, "--install", folder / "build", "--prefix", folder / "prefix"])
    return folder / "prefix"


def test_what_is_installed(installed: Path) -> None:
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {"include/aicl_decode.h", "lib/libaicl_decode.a"} <= files
    assert any(name.startswith("lib/libaicl_decode.") and not name.endswith(".a") for name in files)
    assert "lib/cmake/aicl_decode/aicl_decode-config.cmake" in files
    # Nothing of the Python package, and nothing that names the folder it was built in.
    assert not [name for name in files if "aicl_fast" in name]
    for path in installed.rglob("*.cmake"):
        assert str(ROOT) not in path.read_text(encoding="utf-8")


def test_the_version_is_the_projects(installed: Path) -> None:
    wanted = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert wanted is not None
    told = (installed / "lib/cmake/aicl_decode/aicl_decode-config-version.cmake").read_text(encoding="utf-8")
    assert f'set(PACKAGE_VERSION "{wanted[1]}")' in told
    if "native" in available_backends():
        from aicl_fast.kernels import _native

        assert _native.version() == wanted[1]


def test_the_header_is_c(installed: Path, tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "plain.c"
    source.write_text("#include <aicl_decode.h>\nint main(void) { return aicl_decode_version() == 0; }\n")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{installed / 'include'}", "-c"]
    run([compiler, *flags, source, "-o", tmp_path / "plain.o"])


def test_the_example_gives_pythons_detections(cmake: str, installed: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    run([cmake, "-S", NATIVE / "example", "-B", build, f"-DCMAKE_PREFIX_PATH={installed}"])
    run([cmake, "--build", build])
    rng = np.random.default_rng(0)
    scores = rng.random((120, 20), np.float32)
    v = rng.dirichlet(np.full(20, 0.1)).astype(np.float32)
    lines = ["120 20 431", *(" ".join(f"{x:.9g}" for x in row) for row in [*scores, v])]
    text = tmp_path / "scores.txt"
    text.write_text("\n".join(lines) + "\n", encoding="ascii")
    decoder = Decoder(PRESET.decode, PRESET.classes)
    found = decoder.decode(scores, v, 431, PRESET.data.fps, PRESET.data.frames_per_segment)
    assert len(found) > 50
    for kind in ("static", "shared"):
        rows = [line.split() for line in run([build / f"decode_file_{kind}", text]).splitlines()]
        assert [PRESET.classes[int(row[0])] for row in rows] == found.labels.tolist()
        assert [[float(row[2]), float(row[3])] for row in rows] == found.segments.tolist()
        np.testing.assert_allclose([float(row[1]) for row in rows], found.scores, rtol=1e-13)


def find_compiler(name: str) -> str:
    """g++ or clang++, also where its version is part of its name."""
    found = [shutil.which(name), *(shutil.which(f"{name}-{version}") for version in range(25, 11, -1))]
    for path in found:
        if path is not None:
            return path
    pytest.skip(f"{name} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sanitizers", "rounds"),
    [
        # Each compiler and each sanitizer once; `make long` has all four pairs.
        ("g++", "address,undefined", 200),
        ("clang++", "thread", 200),
        pytest.param("g++", "address,undefined", 2000, marks=pytest.mark.long),
        pytest.param("g++", "thread", 2000, marks=pytest.mark.long),
        pytest.param("clang++", "address,undefined", 2000, marks=pytest.mark.long),
        pytest.param("clang++", "thread", 2000, marks=pytest.mark.long),
    ],
)
def test_the_library_under_sanitizers(
    cmake: str, tmp_path: Path, name: str, sanitizers: str, rounds: int
) -> None:
    compiler = find_compiler(name)
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    if subprocess.run(
        [compiler, f"-fsanitize={sanitizers}", probe, "-o", tmp_path / "probe"], capture_output=True
    ).returncode:
        pytest.skip(f"{name} has no -fsanitize={sanitizers} here")
    build = tmp_path / "build"
    # Optimised: loops are compiled in several versions then, and the loader must not choose one too early.
    options = ["-DAICL_FAST_SELF_CHECK=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    options += [f"-DCMAKE_CXX_COMPILER={compiler}", f"-DAICL_FAST_SANITIZE={sanitizers}"]
    run([cmake, "-S", ROOT, "-B", build, *options])
    run([cmake, "--build", build, "--parallel", "2", "--target", "aicl_decode_check"])
    told = run([build / "aicl_decode_check", str(rounds)], UBSAN_OPTIONS="print_stacktrace=1")
    assert f"{rounds} rounds, 0 failures" in told


def test_a_wheel_without_native_code(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    pytest.importorskip("pybind11")
    pip = [sys.executable, "-m", "pip"]
    build = [
        *pip,
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        tmp_path,
        ROOT,
    ]
    run(build, AICL_FAST_NO_NATIVE="1")
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "aicl_fast/kernels/decode_numba.py" in names
    assert not [name for name in names if name.endswith((".so", ".pyd", ".cpp", ".hpp", ".a"))]
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        # An editable installation of the same package would answer first.
        "sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
        "import aicl_fast.decode.decoder as d\n"
        "print(d.__file__, d.default_backend(), d.available_backends())\n"
    )
    told = run([sys.executable, "-c", script])
    assert told.split(maxsplit=1)[0].startswith(str(tmp_path))
    assert told.split(maxsplit=1)[1].strip() == "numba ('numba',)"


class _DecodeSettings(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32), ("num_thresholds", ctypes.c_int32),
        ("thresholds", ctypes.POINTER(ctypes.c_double)),
        *((name, ctypes.c_double) for name in (
            "class_threshold", "outer_ratio", "video_score_weight", "nms_tiou", "nms_sigma",
            "nms_added_seconds", "min_score", "fps",
        )),
        *((name, ctypes.c_int32) for name in (
            "frames_per_segment", "upscale", "nms", "nms_across_classes", "max_detections", "max_segments",
            "max_classes", "max_proposals",
        )),
        *((name, ctypes.c_double) for name in ("merge_gap", "min_seconds", "density_weight")),
    )  # fmt: skip


@pytest.mark.parametrize("option", [{}, {"merge_gap": 3.0}, {"min_seconds": 2.0}, {"density_weight": 0.5}])
def test_options_of_decoding_in_c(library: ctypes.CDLL, option: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    scores, v = rng.random((120, 20)), rng.random(20)
    settings, plan = _DecodeSettings(), ctypes.c_void_p()
    library.aicl_decode_settings_init(ctypes.byref(settings))
    assert settings.struct_size == ctypes.sizeof(settings)
    assert (settings.merge_gap, settings.min_seconds, settings.density_weight) == (0, 0, 0)
    for name, value in option.items():
        setattr(settings, name, value)
    assert library.aicl_decode_plan_create(ctypes.byref(settings), ctypes.byref(plan), None, 0) == 0
    room, count = 20_000, ctypes.c_int64()
    labels, values, segments = np.empty(room, np.int32), np.empty(room), np.empty((room, 2))
    sizes = (ctypes.c_int64(size) for size in (120, 20, 431))
    buffers = (_at(labels), _at(values), _at(segments), ctypes.c_int64(room), ctypes.byref(count))
    assert library.aicl_decode_f64(plan, _at(scores), _at(v), *sizes, *buffers) == 0
    library.aicl_decode_plan_destroy(plan)
    decoder = Decoder(replace(PRESET.decode, **option), PRESET.classes)  # type: ignore[arg-type]
    found = decoder.decode(scores, v, 431, PRESET.data.fps, PRESET.data.frames_per_segment)
    n = count.value
    assert n == len(found) > 50
    assert [PRESET.classes[label] for label in labels[:n]] == found.labels.tolist()
    assert segments[:n].tolist() == found.segments.tolist()
    np.testing.assert_allclose(values[:n], found.scores, rtol=1e-13)


def test_settings_of_another_layout_are_refused(library: ctypes.CDLL) -> None:
    settings, plan, why = _DecodeSettings(), ctypes.c_void_p(), ctypes.create_string_buffer(256)
    library.aicl_decode_settings_init(ctypes.byref(settings))
    settings.struct_size -= 24  # as before there were options
    arguments = (ctypes.byref(settings), ctypes.byref(plan), why, ctypes.c_size_t(256))
    assert library.aicl_decode_plan_create(*arguments) == 2
    assert why.value.startswith(b"struct_size: ")


class _BlendSettings(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32), ("num_classes", ctypes.c_int32), ("num_segments", ctypes.c_int64),
        ("window", ctypes.c_int64), ("hop", ctypes.c_int64), ("samples", ctypes.c_int64),
        ("fusion_gamma", ctypes.c_double), ("class_power", ctypes.c_double), ("class_span", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    )  # fmt: skip


@pytest.fixture(scope="session")
def library(installed: Path) -> ctypes.CDLL:
    (path,) = [path for path in (installed / "lib").glob("libaicl_decode.so*") if not path.is_symlink()]
    loaded = ctypes.CDLL(str(path))
    loaded.aicl_blend_windows.restype = loaded.aicl_blend_start.restype = ctypes.c_int64
    return loaded


@pytest.mark.parametrize(
    ("n", "window", "hop", "samples", "gamma", "power"),
    [
        (100, 40, 35, 40, 1 / 3, 0.5),
        (100, 40, 20, 32, 0.5, 1.0),
        (41, 40, 40, 80, 1.0, 0.0),
        (60, 20, 10, 20, 0.0, 0.5),
        (4, 3, 1, 3, 1 / 3, 0.3),
    ],
)
def test_windows_are_blended_as_in_python(
    library: ctypes.CDLL, n: int, window: int, hop: int, samples: int, gamma: float, power: float
) -> None:
    rng = np.random.default_rng(n)
    windows = Windows(window, hop, window, samples)
    starts = windows.starts(n)
    agnostic = rng.random((len(starts), samples), np.float32)
    classes = rng.random((len(starts), samples, 3), np.float32)
    scores = (gamma * classes + (1 - gamma) * agnostic[..., None]).astype(np.float32)
    outputs = NetworkOutputs(scores, rng.random((len(starts), 3), np.float32), agnostic, agnostic)
    blend = Blend(n, windows, 3, gamma)
    blend.add(starts, outputs)
    expected = blend.outputs(DecodeConfig(class_power=power))

    settings, made, why = _BlendSettings(), ctypes.c_void_p(), ctypes.create_string_buffer(256)
    library.aicl_blend_settings_init(ctypes.byref(settings))
    assert (settings.window, settings.hop) == (750, 657)
    settings.num_classes, settings.num_segments = 3, n
    settings.window, settings.hop, settings.samples = window, hop, samples
    settings.fusion_gamma, settings.class_power = gamma, power

    def create() -> int:
        return int(
            library.aicl_blend_create(ctypes.byref(settings), ctypes.byref(made), why, ctypes.c_size_t(256))
        )

    assert create() == 0, why.value
    found, video = np.empty((n, 3), np.float32), np.empty(3, np.float32)
    assert library.aicl_blend_windows(made) == len(starts)
    for i, start in enumerate(starts):
        assert library.aicl_blend_start(made, ctypes.c_int64(i)) == start
        assert library.aicl_blend_finish(made, _at(found), _at(video)) == 1  # not all are there yet
        row = (_at(outputs.scores[i]), _at(outputs.video_scores[i]), _at(outputs.actionness_agnostic[i]))
        assert library.aicl_blend_add(made, ctypes.c_int64(i), *row) == 0
        assert library.aicl_blend_add(made, ctypes.c_int64(i), *row) == 1  # it was added
    assert library.aicl_blend_finish(made, _at(found), _at(video)) == 0
    library.aicl_blend_destroy(made)
    np.testing.assert_allclose(found, expected.scores, atol=1e-6)
    np.testing.assert_allclose(video, expected.video_scores, atol=1e-6)

    settings.hop = window + 1
    assert create() == 2
    assert why.value == b"hop: expected 1 to the window's segments."


def _at(values: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)
