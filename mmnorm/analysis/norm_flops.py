"""FLOPs of a norm layer from its formula: what the layers here really do, and the plain norms as mmengine counts them.

A multiply-add is one FLOP, and so is any other operation on one value, as in ``mmengine.analysis``. The learned norms
are three steps whatever their pool is: moments, coefficients, affine. Only the middle one differs, and it sees
(N, C) numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..convert.sources import kind_of
from ..layers.base import LearnedNorm
from ..registry import NORMS

# Mean of each plane (1), deviation from it (1), its square added to the variance (1).
_MOMENTS = 3
# y = scale * (x - center) + shift: a subtraction, a multiply-add.
_AFFINE = 2


@dataclass(frozen=True)
class NormFlops:
    """FLOPs of one call of a norm, by step.

    Attributes:
        moments: Of reading the input.
        coefficients: Of pools, ratio nets, encoders and decoders: everything that sees (N, C) numbers.
        affine: Of writing the output.
    """

    moments: int = 0
    coefficients: int = 0
    affine: int = 0

    @property
    def total(self) -> int:
        """All three steps."""
        return self.moments + self.coefficients + self.affine


def norm_flops(layer: nn.Module, shape: Sequence[int]) -> NormFlops:
    r"""FLOPs of a forward pass of a norm, in the mode that it is in.

    Args:
        layer: A learned norm, or a BatchNorm, GroupNorm, InstanceNorm or LayerNorm.
        shape: Shape of its input, (N, C, \*).

    Raises:
        TypeError: If ``layer`` is none of these.
    """
    kind, values = kind_of(layer), math.prod(shape)
    if isinstance(layer, LearnedNorm):
        coefficients = layer.coefficient_flops(shape[0]) if values else 0
        return NormFlops(_MOMENTS * values, coefficients, _AFFINE * values)
    if kind is None or kind == 'other':
        known = ', '.join((*NORMS, 'BN', 'GN', 'IN', 'LN'))
        raise TypeError(f'{type(layer).__name__} is no norm that is known here; expected one of {known}')
    return _plain(layer, kind, values)


def _plain(layer: nn.Module, kind: str, values: int) -> NormFlops:
    affine = 1 if layer.weight is not None else 0
    by_batch = layer.training or getattr(layer, 'running_mean', None) is None
    if kind == 'FrozenBN' or kind in ('BN', 'SyncBN') and not by_batch:
        return NormFlops(affine=(1 + affine) * values)
    # Standardized and rescaled one after the other, where the coefficients would make it one.
    return NormFlops(_MOMENTS * values, affine=(1 + affine) * values)
