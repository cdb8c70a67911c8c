"""The four passes over the data as Triton kernels.

Every kernel sees the input as ``groups`` of ``planes`` of ``positions`` and works on tiles of (planes, positions). In a
contiguous tensor all N * C planes are one group and the positions of a plane are neighbours; in a channels-last tensor
each sample is a group and the planes of a position are neighbours. Only the addresses differ: Triton lays the threads
along whatever is contiguous. A reduction keeps one accumulator for each element of the tile, so threads meet only
once, at its end. The center is subtracted before anything is multiplied or summed, so nothing cancels where it is
large. There are no atomics and nothing is tuned at run time: results are the same, bit by bit, each time.

An activation, and a residual summed before it, go into the same passes. The backward needs the activation's argument
again. Without a residual it comes from x, scale and shift, as in the forward. With one, relu and leaky_relu keep one
bit a value, which is simple enough here: the 8 neighbours in memory that a byte stands for are always in one tile, so
that a reshape of the tile and a sum pack them. For silu and gelu the residual itself is kept: the argument is needed
in full, and would take as much.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..activation import Activation
from .reference import accumulation_dtype, coefficient_dtype

# Programs that fill a large GPU: 132 multiprocessors with 16 programs of 4 warps each, rounded.
PROGRAMS = 2048
# Elements of a tile, 16 a thread: enough loads in flight, and the accumulators stay in registers.
TILE = 2048
# Smallest tile of a small input, which is rather spread over more programs.
SMALL_TILE = 512
# Elements that a program reduces at least before a second kernel to merge partial results is worth its launch.
CHUNK = 8192
# Bytes of neighbouring channels in a channels-last tile.
CHANNEL_BYTES = 256
NUM_WARPS = 4


class Plan(NamedTuple):
    """How a pass is cut into programs. Each takes ``block_planes`` planes and ``blocks`` blocks of their positions."""

    groups: int
    planes: int
    positions: int
    channels_last: bool
    block_planes: int
    block_positions: int
    blocks: int
    chunks: int

    @property
    def programs(self) -> int:
        return self.groups * _cdiv(self.planes, self.block_planes) * self.chunks


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def plan(x: Tensor, reduce: bool) -> Plan:
    """Cut a pass over ``x`` into programs.

    Args:
        x: The input, contiguous or channels-last contiguous, not empty.
        reduce: Whether the pass sums over positions. Its programs then take several blocks of positions where that
            saves a merge of partial results; programs of other passes take one.

    Returns:
        Block sizes, all powers of two, and the number of programs.
    """
    samples, channels = x.shape[:2]
    positions = x.numel() // (samples * channels)
    channels_last = not x.is_contiguous()
    groups, planes = (samples, channels) if channels_last else (1, samples * channels)
    # Values of 8 bytes take two registers, and so do the addresses of rows that no wide load can read.
    tile = TILE // 2 if x.dtype == torch.float64 else TILE
    if (planes if channels_last else positions) % 16:
        tile //= 2
    spread = min(tile, max(SMALL_TILE, _next_power_of_2(_cdiv(x.numel(), PROGRAMS))))
    # Shorter blocks of positions only make a reduction loop more often.
    tile = tile if reduce else spread
    if channels_last:
        block_planes = min(_next_power_of_2(planes), CHANNEL_BYTES // x.element_size())
        block_positions = min(_next_power_of_2(positions), tile // block_planes)
        block_planes = max(block_planes, min(_next_power_of_2(planes), spread // block_positions))
    else:
        block_positions = min(_next_power_of_2(positions), tile)
        block_planes = max(1, min(_next_power_of_2(planes), spread // block_positions))
    chunks = total = _cdiv(positions, block_positions)
    if reduce:
        worthwhile = block_planes * positions // CHUNK
        needed = _cdiv(PROGRAMS, groups * _cdiv(planes, block_planes))
        chunks = max(1, min(worthwhile, needed, total))
    blocks = _cdiv(total, chunks)
    return Plan(groups, planes, positions, channels_last, block_planes, block_positions, blocks, _cdiv(total, blocks))


@triton.jit
def _tile(
    planes, positions, blocks, chunks, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr, POSITIONS: tl.constexpr
):
    """Where this program works.

    Returns:
        chunk: Which part of the positions it takes.
        left: Positions from the start of this chunk to the end of the plane.
        plane: Indices into the (N, C) tensors.
        valid: Which of them exist.
        origin: Offset of the first element, in int64; all that follow are small.
        rows: Offsets of the first position of each plane from there.
        step: Offset of one position from the one before.
    """
    pid = tl.program_id(0)
    if CHANNELS_LAST:
        plane_blocks = (planes + PLANES - 1) // PLANES
        block = pid % plane_blocks
        chunk = pid // plane_blocks % chunks
        group = (pid // plane_blocks // chunks).to(tl.int64)
    else:
        chunk = pid % chunks
        block = pid // chunks
        group = tl.full((), 0, tl.int64)
    first = block.to(tl.int64) * PLANES
    start = chunk.to(tl.int64) * blocks * POSITIONS
    lane = tl.arange(0, PLANES)
    if CHANNELS_LAST:
        origin = (group * positions + start) * planes + first
        rows = lane
        step = planes
    else:
        origin = first * positions + start
        rows = lane * positions
        step = 1
    plane = group * planes + first + lane
    return chunk, positions - start, plane, first + lane < planes, origin, rows, step


@triton.jit(do_not_specialize=['blocks', 'chunks', 'total'])
def _moments_kernel(
    x_ptr,
    mean_ptr,
    var_ptr,
    planes,
    positions,
    blocks,
    chunks,
    total,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    chunk, left, plane, valid, origin, rows, step = _tile(
        planes, positions, blocks, chunks, CHANNELS_LAST, PLANES, POSITIONS
    )
    x_ptr += origin
    lane = tl.arange(0, POSITIONS)
    within = rows[:, None] + lane[None, :] * step
    # Any value of the plane is near enough to its mean: deviations from it are exact or small, so that they lose
    # nothing where |mean| >> std, and a constant plane has exactly its value for mean, and variance 0.
    guess = tl.load(x_ptr + rows, mask=valid, other=0).to(ACC)
    # Welford's recurrence, for each element of the tile by itself.
    mean = tl.full((PLANES, POSITIONS), 0, ACC)
    m2 = tl.full((PLANES, POSITIONS), 0, ACC)
    remaining = left
    for i in range(blocks):
        mask = valid[:, None] & (lane < remaining)[None, :]
        x = tl.load(x_ptr + within, mask=mask, other=0).to(ACC)
        delta = tl.where(mask, x - guess[:, None] - mean, 0)
        weight = tl.full((), 1, ACC) / (i + 1)
        mean += delta * weight
        m2 += delta * delta * (1 - weight)
        x_ptr += step * POSITIONS
        remaining -= POSITIONS
    # Chan's formula, for all elements of the tile at once.
    size = tl.minimum(left, blocks.to(tl.int64) * POSITIONS)
    count = ((size + POSITIONS - 1 - lane) // POSITIONS).to(ACC)[None, :]
    size = size.to(ACC)
    center = tl.sum(mean * count, axis=1) / size
    deviation = mean - center[:, None]
    var = tl.sum(m2 + deviation * deviation * count, axis=1) / size
    out = chunk.to(tl.int64) * total + plane
    dtype: tl.constexpr = mean_ptr.dtype.element_ty
    tl.store(mean_ptr + out, guess.to(dtype) + center.to(dtype), mask=valid)
    tl.store(var_ptr + out, var, mask=valid)


@triton.jit(do_not_specialize=['total', 'positions', 'chunk_size', 'chunks'])
def _merge_moments_kernel(
    partial_ptr,
    mean_ptr,
    var_ptr,
    total,
    positions,
    chunk_size,
    chunks,
    PLANES: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """The law of total variance over the chunks of each plane, in float64."""
    plane = tl.program_id(0).to(tl.int64) * PLANES + tl.arange(0, PLANES)
    chunk = tl.arange(0, CHUNKS).to(tl.int64)
    valid = plane < total
    mask = valid[:, None] & (chunk < chunks)[None, :]
    within = plane[:, None] + chunk[None, :] * total
    guess = tl.load(partial_ptr + plane, mask=valid, other=0)
    mean = tl.load(partial_ptr + within, mask=mask, other=0) - guess[:, None]
    var = tl.load(partial_ptr + total.to(tl.int64) * chunks + within, mask=mask, other=0)
    # The last chunk may be shorter; those beyond count nothing.
    count = tl.minimum(tl.maximum(positions - chunk * chunk_size, 0), chunk_size).to(tl.float64)[None, :]
    size = positions.to(tl.float64)
    center = tl.sum(mean * count, axis=1) / size
    deviation = mean - center[:, None]
    var = tl.sum((var + deviation * deviation) * count, axis=1) / size
    tl.store(mean_ptr + plane, guess + center, mask=valid)
    tl.store(var_ptr + plane, var, mask=valid)


@triton.jit
def _center(mean_ptr, valid, ACC: tl.constexpr):
    """The mean, rounded to the type that is computed in, and what that takes from it."""
    mean = tl.load(mean_ptr, mask=valid, other=0)
    center = mean.to(ACC)
    return center, (mean - center).to(ACC)


@triton.jit
def _coefficients(mean_ptr, scale_ptr, shift_ptr, valid, ACC: tl.constexpr):
    """Center, scale and shift of ``(x - center) * scale + shift``."""
    center, rest = _center(mean_ptr, valid, ACC)
    scale = tl.load(scale_ptr, mask=valid, other=0).to(ACC)
    shift = tl.load(shift_ptr, mask=valid, other=0).to(ACC) - scale * rest
    return center, scale, shift


@triton.jit
def _normal_cdf(y):
    return 0.5 * (1 + tl.erf(y * 0.7071067811865476))


@triton.jit
def _activate(y, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    if ACTIVATION == 'relu':
        y = tl.where(y <= 0, 0, y)
    elif ACTIVATION == 'leaky_relu':
        y = tl.where(y <= 0, y * SLOPE, y)
    elif ACTIVATION == 'silu':
        y = y * tl.sigmoid(y)
    elif ACTIVATION == 'gelu':
        y = y * _normal_cdf(y)
    return y


@triton.jit
def _times_slope(dy, below, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """The gradient of the argument of relu or leaky_relu; ``below`` says where that is not above 0."""
    return tl.where(below, 0, dy) if ACTIVATION == 'relu' else tl.where(below, dy * SLOPE, dy)


@triton.jit
def _argument_gradient(dy, y, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """The gradient of the activation's argument ``y``."""
    if ACTIVATION == 'silu':
        sigmoid = tl.sigmoid(y)
        dy = dy * (sigmoid * (1 + y * (1 - sigmoid)))
    elif ACTIVATION == 'gelu':
        dy = dy * (_normal_cdf(y) + y * (tl.exp(-0.5 * y * y) * 0.3989422804014327))
    elif ACTIVATION is not None:
        dy = _times_slope(dy, y <= 0, ACTIVATION, SLOPE)
    return dy


