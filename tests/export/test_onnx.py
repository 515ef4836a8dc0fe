"""The exported graph: its interface, its precision, and that a failure leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from aicl_fast.config import load_config  # noqa: E402
from aicl_fast.engine import OnnxRuntimeEngine  # noqa: E402
from aicl_fast.export.onnx import INPUT, OPSET, OUTPUTS, export_onnx  # noqa: E402
from aicl_fast.kernels import topk_pool  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402


def test_the_graphs_interface(tiny_model: Path) -> None:
    model = onnx.load(tiny_model.with_suffix(".onnx"))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert [i.name for i in model.graph.input] == [INPUT]
    assert tuple(o.name for o in model.graph.output) == OUTPUTS
    (batch, segments, width) = model.graph.input[0].type.tensor_type.shape.dim
    assert (batch.dim_param, segments.dim_value, width.dim_value) == ("batch", 32, 11)
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties["classes"] == "Jump,Run,Throw"
    assert properties["frame_rate"] == "50"


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_real_size_equals_torch(tmp_path: Path, batch: int) -> None:
    config = load_config("thumos14")
    torch.manual_seed(0)
    net = TwoBranchNet(config)
    export_onnx(net, config, tmp_path / "m.onnx")
    features = np.random.default_rng(batch).random((batch, 750, 2048), dtype=np.float32)
    actual = OnnxRuntimeEngine(tmp_path / "m.onnx")(features)
    with torch.no_grad():
        expected = net(torch.from_numpy(features))
        logits, _ = topk_pool(expected.CAS, expected.A_score, config.topk)
    np.testing.assert_allclose(actual.scores, expected.A_score.numpy(), atol=2e-6)
    np.testing.assert_allclose(actual.video_scores, logits.softmax(1).numpy(), atol=2e-6)
    np.testing.assert_allclose(actual.actionness, expected.A.numpy(), atol=2e-6)
    np.testing.assert_allclose(actual.actionness_agnostic, expected.A_ca.numpy(), atol=2e-6)


def test_equal_scores_are_ranked_by_index(tmp_path: Path, tiny_config) -> None:
    """All fused scores alike: the first k segments are pooled, here as in torch."""
    torch.manual_seed(0)
    net = TwoBranchNet(tiny_config.with_values({"fusion_gamma": 0.0}))
    for head in (net.actionness_rgb, net.actionness_flow):
        torch.nn.init.zeros_(head.weight)
    export_onnx(net, tiny_config, tmp_path / "m.onnx")
    features = np.random.default_rng(0).random((3, 32, 11), dtype=np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(features)).CAS[:, : tiny_config.topk].mean(1).softmax(1)
    actual = OnnxRuntimeEngine(tmp_path / "m.onnx")(features)
    np.testing.assert_allclose(actual.video_scores, expected.numpy(), atol=1e-6)


def test_a_failed_export_leaves_no_file(tmp_path: Path, tiny_config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(onnx, "save", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        export_onnx(TwoBranchNet(tiny_config), tiny_config, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
