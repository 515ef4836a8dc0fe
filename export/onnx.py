"""Trained weights to ONNX: everything up to fused scores and video scores is in the graph."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aicl_fast.extras import needs

with needs("export"):
    import torch
    from torch import Tensor, nn

from aicl_fast.config import Config, DecodeConfig
from aicl_fast.engines import checksum
from aicl_fast.engines.onnx_file import read_onnx
from aicl_fast.errors import ConfigError
from aicl_fast.export.options import check_range
from aicl_fast.files import atomic_path, require_file
from aicl_fast.metadata import (
    BATCH,
    METADATA_KEY,
    ModelInfo,
    Precision,
    Range,
    SegmentInfo,
    parse_info,
    require_sizes,
)
from aicl_fast.model import LocalizationNet, TwoBranchNet
from aicl_fast.signature import signature_of
from aicl_fast.weights import weights_hash

OPSET = 18
OPSET_BF16 = 22
"""The first in which a convolution may be bfloat16."""
LOWEST_OPSETS = {"fp32": 15, "fp16": 15, "bf16": OPSET_BF16, "int8": 19, "fp8": 21}
"""By precision. int8: the first that onnx's own evaluator has Q/DQ pairs of. fp8: the first whose Transpose
takes float8, since ONNX Runtime moves pairs past one."""
HIGHEST_OPSET = 23
"""The last that every supported version of ONNX Runtime reads."""
NARROW = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""The precisions that casts in the graph make."""

_OTHER = "aicl_fast"


def model_info(
    net: TwoBranchNet,
    config: Config,
    *,
    precision: Precision = "fp32",
    batch: Range | None = None,
    segments: Range | None = None,
) -> ModelInfo:
    """What an exported file will say about itself.

    Args:
        net: trained weights.
        config: its settings.
        precision: ``fp32``, ``fp16`` or ``bf16`` (opset 22): in the graph, by casts around the embeddings'
            convolutions. bf16 files are for TensorRT and OpenVINO; ONNX Runtime has no such convolution on
            a CPU. The others are made of a float32 graph.
        batch: videos per run; None is 1 to 64. A range makes the dimension dynamic; ONNX itself keeps no
            bounds.
        segments: T; None is the settings'. A range makes it dynamic, and k of the pooling follows T.
    Raises:
        ConfigError: a range of T that top-k pooling or the settings cannot follow, or sizes that no file of
            these weights would be opened with.
    """
    length = config.data.segments
    segments = Range(length, length, length) if segments is None else check_range(segments, "segments")
    lowest = max(2, config.model.topk_divisor)
    if segments.min < lowest and not segments.fixed:
        raise ConfigError(
            f"segments: expected a smallest T of at least {lowest} (topk_divisor = "
            f"{config.model.topk_divisor}, so that k = T // topk_divisor is at least 1), got {segments}."
        )
    info = ModelInfo(
        config.with_values({"data.segments": segments.opt}),
        precision=precision,
        batch=BATCH if batch is None else check_range(batch, "batch"),
        segments=segments,
        weights=weights_hash(net.state_dict()),
    )
    size = sum(each.nbytes for each in net.state_dict().values())
    require_sizes(info, size, f"a file of batch {info.batch} and T {segments}", error=ConfigError)
    return info


def default_opset(precision: str) -> int:
    """The opset of a file for which none was asked."""
    return max(OPSET, LOWEST_OPSETS[precision])


def check_opset(opset: int | None, precision: str) -> None:
    """Refuse an opset that a precision cannot be written in; None is the default.

    Raises:
        ConfigError: it is not one of those that can be written.
    """
    lowest = LOWEST_OPSETS[precision]
    whole = isinstance(opset, int) and not isinstance(opset, bool)
    if opset is not None and not (whole and lowest <= opset <= HIGHEST_OPSET):
        raise ConfigError(
            f"--opset: expected {lowest} to {HIGHEST_OPSET} for {precision}, got {opset!r}. Left out, it is "
            f"{default_opset(precision)}."
        )


