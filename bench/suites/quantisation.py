"""Ways of quantising a trained network, by what they do to its accuracy.

    python -m aicl_fast.bench quantisation --json bench/results/quantisation-demo.json

Each quantiser gets the same network and the same calibration features (drawn by every seed), and may
quantise the same three convolutions. A row is one of them: mAP of the data set's test recordings and how far
its outputs are from float32's, run in ONNX Runtime, over the seeds. NNCF and ModelOpt are no dependencies of
the package; one that is not installed is named with that reason, as is a file that ONNX Runtime refuses.
"""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aicl_fast import Detector
from aicl_fast.bench.harness import suite
from aicl_fast.bench.harness.arguments import count
from aicl_fast.data.dataset import Dataset
from aicl_fast.data.features import Floats
from aicl_fast.errors import AiclError
from aicl_fast.export.onnx import build_onnx, model_info, require_onnx, set_metadata
from aicl_fast.export.parity import Parity, compare_detectors
from aicl_fast.export.quantize import calibration_features, embeddings, ort_quantised, prepared, quantize_onnx
from aicl_fast.metadata import ModelInfo, Precision
from aicl_fast.weights import load_model

Quantiser = Callable[[Any, ModelInfo, Sequence[Floats]], Any]
"""(float32 model, what the file says of itself, features) to a quantised model."""

PACKAGES = ("onnx", "onnxruntime", "nncf", "nvidia-modelopt")


def own(model: Any, info: ModelInfo, features: Sequence[Floats]) -> Any:
    """What ``aicl-fast export`` writes."""
    return quantize_onnx(model, info, features)


def by_onnx_runtime(model: Any, info: ModelInfo, features: Sequence[Floats], **settings: Any) -> Any:
    """ONNX Runtime's quantiser with other settings."""
    return ort_quantised(prepared(model, info), features, **settings)


def by_nncf(model: Any, info: ModelInfo, features: Sequence[Floats], *, mean: bool = True) -> Any:
    """NNCF; its ranges are means over the recordings' smallest and largest values, or these themselves."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = prepared(model, info)
    wide = {node.name for node in embeddings(model)}
    moved = ("Transpose", "Slice")
    others = [n.name for n in model.graph.node if n.op_type not in moved and n.name not in wide]
    advanced = AdvancedQuantizationParameters()
    if not mean:
        advanced.activations_range_estimator_params = RangeEstimatorParametersSet.MINMAX
    return nncf.quantize(
        model,
        nncf.Dataset([{model.graph.input[0].name: each} for each in features]),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(features),
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
        advanced_parameters=advanced,
    )


def by_modelopt(model: Any, info: ModelInfo, features: Sequence[Floats], *, method: str) -> Any:
    """NVIDIA's ModelOpt, calibrated on the CPU."""
    import modelopt.onnx.quantization as modelopt

    onnx = require_onnx()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "narrow.onnx")
        onnx.save(model, source)
        modelopt.quantize(
            str(source),
            quantize_mode=info.precision,
            calibration_data={model.graph.input[0].name: np.concatenate(features)},
            calibration_method=method,
            calibration_eps=["cpu"],
            nodes_to_quantize=[node.name for node in embeddings(model)],
            high_precision_dtype="fp32",
            output_path=str(target),
            log_level="ERROR",
        )
        return onnx.load(target)


class Way(NamedTuple):
    """One row: what is made of which network."""

    precision: Precision
    quantise: Quantiser
    winograd: bool = False
    """The embeddings as Winograd's products."""


# ModelOpt replaces parts of ONNX Runtime's quantiser when it is imported, so it comes last.
QUANTISERS: Mapping[str, Way] = {
    "as exported": Way("int8", own),
    "as exported, Winograd": Way("int8", own, winograd=True),
    "ONNX Runtime, results in float32": Way("int8", partial(by_onnx_runtime, outputs=False)),
    "ONNX Runtime, entropy": Way("int8", partial(by_onnx_runtime, method="Entropy")),
    "ONNX Runtime, percentile": Way("int8", partial(by_onnx_runtime, method="Percentile")),
    "as exported, fp8": Way("fp8", own),
    "ONNX Runtime, fp8": Way(
        "fp8", partial(by_onnx_runtime, outputs=False, method="Distribution", kind="QFLOAT8E4M3FN")
    ),
    "NNCF": Way("int8", by_nncf),
    "NNCF, smallest and largest": Way("int8", partial(by_nncf, mean=False)),
    "ModelOpt, largest": Way("int8", partial(by_modelopt, method="max")),
    "ModelOpt, entropy": Way("int8", partial(by_modelopt, method="entropy")),
    "ModelOpt, fp8": Way("fp8", partial(by_modelopt, method="max")),
}


def measure(
    weights: Path, data: Path, videos: int, seeds: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Quantise in every way with every seed's features and compare with float32.

    Args:
        weights: ``model.safetensors``.
        data: its data set.
        videos: recordings that calibrate.
        seeds: draws of them.
    Returns:
        A row a quantiser, and the reasons of those skipped.
    """
    net, config = load_model(weights)
    dataset = Dataset.open(data, config, splits=("test",))
    models = [build_onnx(net, model_info(net, config), winograd=winograd) for winograd in (False, True)]
    rows, left_out = [], {}
    for name, way in QUANTISERS.items():
        info = model_info(net, config, precision=way.precision)
        found = []
        try:
            for seed in range(seeds):
                features = calibration_features(data, config, videos=videos, seed=seed)
                quantised = way.quantise(models[way.winograd], info, features)
                found.append(_compare(weights, quantised, info, dataset))
        except ImportError as error:
            left_out[name] = str(error)
        except AiclError as error:
            left_out[name] = (
                str(error).rpartition("ONNX Runtime cannot load it ")[2].partition(". Expected")[0]
            )
        else:
            rows.append(_row(name, way.precision, found))
    return rows, left_out


def _compare(weights: Path, quantised: Any, info: ModelInfo, dataset: Dataset) -> Parity:
    set_metadata(quantised, info)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "narrow.onnx")
        require_onnx().save(quantised, path)
        with Detector(weights) as reference, Detector(path) as narrow:
            return compare_detectors([reference, narrow], dataset, runs=1)[1]


def _row(name: str, precision: str, found: Sequence[Parity]) -> dict[str, Any]:
    largest = {
        each.output: max(parity.differences[place].absolute for parity in found)
        for place, each in enumerate(found[0].differences)
    }
    return {
        "quantiser": name,
        "precision": precision,
        "mAP": [parity.mAP for parity in found],
        "largest_error": largest,
        "fp32_mAP": found[0].reference_mAP,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and print, and record where ``--json`` says."""
    parser = suite.parser(__doc__, model=Path("runs/demo/model.safetensors"), data=Path("runs/demo/data"))
    parser.add_argument("--videos", type=count, default=32, help="that calibrate (32)")
    parser.add_argument("--seeds", type=count, default=5, help="draws of these videos (5)")
    options = parser.parse_args(arguments)
    rows, left_out = measure(options.model, options.data, options.videos, options.seeds)
    for name, why in left_out.items():
        print(f"{name:34} skipped: {why}")
    sizes = {"videos": options.videos, "seeds": options.seeds, "left_out": left_out}
    suite.show("quantisation", rows, **sizes)
    suite.record(options.json, "quantisation", rows, **sizes, quantisers=_versions())


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