@triton.jit
def _byte_tile(
    planes,
    positions,
    left,
    plane,
    valid,
    origin,
    BITS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Where the bits of a tile are.

    Each row of neighbours in memory (a plane, or in channels_last a position) begins with a byte of its own.

    Returns:
        within: Offsets of the bytes.
        exists: Which planes, or in channels_last which bytes of a position, there are.
        step: Offset of the next tile's from there.
    """
    if CHANNELS_LAST:
        width = (planes + BITS - 1) // BITS
        first_row = origin // planes
        byte = (origin - first_row * planes) // BITS + tl.arange(0, PLANES // BITS)
        row = first_row + tl.arange(0, POSITIONS)
        within = row[None, :] * width + byte[:, None]
        exists = byte < width
        step = width * POSITIONS
    else:
        width = (positions + BITS - 1) // BITS
        byte = (positions - left) // BITS + tl.arange(0, POSITIONS // BITS)
        within = plane[:, None] * width + byte[None, :]
        exists = valid
        step = POSITIONS // BITS
    return within, exists, step


@triton.jit
def _byte_mask(exists, left, BITS: tl.constexpr, CHANNELS_LAST: tl.constexpr, POSITIONS: tl.constexpr):
    lane = tl.arange(0, POSITIONS) if CHANNELS_LAST else tl.arange(0, POSITIONS // BITS) * BITS
    return exists[:, None] & (lane < left)[None, :]


@triton.jit
def _pack(below, BITS: tl.constexpr, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr, POSITIONS: tl.constexpr):
    bit = tl.arange(0, BITS)
    if CHANNELS_LAST:
        bits = tl.reshape(below.to(tl.int32), (PLANES // BITS, BITS, POSITIONS))
        return tl.sum(bits << bit[None, :, None], axis=1)
    else:
        bits = tl.reshape(below.to(tl.int32), (PLANES, POSITIONS // BITS, BITS))
        return tl.sum(bits << bit[None, None, :], axis=2)


@triton.jit
def _unpack(bytes, BITS: tl.constexpr, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr, POSITIONS: tl.constexpr):
    bit = tl.arange(0, BITS)
    if CHANNELS_LAST:
        bits = bytes.to(tl.int32)[:, None, :] >> bit[None, :, None]
    else:
        bits = bytes.to(tl.int32)[:, :, None] >> bit[None, None, :]
    return tl.reshape(bits & 1, (PLANES, POSITIONS)) != 0


@triton.jit(do_not_specialize=['blocks', 'chunks', 'total'])
def _plane_sums_kernel(
    dy_ptr,
    x_ptr,
    mean_ptr,
    scale_ptr,
    shift_ptr,
    kept_ptr,
    dz_ptr,
    out_ptr,
    planes,
    positions,
    blocks,
    chunks,
    total,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    POSITIONS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    BITS: tl.constexpr,
):
    """The sums of g, the gradient of the activation's argument, and of ``g * (x - mean)``.

    With a residual there is ``kept_ptr``, its bits or itself, and g is written as ``dz_ptr``.
    """
    chunk, left, plane, valid, origin, rows, step = _tile(
        planes, positions, blocks, chunks, CHANNELS_LAST, PLANES, POSITIONS
    )
    dy_ptr += origin
    x_ptr += origin
    lane = tl.arange(0, POSITIONS)
    within = rows[:, None] + lane[None, :] * step
    center, rest = _center(mean_ptr + plane, valid, ACC)
    HAS_BITS: tl.constexpr = kept_ptr is not None and SLOPE is not None
    if ACTIVATION is not None and not HAS_BITS:
        _, scale, shift = _coefficients(mean_ptr + plane, scale_ptr + plane, shift_ptr + plane, valid, ACC)
    if HAS_BITS:
        bytes_within, bytes_exist, bytes_step = _byte_tile(
            planes, positions, left, plane, valid, origin, BITS, CHANNELS_LAST, PLANES, POSITIONS
        )
    elif kept_ptr is not None:
        kept_ptr += origin
    if dz_ptr is not None:
        dz_ptr += origin
    sum_dy = tl.full((PLANES, POSITIONS), 0, ACC)
    sum_dy_dev = tl.full((PLANES, POSITIONS), 0, ACC)
    for _ in range(blocks):
        mask = valid[:, None] & (lane < left)[None, :]
        dy = tl.load(dy_ptr + within, mask=mask, other=0).to(ACC)
        x = tl.load(x_ptr + within, mask=mask, other=0).to(ACC)
        deviation = x - center[:, None]
        if HAS_BITS:
            bytes_mask = _byte_mask(bytes_exist, left, BITS, CHANNELS_LAST, POSITIONS)
            bytes = tl.load(kept_ptr + bytes_within, mask=bytes_mask, other=0)
            dy = _times_slope(dy, _unpack(bytes, BITS, CHANNELS_LAST, PLANES, POSITIONS), ACTIVATION, SLOPE)
            kept_ptr += bytes_step
        elif ACTIVATION is not None:
            argument = deviation * scale[:, None] + shift[:, None]
            if kept_ptr is not None:
                argument += tl.load(kept_ptr + within, mask=mask, other=0).to(ACC)
                kept_ptr += step * POSITIONS
            dy = _argument_gradient(dy, argument, ACTIVATION, SLOPE)
        if dz_ptr is not None:
            tl.store(dz_ptr + within, dy.to(dz_ptr.dtype.element_ty), mask=mask)
            dz_ptr += step * POSITIONS
        sum_dy += dy
        sum_dy_dev += dy * deviation
        dy_ptr += step * POSITIONS
        x_ptr += step * POSITIONS
        left -= POSITIONS
    out = chunk.to(tl.int64) * 2 * total + plane
    sums = tl.sum(sum_dy, axis=1)
    tl.store(out_ptr + out, sums, mask=valid)
    tl.store(out_ptr + total + out, tl.sum(sum_dy_dev, axis=1) - rest * sums, mask=valid)


@triton.jit(do_not_specialize=['chunks'])
def _affine_kernel(
    x_ptr,
    mean_ptr,
    scale_ptr,
    shift_ptr,
    residual_ptr,
    y_ptr,
    bits_ptr,
    planes,
    positions,
    chunks,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    POSITIONS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    BITS: tl.constexpr,
):
    _, left, plane, valid, origin, rows, step = _tile(planes, positions, 1, chunks, CHANNELS_LAST, PLANES, POSITIONS)
    lane = tl.arange(0, POSITIONS)
    within = rows[:, None] + lane[None, :] * step
    mask = valid[:, None] & (lane < left)[None, :]
    x = tl.load(x_ptr + origin + within, mask=mask, other=0).to(ACC)
    center, scale, shift = _coefficients(mean_ptr + plane, scale_ptr + plane, shift_ptr + plane, valid, ACC)
    y = (x - center[:, None]) * scale[:, None] + shift[:, None]
    if residual_ptr is not None:
        y += tl.load(residual_ptr + origin + within, mask=mask, other=0).to(ACC)
    if bits_ptr is not None:
        bytes_within, bytes_exist, _ = _byte_tile(
            planes, positions, left, plane, valid, origin, BITS, CHANNELS_LAST, PLANES, POSITIONS
        )
        bytes_mask = _byte_mask(bytes_exist, left, BITS, CHANNELS_LAST, POSITIONS)
        bytes = _pack(y <= 0, BITS, CHANNELS_LAST, PLANES, POSITIONS)
        tl.store(bits_ptr + bytes_within, bytes.to(tl.uint8), mask=bytes_mask)
    y = _activate(y, ACTIVATION, SLOPE)
    tl.store(y_ptr + origin + within, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['chunks'])
def _input_gradient_kernel(
    dy_ptr,
    x_ptr,
    mean_ptr,
    scale_ptr,
    shift_ptr,
    slope_ptr,
    offset_ptr,
    dx_ptr,
    planes,
    positions,
    chunks,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    POSITIONS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
):
    _, left, plane, valid, origin, rows, step = _tile(planes, positions, 1, chunks, CHANNELS_LAST, PLANES, POSITIONS)
    lane = tl.arange(0, POSITIONS)
    within = rows[:, None] + lane[None, :] * step
    mask = valid[:, None] & (lane < left)[None, :]
    dy = tl.load(dy_ptr + origin + within, mask=mask, other=0).to(ACC)
    x = tl.load(x_ptr + origin + within, mask=mask, other=0).to(ACC)
    center, rest = _center(mean_ptr + plane, valid, ACC)
    scale = tl.load(scale_ptr + plane, mask=valid, other=0).to(ACC)
    slope = tl.load(slope_ptr + plane, mask=valid, other=0).to(ACC)
    offset = tl.load(offset_ptr + plane, mask=valid, other=0).to(ACC) - slope * rest
    deviation = x - center[:, None]
    if ACTIVATION is not None:
        shift = tl.load(shift_ptr + plane, mask=valid, other=0).to(ACC) - scale * rest
        dy = _argument_gradient(dy, deviation * scale[:, None] + shift[:, None], ACTIVATION, SLOPE)
    dx = dy * scale[:, None] + deviation * slope[:, None] + offset[:, None]
    tl.store(dx_ptr + origin + within, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def launch(kernel, programs: int, *args, **constants) -> None:
    """Launch so many programs, on the device of the first tensor."""
    first = args[0]
    while isinstance(first, tuple):
        first = first[0]
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(first):
        kernel[(programs,)](*args, num_warps=NUM_WARPS, **constants)


def _constants(x: Tensor, cut: Plan) -> dict:
    return dict(
        ACC=tl.float64 if x.dtype == torch.float64 else tl.float32,
        CHANNELS_LAST=cut.channels_last,
        PLANES=cut.block_planes,
        POSITIONS=cut.block_positions,
    )


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`.reference.moments`; ``x`` is contiguous or channels-last contiguous, as in all four."""
    cut = plan(x, reduce=True)
    total = cut.groups * cut.planes
    mean = torch.empty(x.shape[:2], dtype=coefficient_dtype(x), device=x.device)
    var = torch.empty(x.shape[:2], dtype=accumulation_dtype(x.dtype), device=x.device)
    split = cut.chunks > 1
    partial = torch.empty((2, cut.chunks, total), dtype=torch.float64, device=x.device) if split else (mean, var)
    launch(
        _moments_kernel,
        cut.programs,
        x,
        partial[0],
        partial[1],
        cut.planes,
        cut.positions,
        cut.blocks,
        cut.chunks,
        total,
        **_constants(x, cut),
    )
    if split:
        chunks = _next_power_of_2(cut.chunks)
        planes = max(1, SMALL_TILE // chunks)
        chunk_size = cut.blocks * cut.block_positions
        launch(
            _merge_moments_kernel,
            _cdiv(total, planes),
            partial,
            mean,
            var,
            total,
            cut.positions,
            chunk_size,
            cut.chunks,
            PLANES=planes,
            CHUNKS=chunks,
        )
    return mean, var


def affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, activation: Activation | None = None) -> Tensor:
    """See :func:`.reference.affine`."""
    return _affine(x, mean, scale, shift, None, activation, None)


def affine_add(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor,
    activation: Activation | None,
    is_recorded: bool,
) -> tuple[Tensor, Tensor | None]:
    """See :meth:`.interface.FusedPasses.affine_add`."""
    if activation is None or not is_recorded:
        return _affine(x, mean, scale, shift, residual, activation, None), None
    if activation.slope is None:
        return _affine(x, mean, scale, shift, residual, activation, None), residual
    rows, length = _rows(x)
    bits = torch.empty((rows, _cdiv(length, _bits_a_byte(x))), dtype=torch.uint8, device=x.device)
    return _affine(x, mean, scale, shift, residual, activation, bits), bits


def _affine(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
    bits: Tensor | None,
) -> Tensor:
    cut = plan(x, reduce=False)
    y = torch.empty_like(x)
    launch(
        _affine_kernel,
        cut.programs,
        x,
        mean,
        scale,
        shift,
        residual,
        y,
        bits,
        cut.planes,
        cut.positions,
        cut.chunks,
        **_constants(x, cut),
        **_activation_constants(activation),
        BITS=_bits_a_byte(x),
    )
    return y


def plane_sums(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Activation | None = None,
) -> tuple[Tensor, Tensor]:
    """See :meth:`.interface.FusedPasses.plane_sums`."""
    return _plane_sums(dy, x, mean, scale, shift, activation, None, None)


def plane_sums_add(
    dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, activation: Activation, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`.interface.FusedPasses.plane_sums_add`."""
    dz = torch.empty_like(x)
    return *_plane_sums(dy, x, mean, scale, shift, activation, kept, dz), dz


def _plane_sums(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: Activation | None,
    kept: Tensor | None,
    dz: Tensor | None,
) -> tuple[Tensor, Tensor]:
    cut = plan(x, reduce=True)
    total = cut.groups * cut.planes
    sums = torch.empty((cut.chunks, 2, *x.shape[:2]), dtype=accumulation_dtype(x.dtype), device=x.device)
    launch(
        _plane_sums_kernel,
        cut.programs,
        dy,
        x,
        mean,
        scale,
        shift,
        kept,
        dz,
        sums,
        cut.planes,
        cut.positions,
        cut.blocks,
        cut.chunks,
        total,
        **_constants(x, cut),
        **_activation_constants(activation),
        BITS=_bits_a_byte(x),
    )
    sum_dy, sum_dy_dev = sums[0] if cut.chunks == 1 else sums.sum(0)
    return sum_dy, sum_dy_dev


def input_gradient(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    slope: Tensor,
    offset: Tensor,
    shift: Tensor | None = None,
    activation: Activation | None = None,
) -> Tensor:
    """See :meth:`.interface.FusedPasses.input_gradient`."""
    cut = plan(x, reduce=False)
    dx = torch.empty_like(x)
    launch(
        _input_gradient_kernel,
        cut.programs,
        dy,
        x,
        mean,
        scale,
        shift,
        slope,
        offset,
        dx,
        cut.planes,
        cut.positions,
        cut.chunks,
        **_constants(x, cut),
        **_activation_constants(activation),
    )
    return dx


def slopes_of(bits: Tensor, x: Tensor, slope: float) -> Tensor:
    """See :meth:`.interface.FusedPasses.slopes_of`."""
    rows, length = _rows(x)
    bit = torch.arange(_bits_a_byte(x), dtype=torch.uint8, device=x.device)
    below = (bits[:, :, None] >> bit & 1).bool().flatten(1)[:, :length]
    slopes = x.new_ones(below.shape).masked_fill_(below, slope)
    if x.is_contiguous():
        return slopes.reshape(x.shape)
    return slopes.reshape(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)


def _activation_constants(activation: Activation | None) -> dict:
    if activation is None:
        return dict(ACTIVATION=None, SLOPE=None)
    return dict(ACTIVATION=activation.name, SLOPE=activation.slope)


def _rows(x: Tensor) -> tuple[int, int]:
    """How many rows of neighbours in memory there are, and how long they are: planes, or channels of positions."""
    length = x.shape[2:].numel() if x.is_contiguous() else x.shape[1]
    return x.numel() // length, length


def _bits_a_byte(x: Tensor) -> int:
    """How many bits of a row a byte holds: 8, or as many as the tile of a shorter row has places."""
    return min(8, _next_power_of_2(_rows(x)[1]))
