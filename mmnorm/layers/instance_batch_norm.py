"""IBN: "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net" (arXiv 1807.09441)."""

import torch
from torch import Tensor

from ..registry import register
from .fixed_pool import FixedPoolNorm


@register('IBN')
class InstanceBatchNorm(FixedPoolNorm):
    r"""IBN (IBN-a's layer): the first part of the channels is standardized by IN, the rest by BN.

    .. math::
        y_c = \gamma_c \frac{x_c - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c,
        \qquad (\mu, \sigma^2)_c \text{ of IN where } c < \lfloor rC \rfloor \text{, of BN elsewhere}

    BN's running statistics are kept for all channels, so that BN's weights load and return whole. Loaded from BN, the
    channels of BN are the same function, those of IN are IN with BN's gamma and beta.

    Args:
        num_features: Number of channels C.
        ratio: r, the part of the channels that IN has.
        **options: As those of :class:`.fixed_pool.FixedPoolNorm`.

    Attributes:
        weight: gamma, (C,).
        bias: beta, (C,).
        instance: 1 for the channels of IN, else 0, (C,); a buffer.
    """

    paper = ('Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net', '1807.09441')
    fixed_pool = ('IN', 'BN')
    own_parameters = ('instance',)
    instance: Tensor

    def __init__(self, num_features: int, ratio: float = 0.5, **options) -> None:
        super().__init__(num_features, **options)
        if not 0 <= ratio <= 1:
            raise ValueError(f'ratio must be in [0, 1], the part of the channels that IN has, got {ratio!r}')
        self.ratio = ratio
        self.register_buffer('instance', torch.zeros(self.num_features, device=options.get('device')))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.instance.fill_(0)[: int(self.num_features * self.ratio)] = 1

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        deviation, variance = self.pool(mean, var, positions, update_running_stats)
        instance = self.instance > 0
        deviation = torch.where(instance, deviation[0], deviation[1])
        variance = torch.where(instance, variance[0], variance[1])
        scale = (variance + self.eps).rsqrt()
        return self.with_affine(scale, scale * deviation)


# Made by register.
InstanceBatchNorm1d: type[InstanceBatchNorm]
InstanceBatchNorm2d: type[InstanceBatchNorm]
InstanceBatchNorm3d: type[InstanceBatchNorm]
