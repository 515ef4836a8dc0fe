"""Every loss term, mined segment and gradient against the authors' program, and the corners it has not."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import Config, load_config  # noqa: E402
from aicl_fast.errors import DataError  # noqa: E402
from aicl_fast.kernels import mine_segments, topk_pool  # noqa: E402
from aicl_fast.model import TwoBranchNet, TwoBranchOutputs  # noqa: E402
from aicl_fast.train.losses import (  # noqa: E402
    aicl_loss,
    generalized_cross_entropy,
    pseudo_labels,
)

# The recorded inputs' names for the six convolutions, and the network's.
_NAMES = {
    "f": "embed",
    "cls": "classify",
    "f_rgb": "embed_rgb",
    "cls_rgb": "actionness_rgb",
    "f_flow": "embed_flow",
    "cls_flow": "actionness_flow",
}
_TERMS = {
    "L_a": "action",
    "L_ca_rgb": "agnostic_rgb",
    "L_ca_flow": "agnostic_flow",
    "L_c_fused": "contrast_fused",
    "L_c_rgb": "contrast_rgb",
    "L_c_flow": "contrast_flow",
    "L_mc": "modality",
    "L_ac": "consistency",
    "total": "total",
}


def _inputs_module(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_inputs", folder / "inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(
    scope="module",
    params=[(dtype, way) for dtype in ("float64", "float32") for way in ("direct", "winograd")],
    ids=lambda each: "-".join(each),
)
def run(request: pytest.FixtureRequest, goldens: Path):
    """(golden, network, outputs, loss terms) with gradients, and the tolerance of the precision."""
    inputs = _inputs_module(goldens)
    golden = np.load(goldens / "train_seed7.npz", allow_pickle=False)
    dtype = getattr(torch, request.param[0])
    seed, length, batch = int(golden["seed"]), int(golden["T"]), int(golden["B"])
    net = TwoBranchNet(load_config("thumos14", overrides=[f"segments={length}"])).to(dtype)
    state = {}
    for key, value in inputs.parameters(seed).items():
        conv, kind = key.rsplit(".", 1)
        state[f"{_NAMES[conv]}.{kind}"] = torch.from_numpy(value)
    net.load_state_dict(state)
    net.winograd = request.param[1] == "winograd"
    outputs = net(torch.from_numpy(inputs.features(seed, length, batch)).to(dtype))
    labels = torch.from_numpy(golden["labels"]).to(dtype)
    terms = aicl_loss(outputs, labels, load_config("thumos14"))
    terms["total"].backward()
    return golden, net, outputs, terms, {"float64": 1e-6, "float32": 1e-4}[request.param[0]]


def test_outputs_equal_the_authors(run) -> None:
    golden, _, outputs, _, tolerance = run
    names = {"cas": "CAS", "a_rgb": "A_rgb", "a_flow": "A_flow", "A": "A", "A_ca": "A_ca"}
    for recorded, ours in names.items():
        actual = getattr(outputs, ours).detach().numpy()
        np.testing.assert_allclose(actual, golden[recorded], rtol=tolerance, atol=tolerance)


def test_loss_terms_equal_the_authors(run) -> None:
    golden, _, _, terms, tolerance = run
    for recorded, ours in _TERMS.items():
        assert terms[ours].item() == pytest.approx(float(golden[recorded]), rel=tolerance), ours


def test_selection_equals_the_authors(run) -> None:
    golden, _, outputs, _, tolerance = run
    if tolerance > 1e-6:
        pytest.skip("float32 may order near-equal segments differently")
    pooled, selected = topk_pool(outputs.CAS, outputs.A_score, golden["topk_indices"].shape[1])
    expected = np.zeros(selected.shape, bool)
    np.put_along_axis(expected, golden["topk_indices"], True, axis=1)
    np.testing.assert_array_equal(selected.numpy(), expected)
    np.testing.assert_allclose(pooled.detach().numpy(), golden["video_logits"], rtol=1e-6)
    labels = torch.from_numpy(golden["labels"])
    np.testing.assert_array_equal(pseudo_labels(selected, labels).numpy(), golden["pseudo_label"])


def test_mined_segments_equal_the_authors(run) -> None:
    golden, _, outputs, _, tolerance = run
    mining = mine_segments(outputs.A, outputs.A_ca, outputs.A.shape[1] // 20)
    for region in ("CA", "CB", "IA", "IB"):
        mask = getattr(mining, region.lower()).to(outputs.E.dtype)
        mean = (mask.unsqueeze(2) * outputs.E).sum(1) / mask.sum(1, keepdim=True)
        np.testing.assert_allclose(
            mean.detach().numpy(), golden[f"mean_{region}"], rtol=10 * tolerance, atol=10 * tolerance
        )


def test_gradients_equal_the_authors(run) -> None:
    golden, net, _, _, tolerance = run
    for recorded, ours in _NAMES.items():
        for kind in ("weight", "bias"):
            # A float32 norm over three million values is itself off by 1e-4.
            gradient = getattr(getattr(net, ours), kind).grad.flatten().double()
            norm = float(golden[f"grad_norm.{recorded}.{kind}"])
            assert gradient.norm().item() == pytest.approx(norm, rel=tolerance)
            head = golden[f"grad_head.{recorded}.{kind}"].ravel()
            np.testing.assert_allclose(
                gradient[: len(head)].numpy(), head, rtol=tolerance, atol=tolerance * norm
            )


def _random_outputs(batch: int, length: int, width: int, classes: int, seed: int = 0) -> TwoBranchOutputs:
    config = _small_config(length, width, classes)
    torch.manual_seed(seed)
    return TwoBranchNet(config).double()(torch.rand(batch, length, 12, dtype=torch.float64))


def _small_config(length: int, width: int, classes: int, *more: str) -> Config:
    config = load_config("thumos14", overrides=["rgb_width=6", "flow_width=6", f"segments={length}", *more])
    config = replace(config, classes=())
    return config.with_values({"embedding_width": width, "num_classes": classes})


def test_paper_variant_halves_the_agreement_gradients_and_drops_an_embedding() -> None:
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    results: dict[str, tuple[dict[str, torch.Tensor], torch.Tensor]] = {}
    for variant in ("released", "paper"):
        outputs = _random_outputs(2, 40, 8, 3)
        terms = aicl_loss(outputs, labels, _small_config(40, 8, 3, f"variant={variant}"))
        (gradient,) = torch.autograd.grad(terms["modality"], outputs.A_rgb, retain_graph=True)
        results[variant] = terms, gradient
    released, paper = results["released"], results["paper"]
    assert torch.equal(released[0]["modality"], paper[0]["modality"])
    torch.testing.assert_close(paper[1], released[1] / 2)
    assert released[0]["contrast_fused"] > 0
    assert paper[0]["contrast_fused"] == 0


@pytest.mark.parametrize("length", [2, 3, 20, 41])
def test_all_equal_scores_leave_finite_losses_and_gradients(length: int) -> None:
    config = _small_config(length, 8, 3)
    net = TwoBranchNet(config).double()
    torch.nn.init.zeros_(net.classify.weight)
    torch.nn.init.zeros_(net.actionness_rgb.weight)
    torch.nn.init.zeros_(net.actionness_flow.weight)
    terms = aicl_loss(net(torch.rand(1, length, 12).double()), torch.eye(3)[:1].double(), config)
    terms["total"].backward()
    # Nothing is above its median, so all of it is consistent background and no pair is complete.
    assert terms["contrast_fused"] == 0
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_short_region_of_one_video_leaves_the_others_alone() -> None:
    outputs = _random_outputs(3, 40, 8, 3, seed=3)
    flat = outputs._replace(A=outputs.A.clone(), A_ca=outputs.A_ca.clone())
    flat.A[1] = 0.5
    flat.A_ca[1] = 0.5
    config = _small_config(40, 8, 3)
    mixed = aicl_loss(flat, torch.eye(3).double(), config)
    pair = [0, 2]
    without = TwoBranchOutputs(*(value[pair] for value in outputs))
    alone = aicl_loss(without, torch.eye(3)[pair].double(), config)
    assert mixed["contrast_rgb"].item() == pytest.approx(alone["contrast_rgb"].item() * 2 / 3)


def test_warm_up_selects_by_the_class_branch_alone() -> None:
    outputs = _random_outputs(2, 40, 8, 3, seed=5)
    labels = torch.eye(3)[:2].double()
    terms = aicl_loss(outputs, labels, _small_config(40, 8, 3), selection_gamma=1.0)
    pooled, _ = topk_pool(outputs.CAS, outputs.CAS.softmax(-1), 5)
    expected = -(labels * pooled.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(terms["action"], expected)


def test_weights_of_zero_leave_terms_out() -> None:
    outputs = _random_outputs(2, 40, 8, 3)
    off = ["weight_agnostic=0", "weight_contrast=0", "weight_modality=0", "weight_consistency=0"]
    terms = aicl_loss(outputs, torch.eye(3)[:2].double(), _small_config(40, 8, 3, *off))
    assert terms["total"] == terms["action"]
    assert terms["agnostic_rgb"] == terms["contrast_rgb"] == terms["modality"] == terms["consistency"] == 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_labels_of_any_dtype_give_the_same(dtype: torch.dtype) -> None:
    outputs = _random_outputs(2, 40, 8, 3)
    config = _small_config(40, 8, 3)
    expected = aicl_loss(outputs, torch.eye(3)[:2].double(), config)
    for name, value in aicl_loss(outputs, torch.eye(3)[:2].to(dtype), config).items():
        assert value.dtype == torch.float64
        assert torch.equal(value, expected[name]), name


def test_a_bool_mask_is_a_pseudo_label() -> None:
    actionness, mask = torch.tensor([[0.2, 0.7, 0.9]]), torch.tensor([[False, True, True]])
    assert torch.equal(
        generalized_cross_entropy(actionness, mask, 0.7),
        generalized_cross_entropy(actionness, mask.float(), 0.7),
    )


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (3,), (2, 1, 3)])
def test_labels_that_do_not_fit(shape: tuple[int, ...]) -> None:
    outputs = _random_outputs(2, 40, 8, 3)
    with pytest.raises(DataError, match=rf"labels: expected \(2, 3\).*got {re.escape(str(shape))}"):
        aicl_loss(outputs, torch.ones(shape), _small_config(40, 8, 3))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("CAS", (40, 3)),
        ("A_score", (2, 40, 4)),
        ("A_rgb", (2, 41)),
        ("A", (2, 40, 1)),
        ("A_ca", (1, 40)),
        ("E_flow", (2, 40, 9)),
        ("E", (2, 39, 8)),
    ],
)
def test_outputs_that_do_not_fit(name: str, shape: tuple[int, ...]) -> None:
    outputs = _random_outputs(2, 40, 8, 3)._replace(**{name: torch.rand(shape)})
    with pytest.raises(DataError, match=rf"outputs\.{name}: expected .*got {re.escape(str(shape))}"):
        aicl_loss(outputs, torch.eye(3)[:2], _small_config(40, 8, 3))


def test_the_losses_are_one_graph_for_batches_of_any_size() -> None:
    config = _small_config(40, 8, 3)
    graph = torch.compile(aicl_loss, fullgraph=True, backend="eager", dynamic=True)
    for batch in (2, 3):
        outputs, labels = _random_outputs(batch, 40, 8, 3), torch.eye(3)[:batch].bool()
        torch.testing.assert_close(graph(outputs, labels, config), aicl_loss(outputs, labels, config))
    with pytest.raises(DataError, match="labels: expected"):
        aicl_loss(outputs, labels[:1], config)
