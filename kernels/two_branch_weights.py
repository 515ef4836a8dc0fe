"""The weights that the network's kernels read: convolutions as matrices, and float8 with its scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aicl_fast.extras import needs

with needs("triton"):
    import torch
    from torch import Tensor

from aicl_fast.kernels.dispatch import operation
from aicl_fast.kernels.launch import launch

FLOAT8 = torch.float8_e4m3fn
_FLOAT8_MAX = 448.0


@dataclass(frozen=True, eq=False)
class TwoBranchWeights:
    """A network's weights as the kernels read them; made by :func:`pack_two_branch`."""

    rgb: Tensor
    """(2·De, 3·D_rgb): a row an output, first the own stream's, then the fused one's; columns are tap 0's
    features, then tap 1's, then tap 2's."""
    flow: Tensor
    """(2·De, 3·D_flow), likewise."""
    bias: Tensor
    """(3, De) float32: fused, first stream, second stream."""
    edge: Tensor | None
    """(2, 3, De) float32, added to the first and to the last segment: what the bias took away for a
    neighbour that is not there, where the network standardises its inputs."""
    scale: Tensor | None
    """(3, De) float32, of float8 weights: what products are multiplied by."""
    input_scale: float
    """What features are divided by before they become float8."""
    classify: Tensor
    """(C, De)"""
    classify_bias: Tensor
    """(C,) float32"""
    actionness: Tensor
    """(2, De) float32"""
    actionness_bias: Tensor
    """(2,) float32"""

    @property
    def product(self) -> list[Tensor | None]:
        """What the convolutions' product reads."""
        return [self.rgb, self.flow, self.bias, self.edge, self.scale]

    @property
    def heads(self) -> list[Tensor]:
        """What the heads read."""
        return [self.classify, self.classify_bias, self.actionness, self.actionness_bias]

    @property
    def widths(self) -> tuple[int, int]:
        """(D_rgb, D_flow)"""
        return self.rgb.shape[1] // 3, self.flow.shape[1] // 3


def pack_two_branch(
    state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float16,
    *,
    device: torch.device | str | None = None,
    input_scale: float = 1.0,
) -> TwoBranchWeights:
    """Arrange a network's weights for :func:`two_branch_infer`.

    Args:
        state: ``TwoBranchNet(...).state_dict()``. Standardisation, if the network has it, is folded in.
        dtype: float16, bfloat16, float32 (products in tf32) or float8_e4m3fn (weights scaled a channel).
        device: where to put them; None leaves them where they are.
        input_scale: float8 only: features are divided by it and then clipped to ±448.
    """
    conv = {name: state[f"{name}.weight"].detach().double() for name in ("embed", "embed_rgb", "embed_flow")}
    bias = torch.stack([state[f"{name}.bias"].detach().double() for name in conv])
    width_rgb = conv["embed_rgb"].shape[1]
    edge: Tensor | None = None
    if "input_mean" in state:
        mean, factor = state["input_mean"].double(), state["input_scale"].double()
        parts = {"embed": slice(None), "embed_rgb": slice(width_rgb), "embed_flow": slice(width_rgb, None)}
        shifts = []  # (De, 3) of each convolution: what the mean adds through each tap
        for name, part in parts.items():
            conv[name] = conv[name] * factor[part, None]
            shifts.append((conv[name] * mean[part, None]).sum(1))
        shift = torch.stack(shifts)
        bias = bias - shift.sum(2)
        edge = torch.stack([shift[..., 0], shift[..., 2]]).float().contiguous().to(device)

    scale: Tensor | None = None
    if dtype == FLOAT8:
        largest = torch.stack([weight.abs().amax((1, 2)) for weight in conv.values()]).clamp_min(1e-12)
        scale = largest / _FLOAT8_MAX
        conv = {name: conv[name] / one[:, None, None] for name, one in zip(conv, scale, strict=True)}
        scale = (scale * input_scale).float().to(device)

    def matrix(own: Tensor, fused: Tensor) -> Tensor:
        both = torch.cat([own, fused]).transpose(1, 2)  # (2·De, 3, D)
        flat = both.reshape(both.shape[0], -1).float().to(device=device, dtype=dtype).contiguous()
        return _for_products(flat)

    heads = [state[f"actionness_{name}.weight"].flatten() for name in ("rgb", "flow")]
    offsets = [state[f"actionness_{name}.bias"].flatten() for name in ("rgb", "flow")]
    classify = state["classify.weight"].detach().squeeze(2)
    return TwoBranchWeights(
        rgb=matrix(conv["embed_rgb"], conv["embed"][:, :width_rgb]),
        flow=matrix(conv["embed_flow"], conv["embed"][:, width_rgb:]),
        bias=bias.float().to(device),
        edge=edge,
        scale=scale,
        input_scale=input_scale,
        classify=_for_products(classify.to(device=device, dtype=plain_dtype(dtype)).contiguous()),
        classify_bias=state["classify.bias"].detach().float().to(device),
        actionness=torch.stack(heads).detach().float().to(device),
        actionness_bias=torch.cat(offsets).detach().float().to(device),
    )


def _for_products(weights: Tensor) -> Tensor:
    """float32 weights on a GPU as the nearest tf32: its products leave the lowest 13 bits out unrounded."""
    return nearest_tf32(weights) if weights.is_cuda and weights.dtype == torch.float32 else weights


def nearest_tf32(values: Tensor) -> Tensor:
    """float32 values with ten bits after the leading one; what has no finite nearest one stays as it is."""
    nearest = ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return torch.where(torch.isfinite(values) & torch.isfinite(nearest), nearest, values)


def plain_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that embeddings and class weights have where products are of ``dtype``."""
    return torch.bfloat16 if dtype == FLOAT8 else dtype


@dataclass(frozen=True)
class Float8Launch:
    """Launch settings of the kernel that rounds features, which only streams."""

    elements: int = 4096
    num_warps: int = 8


LAUNCH = Float8Launch()


@operation("float8_features")
def float8_features_fwd(x: Tensor, scale: float) -> Iterator[Tensor]:
    """Launch the kernel that rounds features to float8."""
    yield (out := torch.empty(x.shape, dtype=FLOAT8, device=x.device))
    from aicl_fast.kernels.gpu.two_branch import float8_kernel

    launch(
        float8_kernel,
        (-(-x.numel() // LAUNCH.elements),),
        x.contiguous(),
        out,
        scale,
        x.numel(),
        MOST=_FLOAT8_MAX,
        BLOCK=LAUNCH.elements,
        num_warps=LAUNCH.num_warps,
    )


def float8_features_reference(x: Tensor, scale: float) -> Tensor:
    """Features over their scale, clipped to ±448 and rounded to float8, in plain torch."""
    # On a GPU torch divides by a number as it multiplies by its reciprocal, which rounds once more.
    divisor = torch.full((), scale, device=x.device)
    return (x.float() / divisor).clamp(-_FLOAT8_MAX, _FLOAT8_MAX).to(FLOAT8)
