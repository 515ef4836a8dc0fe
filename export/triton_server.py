"""A model repository for the Triton Inference Server: config.pbtxt, labels, and the model as version 1.

The configuration is protobuf's text form of the server's ``model_config.proto``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aicl_fast.engines.container import read_container
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.export.onnx import save_onnx
from aicl_fast.export.options import ExportOptions, Progress, ServerOptions
from aicl_fast.export.tensorrt.build import export_tensorrt
from aicl_fast.export.tensorrt.cards import check_options
from aicl_fast.files import atomic_folder, read_text, require_place, write_text
from aicl_fast.metadata import BATCH, METADATA_KEY, ModelInfo, Range
from aicl_fast.signature import Tensor, signature_of

_PLATFORMS = {"onnx": ("onnxruntime_onnx", "model.onnx"), "tensorrt": ("tensorrt_plan", "model.plan")}
"""Backend to what the server calls it, and to the name of its file."""

MAX_NUMBER = 2**31 - 1
MAX_NAME = 100
MAX_CONFIG = 1 << 24

BUILDER_KEY = f"{METADATA_KEY}_builder"
"""The parameter that says which version built a plan, and for which card: a plan itself does not."""
_SETTINGS = re.compile(
    rf'^parameters \{{\n  key: "{METADATA_KEY}"\n  value \{{\n    string_value: '
    r'"[^"\\\n]+(\\.[^"\\\n]*)*"\n  \}\n\}$',
    re.MULTILINE,
)
"""The parameter that marks a configuration as an export's."""


def check(options: ExportOptions) -> None:
    """Refuse what the server could not load, before any work starts.

    Raises:
        ConfigError: an unknown backend or kind, a number or name that the server cannot have, or a batch that
            does not start at 1.
        UnavailableError: TensorRT or its GPU is missing, for that backend.
    """
    _check_server(options.server, options.batch or BATCH)
    if options.server.backend == "tensorrt":
        check_options("tensorrt", options.build, options.precision)


def _check_server(options: ServerOptions, batch: Range) -> None:
    if options.backend not in _PLATFORMS:
        raise ConfigError(f"--backend: expected onnx or tensorrt, got {options.backend!r}.")
    if options.kind not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"--instance-kind: expected auto, cpu or gpu, got {options.kind!r}.")
    if options.backend == "tensorrt" and options.kind == "cpu":
        raise ConfigError("--instance-kind: TensorRT plans run on a GPU; expected auto or gpu, got cpu.")
    for option, number, low in (("instances", options.instances, 1), ("queue-delay", options.delay_us, 0)):
        if not low <= number <= MAX_NUMBER:
            raise ConfigError(f"--{option}: expected {low} to {MAX_NUMBER}, got {number}.")
    letters = options.name.replace("_", "").replace("-", "")
    if not letters.isalnum() or len(options.name.encode()) > MAX_NAME:
        raise ConfigError(
            f"--name: expected letters, digits, _ and -, at most {MAX_NAME} bytes, got "
            f"{options.name[:MAX_NAME]!r}."
        )
    if batch.min != 1 or batch.fixed:
        raise ConfigError(
            f"--batch: the server makes batches of 1 to a largest size; expected 1:usual:largest, got "
            f"{batch}."
        )


def write(model: Any, info: ModelInfo, path: Path, options: ExportOptions, progress: Progress | None) -> None:
    """Write a model repository with this one model in it.

    Args:
        model: ``onnx.ModelProto``.
        info: what it says about itself; the settings become a parameter of the configuration.
        path: the repository, a folder; other models in it stay.
        options: the server's, and TensorRT's for that backend.
        progress: told (steps done, steps in all, phase) while TensorRT builds.
    Raises:
        ConfigError: as :func:`check`.
        DataError: as :func:`check_target`; or a class's name is not one line.
    """
    server = options.server
    _check_server(server, info.batch)
    check_target(path, options)
    model_folder = path / server.name
    labels = _labels(info.config.classes)
    with _replacing(model_folder) as draft:
        (draft / "1").mkdir()
        file = draft / "1" / _PLATFORMS[server.backend][1]
        builder = None
        if server.backend == "onnx":
            save_onnx(model, file)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                engine = Path(scratch, "model.engine")
                export_tensorrt("tensorrt", model, info, engine, options.build, progress=progress)
                container = read_container(engine)
                builder = container.builder
                file.write_bytes(container.read("plan"))
        write_text(draft / "labels.txt", labels)
        write_text(draft / "config.pbtxt", server_config(info, server, builder))


