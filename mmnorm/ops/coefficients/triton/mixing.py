"""The kinds of mixing in kernels: the twin of :mod:`..mixing`, symbols as there.

All three multiply a deviation with a gain and divide it by a standard deviation. Mixing of statistics mixes deviations
and variances first, and its gain is gamma. Mixing of outputs does it for each normalizer, with lambda * gamma, and adds
up. Rescaling does it for each plane, with omega + B_omega.

Tiles are (rows, samples, channels). Rows are normalizers, which all lie at the same channels, or groups of channels.
Forward a program takes one tile. Backward it walks through the samples, so that it has all that is summed over them;
sums over the channels come in parts, one of each block of channels.
"""

from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...passes.triton import launch
from .node import node

STATISTICS, OUTPUTS, GROUPS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# Samples and channels of a tile: few, so that there are many programs.
SAMPLES = tl.constexpr(16)
CHANNELS = tl.constexpr(16)
# Channels of a sample that are correlated at a time.
SAMPLE_CHANNELS = 256
SIZES = ['n', 'c', 'rows', 'gammas', 'betas', 'r']


@triton.jit
def _columns(c, rows, ROWS: tl.constexpr, KIND: tl.constexpr):
    """Where a program works.

    Returns:
        Indices of rows, (R, 1, 1); of channels, (1, 1, C), or (R, 1, C / R) where rows are groups, and which of these
        exist; which block of the channels of a row it is, and the first sample.
    """
    WIDTH: tl.constexpr = CHANNELS // ROWS if KIND == GROUPS else CHANNELS
    width = c // rows if KIND == GROUPS else c
    parts = tl.cdiv(width, WIDTH)
    blocks = tl.cdiv(rows, ROWS) * parts
    block = tl.program_id(0) % blocks
    row = (block // parts * ROWS + tl.arange(0, ROWS)[:, None, None]).to(tl.int64)
    part = (block % parts).to(tl.int64)
    channel = part * WIDTH + tl.arange(0, WIDTH)[None, None, :]
    start = tl.program_id(0) // blocks * SAMPLES
    if KIND == GROUPS:
        return row, row * width + channel, (channel < width) & (row < rows), part, start
    else:
        return row, channel, channel < width, part, start


@triton.jit
def _samples(start, n):
    """Indices of samples, (1, S, 1), and which there are."""
    sample = (start + tl.arange(0, SAMPLES)[None, :, None]).to(tl.int64)
    return sample, sample < n


@triton.jit
def _load(ptr, at, mask):
    return tl.load(ptr + at, mask=mask, other=0)


@triton.jit
def _parameter(ptr, at, mask, acc: tl.constexpr, ABSENT: tl.constexpr):
    """Gamma or beta, which need not be there, in the type that is computed in."""
    if ptr is None:
        return ABSENT
    else:
        return _load(ptr, at, mask).to(acc)


@triton.jit
def _sum(x, axis: tl.constexpr):
    return tl.sum(x, axis=axis, keep_dims=True)


@triton.jit
def _store_sum(ptr, at, x, mask):
    """The sum over the samples, where there is a parameter whose gradient it is."""
    if ptr is not None:
        tl.store(ptr + at, _sum(x, 1), mask=mask)


@triton.jit
def _gains(inputs, sample, row, channel, exists, n, c, rows, gammas, KIND: tl.constexpr, EPS: tl.constexpr):
    """What forward and backward have in common.

    Returns:
        Indices of the planes in (K, N, C), and which exist; their deviations and variances; two rows of ratios, as far
        as there are any; what is scaled: deviation, 1 / std, weight, and gain.
    """
    acc: tl.constexpr = inputs[0].dtype.element_ty
    of_row = (sample < n) & (row < rows)
    at = sample * c + channel if KIND == GROUPS else (row * n + sample) * c + channel
    deviation, variance = _load(inputs[0], at, exists & of_row), _load(inputs[1], at, exists & of_row)
    if KIND == STATISTICS:
        ratio, var_ratio = _load(inputs[2], row, row < rows).to(acc), _load(inputs[2], rows + row, row < rows).to(acc)
        weight = _parameter(inputs[-2], channel, exists, acc, 1)
        mixed, inv_std = _sum(ratio * deviation, 0), 1 / tl.sqrt(_sum(var_ratio * variance, 0) + EPS)
        return at, exists & of_row, deviation, variance, ratio, var_ratio, mixed, inv_std, weight, weight
    else:
        ratio = _load(inputs[2], sample * rows + row, of_row).to(acc)
        weight = _parameter(inputs[-2], row % gammas * c + channel, exists & (row < rows), acc, 1)
        gain = ratio + weight if KIND == GROUPS else ratio * weight
        inv_std = 1 / tl.sqrt(variance + EPS)
        return at, exists & of_row, deviation, variance, ratio, ratio, deviation, inv_std, weight, gain


@triton.jit(do_not_specialize=SIZES)
def _mix(inputs, outputs, n, c, rows, gammas, betas, ROWS: tl.constexpr, KIND: tl.constexpr, EPS: tl.constexpr):
    acc: tl.constexpr = inputs[0].dtype.element_ty
    row, channel, exists, _, start = _columns(c, rows, ROWS, KIND)
    sample, valid = _samples(start, n)
    _, _, _, _, _, _, deviation, inv_std, _, gain = _gains(
        inputs, sample, row, channel, exists, n, c, rows, gammas, KIND, EPS
    )
    scale = inv_std * gain
    shift = scale * deviation
    if KIND == OUTPUTS:
        shift += _parameter(inputs[-1], row * c + channel, exists & (row < betas), acc, 0)
        scale, shift = _sum(scale, 0), _sum(shift, 0)
    else:
        shift += _parameter(inputs[-1], channel, exists, acc, 0)
    if KIND == GROUPS:
        shift += _load(inputs[3], sample * rows + row, valid & (row < rows)).to(acc)
    tl.store(outputs[0] + sample * c + channel, scale, mask=valid & exists)
    tl.store(outputs[1] + sample * c + channel, shift, mask=valid & exists)


@triton.jit(do_not_specialize=SIZES)
def _mix_backward(
    inputs, gradients, outputs, n, c, rows, gammas, betas, ROWS: tl.constexpr, KIND: tl.constexpr, EPS: tl.constexpr
):
    acc: tl.constexpr = inputs[0].dtype.element_ty
    ddeviation_ptr, dvariance_ptr, dratios_ptr, dweight_ptr, dbias_ptr = outputs
    row, channel, exists, part, _ = _columns(c, rows, ROWS, KIND)
    WIDTH: tl.constexpr = CHANNELS // ROWS if KIND == GROUPS else CHANNELS
    dweight = tl.zeros((1 if KIND == STATISTICS else ROWS, SAMPLES, WIDTH), acc)
    dbias = tl.zeros((ROWS if KIND == GROUPS else 1, SAMPLES, WIDTH), acc)
    dratio, dvar_ratio = tl.zeros((ROWS, SAMPLES, WIDTH), acc), tl.zeros((ROWS, SAMPLES, WIDTH), acc)
    for start in range(0, n, SAMPLES):
        sample, valid = _samples(start, n)
        at, mask, deviations, variances, ratio, var_ratio, deviation, inv_std, weight, gain = _gains(
            inputs, sample, row, channel, exists, n, c, rows, gammas, KIND, EPS
        )
        dshift = _load(gradients[1], sample * c + channel, valid & exists)
        dgain = (_load(gradients[0], sample * c + channel, valid & exists) + dshift * deviation) * inv_std
        ddeviation, dvariance = dshift * inv_std * gain, -0.5 * dgain * inv_std * inv_std * gain
        if KIND == STATISTICS:
            dratio += ddeviation * deviations
            dvar_ratio += dvariance * variances
            ddeviation, dvariance = ratio * ddeviation, var_ratio * dvariance
            dweight += dgain
        elif KIND == OUTPUTS:
            of_ratio = (part * n + sample) * rows + row
            tl.store(dratios_ptr + of_ratio, _sum(dgain * weight, 2), mask=valid & (row < rows))
            dweight += dgain * ratio
        else:
            of_omega = (part * 2 * n + sample) * rows + row
            tl.store(dratios_ptr + of_omega, _sum(dgain, 2), mask=valid & (row < rows))
            of_beta = of_omega + n.to(tl.int64) * rows
            tl.store(dratios_ptr + of_beta, _sum(dshift, 2), mask=valid & (row < rows))
            dweight += dgain
        tl.store(ddeviation_ptr + at, ddeviation, mask=mask)
        tl.store(dvariance_ptr + at, dvariance, mask=mask)
        dbias += dshift
    if KIND == STATISTICS:
        dratios_ptr += part * 2 * rows
        tl.store(dratios_ptr + row, _sum(_sum(dratio, 1), 2), mask=row < rows)
        tl.store(dratios_ptr + rows + row, _sum(_sum(dvar_ratio, 1), 2), mask=row < rows)
    if KIND == OUTPUTS:
        _store_sum(dweight_ptr, row * c + channel, dweight, exists & (row < rows))
    else:
        _store_sum(dweight_ptr, channel, dweight, exists)
    _store_sum(dbias_ptr, channel, dbias, exists)


def _mixing(kind: tl.constexpr, shapes_of: Callable) -> Callable:
    """A kind of mixing.

    Args:
        kind: STATISTICS, OUTPUTS or GROUPS.
        shapes_of: From N, C and the number of rows to the shapes of the gradients of ratios (with GROUPS: of omega and
            beta) and of weight, as the kernel makes them.
    """

    def cut(
        deviation: Tensor, ratios: Tensor, affine: Sequence[Tensor | None], eps: float
    ) -> tuple[int, int, tuple[int, ...], dict]:
        """Numbers of programs and of parts, and what sizes and constants the kernels take."""
        k, n, c = deviation.shape
        rows, width, tile_rows, tile_width = k, c, triton.next_power_of_2(k), CHANNELS.value
        if kind == GROUPS:
            rows = ratios.shape[1]
            width = c // rows
            tile_width = min(triton.next_power_of_2(width), CHANNELS.value)
            tile_rows = CHANNELS.value // tile_width
        parts = triton.cdiv(width, tile_width)
        sizes = n, c, rows, *(1 if t is None else t.numel() // c for t in affine)
        return triton.cdiv(rows, tile_rows) * parts, parts, sizes, dict(ROWS=tile_rows, KIND=kind, EPS=eps)

    def forward(deviation: Tensor, variance: Tensor, ratios: Tensor, *others: Tensor | None, eps: float):
        programs, _, sizes, constants = cut(deviation, ratios, others[-2:], eps)
        outputs = torch.empty_like(deviation[0]), torch.empty_like(deviation[0])
        inputs = deviation, variance, ratios, *others
        launch(_mix, programs * triton.cdiv(sizes[0], SAMPLES.value), inputs, outputs, *sizes, **constants)
        return outputs, ()

    def backward(inputs, kept, gradients, *, eps: float):
        deviation, variance, ratios, *_, weight, bias = inputs
        programs, parts, sizes, constants = cut(deviation, ratios, (weight, bias), eps)
        ratios_shape, weight_shape = shapes_of(*sizes[:3])
        dratios = deviation.new_empty(parts, *ratios_shape)
        dweight = None if weight is None else deviation.new_empty(weight_shape)
        dbias = None if bias is None else deviation.new_empty(sizes[1])
        outputs = torch.empty_like(deviation), torch.empty_like(variance), dratios, dweight, dbias
        launch(_mix_backward, programs, inputs, gradients, outputs, *sizes, **constants)
        dratios = dratios.sum(0) if parts > 1 else dratios[0]
        # One gamma of several normalizers has the sum of their gradients, and each of several betas that of their sum.
        dweight = None if dweight is None else dweight.sum_to_size(weight.shape)
        dbias = None if dbias is None else dbias.expand(bias.shape)
        return *outputs[:2], *(dratios if kind == GROUPS else [dratios]), dweight, dbias

    return node(forward, backward)


mix_statistics = _mixing(STATISTICS, lambda n, c, k: ((2, k), (c,)))
mix_outputs = _mixing(OUTPUTS, lambda n, c, k: ((n, k), (k, c)))
rescale = _mixing(GROUPS, lambda n, c, groups: ((2, n, groups), (c,)))


@triton.jit(do_not_specialize=SIZES)
def _correlate(
    inputs, outputs, n, c, rows, r, ROWS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, EPS: tl.constexpr
):
    """One program a sample, which walks through tiles (normalizers, groups of the convolution, their channels)."""
    deviation_ptr, variance_ptr, conv_ptr = inputs
    acc: tl.constexpr = deviation_ptr.dtype.element_ty
    sample = tl.program_id(0).to(tl.int64)
    width = c // r
    k, other = tl.arange(0, ROWS)[:, None].to(tl.int64), tl.arange(0, ROWS)[None, :].to(tl.int64)
    features = tl.zeros((ROWS, ROWS), acc)
    for first in range(0, width, GROUPS):
        group = (first + tl.arange(0, GROUPS)[None, :]).to(tl.int64)
        z = tl.zeros((ROWS, GROUPS), acc)
        for start in range(0, r, WIDTH):
            channel = start + tl.arange(0, WIDTH)[None, None, :]
            exists = (group < width)[:, :, None] & (channel < r)
            channel += group[:, :, None] * r
            at, mask = (k[:, :, None] * n + sample) * c + channel, exists & (k < rows)[:, :, None]
            x = _load(deviation_ptr, at, mask) / tl.sqrt(_load(variance_ptr, at, mask) + EPS)
            z += tl.sum(x * _parameter(conv_ptr, channel, exists, acc, 1), axis=2)
        tl.store(outputs[0] + (sample * rows + k) * width + group, z, mask=(k < rows) & (group < width))
        features += tl.sum(z[:, None, :] * z[None, :, :], axis=2)
    tl.store(outputs[1] + (sample * rows + k) * rows + other, features, mask=(k < rows) & (other < rows))


@triton.jit(do_not_specialize=SIZES)
def _correlate_backward(inputs, z_ptr, dfeatures_ptr, outputs, n, c, rows, r, ROWS: tl.constexpr, EPS: tl.constexpr):
    """As the other backwards."""
    deviation_ptr, variance_ptr, conv_ptr = inputs
    acc: tl.constexpr = deviation_ptr.dtype.element_ty
    k, channel, exists, _, _ = _columns(c, rows, ROWS, OUTPUTS)
    conv = _parameter(conv_ptr, channel, exists, acc, 1)
    dconv = tl.zeros((ROWS, SAMPLES, CHANNELS), acc)
    for start in range(0, n, SAMPLES):
        sample, valid = _samples(start, n)
        of_row = valid & (k < rows)
        dz = tl.zeros((ROWS, SAMPLES, CHANNELS), acc)
        for other in range(rows):
            row = dfeatures_ptr + sample * rows * rows
            factor = _load(row, k * rows + other, of_row) + _load(row, other * rows + k, of_row)
            dz += factor * _load(z_ptr, (sample * rows + other) * (c // r) + channel // r, valid & exists)
        at, mask = (k * n + sample) * c + channel, of_row & exists
        inv_std = 1 / tl.sqrt(_load(variance_ptr, at, mask) + EPS)
        x = _load(deviation_ptr, at, mask) * inv_std
        tl.store(outputs[0] + at, dz * conv * inv_std, mask=mask)
        tl.store(outputs[1] + at, -0.5 * dz * conv * x * inv_std * inv_std, mask=mask)
        dconv += dz * x
    _store_sum(outputs[2], channel, _sum(dconv, 0), exists)


def _correlate_sizes(deviation: Tensor, conv_weight: Tensor | None) -> tuple[int, int, int, int]:
    k, n, c = deviation.shape
    return n, c, k, 1 if conv_weight is None else conv_weight.shape[1]


def _correlate_forward(deviation: Tensor, variance: Tensor, conv_weight: Tensor | None, *, eps: float):
    n, c, k, r = sizes = _correlate_sizes(deviation, conv_weight)
    outputs = deviation.new_empty(n, k, c // r), deviation.new_empty(n, k * k)
    width = min(triton.next_power_of_2(r), SAMPLE_CHANNELS)
    constants = dict(ROWS=triton.next_power_of_2(k), GROUPS=SAMPLE_CHANNELS // width, WIDTH=width, EPS=eps)
    launch(_correlate, n, (deviation, variance, conv_weight), outputs, *sizes, **constants)
    return outputs[1:], outputs[:1]


def _correlate_gradients(inputs, kept, gradients, *, eps: float):
    deviation, variance, conv_weight = inputs
    n, c, k, _ = sizes = _correlate_sizes(deviation, conv_weight)
    outputs = tuple(None if t is None else torch.empty_like(t, dtype=deviation.dtype) for t in inputs)
    constants = dict(ROWS=triton.next_power_of_2(k), EPS=eps)
    programs = triton.cdiv(c, CHANNELS.value)
    launch(_correlate_backward, programs, inputs, *kept, *gradients, outputs, *sizes, **constants)
    return outputs


correlate = node(_correlate_forward, _correlate_gradients)
