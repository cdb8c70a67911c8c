"""SelfNorm: "CrossNorm and SelfNorm for Generalization under Distribution Shifts" (arXiv 2102.02811)."""

import math

import torch
from torch import Tensor, nn

from ..registry import register
from .fixed_pool import FixedPoolNorm, Recalibration


@register('SelfNorm')
class SelfNorm(Recalibration, FixedPoolNorm):
    r"""SelfNorm: mean and standard deviation of each plane are recalibrated by attention to both of them.

    .. math::
        y = \sigma'_{nc} \frac{x - \mu_{nc}}{\sigma_{nc}} + \mu'_{nc}, \qquad \mu' = f(\mu, \sigma)\, \mu, \quad
        \sigma' = g(\mu, \sigma)\, \sigma, \qquad f, g = \mathrm{sigmoid}(\mathrm{BN}(w_1 \mu + w_2 \sigma))

    f and g are of each channel alone; the authors' code has f only where it is asked for two. It does not standardize:
    it stands behind a norm, and takes none of its weights.

    Attributes:
        attention_weight: w of f, then of g, (2, 2, C).
        weight: gamma of the BN in f, then of that in g, (2C,).
        bias: beta, likewise.
        running_mean: Their running statistics, (2C,).
    """

    paper = ('CrossNorm and SelfNorm for Generalization under Distribution Shifts', '2102.02811')
    own_parameters = ('attention_weight',)
    learns = 'affine'

    def __init__(self, num_features: int, **options) -> None:
        super().__init__(num_features, **options)
        factory = dict(device=options.get('device'), dtype=options.get('dtype'))
        # Of f and g, beside each other.
        self.register_affine(2 * self.num_features, **factory)
        for name in ('running_mean', 'running_var'):
            if getattr(self, name) is not None:
                self.register_buffer(name, torch.empty(2 * self.num_features, **factory))
        self.attention_weight = nn.Parameter(torch.empty(2, 2, self.num_features, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.uniform_(self.attention_weight, -math.sqrt(0.5), math.sqrt(0.5))

    def tracked_moments(self, mean: Tensor, var: Tensor, positions: int) -> tuple[Tensor, Tensor, int]:
        std = (var + self.eps).sqrt()
        logits = torch.cat([w[0] * mean + w[1] * std for w in self.attention_weight.to(mean.dtype)], 1)
        return logits, torch.zeros_like(logits), 1

    def attention(self, mean: Tensor, var: Tensor, update_running_stats: bool) -> tuple[Tensor, Tensor]:
        """What f and g give each plane, both (N, C)."""
        deviation, variance = self.pool(*self.tracked_moments(mean, var, 0), update_running_stats)
        scale = (variance[0] + self.eps).rsqrt()
        f, g = self.with_affine(scale, scale * deviation[0])[1].sigmoid().chunk(2, 1)
        return f, g

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        f, g = self.attention(mean, var, update_running_stats)
        return g, f * mean

    def predict(self, mean: Tensor, var: Tensor, positions: int) -> tuple[Tensor, Tensor]:
        """The new standard deviations and means."""
        f, g = self.attention(mean, var, False)
        return g * (var + self.eps).sqrt(), f * mean


# Made by register.
SelfNorm1d: type[SelfNorm]
SelfNorm2d: type[SelfNorm]
SelfNorm3d: type[SelfNorm]
