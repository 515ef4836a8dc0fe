"""Score fusion: the kernel against its reference, and what must hold of any softmax and mean."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.kernels.fusion import score_fusion, score_fusion_reference  # noqa: E402


def _inputs(rows, shape, target):
    batch, length, classes, layout = shape
    cas = target.put(rows(batch, length, classes, layout)).requires_grad_()
    logits = rows(batch, length, 2, "rows", seed=1)
    return cas, *(target.put(logits)[..., i].detach().requires_grad_() for i in range(2))


@pytest.mark.parametrize("used", [(1, 2), (0,), (1,), (2,)], ids=str)
def test_outputs_that_are_not_used_send_no_gradient(used, target32, rows, assert_close) -> None:
    inputs = _inputs(rows, (2, 63, 20, "planar"), target32)
    exact = [value.detach().double().cpu().requires_grad_() for value in inputs]
    outputs = [score_fusion(*inputs, 0.5)[i].square().sum() for i in used]
    expected = [score_fusion_reference(*exact, 0.5)[i].square().sum() for i in used]
    sum(outputs).backward()
    sum(expected).backward()
    for a, b in zip(inputs, exact, strict=True):
        assert_close(a.grad, torch.zeros_like(b) if b.grad is None else b.grad, 1e-5)


def test_softmax_rows_sum_to_one_and_ignore_a_shift(target32, rows) -> None:
    cas, rgb, flow = (value.detach() for value in _inputs(rows, (2, 63, 20, "rows"), target32))
    scores = score_fusion(cas, rgb, flow, 1.0)[0]
    torch.testing.assert_close(scores.sum(-1), torch.ones_like(rgb))
    torch.testing.assert_close(score_fusion(cas + 100, rgb, flow, 1.0)[0], scores, rtol=1e-3, atol=1e-5)


def test_huge_logits_stay_finite(target) -> None:
    cas = target.put(torch.tensor([[[6e4, -6e4], [0.0, 6e4]]])).requires_grad_()
    logits = target.put(torch.tensor([[6e4, -6e4]]))
    scores, a, a_ca = score_fusion(cas, logits, logits, 1 / 3)
    (scores.sum() + a.sum() + a_ca.sum()).backward()
    assert all(torch.isfinite(value).all() for value in (scores, a, a_ca, cas.grad))
    torch.testing.assert_close(a_ca, torch.tensor([[1.0, 0.0]]).to(a_ca))


def test_empty_batch(target32) -> None:
    scores, a, a_ca = score_fusion(
        *(target32.put(torch.zeros(shape)) for shape in ((0, 5, 3), (0, 5), (0, 5))), 0.5
    )
    assert scores.shape == (0, 5, 3)
    assert a.shape == a_ca.shape == (0, 5)


def test_reference_gradients_are_its_derivatives() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 3), (2, 5), (2, 5))
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(lambda *values: score_fusion_reference(*values, 0.4), inputs)
