"""The pool in kernels: the twin of :mod:`..pool`.

A normalizer divides the N * C planes into pools of one size, and then all do the same: a pool of IN is one plane, of LN
and GN a group of neighbouring channels of a sample, of BN the samples of a channel. A program takes a block of pools of
one normalizer and walks through their planes. Sums are in float64.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...passes.triton import launch
from .node import node

# Planes of a tile, and of one without sums.
TILE = 1024
BLOCK = 256
# Channels of a tile that pools over the samples: few, so that there are many programs.
CHANNELS = 16
# What normalizers pool, instead of a number of groups of channels: planes by themselves, the samples, or nothing, where
# the moments of the samples are given.
PLANE, BATCH, GIVEN = tl.constexpr(0), tl.constexpr(-1), tl.constexpr(-2)


def _pools(mean: Tensor, all_groups: Sequence[int]) -> tuple[tuple, list[int], list[int]]:
    """The pools of normalizers.

    Args:
        mean: Means of the planes, (N, C).
        all_groups: For each normalizer its number of groups of channels, or PLANE, BATCH or GIVEN.

    Returns:
        For each: constants of the kernels, which are that number, how many pools a program takes and how many planes
        of each at a time; how many pools it has; and how many programs take these.
    """
    n, c = mean.shape
    constants, counts, programs = [], [], []
    for groups in all_groups:
        size, count = (c // groups, n * groups) if groups > 0 else (1, n * c) if groups == PLANE.value else (n, c)
        members = min(triton.next_power_of_2(size), TILE if groups >= 0 else TILE // CHANNELS)
        pools = TILE // members if groups >= 0 else CHANNELS
        constants.append((groups, pools, members))
        counts.append(count)
        programs.append(triton.cdiv(count, pools))
    return tuple(constants), counts, programs


def _pools_of(mean: Tensor, normalizers: Sequence[str], num_groups: int, given: bool):
    c = mean.shape[1]
    groups = {'IN': c, 'LN': 1, 'GN': num_groups, 'BN': (GIVEN if given else BATCH).value}
    # Groups of one channel, too, are planes.
    return _pools(mean, [PLANE.value if groups[name] == c else groups[name] for name in normalizers])


@triton.jit
def _size(n, c, POOLS: tl.constexpr, k: tl.constexpr):
    """Planes of a pool, and number of pools."""
    if POOLS[k][0] > 0:
        return c // POOLS[k][0], n.to(tl.int64) * POOLS[k][0]
    elif POOLS[k][0] == PLANE:
        return 1, n.to(tl.int64) * c
    else:
        return n, c.to(tl.int64)


@triton.jit
def _block(block, n, c, POOLS: tl.constexpr, k: tl.constexpr):
    """Indices of a block of pools, (P, 1), and which there are."""
    pool = block.to(tl.int64) * POOLS[k][1] + tl.arange(0, POOLS[k][1])[:, None]
    return pool, pool < _size(n, c, POOLS, k)[1]


@triton.jit
def _planes(pool, valid, start, n, c, POOLS: tl.constexpr, k: tl.constexpr):
    """Indices of some planes of each of these pools, (P, M), and which there are."""
    size, _ = _size(n, c, POOLS, k)
    member = (start + tl.arange(0, POOLS[k][2])[None, :]).to(tl.int64)
    return pool * size + member if POOLS[k][0] >= 0 else member * c + pool, valid & (member < size)


@triton.jit
def _zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.zeros((ROWS, COLUMNS), tl.float64)


@triton.jit
def _moments(moments, pool, valid, n, c, POOLS: tl.constexpr, k: tl.constexpr):
    """Mean and variance of a block of pools, (P, 1), by the law of total variance."""
    size, _ = _size(n, c, POOLS, k)
    sums = _zeros(POOLS[k][1], POOLS[k][2])
    for start in range(0, size, POOLS[k][2]):
        plane, mask = _planes(pool, valid, start, n, c, POOLS, k)
        sums += tl.load(moments[0] + plane, mask=mask, other=0)
    mean = tl.sum(sums, axis=1, keep_dims=True) / size
    squares = _zeros(POOLS[k][1], POOLS[k][2])
    for start in range(0, size, POOLS[k][2]):
        plane, mask = _planes(pool, valid, start, n, c, POOLS, k)
        deviation = tl.where(mask, tl.load(moments[0] + plane, mask=mask, other=0) - mean, 0)
        squares += tl.load(moments[1] + plane, mask=mask, other=0) + deviation * deviation
    return mean, tl.sum(squares, axis=1, keep_dims=True) / size


@triton.jit
def _move(ptr, value, factor, mask):
    """Move what is stored a part of the way to ``value``."""
    old = tl.load(ptr, mask=mask, other=0).to(tl.float64)
    tl.store(ptr, old + factor * (value - old), mask=mask)


@triton.jit
def _track(running, pool, valid, mean, var, values, MOMENTUM: tl.constexpr):
    """:meth:`RunningStats.update`, for a block of channels with so many values each."""
    mean_ptr, var_ptr, batches_ptr = running
    if MOMENTUM is None:
        # This batch is counted already. Counted here, another program might read the number before or after.
        factor = tl.full((), 1, tl.float64) / tl.load(batches_ptr)
    else:
        factor = tl.full((), MOMENTUM, tl.float64)
        tl.store(batches_ptr + pool, tl.load(batches_ptr + pool, mask=pool == 0, other=0) + 1, mask=pool == 0)
    _move(mean_ptr + pool, mean, factor, valid)
    _move(var_ptr + pool, var * (values / tl.maximum(values - 1, 1)), factor, valid)


@triton.jit
def _pool_block(pointers, block, n, c, positions, MOMENTUM: tl.constexpr, POOLS: tl.constexpr, k: tl.constexpr):
    """Moments of a block of pools of normalizer k, and what they are to its planes."""
    moments, given, running, outputs = pointers
    pool, valid = _block(block, n, c, POOLS, k)
    if POOLS[k][0] == GIVEN:
        mean = tl.load(given[0] + pool, mask=valid, other=0).to(tl.float64)
        var = tl.load(given[1] + pool, mask=valid, other=0).to(tl.float64)
    else:
        mean, var = _moments(moments, pool, valid, n, c, POOLS, k)
    if POOLS[k][0] < 0 and running[0] is not None:
        _track(running, pool, valid, mean, var, tl.full((), 1, tl.float64) * n * positions, MOMENTUM)
    for start in range(0, _size(n, c, POOLS, k)[0], POOLS[k][2]):
        plane, mask = _planes(pool, valid, start, n, c, POOLS, k)
        at = n.to(tl.int64) * c * k + plane
        tl.store(outputs[0] + at, tl.load(moments[0] + plane, mask=mask, other=0) - mean, mask=mask)
        tl.store(outputs[1] + at, var, mask=mask)


@triton.jit(do_not_specialize=['n', 'c', 'positions'])
def _pool_kernel(
    moments, given, running, outputs, n, c, positions, K: tl.constexpr, MOMENTUM: tl.constexpr, POOLS: tl.constexpr
):
    """The programs of the first normalizer, then those of the second, and so on."""
    block = tl.program_id(0)
    for k in tl.static_range(K):
        blocks = tl.cdiv(_size(n, c, POOLS, k)[1], POOLS[k][1])
        if (block >= 0) & (block < blocks):
            _pool_block((moments, given, running, outputs), block, n, c, positions, MOMENTUM, POOLS, k)
        block -= blocks


@triton.jit
def _sum_block(ptr, sums_ptr, divisor, block, n, c, POOLS: tl.constexpr, k: tl.constexpr):
    """Sums over a block of pools, divided."""
    pool, valid = _block(block, n, c, POOLS, k)
    sums = _zeros(POOLS[k][1], POOLS[k][2])
    for start in range(0, _size(n, c, POOLS, k)[0], POOLS[k][2]):
        plane, mask = _planes(pool, valid, start, n, c, POOLS, k)
        sums += tl.load(ptr + plane, mask=mask, other=0)
    tl.store(sums_ptr + pool, tl.sum(sums, axis=1, keep_dims=True) / divisor, mask=valid)


@triton.jit(do_not_specialize=['n', 'c', 'total'])
def _sums_kernel(gradients, sums_ptr, n, c, total, K: tl.constexpr, POOLS: tl.constexpr):
    """Means over the pools of the gradients of deviations and variances; of given moments, the gradients."""
    block = tl.program_id(0)
    for k in tl.static_range(K):
        size, count = _size(n, c, POOLS, k)
        blocks = tl.cdiv(count, POOLS[k][1])
        if (block >= 0) & (block < blocks):
            at = n.to(tl.int64) * c * k
            divisors = (-1, 1) if POOLS[k][0] == GIVEN else (size, size)
            for i in tl.static_range(2):
                # With an offset of 32 bits, ptxas spills a register on sm_80.
                at_sums = i * total.to(tl.int64)
                _sum_block(gradients[i] + at, sums_ptr + at_sums, divisors[i], block, n, c, POOLS, k)
        block -= blocks
        sums_ptr += count


@triton.jit(do_not_specialize=['n', 'c', 'total'])
def _pool_backward_kernel(pointers, n, c, total, K: tl.constexpr, POOLS: tl.constexpr, BLOCK: tl.constexpr):
    """The gradients of the planes' moments, from those of the planes and the means over their pools."""
    ddeviation_ptr, dvariance_ptr, deviation_ptr, sums_ptr, dmean_ptr, dvar_ptr = pointers
    plane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = plane < n.to(tl.int64) * c
    dmean = tl.zeros((BLOCK,), tl.float64)
    dvar = tl.zeros((BLOCK,), tl.float64)
    for k in tl.static_range(K):
        at = n.to(tl.int64) * c * k + plane
        size, count = _size(n, c, POOLS, k)
        dmean += tl.load(ddeviation_ptr + at, mask=mask, other=0)
        if POOLS[k][0] != GIVEN:
            pool = plane // size if POOLS[k][0] >= 0 else plane % c
            of_mean = tl.load(sums_ptr + pool, mask=mask, other=0)
            of_var = tl.load(sums_ptr + total + pool, mask=mask, other=0)
            dmean += 2 * of_var * tl.load(deviation_ptr + at, mask=mask, other=0) - of_mean
            dvar += of_var
        sums_ptr += count
    tl.store(dmean_ptr + plane, dmean, mask=mask)
    tl.store(dvar_ptr + plane, dvar, mask=mask)


