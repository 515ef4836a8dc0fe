"""I3D: a segment of video to 1024 features and the classes of Kinetics. Imports torch.

Source: Carreira and Zisserman, Quo Vadis, Action Recognition? (CVPR 2017), fig. 3. Parameters have the names
of the PyTorch port whose weights people have (``Mixed_3b.b1a.conv3d.weight``).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

from aicl_fast.extras import needs

with needs("train"):
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

from aicl_fast.errors import DataError
from aicl_fast.metadata import Stream

CHANNELS: dict[Stream, int] = {"rgb": 3, "flow": 2}
FLOW_BOUND = 20.0
"""Pixels a frame, at which flow is clipped before it is scaled to [-1, 1]."""

# Input channels; then those of the six convolutions b0, b1a, b1b, b2a, b2b, b3b.
_MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


class I3DOutputs(NamedTuple):
    """What the network gives for N clips, float32."""

    features: Tensor
    """(N, 1024), pooled over space and time"""
    logits: Tensor
    """(N, classes), before softmax"""


class I3D(nn.Module):
    """The Inception-v1 network inflated to three dimensions.

    Args:
        stream: ``rgb`` (3 channels) or ``flow`` (2).
        classes: of the head; 400 for Kinetics.
    """

    def __init__(self, stream: Stream = "rgb", *, classes: int = 400) -> None:
        super().__init__()
        self.stream: Stream = stream
        self.Conv3d_1a_7x7 = _Unit(CHANNELS[stream], 64, 7, stride=2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        for name, (channels, widths) in _MIXED.items():
            self.add_module(name, _Mixed(channels, widths))
        self.logits = _Head(1024, classes)

    def forward(self, clips: Tensor) -> I3DOutputs:
        """Run N clips.

        Args:
            clips: (N, C, frames, height, width), scaled to [-1, 1]; a segment is 16 frames of 224 x 224. For
                longer clips both outputs are means over time, as the released program has it: over windows
                of two steps, of 8 frames each.
        Raises:
            DataError: another number of dimensions or channels.
        """
        if clips.ndim != 5 or clips.shape[1] != CHANNELS[self.stream]:
            raise DataError(
                f"clips: an I3D of {self.stream} takes (N, {CHANNELS[self.stream]}, frames, height, width), "
                f"got {tuple(clips.shape)}."
            )
        x = self.Conv3d_1a_7x7(clips)
        x = _max_pool(x, (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = _max_pool(x, (1, 3, 3), (1, 2, 2))
        for name in _MIXED:
            if name == "Mixed_4b":
                x = _max_pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                x = _max_pool(x, (2, 2, 2), (2, 2, 2))
            x = getattr(self, name)(x)
        x = x.mean((3, 4), dtype=torch.float32)
        features = F.avg_pool1d(x, min(2, x.shape[2]), 1).mean(2)
        return I3DOutputs(features, self.logits(features))


class DeployedI3D(nn.Module):
    """The network as it is run and exported: raw clips in, normalisation and folded BatchNorm inside.

    Args:
        net: trained weights; they are copied.
        dtype: what convolutions are computed in. Normalisation, the last pooling and the head are float32.
    """

    def __init__(self, net: I3D, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.net = fold_batch_norm(net).to(dtype)
        self.net.logits.float()
        for unit in self.net.modules():
            if isinstance(unit, nn.Conv3d):
                unit.weight.data = unit.weight.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Run N clips.

        Args:
            clips: (N, frames, height, width, C): RGB in 0 to 255, or flow (dx, dy) in pixels a frame.
        Returns:
            ``features`` (N, 1024) and ``logits`` (N, classes), float32.
        """
        x = clips.float()
        x = x / 127.5 - 1 if self.net.stream == "rgb" else x.clamp(-FLOW_BOUND, FLOW_BOUND) / FLOW_BOUND
        outputs = self.net(x.permute(0, 4, 1, 2, 3).to(self.dtype))
        return outputs.features, outputs.logits


def fold_batch_norm(net: I3D) -> I3D:
    """A copy in evaluation mode whose convolutions do what they and their BatchNorm did, but for rounding."""
    folded = copy.deepcopy(net).eval()
    for unit in folded.modules():
        if isinstance(unit, _Unit) and isinstance(unit.bn, nn.BatchNorm3d):
            unit.conv3d = fuse_conv_bn_eval(unit.conv3d, unit.bn)
            unit.bn = nn.Identity()
    return folded


class _Unit(nn.Module):
    """Convolution with TensorFlow's SAME padding, BatchNorm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, width, kernel, stride, bias=False)
        self.bn: nn.Module = nn.BatchNorm3d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv3d
        pads = [_same(*each) for each in zip(x.shape[2:], conv.kernel_size, conv.stride, strict=True)]
        if all(before == after for before, after in pads):
            x = F.conv3d(x, conv.weight, conv.bias, conv.stride, tuple(before for before, _ in pads))
        else:
            # F.pad begins with the last dimension.
            x = F.pad(x, [amount for pair in reversed(pads) for amount in pair])
            x = F.conv3d(x, conv.weight, conv.bias, conv.stride)
        return F.relu(self.bn(x), inplace=True)


class _Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = _Unit(channels, b0, 1)
        self.b1a = _Unit(channels, b1a, 1)
        self.b1b = _Unit(b1a, b1b, 3)
        self.b2a = _Unit(channels, b2a, 1)
        self.b2b = _Unit(b2a, b2b, 3)
        self.b3b = _Unit(channels, b3b, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


class _Head(nn.Module):
    """Features to classes: a convolution of kernel 1, as the released program has it."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(width, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv3d(features[:, :, None, None, None]).flatten(1)  # type: ignore[no-any-return]


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one dimension: before and after, the odd one after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _max_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """SAME max pooling of what is not negative, so that padding by 0 and by -inf are alike."""
    before = [_same(*each)[0] for each in zip(x.shape[2:], kernel, stride, strict=True)]
    # The last window reaches past the end, which is the padding after.
    return F.max_pool3d(x, kernel, stride, before, ceil_mode=True)
