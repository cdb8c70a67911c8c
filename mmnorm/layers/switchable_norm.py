"""Switchable Normalization: "Differentiable Learning-to-Normalize via Switchable Normalization" (arXiv 1806.10779)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..registry import register
from .base import check_batch_norm_options
from .pooled import SOFTMAX_FLOPS, PooledNorm
from .state_dict import ForeignState


@register('SN')
class SwitchableNorm(PooledNorm):
    r"""Switchable Normalization (SN) over input of any rank; use the 1d, 2d or 3d class.

    With the moments :math:`\mu_k, \sigma_k^2` of the K normalizers of the pool (SN paper, Eqn. 3 and 5):

    .. math::
        y = \gamma \frac{x - \sum_k w_k \mu_k}{\sqrt{\sum_k w'_k \sigma_k^2 + \epsilon}} + \beta,
        \qquad w = \mathrm{softmax}(\lambda), \quad w' = \mathrm{softmax}(\lambda')

    In eval mode BN uses running statistics, as ``nn.BatchNorm`` does. With the pool ``('BN',)`` the layer is
    ``nn.BatchNorm``, with ``('IN',)`` ``nn.InstanceNorm``, with ``('LN',)`` ``nn.GroupNorm(1, C)``, with ``('GN',)``
    ``nn.GroupNorm``.

    Args:
        num_features: Number of channels C.
        eps: Added to the mixed variance before the square root.
        momentum: Weight of the new value in the running statistics, as in PyTorch; None is a cumulative average.
        normalizers: Any non-empty choice of 'IN', 'LN', 'BN' and 'GN'; K is their number.
        num_groups: Number of groups of GN; gcd(C, num_groups) is used.
        init_ratios: Probabilities of the K normalizers at the start; None is uniform.
        sync: In training, take BN's statistics over the values of all processes.
        affine: Whether gamma and beta are learned; without, they are 1 and 0.
        track_running_stats: Whether BN keeps running statistics and uses them in eval mode.
        activation: What follows in the same pass: 'relu', 'leaky_relu', 'silu', 'gelu' or None.
        negative_slope: That of 'leaky_relu'.
        device: Where the parameters are created.
        dtype: The type of the parameters.
        **unused: What else BatchNorm and SyncBatchNorm take is accepted, so that a norm_cfg written for them fits.

    Attributes:
        weight: gamma, (C,).
        bias: beta, (C,).
        mean_weight: Logits of the weights of the means, (K,), initially 1.
        var_weight: Logits of the weights of the variances, (K,), initially 1.
        running_mean: (C,), only with BN in the pool.
        running_var: (C,), unbiased, only with BN in the pool.

    Raises:
        ValueError: If an argument is out of its range.
    """

    paper = ('Differentiable Learning-to-Normalize via Switchable Normalization', '1806.10779')
    own_parameters: ClassVar[tuple[str, ...]] = ('mean_weight', 'var_weight')
    learns = 'weights'

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        normalizers: Sequence[str] = ('IN', 'LN', 'BN'),
        num_groups: int = 32,
        init_ratios: Sequence[float] | None = None,
        sync: bool = False,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str | None = None,
        negative_slope: float = 0.01,
        device=None,
        dtype=None,
        **unused,
    ) -> None:
        check_batch_norm_options(type(self).__name__, unused)
        super().__init__(
            num_features,
            eps,
            momentum,
            normalizers,
            num_groups,
            init_ratios,
            sync,
            affine,
            track_running_stats,
            activation,
            negative_slope,
            device=device,
            dtype=dtype,
        )
        factory = {'device': device, 'dtype': dtype}
        self.register_affine(self.num_features, **factory)
        self.mean_weight = nn.Parameter(torch.empty(len(self.normalizers), **factory))
        self.var_weight = nn.Parameter(torch.empty(len(self.normalizers), **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gamma 1, beta 0, logits 1 (or those of ``init_ratios``), running statistics as before the first batch."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)
        with torch.no_grad():
            for weight in (self.mean_weight, self.var_weight):
                weight.copy_(self.logits_of(self._initial_logits()))

    @torch.no_grad()
    def importance_weights(self) -> Tensor:
        """The learned weights of the normalizers.

        Returns:
            Tensor (2, K): softmax of ``mean_weight``, then of ``var_weight``, in the order of ``normalizers``.
        """
        return self.ratios()

    def ratios(self) -> Tensor:
        """The weights of the means, then those of the variances, (2, K); each row sums to 1."""
        return self._logits().softmax(1)

    def _logits(self) -> Tensor:
        logits = torch.stack([self.mean_weight, self.var_weight])
        # In float32 at least: gradients of many planes meet in each.
        return logits.to(ops.accumulation_dtype(logits.dtype))

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        pooled = self.pool(mean, var, positions, update_running_stats)
        return ops.mix_statistics(*pooled, self.ratios(), self.weight, self.bias, eps=self.eps)

    @classmethod
    def reduce_state(cls, entries: dict[str, Tensor], state: ForeignState) -> None:
        state.logits = torch.stack([entries['mean_weight'], entries['var_weight']])

    def _adapt_ratios(self, logits: Tensor, state: ForeignState) -> tuple[list[str], list[str]]:
        logits = logits.expand(2, -1)
        logits = self.logits_of(logits - logits.mean(1, keepdim=True))
        state.entries.update(mean_weight=logits[0], var_weight=logits[1])
        return ['ratios'], []

    @staticmethod
    def logits_of(logits: Tensor) -> Tensor:
        """The ``mean_weight`` and ``var_weight`` that make softmax(``logits``), (..., K), the ratios."""
        return 1 + logits

    def typical_ratios(self) -> Tensor:
        return self.importance_weights().sum(0)

    def sole_normalizer(self) -> str | None:
        """That of both means and variances, where the softmax, or sparsestmax, has left one."""
        return super().sole_normalizer() or self._sole(self.importance_weights().t())

    def coefficient_flops(self, images: int) -> int:
        k, planes = len(self.normalizers), images * self.num_features
        differences = k - ('IN' in self.normalizers)
        flops = self.pool_flops(images) + 2 * SOFTMAX_FLOPS * k
        # Mixed mean and variance; eps and root; gamma * inv_std; shift.
        return flops + (differences + k + 2) * planes + (2 if self.affine else 1) * planes


class SwitchableNorm1d(SwitchableNorm, rank=1):
    """Switchable Normalization over (N, C) or (N, C, L); see :class:`SwitchableNorm`."""


class SwitchableNorm2d(SwitchableNorm, rank=2):
    """Switchable Normalization over (N, C, H, W); see :class:`SwitchableNorm`."""


class SwitchableNorm3d(SwitchableNorm, rank=3):
    """Switchable Normalization over (N, C, D, H, W); see :class:`SwitchableNorm`."""
