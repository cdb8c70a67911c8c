"""SSN: "SSN: Learning Sparse Switchable Normalization via SparsestMax" (arXiv 1903.03793)."""

import math

import torch
from torch import Tensor

from ..ops.coefficients.kernel import with_kernels
from ..registry import register
from .state_dict import ForeignState
from .switchable_norm import SwitchableNorm


@with_kernels()
def sparsestmax(z: Tensor, radius: Tensor) -> Tensor:
    """The points of the simplex that are nearest to ``z``, (..., K), outside of a sphere around its center.

    Radius 0 is sparsemax, sqrt(1 - 1 / K) leaves only the corners. A point inside is pushed away from the center of
    its face, onto a smaller face where that is beyond the simplex: p = 1 / m + stretch * (z - mean of z), m largest.
    """
    k = z.shape[-1]
    with torch.no_grad():
        ordered, order = (z - z.mean(-1, keepdim=True)).sort(-1, descending=True)
        m = torch.arange(1, k + 1, dtype=z.dtype, device=z.device).expand_as(z)
        mean = ordered.cumsum(-1) / m
        # Row m: the m largest, less their mean.
        spread = (ordered.unsqueeze(-2) - mean.unsqueeze(-1)).tril().norm(dim=-1)
        # Of the sphere within a face of m corners.
        face_radius = (radius.to(z.dtype) ** 2 - (1 / m - 1 / k)).clamp(min=0).sqrt()
        nearest = (ordered - mean + 1 / m > 0).sum(-1, keepdim=True)
        is_outside = (spread >= face_radius).gather(-1, nearest - 1)
        # A corner, or the center of a face, has no direction to go.
        rounding = 10 * torch.finfo(z.dtype).eps * ordered.abs().amax(-1, keepdim=True)
        fits = (spread / m + face_radius * (ordered - mean) > rounding) | (spread <= rounding)
        size = torch.where(is_outside, nearest, ((fits & (m <= nearest)) * m).amax(-1, keepdim=True))
        face = torch.zeros_like(z).scatter(-1, order, (m <= size).to(z.dtype))
        face_radius = face_radius.gather(-1, size.long() - 1)
    offset = face * (z - (face * z).sum(-1, keepdim=True) / size)
    length = offset.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    return face / size + torch.where(is_outside | (length < 2e-6), 1, face_radius / length) * offset


@register('SSN')
class SparseSwitchableNorm(SwitchableNorm):
    """Sparse Switchable Normalization: :class:`SwitchableNorm` with sparsestmax for softmax; the same arguments.

    ``SparsityHook`` lets the buffer ``radius``, (), grow from 0 to sqrt(1 - 1 / K): one normalizer is left for each.
    """

    radius: Tensor
    paper = ('SSN: Learning Sparse Switchable Normalization via SparsestMax', '1903.03793')
    own_parameters = (*SwitchableNorm.own_parameters, 'radius')

    def reset_parameters(self) -> None:
        """As SN starts, with radius 0."""
        super().reset_parameters()
        self.register_buffer('radius', torch.zeros((), device=self.mean_weight.device))

    def set_sparsity(self, sparsity: float) -> None:
        """Let the radius be a part, 0 to 1, of that at which the ratios are one-hot."""
        self.radius.fill_(sparsity * math.sqrt(1 - 1 / len(self.normalizers)))

    def ratios(self) -> Tensor:
        return sparsestmax(self._logits(), self.radius)

    @classmethod
    def reduce_state(cls, entries: dict[str, Tensor], state: ForeignState) -> None:
        logits = torch.stack([entries['mean_weight'], entries['var_weight']])
        # Ratios of zero have no logits; these are as good as.
        state.logits = sparsestmax(logits, entries['radius']).clamp(min=1e-6).log()

    @staticmethod
    def logits_of(logits: Tensor) -> Tensor:
        return logits.softmax(-1)


# Made by register.
SparseSwitchableNorm1d: type[SparseSwitchableNorm]
SparseSwitchableNorm2d: type[SparseSwitchableNorm]
SparseSwitchableNorm3d: type[SparseSwitchableNorm]
