"""Top-k pooling: exactly k, ties by lowest index, as the reference, forward and backward."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.kernels.pooling import select_topk, topk_pool, topk_pool_reference  # noqa: E402


def test_scores_and_values_may_lie_differently_in_memory(target32, rows) -> None:
    cas, scores = rows(2, 63, 3, "rows"), rows(2, 63, 3, "planar", seed=1)
    expected = topk_pool_reference(cas, scores, 7)
    pooled, selected = topk_pool(target32.put(cas), target32.put(scores), 7)
    torch.testing.assert_close(pooled.cpu(), expected[0])
    assert torch.equal(selected.cpu(), expected[1])


def test_ties_go_to_the_lowest_index_and_zeros_of_both_signs_tie(target) -> None:
    scores = target.put(torch.tensor([-1.0, 0.0, -0.0, 0.0, -0.0, 1.0])).view(1, 6, 1)
    selected = topk_pool(scores, scores, 3)[1].flatten().tolist()
    assert selected == [False, True, True, False, False, True]


def test_infinite_and_negative_scores_keep_their_order(target) -> None:
    inf = float("inf")
    scores = target.put(torch.tensor([-2.0, -inf, -0.5, inf, 6e-8, -6e-8, -inf])).view(1, 7, 1)
    for k in range(1, 8):
        selected = topk_pool(torch.ones_like(scores), scores, k)[1]
        assert torch.equal(selected, select_topk(scores, k)), k


@pytest.mark.parametrize("k", [0, 6])
def test_k_outside_the_segments_is_an_error(k: int) -> None:
    with pytest.raises(ValueError, match="k must be 1 to T = 5"):
        topk_pool(torch.zeros(1, 5, 1), torch.zeros(1, 5, 1), k)


def test_reference_gradient_is_its_derivative() -> None:
    cas = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.randn(2, 9, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda value: topk_pool_reference(value, scores, 4)[0], [cas])
