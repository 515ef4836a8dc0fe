"""Which of kernel and reference runs, what torch.library sees of the kernels, and the loss as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from aicl_fast.bench.suites import kernels  # noqa: E402
from aicl_fast.config import load_config  # noqa: E402
from aicl_fast.kernels import (  # noqa: E402
    dispatch,
    mine_segments,
    pack_two_branch,
    score_fusion,
    segment_contrast,
    topk_pool,
    two_branch_embed,
    two_branch_infer,
)
from aicl_fast.kernels.contrast import segment_contrast_fwd  # noqa: E402
from aicl_fast.kernels.fusion import score_fusion_fwd  # noqa: E402
from aicl_fast.kernels.mining import mine_segments_fwd, mine_segments_reference  # noqa: E402
from aicl_fast.kernels.pooling import topk_pool_fwd  # noqa: E402
from aicl_fast.kernels.two_branch import two_branch_embed_fwd, two_branch_infer_fwd  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402
from aicl_fast.train.losses import aicl_loss  # noqa: E402


def _python(code: str, **environment: str) -> str:
    """What a new interpreter prints, run outside the tree so that the installed package is the one found."""
    keep = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=keep | environment,
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_neither_torch_nordispatch() -> None:
    code = "import sys, aicl_fast.kernels; print('torch' in sys.modules, 'triton' in sys.modules)"
    assert _python(code) == "False False"


def test_references_on_the_cpu_import_nodispatch() -> None:
    code = (
        "import sys, torch; from aicl_fast.kernels import topk_pool;"
        "topk_pool(torch.rand(1, 9, 2), torch.rand(1, 9, 2), 3); print('triton' in sys.modules)"
    )
    assert _python(code) == "False"


def test_withoutdispatch_the_references_run(fork_python: Callable[..., Any]) -> None:
    code = (
        "import importlib.util as u; real = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'triton' else real(name, *a);"
        "import torch; from aicl_fast.kernels import dispatch, topk_pool;"
        "print(dispatch.ENABLED, topk_pool(torch.ones(1, 9, 2), torch.rand(1, 9, 2), 3)[0].tolist())"
    )
    done = fork_python("-c", code, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert (done.returncode, done.stdout.strip()) == (0, "False [[1.0, 1.0]]"), done.stderr


@pytest.mark.parametrize(
    ("switch", "launches"),
    [("0", "0"), ("1", "1"), ("False", "0"), (" off", "0"), ("NO", "0"), ("", "1"), ("on", "1")],
)
def test_the_environment_turns_kernels_off(
    switch: str, launches: str, fork_python: Callable[..., Any]
) -> None:
    pytest.importorskip("triton")
    code = (
        "import torch; from aicl_fast.kernels import topk_pool; seen = []\n"
        "from aicl_fast.kernels.launch import intercepted\n"
        "with intercepted(lambda *launch: seen.append(launch)):\n"
        "    topk_pool(torch.rand(1, 9, 2), torch.rand(1, 9, 2), 3)\n"
        "print(len(seen))"
    )
    done = fork_python("-c", code, env=os.environ | {"TRITON_INTERPRET": "1", "AICL_FAST_TRITON": switch})
    assert (done.returncode, done.stdout.strip()) == (0, launches), done.stderr


def test_float64_and_tensors_elsewhere_go_to_the_references(target32) -> None:
    wide = torch.rand(1, 9, 2, device=target32.device)
    assert dispatch.use_kernels(wide)
    assert not dispatch.use_kernels(wide.double())
    assert not dispatch.use_kernels(wide[:0])
    if target32.device.type == "cuda":
        assert not dispatch.use_kernels(wide, wide.cpu())


def test_what_kernels_cannot_take_together_goes_to_the_references(target32) -> None:
    values, mask = torch.rand(1, 9, 2, device=target32.device), torch.ones(1, 9, device=target32.device) > 0
    assert dispatch.use_kernels(values, values, masks=[mask])
    assert not dispatch.use_kernels(values, mask)
    assert not dispatch.use_kernels(values, masks=[values])
    # Another device of the same kind would be as wrong as this one.
    assert not dispatch.use_kernels(values, torch.empty(1, 9, 2, device="meta"))
    assert not dispatch.use_kernels(values, masks=[mask.to("meta")])


class _NoKernels(TorchDispatchMode):
    """Fails on an operation of ours."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.namespace != "aicl_fast", function
        return function(*args, **(kwargs or {}))


def test_more_videos_than_a_grid_takes_go_to_the_references(target32) -> None:
    many = target32.put(torch.rand(dispatch.MAX_BATCH + 1, 2, 1))
    masks = mine_segments_reference(many[..., 0], many[..., 0], 1)
    with _NoKernels():
        scores = score_fusion(many, many[..., 0], many[..., 0], 0.5)[0]
        pooled = topk_pool(many, many, 1)[0]
        loss = segment_contrast(many, masks, 0.1)
    assert torch.equal(pooled, many.amax(1))
    assert scores.shape == many.shape
    assert torch.isfinite(loss)


def test_embeddings_of_two_types_go_to_the_reference(target32) -> None:
    embedding = target32.put(torch.rand(2, 30, 8))
    masks = mine_segments(embedding[..., 0], embedding[..., 1], 3)
    with _NoKernels():
        losses = segment_contrast([embedding, embedding.double()], masks, 0.1)
    torch.testing.assert_close(losses[0], losses[1])