def check_target(folder: Path, options: ExportOptions) -> None:
    """Refuse to replace a model that no export wrote, or to delete what else is beside one that did.

    Raises:
        DataError: no export wrote it, it holds more than an export writes, or it cannot be written.
    """
    model_folder = folder / options.server.name
    require_place(model_folder / "config.pbtxt")
    if not model_folder.exists() and not model_folder.is_symlink():
        return
    if not _is_exported(model_folder):
        raise DataError(
            f"{model_folder}: exists and is not a model of a server that `aicl-fast export` wrote. Choose "
            "another --name or folder."
        )
    written = {"config.pbtxt", "labels.txt", "1", *(f"1/{name}" for _, name in _PLATFORMS.values())}
    others = {path.relative_to(model_folder).as_posix() for path in model_folder.rglob("*")} - written
    if others:
        raise DataError(
            f"{model_folder}: holds {', '.join(sorted(others))}, which `aicl-fast export` did not write and "
            "would delete. Move it elsewhere, or choose another --name or folder."
        )


def _is_exported(model_folder: Path) -> bool:
    """Whether a model's configuration has the settings that an export writes."""
    file = model_folder / "config.pbtxt"
    if model_folder.is_symlink() or not file.is_file():
        return False
    with contextlib.suppress(AiclError):
        return bool(_SETTINGS.search(read_text(file, "configuration of a model", largest=MAX_CONFIG)))
    return False


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """As ``atomic_folder``, but what is there is put aside until the new folder is in its place."""
    with contextlib.ExitStack() as last:
        aside: Path | None = None
        try:
            with atomic_folder(folder) as draft:
                yield draft
                if folder.exists():
                    scratch = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
                    aside = Path(last.enter_context(scratch), folder.name)
                    os.replace(folder, aside)
        except BaseException:
            if aside is not None and aside.exists():
                os.replace(aside, folder)
            raise


def _labels(classes: Sequence[str]) -> str:
    """The text of labels.txt: one class per line.

    Raises:
        DataError: a class's name has a line break in it.
    """
    for name in classes:
        if len(name.splitlines()) != 1:
            raise DataError(
                f"classes: {name!r} cannot be a line of the server's labels.txt. Train with another name, or "
                "export another format."
            )
    return "\n".join(classes) + "\n"


def server_config(info: ModelInfo, options: ServerOptions, builder: Mapping[str, Any] | None = None) -> str:
    """The text of config.pbtxt: batches are the server's own, so sizes are those of one video.

    Args:
        info: what the model says about itself.
        options: how the server runs it.
        builder: of a plan, who built it and for which card.
    """
    signature = signature_of(info)
    outputs = [_tensor(output) for output in signature.outputs]
    outputs[1]["label_filename"] = _quoted("labels.txt")  # video_scores
    sizes = [axis.sizes.opt for axis in signature.input.axes[1:]]
    random = {"data_type": "TYPE_FP32", "dims": sizes, "random_data": "true"}
    parameters = {METADATA_KEY: info.to_json()}
    if builder is not None:
        parameters[BUILDER_KEY] = json.dumps(dict(builder))
    config = {
        "name": _quoted(options.name),
        "platform": _quoted(_PLATFORMS[options.backend][0]),
        "max_batch_size": info.batch.max,
        "input": _tensor(signature.input),
        "output": outputs,
        "dynamic_batching": {
            "preferred_batch_size": info.batch.opt,
            "max_queue_delay_microseconds": options.delay_us,
        },
        "instance_group": {"kind": f"KIND_{options.kind.upper()}", "count": options.instances},
        "version_policy": {"latest": {"num_versions": 1}},
        "model_warmup": [
            {
                "name": _quoted(f"batch of {batch}"),
                "batch_size": batch,
                "inputs": {"key": _quoted(signature.input.name), "value": random},
            }
            for batch in sorted({1, info.batch.opt})
        ],
        "parameters": [
            {"key": _quoted(key), "value": {"string_value": _quoted(text)}}
            for key, text in parameters.items()
        ],
    }
    return "".join(f"{line}\n" for line in _lines(config))


def _tensor(tensor: Tensor) -> dict[str, Any]:
    """An input or output of one video."""
    return {"name": _quoted(tensor.name), "data_type": "TYPE_FP32", "dims": list(tensor.dynamic_sizes[1:])}


def _lines(fields: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A message in protobuf's text form; a list is a repeated field."""
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(value, f"{indent}  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {value}"


def _quoted(text: str) -> str:
    """A string of one line in protobuf's text form."""
    return '"' + re.sub(r"([\\\"'])", r"\\\1", text) + '"'
