"""FRN: "Filter Response Normalization Layer: Eliminating Batch Dependence" (arXiv 1911.09737)."""

import torch
from torch import Tensor, nn

from .. import ops
from ..registry import register
from .base import LearnedNorm, check_batch_norm_options
from .thresholded_linear_unit import ThresholdedLinearUnit


@register('FRN')
class FilterResponseNorm(LearnedNorm):
    r"""Filter Response Normalization: by the mean square of each plane, without subtracting the mean.

    .. math::
        y = \gamma \frac{x}{\sqrt{\nu^2 + \epsilon + |\epsilon_l|}} + \beta, \qquad
        \nu^2 = \frac{1}{L} \sum_l x_l^2 = \sigma^2 + \bar x^2, \qquad z = \max(y, \tau)

    Args:
        num_features: Number of channels C.
        eps: 1e-6 in the paper, which learns more of it where planes have a single value.
        learn_eps: Whether :math:`\epsilon_l`, one number a layer, is learned, from 1e-4.
        tlu: Whether z, :class:`.thresholded_linear_unit.ThresholdedLinearUnit`, is part; then no ReLU should follow.
        affine: Whether gamma and beta are learned.
        activation: What follows, after z.
    """

    paper = ('Filter Response Normalization Layer: Eliminating Batch Dependence', '1911.09737')
    own_parameters = ('learned_eps',)
    learned_eps: Tensor
    _abbr_ = 'gn'

    def __init__(
        self, num_features: int, eps: float = 1e-6, learn_eps: bool = False, tlu: bool = False, affine: bool = True,
        activation: str | None = None, negative_slope: float = 0.01, device=None, dtype=None, **unused,
    ) -> None:  # fmt: skip
        unused = {k: v for k, v in unused.items() if k not in ('momentum', 'track_running_stats')}
        check_batch_norm_options(type(self).__name__, unused)
        super().__init__(num_features, eps, affine, activation, negative_slope)
        factory = dict(device=device, dtype=dtype)
        self.register_affine(self.num_features, **factory)
        self.register_buffer('learned_eps', torch.zeros((), **factory))
        if learn_eps:
            del self.learned_eps
            self.learned_eps = nn.Parameter(torch.zeros((), **factory))
        self.tlu = ThresholdedLinearUnit(self.num_features, **factory) if tlu else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gamma 1, beta 0, learned eps 1e-4."""
        nn.init.constant_(self.learned_eps, 1e-4 if isinstance(self.learned_eps, nn.Parameter) else 0)
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        scale = (var + mean.square() + self.eps + self.learned_eps.abs()).rsqrt()
        if self.weight is None or self.bias is None:
            return scale, scale * mean
        return scale * self.weight, scale * mean * self.weight + self.bias

    def _normalize(self, x: Tensor, residual: Tensor | None, activation: ops.Activation | None) -> Tensor:
        if self.tlu is None:
            return super()._normalize(x, residual, activation)
        z = self.tlu(super()._normalize(x, None, None))
        z = z if residual is None else z + residual
        return z if activation is None else activation(z)

    def closest_normalizer(self) -> str:
        return 'IN'


# Made by register.
FilterResponseNorm1d: type[FilterResponseNorm]
FilterResponseNorm2d: type[FilterResponseNorm]
FilterResponseNorm3d: type[FilterResponseNorm]