def _pool_forward(mean: Tensor, var: Tensor, *given, normalizers, num_groups: int = 1, track=None):
    n, c = mean.shape
    pools, _, programs = _pools_of(mean, normalizers, num_groups, given[0] is not None)
    deviation, variance = (var.new_empty(len(normalizers), n, c) for _ in range(2))
    stats: Sequence[Tensor] = ()
    momentum, positions = None, 1
    if track is not None and 'BN' in normalizers:
        *stats, momentum, positions = track
        if momentum is None:
            track.num_batches.add_(1)
    running = tuple(t.contiguous() for t in stats)
    arguments = (mean, var), given, running or (None, None, None), (deviation, variance), n, c, positions
    # The momentum is a constant: as an argument it would be rounded to float32.
    launch(_pool_kernel, sum(programs), *arguments, K=len(normalizers), MOMENTUM=momentum, POOLS=pools)
    for t, moved in zip(stats, running, strict=True):
        if moved is not t:
            t.copy_(moved)
        torch.autograd.graph.increment_version(t)
    return (deviation, variance), (deviation,)


def _pool_backward(inputs, kept, gradients, *, normalizers, num_groups: int = 1, track=None):
    mean, var, *given = inputs
    n, c = mean.shape
    pools, counts, programs = _pools_of(mean, normalizers, num_groups, given[0] is not None)
    sizes, constants = (n, c, sum(counts)), dict(K=len(normalizers), POOLS=pools)
    sums = torch.empty((2, sum(counts)), dtype=torch.float64, device=mean.device)
    launch(_sums_kernel, sum(programs), gradients, sums, *sizes, **constants)
    outputs = torch.empty_like(mean), torch.empty_like(var)
    pointers = *gradients, *kept, sums, *outputs
    launch(_pool_backward_kernel, triton.cdiv(n * c, BLOCK), pointers, *sizes, BLOCK=BLOCK, **constants)
    if given[0] is None or 'BN' not in normalizers:
        return *outputs, None, None
    first = sum(counts[: normalizers.index('BN')])
    return *outputs, *sums[:, first : first + c]


