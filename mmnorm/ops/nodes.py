r"""The passes over the data as nodes of autograd, so that the gradient of the input is made in one pass.

It has three parts, ``scale * dy`` from the affine form and one from each moment, and all three go into one pass::

    dx = scale * dy + (2 / L) * dvar * (x - mean) + dmean / L

Left to itself, autograd would make each part by itself and add them. So the node of the affine form hands ``dy`` and
``scale`` on, as the gradients of stand-ins without memory of their own, and the node of the moments, which comes last,
makes the pass. What is between the two, the coefficients, is anything that autograd can go through.

An activation in the pass turns ``dy`` into the gradient of its argument, which is ``scale * (x - mean) + shift`` and so
can be had again: ``shift`` is a third stand-in's gradient. After a residual sum that gradient is in memory anyway, as
the residual's, and is handed on in the place of ``dy``.

Kept between forward and backward: x, and (N, C) numbers; after a sum and an activation also what the passes say.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from .activation import Activation, slope_of
from .again import differentiate_again
from .compat import is_autocast_enabled
from .passes import native, reference
from .passes.interface import FusedPasses, Passes


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


def moments(x: Tensor, passes: Passes, fused: Fused = NOTHING) -> tuple[Tensor, Tensor, tuple]:
    """Mean and variance of each plane, and what :func:`affine` is to be given.

    Args:
        x: (N, C, *), contiguous or channels_last.
        passes: The implementation.
        fused: What goes into its passes.
    """
    # After a sum it is the gradient of the activation's argument that comes back.
    mean, var, *stand_ins = _Moments.apply(x, passes, fused.activation if fused.residual is None else None)
    return mean, var, (passes, *stand_ins)


def affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, state: tuple, fused: Fused = NOTHING) -> Tensor:
    """``scale * (x - mean) + shift``, sum and activation included; ``state`` is what :func:`moments` gave."""
    passes, *stand_ins = state
    activation, residual = fused
    if residual is None:
        return _Affine.apply(x, mean, scale, shift, *stand_ins, passes, activation)
    is_recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (x, scale, shift, residual))
    return _AffineAdd.apply(x, mean, scale, shift, residual, *stand_ins[:2], passes, activation, is_recorded)


def native_moments(x: Tensor, fused: Fused) -> tuple[Tensor, Tensor, list[Tensor]]:
    """:func:`moments` with the native passes, as a node in C++."""
    # After a sum it is the gradient of the activation's input that comes back.
    negative_slope = slope_of(fused.activation if fused.residual is None else None)
    mean, var, *stand_ins = native.compiled().moments_node(x, negative_slope, _moments_again)
    return mean, var, stand_ins


def native_affine(
    x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, stand_ins: list[Tensor], fused: Fused
) -> Tensor:
    """:func:`affine` with the native passes, activation and sum included, as a node in C++."""
    again = _affine_again if fused.residual is not None else _activated_again(fused.activation)
    return native.compiled().affine_node(
        x, mean, scale, shift, fused.residual, stand_ins, slope_of(fused.activation), again
    )


@cache
def _activated_again(activation: Activation | None) -> Callable:
    if activation is None:
        return _affine_again
    return partial(differentiate_again, partial(reference.affine, activation=activation.__call__))


@cache
def _activated_sum_again(activation: Activation) -> Callable:
    def function(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, residual: Tensor) -> Tensor:
        return reference.affine(x, mean, scale, shift, activation=lambda y: activation(y + residual))

    return partial(differentiate_again, function)


class _Moments(torch.autograd.Function):
    """x to mean and var, and the three stand-ins whose gradients are dy, scale and, with an activation, shift."""

    @staticmethod
    def forward(ctx, x: Tensor, passes: Passes, activation: Activation | None) -> tuple[Tensor, ...]:
        mean, var = passes.moments(x)
        ctx.passes, ctx.activation = passes, activation
        ctx.save_for_backward(x, mean)
        ctx.set_materialize_grads(False)
        coefficients = [mean.new_zeros(()).expand(mean.shape) for _ in range(2)]
        return mean, var, x.new_zeros(()).expand(x.shape), *coefficients

    @staticmethod
    def backward(
        ctx,
        dmean: Tensor | None,
        dvar: Tensor | None,
        dy: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
    ):
        x, mean = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_moments_again([x], ctx.needs_input_grad[:1], [dmean, dvar]), None, None
        activated = () if shift is None else (shift, ctx.activation)
        slope, offset, scale = (torch.zeros_like(mean) if t is None else t for t in (dvar, dmean, scale))
        positions = math.prod(x.shape[2:])
        dy = torch.zeros_like(x) if dy is None else as_laid_out(dy, x)
        with _without_autocast(x):
            terms = dy, x, mean, scale, slope * (2 / positions), offset / positions
            return ctx.passes.input_gradient(*terms, *activated), None, None


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
        shift_stand_in: Tensor,
        passes: Passes,
        activation: Activation | None,
    ) -> Tensor:
        ctx.passes, ctx.activation = passes, activation
        ctx.save_for_backward(x, mean, scale, shift)
        return ctx.passes.affine(
            x, mean, scale.contiguous(), shift.contiguous(), *(() if activation is None else (activation,))
        )

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, mean, scale, shift = ctx.saved_tensors
        activation = ctx.activation
        if torch.is_grad_enabled():
            again = _activated_again(activation)
            return *again([x, mean, scale, shift], ctx.needs_input_grad[:4], [dy]), *[None] * 5
        dy, scale, shift = as_laid_out(dy, x), scale.contiguous(), shift.contiguous()
        activated = () if activation is None else (scale, shift, activation)
        with _without_autocast(x):
            total, product_total = ctx.passes.plane_sums(dy, x, mean, *activated)
            to_stand_ins = dy, scale, shift if activated else None
            return None, -scale * total, product_total, total, *to_stand_ins, None, None


class _AffineAdd(torch.autograd.Function):
    """The same with a residual, whose gradient is that of the sum, as is the one that goes through the stand-ins."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor,
        dy_stand_in: Tensor,
        scale_stand_in: Tensor,
        passes: FusedPasses,
        activation: Activation | None,
        is_recorded: bool,
    ) -> Tensor:
        y, kept = passes.affine_add(x, mean, scale.contiguous(), shift.contiguous(), residual, activation, is_recorded)
        ctx.passes, ctx.activation = passes, activation
        ctx.save_for_backward(x, mean, scale, shift, kept)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, mean, scale, shift, kept = ctx.saved_tensors
        activation = ctx.activation
        if torch.is_grad_enabled():
            if activation is not None and activation.slope is None:
                again, tensors = _activated_sum_again(activation), [x, mean, scale, shift, kept]
                return *again(tensors, ctx.needs_input_grad[:5], [dy]), *[None] * 5
            dz = dy if activation is None else dy * ctx.passes.slopes_of(kept, x, activation.slope)
            return *_affine_again([x, mean, scale, shift], ctx.needs_input_grad[:4], [dz]), dz, *[None] * 5
        dy, scale, shift = as_laid_out(dy, x), scale.contiguous(), shift.contiguous()
        with _without_autocast(x):
            if activation is None:
                (total, product_total), dz = ctx.passes.plane_sums(dy, x, mean), dy
            else:
                total, product_total, dz = ctx.passes.plane_sums_add(dy, x, mean, scale, shift, activation, kept)
            return None, -scale * total, product_total, total, dz, dz, scale, None, None, None


def as_laid_out(dy: Tensor, x: Tensor) -> Tensor:
    """``dy`` in the memory format of ``x``, with its signs in memory."""
    dy = dy.resolve_neg()
    if x.is_contiguous():
        return dy.contiguous()
    return dy.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def _without_autocast(x: Tensor):
    return torch.autocast(x.device.type, enabled=False) if is_autocast_enabled(x.device.type) else nullcontext()