def build_onnx(
    net: TwoBranchNet, info: ModelInfo, *, winograd: bool = False, opset: int | None = None
) -> Any:
    """The network as an ``onnx.ModelProto``, checked by onnx and by strict shape inference.

    Args:
        net: trained weights.
        info: from :func:`model_info`; of precision fp32, fp16 or bf16.
        winograd: the embeddings' convolutions as half as many matrix products, in float32: for engines that
            run products at full speed and have no such algorithm of their own for one dimension.
        opset: of ONNX, from 15 (bf16: 22) to 23; older ones are for older runtimes. None is 18 (bf16: 22).
    Raises:
        ConfigError: an opset that cannot be written.
        UnavailableError: onnx or onnxscript is not installed.
    """
    dtype = NARROW.get(info.precision, torch.float32)
    dynamic = not info.segments.fixed
    module = LocalizationNet(net.cpu().eval(), info.config, dtype, dynamic=dynamic, winograd=winograd)
    return graph_of(module, info, opset)


def graph_of(module: nn.Module, info: ModelInfo | SegmentInfo, opset: int | None = None) -> Any:
    """A network as an ``onnx.ModelProto`` with the signature and the settings that ``info`` names.

    Raises:
        ConfigError: an opset that cannot be written.
        UnavailableError: onnx or onnxscript is not installed.
    """
    onnx = require_onnx()
    check_opset(opset, info.precision)
    signature = signature_of(info)
    # The exporter takes a dimension of size one for a constant.
    count = info.batch.opt if info.batch.fixed else 2
    sizes = [count, *(axis.sizes.opt for axis in signature.input.axes[1:])]
    example = torch.zeros(sizes, dtype=getattr(torch, signature.input.dtype))
    shapes: dict[int, Any] = {}
    for place, axis in enumerate(signature.input.axes):
        if not axis.sizes.fixed:
            bounds = {"min": 1} if place == 0 else {"min": axis.sizes.min, "max": axis.sizes.max}
            shapes[place] = torch.export.Dim(str(signature.input.sizes[place]), **bounds)
    outputs = [tensor.name for tensor in signature.outputs]
    traced_in = default_opset(info.precision)
    model = traced(module.eval(), example, signature.input.name, outputs, shapes, opset=traced_in)
    _drop_repeated_relu(model)
    model = in_opset(model, traced_in if opset is None else opset)
    set_metadata(model, info)
    onnx.checker.check_model(model, full_check=True)
    check_signature(model, info)
    return model


