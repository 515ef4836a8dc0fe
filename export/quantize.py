"""int8 by post-training quantisation: real features in, an ONNX graph with explicit Q/DQ pairs out.

Only the three kernel-3 convolutions, 99 % of the work, are quantised: weights a channel, activations a
tensor. Heads, softmax and sigmoids stay in float32.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aicl_fast.config import Config
from aicl_fast.dataset import Dataset
from aicl_fast.errors import DataError, UnavailableError
from aicl_fast.export.onnx import INPUT, require_onnx, set_metadata
from aicl_fast.features import Floats, sample_indices
from aicl_fast.metadata import ModelInfo

VIDEOS = 32
"""How many videos calibrate, where there are as many."""


def calibration_features(
    folder: str | Path, config: Config, *, videos: int = VIDEOS, seed: int = 0
) -> list[Floats]:
    """Features of some training videos of a data set, sampled to T as for inference.

    Args:
        folder: a data set folder, see :mod:`aicl_fast.dataset`.
        config: the model's settings.
        videos: how many at most.
        seed: chooses which.
    Returns:
        (1, T, D) arrays.
    Raises:
        DataError: not a data set, or its features do not fit the model.
    """
    dataset = Dataset.open(folder, config, splits=("train",), allow_missing=True)
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
        found.append(features[sample_indices(len(features), config.data.segments)][None])
    return found


def quantize_onnx(model: Any, info: ModelInfo, features: Sequence[Floats]) -> Any:
    """Quantise a float32 ONNX model.

    Args:
        model: from :func:`aicl_fast.export.onnx.build_onnx`, float32.
        info: what the result will say about itself.
        features: (1, T, D) arrays to calibrate with, see :func:`calibration_features`.
    Returns:
        An ``onnx.ModelProto``; the same for the same features.
    Raises:
        DataError: no features.
        UnavailableError: onnx or onnxruntime is not installed.
    """
    onnx = require_onnx()
    try:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as error:
        raise UnavailableError(f"int8 needs onnxruntime ({error}): pip install onnxruntime") from error
    if not features:
        raise DataError("--calibrate: no features to calibrate with.")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Floats] = iter(features)

        def get_next(self) -> dict[str, Floats] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: np.ascontiguousarray(batch, np.float32)}

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
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=_embeddings(model),
                calibrate_method=CalibrationMethod.MinMax,
                # TensorRT takes symmetric quantisation and float biases only.
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
        finally:
            logger.setLevel(level)
        quantised = onnx.load(target)
    set_metadata(quantised, info)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _embeddings(model: Any) -> list[str]:
    """The names of the kernel-3 convolutions."""
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and any(
            attribute.name == "kernel_shape" and list(attribute.ints) == [3] for attribute in node.attribute
        )
    ]
