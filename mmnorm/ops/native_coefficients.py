"""The closed forms of the coefficients as loops of our own for the CPU: the protocol of :mod:`.closed_form`.

There some thirty operators each way work on (N, C) numbers, and on small maps their calls decide what a layer costs.
Here they are one call into ``mmnorm/csrc``, but for the small matrix products of EN and ILM.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import native_passes
from .closed_form import PoolForm
from .closed_form.pool import RunningStats

Gradients = tuple[Tensor | None, ...]


def _pool(pools: Sequence[PoolForm], dtype: torch.dtype, stats: RunningStats | None = None):
    running = next((pool.running for pool in pools if pool.running is not None), None)
    mean, var = (None, None) if running is None else (running[0].double(), running[1].to(dtype))
    track = None if stats is None else native_passes._C.RunningStats(*stats)
    return native_passes._C.Pool(
        [pool.normalizer for pool in pools], [pool.num_groups for pool in pools], mean, var, track
    )


class SwitchableForm:
    """Scale and shift of SN; see :class:`mmnorm.ops.closed_form.SwitchableForm`.

    Args:
        pools: The K normalizers.
        eps: Added to the variance.
        dtype: The type to compute in.
        running_stats: BN's running statistics, in place of the pool's ``track``.
    """

    def __init__(
        self, pools: Sequence[PoolForm], eps: float, dtype: torch.dtype, running_stats: RunningStats | None = None
    ) -> None:
        self.pool = _pool(pools, dtype, running_stats)
        self.eps = eps
        self.dtype = dtype

    def forward(self, mean: Tensor, var: Tensor, center: Tensor, *params: Tensor | None) -> tuple:
        scale, shift, *saved = native_passes._C.switchable_forward(self.pool, self.eps, mean, var, center, *params)
        return scale, shift, saved

    def backward(self, saved: Sequence[Tensor], params: Sequence, dscale: Tensor, dshift: Tensor) -> tuple:
        dmean, dvar, *dparams = native_passes._C.switchable_backward(self.pool, saved, *params[:2], dscale, dshift)
        return dmean, dvar, dparams


class ExemplarForm:
    """Scale and shift of EN; see :class:`mmnorm.ops.closed_form.ExemplarForm`.

    Args:
        pools: The K normalizers.
        eps: Added to the variances.
        dtype: The type to compute in.
        pairwise: Whether the ratio net sees the pairwise correlations, else the pooled input itself.
        tanh: Whether tanh stands between its two layers, else ReLU.
        running_stats: BN's running statistics, in place of the pool's ``track``.
    """

    def __init__(
        self,
        pools: Sequence[PoolForm],
        eps: float,
        dtype: torch.dtype,
        pairwise: bool = True,
        tanh: bool = True,
        running_stats: RunningStats | None = None,
    ) -> None:
        self.pool = _pool(pools, dtype, running_stats)
        self.dtype = dtype
        self.net = eps, pairwise, tanh

    def forward(self, mean: Tensor, var: Tensor, center: Tensor, *params: Tensor | None) -> tuple:
        scale, shift, *saved = native_passes._C.exemplar_forward(self.pool, *self.net, mean, var, center, *params)
        return scale, shift, saved

    def backward(self, saved: Sequence[Tensor], params: Sequence, dscale: Tensor, dshift: Tensor) -> tuple:
        weight, bias, conv_weight, fc1_weight, _, fc2_weight, _ = params
        dmean, dvar, *dparams = native_passes._C.exemplar_backward(
            self.pool, *self.net, saved, weight, bias, conv_weight, fc1_weight, fc2_weight, dscale, dshift
        )
        return dmean, dvar, dparams


class InstanceMetaForm:
    """Scale and shift of ILM; see :class:`mmnorm.ops.closed_form.InstanceMetaForm`.

    Args:
        base: The normalizer that standardizes.
        num_keys: Number of key groups G.
        eps: Added to the variance.
        dtype: The type to compute in.
        mean_activation: Of the decoder of the mean.
        var_activation: Of the decoder of the variance.
    """

    def __init__(
        self,
        base: PoolForm,
        num_keys: int,
        eps: float,
        dtype: torch.dtype,
        mean_activation: str = 'tanh',
        var_activation: str = 'sigmoid',
    ) -> None:
        self.pool = _pool([base, PoolForm('GN', dtype, num_keys)], dtype)
        self.dtype = dtype
        self.net = eps, mean_activation, var_activation

    def forward(self, mean: Tensor, var: Tensor, center: Tensor, *params: Tensor | None) -> tuple:
        scale, shift, *saved = native_passes._C.instance_meta_forward(self.pool, *self.net, mean, var, center, *params)
        return scale, shift, saved

    def backward(self, saved: Sequence[Tensor], params: Sequence, dscale: Tensor, dshift: Tensor) -> tuple:
        dmean, dvar, *dparams = native_passes._C.instance_meta_backward(
            self.pool, *self.net, saved, *params, dscale, dshift
        )
        return dmean, dvar, dparams


def supports(form, samples: int, channels: int, *params: Tensor | None) -> bool:
    """Whether the loops can do what the form says: they always can."""
    return True
