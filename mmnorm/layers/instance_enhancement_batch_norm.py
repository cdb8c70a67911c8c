"""IEBN: "Instance Enhancement Batch Normalization: an Adaptive Regulator of Batch Noise" (arXiv 1908.04008)."""

from torch import Tensor

from ..registry import register
from .fixed_pool import GatedBatchNorm


@register('IEBN')
class InstanceEnhancementBatchNorm(GatedBatchNorm):
    r"""IEBN: BN whose gamma has a gate for each plane, from the plane's own mean :math:`m_{nc}`.

    .. math::
        y = \gamma \, \mathrm{sigmoid}(w\, m_{nc} + b) \frac{x - \mu_{BN}}{\sqrt{\sigma_{BN}^2 + \epsilon}} + \beta

    w starts at 0 and b at -1, as in the paper: a constant gate of 0.27. Loaded from BN, gamma is divided by it, so that
    the layer starts as that BN.

    Attributes:
        weight: gamma, (C,).
        bias: beta, (C,).
        gate_weight: w, (C,).
        gate_bias: b, (C,).
    """

    paper = ('Instance Enhancement Batch Normalization: an Adaptive Regulator of Batch Noise', '1908.04008')
    initial_gate_bias = -1.0

    def standardize(self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool) -> tuple[Tensor, ...]:
        deviation, variance = self.pool(mean, var, positions, update_running_stats)
        return (variance[0] + self.eps).rsqrt(), deviation[0], mean


# Made by register.
InstanceEnhancementBatchNorm1d: type[InstanceEnhancementBatchNorm]
InstanceEnhancementBatchNorm2d: type[InstanceEnhancementBatchNorm]
InstanceEnhancementBatchNorm3d: type[InstanceEnhancementBatchNorm]
