"""TLU, the activation of "Filter Response Normalization Layer: Eliminating Batch Dependence" (arXiv 1911.09737)."""

import torch
from torch import Tensor, nn

from ..registry import NORM_LAYERS, register_in
from .base import check_positive_int


class ThresholdedLinearUnit(nn.Module):
    r"""TLU: :math:`z = \max(y, \tau)` with learned thresholds, initially 0, where it is ReLU.

    ``act_cfg=dict(type='TLU')`` has one threshold, as nn.PReLU has one slope; with C of them each channel has its own.

    Args:
        num_parameters: Number of thresholds, 1 or C.
        inplace: Accepted, as OpenMMLab passes it; nothing is done in place.
        device: Where the thresholds are created.
        dtype: Their type.

    Attributes:
        tau: (num_parameters,).
    """

    def __init__(self, num_parameters: int = 1, inplace: bool = False, device=None, dtype=None) -> None:
        super().__init__()
        number = check_positive_int('num_parameters', num_parameters)
        self.tau = nn.Parameter(torch.zeros(number, device=device, dtype=dtype))

    def forward(self, y: Tensor) -> Tensor:
        return torch.maximum(y, self.tau.to(y.dtype).reshape(1, -1, *[1] * (y.dim() - 2)))

    def extra_repr(self) -> str:
        return f'{self.tau.numel()}'


if NORM_LAYERS is not None:
    register_in(NORM_LAYERS, 'TLU')(ThresholdedLinearUnit)
