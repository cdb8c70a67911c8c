"""One normalizer of a pool: how it pools the moments, and what that sends back."""

from collections.abc import Callable

import torch
from torch import Tensor


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
        return t.unflatten(1, (self.num_groups, -1)) if self.normalizer == 'GN' else t

    def forward(self, mean: Tensor, var: Tensor) -> tuple[Tensor | None, Tensor]:
        """Deviations ``mean - pooled mean``, (N, C), None for IN, where they are zero; and the pooled variance.

        The variance is (N, C) or broadcastable to it; ``var`` has the type to compute in.
        """
        if self.normalizer == 'IN':
            return None, var
        if self.normalizer == 'running':
            running_mean, running_var = self.running
            return (mean - running_mean).to(self.dtype), running_var.to(self.dtype)
        grouped = self._grouped(mean)
        pooled_mean = grouped.mean(self.dim, keepdim=True)
        deviation = (grouped - pooled_mean).to(self.dtype)
        pooled_var = torch.addcmul(self._grouped(var), deviation, deviation).mean(self.dim, keepdim=True)
        if self.normalizer == 'BN' and self.track is not None:
            self.track(mean.shape[0], pooled_mean[0], pooled_var[0])
        if self.normalizer == 'GN':
            return deviation.flatten(1), pooled_var.expand_as(deviation).flatten(1)
        return deviation, pooled_var

    def sum(self, t: Tensor) -> Tensor | None:
        """Sum over the planes that are pooled together, (N, C) or broadcastable to it; None where none are."""
        if self.dim is None:
            return None
        grouped = self._grouped(t)
        total = grouped.sum(self.dim, keepdim=True)
        return total.expand_as(grouped).flatten(1) if self.normalizer == 'GN' else total

    def size(self, t: Tensor) -> int:
        """Number of planes that are pooled together."""
        return self._grouped(t).shape[self.dim]
