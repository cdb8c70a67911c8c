"""Instance-Level Meta Normalization in kernels: the twin of :mod:`..closed_form.instance_meta`, symbols as there.

Forward: the pool, with the base and the key groups, then one program a sample from the encoder to scale and shift.
Backward: one program a sample, back through decoders and encoder and to the sums over its channels, then sums over the
samples for each block of channels, and for each block of key groups.

What comes in pairs, for beta (of the mean) and omega (of the variance), lies one after the other: decoded values and
gradients of keys (2, N, G), embeddings (2, N, M).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..closed_form import PoolForm
from .pool import (
    CHANNELS,
    ROW_CHANNELS,
    dense,
    gradients_like,
    grouped,
    launch,
    next_power_of_2,
    num_warps,
    pool_moments,
    row_tile,
    sample_block,
    tanh,
)

# Values of an embedding that a tile may hold.
MAX_EMBEDDING = 512
# Elements of a tile of the encoder or a decoder.
MATRIX_TILE = 2048
# Samples of a tile of (samples, key groups, embedding).
MATRIX_SAMPLES = 8
SIZES = ['n', 'c', 'first', 'keys', 'embedding']


class InstanceMetaForm:
    """Scale and shift of ILM; see :class:`mmnorm.ops.closed_form.InstanceMetaForm`.

    Args:
        base: The normalizer that standardizes: IN, LN or GN.
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
        self.base = base
        self.num_keys = num_keys
        self.eps = float(eps)
        self.dtype = dtype
        self.mean_activation = mean_activation
        self.var_activation = var_activation
        # Groups of the base, 0 for IN, which pools nothing.
        self.first = {'IN': 0, 'LN': 1, 'GN': base.num_groups}[base.normalizer]

    def _constants(self, c: int, embedding: int) -> dict:
        size, m_block = next_power_of_2(c // self.num_keys), next_power_of_2(embedding)
        return dict(
            EPS=self.eps,
            MEAN_ACTIVATION=self.mean_activation,
            VAR_ACTIVATION=self.var_activation,
            POOLED=self.first > 0,
            G_BLOCK=max(1, min(next_power_of_2(self.num_keys), MATRIX_TILE // m_block, ROW_CHANNELS * 2 // size)),
            SIZE=size,
            M_BLOCK=m_block,
        )

    def forward(
        self,
        mean: Tensor,
        var: Tensor,
        center: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        encoder: Tensor,
        mean_decoder: Tensor,
        var_decoder: Tensor,
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        n, c = mean.shape
        embedding = encoder.shape[0]
        pooled = pool_moments(mean, var, center, self.first, self.num_keys)
        scale, shift = torch.empty((2, n, c), dtype=self.dtype, device=mean.device)
        decoded = torch.empty((2, n, self.num_keys), dtype=self.dtype, device=mean.device)
        embeddings = torch.empty((2, n, embedding), dtype=self.dtype, device=mean.device)
        launch(
            _mix_kernel,
            n,
            mean,
            var,
            center,
            pooled,
            *dense(weight, bias, encoder, mean_decoder, var_decoder),
            scale,
            shift,
            decoded,
            embeddings,
            n,
            c,
            self.first,
            self.num_keys,
            embedding,
            num_warps=num_warps(c),
            **self._constants(c, embedding),
        )
        return scale, shift, (mean, var, center, pooled, decoded, embeddings)

    def backward(
        self, saved: tuple[Tensor | None, ...], params: tuple[Tensor | None, ...], dscale: Tensor, dshift: Tensor
    ) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
        mean, var, center, pooled, decoded, embeddings = saved
        weight, _, encoder, mean_decoder, var_decoder = dense(*params)
        dscale, dshift = dense(dscale, dshift)
        n, c = mean.shape
        embedding = encoder.shape[0]
        constants = self._constants(c, embedding)
        ddecoded, dkeys = torch.empty((2, *decoded.shape), dtype=self.dtype, device=mean.device)
        dembeddings = torch.empty_like(embeddings)
        sums = torch.empty((2, n * self.first), dtype=self.dtype, device=mean.device)
        tile = row_tile(c, self.first)
        moments = mean, var, center, pooled
        sizes = n, c, self.first, self.num_keys, embedding
        launch(
            _sample_kernel,
            n,
            *moments,
            weight,
            encoder,
            mean_decoder,
            var_decoder,
            decoded,
            embeddings,
            dscale,
            dshift,
            ddecoded,
            dembeddings,
            dkeys,
            sums,
            *sizes,
            TILE=tile,
            num_warps=num_warps(c, tile),
            **constants,
        )
        dmean, dvar = torch.empty((2, n, c), dtype=self.dtype, device=mean.device)
        dparams = gradients_like(*params)
        blocks = triton.cdiv(c, CHANNELS)
        units = max(1, min(16, MATRIX_TILE // (MATRIX_SAMPLES * constants['M_BLOCK'])))
        launch(
            _channel_kernel,
            blocks + triton.cdiv(self.num_keys, units),
            *moments,
            weight,
            decoded,
            embeddings,
            dscale,
            dshift,
            ddecoded,
            dembeddings,
            dkeys,
            sums,
            dmean,
            dvar,
            *dparams,
            *sizes,
            blocks,
            SAMPLES=sample_block(n),
            CHANNELS=CHANNELS,
            UNITS=units,
            MATRIX_SAMPLES=MATRIX_SAMPLES,
            **{name: constants[name] for name in ('EPS', 'POOLED', 'M_BLOCK')},
        )
        return dmean, dvar, tuple(dparams)


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == 'tanh':
        return tanh(x)
    elif ACTIVATION == 'sigmoid':
        return 1 / (1 + tl.exp(-x))
    elif ACTIVATION == 'relu':
        return tl.maximum(x, 0)
    else:
        return x


@triton.jit
def _through_activation(dy, y, ACTIVATION: tl.constexpr):
    """Gradient of the input of an activation, from its value ``y``."""
    if ACTIVATION == 'tanh':
        return dy * (1 - y * y)
    elif ACTIVATION == 'sigmoid':
        return dy * y * (1 - y)
    elif ACTIVATION == 'relu':
        return tl.where(y > 0, dy, 0)
    else:
        return dy


@triton.jit
def _base(moments, sample, channel, mask, sizes, EPS: tl.constexpr, POOLED: tl.constexpr):
    """Deviation of the center from the base's mean, and the inverse of its standard deviation."""
    mean_ptr, var_ptr, center_ptr, pooled_ptr, total = moments
    _, c, first = sizes
    acc: tl.constexpr = center_ptr.dtype.element_ty
    plane = sample * c + channel
    center = tl.load(center_ptr + plane, mask=mask, other=0)
    if POOLED:
        at = pooled_ptr + sample * first + channel // (c // first)
        pooled = tl.load(at, mask=mask, other=0)
        var = tl.load(at + total, mask=mask, other=0).to(acc)
    else:
        pooled = tl.load(mean_ptr + plane, mask=mask, other=0)
        var = tl.load(var_ptr + plane, mask=mask, other=0).to(acc)
    return (center - pooled).to(acc), 1 / tl.sqrt(var + EPS)


@triton.jit
def _gain(weight_ptr, omega, channel, mask, acc: tl.constexpr):
    if weight_ptr is None:
        return omega + 1
    else:
        return omega + tl.load(weight_ptr + channel, mask=mask, other=0).to(acc)


@triton.jit(do_not_specialize=SIZES)
def _mix_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    weight_ptr,
    bias_ptr,
    encoder_ptr,
    mean_decoder_ptr,
    var_decoder_ptr,
    scale_ptr,
    shift_ptr,
    decoded_ptr,
    embeddings_ptr,
    n,
    c,
    first,
    keys,
    embedding,
    EPS: tl.constexpr,
    MEAN_ACTIVATION: tl.constexpr,
    VAR_ACTIVATION: tl.constexpr,
    POOLED: tl.constexpr,
    G_BLOCK: tl.constexpr,
    SIZE: tl.constexpr,
    M_BLOCK: tl.constexpr,
):
    """One program a sample."""
    acc: tl.constexpr = scale_ptr.dtype.element_ty
    sample = tl.program_id(0)
    total = n * (first + keys)
    moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, total
    sizes = n, c, first
    key_ptr = pooled_ptr + n * first + sample * keys
    m = tl.arange(0, M_BLOCK)
    mean_embedding = tl.full((M_BLOCK,), 0, acc)
    var_embedding = tl.full((M_BLOCK,), 0, acc)
    for start in range(0, keys, G_BLOCK):
        g = start + tl.arange(0, G_BLOCK)
        mask = (m < embedding)[:, None] & (g < keys)[None, :]
        encoder = tl.load(encoder_ptr + m[:, None] * keys + g[None, :], mask=mask, other=0).to(acc)
        key_mean = tl.load(key_ptr + g, mask=g < keys, other=0).to(acc)
        key_var = tl.load(key_ptr + total + g, mask=g < keys, other=0).to(acc)
        mean_embedding += tl.sum(encoder * key_mean[None, :], axis=1)
        var_embedding += tl.sum(encoder * key_var[None, :], axis=1)
    mean_embedding = tl.maximum(mean_embedding, 0)
    var_embedding = tl.maximum(var_embedding, 0)
    embeddings_ptr += sample * embedding + m
    tl.store(embeddings_ptr, mean_embedding, mask=m < embedding)
    tl.store(embeddings_ptr + n * embedding, var_embedding, mask=m < embedding)

    size = c // keys
    lane = tl.arange(0, SIZE)[None, :]
    for start in range(0, keys, G_BLOCK):
        g = start + tl.arange(0, G_BLOCK)
        at = g[:, None] * embedding + m[None, :]
        mask = (g < keys)[:, None] & (m < embedding)[None, :]
        mean_decoder = tl.load(mean_decoder_ptr + at, mask=mask, other=0).to(acc)
        var_decoder = tl.load(var_decoder_ptr + at, mask=mask, other=0).to(acc)
        beta = _activate(tl.sum(mean_decoder * mean_embedding[None, :], axis=1), MEAN_ACTIVATION)
        omega = _activate(tl.sum(var_decoder * var_embedding[None, :], axis=1), VAR_ACTIVATION)
        tl.store(decoded_ptr + sample * keys + g, beta, mask=g < keys)
        tl.store(decoded_ptr + (n + sample) * keys + g, omega, mask=g < keys)

        channel = g[:, None] * size + lane
        mask = (g < keys)[:, None] & (lane < size)
        deviation, inv_std = _base(moments, sample, channel, mask, sizes, EPS, POOLED)
        scale = _gain(weight_ptr, omega[:, None], channel, mask, acc) * inv_std
        shift = scale * deviation + beta[:, None]
        if bias_ptr is not None:
            shift += tl.load(bias_ptr + channel, mask=mask, other=0).to(acc)
        tl.store(scale_ptr + sample * c + channel, scale, mask=mask)
        tl.store(shift_ptr + sample * c + channel, shift, mask=mask)


@triton.jit
def _plane_gradients(
    moments,
    weight_ptr,
    omega,
    dscale_ptr,
    dshift_ptr,
    sample,
    channel,
    mask,
    sizes,
    EPS: tl.constexpr,
    POOLED: tl.constexpr,
):
    """Deviation, and the gradients of gain, shift, deviation and the base's variance, each by its plane."""
    acc: tl.constexpr = dscale_ptr.dtype.element_ty
    plane = sample * sizes[1] + channel
    deviation, inv_std = _base(moments, sample, channel, mask, sizes, EPS, POOLED)
    gain = _gain(weight_ptr, omega, channel, mask, acc)
    dshift = tl.load(dshift_ptr + plane, mask=mask, other=0)
    # shift = scale * deviation + beta, scale = gain * inv_std
    dscale = tl.load(dscale_ptr + plane, mask=mask, other=0) + dshift * deviation
    dvar = -0.5 * dscale * gain * inv_std * inv_std * inv_std
    return deviation, dscale * inv_std, dshift, dshift * gain * inv_std, dvar


@triton.jit(do_not_specialize=SIZES)
def _sample_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    weight_ptr,
    encoder_ptr,
    mean_decoder_ptr,
    var_decoder_ptr,
    decoded_ptr,
    embeddings_ptr,
    dscale_ptr,
    dshift_ptr,
    ddecoded_ptr,
    dembeddings_ptr,
    dkeys_ptr,
    sums_ptr,
    n,
    c,
    first,
    keys,
    embedding,
    TILE: tl.constexpr,
    EPS: tl.constexpr,
    MEAN_ACTIVATION: tl.constexpr,
    VAR_ACTIVATION: tl.constexpr,
    POOLED: tl.constexpr,
    G_BLOCK: tl.constexpr,
    SIZE: tl.constexpr,
    M_BLOCK: tl.constexpr,
):
    """One program a sample: back through decoders and encoder, then what sums over its channels."""
    acc: tl.constexpr = center_ptr.dtype.element_ty
    sample = tl.program_id(0)
    moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, n * (first + keys)
    sizes = n, c, first
    m = tl.arange(0, M_BLOCK)
    size = c // keys
    lane = tl.arange(0, SIZE)[None, :]
    mean_dembedding = tl.full((M_BLOCK,), 0, acc)
    var_dembedding = tl.full((M_BLOCK,), 0, acc)
    for start in range(0, keys, G_BLOCK):
        g = start + tl.arange(0, G_BLOCK)
        beta = tl.load(decoded_ptr + sample * keys + g, mask=g < keys, other=0)
        omega = tl.load(decoded_ptr + (n + sample) * keys + g, mask=g < keys, other=0)
        channel = g[:, None] * size + lane
        mask = (g < keys)[:, None] & (lane < size)
        _, dgain, dshift, _, _ = _plane_gradients(
            moments, weight_ptr, omega[:, None], dscale_ptr, dshift_ptr, sample, channel, mask, sizes, EPS, POOLED
        )
        dbeta = _through_activation(tl.sum(dshift, axis=1), beta, MEAN_ACTIVATION)
        domega = _through_activation(tl.sum(dgain, axis=1), omega, VAR_ACTIVATION)
        tl.store(ddecoded_ptr + sample * keys + g, dbeta, mask=g < keys)
        tl.store(ddecoded_ptr + (n + sample) * keys + g, domega, mask=g < keys)
        at = g[:, None] * embedding + m[None, :]
        mask = (g < keys)[:, None] & (m < embedding)[None, :]
        mean_decoder = tl.load(mean_decoder_ptr + at, mask=mask, other=0).to(acc)
        var_decoder = tl.load(var_decoder_ptr + at, mask=mask, other=0).to(acc)
        mean_dembedding += tl.sum(mean_decoder * dbeta[:, None], axis=0)
        var_dembedding += tl.sum(var_decoder * domega[:, None], axis=0)

    at = sample * embedding + m
    mean_embedding = tl.load(embeddings_ptr + at, mask=m < embedding, other=0)
    var_embedding = tl.load(embeddings_ptr + n * embedding + at, mask=m < embedding, other=0)
    mean_dembedding = tl.where(mean_embedding > 0, mean_dembedding, 0)
    var_dembedding = tl.where(var_embedding > 0, var_dembedding, 0)
    tl.store(dembeddings_ptr + at, mean_dembedding, mask=m < embedding)
    tl.store(dembeddings_ptr + n * embedding + at, var_dembedding, mask=m < embedding)
    for start in range(0, keys, G_BLOCK):
        g = start + tl.arange(0, G_BLOCK)
        mask = (m < embedding)[:, None] & (g < keys)[None, :]
        encoder = tl.load(encoder_ptr + m[:, None] * keys + g[None, :], mask=mask, other=0).to(acc)
        # Each key is a mean over its channels.
        key_dmean = tl.sum(encoder * mean_dembedding[:, None], axis=0) / size
        key_dvar = tl.sum(encoder * var_dembedding[:, None], axis=0) / size
        tl.store(dkeys_ptr + sample * keys + g, key_dmean, mask=g < keys)
        tl.store(dkeys_ptr + (n + sample) * keys + g, key_dvar, mask=g < keys)

    if TILE is not None:
        channel, mask = grouped(c, first, TILE)
        omega = tl.load(decoded_ptr + (n + sample) * keys + channel // size, mask=mask, other=0)
        _, _, _, ddeviation, dvar = _plane_gradients(
            moments, weight_ptr, omega, dscale_ptr, dshift_ptr, sample, channel, mask, sizes, EPS, POOLED
        )
        group = tl.arange(0, TILE[0])
        sums_ptr += sample * first + group
        tl.store(sums_ptr, tl.sum(ddeviation, axis=1), mask=group < first)
        tl.store(sums_ptr + n * first, tl.sum(dvar, axis=1), mask=group < first)


@triton.jit
def _channel_gradients(
    moments,
    weight_ptr,
    omega_ptr,
    dscale_ptr,
    dshift_ptr,
    dkeys_ptr,
    sums_ptr,
    gradients,
    channels,
    sizes,
    keys,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    EPS: tl.constexpr,
    POOLED: tl.constexpr,
):
    """Everything that belongs to a block of channels."""
    _, _, center_ptr, pooled_ptr, _ = moments
    dmean_ptr, dvar_ptr, dweight_ptr, dbias_ptr = gradients
    n, c, first = sizes
    acc: tl.constexpr = center_ptr.dtype.element_ty
    channel = channels[None, :]
    valid = channels < c
    dweights = tl.full((SAMPLES, CHANNELS), 0, acc)
    dbiases = tl.full((SAMPLES, CHANNELS), 0, acc)
    for start in range(0, n, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)[:, None]
        mask = (sample < n) & valid[None, :]
        key = sample * keys + channel // (c // keys)
        omega = tl.load(omega_ptr + key, mask=mask, other=0)
        deviation, dgain, dshift, ddeviation, dvar = _plane_gradients(
            moments, weight_ptr, omega, dscale_ptr, dshift_ptr, sample, channel, mask, sizes, EPS, POOLED
        )
        dweights += dgain
        dbiases += dshift
        plane = sample * c + channel
        # The base: pooled var = mean of (var_i + deviation_i^2), but for IN.
        if POOLED:
            size = c // first
            at = sums_ptr + sample * first + channel // size
            dvar = tl.load(at + n * first, mask=mask, other=0) / size
            dmean = 2 * deviation * dvar - tl.load(at, mask=mask, other=0) / size
        else:
            dmean = -ddeviation
        # The keys, likewise.
        center = tl.load(center_ptr + plane, mask=mask, other=0)
        key_deviation = (center - tl.load(pooled_ptr + n * first + key, mask=mask, other=0)).to(acc)
        key_dvar = tl.load(dkeys_ptr + n * keys + key, mask=mask, other=0)
        dmean += tl.load(dkeys_ptr + key, mask=mask, other=0) + 2 * key_deviation * key_dvar
        tl.store(dmean_ptr + plane, dmean, mask=mask)
        tl.store(dvar_ptr + plane, dvar + key_dvar, mask=mask)
    if dweight_ptr is not None:
        dweight = tl.sum(dweights, axis=0)
        tl.store(dweight_ptr + channels, dweight.to(dweight_ptr.dtype.element_ty), mask=valid)
    if dbias_ptr is not None:
        dbias = tl.sum(dbiases, axis=0)
        tl.store(dbias_ptr + channels, dbias.to(dbias_ptr.dtype.element_ty), mask=valid)


@triton.jit
def _outer(rows_ptr, columns_ptr, sample, row, column, n, rows, columns, acc: tl.constexpr):
    """Sum of the samples' outer products of what ``sample``, (samples, 1), has at ``row`` and ``column``."""
    row_mask = (sample < n) & (row < rows)[None, :]
    column_mask = (sample < n) & (column < columns)[None, :]
    left = tl.load(rows_ptr + sample * rows + row[None, :], mask=row_mask, other=0).to(acc)
    right = tl.load(columns_ptr + sample * columns + column[None, :], mask=column_mask, other=0).to(acc)
    return tl.sum(left[:, :, None] * right[:, None, :], axis=0)


@triton.jit
def _key_gradients(
    key_mean_ptr,
    key_var_ptr,
    embeddings_ptr,
    ddecoded_ptr,
    dembeddings_ptr,
    gradients,
    g,
    n,
    keys,
    embedding,
    SAMPLES: tl.constexpr,
    UNITS: tl.constexpr,
    M_BLOCK: tl.constexpr,
):
    """Gradients of encoder and decoders as far as they belong to a block of key groups."""
    dencoder_ptr, dmean_decoder_ptr, dvar_decoder_ptr = gradients
    acc: tl.constexpr = embeddings_ptr.dtype.element_ty
    m = tl.arange(0, M_BLOCK)
    dencoder = tl.full((UNITS, M_BLOCK), 0, acc)
    dmean_decoder = tl.full((UNITS, M_BLOCK), 0, acc)
    dvar_decoder = tl.full((UNITS, M_BLOCK), 0, acc)
    for start in range(0, n, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)[:, None]
        dencoder += _outer(key_mean_ptr, dembeddings_ptr, sample, g, m, n, keys, embedding, acc)
        dencoder += _outer(key_var_ptr, dembeddings_ptr + n * embedding, sample, g, m, n, keys, embedding, acc)
        dmean_decoder += _outer(ddecoded_ptr, embeddings_ptr, sample, g, m, n, keys, embedding, acc)
        dvar_decoder += _outer(
            ddecoded_ptr + n * keys, embeddings_ptr + n * embedding, sample, g, m, n, keys, embedding, acc
        )
    mask = (g < keys)[:, None] & (m < embedding)[None, :]
    dtype: tl.constexpr = dencoder_ptr.dtype.element_ty
    tl.store(dencoder_ptr + m[None, :] * keys + g[:, None], dencoder.to(dtype), mask=mask)
    at = g[:, None] * embedding + m[None, :]
    tl.store(dmean_decoder_ptr + at, dmean_decoder.to(dmean_decoder_ptr.dtype.element_ty), mask=mask)
    tl.store(dvar_decoder_ptr + at, dvar_decoder.to(dvar_decoder_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=[*SIZES, 'blocks'])
def _channel_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    weight_ptr,
    decoded_ptr,
    embeddings_ptr,
    dscale_ptr,
    dshift_ptr,
    ddecoded_ptr,
    dembeddings_ptr,
    dkeys_ptr,
    sums_ptr,
    dmean_ptr,
    dvar_ptr,
    dweight_ptr,
    dbias_ptr,
    dencoder_ptr,
    dmean_decoder_ptr,
    dvar_decoder_ptr,
    n,
    c,
    first,
    keys,
    embedding,
    blocks,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    UNITS: tl.constexpr,
    MATRIX_SAMPLES: tl.constexpr,
    EPS: tl.constexpr,
    POOLED: tl.constexpr,
    M_BLOCK: tl.constexpr,
):
    """One program for each of ``blocks`` blocks of channels, then one for each block of key groups."""
    pid = tl.program_id(0)
    total = n * (first + keys)
    if pid < blocks:
        moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, total
        gradients = dmean_ptr, dvar_ptr, dweight_ptr, dbias_ptr
        channels = pid * CHANNELS + tl.arange(0, CHANNELS)
        omega_ptr = decoded_ptr + n * keys
        _channel_gradients(
            moments, weight_ptr, omega_ptr, dscale_ptr, dshift_ptr, dkeys_ptr, sums_ptr, gradients, channels,
            (n, c, first), keys, SAMPLES, CHANNELS, EPS, POOLED,
        )  # fmt: skip
    else:
        matrices = dencoder_ptr, dmean_decoder_ptr, dvar_decoder_ptr
        g = (pid - blocks) * UNITS + tl.arange(0, UNITS)
        key_ptr = pooled_ptr + n * first
        _key_gradients(
            key_ptr, key_ptr + total, embeddings_ptr, ddecoded_ptr, dembeddings_ptr, matrices, g,
            n, keys, embedding, MATRIX_SAMPLES, UNITS, M_BLOCK,
        )  # fmt: skip
