"""The contrastive loss: the kernels against the reference, the loss and every embedding's gradient."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.kernels.contrast import segment_contrast, segment_contrast_reference  # noqa: E402
from aicl_fast.kernels.mining import Mining, mine_segments, mine_segments_reference  # noqa: E402


def _mining(batch: int, length: int, seed: int = 0) -> Mining:
    a, a_ca = torch.rand(2, batch, length, generator=torch.Generator().manual_seed(seed))
    return mine_segments_reference(a, a_ca, max(1, length // 20))


def _compare(embeddings, mining: Mining, tau: float, target, assert_close) -> torch.Tensor:
    exact = [value.detach().double().cpu().requires_grad_() for value in embeddings]
    losses = segment_contrast(embeddings, Mining(*(mask.to(target.device) for mask in mining)), tau)
    expected = torch.stack([segment_contrast_reference(value, mining, tau) for value in exact])
    weight = torch.linspace(1, 2, len(embeddings))
    gradients = torch.autograd.grad(losses, embeddings, target.put(weight))
    expected_gradients = torch.autograd.grad(expected, exact, target.put(weight).double().cpu())
    assert losses.dtype == target.dtype
    assert_close(losses, expected, target.tolerance, "losses")
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert_close(ours, theirs, target.tolerance, "gradient")
    return losses


def test_empty_and_short_sets_leave_their_terms_out(target, rows, assert_close) -> None:
    mining = _mining(5, 63)
    for video, name in enumerate(Mining._fields):
        getattr(mining, name)[video] = False
    mining.ia[4, :] = False
    mining.ia[4, 7] = True  # one query alone
    embedding = target.put(rows(5, 63, 16, "rows")).requires_grad_()
    _compare([embedding], mining, 0.1, target, assert_close)
    nothing = Mining(*(torch.zeros_like(mask) for mask in mining))
    assert _compare([embedding], nothing, 0.1, target, assert_close).item() == 0


def test_sets_may_overlap_and_be_large(target32, rows, assert_close) -> None:
    generator = torch.Generator().manual_seed(2)
    masks = Mining(*(torch.rand(4, 2, 200, generator=generator) < 0.7).unbind(0))
    embedding = target32.put(rows(2, 200, 24, "planar")).requires_grad_()
    _compare([embedding], masks, 0.1, target32, assert_close)


def test_low_temperature_neither_overflows_nor_vanishes(target32, rows, assert_close) -> None:
    embedding = target32.put(rows(2, 63, 16, "rows")).requires_grad_()
    losses = _compare([embedding], _mining(2, 63), 0.005, target32, assert_close)
    assert torch.isfinite(losses).all()


def test_absent_terms_at_low_temperature_send_no_gradient(target32, rows, assert_close) -> None:
    mining = _mining(3, 200)
    mining.ca[0] = mining.ib[0] = False  # what is left are negatives of absent terms
    mining.ia[1] = mining.cb[1] = False
    embedding = target32.put(rows(3, 200, 16, "rows")).requires_grad_()
    losses = _compare([embedding], mining, 0.002, target32, assert_close)
    assert torch.isfinite(losses).all()


def test_segments_of_zeros_have_no_direction(target32, rows, assert_close) -> None:
    embedding = rows(1, 63, 16, "rows")
    mining = _mining(1, 63)
    embedding[mining.cb] = 0
    embedding = target32.put(embedding).requires_grad_()
    losses = segment_contrast(embedding, Mining(*(mask.to(target32.device) for mask in mining)), 0.1)
    expected = segment_contrast_reference(embedding.detach().double().cpu(), mining, 0.1)
    assert_close(losses, expected, 1e-5)
    (gradient,) = torch.autograd.grad(losses, embedding)
    assert torch.isfinite(gradient).all()


def test_one_embedding_gives_a_scalar_and_several_give_each_its_own(target32, rows) -> None:
    mining = Mining(*(mask.to(target32.device) for mask in _mining(2, 63)))
    embeddings = [target32.put(rows(2, 63, 16, "planar", seed)) for seed in range(4)]
    losses = segment_contrast(embeddings, mining, 0.1)
    assert losses.shape == (4,)
    for embedding, loss in zip(embeddings, losses, strict=True):
        alone = segment_contrast(embedding, mining, 0.1)
        assert alone.shape == ()
        assert torch.equal(alone, loss)


def test_scaling_an_embedding_changes_nothing(target32, rows) -> None:
    mining = Mining(*(mask.to(target32.device) for mask in _mining(2, 63)))
    embedding = target32.put(rows(2, 63, 16, "rows"))
    torch.testing.assert_close(
        segment_contrast(8 * embedding, mining, 0.1), segment_contrast(embedding, mining, 0.1)
    )


def test_embeddings_of_different_shapes_are_an_error(rows) -> None:
    with pytest.raises(ValueError, match="embeddings of one shape"):
        segment_contrast([rows(1, 20, 4, "rows"), rows(1, 20, 5, "rows")], _mining(1, 20), 0.1)
    with pytest.raises(ValueError, match="embeddings of one shape"):
        segment_contrast([], _mining(1, 20), 0.1)


def test_reference_gradient_is_its_derivative() -> None:
    embedding = torch.randn(2, 20, 5, dtype=torch.float64, requires_grad=True)
    mining = _mining(2, 20)
    mining.ia[1] = False
    assert torch.autograd.gradcheck(lambda value: segment_contrast_reference(value, mining, 0.1), [embedding])


def test_the_backward_fills_nothing_with_zeros(target32) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    filled = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "zeros" in str(function):
                filled.append(str(function))
            return function(*args, **(kwargs or {}))

    embedding = torch.rand(2, 20, 16, device=target32.device, requires_grad=True)
    actionness = torch.rand(2, 2, 20, device=target32.device)
    loss = segment_contrast(embedding, mine_segments(*actionness, 3), 0.1)
    with Seen():
        loss.backward()
    assert filled == []
    assert embedding.grad.abs().sum() > 0
