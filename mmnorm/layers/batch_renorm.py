"""BRN: "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models" (arXiv 1702.03275)."""

import torch
from torch import Tensor

from ..registry import register
from .fixed_pool import FixedPoolNorm


@register('BRN')
class BatchRenorm(FixedPoolNorm):
    r"""Batch Renormalization: BN whose training is bound to its running statistics :math:`\mu, \sigma` (Algorithm 1).

    .. math::
        y = \gamma \left( \frac{x - \mu_B}{\sigma_B}\, r + d \right) + \beta, \quad
        r = \mathrm{clip}_{[1/r_{max}, r_{max}]}\!\frac{\sigma_B}{\sigma}, \quad
        d = \mathrm{clip}_{[-d_{max}, d_{max}]}\!\frac{\mu_B - \mu}{\sigma}

    No gradient goes through r and d. In eval mode, and with r_max = 1 and d_max = 0, the layer is BN. ``RenormHook``
    lets the bounds, which are buffers, grow from these to the arguments in the course of training. Loaded from BN, it
    is the same function in eval mode.

    Args:
        num_features: Number of channels C.
        r_max: Largest correction of the standard deviation, at least 1.
        d_max: Largest correction of the mean, at least 0.
        **options: As those of :class:`.fixed_pool.FixedPoolNorm`.
    """

    paper = (
        'Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models', '1702.03275',
    )  # fmt: skip
    own_parameters = ('r_max', 'd_max')
    r_max: Tensor
    d_max: Tensor

    def __init__(self, num_features: int, r_max: float = 3.0, d_max: float = 5.0, **options) -> None:
        super().__init__(num_features, **options)
        if not (r_max >= 1 and d_max >= 0):
            raise ValueError(f'expected r_max >= 1 and d_max >= 0, got r_max={r_max!r} and d_max={d_max!r}')
        self.bounds = float(r_max), float(d_max)
        for name in self.own_parameters:
            self.register_buffer(name, torch.zeros((), device=options.get('device')))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.set_bounds()

    def set_bounds(self, r_part: float = 1.0, d_part: float = 1.0) -> None:
        """Let the bounds be parts of the way, 0 to 1, from those of BN to the arguments."""
        self.r_max.fill_(1 + r_part * (self.bounds[0] - 1))
        self.d_max.fill_(d_part * self.bounds[1])

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        corrects = self.training and self.running_mean is not None and self.running_var is not None
        # As they were before this batch, which pool lets in.
        running = [t.to(mean.dtype, copy=True) for t in (self.running_mean, self.running_var)] if corrects else []  # type: ignore[union-attr]
        (deviation,), (variance,) = self.pool(mean, var, positions, update_running_stats)
        std = (variance + self.eps).sqrt()
        if not corrects:
            return self.with_affine(1 / std, deviation / std)
        sigma = (running[1] + self.eps).sqrt()
        r = (std.detach() / sigma).clamp(1 / self.r_max, self.r_max)
        d = (((mean - deviation).detach() - running[0]) / sigma).clamp(-self.d_max, self.d_max)
        return self.with_affine(r / std, deviation * (r / std) + d)

    def sole_normalizer(self) -> str | None:
        return None if self.training else 'BN'


# Made by register.
BatchRenorm1d: type[BatchRenorm]
BatchRenorm2d: type[BatchRenorm]
BatchRenorm3d: type[BatchRenorm]
