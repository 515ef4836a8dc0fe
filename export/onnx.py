"""Trained weights to ONNX: everything up to fused scores and video scores is in the graph."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from aicl_fast.config import Config
from aicl_fast.errors import UnavailableError
from aicl_fast.files import atomic_path
from aicl_fast.metadata import METADATA_KEY, model_metadata
from aicl_fast.model import TwoBranchNet

OPSET = 18
INPUT = "features"
OUTPUTS = ("scores", "video_scores", "actionness", "actionness_agnostic")


class LocalizationNet(nn.Module):
    """The network as it is deployed: features in, the four results that localisation needs out.

    Top-k pooling is part of it, so that no consumer of the file writes it again.
    """

    def __init__(self, net: TwoBranchNet, k: int) -> None:
        super().__init__()
        self.net = net
        self.k = k

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run B videos.

        Args:
            features: (B, T, D) float32.
        Returns:
            ``scores`` (B, T, C) fused A_score, ``video_scores`` (B, C) softmax of the video logits,
            ``actionness`` (B, T) A, ``actionness_agnostic`` (B, T) A_ca.
        """
        outputs = self.net(features)
        # ONNX's TopK breaks ties by the lowest index, as aicl_fast.kernels.topk_pool does.
        best = outputs.A_score.topk(self.k, dim=1).indices
        video_scores = outputs.CAS.gather(1, best).mean(1).softmax(-1)
        return outputs.A_score, video_scores, outputs.A, outputs.A_ca


def export_onnx(net: TwoBranchNet, config: Config, path: str | os.PathLike[str]) -> None:
    """Write the network as one ONNX file (opset 18) that :class:`aicl_fast.Detector` needs nothing beside.

    The batch is dynamic, T is the preset's. The file's metadata carries the settings, the class names
    and the package's version. It is checked by onnx before it replaces ``path``.

    Args:
        net: trained weights.
        config: its settings.
        path: the file to write, whole or not at all.
    Raises:
        UnavailableError: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise UnavailableError(
            f"exporting needs the packages onnx and onnxscript ({error}): pip install 'aicl-fast[export]'"
        ) from error
    module = LocalizationNet(net.cpu().eval(), config.topk)
    data = config.data
    # A batch of two: the exporter takes a dimension of size one for a constant.
    example = torch.zeros(2, data.segments, data.input_width)
    with _quiet():
        program: Any = torch.onnx.export(
            module,
            (example,),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={"features": {0: torch.export.Dim("batch", min=1)}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = program.model_proto
    onnx.helper.set_model_props(
        model,
        {
            METADATA_KEY: model_metadata(config),
            "classes": ",".join(config.classes),
            "preset": config.preset,
            "frame_rate": f"{data.fps:g}",
        },
    )
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


@contextlib.contextmanager
def _quiet() -> Any:
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
