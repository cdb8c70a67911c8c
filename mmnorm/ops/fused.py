r"""The whole layer with one backward: seven passes over data, whatever the coefficients are.

The gradient of the input has three parts, ``scale * dy`` from the affine form and one from each moment, and all three
go into one pass::

    dx = scale * dy + (2 / L) * dvar * (x - mean) + dmean / L

Left to itself, autograd would make each part by itself and add them. So the node of the affine form hands ``dy`` and
``scale`` on, as the gradients of two stand-ins without memory of their own, and the node of the moments, which comes
last, makes the pass. In between, autograd goes through the coefficients by itself, (N, C) numbers.

Kept between forward and backward: x, and (N, C) numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backend, library, reference

Coefficients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def normalize(x: Tensor, coefficients: Coefficients) -> Tensor:
    r"""The whole layer: moments, coefficients, affine.

    Args:
        x: Floating-point tensor of shape (N, C, \*), not empty.
        coefficients: Differentiable function of mean and var, both (N, C), that gives scale and shift, both
            broadcastable to (N, C). It is called once, and may have side effects such as an update of running
            statistics.

    Returns:
        Tensor of the shape, type and memory format of ``x``, never a view of it.
    """
    if _needs_reference(x):
        mean, var = reference.moments(x)
        scale, shift = coefficients(mean, var)
        return reference.affine(x, mean, scale.expand_as(mean), shift.expand_as(mean))
    x = _dense(x)
    mean, var, dy_stand_in, scale_stand_in = _Moments.apply(x)
    scale, shift = coefficients(mean, var)
    return _Affine.apply(x, mean, var, scale.expand_as(mean), shift.expand_as(mean), dy_stand_in, scale_stand_in)


def _needs_reference(x: Tensor) -> bool:
    """Whether plain operators must do it: forced, nothing to do, traced for export, or differentiated unusually."""
    return (
        backend.get_backend() == 'reference'
        or x.numel() == 0
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def _passes(x: Tensor):
    """The implementation itself where tensors are plain, else the operators, which tracing can see as one node."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter) or x.is_meta:
        return library
    return backend.passes(x)


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


class _Moments(torch.autograd.Function):
    """x to mean and var, and the two stand-ins whose gradients are dy and scale."""

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var = _passes(x).moments(x)
        ctx.save_for_backward(x, mean, var)
        ctx.set_materialize_grads(False)
        return mean, var, x.new_zeros(()).expand(x.shape), mean.new_zeros(()).expand(mean.shape)

    @staticmethod
    def backward(ctx, dmean: Tensor | None, dvar: Tensor | None, dy: Tensor | None, scale: Tensor | None):
        x, mean, var = ctx.saved_tensors
        positions = x.shape[2:].numel()
        slope, offset, scale = (torch.zeros_like(mean) if t is None else t for t in (dvar, dmean, scale))
        slope, offset = slope * (2 / positions), offset / positions
        dy = torch.zeros_like(x) if dy is None else dy
        if torch.is_grad_enabled():
            return reference.input_gradient(dy, x, mean, var, scale, slope, offset)
        return _passes(x).input_gradient(_as_laid_out(dy, x), x, mean, var, scale, slope, offset)


class _Affine(torch.autograd.Function):
    """x, its moments and coefficients to y. The gradients by x go through the stand-ins."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        scale: Tensor,
        shift: Tensor,
        dy_stand_in: Tensor,
        scale_stand_in: Tensor,
    ) -> Tensor:
        scale, shift = scale.contiguous(), shift.contiguous()
        ctx.save_for_backward(x, mean, var, scale)
        return _passes(x).affine(x, mean, scale, shift)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, mean, var, scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            total, product_total = reference.plane_sums(dy, x, mean, var)
        else:
            dy = _as_laid_out(dy, x)
            total, product_total = _passes(x).plane_sums(dy, x, mean, var)
        return None, -scale * total, None, product_total, total, dy, scale
