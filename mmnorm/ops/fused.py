r"""The whole layer with one backward: seven passes over data, whatever the coefficients are.

The gradient of the input has three parts, ``scale * dy`` from the affine form and one from each moment, and all three
go into one pass::

    dx = scale * dy + (2 / L) * dvar * (x - mean) + dmean / L

There are three ways to it:

* one node, with the closed form of the coefficients, in eager mode: in C++ where the loops for the CPU are compiled
  (``csrc/node.cpp``), else :class:`_Whole`, on the CPU and on a GPU with Triton.
* :class:`_Moments` and :class:`_Affine`, which leave the coefficients to autograd (or to torch.compile). Left to
  itself, autograd would make each part of dx by itself and add them. So the node of the affine form hands ``dy`` and
  ``scale`` on, as the gradients of two stand-ins without memory of their own, and the node of the moments, which
  comes last, makes the pass.
* the plain operators of :mod:`.reference`, for whatever cannot go through a node with a backward of its own.

Kept between forward and backward: x, and (N, C) numbers.
"""

import math
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from . import backend, library, native_coefficients, reference
from .compat import (
    HAS_CUSTOM_OPS,
    is_autocast_enabled,
    is_compiling,
    is_exporting,
    is_forward_ad,
    is_transformed,
)
from .reference import accumulation_dtype


class Coefficients(Protocol):
    """What a layer says of itself: how scale and shift come from the moments."""

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Scale and shift, both broadcastable to (N, C), of planes with ``positions`` values each; differentiable."""

    def closed_form(self, forms: ModuleType, dtype: torch.dtype, positions: int):
        """The same, computed in ``dtype``, as one of ``forms`` (see :mod:`.closed_form`); None if there is none."""

    def coefficient_parameters(self) -> dict[str, Tensor | None] | None:
        """The parameters that the closed form takes, in its order, by their names in the layer; None: do without it."""


def normalize(x: Tensor, layer: Coefficients) -> Tensor:
    r"""The whole layer: moments, coefficients, affine.

    Args:
        x: Floating-point tensor of shape (N, C, \*).
        layer: What gives the coefficients. They are computed once, with side effects such as an update of running
            statistics.

    Returns:
        Tensor of the shape, type and memory format of ``x``, never a view of it.
    """
    if _needs_reference(x):
        return _reference(x, layer)
    x = _dense(x)
    positions = math.prod(x.shape[2:])
    forms = backend.forms(x) if _is_plain(x) else None
    if forms is not None:
        form = layer.closed_form(forms, accumulation_dtype(x.dtype), positions)
        params = layer.coefficient_parameters()
        if None not in (form, params) and forms.supports(form, *x.shape[:2], *params.values()):
            if forms is native_coefficients:
                return forms.normalize(x, form, list(params.values()), partial(_replay, layer))
            return _Whole.apply(x, layer, form, *params.values())
    mean, var, large_offset, dy_stand_in, scale_stand_in = _Moments.apply(x)
    scale, shift = (t.expand_as(mean) for t in layer.coefficients(mean, var, positions))
    return _Affine.apply(x, mean, large_offset, scale, shift, dy_stand_in, scale_stand_in)


def _reference(x: Tensor, layer: Coefficients, update_running_stats: bool = True) -> Tensor:
    mean, var, _ = reference.moments(x)
    coefficients = layer.coefficients(mean, var, math.prod(x.shape[2:]), update_running_stats)
    scale, shift = [t.expand_as(mean) for t in coefficients]
    return reference.affine(x, *_centered(x, mean, scale, shift))


def _centered(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Center, scale and shift of the affine pass: the rounding of the mean is made good in the shift."""
    center = mean.detach().to(accumulation_dtype(x.dtype))
    return center, scale, shift + scale * (center - mean)


def _needs_reference(x: Tensor) -> bool:
    """Whether plain operators must do it: forced, nothing to do, traced for export, or differentiated unusually.

    Before there are custom operators, that is whatever is traced or has no real memory.
    """
    return (
        backend.get_backend() == 'reference'
        or x.numel() == 0
        or is_exporting()
        or not (HAS_CUSTOM_OPS or _is_plain(x))
        or torch.jit.is_tracing()
        or is_transformed()
        or is_forward_ad()
    )


def _is_plain(x: Tensor) -> bool:
    """Whether kernels may be called by themselves: eager mode, real memory, no tensor subclass."""
    return not is_compiling() and type(x) in (Tensor, nn.Parameter) and not x.is_meta


def _passes(x: Tensor):
    """The implementation itself where tensors are plain, else the operators, which tracing can see as one node."""
    return library if _is_plain(x) else library.Operators


def _dense(x: Tensor) -> Tensor:
    """``x``, contiguous where it is neither that nor channels_last."""
    return x if x.is_contiguous() or _is_channels_last(x) else x.contiguous()


def _is_channels_last(x: Tensor) -> bool:
    return (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)) or (
        x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    )


def _as_laid_out(dy: Tensor, x: Tensor) -> Tensor:
    """``dy`` in the memory format of ``x``."""
    if x.is_contiguous():
        return dy.contiguous()
    return dy.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


