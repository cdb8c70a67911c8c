r"""The passes over the data as nodes of autograd, so that the gradient of the input is made in one pass.

It has three parts, ``scale * dy`` from the affine form and one from each moment, and all three go into one pass::

    dx = scale * dy + (2 / L) * dvar * (x - mean) + dmean / L

Left to itself, autograd would make each part by itself and add them. So the node of the affine form hands ``dy`` and
``scale`` on, as the gradients of two stand-ins without memory of their own, and the node of the moments, which comes
last, makes the pass. What is between the two, the coefficients, is anything that autograd can go through.

Kept between forward and backward: x, and (N, C) numbers.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from .activation import Activation
from .again import differentiate_again
from .compat import is_autocast_enabled
from .passes import native, reference
from .passes.composed import ComposedPasses

Passes = ModuleType | ComposedPasses
# What the loops take an activation for is its slope below 0.
NO_ACTIVATION = 1.0


class Fused(NamedTuple):
    """What goes into the pass of the affine form.

    Attributes:
        activation: Applied to the sum.
        residual: Laid out as x.
    """

    activation: Activation | None = None
    residual: Tensor | None = None


NOTHING = Fused()
_moments_again = partial(differentiate_again, reference.moments)
_affine_again = partial(differentiate_again, reference.affine)


def moments(x: Tensor, passes: Passes) -> tuple[Tensor, Tensor, tuple]:
    """Mean and variance of each plane, and what :func:`affine` is to be given.

    Args:
        x: (N, C, *), contiguous or channels_last.
        passes: The implementation.
    """
    mean, var, *stand_ins = _Moments.apply(x, passes)
    return mean, var, (passes, *stand_ins)


def affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, state: tuple) -> Tensor:
    """``scale * (x - mean) + shift``; ``state`` is what :func:`moments` gave."""
    passes, *stand_ins = state
    return _Affine.apply(x, mean, scale, shift, *stand_ins, passes)


def native_moments(x: Tensor, fused: Fused) -> tuple[Tensor, Tensor, list[Tensor]]:
    """:func:`moments` with the native passes, as a node in C++."""
    # After a sum it is the gradient of the activation's input that comes back.
    negative_slope = _slope(fused.activation) if fused.residual is None else NO_ACTIVATION
    mean, var, *stand_ins = native.compiled().moments_node(x, negative_slope, _moments_again)
    return mean, var, stand_ins


def native_affine(
    x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, stand_ins: list[Tensor], fused: Fused
) -> Tensor:
    """:func:`affine` with the native passes, activation and sum included, as a node in C++."""
    again = _affine_again if fused.residual is not None else _activated_again(fused.activation)
    return native.compiled().affine_node(
        x, mean, scale, shift, fused.residual, stand_ins, _slope(fused.activation), again
    )


def _slope(activation: Activation | None) -> float:
    slope = NO_ACTIVATION if activation is None else activation.slope
    assert slope is not None
    return slope


@cache
def _activated_again(activation: Activation | None) -> Callable:
    return partial(differentiate_again, partial(reference.affine, activation=activation)) if activation else _affine_again


class _Moments(torch.autograd.Function):
    """x to mean and var, and the two stand-ins whose gradients are dy and scale."""

    @staticmethod
    def forward(ctx, x: Tensor, passes: Passes) -> tuple[Tensor, ...]:
        mean, var = passes.moments(x)
        ctx.passes = passes
        ctx.save_for_backward(x, mean)
        ctx.set_materialize_grads(False)
        return mean, var, x.new_zeros(()).expand(x.shape), mean.new_zeros(()).expand(mean.shape)

    @staticmethod
    def backward(ctx, dmean: Tensor | None, dvar: Tensor | None, dy: Tensor | None, scale: Tensor | None):
        x, mean = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_moments_again([x], ctx.needs_input_grad[:1], [dmean, dvar]), None
        slope, offset, scale = (torch.zeros_like(mean) if t is None else t for t in (dvar, dmean, scale))
        positions = math.prod(x.shape[2:])
        dy = torch.zeros_like(x) if dy is None else as_laid_out(dy, x)
        with _without_autocast(x):
            return ctx.passes.input_gradient(dy, x, mean, scale, slope * (2 / positions), offset / positions), None


class _Affine(torch.autograd.Function):
    """x, its moments and coefficients to y. The gradient of x goes through the stand-ins."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        dy_stand_in: Tensor,
        scale_stand_in: Tensor,
        passes: Passes,
    ) -> Tensor:
        ctx.passes = passes
        ctx.save_for_backward(x, mean, scale, shift)
        return passes.affine(x, mean, scale.contiguous(), shift.contiguous())

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, mean, scale, shift = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_affine_again([x, mean, scale, shift], ctx.needs_input_grad[:4], [dy]), None, None, None
        dy = as_laid_out(dy, x)
        with _without_autocast(x):
            total, product_total = ctx.passes.plane_sums(dy, x, mean)
            return None, -scale * total, product_total, total, dy, scale, None


def as_laid_out(dy: Tensor, x: Tensor) -> Tensor:
    """``dy`` in the memory format of ``x``."""
    if x.is_contiguous():
        return dy.contiguous()
    return dy.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def _without_autocast(x: Tensor):
    return torch.autocast(x.device.type, enabled=False) if is_autocast_enabled(x.device.type) else nullcontext()
