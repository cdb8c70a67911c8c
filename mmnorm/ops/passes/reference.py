r"""The passes written with plain PyTorch operators: readable, and differentiable any number of times.

Every layer of this package is the same three steps, and only the middle one differs::

    x (N, C, *) --moments--> mean, var (N, C) --coefficients--> scale, shift (N, C) --affine--> y (N, C, *)

``shift`` is the value that the mean of the plane is sent to, ``y = scale * (x - mean) + shift``. The usual
``scale * x + offset`` subtracts two large numbers where \|mean\| >> std; here ``x - mean`` is exact and the pooled
means enter ``shift`` as differences to the mean of the plane.

Two more passes belong to the backward: the sums of a plane that the coefficients' gradients need, and the gradient of
the input. The other implementations of the four (:mod:`.composed`, :mod:`.native`, :mod:`.triton`) are tested against
these.
"""

from collections.abc import Callable

import torch
from torch import Tensor


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


def affine(
    x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, *, activation: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    r"""``scale * (x - mean) + shift``, each plane with its own three numbers.

    Args:
        x: Floating-point tensor of shape (N, C, \*).
        mean: Mean of each plane, (N, C), as :func:`moments` returns it.
        scale: Slope of each plane, (N, C).
        shift: Value of each plane at its mean, (N, C).
        activation: Applied to that.

    Returns:
        Tensor of the shape, type and memory format of ``x``.
    """
    center = _center(mean, x)
    # What rounding takes from the mean is made good in the shift.
    shift = shift + scale * (center - mean)
    y = _deviation(x, center) * _spread(scale, x) + _spread(shift, x)
    return (y if activation is None else activation(y)).to(x.dtype)


def plane_sums(dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    r"""Sums over the positions of each plane of ``dy`` and of ``dy * (x - mean)``.

    Args:
        dy: Gradient of the output, of the shape, type and memory format of ``x``.
        x: Floating-point tensor of shape (N, C, \*).
        mean: As in :func:`affine`.

    Returns:
        The two sums, each (N, C), in the type of :func:`accumulation_dtype` or more precise.
    """
    center = _center(mean, x)
    positions = tuple(range(2, x.dim()))
    dy = dy.to(center.dtype)
    total, product = dy, dy * _deviation(x, center)
    if positions:
        total, product = total.sum(positions), product.sum(positions)
    return total, product + (center - mean) * total


def input_gradient(dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    r"""``scale * dy + slope * (x - mean) + offset``, each plane with its own four numbers.

    Args:
        dy: Gradient of the output, of the shape, type and memory format of ``x``.
        x: Floating-point tensor of shape (N, C, \*).
        mean: As in :func:`affine`.
        scale: Factor of ``dy``, (N, C).
        slope: Factor of the deviation from the mean, (N, C).
        offset: Constant, (N, C).

    Returns:
        Tensor of the shape, type and memory format of ``x``.
    """
    center = _center(mean, x)
    offset = offset + slope * (center - mean)
    terms = dy.to(center.dtype) * _spread(scale, x) + _deviation(x, center) * _spread(slope, x)
    return (terms + _spread(offset, x)).to(x.dtype)


def _center(mean: Tensor, x: Tensor) -> Tensor:
    """The mean, rounded to the type that the passes over ``x`` compute in, as a constant."""
    return mean.detach().to(accumulation_dtype(x.dtype))


def _spread(t: Tensor, x: Tensor) -> Tensor:
    """(N, C) to (N, C, 1, ...), in the type that the passes over ``x`` compute in."""
    return t.to(accumulation_dtype(x.dtype)).reshape(t.shape + (1,) * (x.dim() - 2))


def _deviation(x: Tensor, center: Tensor) -> Tensor:
    return x.to(center.dtype) - _spread(center, x)
