"""The network on a GPU and under autocast: where its results lie in memory, and how narrow they are."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import load_config  # noqa: E402
from aicl_fast.model import TwoBranchNet, conv3_rows  # noqa: E402


def _net(streams: str = "both") -> TwoBranchNet:
    overrides = ["rgb_width=24", "flow_width=16", "segments=40", f"streams={streams}"]
    torch.manual_seed(0)
    return TwoBranchNet(load_config("thumos14", overrides=overrides))


@pytest.mark.parametrize("shape", [(2, 50), (1, 50), (3, 1), (1, 1)], ids=str)
def test_a_convolution_of_rows_is_the_convolution_and_stays_in_rows(shape: tuple[int, int]) -> None:
    conv = torch.nn.Conv1d(24, 16, 3, padding=1).double()
    wide = torch.randn(*shape, 40, dtype=torch.float64)
    x = wide[..., :24].requires_grad_()
    found, expected = conv3_rows(x, conv), conv(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()
    if shape[1] > 1:
        assert not expected.is_contiguous()
    leaves = [conv.weight, conv.bias]
    weight = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(value, leaves, weight) for value in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_convolution_of_rows_compiles() -> None:
    conv = torch.nn.Conv1d(24, 16, 3, padding=1)
    x = torch.randn(2, 50, 24)
    compiled = torch.compile(conv3_rows, backend="aot_eager", fullgraph=True)(x, conv)
    torch.testing.assert_close(compiled, conv3_rows(x, conv))
    assert compiled.is_contiguous()


@pytest.mark.parametrize("streams", ["both", "rgb", "flow"])
def test_embeddings_in_rows_are_the_networks(streams: str) -> None:
    net = _net(streams)
    x = torch.rand(2, 40, net.embed.in_channels)
    for ours, theirs in zip(net._embed_rows(x), net._embed_direct(x), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("streams", ["both", "rgb"])
def test_a_gpu_computes_the_same_network_in_rows(streams: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    net = _net(streams)
    x = torch.rand(2, 40, net.embed.in_channels)
    expected, found = net(x), net.cuda()(x.cuda())
    for name, ours, theirs in zip(found._fields, found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=3e-3, msg=name)
    assert all(embedding.is_contiguous() for embedding in found[:3])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_under_autocast_what_is_ranked_is_float32(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    net = _net().to(device)
    with torch.no_grad():
        net.classify.bias += 0.4  # the sum over classes is then where sigmoids are 1 in bfloat16
    x = torch.rand(2, 40, 40, device=device)
    with torch.autocast(device, torch.bfloat16):
        outputs = net(x)
    assert outputs.E.dtype == torch.bfloat16
    for name in ("CAS", "A_rgb", "A_flow", "A", "A_ca", "A_score"):
        value = getattr(outputs, name)
        assert value.dtype == torch.float32, name
        # More than bfloat16 has: rounding to it changes something.
        if name != "CAS":
            assert not torch.equal(value.bfloat16().float(), value), name


def test_a_network_that_is_narrow_itself_stays_so() -> None:
    outputs = _net().bfloat16()(torch.rand(1, 40, 40, dtype=torch.bfloat16))
    assert {value.dtype for value in outputs} == {torch.bfloat16}
