"""Segment mining: the same masks as the reference, to the last bit, and the corners of short regions."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.kernels.mining import mine_segments, mine_segments_reference  # noqa: E402


def _equal(a, a_ca, k: int, target) -> None:
    a, a_ca = target.put(a), target.put(a_ca)
    mined = mine_segments(a, a_ca, k)
    expected = mine_segments_reference(a.cpu(), a_ca.cpu(), k)
    for name, ours, theirs in zip(mined._fields, mined, expected, strict=True):
        assert ours.dtype == torch.bool
        assert torch.equal(ours.cpu(), theirs), name


def test_a_region_shorter_than_k_keeps_what_it_has(target) -> None:
    a = torch.linspace(0, 1, 40).repeat(4, 1)
    a_ca = a.clone()
    a_ca[1] = 1 - a_ca[1]  # all inconsistent
    a[2] = a_ca[2] = 0.5  # nothing above its median
    a_ca[3, 25], a_ca[3, 3] = 0.0, 1.0  # two inconsistent
    _equal(a, a_ca, 5, target)
    mined = mine_segments(target.put(a), target.put(a_ca), 5)
    assert mined.ia.sum(1).tolist() == [0, 5, 0, 2]
    assert mined.ca.sum(1).tolist() == [5, 0, 0, 5]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_median_that_rounds_to_the_upper_value_leaves_it_out(dtype: str, target) -> None:
    if target.dtype != getattr(torch, dtype):
        pytest.skip("another dtype's case")
    low = torch.tensor(0.25, dtype=target.dtype)
    for _ in range(4):
        high = torch.nextafter(low, torch.tensor(1.0, dtype=target.dtype))
        values = torch.stack([low, high, low, high]).unsqueeze(0)
        _equal(values, values.flip(1), 1, target)
        low = high


def test_inputs_that_are_not_contiguous(target32) -> None:
    wide = torch.rand(3, 63, 2)
    _equal(wide[..., 0], wide[..., 1], 3, target32)


def test_no_gradient_flows_through(target32) -> None:
    a = target32.put(torch.rand(1, 20)).requires_grad_()
    assert not any(mask.requires_grad for mask in mine_segments(a, a, 2))


@pytest.mark.parametrize("k", [0, 21])
def test_k_outside_the_segments_is_an_error(k: int) -> None:
    with pytest.raises(ValueError, match="k must be 1 to T = 20"):
        mine_segments(torch.rand(1, 20), torch.rand(1, 20), k)
