r"""The passes composed of PyTorch's native CPU kernels, so that each reads and writes what it must and no more.

The planes of a contiguous tensor are the channels of a one-sample tensor (1, N*C, L), whose group norm with as many
groups as channels has vectorized kernels for the moments and for the two sums of the backward, and whose batch norm
in eval mode is the affine pass. ``var_mean`` and the training-mode batch norm, the obvious choices, are several times
slower. In channels_last each sample is a batch of its own to the batch-norm kernels, which are vectorized there.

Those kernels write ``scale * x + offset``, or sum ``dy * x`` before the mean is subtracted, which is as accurate as
nn.BatchNorm2d unless \|mean\| >> std. Planes like that are rare; where there is one, the mean is subtracted first, in
a temporary small enough for the cache.

Devices without such kernels, and types that PyTorch's do not know, take the reference's operators, pass by pass.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..compat import HAS_FLOAT16_NORMS
from . import reference
from .reference import accumulation_dtype, coefficient_dtype

# Bytes of a temporary: small enough to stay in the cache, large enough to outweigh the call.
CHUNK_BYTES = 1 << 24
# A sample with fewer bytes does not outweigh a call of its own.
SAMPLE_BYTES = 1 << 18
# mean^2 / var up to which the variance may be a difference of squares, by the type of x ...
SQUARE_LIMITS = {torch.float16: 64.0, torch.bfloat16: 64.0, torch.float32: 16.0, torch.float64: 1e6}
# ... and up to which the mean need not be subtracted first.
OFFSET_LIMITS = {torch.float16: 2.0**18, torch.bfloat16: 2.0**18, torch.float32: 2.0**8, torch.float64: 1e10}
# Positions from which a plane is summed in parts.
LONG_ROW = 1 << 14

_batch_norm_out = torch.ops.aten.native_batch_norm.out
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
_batch_norm_update_stats = torch.ops.aten.batch_norm_update_stats.default
_group_norm_backward = torch.ops.aten.native_group_norm_backward.default


class ComposedPasses:
    """The passes over one tensor; see :mod:`.reference` for what each computes.

    Its moments come first: they tell whether planes have a large offset, which the other passes then expect.
    """

    _large_offset: bool = False

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`.reference.moments`."""
        mean, var, self._large_offset = _moments(x)
        dtype = coefficient_dtype(x)
        return mean.to(dtype), var.to(dtype)

    def affine(self, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """See :func:`.reference.affine`."""
        if not _has_kernels(x):
            return reference.affine(x, mean, scale, shift)
        center = mean.to(accumulation_dtype(x.dtype))
        shift = shift + scale * (center - mean)
        scale, shift = scale.to(center.dtype).contiguous(), shift.to(center.dtype).contiguous()
        return (_affine_contiguous if x.is_contiguous() else _affine_channels_last)(
            x, center, scale, shift, self._large_offset, torch.empty_like(x)
        )

    def plane_sums(self, dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`.reference.plane_sums`."""
        if not _has_kernels(x) or (not x.is_contiguous() and _sample_bytes(x) < SAMPLE_BYTES):
            return reference.plane_sums(dy, x, mean)
        center = mean.to(accumulation_dtype(x.dtype))
        if x.is_contiguous():
            total, product = _plane_sums_contiguous(dy, x, center, self._large_offset)
        else:
            total, product = _plane_sums_channels_last(dy, x, center)
        return total, product + (center - mean) * total

    def input_gradient(
        self, dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, slope: Tensor, offset: Tensor
    ) -> Tensor:
        """See :func:`.reference.input_gradient`."""
        if not _has_kernels(x):
            return reference.input_gradient(dy, x, mean, scale, slope, offset)
        dtype = accumulation_dtype(x.dtype)
        # Zero is as good a center, and saves the subtraction.
        center = mean.to(dtype) if self._large_offset else None
        offset = offset - slope * (mean if center is None else mean - center)
        scale, slope, offset = (t.to(dtype).contiguous() for t in (scale, slope, offset))
        return (_input_gradient_contiguous if x.is_contiguous() else _input_gradient_channels_last)(
            dy, x, center, scale, slope, offset, torch.empty_like(x)
        )


def _moments(x: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Mean and variance of each plane, and whether any has a large offset."""
    if not _has_kernels(x):
        return *reference.moments(x), False
    if not x.is_contiguous() and _sample_bytes(x) < SAMPLE_BYTES:
        mean, var = reference.moments(x)
        return mean, var, _has_large_offset(mean, var, x.dtype)
    if x.shape[2:].numel() == 1:
        mean = x.reshape(x.shape[:2]).to(accumulation_dtype(x.dtype))
        return mean, torch.zeros_like(mean), False
    return _moments_contiguous(x) if x.is_contiguous() else _moments_channels_last(x)


def _has_kernels(x: Tensor) -> bool:
    return x.is_cpu and (HAS_FLOAT16_NORMS or x.dtype != torch.float16)


def _has_large_offset(mean: Tensor, var: Tensor, dtype: torch.dtype) -> bool:
    """Whether any plane of x, of type ``dtype``, has |mean| >> std."""
    return mean.square().sub_(var, alpha=OFFSET_LIMITS[dtype]).max().item() > 0


def _sample_bytes(x: Tensor) -> int:
    return x.shape[1:].numel() * x.element_size()


# Contiguous: the planes are rows of (N*C, L).


def _planes(x: Tensor) -> Tensor:
    return x.view(x.shape[0] * x.shape[1], -1)


def _chunk_rows(planes: Tensor) -> int:
    # Two planes at least keep both sides of the native kernels' parallel loops busy.
    return max(2, CHUNK_BYTES // (planes.shape[1] * planes.element_size()))


def _chunks(planes: Tensor, backwards: bool = False) -> Iterator[slice]:
    """Slices of the planes that are CHUNK_BYTES each, about.

    The second pass over the same data goes backwards: it begins with what the first one left in the cache.
    """
    step = _chunk_rows(planes)
    starts = range(0, planes.shape[0], step)
    for start in reversed(starts) if backwards else starts:
        yield slice(start, min(start + step, planes.shape[0]))


def _row_moments(planes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each row, as its mean square less the square of its mean."""
    rows, positions = planes.shape
    # Long sums are made of shorter ones, for their accuracy.
    parts = math.gcd(positions, 64) if positions > LONG_ROW else 1
    if parts > 1:
        planes = planes.view(rows * parts, -1)
    mean = planes.sum(1, dtype=dtype)
    square = torch.linalg.vector_norm(planes, dim=1, dtype=dtype).square_()
    if parts > 1:
        mean, square = mean.view(rows, parts).sum(1), square.view(rows, parts).sum(1)
    mean /= positions
    return mean, square.div_(positions).addcmul_(mean, mean, value=-1)


def _moments_contiguous(x: Tensor) -> tuple[Tensor, Tensor, bool]:
    planes, dtype = _planes(x), accumulation_dtype(x.dtype)
    mean, var = _concatenate([_row_moments(planes[rows], dtype) for rows in _chunks(planes)])
    # What is lost to the subtraction grows with the square of |mean| / std.
    excess = mean.square().sub_(var, alpha=SQUARE_LIMITS[x.dtype])
    large_offset = False
    if excess.max().item() > 0:
        mean, var = mean.to(coefficient_dtype(x)), var.to(coefficient_dtype(x))
        inaccurate = excess.gt_(0).nonzero()[:, 0]
        for rows in inaccurate.split(_chunk_rows(planes)):
            mean[rows], var[rows] = (t[:, 0] for t in reference.moments(planes[rows].unsqueeze(1)))
        large_offset = _has_large_offset(mean, var, x.dtype)
    return mean.view(x.shape[:2]), var.view(x.shape[:2]), large_offset


def _concatenate(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return parts[0] if len(parts) == 1 else tuple(torch.cat(ts) for ts in zip(*parts, strict=True))


def _affine_rows(planes: Tensor, center: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """``out = scale * (planes - center) + shift``, by the batch norm of eval mode."""
    unused = center.new_empty(0)
    # With variance 0 and eps 1, std is 1.
    _batch_norm_out(
        planes[None],
        scale,
        shift,
        center,
        torch.zeros_like(center),
        False,
        0.0,
        1.0,
        out=out[None],
        save_mean=unused,
        save_invstd=unused,
    )


def _affine_contiguous(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor, large: bool, y: Tensor) -> Tensor:
    planes, out = _planes(x), _planes(y)
    center, scale, shift = center.view(-1), scale.view(-1), shift.view(-1)
    if planes.shape[0] <= _chunk_rows(planes) and not large:
        _affine_rows(planes, center, scale, shift, out)
        return y
    for rows in _chunks(planes, backwards=True):
        if large:
            deviation = planes[rows] - center[rows, None]
            _affine_rows(deviation, torch.zeros_like(center[rows]), scale[rows], shift[rows], deviation)
            out[rows] = deviation
        else:
            _affine_rows(planes[rows], center[rows], scale[rows], shift[rows], out[rows])
    return y


def _plane_sums_contiguous(dy: Tensor, x: Tensor, center: Tensor, large: bool) -> tuple[Tensor, Tensor]:
    dy, planes, flat = _planes(dy), _planes(x), center.view(-1)
    parts = []
    for rows in _chunks(planes):
        if large:
            deviation = planes[rows] - flat[rows, None]
            parts.append(_plane_sums_rows(dy[rows].to(flat.dtype), deviation, torch.zeros_like(flat[rows])))
        else:
            parts.append(_plane_sums_rows(dy[rows], planes[rows], flat[rows]))
    total, product_total = _concatenate(parts)
    return total.view(center.shape), product_total.view(center.shape)


def _plane_sums_rows(dy: Tensor, planes: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums as the gradients of a group norm's gamma and beta, where std is 1."""
    rows, positions = planes.shape
    one = torch.ones_like(center)
    _, product_total, total = _group_norm_backward(
        dy[None], planes[None], center[None], one[None], one, 1, rows, positions, rows, [False, True, True]
    )
    return total, product_total


def _input_gradient_contiguous(
    dy: Tensor, x: Tensor, center: Tensor | None, scale: Tensor, slope: Tensor, offset: Tensor, dx: Tensor
) -> Tensor:
    dy, planes, out = _planes(dy), _planes(x), _planes(dx)
    center = None if center is None else center.view(-1, 1)
    terms = scale.view(-1, 1), slope.view(-1), offset.view(-1)
    if planes.shape[0] <= _chunk_rows(planes):
        _input_gradient_rows(dy, planes, center, *terms, out)
    else:
        for rows in _chunks(planes, backwards=True):
            part = None if center is None else center[rows]
            scales, slopes, offsets = (t[rows] for t in terms)
            _input_gradient_rows(dy[rows], planes[rows], part, scales, slopes, offsets, out[rows])
    return dx


def _input_gradient_rows(
    dy: Tensor, planes: Tensor, center: Tensor | None, scale: Tensor, slope: Tensor, offset: Tensor, out: Tensor
) -> None:
    # Half precision is rounded once, at the end.
    wide = out if out.dtype == scale.dtype else torch.empty_like(out, dtype=scale.dtype)
    planes = planes.to(scale.dtype)
    if center is not None:
        planes = torch.sub(planes, center, out=wide)
    _affine_rows(planes, torch.zeros_like(slope), slope, offset, wide)
    wide.addcmul_(dy.to(scale.dtype), scale)
    if wide is not out:
        out.copy_(wide)


# channels_last: the samples are matrices (L, C).


def _samples(x: Tensor) -> Tensor:
    """(N, L, C), a view."""
    return x.movedim(1, -1).flatten(1, -2)


def _batches(x: Tensor) -> tuple[Tensor, ...]:
    """Each sample as a channels_last batch of its own, in float32 at least."""
    return x.flatten(2, -2).to(accumulation_dtype(x.dtype)).split(1)


def _moments_channels_last(x: Tensor) -> tuple[Tensor, Tensor, bool]:
    parts = [_batch_norm_update_stats(batch, None, None, 0.0) for batch in _batches(x)]
    mean, var = (torch.stack(ts) for ts in zip(*parts, strict=True))
    large_offset = _has_large_offset(mean, var, x.dtype)
    if large_offset:
        centers = mean[:, None, :, None, None]
        parts = [
            _batch_norm_update_stats(batch - c, None, None, 0.0) for batch, c in zip(_batches(x), centers, strict=True)
        ]
        correction, var = (torch.stack(ts) for ts in zip(*parts, strict=True))
        mean = mean.to(coefficient_dtype(x)) + correction
    return mean, var, large_offset


def _affine_channels_last(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor, large: bool, y: Tensor) -> Tensor:
    samples, out = _samples(x), _samples(y)
    center, scale, shift = center[:, None], scale[:, None], shift[:, None]
    if out.dtype != scale.dtype:
        for n, sample in enumerate(samples):
            out[n] = torch.addcmul(shift[n], sample.to(scale.dtype) - center[n], scale[n])
    elif large:
        torch.sub(samples, center, out=out)
        torch.addcmul(shift, out, scale, out=out)
    else:
        torch.addcmul(torch.addcmul(shift, scale, center, value=-1), samples, scale, out=out)
    return y


def _plane_sums_channels_last(dy: Tensor, x: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums as the gradients of a batch norm's gamma and beta, where std is 1."""
    one = torch.ones_like(center[0])
    parts = [
        _batch_norm_backward(gradient, batch, one, None, None, mean, one, True, 0.0, [False, True, True])[:0:-1]
        for gradient, batch, mean in zip(_batches(dy), _batches(x), center.unbind(), strict=True)
    ]
    total, product_total = (torch.stack(ts) for ts in zip(*parts, strict=True))
    return total, product_total


def _input_gradient_channels_last(
    dy: Tensor, x: Tensor, center: Tensor | None, scale: Tensor, slope: Tensor, offset: Tensor, dx: Tensor
) -> Tensor:
    dy, samples, out = _samples(dy), _samples(x), _samples(dx)
    scale, slope, offset = scale[:, None], slope[:, None], offset[:, None]
    if out.dtype != scale.dtype:
        for n, sample in enumerate(samples):
            terms = sample.to(scale.dtype) if center is None else sample.to(scale.dtype) - center[n]
            part = torch.addcmul(offset[n], terms, slope[n])
            out[n] = part.addcmul_(dy[n].to(scale.dtype), scale[n])
    else:
        terms = samples if center is None else torch.sub(samples, center[:, None], out=out)
        torch.addcmul(offset, terms, slope, out=out)
        torch.addcmul(out, dy, scale, out=out)
    return dx
