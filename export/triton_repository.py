"""A model repository for the Triton Inference Server: config.pbtxt, labels, and the model as version 1.

The configuration is built as a protocol buffer of the fields of the server's ``model_config.proto`` that are
used here, and the file that was written is parsed again: a field or value that the schema does not have
cannot be written.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from aicl_fast.engines.container import read_container
from aicl_fast.errors import AiclError, ConfigError, DataError
from aicl_fast.export.onnx import INPUT, save_onnx
from aicl_fast.export.tensorrt import BuildOptions, export_tensorrt
from aicl_fast.extras import needs
from aicl_fast.files import atomic_folder, read_text, require_place, write_text
from aicl_fast.limits import reading
from aicl_fast.metadata import BATCH, METADATA_KEY, ModelInfo, Range

Backend = Literal["onnx", "tensorrt"]
_PLATFORMS = {"onnx": ("onnxruntime_onnx", "model.onnx"), "tensorrt": ("tensorrt_plan", "model.plan")}

_LARGEST = 2**31 - 1
_LONGEST_NAME = 100
_LARGEST_CONFIG = 1 << 24

BUILDER_KEY = f"{METADATA_KEY}_builder"
"""The parameter that says which version built a plan, and for which card: a plan itself does not."""


@dataclass(frozen=True)
class ServerOptions:
    """How the server runs the model."""

    name: str = "aicl"
    """The model's name, and its folder's."""
    backend: str = "onnx"
    """``onnx`` (ONNX Runtime) or ``tensorrt`` (a plan, built here, for this card)."""
    instances: int = 1
    """How many copies run at once, on each device."""
    kind: str = "auto"
    """Where: ``auto``, ``cpu`` or ``gpu``."""
    delay_us: int = 1000
    """How long a request may wait for others to share a batch with, in microseconds."""


def check_server(options: ServerOptions, batch: Range | None) -> None:
    """Refuse what the server could not load, before any work starts.

    Raises:
        ConfigError: an unknown backend or kind, a number or name that the server cannot have, or a batch that
            does not start at 1.
    """
    if options.backend not in _PLATFORMS:
        raise ConfigError(f"--backend: expected onnx or tensorrt, got {options.backend!r}.")
    if options.kind not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"--instance-kind: expected auto, cpu or gpu, got {options.kind!r}.")
    if options.backend == "tensorrt" and options.kind == "cpu":
        raise ConfigError("--instance-kind: TensorRT plans run on a GPU; expected auto or gpu, got cpu.")
    for option, given, least in (("instances", options.instances, 1), ("queue-delay", options.delay_us, 0)):
        if not least <= given <= _LARGEST:
            raise ConfigError(f"--{option}: expected {least} to {_LARGEST}, got {given}.")
    letters = options.name.replace("_", "").replace("-", "")
    if not letters.isalnum() or len(options.name.encode()) > _LONGEST_NAME:
        raise ConfigError(
            f"--name: expected letters, digits, _ and -, at most {_LONGEST_NAME} bytes, got "
            f"{options.name[:_LONGEST_NAME]!r}."
        )
    if (batch or BATCH).min != 1 or (batch or BATCH).fixed:
        raise ConfigError(
            f"--batch: the server makes batches of 1 to a largest size; expected 1:usual:largest, got "
            f"{batch}."
        )


def export_triton_repository(
    model: Any,
    info: ModelInfo,
    folder: str | os.PathLike[str],
    options: ServerOptions | None = None,
    build: BuildOptions | None = None,
) -> None:
    """Write a model repository with this one model in it.

    Args:
        model: ``onnx.ModelProto``.
        info: what it says about itself; our settings become a parameter of the configuration.
        folder: the repository; other models in it stay.
        options: None is the defaults.
        build: TensorRT's options, for that backend.
    Raises:
        ConfigError: as :func:`check_server`.
        DataError: the folder cannot be written to, or holds a model of that name that is not ours, or more
            than we wrote; or a class's name is not one line.
    """
    options = options or ServerOptions()
    check_server(options, info.batch)
    home = check_repository(folder, options)
    labels = _labels(info.config.classes)
    check_config(server_config(info, options))
    with _replacing(home) as draft:
        (draft / "1").mkdir()
        file = draft / "1" / _PLATFORMS[options.backend][1]
        builder = None
        if options.backend == "onnx":
            save_onnx(model, file)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                engine = Path(scratch, "model.engine")
                export_tensorrt("tensorrt", model, info, engine, build)
                container = read_container(engine)
                builder = container.builder
                file.write_bytes(container.read("plan"))
        text = server_config(info, options, builder)
        check_config(text)
        write_text(draft / "labels.txt", labels)
        write_text(draft / "config.pbtxt", text)


def check_repository(folder: str | os.PathLike[str], options: ServerOptions) -> Path:
    """Refuse to replace a model that we did not write, or to delete what else is beside one that we did.

    Returns:
        The model's folder.
    Raises:
        DataError: it is not ours, holds more than an export writes, or cannot be written.
    """
    home = Path(folder, options.name)
    require_place(home / "config.pbtxt")
    if not home.exists() and not home.is_symlink():
        return home
    if not _is_ours(home):
        raise DataError(
            f"{home}: exists and is not a model of a server that `aicl-fast export` wrote. Choose another "
            "--name or folder."
        )
    written = {"config.pbtxt", "labels.txt", "1", *(f"1/{name}" for _, name in _PLATFORMS.values())}
    found = {path.relative_to(home).as_posix() for path in home.rglob("*")}
    if found - written:
        raise DataError(
            f"{home}: holds {', '.join(sorted(found - written))}, which `aicl-fast export` did not write and "
            "would delete. Move it elsewhere, or choose another --name or folder."
        )
    return home


def _is_ours(home: Path) -> bool:
    """Whether a model's configuration has our parameter; of other fields than ours it may have any."""
    from google.protobuf import text_format

    file = home / "config.pbtxt"
    if home.is_symlink() or not file.is_file():
        return False
    what = "configuration of a model"
    with contextlib.suppress(AiclError), reading(file, what):
        text = read_text(file, what, largest=_LARGEST_CONFIG)
        config = text_format.Parse(text, _message()(), allow_unknown_field=True)
        return METADATA_KEY in config.parameters
    return False


