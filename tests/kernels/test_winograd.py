"""Winograd's convolution against the direct one: values, every gradient, and its error in narrow types."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from aicl_fast.config import load_config  # noqa: E402
from aicl_fast.kernels import winograd  # noqa: E402
from aicl_fast.kernels.winograd import conv3_winograd  # noqa: E402
from aicl_fast.model import TwoBranchNet  # noqa: E402


def _direct(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return functional.conv1d(x.transpose(1, 2), weight, bias, padding=1).transpose(1, 2)


def _case(batch: int, length: int, width: int, outputs: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = ((batch, length, width), (outputs, width, 3), (outputs,))
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 63, 500, 750])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_direct_convolution_with_every_gradient(batch: int, length: int) -> None:
    tensors = [each.requires_grad_() for each in _case(batch, length, 7, 5, torch.float64)]
    results = [conv3_winograd(*tensors), _direct(*tensors)]
    upstream = torch.randn(results[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad(result, tensors, upstream) for result in results]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-9)


def test_neither_layout_nor_a_missing_bias_matters() -> None:
    x, weight, _ = _case(2, 21, 6, 4, torch.float64)
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    torch.testing.assert_close(conv3_winograd(strided, weight), _direct(x, weight))


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 3.0), (torch.bfloat16, 3.0), (torch.float16, 3.0)]
)
def test_its_error_is_a_small_multiple_of_the_direct_products(dtype: torch.dtype, most: float) -> None:
    """Against the direct convolution of inputs rounded to the same type, summed exactly, so that neither
    the processor nor the library's order of summation decides."""
    x, weight, _ = _case(1, 256, 1024, 64, torch.float64)
    x = x.clamp_min(0)
    exact = _direct(x, weight)
    direct = (_direct(x.to(dtype).double(), weight.to(dtype).double()) - exact).square().mean().sqrt()
    filters = [each.to(dtype).double() for each in winograd.filter_transform(weight)]
    parts = [part.to(dtype).double() for part in winograd.input_transform(x)]
    products = [part @ each.T for part, each in zip(parts, filters, strict=True)]
    ours = (winograd.output_transform(products, 256) - exact).square().mean().sqrt()
    assert direct > 0
    assert ours < most * direct


def test_the_transforms_constants_are_exact_in_bfloat16() -> None:
    p, q = winograd._P, winograd._Q
    for constant in (p, q, p * p, q * q, p**3, q**3, p * p * q * q, p * p + q * q, p * q * q, q * p * p):
        assert float(torch.tensor(constant, dtype=torch.bfloat16)) == constant


@pytest.mark.parametrize("streams", ["both", "rgb", "flow"])
def test_the_network_gives_the_same_with_it(streams: str) -> None:
    config = load_config("thumos14", overrides=[f"streams={streams}", "segments=50", "embedding_width=32"])
    torch.manual_seed(0)
    net = TwoBranchNet(config).double()
    x = torch.rand(2, 50, config.data.input_width, dtype=torch.float64)
    direct = net(x)
    net.winograd = True
    for name, ours, theirs in zip(direct._fields, net(x), direct, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10, msg=name)


def test_autocast_narrows_the_products_and_nothing_else() -> None:
    config = load_config("thumos14", overrides=["segments=50", "embedding_width=32"])
    torch.manual_seed(0)
    net = TwoBranchNet(config)
    net.winograd = True
    x = torch.rand(1, 50, config.data.input_width)
    exact = net(x).E
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(x).E
    assert narrow.dtype == torch.float32
    assert 0 < (narrow - exact).abs().max() < 0.05 * exact.abs().max()
