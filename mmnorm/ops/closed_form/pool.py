"""One normalizer of a pool: how it pools the moments, and what that sends back."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class RunningStats(NamedTuple):
    """BN's running statistics, for forms that move them by themselves, instead of the pool's ``track``.

    Attributes:
        mean: Running mean, (C,).
        var: Running unbiased variance, (C,).
        num_batches: Number of batches seen, a scalar of int64; it counts one more.
        momentum: Weight of the new value; None is a cumulative average.
        positions: Number of positions of a plane.
    """

    mean: Tensor
    var: Tensor
    num_batches: Tensor
    momentum: float | None
    positions: int


class PoolForm:
    """A normalizer that pools the moments over the channels (LN), groups of them (GN), the samples (BN) or not (IN).

    The mean is needed only as the deviation of each plane's mean from it, which is taken in the type of the moments
    and then rounded to ``dtype``.

    Args:
        normalizer: 'IN', 'LN', 'GN', 'BN', or 'running': BN with running statistics.
        dtype: The type to compute in.
        num_groups: Number of groups of GN.
        running: Running mean and variance, (C,), of 'running'.
        track: Called with the number of samples and the pooled mean and variance, both (C,), of 'BN'.
    """

    def __init__(
        self,
        normalizer: str,
        dtype: torch.dtype,
        num_groups: int = 1,
        running: tuple[Tensor, Tensor] | None = None,
        track: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> None:
        self.normalizer = normalizer
        self.dtype = dtype
        self.num_groups = num_groups
        self.running = running
        self.track = track
        # The dimension that is pooled over, of the moments as ``_grouped`` views them.
        self.dim = {'IN': None, 'LN': 1, 'GN': 2, 'BN': 0, 'running': None}[normalizer]

    def _grouped(self, t: Tensor) -> Tensor:
        return t.reshape(t.shape[0], self.num_groups, -1) if self.normalizer == 'GN' else t

    def forward(self, mean: Tensor, var: Tensor, center: Tensor) -> tuple[Tensor | None, Tensor]:
        """Deviations ``center - pooled mean``, (N, C), and the pooled variance, (N, C) or broadcastable to it.

        ``center`` is the mean, rounded to ``dtype``, as is ``var``. The deviation stands for that of the mean, too.
        It is None where it is zero: for IN, if nothing had to be rounded.
        """
        if self.normalizer == 'IN':
            return (None if mean.dtype == self.dtype else (center - mean).to(self.dtype)), var
        if self.normalizer == 'running':
            running_mean, running_var = self.running
            return center - running_mean.to(self.dtype), running_var.to(self.dtype)
        # Sums with a factor rather than means: each operator counts here.
        total, factor = self._grouped(mean).sum(self.dim, keepdim=True), 1 / self.size(mean)
        deviation = torch.add(self._grouped(center), total, alpha=-factor).to(self.dtype)
        pooled_var = torch.addcmul(self._grouped(var), deviation, deviation).sum(self.dim, keepdim=True).mul_(factor)
        if self.normalizer == 'BN' and self.track is not None:
            self.track(mean.shape[0], total[0] * factor, pooled_var[0])
        if self.normalizer == 'GN':
            return deviation.flatten(1), pooled_var.expand_as(deviation).flatten(1)
        return deviation, pooled_var

    def sum(self, t: Tensor) -> Tensor:
        """Sum over the planes that are pooled together, (N, C) or broadcastable to it."""
        if self.dim is None:
            return t
        grouped = self._grouped(t)
        total = grouped.sum(self.dim, keepdim=True)
        return total.expand_as(grouped).flatten(1) if self.normalizer == 'GN' else total

    def size(self, t: Tensor) -> int:
        """Number of planes that are pooled together."""
        return 1 if self.dim is None else self._grouped(t).shape[self.dim]

    def backward(
        self,
        deviation: Tensor | None,
        ddeviation: Tensor,
        dvar: Tensor,
        into: tuple[Tensor | None, Tensor | None],
        alpha: float = 1.0,
        beta: float = 1.0,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Add what the normalizer sends back to the gradients of mean and var.

        Args:
            deviation: As :meth:`forward` returned it.
            ddeviation: Gradient of the deviation as the pooled mean changes it, (N, C), times 1 / ``alpha``.
            dvar: Gradient of the pooled variance, spread over all planes, (N, C), times 1 / ``beta``.
            into: The gradients so far, (N, C), changed in place; None is zero.
            alpha: Factor of ``ddeviation``.
            beta: Factor of ``dvar``.

        Returns:
            The new gradients of mean and var.
        """
        if self.normalizer == 'running':
            return into
        size = self.size(dvar)
        dmean = _accumulate(into[0], self.sum(ddeviation), -alpha / size, ddeviation)
        total = self.sum(dvar)
        if self.dim is not None:
            # var = mean of (var_i + deviation_i^2)
            dmean.addcmul_(deviation, total, value=2 * beta / size)
        return dmean, _accumulate(into[1], total, beta / size, dvar)


def _accumulate(into: Tensor | None, t: Tensor, factor: float, like: Tensor) -> Tensor:
    """``into + factor * t``, in place; where there is nothing yet, a new tensor of the shape of ``like``."""
    if into is not None:
        return into.add_(t, alpha=factor)
    return t * factor if t.shape == like.shape else (t * factor).expand_as(like).contiguous()
