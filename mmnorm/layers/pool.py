"""Pooling over the samples of all processes."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


def pool_batch_sync(mean: Tensor, var: Tensor, group: dist.ProcessGroup | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the channels over the samples of all processes, which may hold different numbers of them, or none.

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
