"""The network for inference: the kernels against the reference, and the reference against the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from aicl_fast.config import load_config  # noqa: E402
from aicl_fast.kernels import pack_two_branch, two_branch, two_branch_weights  # noqa: E402
from aicl_fast.kernels.cases import WAYS, specs  # noqa: E402
from aicl_fast.kernels.harness import ROUNDING, TF32, launched  # noqa: E402
from aicl_fast.kernels.launch import intercepted, launch, next_power_of_2  # noqa: E402
from aicl_fast.kernels.two_branch import (  # noqa: E402
    two_branch_embed,
    two_branch_embed_reference,
    two_branch_infer,
    two_branch_infer_reference,
)
from aicl_fast.model import TwoBranchNet  # noqa: E402

_FLOAT8 = ROUNDING[torch.float8_e4m3fn]
_CASES = [(*spec.shape, spec.standardised) for spec in specs("test", "embeddings")]


def _network(case, seed: int = 0) -> tuple[TwoBranchNet, torch.Tensor]:
    batch, length, rgb, flow, width, classes, standardised = case
    overrides = [f"rgb_width={rgb}", f"flow_width={flow}", f"segments={max(2, length)}"]
    config = load_config("thumos14", overrides=[*overrides, f"standardize_input={str(standardised).lower()}"])
    config = replace(config, classes=()).with_values({"embedding_width": width, "num_classes": classes})
    torch.manual_seed(seed)
    net = TwoBranchNet(config).double().eval()
    if standardised:
        net.set_input_statistics(torch.rand(rgb + flow), torch.rand(rgb + flow) + 0.2)
    return net, torch.rand(batch, length, rgb + flow)


@pytest.fixture(params=WAYS)
def halves(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every way to launch the product, whatever the size would choose and the table says."""
    with launched(request.param):
        yield


@pytest.mark.parametrize("case", [case for case in _CASES if case[1] > 1], ids=str)
def test_reference_equals_the_network(case, assert_close) -> None:
    net, x = _network(case)
    x = x.double()
    with torch.no_grad():
        outputs = net(x)
    weights = pack_two_branch(net.state_dict(), torch.float64)
    scores = two_branch_infer_reference(x, weights, net.gamma)
    embeddings = two_branch_embed_reference(x, weights)
    for name in ("CAS", "A_score", "A", "A_ca"):
        assert_close(getattr(scores, name), getattr(outputs, name), 1e-6, name)
    for name in embeddings._fields:
        assert_close(getattr(embeddings, name), getattr(outputs, name), 1e-6, name)


def test_features_that_are_not_contiguous(target32, assert_close) -> None:
    net, x = _network(_CASES[2])
    weights = pack_two_branch(net.state_dict(), target32.dtype, device=target32.device)
    wide = target32.put(x.transpose(1, 2).contiguous()).transpose(1, 2)
    expected = two_branch_infer_reference(x, pack_two_branch(net.state_dict(), torch.float32), net.gamma)
    assert_close(two_branch_infer(wide, weights, net.gamma).A_score, expected.A_score, TF32)


def test_float8_weights_stand_for_the_same_network(assert_close) -> None:
    net, x = _network((2, 63, 64, 64, 32, 5, False))
    weights = pack_two_branch(net.state_dict(), torch.float8_e4m3fn, input_scale=1 / 64)
    exact = pack_two_branch(net.state_dict(), torch.float64)
    scores = two_branch_infer_reference(x, weights, net.gamma)
    expected = two_branch_infer_reference(x.double(), exact, net.gamma)
    assert_close(scores.A_score, expected.A_score, _FLOAT8)
    assert_close(
        two_branch_embed_reference(x, weights).E, two_branch_embed_reference(x.double(), exact).E, _FLOAT8
    )


@pytest.mark.gpu
@pytest.mark.parametrize("case", [_CASES[3], _CASES[5]], ids=str)
def test_float8_products_on_a_gpu(case, assert_close, halves) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a CUDA device of compute capability 8.9")
    net, x = _network(case)
    weights = pack_two_branch(net.state_dict(), torch.float8_e4m3fn, device="cuda", input_scale=1 / 64)
    exact = pack_two_branch(net.state_dict(), torch.float64, device="cpu")
    scores = two_branch_infer(x.to("cuda", torch.bfloat16), weights, net.gamma)
    expected = two_branch_infer_reference(x.double(), exact, net.gamma)
    for name, ours, theirs in zip(scores._fields, scores, expected, strict=True):
        assert_close(ours, theirs, _FLOAT8, name)


