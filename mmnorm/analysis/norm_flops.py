"""FLOPs of a norm layer from its formula: what the layers here really do, and the plain norms as mmengine counts them.

A multiply-add is one FLOP, and so is any other operation on one value, as in ``mmengine.analysis``. The learned norms
are three steps whatever their pool is: moments, coefficients, affine. Only the middle one differs, and it sees
(N, C) numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..convert.sources import LEARNED, kind_of
from ..layers.base import PooledNorm

# Mean of each plane (1), deviation from it (1), its square added to the variance (1).
_MOMENTS = 3
# y = scale * (x - center) + shift: a subtraction, a multiply-add.
_AFFINE = 2
# The same three operations on means of planes instead of values, and one more for the mean of their variances.
_POOL = 4
# exp, sum, division.
_SOFTMAX = 3


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
        layer: SN, EN, ILM, or a BatchNorm, GroupNorm, InstanceNorm or LayerNorm.
        shape: Shape of its input, (N, C, \*).

    Raises:
        TypeError: If ``layer`` is none of these.
    """
    kind, values = kind_of(layer), math.prod(shape)
    if kind is None or kind == 'other':
        raise TypeError(f'{type(layer).__name__} is no norm that is known here; expected SN, EN, ILM, BN, GN, IN or LN')
    if kind not in LEARNED:
        return _plain(layer, kind, values)
    if not values:
        return NormFlops()
    count = {'SN': _switchable, 'EN': _exemplar, 'ILM': _instance_meta}[kind]
    return NormFlops(_MOMENTS * values, count(layer, *shape[:2]), _AFFINE * values)


def _plain(layer: nn.Module, kind: str, values: int) -> NormFlops:
    affine = 1 if layer.weight is not None else 0
    by_batch = layer.training or getattr(layer, 'running_mean', None) is None
    if kind == 'FrozenBN' or kind in ('BN', 'SyncBN') and not by_batch:
        return NormFlops(affine=(1 + affine) * values)
    # Standardized and rescaled one after the other, where the coefficients would make it one.
    return NormFlops(_MOMENTS * values, affine=(1 + affine) * values)


def _pools(layer: PooledNorm, n: int, c: int) -> int:
    """Pooling the moments, and the differences of means, of all normalizers; IN has neither."""
    flops = 0
    for normalizer in layer.normalizers:
        if normalizer == 'IN':
            continue
        flops += n * c
        if normalizer != 'BN' or layer.training or not layer.track_running_stats:
            flops += _POOL * n * c
        if normalizer == 'BN' and layer.training and layer.track_running_stats:
            # Two buffers, each old + momentum * (new - old).
            flops += 2 * 2 * c
    return flops


def _switchable(layer: nn.Module, n: int, c: int) -> int:
    k, planes = len(layer.normalizers), n * c
    differences = k - ('IN' in layer.normalizers)
    flops = _pools(layer, n, c) + 2 * _SOFTMAX * k
    # Mixed mean and variance; eps and root; gamma * inv_std; shift.
    flops += (differences + k + 2) * planes
    return flops + (2 if layer.affine else 1) * planes


def _exemplar(layer: nn.Module, n: int, c: int) -> int:
    k, planes = len(layer.normalizers), n * c
    hidden, inputs = layer.fc1_weight.shape
    # Eps and root.
    flops = _pools(layer, n, c) + 2 * k * planes
    if layer.ratio_net == 'pairwise':
        # Normalized means, and their convolution.
        flops += (2 if layer.conv else 1) * k * planes
        flops += n * k * k * (c // layer.reduction if layer.conv else c)
    # Two fully connected layers, and the activation between them.
    flops += n * (hidden * inputs + hidden + k * hidden + _SOFTMAX * k)
    # Scale and shift.
    flops += 2 * k * planes
    if layer.affine:
        rows = layer.bias.numel() // c
        # Ratios times gamma; sum of the betas, and its addition.
        flops += k * planes + (rows - 1) * c + planes
    return flops


def _instance_meta(layer: nn.Module, n: int, c: int) -> int:
    planes = n * c
    embedding, keys = layer.encoder_weight.shape
    # Key features; their encoder twice, relu, two decoders, activations.
    flops = _POOL * planes + 2 * n * (embedding * keys + embedding + keys * embedding + keys)
    # B_omega and B_beta, without which omega has 1.
    flops += (2 if layer.affine else 1) * planes
    # The base, and the difference of means.
    flops += 0 if layer.base == 'IN' else (_POOL + 1) * planes
    # Eps and root; scale; shift.
    return flops + (2 + 1 + 1) * planes
