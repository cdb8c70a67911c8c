"""The passes for the CPU against the reference in float64."""

import pytest
import torch
from helpers import LOOPS

from mmnorm.ops.passes import composed, native, reference
from mmnorm.ops.passes.composed import ComposedPasses
from mmnorm.ops.passes.reference import accumulation_dtype, coefficient_dtype

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# (N, C), 1x1 maps, odd sizes, volumes; the last two are large enough for the kernels that take a call for each sample.
SHAPES = [
    (3, 5),
    (3, 5, 7),
    (2, 3, 1, 1),
    (1, 1, 5, 3),
    (2, 6, 7, 9),
    (2, 4, 3, 4, 5),
    (2, 24, 55, 53),
    (2, 33, 9, 17, 14),
]
CASES = [(shape, False) for shape in SHAPES] + [(shape, True) for shape in SHAPES if len(shape) > 3]


# Widths around those of vectors and tiles, for loops of our own.
NATIVE_SHAPES = [(2, 40, 3, 3), (1, 17, 70, 5), (3, 1040, 5, 3), (2, 2, 97, 101)]
NATIVE_CASES = CASES + [(shape, last) for shape in NATIVE_SHAPES for last in (False, True)]


def make(shape, last=False, dtype=torch.float32, offset=0.0):
    x = (torch.randn(shape, dtype=torch.float64) * 2 + 0.5 + offset).to(dtype)
    return x.contiguous(memory_format=LAST[x.dim()]) if last else x


@pytest.fixture
def small_chunks(monkeypatch):
    """Cut even small tensors into chunks, and give every channels_last sample a call of its own."""
    monkeypatch.setattr(composed, 'CHUNK_BYTES', 2000)
    monkeypatch.setattr(composed, 'SAMPLE_BYTES', 0)
    monkeypatch.setattr(composed, 'LONG_ROW', 60)


def check(passes, x, slack=1.0):
    """Each pass within a few roundings, relative to what it sums, of the reference in float64."""
    precision = slack * torch.finfo(accumulation_dtype(x.dtype)).eps
    rounding = torch.finfo(x.dtype).eps
    mean, var = passes.moments(x)
    exact_mean, exact_var = reference.moments(x.double())
    assert mean.shape == var.shape == x.shape[:2]
    assert mean.dtype == (coefficient_dtype(x) if isinstance(passes, ComposedPasses) else torch.float64)
    std = exact_var.sqrt()
    assert ((mean - exact_mean).abs() <= 4 * precision * (exact_mean.abs() + std)).all()
    # In units of mean^2 too, as the mean may be up to that limit times std without being subtracted first.
    limit = composed.SQUARE_LIMITS[x.dtype]
    assert ((var - exact_var).abs() <= 8 * precision * exact_var * (1 + limit)).all()

    scale, shift, slope, offset = torch.randn(4, *mean.shape, dtype=torch.float64)
    dy = make(x.shape, not x.is_contiguous(), x.dtype)
    wide, wide_dy, wide_mean = x.double(), dy.double(), mean.double()
    deviation = wide - reference._spread(wide_mean, wide)
    unit = (reference._spread(exact_mean, wide).abs() + deviation.abs()) * precision * 8

    y = passes.affine(x, mean, scale, shift)
    expected = reference.affine(wide, wide_mean, scale, shift)
    scales, slopes = (reference._spread(t.abs(), wide) for t in (scale, slope))
    assert (
        (y - expected).abs() <= unit * scales + rounding * (expected.abs() + reference._spread(shift.abs(), wide))
    ).all()

    dx = passes.input_gradient(dy, x, mean, scale, slope, offset)
    expected = reference.input_gradient(wide_dy, wide, wide_mean, scale, slope, offset)
    largest = wide_dy.abs() * scales + deviation.abs() * slopes + reference._spread(offset.abs(), wide)
    assert ((dx - expected).abs() <= unit * slopes + 4 * rounding * largest).all()
    for out in (y, dx):
        assert out.dtype == x.dtype
        assert out.stride() == x.stride()

    sums = passes.plane_sums(dy, x, mean)
    expected = reference.plane_sums(wide_dy, wide, wide_mean)
    terms = wide_dy.abs(), wide_dy.abs() * unit / precision
    for actual, exact, term in zip(sums, expected, terms, strict=True):
        assert actual.dtype in (accumulation_dtype(x.dtype), coefficient_dtype(x))
        total = term.flatten(2).sum(2) if term.dim() > 2 else term
        assert ((actual - exact).abs() <= 8 * precision * total).all()

    # The same bits again.
    again = passes.moments(x) + passes.plane_sums(dy, x, mean)
    assert all(torch.equal(a, b) for a, b in zip((mean, var, *sums), again, strict=True))


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(('shape', 'last'), CASES)
def test_composed(shape, last, dtype):
    check(ComposedPasses(), make(shape, last, dtype))