def _to_be_rounded(dtype: torch.dtype) -> torch.Tensor:
    values = torch.randn(3, 1500, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[100], [1], [1e-2]]
    )
    edges = torch.tensor([0.0, 134.4, 150, -1e4, float("nan"), float("inf"), -float("inf"), 6e-4, 3e-4])
    return torch.cat([values.flatten(), edges]).to(dtype)


def test_features_are_divided_and_clipped_as_the_reference_does(target) -> None:
    x = target.put(_to_be_rounded(target.dtype))
    # Into float32: the interpreter's own rounding to float8 loses carries.
    clipped = torch.empty(x.shape, device=x.device)
    settings = {"MOST": 448.0, "BLOCK": 1024, "num_warps": 4}
    from aicl_fast.kernels.gpu.two_branch import float8_kernel

    launch(float8_kernel, (-(-x.numel() // 1024),), x, clipped, 0.3, x.numel(), **settings)
    expected = two_branch_weights.float8_features_reference(x, 0.3).float()
    assert torch.equal(clipped.to(torch.float8_e4m3fn).float().nan_to_num(1e3), expected.nan_to_num(1e3))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_features_are_rounded_to_float8_on_a_gpu(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a CUDA device of compute capability 8.9")
    x = _to_be_rounded(dtype).cuda()
    ours = two_branch_weights.float8_features_fwd(x, 0.3).float()
    assert torch.equal(
        ours.nan_to_num(1e3), two_branch_weights.float8_features_reference(x, 0.3).float().nan_to_num(1e3)
    )


def test_weights_for_tf32_products_are_the_nearest() -> None:
    inf = float("inf")
    largest = torch.finfo(torch.float32).max
    edges = torch.tensor([0.0, -0.0, inf, -inf, largest, -largest, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-12])
    assert two_branch_weights.nearest_tf32(edges).tolist() == [
        0.0, -0.0, inf, -inf, largest, -largest, 1 + 2**-10, 1 + 2**-10, 1 + 2**-10,
    ]  # fmt: skip
    assert two_branch_weights.nearest_tf32(torch.tensor([float("nan")])).isnan().all()
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    nearest = two_branch_weights.nearest_tf32(values)
    assert ((nearest.view(torch.int32) & 0x1FFF) == 0).all()
    cut = (values.view(torch.int32) & ~0x1FFF).view(torch.float32)
    assert (nearest - values).abs().max() < 0.6 * (cut - values).abs().max()
    assert (nearest / values - 1).abs().max() <= 2**-11


@pytest.mark.gpu
def test_sums_of_many_float8_products_are_float32(assert_close) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a CUDA device of compute capability 8.9")
    net, x = _network((2, 63, 1024, 1024, 64, 5, False))
    weights = pack_two_branch(net.state_dict(), torch.float8_e4m3fn, device="cuda", input_scale=1 / 64)
    x = two_branch._as_float8(x.cuda(), weights)
    embeddings = two_branch_embed(x, weights)
    # What was rounded to float8, multiplied in float64: what is left is how products are added up.
    own = replace(
        weights,
        rgb=weights.rgb.double(),
        flow=weights.flow.double(),
        bias=weights.bias.double(),
        scale=weights.scale.double(),
    )
    expected = two_branch_embed_reference(x.double() * weights.input_scale, own)
    for name, ours, theirs in zip(embeddings._fields, embeddings, expected, strict=True):
        assert_close(ours, theirs.cpu(), 3e-3, name)


def test_the_second_kernel_fits_for_any_number_of_classes() -> None:
    for classes in range(1, two_branch._MAX_CLASSES + 1):
        block_c = max(16, next_power_of_2(classes))
        step, stages = two_branch.HEADS.block_d(block_c), two_branch.HEADS.num_stages(block_c)
        # float32 weights and both halves of the embedding, in the shared memory of the smallest GPU.
        assert 4 * step * (block_c + 2 * two_branch.HEADS.block_m) * stages <= 101_376
        assert step >= 16


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float8_e4m3fn], ids=str)
def test_packing_leaves_the_network_as_it_is(dtype: torch.dtype) -> None:
    net, _ = _network(_CASES[2])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pack_two_branch(net.state_dict(), dtype)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_features_that_do_not_fit_are_an_error() -> None:
    net, x = _network(_CASES[2])
    weights = pack_two_branch(net.state_dict(), torch.float32)
    with pytest.raises(
        ValueError, match=r"expected features of shape \(B, T, 57 \+ 57\), got \(2, 63, 113\)"
    ):
        two_branch_infer(x[..., 1:], weights, net.gamma)
    with pytest.raises(ValueError, match=r"weights' dtype torch\.float32, got torch\.float16"):
        two_branch_embed(x.half(), weights)


@pytest.fixture
def sources() -> Iterator[list[bool]]:
    """Whether each launch of the product reads boxes."""
    seen: list[bool] = []

    def run(kernel, grid, arguments, settings) -> None:
        seen.extend(value for name, value in settings.items() if name == "BOXES")
        kernel[grid](*arguments, **settings)

    with intercepted(run):
        yield seen


@pytest.mark.parametrize(
    ("shape", "dtype", "boxes"),
    [
        ((1, 300, 16, 8, 16), torch.float32, True),
        ((3, 128, 16, 8, 16), torch.float32, True),
        ((1, 3, 16, 8, 16), torch.float16, True),
        # Rows that are no multiples of 16 bytes, of either stream.
        ((1, 300, 10, 10, 16), torch.float32, False),
        ((1, 300, 4, 12, 16), torch.float16, False),
        # Videos of which three fit in a tile.
        ((6, 40, 16, 8, 16), torch.float32, False),
    ],
    ids=str,
)
def test_boxes_are_read_where_they_can_be(
    shape, dtype: torch.dtype, boxes: bool, target32, sources: list[bool], assert_close
) -> None:
    if target32.device.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("compute capability 9.0 has boxes")
    batch, length, rgb, flow, width = shape
    net, x = _network((batch, length, rgb, flow, width, 5, True))
    weights = pack_two_branch(net.state_dict(), dtype, device=target32.device)
    scores = two_branch_infer(x.to(target32.device, dtype), weights, net.gamma)
    assert sources == [boxes]
    expected = two_branch_infer_reference(
        x.double(), pack_two_branch(net.state_dict(), torch.float64), net.gamma
    )
    assert_close(scores.A_score, expected.A_score, TF32)


def test_features_that_start_between_16_bytes_are_read_by_pointers(
    target32, sources: list[bool], assert_close
) -> None:
    net, x = _network((1, 300, 16, 8, 16, 5, True))
    weights = pack_two_branch(net.state_dict(), torch.float32, device=target32.device)
    shifted = torch.zeros(x.numel() + 1, device=target32.device)[1:].view(x.shape).copy_(x)
    scores = two_branch_infer(shifted, weights, net.gamma)
    assert sources == [False]
    expected = two_branch_infer_reference(x, pack_two_branch(net.state_dict(), torch.float32), net.gamma)
    assert_close(scores.A_score, expected.A_score, TF32)


def test_what_is_not_a_number_is_not_hidden(target32, halves) -> None:
    net, x = _network((1, 63, 64, 64, 40, 5, False))
    x[0, 30, 7] = float("nan")
    weights = pack_two_branch(net.state_dict(), torch.float32, device=target32.device)
    scores = two_branch_infer(x.to(target32.device), weights, net.gamma)
    expected = two_branch_infer_reference(x, pack_two_branch(net.state_dict(), torch.float32), net.gamma)
    for ours, theirs in zip(scores, expected, strict=True):
        assert torch.equal(ours.isnan().cpu(), theirs.isnan())
    assert expected.A_score.isnan().any()
    embeddings = two_branch_embed(x.to(target32.device), weights)
    assert embeddings.E[0, 30].isnan().all()


def test_any_stride_of_a_dimension_of_one(target32, sources: list[bool], assert_close) -> None:
    net, x = _network((1, 300, 16, 8, 16, 5, True))
    weights = pack_two_branch(net.state_dict(), torch.float32, device=target32.device)
    if target32.device.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("compute capability 9.0 has boxes")
    expected = two_branch_infer(x.to(target32.device), weights, net.gamma).A_score
    for stride in (0, 1, 24):
        odd = torch.as_strided(x.to(target32.device), x.shape, (stride, 24, 1))
        assert_close(two_branch_infer(odd, weights, net.gamma).A_score, expected, 1e-6)
    assert sources == [True] * 4
