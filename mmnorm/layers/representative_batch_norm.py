"""RBN: "Representative Batch Normalization with Feature Calibration" (CVPR 2021)."""

from torch import Tensor, nn

from ..registry import register
from .fixed_pool import GatedBatchNorm


@register('RBN')
class RepresentativeBatchNorm(GatedBatchNorm):
    r"""RBN: BN with a centering calibration before it and a scaling calibration after it.

    With the plane's mean :math:`\bar x_{nc}` (the paper's :math:`K_m`) and that of what is standardized, :math:`K_s`:

    .. math::
        x' = x + w_m \bar x_{nc}, \quad \hat x = \frac{x' - \mathrm E[x']}{\sqrt{\mathrm{Var}[x'] + \epsilon}}, \quad
        y = \gamma \, \mathrm{sigmoid}(w_v K_s + w_b)\, \hat x + \beta

    The calibrated planes have the means :math:`(1 + w_m) \bar x_{nc}` and the variances of those of x. Both weights
    start at 0 and w_b at 1: a constant gate of 0.73. Loaded from BN, gamma is divided by it, so that the layer starts
    as that BN. The running statistics are those of x'.

    Attributes:
        weight: gamma, (C,).
        bias: beta, (C,).
        center_weight: w_m, (C,).
        gate_weight: w_v, (C,).
        gate_bias: w_b, (C,).
    """

    paper = ('Representative Batch Normalization with Feature Calibration', 'CVPR 2021')
    own_parameters = ('center_weight', 'gate_weight', 'gate_bias')
    initial_gate_bias = 1.0
    center_weight: nn.Parameter

    def tracked_moments(self, mean: Tensor, var: Tensor, positions: int) -> tuple[Tensor, Tensor, int]:
        return mean * (1 + self.center_weight), var.to(mean.dtype), positions

    def standardize(self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool) -> tuple[Tensor, ...]:
        deviation, variance = self.pool(*self.tracked_moments(mean, var, positions), update_running_stats)
        scale = (variance[0] + self.eps).rsqrt()
        return scale, deviation[0], scale * deviation[0]


# Made by register.
RepresentativeBatchNorm1d: type[RepresentativeBatchNorm]
RepresentativeBatchNorm2d: type[RepresentativeBatchNorm]
RepresentativeBatchNorm3d: type[RepresentativeBatchNorm]