def traced(
    module: nn.Module,
    example: Tensor,
    name: str,
    outputs: Sequence[str],
    shapes: Mapping[int, Any],
    *,
    opset: int,
) -> Any:
    """A module of one input as an ``onnx.ModelProto``.

    Args:
        module: in evaluation mode.
        example: an input.
        name: of the input.
        outputs: their names.
        shapes: dimension to ``torch.export.Dim``, for those that are dynamic.
        opset: of the file.
    """
    with _quiet():
        program: Any = torch.onnx.export(
            module,
            (example,),
            input_names=[name],
            output_names=list(outputs),
            dynamic_shapes=(dict(shapes),),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return finished(program.model_proto)


def finished(model: Any) -> Any:
    """The model without the notes of those who made it, and for the oldest runtimes that can read it.

    Exporters note on every node the lines of Python it comes from: paths of this machine, and 13 % of a small
    file. The lowest IR version is that of the ONNX release which brought the opset: a runtime that has the
    operators reads it, and no type of ours is newer than the opset that uses it.

    Args:
        model: ``onnx.ModelProto``; it is changed. Its own properties are emptied, too.
    """
    _drop_notes(model)
    model.ir_version = require_onnx().helper.find_min_ir_version_for(model.opset_import)
    return model


def _drop_notes(message: Any) -> None:
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for each in [value] if hasattr(value, "ListFields") else value:
                _drop_notes(each)


def in_opset(model: Any, opset: int) -> Any:
    """The same model in another opset.

    Args:
        model: ``onnx.ModelProto`` of the default opset or a later one; it may be changed.
        opset: from :data:`LOWEST_OPSETS` to :data:`HIGHEST_OPSET`.
    """
    if any(each.domain == "" and each.version == opset for each in model.opset_import):
        return model
    from onnx.version_converter import convert_version

    for node in model.graph.node:
        # The converter leaves this in place, though older opsets do not have it; without it, it is 0.
        for attribute in [each for each in node.attribute if each.name == "noop_with_empty_axes"]:
            node.attribute.remove(attribute)
    # It has no step from Pad 18 to Pad 13, which only lacks a fourth input: Pad passes in another domain.
    pads = [node for node in model.graph.node if node.op_type == "Pad" and len(node.input) <= 3]
    names = {node.name for node in pads}
    for node in pads:
        node.domain = _OTHER
    model.opset_import.add(domain=_OTHER, version=1)
    changed = convert_version(model, opset)
    for node in changed.graph.node:
        if node.domain == _OTHER and node.name in names:
            node.domain = ""
    for each in [each for each in changed.opset_import if each.domain == _OTHER]:
        changed.opset_import.remove(each)
    return finished(changed)


def export_onnx(
    net: TwoBranchNet, config: Config, path: str | os.PathLike[str], *, opset: int | None = None, **info: Any
) -> None:
    """Write a network that is in memory as an ONNX file; ``info`` and errors as :func:`model_info`."""
    save_onnx(build_onnx(net, model_info(net, config, **info), opset=opset), path)


def save_onnx(model: Any, path: str | os.PathLike[str]) -> None:
    """Write an ``onnx.ModelProto`` and a checksum over the whole file, whole or not at all."""
    kept = [each for each in model.metadata_props if each.key not in checksum.properties()]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for name, value in checksum.properties().items():
        model.metadata_props.add(key=name, value=value)
    with atomic_path(path) as temporary:
        require_onnx().save(model, temporary)
        checksum.write_checksum(temporary)


def replace_decoding(
    path: str | os.PathLike[str], target: str | os.PathLike[str], decode: DecodeConfig
) -> None:
    """Write an exported ONNX file with other settings of the decoding; ``target`` may be ``path``.

    Raises:
        ModelError: it is not a model of ours.
        DataError: a place that cannot be written to.
    """
    source = require_file(path, "model file")
    info = parse_info(read_onnx(source), source)
    model = require_onnx().load(source)
    set_metadata(model, replace(info, config=replace(info.config, decode=decode)))
    save_onnx(model, target)


def require_onnx() -> Any:
    """The onnx package.

    Raises:
        UnavailableError: it, or onnxscript, is not installed.
    """
    with needs("export", "exporting"):
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    return onnx


def set_metadata(model: Any, info: ModelInfo | SegmentInfo) -> None:
    """Write what the file says about itself into an ONNX model's properties."""
    properties, normalised = {METADATA_KEY: info.to_json()}, True
    if isinstance(info, ModelInfo):
        config = info.config
        properties["classes"] = json.dumps(config.classes, ensure_ascii=False)
        properties["preset"] = config.preset
        properties["frame_rate"] = repr(config.data.fps)
        normalised = config.model.standardize_input
    properties["normalisation"] = "in the graph" if normalised else "none"
    properties["precision"] = info.precision
    properties["weights_sha256"] = info.weights
    require_onnx().helper.set_model_props(model, properties)


def check_signature(model: Any, info: ModelInfo | SegmentInfo) -> None:
    """Infer every shape strictly and compare inputs and outputs with what consumers rely on.

    Raises:
        RuntimeError: the exporter wrote something else; a fault of this package, not of the user's.
    """
    onnx = require_onnx()
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    expected = {name: (tensor.onnx_type, tensor.sizes) for name, tensor in signature_of(info).tensors.items()}
    actual = {}
    for value in [*inferred.graph.input, *inferred.graph.output]:
        tensor = value.type.tensor_type
        dtype = onnx.TensorProto.DataType.Name(tensor.elem_type)
        actual[value.name] = (dtype, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim])
    if actual != expected:
        raise RuntimeError(f"ONNX export: expected inputs and outputs {expected}, got {actual}")


def _drop_repeated_relu(model: Any) -> None:
    """Take out a ReLU of what is a cast ReLU already, so that the narrow one can fuse with its product."""
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type == "Relu"]:
        cast = producer.get(node.input[0])
        if cast is None or cast.op_type != "Cast":
            continue
        before = producer.get(cast.input[0])
        if before is not None and before.op_type == "Relu":
            for user in graph.node:
                for place, name in enumerate(user.input):
                    if name == node.output[0]:
                        user.input[place] = node.input[0]
            graph.node.remove(node)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter reports its passes on stdout and through warnings; an error still comes through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
