"""The pool of normalizers: each one pools the moments of the planes in its own way.

A normalizer sees only the means and variances of the (sample, channel) planes. IN keeps them, LN pools over the
channels, GN over the channels of a group, BN over the samples. All use the law of total variance
``var = mean(var_i) + var(mean_i)``, which stays accurate where ``mean(var_i + mean_i^2) - mean^2`` cancels.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

NORMALIZERS = ('IN', 'LN', 'BN', 'GN')


def pool(mean: Tensor, var: Tensor, dim: int) -> tuple[Tensor, Tensor]:
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


def pool_instance(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Instance normalization (IN): every plane for itself. (N, C) to (N, C)."""
    return mean, var


def pool_layer(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Layer normalization (LN): all channels of a sample. (N, C) to (N, 1)."""
    return pool(mean, var, 1)


def pool_group(mean: Tensor, var: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Group normalization (GN): the channels of a group. (N, C) to (N, num_groups)."""
    mean, var = pool(mean.unflatten(1, (num_groups, -1)), var.unflatten(1, (num_groups, -1)), 2)
    return mean.squeeze(2), var.squeeze(2)


def pool_batch(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Batch normalization (BN): all samples of the batch. (N, C) to (1, C)."""
    return pool(mean, var, 0)


def pool_batch_sync(mean: Tensor, var: Tensor, group: dist.ProcessGroup | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`pool_batch` over the samples of all processes, which may hold different numbers of them, or none.

    Every plane weighs the same, so the planes of all processes must have the same number of positions for this to be
    the moments of the whole batch.

    Args:
        mean: Means of this process's planes, (N, C).
        var: Biased variances of this process's planes, (N, C).
        group: The processes to pool over; None is all of them.

    Returns:
        Mean and biased variance of the whole batch, both (1, C), and its number of samples, a scalar.
    """
    group = group or dist.group.WORLD
    samples = mean.new_full((1,), mean.shape[0])
    total = all_reduce(torch.cat([mean.sum(0), samples]), group=group)
    # Where every process came with an empty batch there is nothing to divide by, and nothing to normalize.
    count = total[-1].clamp(min=1)
    pooled = (total[:-1] / count).unsqueeze(0)
    pooled_var = all_reduce((var + (mean - pooled).square()).sum(0), group=group) / count
    return pooled, pooled_var.unsqueeze(0), total[-1].detach()


def spread_groups(pooled: Tensor, num_channels: int) -> Tensor:
    """Give every channel the value of its group. (N, G) to (N, num_channels)."""
    return pooled.repeat_interleave(num_channels // pooled.shape[1], dim=1)
