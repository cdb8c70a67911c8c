"""The pool of normalizers: each one pools the moments of the planes in its own way.

A normalizer sees only the means and variances of the (sample, channel) planes. IN keeps them, LN pools over the
channels, GN over the channels of a group, BN over the samples. All use the law of total variance
``var = mean(var_i) + var(mean_i)``, which stays accurate where ``mean(var_i + mean_i^2) - mean^2`` cancels.
"""

from torch import Tensor

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


def spread_groups(pooled: Tensor, num_channels: int) -> Tensor:
    """Give every channel the value of its group. (N, G) to (N, num_channels)."""
    return pooled.repeat_interleave(num_channels // pooled.shape[1], dim=1)
