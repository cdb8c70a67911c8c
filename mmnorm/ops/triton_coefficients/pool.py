"""The pool of normalizers in the kernels: pooled moments forward, and what every form needs of them.

Pooled moments lie in one buffer, means first, then variances, in the type of the means:

    first grouping (N, first) | second grouping (N, second) | over the samples (C,)

Groupings are of the channels of a sample. In a pool of normalizers the first is LN (one group), the second GN; ILM has
its base there and its key groups. ``first`` and ``second`` are the numbers of groups, 0 where there is no such
normalizer. The sums over the same planes that the backward needs lie in a buffer of the same kind, without the last
part, which stays in registers.

In the kernels ``k`` counts normalizers; tiles are (k, channels) for a sample or (samples, k, channels), so that all
normalizers are loaded at once: these kernels do nearly nothing, so what they cost is waiting. What many functions take
goes in tuples: ``moments`` are the pointers to mean, var, center and the pooled moments, and the length of the buffer
of the last; ``sizes`` are N, C and the groups of the two groupings.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..closed_form import PoolForm
from ..closed_form.pool import RunningStats

# Channels of a program that sums over samples: few, so that there are many programs.
CHANNELS = 16
# Channels of a tile of one sample.
ROW_CHANNELS = 512
# Elements of the largest tile that holds a whole sample.
MAX_ROW = 16384
# All sizes are known at run time only: they change from layer to layer, and nothing here gains from their divisibility.
SIZES = ['n', 'c', 'first', 'second']


class Places(NamedTuple):
    """Where in the pool a normalizer is, -1 if nowhere: each can be there once. A constant of the kernels.

    Running statistics have no place, as nothing is sent back to them; they are pooled moments like others.
    """

    K: int
    IN: int
    LN: int
    GN: int
    BN: int


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def row_tile(channels: int, groups: int) -> tuple[int, int] | None:
    """Shape of a tile (groups, channels of a group) that holds a whole sample; None without groups."""
    return (next_power_of_2(groups), next_power_of_2(channels // groups)) if groups else None


def num_warps(channels: int, *tiles: tuple[int, int] | None) -> int:
    """Warps for rows of so many channels and for tiles, 16 elements a thread; 16 warps can hold the largest."""
    elements = max([next_power_of_2(channels), *(math.prod(tile or ()) for tile in tiles)])
    return min(16, max(4, elements // 512))


def sample_block(samples: int) -> int:
    """Samples of a tile. Only two sizes, for each is compiled by itself."""
    return 8 if samples <= 8 else 32


def launch(kernel, programs: int, *args, num_warps: int = 4, **constants) -> None:
    """Launch so many programs, on the device of the first argument."""
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(args[0]):
        kernel[(programs,)](*args, num_warps=num_warps, **constants)


def dense(*tensors: Tensor | None) -> list[Tensor | None]:
    """The same, contiguous."""
    return [None if t is None else t.contiguous() for t in tensors]


def gradients_like(*params: Tensor | None) -> list[Tensor | None]:
    """Memory for the gradients, in the types of the parameters."""
    return [None if p is None else torch.empty(p.shape, dtype=p.dtype, device=p.device) for p in params]


class Pool:
    """What the kernels need to know of a pool of normalizers.

    Args:
        forms: The normalizers, each at most once.
        running_stats: BN's running statistics, to be moved towards the batch.
    """

    def __init__(self, forms: Sequence[PoolForm], running_stats: RunningStats | None = None) -> None:
        names = [form.normalizer for form in forms]
        self.forms = dict(zip(names, forms, strict=True))
        self.size = len(names)
        self.running_stats = running_stats if 'BN' in names else None
        # The numbers of groups of the two groupings.
        self.first = int('LN' in names)
        self.second = self.forms['GN'].num_groups if 'GN' in names else 0
        self.batch = next((name for name in ('BN', 'running') if name in names), None)
        places = {name: names.index(name) if name in names else -1 for name in ('IN', 'LN', 'GN', 'BN')}
        self.places = Places(self.size, **places)

    @property
    def num_batches(self) -> Tensor | None:
        return self.running_stats.num_batches if self.running_stats else None

    def constants(self) -> dict:
        """The constants of kernels over tiles with a dimension of normalizers."""
        return dict(PLACES=self.places, KP=next_power_of_2(self.size))

    def row_tiles(self, channels: int) -> dict:
        """The tiles of the two groupings, constants of the kernels that take a whole sample."""
        return dict(FIRST_TILE=row_tile(channels, self.first), SECOND_TILE=row_tile(channels, self.second))

    def forward(self, mean: Tensor, var: Tensor, center: Tensor) -> Tensor:
        """Pooled moments, in one launch at most; running statistics are moved, but not yet their number of batches."""
        running = self.forms['running'].running if self.batch == 'running' else None
        pooled = pool_moments(mean, var, center, self.first, self.second, self.batch, running, self.running_stats)
        bn = self.forms.get('BN')
        if bn is not None and bn.track is not None and self.running_stats is None:
            n, c = mean.shape
            bn.track(n, pooled[0, -c:], pooled[1, -c:].to(center.dtype))
        return pooled


def fits(forms: Sequence[PoolForm], channels: int) -> bool:
    """Whether the kernels can do this pool."""
    names = [form.normalizer for form in forms]
    once = len(set(names)) == len(names) and not {'BN', 'running'} <= set(names)
    groups = [form.num_groups if form.normalizer == 'GN' else 1 for form in forms]
    return once and len(names) <= 4 and all(fits_row(channels, g) for g in groups)


def fits_row(channels: int, groups: int) -> bool:
    """Whether a sample with that many groups of channels can be pooled in one program."""
    return channels % groups == 0 and math.prod(row_tile(channels, groups)) <= MAX_ROW


def pool_moments(
    mean: Tensor,
    var: Tensor,
    center: Tensor,
    first: int,
    second: int,
    batch: str | None = None,
    running: tuple[Tensor, Tensor] | None = None,
    running_stats: RunningStats | None = None,
) -> Tensor:
    """Pooled moments in the buffer that the module describes.

    Args:
        mean: Mean of each plane, (N, C).
        var: Variance of each plane, (N, C).
        center: The mean, rounded to the type that is computed in.
        first: Number of groups of the first grouping, or 0.
        second: Number of groups of the second grouping, or 0.
        batch: 'BN', 'running', or None.
        running: Running mean and variance, (C,), which 'running' copies: the backward must not see a later value.
        running_stats: What 'BN' moves towards the batch.

    Returns:
        Tensor (2, N * first + N * second + C), the last part only with a ``batch``.
    """
    n, c = mean.shape
    total = n * (first + second) + (c if batch else 0)
    pooled = torch.empty((2, total), dtype=mean.dtype, device=mean.device)
    if total == 0:
        return pooled
    momentum, positions, batches = None, 1, None
    if batch == 'BN' and running_stats is not None:
        *running, batches, momentum, positions = running_stats
        # A number is a constant of the kernel: as an argument it would be rounded to float32.
        momentum = None if momentum is None else float(momentum)
    samples = n if first or second else 0
    blocks = triton.cdiv(c, CHANNELS) if batch else 0
    tiles = row_tile(c, first), row_tile(c, second)
    launch(
        _pool_kernel,
        samples + blocks,
        mean,
        var,
        center,
        pooled,
        *(running or (None, None)),
        batches,
        n,
        c,
        first,
        second,
        positions,
        samples,
        BATCH=batch,
        MOMENTUM=momentum,
        FIRST_TILE=tiles[0],
        SECOND_TILE=tiles[1],
        SAMPLES=sample_block(n),
        CHANNELS=CHANNELS,
        num_warps=num_warps(1, *tiles),
    )
    return pooled


@triton.jit
def grouped(c, groups, TILE: tl.constexpr):
    """The channels of a sample as a tile (groups, channels of a group): indices, and which exist."""
    size = c // groups
    group = tl.arange(0, TILE[0])[:, None]
    lane = tl.arange(0, TILE[1])[None, :]
    return group * size + lane, (group < groups) & (lane < size)


@triton.jit
def _pool_groups(moments, pooled_ptr, sample, c, groups, TILE: tl.constexpr):
    """Moments of the groups of one sample."""
    mean_ptr, var_ptr, center_ptr, _, total = moments
    acc: tl.constexpr = center_ptr.dtype.element_ty
    channel, mask = grouped(c, groups, TILE)
    plane = sample * c + channel
    mean = tl.load(mean_ptr + plane, mask=mask, other=0)
    center = tl.load(center_ptr + plane, mask=mask, other=0)
    var = tl.load(var_ptr + plane, mask=mask, other=0).to(acc)
    size = c // groups
    pooled = tl.sum(mean, axis=1) / size
    deviation = tl.where(mask, center - pooled[:, None], 0).to(acc)
    pooled_var = tl.sum(var + deviation * deviation, axis=1) / size
    group = tl.arange(0, TILE[0])
    tl.store(pooled_ptr + group, pooled, mask=group < groups)
    tl.store(pooled_ptr + total + group, pooled_var.to(pooled.dtype), mask=group < groups)


@triton.jit
def _pool_samples(
    moments,
    pooled_ptr,
    running,
    channel,
    n,
    c,
    BATCH: tl.constexpr,
    MOMENTUM: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Moments of a block of channels, or a copy of their running statistics."""
    mean_ptr, var_ptr, center_ptr, _, total = moments
    running_mean_ptr, running_var_ptr, batches_ptr, positions = running
    acc: tl.constexpr = center_ptr.dtype.element_ty
    dtype: tl.constexpr = pooled_ptr.dtype.element_ty
    valid = channel < c
    if BATCH == 'running':
        mean = tl.load(running_mean_ptr + channel, mask=valid, other=0).to(dtype)
        var = tl.load(running_var_ptr + channel, mask=valid, other=0).to(dtype)
    else:
        sums = tl.full((SAMPLES, CHANNELS), 0, dtype)
        for start in range(0, n, SAMPLES):
            sample = start + tl.arange(0, SAMPLES)[:, None]
            mask = (sample < n) & valid[None, :]
            sums += tl.load(mean_ptr + sample * c + channel[None, :], mask=mask, other=0)
        mean = tl.sum(sums, axis=0) / n
        squares = tl.full((SAMPLES, CHANNELS), 0, acc)
        for start in range(0, n, SAMPLES):
            sample = start + tl.arange(0, SAMPLES)[:, None]
            mask = (sample < n) & valid[None, :]
            plane = sample * c + channel[None, :]
            center = tl.load(center_ptr + plane, mask=mask, other=0)
            deviation = tl.where(mask, center - mean[None, :], 0).to(acc)
            squares += tl.load(var_ptr + plane, mask=mask, other=0).to(acc) + deviation * deviation
        var = (tl.sum(squares, axis=0) / n).to(dtype)
        if running_mean_ptr is not None:
            # The number of batches is only read here: some other program may not have begun. See count_batch.
            if MOMENTUM is None:
                factor = tl.full((), 1, tl.float64) / (tl.load(batches_ptr) + 1)
            else:
                factor = tl.full((), MOMENTUM, tl.float64)
            count = tl.full((), 1, tl.float64) * n * positions
            unbiased = var.to(tl.float64) * (count / tl.maximum(count - 1, 1))
            _move(running_mean_ptr + channel, mean, factor, valid)
            _move(running_var_ptr + channel, unbiased, factor, valid)
    tl.store(pooled_ptr + channel, mean, mask=valid)
    tl.store(pooled_ptr + total + channel, var, mask=valid)