def _operations(device: torch.device) -> list[tuple[object, tuple[object, ...]]]:
    """Every forward operation with arguments, those that have a gradient requiring it."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int, grad: bool = False) -> torch.Tensor:
        return torch.rand(shape, generator=generator).to(device).requires_grad_(grad)

    cas, rgb, flow = rand(2, 30, 4, grad=True), rand(2, 30, grad=True), rand(2, 30, grad=True)
    masks = mine_segments(rand(2, 30), rand(2, 30), 3)
    embeddings = [rand(2, 30, 8, grad=True), rand(2, 30, 8, grad=True)]
    config = load_config("thumos14", overrides=["rgb_width=6", "flow_width=6", "segments=30"])
    weights = pack_two_branch(TwoBranchNet(config).state_dict(), torch.float32, device=device)
    product = (rand(2, 30, 12), weights.product)
    return [
        (score_fusion_fwd, (cas, rgb, flow, 0.3)),
        (topk_pool_fwd, (cas, rand(2, 30, 4), 3)),
        (mine_segments_fwd, (rand(2, 30), rand(2, 30), 3)),
        (segment_contrast_fwd, (embeddings, *masks, 0.1)),
        (two_branch_embed_fwd, product),
        (two_branch_infer_fwd, (*product, weights.heads, 0.3)),
    ]


@pytest.mark.parametrize("at", range(6))
def test_torch_library_knows_schema_shapes_and_gradients(at: int, target32, monkeypatch) -> None:
    monkeypatch.undo()  # opcheck compares outputs bit for bit, and NaN is not NaN
    monkeypatch.setattr(dispatch, "INTERPRET", target32.device.type == "cpu")
    if target32.device.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    operation, arguments = _operations(target32.device)[at]
    checks = ["test_schema", "test_faketensor"]
    if at in (0, 1, 3):
        checks.append("test_autograd_registration")
    torch.library.opcheck(operation, arguments, test_utils=checks)


class _NoRoundTrip(TorchDispatchMode):
    """Fails on what makes the host wait for a GPU: tensors of indices made on the host, values read back."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("index", "index_put", "_index_put_impl_", "_local_scalar_dense", "nonzero"), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["fusion", "pooling", "mining", "contrast", "network"])
def test_references_do_not_wait_for_the_device(name: str) -> None:
    case = next(case for case in kernels.cases(name, True, torch.device("cpu")) if case.family == name)
    inputs = case.make(torch.Generator().manual_seed(0))
    with _NoRoundTrip():
        kernels.complete(case, case.reference)(inputs)


def test_a_round_trip_is_noticed() -> None:
    with pytest.raises(AssertionError, match="index"), _NoRoundTrip():
        torch.rand(3, 4)[:, [1, 0]]


def _loss(outputs, labels, config):
    return aicl_loss(outputs, labels, config)["total"]


def _training(device: torch.device):
    config = load_config("thumos14", overrides=["rgb_width=6", "flow_width=6", "segments=60"])
    config = replace(config, classes=()).with_values({"embedding_width": 16, "num_classes": 3})
    torch.manual_seed(0)
    net = TwoBranchNet(config).to(device)
    return config, net, torch.rand(2, 60, 12, device=device), torch.eye(3, device=device)[:2]


def test_the_loss_on_kernels_equals_the_loss_on_references(target32, monkeypatch) -> None:
    config, net, x, labels = _training(target32.device)
    results = []
    for enabled in (True, False):
        monkeypatch.setattr(dispatch, "ENABLED", enabled)
        net.zero_grad()
        total = _loss(net(x), labels, config)
        total.backward()
        results.append([total.detach(), *(parameter.grad.clone() for parameter in net.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("enabled", [False, True], ids=["references", "kernels"])
def test_training_compiles_without_a_graph_break(enabled: bool, target32, monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(dispatch, "ENABLED", enabled)
    monkeypatch.setattr(dispatch, "INTERPRET", target32.device.type == "cpu")
    if target32.device.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    config, net, x, labels = _training(target32.device)

    def step(x: torch.Tensor) -> torch.Tensor:
        return _loss(net(x), labels, config)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    total = compiled(x)
    total.backward()
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    expected = step(x)
    expected.backward()
    torch.testing.assert_close(total, expected)
    for ours, parameter in zip(gradients, net.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6)


def test_every_public_function_takes_what_its_docstring_says(target32) -> None:
    def put(*shape: int) -> torch.Tensor:
        return target32.put(torch.rand(shape))

    scores, a, a_ca = score_fusion(put(2, 40, 5), put(2, 40), put(2, 40), 0.5)
    pooled, selected = topk_pool(put(2, 40, 5), scores, 5)
    mining = mine_segments(a, a_ca, 2)
    loss = segment_contrast([put(2, 40, 8)] * 3, mining, 0.1)
    assert pooled.shape == (2, 5)
    assert selected.shape == (2, 40, 5)
    assert loss.shape == (3,)
    config = load_config("thumos14", overrides=["rgb_width=6", "flow_width=6", "segments=40"])
    weights = pack_two_branch(TwoBranchNet(config).state_dict(), torch.float32, device=target32.device)
    assert two_branch_embed(put(1, 40, 12), weights).E.shape == (1, 40, 512)
    assert two_branch_infer(put(1, 40, 12), weights, 0.5).A_score.shape == (1, 40, 20)
