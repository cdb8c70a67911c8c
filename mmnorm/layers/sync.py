"""BN's moments over the batches of all processes, whatever each of them holds.

One collective each way: forward, every process learns how many values the others have, with what mean and variance;
backward, the gradients of the common moments are summed.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from ..ops.coefficients.pool import pool_over


def pool_batch_sync(mean: Tensor, var: Tensor, positions: int) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of each channel over the samples of all processes of the default group.

    Every value weighs the same, as in nn.SyncBatchNorm: the processes may hold maps of different sizes and different
    numbers of them, or none. All must call this, and go backward through it if one does.

    Args:
        mean: Means of this process's planes, (N, C).
        var: Biased variances of this process's planes, (N, C).
        positions: Number of positions of this process's planes.

    Returns:
        Mean and biased variance of the values of all processes, both (1, C), and the number of these values a channel,
        a scalar of the same type. All three are 0 where no process has any.
    """
    count = mean.shape[0] * positions
    # The mean of nothing would be NaN, for all.
    moments = pool_over(mean.detach(), var.detach(), 0) if count else mean.new_zeros(2, 1, mean.shape[1]).unbind()
    differentiates = torch.is_grad_enabled() and (mean.requires_grad or var.requires_grad)
    known = [t.squeeze(0) for t in moments] + [mean.new_full((1,), number) for number in (count, differentiates)]
    gathered = _gather(torch.cat(known))
    if torch.is_grad_enabled() and not differentiates and gathered[:, -1].any():
        # RoI heads make up an empty batch that depends on nothing. The others wait for this process backward too.
        mean = mean.detach().requires_grad_()
    return _Union.apply(mean, var, gathered[:, :-1], positions)


def _gather(t: Tensor) -> Tensor:
    """(n,) of each process to (processes, n)."""
    gathered = t.new_empty(dist.get_world_size(), len(t))
    dist.all_gather(list(gathered.unbind()), t)
    return gathered


class _Union(torch.autograd.Function):
    """The moments of this process's planes, and what is known of all, to the moments and the number of all values."""

    @staticmethod
    def forward(ctx, mean: Tensor, var: Tensor, gathered: Tensor, positions: int) -> tuple[Tensor, Tensor, Tensor]:
        means, variances, counts = gathered.split((mean.shape[1], mean.shape[1], 1), 1)
        total = counts.sum()
        weights = counts / total.clamp(min=1)
        pooled = (weights * means).sum(0, keepdim=True)
        pooled_var = (weights * (variances + (means - pooled).square())).sum(0, keepdim=True)
        ctx.save_for_backward(mean, pooled, positions / total.clamp(min=1))
        ctx.mark_non_differentiable(total)
        return pooled, pooled_var, total

    @staticmethod
    def backward(ctx, dpooled: Tensor, dpooled_var: Tensor, _):
        # pooled = sum of share * mean_i, pooled_var = sum of share * (var_i + (mean_i - pooled)^2); there, the
        # derivative by pooled is zero.
        mean, pooled, share = ctx.saved_tensors
        dpooled, dpooled_var = _Sum.apply(torch.stack([dpooled, dpooled_var])).unbind()
        dmean = share * (dpooled + 2 * (mean - pooled) * dpooled_var)
        return dmean, (share * dpooled_var).expand_as(mean), None, None


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx, t: Tensor) -> Tensor:
        total = t.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, dtotal: Tensor) -> Tensor:
        return _Sum.apply(dtotal)
