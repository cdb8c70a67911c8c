r"""The pool of normalizers: each one pools the moments of the planes in its own way.

A normalizer sees only mean and variance of the (sample, channel) planes. IN keeps them, LN pools over the channels of a
sample, GN over those of a group, BN over the samples. All use the law of total variance
``var = mean(var_i) + var(mean_i)``, which stays accurate where ``mean(var_i + mean_i^2) - mean^2`` cancels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .kernel import with_kernels

NORMALIZERS = ('IN', 'LN', 'BN', 'GN')


class RunningStats(NamedTuple):
    """BN's running statistics, to be moved towards a batch.

    Attributes:
        mean: Running mean, (C,).
        var: Running unbiased variance, (C,).
        num_batches: Number of batches seen, a scalar of int64.
        momentum: Weight of the new value; None is a cumulative average.
        positions: Number of positions of a plane of the batch.
    """

    mean: Tensor
    var: Tensor
    num_batches: Tensor
    momentum: float | None
    positions: int


@torch.no_grad()
def update_running_stats(stats: RunningStats, mean: Tensor, var: Tensor, values: int | Tensor) -> None:
    """Move running statistics towards the moments of a batch.

    Args:
        stats: The running statistics.
        mean: Mean of each channel, (C,).
        var: Biased variance of each channel, (C,).
        values: Number of values a channel; 0 leaves everything as it is.
    """
    # All in tensors: how many values there were in all processes is known to the device alone, and asking it would make
    # the program wait, and torch.compile end its graph.
    values = values if isinstance(values, Tensor) else mean.new_full((), values)
    seen = values.clamp(max=1)
    stats.num_batches.add_(seen.to(stats.num_batches.dtype))
    batches = stats.num_batches.clamp(min=1).to(mean.dtype)
    factor = seen / batches if stats.momentum is None else seen * stats.momentum
    # As nn.BatchNorm: normalized by the biased variance, tracked as the unbiased one. A single value has no unbiased
    # variance; nn.BatchNorm raises there, here it counts as variance 0.
    unbiased = var * (values / (values - 1).clamp(min=1))
    for running, batch in ((stats.mean, mean), (stats.var, unbiased)):
        running.lerp_(batch.to(running.dtype), factor.to(running.dtype))


@with_kernels(once=('track',))
def pool(
    mean: Tensor,
    var: Tensor,
    batch_mean: Tensor | None = None,
    batch_var: Tensor | None = None,
    *,
    normalizers: Sequence[str],
    num_groups: int = 1,
    track: RunningStats | None = None,
) -> tuple[Tensor, Tensor]:
    """The moments that each normalizer of a pool uses, as the mixing takes them.

    Args:
        mean: Mean of each plane, (N, C).
        var: Biased variance of each plane, (N, C).
        batch_mean: What BN takes for the mean of each channel, (C,); None is that of this batch.
        batch_var: What BN takes for its variance, (C,).
        normalizers: K of 'IN', 'LN', 'BN' and 'GN'.
        num_groups: Groups of GN.
        track: Running statistics that BN moves towards the batch.

    Returns:
        For each normalizer the deviation of the plane's mean from the pooled one, (K, N, C): differences are small
        where means may be large; and the pooled biased variance, (K, N, C).
    """
    deviations, variances = [], []
    for normalizer in normalizers:
        if normalizer == 'IN':
            deviation, pooled_var = torch.zeros_like(mean), var
        elif normalizer == 'BN':
            if batch_mean is None or batch_var is None:
                pooled, pooled_var = pool_over(mean, var, 0)
            else:
                pooled, pooled_var = batch_mean, batch_var
            if track is not None:
                values = mean.shape[0] * track.positions
                update_running_stats(track, pooled.detach().flatten(), pooled_var.detach().flatten(), values)
            deviation = mean - pooled
        else:
            groups = 1 if normalizer == 'LN' else num_groups
            grouped_mean, grouped_var = _by_group(mean, var, groups)
            pooled, pooled_var = pool_over(grouped_mean, grouped_var, 2)
            # By group, where compilers and exporters have this difference from the pooling already.
            deviation = (grouped_mean - pooled).flatten(1)
            pooled_var = pooled_var.expand(-1, -1, grouped_var.shape[2]).flatten(1)
        deviations.append(deviation)
        variances.append(pooled_var.to(mean.dtype).expand_as(mean))
    return torch.stack(deviations), torch.stack(variances)


@with_kernels()
def group_moments(mean: Tensor, var: Tensor, *, groups: int) -> tuple[Tensor, Tensor]:
    """Moments of groups of neighbouring channels.

    Args:
        mean: Mean of each plane, (N, C).
        var: Biased variance of each plane, (N, C).
        groups: Their number G, a divisor of C.

    Returns:
        Mean and biased variance, both (N, G) and of one type.
    """
    pooled, pooled_var = pool_over(*_by_group(mean, var, groups), 2)
    return pooled.squeeze(2).to(pooled_var.dtype), pooled_var.squeeze(2)


def _by_group(mean: Tensor, var: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return mean.unflatten(1, (groups, -1)), var.unflatten(1, (groups, -1))


def pool_over(mean: Tensor, var: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Moments of the union of equally large sets, from the moments of each.

    Args:
        mean: Means of the sets, any shape.
        var: Biased variances of the sets, the same shape.
        dim: The dimension to pool over; it is kept with size 1.

    Returns:
        Mean and biased variance of the union.
    """
    pooled = mean.mean(dim, keepdim=True)
    return pooled, (var + (mean - pooled).square()).mean(dim, keepdim=True)
