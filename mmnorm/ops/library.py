"""The passes as custom operators ``torch.ops.mmnorm.*``, opaque to torch.compile and to tensor subclasses.

The operators have no gradients of their own: :mod:`.fused` makes one backward out of all four. Types do not depend on
the data here, and the flag ``large_offset`` is a scalar bool tensor on the CPU.
"""

import torch
from torch import Tensor

from . import backend
from .compat import custom_op
from .reference import accumulation_dtype, coefficient_dtype


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`.reference.moments`."""
    mean, var, large_offset = backend.passes(x).moments(x)
    dtype = coefficient_dtype(x)
    return mean.to(dtype), var.to(dtype), torch.tensor(large_offset)


def affine(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor, large_offset: Tensor) -> Tensor:
    """See :func:`.reference.affine`."""
    return backend.passes(x).affine(x, center, scale, shift, large_offset.item())


def plane_sums(dy: Tensor, x: Tensor, center: Tensor, large_offset: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`.reference.plane_sums`."""
    return backend.passes(x).plane_sums(dy, x, center, large_offset.item())


def input_gradient(
    dy: Tensor, x: Tensor, center: Tensor, scale: Tensor, slope: Tensor, offset: Tensor, large_offset: Tensor
) -> Tensor:
    """See :func:`.reference.input_gradient`."""
    return backend.passes(x).input_gradient(dy, x, center, scale, slope, offset, large_offset.item())


def _fake_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.shape[:2], dtype=coefficient_dtype(x))
    return mean, torch.empty_like(mean), torch.empty((), dtype=torch.bool)


def _fake_affine(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor, large_offset: Tensor) -> Tensor:
    return torch.empty_like(x)


def _fake_plane_sums(dy: Tensor, x: Tensor, center: Tensor, large_offset: Tensor) -> tuple[Tensor, Tensor]:
    total = x.new_empty(x.shape[:2], dtype=accumulation_dtype(x.dtype))
    return total, torch.empty_like(total)


def _fake_input_gradient(
    dy: Tensor, x: Tensor, center: Tensor, scale: Tensor, slope: Tensor, offset: Tensor, large_offset: Tensor
) -> Tensor:
    return torch.empty_like(x)


class Operators:
    """The four as operators that tracing sees as one node each."""

    moments = custom_op('mmnorm::moments', moments, _fake_moments)
    affine = custom_op('mmnorm::affine', affine, _fake_affine)
    plane_sums = custom_op('mmnorm::plane_sums', plane_sums, _fake_plane_sums)
    input_gradient = custom_op('mmnorm::input_gradient', input_gradient, _fake_input_gradient)
