"""SSN: "SSN: Learning Sparse Switchable Normalization via SparsestMax" (arXiv 1903.03793)."""

import math

import torch
from torch import Tensor

from ..registry import register
from .state_dict import ForeignState
from .switchable_norm import SwitchableNorm


def sparsemax(z: Tensor) -> Tensor:
    """The points of the simplex that are nearest to ``z``, (..., K)."""
    ordered = z.sort(-1, descending=True).values
    size = torch.arange(1, z.shape[-1] + 1, device=z.device)
    excess = ordered.cumsum(-1) - 1
    support = (size * ordered > excess).sum(-1, keepdim=True)
    nearest = z - excess.gather(-1, support - 1) / support
    # What rounding leaves of a zero would count as a corner of the face.
    return torch.where(nearest > 10 * torch.finfo(z.dtype).eps, nearest, 0)


def sparsestmax(z: Tensor, radius: Tensor) -> Tensor:
    """The points of the simplex that are nearest to ``z``, (..., K), outside of a sphere around its center.

    With radius 0 it is :func:`sparsemax`; at sqrt(1 - 1 / K) only the corners are left. A point inside of the sphere is
    pushed to its surface, away from the center of the face that it is on, and back to the simplex, which makes the face
    smaller, if that was beyond it.
    """
    k = z.shape[-1]
    p = sparsemax(z)
    for _ in range(k - 1):
        face = p > 0
        corners = face.sum(-1, keepdim=True)
        center = face.to(p.dtype) / corners
        offset = p - center
        distance = offset.norm(dim=-1, keepdim=True)
        # The sphere cuts the face in a sphere of its own.
        face_radius = (radius**2 - (1 / corners - 1 / k)).clamp(min=0).sqrt()
        # From the center itself there is no way outwards.
        stretch = torch.where(distance > 1e-6, face_radius / distance.clamp(min=1e-6), 1)
        p = torch.where(distance < face_radius, sparsemax(center + offset * stretch), p)
    return p


@register('SSN')
class SparseSwitchableNorm(SwitchableNorm):
    """Sparse Switchable Normalization: :class:`SwitchableNorm` with sparsestmax for softmax; the same arguments.

    ``SparsityHook`` lets the buffer ``radius``, (), grow from 0 to sqrt(1 - 1 / K): one normalizer is left for each.
    """

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