@pytest.mark.usefixtures('small_chunks')
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(('shape', 'last'), CASES)
def test_composed_in_chunks(shape, last, dtype):
    check(ComposedPasses(), make(shape, last, dtype))


@pytest.mark.parametrize('loops', LOOPS)
@pytest.mark.parametrize('dtype', native.DTYPES, ids=str)
@pytest.mark.parametrize(('shape', 'last'), NATIVE_CASES)
def test_loops(shape, last, dtype, loops):
    check(loops, make(shape, last, dtype))


@pytest.mark.parametrize('loops', LOOPS)
@pytest.mark.parametrize('last', [False, True])
def test_loops_do_not_depend_on_threads(last, loops):
    x, dy = make((5, 24, 41, 37), last), make((5, 24, 41, 37), last)
    mean = x.double().mean((2, 3))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(loops.moments(x) + loops.plane_sums(dy, x, mean))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize('loops', LOOPS)
@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('dtype', native.DTYPES, ids=str)
def test_loops_keep_what_is_not_finite_in_its_plane(dtype, last, loops):
    x = make((2, 20, 6, 7), last, dtype)
    x[0, 3, 2, 2], x[1, 17, 5, 6] = torch.nan, torch.inf
    mean, var = loops.moments(x)
    expected = torch.zeros(2, 20, dtype=torch.bool)
    expected[0, 3] = expected[1, 17] = True
    assert torch.equal(~var.isfinite(), expected)
    y = loops.affine(x, *torch.ones(3, 2, 20, dtype=torch.float64))
    assert torch.equal(~y.isfinite(), ~x.isfinite())
    assert torch.equal(y.isnan(), x.isnan())


@pytest.mark.parametrize('path', ['composed', 'chunks', *LOOPS])
@pytest.mark.parametrize('last', [False, True])
def test_large_offset(last, path, request):
    passes = ComposedPasses() if isinstance(path, str) else path
    if path == 'chunks':
        request.getfixturevalue('small_chunks')
    x = make((3, 7, 33, 31), last, offset=1e4)
    # One plane without an offset, one that is constant, one of zeros.
    x[1, 2] -= 1e4
    x[0, 1], x[2, 3] = 1e4, 0
    mean, var = passes.moments(x)
    exact_mean, exact_var = reference.moments(x.double())
    assert mean.dtype == torch.float64
    assert ((mean - exact_mean).abs() <= 1e-6 * exact_var.sqrt().clamp(min=1e-3)).all()
    assert ((var - exact_var).abs() <= 1e-5 * exact_var).all()

    deviation = x.double() - mean[..., None, None]
    dy = torch.randn_like(x)
    scale, shift = torch.randn(2, 3, 7, dtype=torch.float64)
    y = passes.affine(x, mean, scale, shift)
    expected = deviation * scale[..., None, None] + shift[..., None, None]
    assert ((y - expected).abs() <= 1e-6 * (1 + expected.abs())).all()
    total, product_total = passes.plane_sums(dy, x, mean)
    exact = (dy.double() * deviation).sum((2, 3))
    assert ((product_total - exact).abs() <= 1e-6 * (dy.double() * deviation).abs().sum((2, 3))).all()
    dx = passes.input_gradient(dy, x, mean, scale, scale, shift)
    expected = dy * scale[..., None, None] + deviation * scale[..., None, None] + shift[..., None, None]
    assert ((dx - expected).abs() <= 2e-6 * (1 + expected.abs() + deviation.abs())).all()


def test_few_planes_with_an_offset_cost_the_others_nothing():
    x = make((2, 4, 16, 16))
    x[1, 3] += 20
    passes = ComposedPasses()
    _, var = passes.moments(x)
    assert not passes._large_offset
    assert torch.allclose(var, x.double().var((2, 3), correction=0), rtol=1e-6)
