"""Which engine runs which file, and with which options. A new engine is its file and one line in the table.

==================  ============================  ==================================================
engine              files                         runs on
==================  ============================  ==================================================
``onnxruntime``     ``.onnx``                     CPU; GPUs by its CUDA and TensorRT providers
``openvino``        ``.openvino``, ``.onnx``      CPU
``tensorrt``        ``.engine``                   GPU, torch-free (TensorRT and TensorRT-RTX)
``torch``           ``.safetensors``              CPU; GPU by the project's Triton kernels in CUDA graphs
==================  ============================  ==================================================

Weights of I3D (``.npz``, ``.pt``, …) run in torch, too. Another package adds an engine by an entry point of
the group ``aicl_fast.engines`` that names an :class:`EngineSpec`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aicl_fast import plugins
from aicl_fast.devices import parse_device
from aicl_fast.engines.container import is_container, read_container
from aicl_fast.engines.session import Session
from aicl_fast.errors import ModelError
from aicl_fast.extras import needs
from aicl_fast.files import require_file
from aicl_fast.metadata import DETECTOR

if TYPE_CHECKING:
    import torch

GROUP = "aicl_fast.engines"
Provider = str | tuple[str, dict[str, Any]]
"""An execution provider of ONNX Runtime by name, with options or without."""


@dataclass(frozen=True)
class EngineSpec:
    """A row of the table.

    Attributes:
        session: where the engine's :class:`aicl_fast.engines.session.Session` is, as ``module:class``. It is
            called with the path, the kind of model and the options below that were given.
        suffixes: of the files that it runs. Where several engines run a file, the table's first is its own.
        title: what messages call it.
        options: those of :func:`open_session` that it takes.
        devices: where it runs, ``cpu`` or ``cuda``; files with a choice run on the first.
        containers: kinds of containers (:mod:`aicl_fast.engines.container`) that it runs.
        weights: suffixes of a segment network's weights that it runs, in any case.
        extra: of pyproject.toml, that installs what the engine's file imports.
        advice: what to do for another device.
    """

    session: str
    suffixes: tuple[str, ...]
    title: str
    options: frozenset[str] = frozenset()
    devices: tuple[str, ...] = ("cpu", "cuda")
    containers: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    extra: str | None = None
    advice: str = ""


I3D_SUFFIXES = (".npz", ".pt", ".pth", ".ckpt", ".tar", ".safetensors")
"""Of weights of I3D, in any case. torch.save's have several, ``.pth.tar`` among them."""

ENGINES = {
    "onnxruntime": EngineSpec(
        "aicl_fast.engines.onnxruntime:OnnxRuntimeSession",
        (".onnx",),
        "ONNX Runtime",
        frozenset({"device", "threads", "pin_threads", "providers"}),
    ),
    "openvino": EngineSpec(
        "aicl_fast.engines.openvino:OpenVinoSession",
        (".onnx", ".openvino", ".xml"),
        "OpenVINO",
        frozenset({"threads", "pin_threads", "precision"}),
        devices=("cpu",),
        containers=("openvino",),
        advice="For a GPU export with --format tensorrt-rtx, or open the .safetensors file on device='cuda'.",
    ),
    "tensorrt": EngineSpec(
        "aicl_fast.engines.tensorrt.session:TensorRTSession",
        (".engine",),
        "a TensorRT engine",
        frozenset({"device", "trust"}),
        devices=("cuda",),
        containers=("tensorrt", "tensorrt-rtx"),
        advice="For the CPU export the weights to ONNX or OpenVINO.",
    ),
    "torch": EngineSpec(
        "aicl_fast.engines.torch:TorchSession",
        (".safetensors",),
        "torch",
        frozenset({"device", "threads", "precision"}),
        weights=I3D_SUFFIXES,
        extra="train",
    ),
}
_ALWAYS_CONTAINERS = (".engine", ".openvino", ".plan", ".trt")
_IN_THE_FILE = " Such a file has its precision in it: export with --precision, or to --format openvino."


def engines() -> dict[str, EngineSpec]:
    """The table, and after it what other packages add."""
    return ENGINES | {name: spec for name, spec in plugins.load(GROUP).items() if name not in ENGINES}


def engines_for(path: Path, kind: str = DETECTOR, engine: str | None = None) -> dict[str, EngineSpec]:
    """The engines that run a file, the file's own first. What it holds counts, not its name.

    Args:
        path: the file.
        kind: of the model.
        engine: one that was asked for, which may be another package's.
    Raises:
        ModelError: there is none.
    """
    if is_container(path):
        held = read_container(path).kind
        return {name: spec for name, spec in ENGINES.items() if held in spec.containers}
    if path.suffix in _ALWAYS_CONTAINERS:
        raise ModelError(
            f"{path}: is not a file that `aicl-fast export` wrote: it does not begin with the aicl_fast "
            "header. A bare TensorRT plan or OpenVINO model carries no settings: export the weights again."
        )

    def known(table: dict[str, EngineSpec], suffix: str = path.suffix) -> dict[str, EngineSpec]:
        return {
            name: spec
            for name, spec in table.items()
            if suffix in spec.suffixes or (kind != DETECTOR and suffix.lower() in spec.weights)
        }

    found = (known(ENGINES) if engine is None or engine in ENGINES else {}) or known(engines())
    if kind == DETECTOR:
        return found or known(ENGINES, _suffix_by_content(path))
    if found:
        return found
    exported = {suffix: None for spec in engines().values() for suffix in spec.suffixes if not spec.weights}
    raise ModelError(
        f"{path}: expected weights of I3D ({', '.join(I3D_SUFFIXES)}) or an exported network "
        f"({', '.join(exported)})."
    )


