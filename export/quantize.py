"""int8 and fp8 by post-training quantisation: real features in, an ONNX graph with explicit Q/DQ pairs out.

Only the three kernel-3 convolutions, 99 % of the work, are quantised: weights a channel, activations a
tensor. Heads, softmax and sigmoids stay in float32. ``aicl-fast bench quantisation``
compares ways of doing this.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.config import Config
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.features import Floats
from aicl_fast.data.sampling import sample
from aicl_fast.engines.packages import import_onnxruntime
from aicl_fast.errors import DataError
from aicl_fast.export.onnx import (
    check_opset,
    default_opset,
    finished,
    in_opset,
    require_onnx,
    set_metadata,
)
from aicl_fast.metadata import ModelInfo

VIDEOS = 32
"""How many videos calibrate, where there are as many."""

_LARGEST_INT8 = 127
_LARGEST_FP8 = 448
_HEADROOM = 2
"""How much larger than any calibrated one an activation may be before float8 clips it. A power of two costs
nothing: rounding is relative to the value."""


def calibration_features(
    folder: str | Path,
    config: Config,
    *,
    videos: int = VIDEOS,
    seed: int = 0,
    allow_missing: bool = False,
) -> list[Floats]:
    """Features of some training videos of a data set, sampled to T as for inference.

    Args:
        folder: a data set folder, see :mod:`aicl_fast.data.dataset`.
        config: the model's settings.
        videos: how many at most.
        seed: chooses which.
        allow_missing: leave out videos without features, instead of raising.
    Returns:
        (1, T, D) arrays.
    Raises:
        DataError: not a data set, or its features do not fit the model.
    """
    dataset = Dataset.open(folder, config, splits=("train",), allow_missing=allow_missing)
    names = dataset.videos["train"]
    chosen = np.random.default_rng(seed).permutation(len(names))[:videos]
    found = []
    for index in sorted(chosen):
        features = dataset.features("train", names[index])
        if features.shape[1] != config.data.input_width:
            raise DataError(
                f"{folder}: {names[index]} has {features.shape[1]} features a segment; the model reads "
                f"{config.data.input_width}."
            )
        found.append(sample([[features]], config.data.segments))
    return found


def quantize_onnx(
    model: Any, info: ModelInfo, features: Sequence[Floats], *, opset: int | None = None
) -> Any:
    """Quantise a float32 ONNX model.

    Args:
        model: from :func:`aicl_fast.export.onnx.build_onnx`, float32; it is left as it is. With Winograd's
            products these are what is quantised, each of its six inputs on a scale of its own; int8 only.
        info: what the result will say about itself; its precision, ``int8`` or ``fp8``, is made.
        features: (1, T, D) arrays to calibrate with, see :func:`calibration_features`.
        opset: None is 19 for int8 and 21 for fp8.
    Returns:
        An ``onnx.ModelProto``; the same for the same features.
    Raises:
        ConfigError: an opset that cannot be written.
        DataError: no features.
        UnavailableError: onnx or onnxruntime is not installed.
    """
    onnx = require_onnx()
    check_opset(opset, info.precision)
    if not features:
        raise DataError("--calibrate: no features to calibrate with.")
    plain = prepared(model, info)
    if info.precision == "fp8":
        quantised = _as_float8(ort_quantised(plain, features, outputs=False), plain)
    else:
        # ONNX Runtime has an int8 convolution only where the result is int8, too. Sums of products stay wide.
        direct = all(node.op_type == "Conv" for node in embeddings(plain))
        quantised = ort_quantised(plain, features, outputs=direct)
    quantised = finished(in_opset(quantised, default_opset(info.precision) if opset is None else opset))
    set_metadata(quantised, info)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def prepared(model: Any, info: ModelInfo) -> Any:
    """A float32 model as the quantisers take it: streams sliced first, weights where they are read, in the
    first opset that the result can have."""
    require_onnx()
    from onnxscript.optimizer import optimize

    # Winograd's six matrices are slices of one constant; by default large constants are left alone.
    folded = optimize(slices_first(model), input_size_limit=1 << 31, output_size_limit=1 << 31)
    return in_opset(folded, default_opset(info.precision))


def slices_first(model: Any) -> Any:
    """The same network with each stream sliced before it is transposed: no transpose has two readers.

    Engines cancel a transpose against the layout of the one convolution that reads it, and ONNX Runtime
    fuses a Q/DQ pair with its only reader.

    Args:
        model: ``onnx.ModelProto``; it is left as it is.
    """
    onnx = require_onnx()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    axes = {each.name: each for each in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    nodes = []
    for node in graph.node:
        turned = producer.get(node.input[0]) if node.op_type == "Slice" else None
        if turned is None or turned.op_type != "Transpose":
            nodes.append(node)
            continue
        (permutation,) = turned.attribute
        (axis,) = onnx.numpy_helper.to_array(axes[node.input[3]])
        before = np.array([permutation.ints[axis]], np.int64)
        name, out = f"{node.name}_axis", node.output[0]
        graph.initializer.append(onnx.numpy_helper.from_array(before, name))
        inputs = [turned.input[0], node.input[1], node.input[2], name, *node.input[4:]]
        nodes.append(onnx.helper.make_node("Slice", inputs, [f"{out}_rows"], name=node.name))
        nodes.append(onnx.helper.make_node("Transpose", [f"{out}_rows"], [out], name=f"{node.name}_turned"))
        nodes[-1].attribute.append(permutation)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return changed


def ort_quantised(
    model: Any,
    features: Sequence[Floats],
    *,
    outputs: bool = True,
    method: str = "MinMax",
    kind: str = "QInt8",
) -> Any:
    """The embeddings quantised by ONNX Runtime's own quantiser.

    Args:
        model: from :func:`prepared`.
        features: (1, T, D) arrays to calibrate with.
        outputs: quantise the convolutions' results too.
        method: how a range is found; ``MinMax`` is the smallest and largest value seen.
        kind: its ``QuantType``.
    Raises:
        UnavailableError: onnxruntime is not installed.
    """
    onnx = require_onnx()
    import_onnxruntime()
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    (name,) = (value.name for value in model.graph.input)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Floats] = iter(features)

        def get_next(self) -> dict[str, Floats] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: np.ascontiguousarray(batch, np.float32)}

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.ERROR)  # it recommends a step on the root logger that changes nothing here
        try:
            quantize_static(
                str(source),
                str(target),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType[kind],
                weight_type=QuantType[kind],
                nodes_to_quantize=[node.name for node in embeddings(model)],
                calibrate_method=CalibrationMethod[method],
                # TensorRT takes symmetric quantisation and float biases only.
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": [] if outputs else ["Conv", "MatMul"],
                },
            )
        finally:
            logger.setLevel(level)
        return onnx.load(target)


def _as_float8(quantised: Any, plain: Any) -> Any:
    """An int8 graph's Q/DQ pairs in float8 (e4m3fn), with the ranges that its scales say.

    ONNX Runtime's quantiser writes float8 too, but scales by standard deviation, and clips.
    """
    onnx = require_onnx()
    import ml_dtypes  # torch's exporter needs it, too

    def put(name: str, values: Any) -> None:
        kind = onnx.TensorProto.FLOAT if values.dtype == np.float32 else onnx.TensorProto.FLOAT8E4M3FN
        new = onnx.helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True)
        tensors[name].CopyFrom(new)

    changed = onnx.ModelProto()
    changed.CopyFrom(quantised)
    del changed.graph.value_info[:]  # of int8
    tensors = {each.name: each for each in changed.graph.initializer}
    producer = {name: node for node in changed.graph.node for name in node.output}
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in plain.graph.initializer}
    own = {node.name: weights[node.input[1]] for node in embeddings(plain)}
    inputs = {}
    for node in embeddings(changed):
        weight, scale, zero = producer[node.input[1]].input
        values = own[node.name]
        step = np.abs(values).max(axis=(1, 2)) / np.float32(_LARGEST_FP8)
        step[step == 0] = 1  # a channel of zeros
        put(weight, (values / step[:, None, None]).astype(ml_dtypes.float8_e4m3fn))
        put(scale, step)
        put(zero, np.zeros(len(step), ml_dtypes.float8_e4m3fn))
        _, scale, zero = producer[node.input[0]].input
        inputs[scale] = zero  # two convolutions may read one pair
    for scale, zero in inputs.items():
        largest = onnx.numpy_helper.to_array(tensors[scale]) * np.float32(_LARGEST_INT8)
        put(scale, np.asarray(_HEADROOM * largest / _LARGEST_FP8, np.float32))
        put(zero, np.zeros((), ml_dtypes.float8_e4m3fn))
    return changed


def embeddings(model: Any) -> list[Any]:
    """The products that make the embeddings: the kernel-3 convolutions, or Winograd's matrix products."""
    constants = {each.name: list(each.dims) for each in model.graph.initializer}
    activated = {name for node in model.graph.node if node.op_type == "Relu" for name in node.output}
    return [
        node
        for node in model.graph.node
        if (node.op_type == "Conv" and _kernel(node) == [3])
        # The heads read what a ReLU leaves.
        or (node.op_type == "MatMul" and node.input[1] in constants and node.input[0] not in activated)
    ]


def _kernel(node: Any) -> list[int]:
    sizes = [list(each.ints) for each in node.attribute if each.name == "kernel_shape"]
    return sizes[0] if sizes else []
