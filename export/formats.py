"""The formats that a model is exported in, one row each. A new format is one file that writes it, and a row.

Another package adds a row by an entry point of the group ``aicl_fast.formats``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aicl_fast import plugins
from aicl_fast.errors import ConfigError
from aicl_fast.export import onnx, openvino, triton_server
from aicl_fast.export.options import ExportOptions, Progress
from aicl_fast.export.tensorrt.build import export_tensorrt
from aicl_fast.export.tensorrt.cards import check_options

Writer = Callable[[Any, Any, Path, ExportOptions, Progress | None], None]


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Format:
    """A row of the table.

    Attributes:
        name: as ``--format`` has it.
        suffix: of its files; empty for a folder, which holds a localisation network alone.
        precisions: that it can be written in.
        write: ``write(model, info, path, options, progress)``: writes an ``onnx.ModelProto`` as ``path``,
            whole or not at all. ``info`` is what the file has to say about itself (``info.to_json()``).
        check: raises where options cannot be, or a package or device that the format needs is missing.
        check_target: raises where the path cannot be written.
        options: the attributes of :class:`ExportOptions` that not every format has: ``opset``, ``build`` and
            ``server``.
        winograd: the precisions in which the convolutions can be written as half as many products: while the
            graph around them is float32.
        prefers_winograd: that is done where ``--convolution`` is ``auto``: where it is measured to be faster.
        narrow_graph: fp16 and bf16 are casts in the ONNX graph; otherwise the writer narrows a float32 one.
        backends: a server's: what runs the model there, by ``--backend``.
    """

    name: str
    suffix: str
    precisions: tuple[str, ...]
    write: Writer
    check: Callable[[ExportOptions], Any] = _nothing
    check_target: Callable[[Path, ExportOptions], None] = _nothing
    options: tuple[str, ...] = ()
    winograd: tuple[str, ...] = ()
    prefers_winograd: bool = False
    narrow_graph: bool = True
    backends: Mapping[str, Format] = field(default_factory=dict)

    def backend(self, options: ExportOptions) -> Format:
        """The row of what runs the model: of the server's backend, or this one."""
        return self.backends.get(options.server.backend, self)


def _tensorrt(kind: Any) -> Format:
    return Format(
        kind,
        ".engine",
        ("fp32", "tf32", "fp16", "bf16", "int8", "fp8"),
        lambda model, info, path, options, progress: export_tensorrt(
            kind, model, info, path, options.build, progress=progress
        ),
        check=lambda options: check_options(kind, options.build, options.precision),
        options=("build",),
        winograd=("fp32", "tf32"),  # not preferred: TensorRT looks for its own best way through a convolution
    )


_ONNX = Format(
    "onnx",
    ".onnx",
    ("fp32", "fp16", "bf16", "int8", "fp8"),
    lambda model, info, path, options, progress: onnx.save_onnx(model, path),
    options=("opset",),
    winograd=("fp32",),
    prefers_winograd=True,
)
_OPENVINO = Format(
    "openvino",
    ".openvino",
    ("fp32", "fp16", "bf16", "int8", "fp8"),
    openvino.write,
    check=openvino.require_openvino,
    winograd=("fp32", "fp16", "bf16", "int8"),
    prefers_winograd=True,
    narrow_graph=False,  # OpenVINO rounds a float32 graph itself, and faster than casts do
)
_TENSORRT = _tensorrt("tensorrt")
_TRITON_SERVER = Format(
    "triton-repository",
    "",
    _TENSORRT.precisions,
    triton_server.write,
    check=triton_server.check,
    check_target=triton_server.check_target,
    options=("server",),
    backends={
        # ONNX Runtime has no bfloat16 convolution.
        "onnx": replace(_ONNX, precisions=("fp32", "fp16", "int8", "fp8"), winograd=()),
        "tensorrt": replace(_TENSORRT, winograd=()),
    },
)

FORMATS: dict[str, Format] = {
    row.name: row for row in (_ONNX, _OPENVINO, _TENSORRT, _tensorrt("tensorrt-rtx"), _TRITON_SERVER)
}
"""This package's formats, by name."""


def all_formats() -> dict[str, Format]:
    """:data:`FORMATS`, and those that other packages add.

    Raises:
        ConfigError: a package adds something else.
    """
    added = plugins.load("aicl_fast.formats")
    for name, row in added.items():
        if not isinstance(row, Format):
            raise ConfigError(
                f"{name}: expected an aicl_fast.export.formats.Format at the entry point of the group "
                f"aicl_fast.formats, got {type(row).__name__}. Upgrade or uninstall the package that adds it."
            )
    return FORMATS | {row.name: row for row in added.values() if row.name not in FORMATS}


def get_format(name: str) -> Format:
    """A format by name.

    Raises:
        ConfigError: there is none of this name.
    """
    formats = FORMATS if name in FORMATS else all_formats()
    if name not in formats:
        raise ConfigError(f"--format: expected {', '.join(formats)}, got {name!r}.")
    return formats[name]


def format_of(out: Path | None) -> str:
    """The name of the format that a file's name ends as; ONNX where it says none.

    Raises:
        ConfigError: files of two formats have such names.
    """
    suffix = out.suffix.lower() if out is not None else ""
    names = [row.name for row in all_formats().values() if suffix and row.suffix == suffix]
    if len(names) > 1:
        raise ConfigError(f"--format: {out} may be {' or '.join(names)}; say which.")
    return names[0] if names else "onnx"


def formats_with(attribute: str, value: str) -> list[str]:
    """The names of the formats whose ``attribute`` has a value; with the backend, where only some have it."""
    names = []
    for row in all_formats().values():
        backends = [name for name, backend in row.backends.items() if value in getattr(backend, attribute)]
        if backends and len(backends) < len(row.backends):
            names += [f"{row.name} with --backend {name}" for name in backends]
        elif backends or value in getattr(row, attribute):
            names.append(row.name)
    return names
