"""GRN: "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders" (arXiv 2301.00808)."""

import torch
from torch import Tensor, nn

from ..registry import register
from .base import check_batch_norm_options
from .fixed_pool import Recalibration


@register('GRN')
class GlobalResponseNorm(Recalibration):
    r"""Global Response Normalization: planes are scaled by their norm, relative to the mean norm of the channels.

    .. math::
        y = \gamma\, x \frac{\lVert x_{nc} \rVert}{\frac1C \sum_k \lVert x_{nk} \rVert + \epsilon} + \beta + x,
        \qquad \lVert x_{nc} \rVert^2 = L (\sigma_{nc}^2 + \bar x_{nc}^2)

    Gamma and beta start at 0, where the layer is the identity. It does not standardize: in ConvNeXt V2 it stands behind
    the activation, and LN is there too. Put in the place of a norm it takes none of its weights.

    Args:
        num_features: Number of channels C.
        eps: 1e-6 in the authors' code.
        affine: Whether gamma and beta are learned; without, they are 1 and 0.
        activation: What follows in the same pass.
        negative_slope: That of 'leaky_relu'.

    Attributes:
        gamma: (C,).
        beta: (C,).
    """

    paper = ('ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders', '2301.00808')
    own_parameters = ('gamma', 'beta')
    _abbr_ = 'gn'
    gamma: nn.Parameter | None
    beta: nn.Parameter | None

    def __init__(
        self, num_features: int, eps: float = 1e-6, affine: bool = True, activation: str | None = None,
        negative_slope: float = 0.01, device=None, dtype=None, **unused,
    ) -> None:  # fmt: skip
        batch_norm = {'momentum', 'track_running_stats'}
        check_batch_norm_options(type(self).__name__, {k: v for k, v in unused.items() if k not in batch_norm})
        super().__init__(num_features, eps, affine, activation, negative_slope)
        for name in self.own_parameters:
            zeros = torch.zeros(self.num_features, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(zeros) if affine else None)
        self.weight = self.bias = None

    def reset_parameters(self) -> None:
        """Gamma 0, beta 0."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        # The root of 0 has no gradient, and a plane of zeros needs none.
        norm = (positions * (var + mean.square())).clamp(min=1e-30).sqrt()
        scale = norm / (norm.mean(1, keepdim=True) + self.eps)
        if self.gamma is None or self.beta is None:
            return scale + 1, (scale + 1) * mean
        scale = self.gamma * scale + 1
        return scale, scale * mean + self.beta


# Made by register.
GlobalResponseNorm1d: type[GlobalResponseNorm]
GlobalResponseNorm2d: type[GlobalResponseNorm]
GlobalResponseNorm3d: type[GlobalResponseNorm]
