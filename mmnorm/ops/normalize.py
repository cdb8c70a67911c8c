"""A layer as its three steps: moments, coefficients, affine."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import backend


def normalize(x: Tensor, coefficients: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> Tensor:
    r"""Normalize ``x``: one read of it for the moments, one read and one write for the affine form.

    Args:
        x: Floating-point tensor of shape (N, C, \*).
        coefficients: From mean and biased variance of the planes, (N, C), and the number of positions of a plane, to
            scale and shift, both broadcastable to (N, C), of ``y = scale * (x - mean) + shift``; differentiable. It is
            called once, with side effects such as an update of running statistics.

    Returns:
        Tensor of the shape, type and memory format of ``x``, never a view of it.
    """
    implementation = backend.select(x)
    if implementation is not backend.REFERENCE:
        x = _dense(x)
    mean, var, state = implementation.moments(x)
    coefficients_of_planes = coefficients(mean, var, math.prod(x.shape[2:]))
    scale, shift = [t if t.shape == mean.shape else t.expand_as(mean) for t in coefficients_of_planes]
    return implementation.affine(x, mean, scale, shift, state)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and biased variance of each (sample, channel) plane.

    Args:
        x: Floating-point tensor of shape (N, C, \*).

    Returns:
        Both (N, C), as :func:`normalize` hands them to ``coefficients``.
    """
    return backend.select(x).moments(_dense(x))[:2]


def _dense(x: Tensor) -> Tensor:
    """``x``, contiguous where it is neither that nor channels_last, and with its signs in memory."""
    x = x.resolve_neg()
    return x if x.is_contiguous() or _is_channels_last(x) else x.contiguous()


def _is_channels_last(x: Tensor) -> bool:
    return (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)) or (
        x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    )
