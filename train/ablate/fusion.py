"""The networks of Table 6: each branch reads the two streams fused early, as one input, or late.

*Early* is one sub-branch over both streams side by side. *Late* is a sub-branch a stream, averaged. The
method is early for the class-aware branch and late for the class-agnostic one, which is
:class:`aicl_fast.model.TwoBranchNet` itself; the other three are here. They return the same outputs, so that
losses, selection and decoding are the method's in all four.
"""

from __future__ import annotations

from aicl_fast.extras import needs

with needs("train"):
    from torch import Tensor, nn

from aicl_fast.config import Config
from aicl_fast.errors import ConfigError
from aicl_fast.kernels.fusion import score_fusion
from aicl_fast.model import TwoBranchNet, TwoBranchOutputs


class FusionNet(TwoBranchNet):
    """AICL's network with either branch fused the other way.

    Args:
        config: as the method's; it must read both streams.
        aware_late: a class-aware sub-branch a stream. Embeddings and logits are averaged: ``E`` is the mean
            of two (B, T, De), ``CAS`` of two (B, T, C).
        agnostic_early: one class-agnostic sub-branch over both streams. ``E_rgb`` and ``A_rgb`` are its
            outputs; ``E_flow`` and ``A_flow`` are the same values without a gradient, so that each loss
            reaches the one sub-branch once. L_mc is then 0, and the logged L_ca and L_c count it twice.
    Raises:
        ConfigError: the config reads one stream only.
    """

    def __init__(self, config: Config, *, aware_late: bool, agnostic_early: bool) -> None:
        if config.data.streams != "both":
            raise ConfigError(
                "data.streams: two streams can only be fused where both are read, got "
                f"{config.data.streams!r}. Set streams=both."
            )
        super().__init__(config)
        data, width = config.data, config.model.embedding_width
        self.aware_late, self.agnostic_early = aware_late, agnostic_early
        if aware_late:
            del self.embed, self.classify
            self.embed_aware = nn.ModuleList(
                nn.Conv1d(size, width, 3, padding=1) for size in (data.rgb_width, data.flow_width)
            )
            self.classify_aware = nn.ModuleList(
                nn.Conv1d(width, config.model.num_classes, 1) for _ in range(2)
            )
        if agnostic_early:
            del self.embed_rgb, self.actionness_rgb, self.embed_flow, self.actionness_flow
            self.embed_agnostic = nn.Conv1d(data.input_width, width, 3, padding=1)
            self.actionness_agnostic = nn.Conv1d(width, 1, 1)

    def forward(self, x: Tensor) -> TwoBranchOutputs:
        """Run B videos: (B, T, D) features, rgb first."""
        if self.standardize:
            x = (x - self.input_mean) * self.input_scale
        x = x.transpose(1, 2)
        streams = x[:, : self.rgb_width], x[:, self.rgb_width :]
        if self.aware_late:
            each = [embed(stream).relu() for embed, stream in zip(self.embed_aware, streams, strict=True)]
            e = (each[0] + each[1]) / 2
            logits = [head(embedding) for head, embedding in zip(self.classify_aware, each, strict=True)]
            cas = ((logits[0] + logits[1]) / 2).transpose(1, 2)
        else:
            e = self.embed(x).relu()
            cas = self.classify(e).transpose(1, 2)
        if self.agnostic_early:
            e_rgb = self.embed_agnostic(x).relu()
            e_flow = e_rgb.detach()
            logit_rgb = logit_flow = self.actionness_agnostic(e_rgb).squeeze(1)
        else:
            e_rgb, e_flow = self.embed_rgb(streams[0]).relu(), self.embed_flow(streams[1]).relu()
            logit_rgb = self.actionness_rgb(e_rgb).squeeze(1)
            logit_flow = self.actionness_flow(e_flow).squeeze(1)
        scores, a, a_ca = score_fusion(cas, logit_rgb, logit_flow, self.gamma)
        a_flow = logit_flow.sigmoid()
        return TwoBranchOutputs(
            E=e.transpose(1, 2),
            E_rgb=e_rgb.transpose(1, 2),
            E_flow=e_flow.transpose(1, 2),
            CAS=cas,
            A_rgb=logit_rgb.sigmoid(),
            A_flow=a_flow.detach() if self.agnostic_early else a_flow,
            A=a,
            A_ca=a_ca,
            A_score=scores.detach(),
        )


def early_early(config: Config) -> FusionNet:
    """Both branches read the streams side by side (Table 6: 40.7)."""
    return FusionNet(config, aware_late=False, agnostic_early=True)


def late_early(config: Config) -> FusionNet:
    """Class-aware late, class-agnostic early: the method's reverse (Table 6: 41.6)."""
    return FusionNet(config, aware_late=True, agnostic_early=True)


def late_late(config: Config) -> FusionNet:
    """A sub-branch a stream in both branches (Table 6: 45.7)."""
    return FusionNet(config, aware_late=True, agnostic_early=False)