@triton.jit(do_not_specialize=[*SIZES, 'positions', 'samples'])
def _pool_kernel(
    mean_ptr,
    var_ptr,
    center_ptr,
    pooled_ptr,
    running_mean_ptr,
    running_var_ptr,
    batches_ptr,
    n,
    c,
    first,
    second,
    positions,
    samples,
    BATCH: tl.constexpr,
    MOMENTUM: tl.constexpr,
    FIRST_TILE: tl.constexpr,
    SECOND_TILE: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """``samples`` programs that pool over the channels of a sample, then those that pool over the samples."""
    pid = tl.program_id(0)
    total = n * (first + second)
    if BATCH is not None:
        total += c
    moments = mean_ptr, var_ptr, center_ptr, pooled_ptr, total
    if pid < samples:
        if FIRST_TILE is not None:
            _pool_groups(moments, pooled_ptr + pid * first, pid, c, first, FIRST_TILE)
        if SECOND_TILE is not None:
            _pool_groups(moments, pooled_ptr + n * first + pid * second, pid, c, second, SECOND_TILE)
    elif BATCH is not None:
        channel = (pid - samples) * CHANNELS + tl.arange(0, CHANNELS)
        running = running_mean_ptr, running_var_ptr, batches_ptr, positions
        out = pooled_ptr + n * (first + second)
        _pool_samples(moments, out, running, channel, n, c, BATCH, MOMENTUM, SAMPLES, CHANNELS)


@triton.jit
def _move(ptr, value, factor, mask):
    """Move what is stored a part of the way to ``value``."""
    old = tl.load(ptr, mask=mask, other=0).to(tl.float64)
    moved = old + factor * (value.to(tl.float64) - old)
    tl.store(ptr, moved.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def count_batch(batches_ptr):
    """One more batch seen: by one program of the launch after the one that reads the number."""
    if batches_ptr is not None and tl.program_id(0) == 0:
        tl.store(batches_ptr, tl.load(batches_ptr) + 1)


@triton.jit
def _place(sample, k, channel, sizes, PLACES: tl.constexpr):
    """Where the pooled moments of a plane lie in their buffer; not for IN, which has none there."""
    n, c, first, second = sizes
    at = tl.where(k == PLACES.LN, sample, n * (first + second) + channel)
    if PLACES.GN >= 0:
        at = tl.where(k == PLACES.GN, n * first + sample * second + channel // (c // second), at)
    return at


@triton.jit
def normalizers(moments, sample, k, channel, mask, sizes, PLACES: tl.constexpr):
    """Deviation of the center from the pooled mean, and the pooled variance, of each normalizer; 0 beyond the last."""
    mean_ptr, var_ptr, center_ptr, pooled_ptr, total = moments
    acc: tl.constexpr = center_ptr.dtype.element_ty
    plane = sample * sizes[1] + channel
    mean = tl.load(mean_ptr + plane, mask=mask, other=0)
    center = tl.load(center_ptr + plane, mask=mask, other=0)
    var = tl.load(var_ptr + plane, mask=mask, other=0).to(acc)
    own = k == PLACES.IN
    valid = mask & (k < PLACES.K)
    stored = valid & (k != PLACES.IN)
    at = pooled_ptr + _place(sample, k, channel, sizes, PLACES)
    pooled = tl.where(own, mean, tl.load(at, mask=stored, other=0))
    pooled_var = tl.where(own, var, tl.load(at + total, mask=stored, other=0).to(acc))
    return tl.where(valid, center - pooled, 0).to(acc), tl.where(valid, pooled_var, 0)


@triton.jit
def pooled_gradients(own, over_samples, sums_ptr, sample, k, channel, mask, sizes, PLACES: tl.constexpr):
    """Means over the planes that each normalizer pools: of the plane, over the samples, or of the sums of a sample.

    Zero for running statistics and beyond the last normalizer.
    """
    n, c, _, second = sizes
    stored = (k == PLACES.LN) | (k == PLACES.GN)
    size = tl.where(k == PLACES.LN, c, 1)
    if PLACES.GN >= 0:
        size = tl.where(k == PLACES.GN, c // second, size)
    at = sums_ptr + _place(sample, k, channel, sizes, PLACES)
    mean = tl.load(at, mask=mask & stored, other=0) / size
    mean = tl.where(k == PLACES.IN, own, mean)
    if PLACES.BN >= 0:
        mean = tl.where(k == PLACES.BN, over_samples / n, mean)
    return tl.where(mask & (k < PLACES.K), mean, 0)


@triton.jit
def probabilities(ptr, k, K: tl.constexpr, acc: tl.constexpr):
    """Softmax of K logits, 0 beyond them."""
    logits = tl.load(ptr + k, mask=k < K, other=float('-inf')).to(acc)
    powers = tl.exp(logits - tl.max(logits, axis=0))
    return powers / tl.sum(powers, axis=0)


@triton.jit
def pick(values, k, at):
    """The ``at``-th of a vector, as a scalar."""
    return tl.sum(tl.where(k == at, values, 0), axis=0)


@triton.jit
def tanh(x):
    """Tanh, which Triton has only in a library that the interpreter hasn't."""
    size = tl.abs(x)
    power = tl.exp(-2 * size)
    large = (1 - power) / (1 + power)
    # Its series, where the difference would cancel; the next term is below 6e-12 of the first.
    s = x * x
    series = 62 / 2835 + s * (-1382 / 155925 + s * (21844 / 6081075))
    series = 1 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * series)))
    return tl.where(size < 0.25, x * series, tl.where(x < 0, -large, large))
