"""A layer as its three steps: moments, coefficients, affine."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import backend, nodes
from .activation import Activation
from .nodes import NOTHING, Fused


def normalize(
    x: Tensor,
    coefficients: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]],
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    r"""Normalize ``x``: one read of it for the moments, one read and one write for the affine form.

    Args:
        x: Floating-point tensor of shape (N, C, \*).
        coefficients: From mean and biased variance of the planes, (N, C), and the number of positions of a plane, to
            scale and shift, both broadcastable to (N, C), of ``y = scale * (x - mean) + shift``; differentiable. It is
            called once, with side effects such as an update of running statistics.
        activation: What follows, after the sum; in the same pass where the backend can.
        residual: A tensor of the shape of ``x`` that is added to the affine form, in the same pass where the backend
            can.

    Returns:
        Tensor of the shape, type and memory format of ``x``, never a view of it.
    """
    implementation = backend.select(x)
    if implementation is not backend.REFERENCE:
        x = _dense(x)
    plan = _plan(implementation, x, activation, residual)
    mean, var, state = implementation.moments(x, plan)
    coefficients_of_planes = coefficients(mean, var, math.prod(x.shape[2:]))
    scale, shift = [t if t.shape == mean.shape else t.expand_as(mean) for t in coefficients_of_planes]
    y = implementation.affine(x, mean, scale, shift, state, plan)
    if residual is not None and plan.residual is None:
        y = y + residual
    # By its name: the compiler of 2.1 does not call a NamedTuple.
    return y if activation is None or plan.activation is not None else activation.__call__(y)


def _plan(implementation: backend.Backend, x: Tensor, activation: Activation | None, residual: Tensor | None) -> Fused:
    """What of activation and residual goes into the passes. The activation comes after the sum."""
    if activation is None and residual is None:
        return NOTHING
    fuses = implementation.activations
    if residual is None:
        return Fused(activation) if activation is not None and activation.name in fuses else NOTHING
    if not fuses or residual.dtype != x.dtype or not backend.is_eager(residual):
        return NOTHING
    in_pass = activation if activation is not None and activation.name in fuses else None
    return Fused(in_pass, nodes.as_laid_out(residual, x))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and biased variance of each (sample, channel) plane.

    Args:
        x: Floating-point tensor of shape (N, C, \*).

    Returns:
        Both (N, C), as :func:`normalize` hands them to ``coefficients``.
    """
    return backend.select(x).moments(_dense(x), NOTHING)[:2]


def _dense(x: Tensor) -> Tensor:
    """``x``, contiguous where it is neither that nor channels_last, and with its signs in memory."""
    x = x.resolve_neg()
    return x if x.is_contiguous() or _is_channels_last(x) else x.contiguous()


def _is_channels_last(x: Tensor) -> bool:
    return (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)) or (
        x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    )
