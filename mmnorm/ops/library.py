"""The passes as custom operators ``torch.ops.mmnorm.*``, opaque to torch.compile and to tensor subclasses.

The operators have no gradients of their own: :mod:`.fused` makes one backward out of all four.
"""

import torch
from torch import Tensor

from . import backend
from .reference import accumulation_dtype, coefficient_dtype


@torch.library.custom_op('mmnorm::moments', mutates_args=())
def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`.reference.moments`."""
    return backend.passes(x).moments(x)


@moments.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.shape[:2], dtype=coefficient_dtype(x))
    return mean, torch.empty_like(mean), torch.empty((), dtype=torch.bool)


@torch.library.custom_op('mmnorm::affine', mutates_args=())
def affine(x: Tensor, mean: Tensor, large_offset: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """See :func:`.reference.affine`."""
    return backend.passes(x).affine(x, mean, large_offset, scale, shift)


@affine.register_fake
def _(x: Tensor, mean: Tensor, large_offset: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op('mmnorm::plane_sums', mutates_args=())
def plane_sums(dy: Tensor, x: Tensor, mean: Tensor, large_offset: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`.reference.plane_sums`."""
    return backend.passes(x).plane_sums(dy, x, mean, large_offset)


@plane_sums.register_fake
def _(dy: Tensor, x: Tensor, mean: Tensor, large_offset: Tensor) -> tuple[Tensor, Tensor]:
    total = torch.empty_like(mean, dtype=accumulation_dtype(x.dtype))
    return total, torch.empty_like(total)


@torch.library.custom_op('mmnorm::input_gradient', mutates_args=())
def input_gradient(
    dy: Tensor, x: Tensor, mean: Tensor, large_offset: Tensor, scale: Tensor, slope: Tensor, offset: Tensor
) -> Tensor:
    """See :func:`.reference.input_gradient`."""
    return backend.passes(x).input_gradient(dy, x, mean, large_offset, scale, slope, offset)


@input_gradient.register_fake
def _(
    dy: Tensor, x: Tensor, mean: Tensor, large_offset: Tensor, scale: Tensor, slope: Tensor, offset: Tensor
) -> Tensor:
    return torch.empty_like(x)
