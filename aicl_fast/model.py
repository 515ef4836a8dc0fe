"""The network: a class-aware branch over both streams and one class-agnostic branch per stream (section 3 of
the paper), and the form of it that is exported."""

from __future__ import annotations

import copy
from typing import NamedTuple

from aicl_fast.extras import needs

with needs("train"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

from aicl_fast.config import Config
from aicl_fast.kernels.fusion import score_fusion
from aicl_fast.kernels.winograd import filter_transform, input_transform, multiply


class TwoBranchOutputs(NamedTuple):
    """What the network returns for B videos of T segments, for training; the names are the paper's.

    What is left of it when it is deployed is :class:`aicl_fast.signature.NetworkOutputs`.
    """

    E: Tensor
    """(B, T, De) embedding of both streams."""
    E_rgb: Tensor
    """(B, T, De)"""
    E_flow: Tensor
    """(B, T, De)"""
    CAS: Tensor
    """(B, T, C) class activation sequence, logits."""
    A_rgb: Tensor
    """(B, T) actionness of the first stream, in [0, 1]."""
    A_flow: Tensor
    """(B, T) actionness of the second stream."""
    A: Tensor
    """(B, T) class-aware actionness."""
    A_ca: Tensor
    """(B, T) class-agnostic actionness."""
    A_score: Tensor
    """(B, T, C) fused score. No gradient flows back through it."""


def _at_least_float32(value: Tensor) -> Tensor:
    return value.float() if value.element_size() < 4 else value


def conv3_rows(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """A kernel-3 convolution of (B, T, D) as (B, T, De), contiguous where the backend keeps channels last.

    As a picture of one row, (B, T, D) is what a convolution calls channels last: it is read as it lies, where
    one over (B, D, T) copies it and leaves (B, De, T).
    """
    picture = x.contiguous().transpose(1, 2).unsqueeze(2)  # (B, D, 1, T)
    weight = conv.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return functional.conv2d(picture, weight, conv.bias, padding=(0, 1)).squeeze(2).transpose(1, 2)


class TwoBranchNet(nn.Module):
    """AICL's network: three kernel-3 convolutions to embeddings, three kernel-1 heads.

    Args:
        config: widths, classes and γ come from its ``data`` and ``model`` sections.

    Example:
        >>> from aicl_fast.config import load_config
        >>> net = TwoBranchNet(load_config("thumos14"))
        >>> net(torch.rand(2, 750, 2048)).A_score.shape
        torch.Size([2, 750, 20])
    """

    input_mean: Tensor
    input_scale: Tensor
    winograd: bool = False
    """Compute the embeddings with half the products (:mod:`aicl_fast.kernels.winograd`): the same to
    rounding."""
    winograd_filters: dict[str, tuple[Tensor, ...]] | None = None
    """The transformed kernels, where weights do not change any more; else each pass transforms them again."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        data, width = config.data, config.model.embedding_width
        self.streams = data.streams
        self.rgb_width = data.rgb_width
        self.flow_width = data.flow_width
        self.gamma = config.model.fusion_gamma
        self.embed = nn.Conv1d(data.input_width, width, 3, padding=1)
        self.classify = nn.Conv1d(width, config.model.num_classes, 1)
        if self.streams != "flow":
            self.embed_rgb = nn.Conv1d(data.rgb_width, width, 3, padding=1)
            self.actionness_rgb = nn.Conv1d(width, 1, 1)
        if self.streams != "rgb":
            self.embed_flow = nn.Conv1d(data.flow_width, width, 3, padding=1)
            self.actionness_flow = nn.Conv1d(width, 1, 1)
        self.standardize = config.model.standardize_input
        if self.standardize:
            self.register_buffer("input_mean", torch.zeros(data.input_width))
            self.register_buffer("input_scale", torch.ones(data.input_width))

    @torch.no_grad()
    def use_winograd(self) -> None:
        """Compute the embeddings with half the products from now on, with the weights as they are now."""
        self.winograd = True
        names = ["embed", *self._streams()]
        self.winograd_filters = {name: filter_transform(getattr(self, name).weight) for name in names}

    def set_input_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Standardise inputs by these (D,) statistics of the training features.

        A feature that hardly varies keeps its scale: dividing by next to nothing would only amplify noise.
        """
        if not self.standardize:
            raise ValueError("set_input_statistics: the config has standardize_input = False")
        self.input_mean.copy_(mean)
        self.input_scale.copy_(torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 1.0))

    def forward(self, x: Tensor) -> TwoBranchOutputs:
        """Run B videos. Under autocast the products are narrow, and all but the embeddings is float32.

        Args:
            x: (B, T, D) features: the streams that the model reads side by side, rgb first.
        """
        if self.standardize:
            x = (x - self.input_mean) * self.input_scale
        e, e_rgb, e_flow = self._embed_winograd(x) if self.winograd else self._embed_direct(x)
        cas = self._head(self.classify, e)
        # With one stream, both names mean it: A_ca is then that stream's actionness.
        if self.streams != "flow":
            logit_flow = logit_rgb = self._head(self.actionness_rgb, e_rgb).squeeze(2)
        if self.streams != "rgb":
            logit_flow = self._head(self.actionness_flow, e_flow).squeeze(2)
        if self.streams == "flow":
            logit_rgb = logit_flow
        if torch.is_autocast_enabled(x.device.type):
            # Ranking needs more than a narrow type's values: sigmoids tie there, and reach 1.
            cas, logit_rgb, logit_flow = (_at_least_float32(v) for v in (cas, logit_rgb, logit_flow))
        scores, a, a_ca = score_fusion(cas, logit_rgb, logit_flow, self.gamma)
        return TwoBranchOutputs(
            E=e,
            E_rgb=e_rgb,
            E_flow=e_flow,
            CAS=cas,
            A_rgb=logit_rgb.sigmoid(),
            A_flow=logit_flow.sigmoid(),
            A=a,
            A_ca=a_ca,
            A_score=scores.detach(),
        )

    def _embed_direct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E, E_rgb and E_flow as (B, T, De) views of what the convolutions leave as (B, De, T)."""
        if x.is_cuda and isinstance(self.embed, nn.Conv1d):
            return self._embed_rows(x)
        x = x.transpose(1, 2)
        e = self.embed(x).relu().transpose(1, 2)
        if self.streams != "flow":
            e_flow = e_rgb = self.embed_rgb(x[:, : self.rgb_width]).relu().transpose(1, 2)
        if self.streams != "rgb":
            e_flow = self.embed_flow(x[:, -self.flow_width :]).relu().transpose(1, 2)
        return e, (e_flow if self.streams == "flow" else e_rgb), e_flow

    def _embed_rows(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, but (B, T, De) in memory too: no copy before or after on a GPU."""
        own = [conv3_rows(x[..., part], getattr(self, name)).relu() for name, part in self._streams().items()]
        return conv3_rows(x, self.embed).relu(), own[0], own[-1]

    def _embed_winograd(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same with half the products; under autocast these are what is narrow."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        # The transforms stay as they are: autocast would narrow some of their sums too.
        with torch.autocast(kind, enabled=False):
            parts = [part.to(dtype) for part in input_transform(x)]

            def embed(name: str, columns: slice) -> Tensor:
                conv, known = getattr(self, name), self.winograd_filters
                filters = filter_transform(conv.weight) if known is None else known[name]
                product = multiply([part[..., columns] for part in parts], filters, x.shape[1])
                result: Tensor = (product + conv.bias).relu()
                return result

            e = embed("embed", slice(None))
            own = [embed(name, columns) for name, columns in self._streams().items()]
        return e, own[0], own[-1]

    def _streams(self) -> dict[str, slice]:
        """Each stream's convolution, and the features that it reads."""
        rgb, width = slice(0, self.rgb_width), self.embed.in_channels
        flow = slice(width - self.flow_width, width)
        names = {"both": ("rgb", "flow"), "rgb": ("rgb",), "flow": ("flow",)}[self.streams]
        return {f"embed_{name}": {"rgb": rgb, "flow": flow}[name] for name in names}

    def _head(self, conv: nn.Conv1d, e: Tensor) -> Tensor:
        """(B, T, outputs) of a kernel-1 convolution, computed the way ``e`` lies in memory."""
        if self.winograd or e.is_cuda:  # where embeddings are (B, T, De) in memory too
            return functional.linear(e, conv.weight[..., 0], conv.bias)
        result: Tensor = conv(e.transpose(1, 2)).transpose(1, 2)
        return result


class LocalizationNet(nn.Module):
    """The network as it is deployed: features in, the four results that localisation needs out.

    Top-k pooling is part of it, so that no consumer of the file writes it again.

    Args:
        net: the trained network; it is copied where its precision changes.
        config: its settings.
        dtype: what the three kernel-3 convolutions are computed in. Inputs, heads (1 % of the work), sums,
            softmax and sigmoids are float32.
        dynamic: k follows T (k = T // topk_divisor) instead of being the settings' constant.
        winograd: those convolutions are written out as matrix products, half as many
            (:mod:`aicl_fast.kernels.winograd`); float32 only.
    """

    def __init__(
        self,
        net: TwoBranchNet,
        config: Config,
        dtype: torch.dtype = torch.float32,
        *,
        dynamic: bool = False,
        winograd: bool = False,
    ) -> None:
        super().__init__()
        if winograd:
            net = copy.deepcopy(net)
            net.use_winograd()
        elif dtype != torch.float32:
            net = copy.deepcopy(net)
            for name in ("embed", "embed_rgb", "embed_flow"):
                if hasattr(net, name):
                    setattr(net, name, _Narrow(getattr(net, name), dtype))
        self.net = net
        self.k = config.topk
        self.divisor = config.model.topk_divisor
        self.dynamic = dynamic

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run B videos.

        Args:
            features: (B, T, D) float32.
        Returns:
            ``scores`` (B, T, C) fused A_score, ``video_scores`` (B, C) softmax of the video logits,
            ``actionness`` (B, T) A, ``actionness_agnostic`` (B, T) A_ca.
        """
        outputs = self.net(features)
        k = features.shape[1] // self.divisor if self.dynamic else self.k
        # ONNX's TopK breaks ties by the lowest index, as aicl_fast.kernels.topk_pool does.
        best = outputs.A_score.topk(k, dim=1).indices
        video_scores = outputs.CAS.gather(1, best).mean(1).softmax(-1)
        return outputs.A_score, video_scores, outputs.A, outputs.A_ca


class _Narrow(nn.Module):
    """A convolution and its ReLU in a narrower type, between float32 values."""

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = conv.to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x.to(self.dtype)).relu().float()
        return result
