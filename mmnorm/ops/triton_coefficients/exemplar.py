"""Exemplar Normalization in kernels: the twin of :mod:`..closed_form.exemplar`, symbols as there.

Forward: the pool, then one program a sample with the whole ratio net. Backward: one program a sample, back through the
ratio net and to the sums over its channels, then sums over the samples for each block of channels, and for each block
of hidden units. The MLP that may stand in for the ratio net has matrices of all channels, which are torch's.

What a sample keeps of the ratio net lies in one row: ratios (K), correlations (K, K), hidden units (H), convolved
inputs (K, C / r). Its gradients lie likewise: logits (K), correlations plus transposed (K, K), hidden units (H).
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

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
    pick,
    pooled_gradients,
    sample_block,
    tanh,
)

# Outputs of the convolution that a tile holds: their products are (K, K, outputs).
OUTPUTS = 256
# Channels that an output of the convolution may see.
MAX_REDUCTION = 1024
# Hidden units that fit in a tile (H, K, K).
MAX_HIDDEN = 512
# Hidden units of a program that sums over samples.
UNITS = 16
# Samples of its tiles, which are (samples, hidden units, K * K).
UNIT_SAMPLES = 8
NET_SIZES = [*SIZES, 'total', 'outputs', 'reduction', 'width']


class ExemplarForm:
    """Scale and shift of EN; see :class:`mmnorm.ops.closed_form.ExemplarForm`.

    Args:
        pools: The K normalizers.
        eps: Added to the variances.
        dtype: The type to compute in.
        pairwise: Whether the ratio net sees the pairwise correlations of h, else the pooled input itself.
        tanh: Whether tanh stands between its two layers, else ReLU.
        running_stats: BN's running statistics, to be moved by the kernels in place of the pool's ``track``.
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
        self.pools = pools
        self.eps = float(eps)
        self.dtype = dtype
        self.pairwise = pairwise
        self.tanh = tanh
        self.pool = Pool(pools, running_stats)

    def _constants(self, params: tuple[Tensor | None, ...]) -> dict:
        weight, bias, _, fc1_weight, *_ = params
        return dict(
            self.pool.constants(),
            EPS=self.eps,
            PAIRWISE=self.pairwise,
            TANH=self.tanh,
            # Whether each normalizer has its own gamma, and beta.
            OWN_WEIGHT=weight is not None and weight.dim() == 2,
            OWN_BIAS=bias is not None and bias.dim() == 2,
            HIDDEN=fc1_weight.shape[0],
            HP=next_power_of_2(fc1_weight.shape[0]),
        )

    def _convolution(self, conv_weight: Tensor | None, channels: int) -> tuple[int, int]:
        """Outputs of the convolution and channels that each sees."""
        return (channels, 1) if conv_weight is None else tuple(conv_weight.shape)

    def _width(self, hidden: int) -> int:
        """Values of a row, without the convolved inputs."""
        k = self.pool.size
        return k + hidden + (k * k if self.pairwise else 0)

    def forward(
        self,
        mean: Tensor,
        var: Tensor,
        center: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        conv_weight: Tensor | None,
        fc1_weight: Tensor,
        fc1_bias: Tensor,
        fc2_weight: Tensor,
        fc2_bias: Tensor,
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        n, c = mean.shape
        pool = self.pool
        params = dense(weight, bias, conv_weight, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
        pooled = pool.forward(mean, var, center)
        inputs = None
        if not self.pairwise:
            inputs = F.linear(center, fc1_weight.to(self.dtype), fc1_bias.to(self.dtype))
        outputs, reduction = self._convolution(conv_weight, c)
        width = self._width(fc1_weight.shape[0]) + (pool.size * outputs if self.pairwise else 0)
        net = torch.empty((n, width), dtype=self.dtype, device=mean.device)
        scale, shift = torch.empty((2, n, c), dtype=self.dtype, device=mean.device)
        channels = min(next_power_of_2(c), ROW_CHANNELS)
        r_block = next_power_of_2(reduction)
        launch(
            _mix_kernel,
            n,
            mean,
            var,
            center,
            pooled,
            *params,
            inputs,
            pool.num_batches,
            scale,
            shift,
            net,
            pooled.shape[1],
            n,
            c,
            pool.first,
            pool.second,
            outputs,
            reduction,
            width,
            CHANNELS=channels,
            J_BLOCK=min(next_power_of_2(outputs), OUTPUTS, max(1, ROW_CHANNELS // r_block)),
            R_BLOCK=r_block,
            num_warps=4 if c <= 128 else 8,
            **self._constants(params),
        )
        return scale, shift, (mean, var, center, pooled, net)

    def backward(
        self, saved: tuple[Tensor | None, ...], params: tuple[Tensor | None, ...], dscale: Tensor, dshift: Tensor
    ) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
        mean, var, center, pooled, net = saved
        weight, _, conv_weight, fc1_weight, _, fc2_weight, _ = dense(*params)
        dscale, dshift = dense(dscale, dshift)
        n, c = mean.shape
        hidden = fc1_weight.shape[0]
        pool = self.pool
        outputs, reduction = self._convolution(conv_weight, c)
        constants = self._constants(params)
        sums = torch.empty((2, n * (pool.first + pool.second)), dtype=self.dtype, device=mean.device)
        dnet = torch.empty((n, self._width(hidden)), dtype=self.dtype, device=mean.device)
        tiles = pool.row_tiles(c)
        moments = mean, var, center, pooled
        sizes = pooled.shape[1], n, c, pool.first, pool.second, outputs, reduction, net.shape[1], dnet.shape[1]
        launch(
            _sample_kernel,
            n,
            *moments,
            net,
            weight,
            conv_weight,
            fc1_weight,
            fc2_weight,
            dscale,
            dshift,
            sums,
            dnet,
            *sizes,
            CHANNELS=min(next_power_of_2(c), ROW_CHANNELS),
            num_warps=max(4 if c <= 128 else 8, num_warps(c, *tiles.values())),
            **tiles,
            **constants,
        )
        dmean, dvar = torch.empty((2, n, c), dtype=self.dtype, device=mean.device)
        dparams = gradients_like(*params)
        blocks = triton.cdiv(c, CHANNELS)
        samples = sample_block(n)
        launch(
            _channel_kernel,
            blocks + triton.cdiv(hidden, UNITS),
            *moments,
            net,
            weight,
            conv_weight,
            dscale,
            dshift,
            sums,
            dnet,
            dmean,
            dvar,
            *dparams,
            *sizes,
            blocks,
            SAMPLES=samples,
            CHANNELS=CHANNELS,
            UNITS=UNITS,
            UNIT_SAMPLES=UNIT_SAMPLES,
            num_warps=4 if samples == 8 else 8,
            **constants,
        )
        if not self.pairwise:
            dhidden = dnet[:, -hidden:]
            dmean.addmm_(dhidden, fc1_weight.to(self.dtype))
            dparams[3] = dhidden.t() @ center
        return dmean, dvar, tuple(dparams)


@triton.jit
def _inv_std(variance, EPS: tl.constexpr):
    return 1 / tl.sqrt(variance + EPS)


@triton.jit
def _channel_weight(ptr, k, channel, c, mask, OWN: tl.constexpr, acc: tl.constexpr):
    """Gamma of each normalizer, or the conv's weight: both by channel. One where there is none."""
    if ptr is None:
        return tl.full((1, 1), 1, acc)
    else:
        at = ptr + channel
        if OWN:
            at += k * c
        return tl.load(at, mask=mask, other=0).to(acc)


@triton.jit(do_not_specialize=NET_SIZES)
def _mix_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    weight_ptr,
    bias_ptr,
    conv_ptr,
    fc1_weight_ptr,
    fc1_bias_ptr,
    fc2_weight_ptr,
    fc2_bias_ptr,
    inputs_ptr,
    batches_ptr,
    scale_ptr,
    shift_ptr,
    net_ptr,
    total,
    n,
    c,
    first,
    second,
    outputs,
    reduction,
    width,
    CHANNELS: tl.constexpr,
    J_BLOCK: tl.constexpr,
    R_BLOCK: tl.constexpr,
    PLACES: tl.constexpr,
    KP: tl.constexpr,
    EPS: tl.constexpr,
    PAIRWISE: tl.constexpr,
    TANH: tl.constexpr,
    OWN_WEIGHT: tl.constexpr,
    OWN_BIAS: tl.constexpr,
    HIDDEN: tl.constexpr,
    HP: tl.constexpr,
):
    """One program a sample: the ratio net, then scale and shift."""
    acc: tl.constexpr = scale_ptr.dtype.element_ty
    K: tl.constexpr = PLACES.K
    count_batch(batches_ptr)
    moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, total
    sizes = n, c, first, second
    sample = tl.program_id(0)
    net_ptr += sample * width
    ks = tl.arange(0, KP)
    units = tl.arange(0, HP)
    if PAIRWISE:
        z_ptr = net_ptr + K + K * K + HIDDEN
        features = tl.full((KP, KP), 0, acc)
        for start in range(0, outputs, J_BLOCK):
            j = start + tl.arange(0, J_BLOCK)
            i = tl.arange(0, R_BLOCK)[None, None, :]
            channel = j[None, :, None] * reduction + i
            mask = (j < outputs)[None, :, None] & (i < reduction)
            deviations, variances = normalizers(moments, sample, ks[:, None, None], channel, mask, sizes, PLACES)
            hat = deviations * _inv_std(variances, EPS)
            if conv_ptr is not None:
                hat *= tl.load(conv_ptr + channel, mask=mask, other=0).to(acc)
            z = tl.sum(hat, axis=2)
            features += tl.sum(z[:, None, :] * z[None, :, :], axis=2)
            tl.store(
                z_ptr + ks[:, None] * outputs + j[None, :], z, mask=(ks < K)[:, None] & (j < outputs)[None, :]
            )  # fmt: skip
        square = ks[:, None] * K + ks[None, :]
        real = (ks < K)[:, None] & (ks < K)[None, :]
        tl.store(net_ptr + K + square, features, mask=real)
        fc1 = tl.load(
            fc1_weight_ptr + units[:, None, None] * K * K + square[None, :, :],
            mask=(units < HIDDEN)[:, None, None] & real[None, :, :],
            other=0,
        ).to(acc)
        inputs = tl.sum(tl.sum(fc1 * features[None, :, :], axis=2), axis=1)
        inputs += tl.load(fc1_bias_ptr + units, mask=units < HIDDEN, other=0).to(acc)
        hidden_ptr = net_ptr + K + K * K
    else:
        inputs = tl.load(inputs_ptr + sample * HIDDEN + units, mask=units < HIDDEN, other=0)
        hidden_ptr = net_ptr + K
    hidden = tanh(inputs) if TANH else tl.maximum(inputs, 0)
    tl.store(hidden_ptr + units, hidden, mask=units < HIDDEN)
    fc2 = tl.load(
        fc2_weight_ptr + ks[:, None] * HIDDEN + units[None, :],
        mask=(ks < K)[:, None] & (units < HIDDEN)[None, :],
        other=0,
    ).to(acc)
    logits = tl.sum(fc2 * hidden[None, :], axis=1)
    logits += tl.load(fc2_bias_ptr + ks, mask=ks < K, other=float('-inf')).to(acc)
    powers = tl.exp(logits - tl.max(logits, axis=0))
    ratios = powers / tl.sum(powers, axis=0)
    tl.store(net_ptr + ks, ratios, mask=ks < K)

    for start in range(0, c, CHANNELS):
        channels = start + tl.arange(0, CHANNELS)
        channel = channels[None, :]
        mask = channel < c
        k = ks[:, None]
        deviations, variances = normalizers(moments, sample, k, channel, mask, sizes, PLACES)
        weight = _channel_weight(weight_ptr, k, channel, c, mask & (k < K), OWN_WEIGHT, acc)
        # gain * inv_std, and times the deviation gain * hat
        scales = ratios[:, None] * weight * _inv_std(variances, EPS)
        shift = tl.sum(scales * deviations, axis=0)
        if bias_ptr is not None:
            if OWN_BIAS:
                shift += tl.sum(tl.load(bias_ptr + k * c + channel, mask=mask & (k < K), other=0).to(acc), axis=0)
            else:
                shift += tl.load(bias_ptr + channels, mask=channels < c, other=0).to(acc)
        tl.store(scale_ptr + sample * c + channels, tl.sum(scales, axis=0), mask=channels < c)
        tl.store(shift_ptr + sample * c + channels, shift, mask=channels < c)


@triton.jit
def _group_sums(
    moments,
    net,
    weight_ptr,
    conv_ptr,
    dscale_ptr,
    dshift_ptr,
    sums_ptr,
    sample,
    groups,
    sizes,
    AT: tl.constexpr,
    TILE: tl.constexpr,
    PLACES: tl.constexpr,
    KP: tl.constexpr,
    EPS: tl.constexpr,
    PAIRWISE: tl.constexpr,
    OWN_WEIGHT: tl.constexpr,
):
    """Sums over the groups of channels of a sample, of what goes to the ``AT``-th normalizer."""
    ratios, symmetric, z_ptr, outputs, reduction = net
    n, c, first, second = sizes
    acc: tl.constexpr = sums_ptr.dtype.element_ty
    K: tl.constexpr = PLACES.K
    ks = tl.arange(0, KP)
    channel, mask = grouped(c, groups, TILE)
    plane = sample * c + channel
    k = tl.full((1, 1), AT, tl.int32)
    deviation, variance = normalizers(moments, sample, k, channel, mask, sizes, PLACES)
    inv_std = _inv_std(variance, EPS)
    gain = pick(ratios, ks, AT) * _channel_weight(weight_ptr, k, channel, c, mask, OWN_WEIGHT, acc)
    dhat = tl.load(dshift_ptr + plane, mask=mask, other=0) * gain
    if PAIRWISE:
        row = tl.sum(tl.where(ks[:, None] == AT, symmetric, 0), axis=0)
        dz = tl.full((TILE[0], TILE[1]), 0, acc)
        for other in tl.static_range(K):
            z = tl.load(z_ptr + other * outputs + channel // reduction, mask=mask, other=0)
            dz += pick(row, ks, other) * z
        dhat += dz * _channel_weight(conv_ptr, k, channel, c, mask, False, acc)
    dscale = tl.load(dscale_ptr + plane, mask=mask, other=0)
    dvar = -0.5 * (dscale * gain + dhat * deviation) * inv_std * inv_std * inv_std
    group = tl.arange(0, TILE[0])
    stored = n * (first + second)
    tl.store(sums_ptr + group, tl.sum(dhat * inv_std, axis=1), mask=group < groups)
    tl.store(sums_ptr + stored + group, tl.sum(dvar, axis=1), mask=group < groups)


@triton.jit(do_not_specialize=[*NET_SIZES, 'dwidth'])
def _sample_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    net_ptr,
    weight_ptr,
    conv_ptr,
    fc1_weight_ptr,
    fc2_weight_ptr,
    dscale_ptr,
    dshift_ptr,
    sums_ptr,
    dnet_ptr,
    total,
    n,
    c,
    first,
    second,
    outputs,
    reduction,
    width,
    dwidth,
    FIRST_TILE: tl.constexpr,
    SECOND_TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLACES: tl.constexpr,
    KP: tl.constexpr,
    EPS: tl.constexpr,
    PAIRWISE: tl.constexpr,
    TANH: tl.constexpr,
    OWN_WEIGHT: tl.constexpr,
    OWN_BIAS: tl.constexpr,
    HIDDEN: tl.constexpr,
    HP: tl.constexpr,
):
    """One program a sample: back through the ratio net, then what sums over its channels."""
    acc: tl.constexpr = net_ptr.dtype.element_ty
    K: tl.constexpr = PLACES.K
    sample = tl.program_id(0)
    moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, total
    sizes = n, c, first, second
    net_ptr += sample * width
    dnet_ptr += sample * dwidth
    ks = tl.arange(0, KP)
    k = ks[:, None]
    dratios = tl.full((KP, CHANNELS), 0, acc)
    for start in range(0, c, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)[None, :]
        mask = channel < c
        deviations, variances = normalizers(moments, sample, k, channel, mask, sizes, PLACES)
        dscale = tl.load(dscale_ptr + sample * c + channel, mask=mask, other=0)
        dshift = tl.load(dshift_ptr + sample * c + channel, mask=mask, other=0)
        weight = _channel_weight(weight_ptr, k, channel, c, mask & (k < K), OWN_WEIGHT, acc)
        dratios += (dscale + dshift * deviations) * _inv_std(variances, EPS) * weight

    # ratios = softmax(fc2(hidden))
    ratios = tl.load(net_ptr + ks, mask=ks < K, other=0)
    dlogits = tl.sum(dratios, axis=1)
    dlogits = ratios * (dlogits - tl.sum(ratios * dlogits, axis=0))
    tl.store(dnet_ptr + ks, dlogits, mask=ks < K)
    units = tl.arange(0, HP)
    within = units < HIDDEN
    if PAIRWISE:
        features: tl.constexpr = K * K
    else:
        features: tl.constexpr = 0
    hidden = tl.load(net_ptr + K + features + units, mask=within, other=0)
    fc2 = tl.load(
        fc2_weight_ptr + k * HIDDEN + units[None, :], mask=(k < K) & within[None, :], other=0
    ).to(acc)  # fmt: skip
    dhidden = tl.sum(dlogits[:, None] * fc2, axis=0)
    if TANH:
        dhidden *= 1 - hidden * hidden
    else:
        dhidden = tl.where(hidden > 0, dhidden, 0)
    tl.store(dnet_ptr + K + features + units, dhidden, mask=within)
    if PAIRWISE:
        square = k * K + ks[None, :]
        real = (k < K) & (ks < K)[None, :]
        fc1 = tl.load(
            fc1_weight_ptr + units[:, None, None] * K * K + square[None, :, :],
            mask=within[:, None, None] & real[None, :, :],
            other=0,
        ).to(acc)
        dfeatures = tl.sum(dhidden[:, None, None] * fc1, axis=0)
        # features = z z^T
        symmetric = dfeatures + tl.trans(dfeatures)
        tl.store(dnet_ptr + K + square, symmetric, mask=real)
    else:
        symmetric = tl.full((KP, KP), 0, acc)

    net = ratios, symmetric, net_ptr + K + K * K + HIDDEN, outputs, reduction
    if FIRST_TILE is not None:
        _group_sums(
            moments, net, weight_ptr, conv_ptr, dscale_ptr, dshift_ptr, sums_ptr + sample * first, sample, first,
            sizes, PLACES.LN, FIRST_TILE, PLACES, KP, EPS, PAIRWISE, OWN_WEIGHT,
        )  # fmt: skip
    if SECOND_TILE is not None:
        sums_ptr += n * first + sample * second
        _group_sums(
            moments, net, weight_ptr, conv_ptr, dscale_ptr, dshift_ptr, sums_ptr, sample, second,
            sizes, PLACES.GN, SECOND_TILE, PLACES, KP, EPS, PAIRWISE, OWN_WEIGHT,
        )  # fmt: skip


@triton.jit
def _plane_gradients(
    moments,
    net,
    weight,
    conv,
    dscale_ptr,
    dshift_ptr,
    sample,
    k,
    channel,
    mask,
    sizes,
    PLACES: tl.constexpr,
    EPS: tl.constexpr,
    PAIRWISE: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """For each normalizer and plane.

    Returns:
        dweights: Gradient of gamma.
        dshift: Gradient of the shift, the same for each normalizer.
        dconvs: Gradient of the weight of the convolution.
        dpooled: Gradient of the input of the ratio net.
        deviations: Of the center from the pooled mean.
        ddeviations: Their gradient.
        dvariances: Gradient of the pooled variance.
    """
    net_ptr, dnet_ptr, outputs, reduction, width, dwidth = net
    n, c, _, _ = sizes
    K: tl.constexpr = PLACES.K
    deviations, variances = normalizers(moments, sample, k, channel, mask, sizes, PLACES)
    valid = mask & (k < K)
    plane = sample * c + channel
    dscale = tl.load(dscale_ptr + plane, mask=mask, other=0)
    dshift = tl.load(dshift_ptr + plane, mask=mask, other=0)
    ratios = tl.load(net_ptr + sample * width + k, mask=(sample < n) & (k < K), other=0)
    inv_std = _inv_std(variances, EPS)
    hat = deviations * inv_std
    dweights = (dscale * inv_std + dshift * hat) * ratios
    gains = ratios * weight
    dhat = dshift * gains
    dconvs = tl.zeros_like(hat)
    dpooled = tl.zeros_like(hat)
    if PAIRWISE:
        dz = tl.zeros_like(hat)
        for other in tl.static_range(K):
            symmetric = tl.load(dnet_ptr + sample * dwidth + K + k * K + other, mask=(sample < n) & (k < K), other=0)
            z_ptr = net_ptr + sample * width + K + K * K + HIDDEN
            dz += symmetric * tl.load(z_ptr + other * outputs + channel // reduction, mask=mask, other=0)
        dz = tl.where(valid, dz, 0)
        dconvs = hat * dz
        dz *= conv
        dpooled = dz * inv_std
        dhat += dz
    dvariances = -0.5 * (dscale * gains + dhat * deviations) * inv_std * inv_std * inv_std
    return dweights, dshift, dconvs, dpooled, deviations, dhat * inv_std, dvariances


@triton.jit
def _unit_gradients(
    net,
    gradients,
    block,
    n,
    SAMPLES: tl.constexpr,
    UNITS: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    PAIRWISE: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """Gradients of the fully connected layers as far as they belong to a block of hidden units."""
    net_ptr, dnet_ptr, _, _, width, dwidth = net
    dfc1_weight_ptr, dfc1_bias_ptr, dfc2_weight_ptr, dfc2_bias_ptr = gradients
    acc: tl.constexpr = net_ptr.dtype.element_ty
    if PAIRWISE:
        features: tl.constexpr = K * K
    else:
        features: tl.constexpr = 0
    ks = tl.arange(0, KP)
    units = block * UNITS + tl.arange(0, UNITS)
    inputs = tl.arange(0, KP * KP)
    dfc1 = tl.full((UNITS, KP * KP), 0, acc)
    dfc1_bias = tl.full((SAMPLES, UNITS), 0, acc)
    dfc2 = tl.full((KP, UNITS), 0, acc)
    dfc2_bias = tl.full((SAMPLES, KP), 0, acc)
    for start in range(0, n, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)[:, None]
        unit_mask = (sample < n) & (units < HIDDEN)[None, :]
        logit_mask = (sample < n) & (ks < K)[None, :]
        row = net_ptr + sample * width
        drow = dnet_ptr + sample * dwidth
        hidden = tl.load(row + K + features + units[None, :], mask=unit_mask, other=0)
        dhidden = tl.load(drow + K + features + units[None, :], mask=unit_mask, other=0)
        dlogits = tl.load(drow + ks[None, :], mask=logit_mask, other=0)
        dfc1_bias += dhidden
        dfc2_bias += dlogits
        dfc2 += tl.sum(dlogits[:, :, None] * hidden[:, None, :], axis=0)
        if PAIRWISE:
            correlations = tl.load(
                row + K + inputs[None, :], mask=(sample < n) & (inputs < features)[None, :], other=0
            )  # fmt: skip
            dfc1 += tl.sum(dhidden[:, :, None] * correlations[:, None, :], axis=0)
    dtype: tl.constexpr = dfc2_weight_ptr.dtype.element_ty
    within = units < HIDDEN
    if PAIRWISE:
        tl.store(
            dfc1_weight_ptr + units[:, None] * features + inputs[None, :],
            dfc1.to(dfc1_weight_ptr.dtype.element_ty),
            mask=within[:, None] & (inputs < features)[None, :],
        )
    tl.store(dfc1_bias_ptr + units, tl.sum(dfc1_bias, axis=0).to(dfc1_bias_ptr.dtype.element_ty), mask=within)
    tl.store(
        dfc2_weight_ptr + ks[:, None] * HIDDEN + units[None, :],
        dfc2.to(dtype),
        mask=(ks < K)[:, None] & within[None, :],
    )
    if block == 0:
        tl.store(dfc2_bias_ptr + ks, tl.sum(dfc2_bias, axis=0).to(dfc2_bias_ptr.dtype.element_ty), mask=ks < K)


@triton.jit
def _channel_gradients(
    moments,
    net,
    weight_ptr,
    conv_ptr,
    dscale_ptr,
    dshift_ptr,
    sums_ptr,
    gradients,
    channels,
    sizes,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLACES: tl.constexpr,
    KP: tl.constexpr,
    EPS: tl.constexpr,
    PAIRWISE: tl.constexpr,
    OWN_WEIGHT: tl.constexpr,
    OWN_BIAS: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """Everything that belongs to a block of channels."""
    dmean_ptr, dvar_ptr, dweight_ptr, dbias_ptr, dconv_ptr = gradients
    n, c, first, second = sizes
    acc: tl.constexpr = dscale_ptr.dtype.element_ty
    K: tl.constexpr = PLACES.K
    ks = tl.arange(0, KP)
    k = ks[None, :, None]
    channel = channels[None, None, :]
    valid = channels < c
    real = (ks < K)[:, None] & valid[None, :]
    weight = _channel_weight(weight_ptr, ks[:, None], channels[None, :], c, real, OWN_WEIGHT, acc)[None, :, :]
    conv = _channel_weight(conv_ptr, ks[:, None], channels[None, :], c, valid[None, :], False, acc)[None, :, :]
    dweights_sum = tl.full((KP, CHANNELS), 0, acc)
    dbias_sum = tl.full((CHANNELS,), 0, acc)
    dconv_sum = tl.full((CHANNELS,), 0, acc)
    batch_ddeviation = tl.full((CHANNELS,), 0, acc)
    batch_dvar = tl.full((CHANNELS,), 0, acc)
    for start in range(0, n, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)[:, None, None]
        mask = (sample < n) & valid[None, None, :]
        dweights, dshift, dconvs, _, _, ddeviations, dvariances = _plane_gradients(
            moments, net, weight, conv, dscale_ptr, dshift_ptr, sample, k, channel, mask, sizes,
            PLACES, EPS, PAIRWISE, HIDDEN,
        )  # fmt: skip
        dweights_sum += tl.sum(dweights, axis=0)
        dbias_sum += tl.sum(tl.sum(dshift, axis=1), axis=0)
        dconv_sum += tl.sum(tl.sum(dconvs, axis=1), axis=0)
        if PLACES.BN >= 0:
            batch_ddeviation += tl.sum(tl.sum(tl.where(k == PLACES.BN, ddeviations, 0), axis=1), axis=0)
            batch_dvar += tl.sum(tl.sum(tl.where(k == PLACES.BN, dvariances, 0), axis=1), axis=0)
    if dweight_ptr is not None:
        dweight_type: tl.constexpr = dweight_ptr.dtype.element_ty
        if OWN_WEIGHT:
            at = dweight_ptr + ks[:, None] * c + channels[None, :]
            tl.store(at, dweights_sum.to(dweight_type), mask=real)
        else:
            tl.store(dweight_ptr + channels, tl.sum(dweights_sum, axis=0).to(dweight_type), mask=valid)
    if dbias_ptr is not None:
        dbias = dbias_sum.to(dbias_ptr.dtype.element_ty)
        if OWN_BIAS:
            # All normalizers' betas have the same gradient.
            repeated = tl.broadcast_to(dbias[None, :], (KP, CHANNELS))
            tl.store(dbias_ptr + ks[:, None] * c + channels[None, :], repeated, mask=real)
        else:
            tl.store(dbias_ptr + channels, dbias, mask=valid)
    if dconv_ptr is not None:
        tl.store(dconv_ptr + channels, dconv_sum.to(dconv_ptr.dtype.element_ty), mask=valid)

    var_sums_ptr = sums_ptr + n * (first + second)
    for start in range(0, n, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)[:, None, None]
        mask = (sample < n) & valid[None, None, :]
        _, _, _, dpooled, deviations, ddeviations, dvariances = _plane_gradients(
            moments, net, weight, conv, dscale_ptr, dshift_ptr, sample, k, channel, mask, sizes,
            PLACES, EPS, PAIRWISE, HIDDEN,
        )  # fmt: skip
        mean_part = pooled_gradients(
            ddeviations, batch_ddeviation[None, None, :], sums_ptr, sample, k, channel, mask, sizes, PLACES
        )
        var_part = pooled_gradients(
            dvariances, batch_dvar[None, None, :], var_sums_ptr, sample, k, channel, mask, sizes, PLACES
        )
        # pooled var = mean of (var_i + deviation_i^2), but for IN.
        dmean = dpooled + tl.where(k == PLACES.IN, 0, 2 * deviations * var_part) - mean_part
        plane = sample * c + channel
        tl.store(dmean_ptr + plane, tl.sum(dmean, axis=1)[:, None, :], mask=mask)
        tl.store(dvar_ptr + plane, tl.sum(var_part, axis=1)[:, None, :], mask=mask)


@triton.jit(do_not_specialize=[*NET_SIZES, 'dwidth', 'blocks'])
def _channel_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    net_ptr,
    weight_ptr,
    conv_ptr,
    dscale_ptr,
    dshift_ptr,
    sums_ptr,
    dnet_ptr,
    dmean_ptr,
    dvar_ptr,
    dweight_ptr,
    dbias_ptr,
    dconv_ptr,
    dfc1_weight_ptr,
    dfc1_bias_ptr,
    dfc2_weight_ptr,
    dfc2_bias_ptr,
    total,
    n,
    c,
    first,
    second,
    outputs,
    reduction,
    width,
    dwidth,
    blocks,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    UNITS: tl.constexpr,
    UNIT_SAMPLES: tl.constexpr,
    PLACES: tl.constexpr,
    KP: tl.constexpr,
    EPS: tl.constexpr,
    PAIRWISE: tl.constexpr,
    TANH: tl.constexpr,
    OWN_WEIGHT: tl.constexpr,
    OWN_BIAS: tl.constexpr,
    HIDDEN: tl.constexpr,
    HP: tl.constexpr,
):
    """One program for each of ``blocks`` blocks of channels, then one for each block of hidden units."""
    pid = tl.program_id(0)
    net = net_ptr, dnet_ptr, outputs, reduction, width, dwidth
    if pid < blocks:
        moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, total
        gradients = dmean_ptr, dvar_ptr, dweight_ptr, dbias_ptr, dconv_ptr
        channels = pid * CHANNELS + tl.arange(0, CHANNELS)
        _channel_gradients(
            moments, net, weight_ptr, conv_ptr, dscale_ptr, dshift_ptr, sums_ptr, gradients, channels,
            (n, c, first, second), SAMPLES, CHANNELS, PLACES, KP, EPS, PAIRWISE, OWN_WEIGHT, OWN_BIAS, HIDDEN,
        )  # fmt: skip
    else:
        matrices = dfc1_weight_ptr, dfc1_bias_ptr, dfc2_weight_ptr, dfc2_bias_ptr
        _unit_gradients(net, matrices, pid - blocks, n, UNIT_SAMPLES, UNITS, PLACES.K, KP, PAIRWISE, HIDDEN)