@contextlib.contextmanager
def _replacing(home: Path) -> Iterator[Path]:
    """As ``atomic_folder``, but what is there is put aside until the new folder is in its place."""
    with contextlib.ExitStack() as last:
        aside: Path | None = None
        try:
            with atomic_folder(home) as draft:
                yield draft
                if home.exists():
                    scratch = tempfile.TemporaryDirectory(prefix=f".{home.name}.", dir=home.parent)
                    aside = Path(last.enter_context(scratch), home.name)
                    os.replace(home, aside)
        except BaseException:
            if aside is not None and aside.exists():
                os.replace(aside, home)
            raise


def _labels(classes: Sequence[str]) -> str:
    """The text of labels.txt: a class a line.

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
    from google.protobuf import text_format

    length = info.segments.opt if info.segments.fixed else -1
    width, classes = info.config.data.input_width, info.config.model.num_classes
    config = _message()()
    config.name = options.name
    config.platform = _PLATFORMS[options.backend][0]
    config.max_batch_size = info.batch.max
    config.input.add(name=INPUT, data_type="TYPE_FP32", dims=[length, width])
    config.output.add(name="scores", data_type="TYPE_FP32", dims=[length, classes])
    config.output.add(name="video_scores", data_type="TYPE_FP32", dims=[classes], label_filename="labels.txt")
    config.output.add(name="actionness", data_type="TYPE_FP32", dims=[length])
    config.output.add(name="actionness_agnostic", data_type="TYPE_FP32", dims=[length])
    config.dynamic_batching.preferred_batch_size.append(info.batch.opt)
    config.dynamic_batching.max_queue_delay_microseconds = options.delay_us
    config.instance_group.add(kind=f"KIND_{options.kind.upper()}", count=options.instances)
    config.version_policy.latest.num_versions = 1
    for batch in sorted({1, info.batch.opt}):
        warm = config.model_warmup.add(name=f"batch of {batch}", batch_size=batch)
        warm.inputs[INPUT].data_type = "TYPE_FP32"
        warm.inputs[INPUT].dims.extend([info.segments.opt, width])
        warm.inputs[INPUT].random_data = True
    config.parameters[METADATA_KEY].string_value = info.to_json()
    if builder is not None:
        config.parameters[BUILDER_KEY].string_value = json.dumps(dict(builder))
    return str(text_format.MessageToString(config, as_utf8=True))


def check_config(text: str) -> Any:
    """Parse a config.pbtxt against the schema, and return it.

    Raises:
        ConfigError: a field or value that the server's schema does not have, or sizes that cannot be.
    """
    from google.protobuf import text_format

    try:
        config = text_format.Parse(text, _message()())
    except text_format.ParseError as error:
        raise ConfigError(f"config.pbtxt: does not fit the server's schema: {error}") from error
    names = [tensor.name for tensor in [*config.input, *config.output]]
    if not config.name or not config.platform or not config.input or not config.output:
        raise ConfigError("config.pbtxt: expected name, platform, and at least one input and output.")
    if len(set(names)) != len(names) or not all(names):
        raise ConfigError(f"config.pbtxt: expected each input and output once, got {', '.join(names)}.")
    for tensor in [*config.input, *config.output]:
        if not tensor.dims or any(size == 0 or size < -1 for size in tensor.dims):
            raise ConfigError(f"config.pbtxt: {tensor.name} has dims {list(tensor.dims)}.")
    if any(size > config.max_batch_size for size in config.dynamic_batching.preferred_batch_size):
        raise ConfigError("config.pbtxt: a preferred batch size is above max_batch_size.")
    return config


# Of model_config.proto, the fields that are used: message to field to type. A leading * repeats; "map " is a
# map from text. Field numbers play no part in the text form.
_SCHEMA: dict[str, dict[str, str]] = {
    "Config": {
        "name": "string",
        "platform": "string",
        "backend": "string",
        "default_model_filename": "string",
        "max_batch_size": "int32",
        "input": "*Input",
        "output": "*Output",
        "dynamic_batching": "DynamicBatching",
        "instance_group": "*InstanceGroup",
        "version_policy": "VersionPolicy",
        "model_warmup": "*Warmup",
        "parameters": "map Parameter",
    },
    "Input": {"name": "string", "data_type": "DataType", "dims": "*int64", "optional": "bool"},
    "Output": {"name": "string", "data_type": "DataType", "dims": "*int64", "label_filename": "string"},
    "DynamicBatching": {
        "preferred_batch_size": "*int32",
        "max_queue_delay_microseconds": "uint64",
        "preserve_ordering": "bool",
    },
    "InstanceGroup": {"name": "string", "kind": "Kind", "count": "int32", "gpus": "*int32"},
    "VersionPolicy": {"latest": "Latest"},
    "Latest": {"num_versions": "uint32"},
    "Warmup": {"name": "string", "batch_size": "uint32", "inputs": "map WarmupInput", "count": "uint32"},
    "WarmupInput": {
        "data_type": "DataType",
        "dims": "*int64",
        "zero_data": "bool",
        "random_data": "bool",
        "input_data_file": "string",
    },
    "Parameter": {"string_value": "string"},
}
_ENUMS = {
    "DataType": ("TYPE_INVALID", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_INT32", "TYPE_INT64"),
    "Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
}


@lru_cache(maxsize=1)
def _message() -> Any:
    """The message class of config.pbtxt."""
    with needs("export", "--format triton-repository"):
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    file = descriptor_pb2.FileDescriptorProto(
        name="aicl_fast/triton_config.proto", package="aicl_fast.triton", syntax="proto3"
    )
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("aicl_fast.triton.Config"))


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    added = message.field.add(name=name, number=number)
    mapped = kind.startswith("map ")
    added.label = Field.LABEL_REPEATED if mapped or kind[0] == "*" else Field.LABEL_OPTIONAL
    kind = kind.removeprefix("map ").removeprefix("*")
    if mapped:
        entry_name = f"{name.title().replace('_', '')}Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, kind)
        added.type = Field.TYPE_MESSAGE
        added.type_name = f".aicl_fast.triton.{message.name}.{entry_name}"
    elif kind in _SCHEMA or kind in _ENUMS:
        added.type = Field.TYPE_MESSAGE if kind in _SCHEMA else Field.TYPE_ENUM
        added.type_name = f".aicl_fast.triton.{kind}"
    else:
        added.type = getattr(Field, f"TYPE_{kind.upper()}")