def _suffix_by_content(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return ".safetensors"
    if start[:1] == b"\x08":  # the tag of an ONNX file's first field, the IR version
        return ".onnx"
    raise ModelError(
        f"{path}: is no model file. Expected a file of `aicl-fast export` (.onnx, .openvino, .engine) or "
        "`aicl-fast train` (.safetensors); `aicl-fast import-checkpoint` reads the authors' weights."
    )


def options_of(path: str | os.PathLike[str], engine: str | None = None) -> frozenset[str]:
    """The options of :func:`open_session` that a file's engine has: ``threads``, ``precision``, …

    Raises:
        DataError: no such file.
        ModelError: not an aicl_fast model.
    """
    possible = engines_for(require_file(path, "model file"), engine=engine)
    spec = possible.get(engine or next(iter(possible)))
    return frozenset() if spec is None else spec.options


def open_session(
    path: str | os.PathLike[str],
    *,
    kind: str = DETECTOR,
    engine: str | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    threads: int | None = None,
    pin_threads: bool | None = None,
    providers: Sequence[Provider] | None = None,
    trust: bool = False,
) -> Session:
    """Open a model file in the engine that it is for.

    Args:
        path: ``.onnx``, ``.openvino``, ``.engine``, ``.safetensors``, …; what it holds counts, not its name.
        kind: of the model: :data:`aicl_fast.metadata.DETECTOR` or :data:`aicl_fast.metadata.I3D`.
        engine: one of :func:`engines`; None is the file's own, and ONNX Runtime for ONNX.
        device: ``cpu`` or ``cuda`` (``cuda:1``, …), as text or as torch's device; None is where the file runs
            (the CPU, for one that can run on both).
        precision: what products are computed in, where that is chosen at load (OpenVINO, torch).
        threads: threads within an operation, of an engine on the CPU; None takes every core.
        pin_threads: tie these threads to cores (ONNX Runtime, OpenVINO); None leaves that to the engine.
        providers: ONNX Runtime execution providers by name or (name, options), in order of preference; those
            of a GPU run on ``device``. None follows ``device``.
        trust: run native code that the file carries: version-compatible TensorRT engines have some. Say so
            only of a file whose origin you trust.
    Raises:
        DataError: no such file.
        ModelError: not an aicl_fast model of this kind, damaged, with something in it that no export has, or
            not for that engine, device or option; options that contradict each other; settings that ask for
            much more memory than the file warrants; or a plan of another version of TensorRT or card.
        UnavailableError: the engine's package, or the device, is missing.
    """
    target = require_file(path, "model file" if kind == DETECTOR else "network")
    possible = engines_for(target, kind, engine)
    name = engine or next(iter(possible))
    if name not in possible and name not in engines():
        raise ModelError(f"engine: expected one of {', '.join(sorted(engines()))}, got {engine!r}.")
    if name not in possible:
        raise ModelError(
            f"{target}: cannot run in {name}; this kind of file runs in {' or '.join(possible)}. Export "
            f"the weights for {name} (aicl-fast export --format), or leave the engine out."
        )
    spec = possible[name]
    where = None if device is None else str(device)
    _check_device(where, spec, target)
    given: dict[str, Any] = {
        "precision": precision,
        "threads": threads,
        "pin_threads": pin_threads,
        "providers": providers,
    }
    options = {option: value for option, value in given.items() if value is not None}
    _check_options(name, spec, options)
    given = {"device": where, "trust": trust}
    options |= {option: value for option, value in given.items() if option in spec.options}
    module, _, session = spec.session.partition(":")
    with needs(spec.extra, f"{target}: running it in {spec.title} (export the file to run it without)"):
        loaded = importlib.import_module(module)
    opened: Session = getattr(loaded, session)(target, kind=kind, **options)
    return opened


def _check_device(device: str | None, spec: EngineSpec, path: Path) -> None:
    kind = "cpu" if parse_device(device) is None else "cuda"
    if device is None or kind in spec.devices:
        return
    here = "the CPU here" if spec.devices == ("cpu",) else "a GPU only"
    raise ModelError(f"{path}: {spec.title} runs on {here}; got device={device!r}. {spec.advice}".rstrip())


def _check_options(engine: str, spec: EngineSpec, given: dict[str, Any]) -> None:
    for option in sorted(set(given) - spec.options):
        others = [name for name, other in engines().items() if option in other.options]
        raise ModelError(
            f"{option}: is not an option of the {engine} engine; it is of {', '.join(others)}."
            f"{_IN_THE_FILE if option == 'precision' else ''}"
        )
    threads = given.get("threads", 1)
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ModelError(
            f"threads: expected a number of at least 1, or None for every core; got {threads!r}."
        )
