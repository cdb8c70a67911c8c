"""The passes written with plain PyTorch operators: readable, and differentiable any number of times.

Every layer of this package is the same three steps, and only the middle one differs::

    x (N, C, *) --moments--> mean, var (N, C) --coefficients--> scale, shift (N, C) --affine--> y (N, C, *)

``shift`` is the value that the mean of the plane is sent to, ``y = scale * (x - mean) + shift``. The usual
``scale * x + offset`` subtracts two large numbers where |mean| >> std; here ``x - mean`` is exact and the pooled
means enter ``shift`` as differences to the mean of the plane.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Coefficients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that the passes compute in: float32 for half precision, else ``dtype`` itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def coefficient_dtype(x: Tensor) -> torch.dtype:
    """The type of moments and coefficients: float32 for half-precision input, else float64.

    The pools subtract means that may be large from each other. They are (N, C) numbers, so float64 costs nothing next
    to the passes, and it keeps the layers as accurate as nn.BatchNorm2d, which sums in float64, where |mean| >> std.
    """
    has_float64 = x.device.type != 'mps'
    return torch.float64 if has_float64 and x.dtype not in (torch.float16, torch.bfloat16) else torch.float32


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and biased variance of each (sample, channel) plane.

    Args:
        x: Floating-point tensor of shape (N, C, \*). With no dimension after the channels a plane is one value.

    Returns:
        Mean and variance, each of shape (N, C), in the type of :func:`coefficient_dtype`.
    """
    dtype = coefficient_dtype(x)
    x = x.to(accumulation_dtype(x.dtype))
    positions = tuple(range(2, x.dim()))
    if not positions:
        return x.to(dtype), torch.zeros_like(x, dtype=dtype)
    # Where |mean| >> std, a mean summed in floating point is off by more than its own rounding. Taken as a mere guess,
    # it leaves small deviations, whose mean corrects it.
    guess = x.detach().mean(positions, keepdim=True)
    deviation = x - guess
    correction = deviation.mean(positions)
    var = deviation.square().mean(positions) - correction.square()
    return guess.flatten(1).to(dtype) + correction.to(dtype), var.clamp(min=0).to(dtype)


def affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    r"""``scale * (x - mean) + shift``, each plane with its own three numbers.

    Args:
        x: Floating-point tensor of shape (N, C, \*).
        mean: Mean of each plane, (N, C).
        scale: Slope of each plane, (N, C) or broadcastable to it.
        shift: Value of each plane at its mean, (N, C) or broadcastable to it.

    Returns:
        Tensor of the shape, type and memory format of ``x``.
    """
    dtype = accumulation_dtype(x.dtype)
    # The rounding of the mean to the type of x is made good in the shift.
    center = mean.detach().to(dtype)
    shift = shift + scale * (center - mean)
    center, scale, shift = (t.to(dtype).reshape(t.shape + (1,) * (x.dim() - 2)) for t in (center, scale, shift))
    return ((x.to(dtype) - center) * scale + shift).to(x.dtype)


def normalize(x: Tensor, coefficients: Coefficients, params: Sequence[Tensor] = ()) -> Tensor:
    r"""The whole layer: moments, coefficients, affine.

    Args:
        x: Floating-point tensor of shape (N, C, \\*), not empty.
        coefficients: Function of mean and var, both (N, C), that gives scale and shift, both broadcastable to
            (N, C). It is called once, and may have side effects such as an update of running statistics.
        params: The tensors besides mean and var that ``coefficients`` is differentiated by. Unused here, where
            autograd sees them by itself; an engine with a backward of its own needs them named.

    Returns:
        Tensor of the shape, type and memory format of ``x``, never a view of it.
    """
    mean, var = moments(x)
    scale, shift = coefficients(mean, var)
    return affine(x, mean, scale, shift)
