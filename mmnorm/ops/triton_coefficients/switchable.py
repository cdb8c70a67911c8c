"""Switchable Normalization in kernels: the twin of :mod:`..closed_form.switchable`, symbols as there.

Forward: the pool, then scale and shift of each plane. Backward: sums over the channels of each sample, then sums over
the samples for each block of channels and what comes of both.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..closed_form import PoolForm
from .pool import (
    CHANNELS,
    ROW_CHANNELS,
    SIZES,
    Pool,
    RunningStats,
    count_batch,
    dense,
    gradients_like,
    grouped,
    launch,
    next_power_of_2,
    normalizers,
    num_warps,
    pooled_gradients,
    probabilities,
    sample_block,
)


class SwitchableForm:
    """Scale and shift of SN; see :class:`mmnorm.ops.closed_form.SwitchableForm`.

    Args:
        pools: The K normalizers.
        eps: Added to the variance.
        dtype: The type to compute in.
        running_stats: BN's running statistics, to be moved by the kernels in place of the pool's ``track``.
    """

    def __init__(
        self, pools: Sequence[PoolForm], eps: float, dtype: torch.dtype, running_stats: RunningStats | None = None
    ) -> None:
        self.pools = pools
        self.eps = float(eps)
        self.dtype = dtype
        self.pool = Pool(pools, running_stats)

    def forward(
        self,
        mean: Tensor,
        var: Tensor,
        center: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean_weight: Tensor,
        var_weight: Tensor,
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        n, c = mean.shape
        pool = self.pool
        pooled = pool.forward(mean, var, center)
        scale, shift, deviation, inv_std = torch.empty((4, n, c), dtype=self.dtype, device=mean.device)
        channels = min(next_power_of_2(c), ROW_CHANNELS)
        launch(
            _mix_kernel,
            n * triton.cdiv(c, channels),
            mean,
            var,
            center,
            pooled,
            *dense(weight, bias, mean_weight, var_weight),
            pool.num_batches,
            scale,
            shift,
            deviation,
            inv_std,
            pooled.shape[1],
            n,
            c,
            pool.first,
            pool.second,
            EPS=self.eps,
            CHANNELS=channels,
            **pool.constants(),
        )
        return scale, shift, (mean, var, center, pooled, deviation, inv_std)

    def backward(
        self, saved: tuple[Tensor | None, ...], params: tuple[Tensor | None, ...], dscale: Tensor, dshift: Tensor
    ) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
        mean, var, center, pooled, deviation, inv_std = saved
        weight, bias, mean_weight, var_weight = dense(*params)
        dscale, dshift = dense(dscale, dshift)
        n, c = mean.shape
        pool = self.pool
        constants = pool.constants()
        # For each sample the sums that LN and GN need, and its part of the gradients of the ratios.
        sums = torch.empty((2, n * (pool.first + pool.second)), dtype=self.dtype, device=mean.device)
        dratios = torch.empty((2, n, pool.size), dtype=self.dtype, device=mean.device)
        tiles = pool.row_tiles(c)
        moments = mean, var, center, pooled
        launch(
            _sample_kernel,
            n,
            *moments,
            deviation,
            inv_std,
            weight,
            dscale,
            dshift,
            sums,
            dratios,
            pooled.shape[1],
            n,
            c,
            pool.first,
            pool.second,
            CHANNELS=min(next_power_of_2(c), ROW_CHANNELS),
            num_warps=num_warps(1, *tiles.values()),
            **tiles,
            **constants,
        )
        dmean, dvar = torch.empty((2, n, c), dtype=self.dtype, device=mean.device)
        dparams = gradients_like(*params)
        blocks = triton.cdiv(c, CHANNELS)
        launch(
            _channel_kernel,
            blocks + 1,
            *moments,
            deviation,
            inv_std,
            weight,
            mean_weight,
            var_weight,
            dscale,
            dshift,
            sums,
            dratios,
            dmean,
            dvar,
            *dparams,
            pooled.shape[1],
            n,
            c,
            pool.first,
            pool.second,
            blocks,
            SAMPLES=sample_block(n),
            CHANNELS=CHANNELS,
            **constants,
        )
        return dmean, dvar, tuple(dparams)


@triton.jit(do_not_specialize=[*SIZES, 'total'])
def _mix_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    weight_ptr,
    bias_ptr,
    mean_weight_ptr,
    var_weight_ptr,
    batches_ptr,
    scale_ptr,
    shift_ptr,
    deviation_ptr,
    inv_std_ptr,
    total,
    n,
    c,
    first,
    second,
    EPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLACES: tl.constexpr,
    KP: tl.constexpr,
):
    """One program for each block of channels of a sample."""
    acc: tl.constexpr = scale_ptr.dtype.element_ty
    count_batch(batches_ptr)
    moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, total
    sizes = n, c, first, second
    blocks = (c + CHANNELS - 1) // CHANNELS
    sample = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < c
    ks = tl.arange(0, KP)
    mean_ratios = probabilities(mean_weight_ptr, ks, PLACES.K, acc)
    var_ratios = probabilities(var_weight_ptr, ks, PLACES.K, acc)
    deviations, variances = normalizers(moments, sample, ks[:, None], channel[None, :], valid[None, :], sizes, PLACES)
    deviation = tl.sum(mean_ratios[:, None] * deviations, axis=0)
    inv_std = 1 / tl.sqrt(tl.sum(var_ratios[:, None] * variances, axis=0) + EPS)
    scale = inv_std
    if weight_ptr is not None:
        scale *= tl.load(weight_ptr + channel, mask=valid, other=0).to(acc)
    shift = scale * deviation
    if bias_ptr is not None:
        shift += tl.load(bias_ptr + channel, mask=valid, other=0).to(acc)
    plane = sample * c + channel
    tl.store(scale_ptr + plane, scale, mask=valid)
    tl.store(shift_ptr + plane, shift, mask=valid)
    tl.store(deviation_ptr + plane, deviation, mask=valid)
    tl.store(inv_std_ptr + plane, inv_std, mask=valid)


@triton.jit
def _plane_gradients(planes, weight_ptr, plane, channel, mask):
    """Gradients of gamma, beta, the deviation and the mixed variance, each by its plane."""
    deviation_ptr, inv_std_ptr, dscale_ptr, dshift_ptr = planes
    acc: tl.constexpr = deviation_ptr.dtype.element_ty
    deviation = tl.load(deviation_ptr + plane, mask=mask, other=0)
    inv_std = tl.load(inv_std_ptr + plane, mask=mask, other=0)
    dscale = tl.load(dscale_ptr + plane, mask=mask, other=0)
    dshift = tl.load(dshift_ptr + plane, mask=mask, other=0)
    # shift = scale * deviation + bias
    dscale += dshift * deviation
    scale = inv_std
    if weight_ptr is not None:
        scale *= tl.load(weight_ptr + channel, mask=mask, other=0).to(acc)
    # scale = weight * inv_std, inv_std = (mixed_var + eps) ** -0.5
    return dscale * inv_std, dshift, dshift * scale, -0.5 * dscale * scale * inv_std * inv_std


@triton.jit
def _group_sums(planes, weight_ptr, sums_ptr, total, sample, c, groups, TILE: tl.constexpr):
    """Sums over the groups of channels of a sample."""
    channel, mask = grouped(c, groups, TILE)
    _, _, ddeviation, dmixed = _plane_gradients(planes, weight_ptr, sample * c + channel, channel, mask)
    group = tl.arange(0, TILE[0])
    tl.store(sums_ptr + group, tl.sum(ddeviation, axis=1), mask=group < groups)
    tl.store(sums_ptr + total + group, tl.sum(dmixed, axis=1), mask=group < groups)


@triton.jit(do_not_specialize=[*SIZES, 'total'])
def _sample_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    deviation_ptr,
    inv_std_ptr,
    weight_ptr,
    dscale_ptr,
    dshift_ptr,
    sums_ptr,
    dratios_ptr,
    total,
    n,
    c,
    first,
    second,
    FIRST_TILE: tl.constexpr,
    SECOND_TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLACES: tl.constexpr,
    KP: tl.constexpr,
):
    """One program a sample: what sums over its channels."""
    acc: tl.constexpr = deviation_ptr.dtype.element_ty
    sample = tl.program_id(0)
    stored = n * (first + second)
    moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, total
    planes = deviation_ptr, inv_std_ptr, dscale_ptr, dshift_ptr
    sizes = n, c, first, second
    if FIRST_TILE is not None:
        _group_sums(planes, weight_ptr, sums_ptr + sample * first, stored, sample, c, first, FIRST_TILE)
    if SECOND_TILE is not None:
        at = sums_ptr + n * first + sample * second
        _group_sums(planes, weight_ptr, at, stored, sample, c, second, SECOND_TILE)
    ks = tl.arange(0, KP)
    dmean_ratios = tl.full((KP, CHANNELS), 0, acc)
    dvar_ratios = tl.full((KP, CHANNELS), 0, acc)
    for start in range(0, c, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)[None, :]
        mask = channel < c
        _, _, ddeviation, dmixed = _plane_gradients(planes, weight_ptr, sample * c + channel, channel, mask)
        deviations, variances = normalizers(moments, sample, ks[:, None], channel, mask, sizes, PLACES)
        dmean_ratios += ddeviation * deviations
        dvar_ratios += dmixed * variances
    out = dratios_ptr + sample * PLACES.K + ks
    tl.store(out, tl.sum(dmean_ratios, axis=1), mask=ks < PLACES.K)
    tl.store(out + n * PLACES.K, tl.sum(dvar_ratios, axis=1), mask=ks < PLACES.K)


@triton.jit
def _logit_gradients(weight_ptr, dratios_ptr, dweight_ptr, n, K: tl.constexpr, KP: tl.constexpr, SAMPLES: tl.constexpr):
    """Gradients of K logits from those of their softmax, by sample."""
    acc: tl.constexpr = dratios_ptr.dtype.element_ty
    ks = tl.arange(0, KP)
    parts = tl.full((SAMPLES, KP), 0, acc)
    for start in range(0, n, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)[:, None]
        mask = (sample < n) & (ks < K)[None, :]
        parts += tl.load(dratios_ptr + sample * K + ks[None, :], mask=mask, other=0)
    dratios = tl.sum(parts, axis=0)
    ratios = probabilities(weight_ptr, ks, K, acc)
    dlogits = ratios * (dratios - tl.sum(ratios * dratios, axis=0))
    tl.store(dweight_ptr + ks, dlogits.to(dweight_ptr.dtype.element_ty), mask=ks < K)


@triton.jit(do_not_specialize=[*SIZES, 'total', 'blocks'])
def _channel_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    deviation_ptr,
    inv_std_ptr,
    weight_ptr,
    mean_weight_ptr,
    var_weight_ptr,
    dscale_ptr,
    dshift_ptr,
    sums_ptr,
    dratios_ptr,
    dmean_ptr,
    dvar_ptr,
    dweight_ptr,
    dbias_ptr,
    dmean_weight_ptr,
    dvar_weight_ptr,
    total,
    n,
    c,
    first,
    second,
    blocks,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLACES: tl.constexpr,
    KP: tl.constexpr,
):
    """One program for each block of channels: what sums over samples, and all planes' gradients; one for the logits."""
    acc: tl.constexpr = deviation_ptr.dtype.element_ty
    pid = tl.program_id(0)
    moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, total
    planes = deviation_ptr, inv_std_ptr, dscale_ptr, dshift_ptr
    sizes = n, c, first, second
    ks = tl.arange(0, KP)
    if pid < blocks:
        channels = pid * CHANNELS + tl.arange(0, CHANNELS)
        valid = channels < c
        channel = channels[None, :]
        dweights = tl.full((SAMPLES, CHANNELS), 0, acc)
        dbiases = tl.full((SAMPLES, CHANNELS), 0, acc)
        ddeviations = tl.full((SAMPLES, CHANNELS), 0, acc)
        dvariances = tl.full((SAMPLES, CHANNELS), 0, acc)
        for start in range(0, n, SAMPLES):
            sample = start + tl.arange(0, SAMPLES)[:, None]
            mask = (sample < n) & valid[None, :]
            dweight, dbias, ddeviation, dmixed = _plane_gradients(
                planes, weight_ptr, sample * c + channel, channel, mask
            )
            dweights += dweight
            dbiases += dbias
            ddeviations += ddeviation
            dvariances += dmixed
        if dweight_ptr is not None:
            out = tl.sum(dweights, axis=0)
            tl.store(dweight_ptr + channels, out.to(dweight_ptr.dtype.element_ty), mask=valid)
        if dbias_ptr is not None:
            out = tl.sum(dbiases, axis=0)
            tl.store(dbias_ptr + channels, out.to(dbias_ptr.dtype.element_ty), mask=valid)

        batch_ddeviation = tl.sum(ddeviations, axis=0)[None, None, :]
        batch_dvar = tl.sum(dvariances, axis=0)[None, None, :]
        mean_ratios = probabilities(mean_weight_ptr, ks, PLACES.K, acc)[None, :, None]
        var_ratios = probabilities(var_weight_ptr, ks, PLACES.K, acc)[None, :, None]
        k = ks[None, :, None]
        channel = channels[None, None, :]
        for start in range(0, n, SAMPLES):
            sample = start + tl.arange(0, SAMPLES)[:, None, None]
            mask = (sample < n) & valid[None, None, :]
            plane = sample * c + channel
            _, _, ddeviation, dmixed = _plane_gradients(planes, weight_ptr, plane, channel, mask)
            deviations, _ = normalizers(moments, sample, k, channel, mask, sizes, PLACES)
            mean_part = mean_ratios * pooled_gradients(
                ddeviation, batch_ddeviation, sums_ptr, sample, k, channel, mask, sizes, PLACES
            )
            var_part = var_ratios * pooled_gradients(
                dmixed, batch_dvar, sums_ptr + n * (first + second), sample, k, channel, mask, sizes, PLACES
            )
            # pooled var = mean of (var_i + deviation_i^2), but for IN.
            dmean = tl.where(k == PLACES.IN, 0, 2 * deviations * var_part) - mean_part
            tl.store(dmean_ptr + plane, tl.sum(dmean, axis=1)[:, None, :], mask=mask)
            tl.store(dvar_ptr + plane, tl.sum(var_part, axis=1)[:, None, :], mask=mask)
    else:
        _logit_gradients(mean_weight_ptr, dratios_ptr, dmean_weight_ptr, n, PLACES.K, KP, SAMPLES)
        _logit_gradients(var_weight_ptr, dratios_ptr + n * PLACES.K, dvar_weight_ptr, n, PLACES.K, KP, SAMPLES)