_pool = node(_pool_forward, _pool_backward)


def pool(again, mean: Tensor, var: Tensor, *given: Tensor | None, **options) -> tuple[Tensor, Tensor]:
    """See :func:`..pool.pool`."""
    batch_mean, batch_var = given or (None, None)
    differentiates = torch.is_grad_enabled() and mean.requires_grad
    if batch_mean is not None and batch_var is not None and differentiates and not batch_mean.requires_grad:
        # Buffers may change before the backward.
        batch_mean, batch_var = torch.stack([batch_mean, batch_var])
    return _pool(again, mean, var, batch_mean, batch_var, **options)


@triton.jit(do_not_specialize=['n', 'c'])
def _group_moments_kernel(moments, outputs, n, c, POOLS: tl.constexpr):
    pool, valid = _block(tl.program_id(0), n, c, POOLS, 0)
    mean, var = _moments(moments, pool, valid, n, c, POOLS, 0)
    tl.store(outputs[0] + pool, mean, mask=valid)
    tl.store(outputs[1] + pool, var, mask=valid)


@triton.jit(do_not_specialize=['n', 'c', 'groups'])
def _group_moments_backward_kernel(pointers, n, c, groups, BLOCK: tl.constexpr):
    mean_ptr, pooled_ptr, dpooled_ptr, dpooled_var_ptr, dmean_ptr, dvar_ptr = pointers
    plane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = plane < n.to(tl.int64) * c
    size = c // groups
    pool = plane // size
    deviation = tl.load(mean_ptr + plane, mask=mask, other=0) - tl.load(pooled_ptr + pool, mask=mask, other=0)
    of_var = tl.load(dpooled_var_ptr + pool, mask=mask, other=0).to(tl.float64) / size
    dmean = tl.load(dpooled_ptr + pool, mask=mask, other=0) / size + 2 * of_var * deviation
    tl.store(dmean_ptr + plane, dmean, mask=mask)
    tl.store(dvar_ptr + plane, of_var, mask=mask)


def _group_moments_forward(mean: Tensor, var: Tensor, *, groups: int):
    outputs = mean.new_empty(len(mean), groups), var.new_empty(len(mean), groups)
    pools, _, programs = _pools(mean, [groups])
    launch(_group_moments_kernel, *programs, (mean, var), outputs, *mean.shape, POOLS=pools)
    return (outputs[0].to(var.dtype), outputs[1]), outputs[:1]


def _group_moments_backward(inputs, kept, gradients, *, groups: int):
    mean, var = inputs
    outputs = torch.empty_like(mean), torch.empty_like(var)
    pointers = mean, *kept, *gradients, *outputs
    launch(_group_moments_backward_kernel, triton.cdiv(mean.numel(), BLOCK), pointers, *mean.shape, groups, BLOCK=BLOCK)
    return outputs


group_moments = node(_group_moments_forward, _group_moments_backward)
