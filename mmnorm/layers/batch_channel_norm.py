"""BCN: "Rethinking Normalization and Elimination Singularity in Neural Networks" (arXiv 1911.09738)."""

import math

import torch
from torch import Tensor, nn

from .. import ops
from ..registry import register
from .base import check_positive_int
from .fixed_pool import FixedPoolNorm


@register('BCN')
class BatchChannelNorm(FixedPoolNorm):
    r"""Batch-Channel Normalization: BN, then GN of what comes out of it, with a gamma and beta of each group.

    .. math::
        y = \gamma_g\, \mathrm{GN}\!\left(\gamma_c \frac{x - \mu_{BN}}{\sqrt{\sigma_{BN}^2 + \epsilon}} + \beta_c\right)
            + \beta_g

    What comes out of BN, :math:`s_c (x - \bar x) + h_{nc}`, has planes of mean :math:`h_{nc}` and variance
    :math:`s_c^2 \sigma_{nc}^2`: GN's moments are pooled from these. Loaded from BN, the layer starts as GN of that BN.
    """

    paper = ('Rethinking Normalization and Elimination Singularity in Neural Networks', '1911.09738')
    own_parameters = ('group_weight', 'group_bias')

    def __init__(self, num_features: int, num_groups: int = 32, **options) -> None:
        """Make the layer.

        Args:
            num_features: Number of channels C.
            num_groups: Groups G of GN; gcd(C, num_groups) is used.
            **options: As those of :class:`.fixed_pool.FixedPoolNorm`.
        """
        super().__init__(num_features, **options)
        self.num_groups = math.gcd(self.num_features, check_positive_int('num_groups', num_groups))
        factory = dict(device=options.get('device'), dtype=options.get('dtype'))
        self.group_weight = nn.Parameter(torch.empty(self.num_groups, **factory))
        self.group_bias = nn.Parameter(torch.empty(self.num_groups, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.group_weight)
        nn.init.zeros_(self.group_bias)

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        deviation, variance = self.pool(mean, var, positions, update_running_stats)
        batch_scale = (variance[0] + self.eps).rsqrt()
        batch_scale, batch_shift = self.with_affine(batch_scale, batch_scale * deviation[0])
        var = (batch_scale.square() * var).to(batch_shift.dtype)
        deviation, variance = ops.pool(batch_shift, var, normalizers=('GN',), num_groups=self.num_groups)
        size = self.num_features // self.num_groups
        scale = (variance[0] + self.eps).rsqrt() * self.group_weight.repeat_interleave(size)
        return scale * batch_scale, scale * deviation[0] + self.group_bias.repeat_interleave(size)

    def sole_normalizer(self) -> str | None:
        return None


# Made by register.
BatchChannelNorm1d: type[BatchChannelNorm]
BatchChannelNorm2d: type[BatchChannelNorm]
BatchChannelNorm3d: type[BatchChannelNorm]