class _Whole(torch.autograd.Function):
    """The layer as one node: x and the parameters to y.

    y does not depend on the center of the affine form, which is a constant here.
    """

    @staticmethod
    def forward(ctx, x: Tensor, layer: Coefficients, form, *params: Tensor | None) -> Tensor:
        passes = backend.passes(x)
        mean, var, large_offset = passes.moments(x)
        center = mean.to(form.dtype)
        scale, shift, saved = form.forward(mean, var, center, *params)
        ctx.layer, ctx.form, ctx.num_params, ctx.large_offset = layer, form, len(params), large_offset
        ctx.save_for_backward(x, center, scale, *params, *saved)
        return passes.affine(x, center, scale, shift, large_offset)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, center, scale, *others = ctx.saved_tensors
        params, saved = others[: ctx.num_params], others[ctx.num_params :]
        if torch.is_grad_enabled():
            # Without the layer and its form, which stand between x and the parameters.
            needs_grad = ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]
            dx, *dparams = _replay(ctx.layer, x, params, needs_grad, dy)
            return dx, None, None, *dparams
        if is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return _Whole.backward(ctx, dy)
        passes = backend.passes(x)
        dy = _as_laid_out(dy, x)
        total, product_total = passes.plane_sums(dy, x, center, ctx.large_offset)
        dmean, dvar, dparams = ctx.form.backward(saved, params, product_total, total)
        dx = None
        if ctx.needs_input_grad[0]:
            positions = math.prod(x.shape[2:])
            slope, offset = (torch.zeros_like(scale) if t is None else t for t in (dvar, dmean))
            slope, offset = slope * (2 / positions), offset / positions
            dx = passes.input_gradient(dy, x, center, scale, slope, offset, ctx.large_offset)
        return dx, None, None, *dparams


class _Replay(nn.Module):
    """The layer by plain operators, without a trace in its statistics."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return _reference(x, self.layer, update_running_stats=False)


def _replay(layer: nn.Module, x: Tensor, params: list[Tensor | None], needs_grad: Sequence[bool], dy: Tensor):
    """Gradients that can be differentiated again: those of x and of the parameters, where ``needs_grad`` says so."""
    named = {
        f'layer.{name}': p for name, p in zip(layer.coefficient_parameters(), params, strict=True) if p is not None
    }
    y = torch.func.functional_call(_Replay(layer), named, (x,))
    inputs = [x, *params]
    wanted = [i for i, needed in enumerate(needs_grad) if needed]
    gradients = torch.autograd.grad(y, [inputs[i] for i in wanted], dy, create_graph=True, allow_unused=True)
    by_index = dict(zip(wanted, gradients, strict=True))
    return [by_index.get(i) for i in range(len(inputs))]


class _Moments(torch.autograd.Function):
    """x to mean and var, and the two stand-ins whose gradients are dy and scale."""

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, ...]:
        mean, var, large_offset = _passes(x).moments(x)
        ctx.save_for_backward(x, mean, large_offset)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(large_offset)
        return mean, var, large_offset, x.new_zeros(()).expand(x.shape), mean.new_zeros(()).expand(mean.shape)

    @staticmethod
    def backward(ctx, dmean: Tensor | None, dvar: Tensor | None, _, dy: Tensor | None, scale: Tensor | None):
        x, mean, large_offset = ctx.saved_tensors
        positions = math.prod(x.shape[2:])
        slope, offset, scale = (torch.zeros_like(mean) if t is None else t for t in (dvar, dmean, scale))
        center = mean.detach().to(accumulation_dtype(x.dtype))
        slope = slope * (2 / positions)
        offset = offset / positions + slope * (center - mean)
        dy = torch.zeros_like(x) if dy is None else dy
        if torch.is_grad_enabled():
            return reference.input_gradient(dy, x, center, scale, slope, offset)
        dy = _as_laid_out(dy, x)
        return _passes(x).input_gradient(dy, x, center, scale, slope, offset, large_offset)


class _Affine(torch.autograd.Function):
    """x, its moments and coefficients to y. The gradients by x go through the stand-ins."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        mean: Tensor,
        large_offset: Tensor,
        scale: Tensor,
        shift: Tensor,
        dy_stand_in: Tensor,
        scale_stand_in: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, mean, large_offset, scale)
        center, scale, shift = (t.contiguous() for t in _centered(x, mean, scale, shift))
        return _passes(x).affine(x, center, scale, shift, large_offset)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, mean, large_offset, scale = ctx.saved_tensors
        center = mean.detach().to(accumulation_dtype(x.dtype))
        if torch.is_grad_enabled():
            total, product_total = reference.plane_sums(dy, x, center)
        else:
            dy = _as_laid_out(dy, x)
            total, product_total = _passes(x).plane_sums(dy, x, center, large_offset)
        total = total.to(scale.dtype)
        product_total = product_total.to(scale.dtype) + (center - mean) * total
        return None, -scale * total, None, product_total, total, dy, scale
