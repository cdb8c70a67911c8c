"""The Triton kernels against formulas in float64: on the GPU where there is one, else in Triton's interpreter."""

import math
import os
import re
import subprocess
import sys

import pytest
import torch
from kernels import compiled, resources

from mmnorm.ops import ACTIVATIONS, Activation
from mmnorm.ops.passes.reference import accumulation_dtype, coefficient_dtype

triton = pytest.importorskip('triton', minversion='3.4')
passes = pytest.importorskip('mmnorm.ops.passes.triton')

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
RUNS_KERNELS = INTERPRETED or DEVICE == 'cuda'
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# (N, C), 1x1 maps, odd sizes, one and several tiles a plane, more planes than a tile holds, volumes.
SHAPES = [(2, 3), (70, 40), (2, 3, 5), (2, 3, 1, 1), (2, 3, 1, 3), (3, 37, 7, 7), (2, 5, 13, 9), (1, 2, 64, 64)]
SHAPES += [(2, 16, 8, 8), (2, 3, 3, 4, 5)]
CASES = [(shape, False) for shape in SHAPES] + [(shape, True) for shape in SHAPES if len(shape) > 3]


def collected(condition):
    """Decorate a test that pytest collects only if ``condition`` holds."""

    def decorate(test):
        test.__test__ = condition
        return test

    return decorate


@collected(not RUNS_KERNELS)
def test_kernels_in_the_interpreter():
    # In a process of its own: Triton asks once, at its import, and interpreting changes its library for good.
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', __file__]
    done = subprocess.run(command, env=os.environ | {'TRITON_INTERPRET': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-2000:]


def make(shape, last=False, dtype=torch.float32, offset=0.0):
    x = (torch.randn(shape, dtype=torch.float64) + offset).to(DEVICE, dtype)
    return x.contiguous(memory_format=LAST[x.dim()]) if last else x


def spread(t, x):
    """The (N, C) tensor ``t`` in float64, broadcastable to ``x``."""
    return t.double().reshape(t.shape + (1,) * (x.dim() - 2))


def total(t):
    return t.sum(tuple(range(2, t.dim()))) if t.dim() > 2 else t


def exact_moments(x):
    # The mean of the deviations from a rounded mean is its rounding.
    count = math.prod(x.shape[2:])
    guess = total(x.double()) / count
    deviation = x.double() - spread(guess, x)
    mean = guess + total(deviation) / count
    return mean, total((x.double() - spread(mean, x)).square()) / count


def precision(x):
    return torch.finfo(accumulation_dtype(x.dtype)).eps


def assert_near(actual, expected, tolerance):
    """Each difference at most ``tolerance``, a number or tensor, plus the rounding to the type of ``actual``."""
    difference = (actual.double() - expected).abs()
    excess = difference - tolerance - torch.finfo(actual.dtype).eps * expected.abs()
    assert excess.max() <= 0, f'differs by up to {difference.max():.2e}'


def check_reductions(x):
    mean, var = passes.moments(x)
    expected_mean, expected_var = exact_moments(x)
    assert mean.dtype == coefficient_dtype(x)
    assert var.dtype == accumulation_dtype(x.dtype)
    assert mean.is_contiguous()
    assert var.is_contiguous()
    # In units of the standard deviation, however large the mean.
    assert_near(mean, expected_mean, 4 * precision(x) * expected_var.sqrt())
    assert_near(var, expected_var, 16 * precision(x) * expected_var)

    dy = torch.randn_like(x)
    sum_dy, sum_dy_dev = passes.plane_sums(dy, x, mean)
    terms = dy.double(), dy.double() * (x.double() - spread(mean, x))
    for actual, term in zip((sum_dy, sum_dy_dev), terms):
        assert actual.dtype == accumulation_dtype(x.dtype)
        assert actual.is_contiguous()
        assert_near(actual, total(term), 4 * precision(x) * total(term.abs()))

    # Nothing depends on the order in which programs happen to finish.
    for first, again in zip((mean, var, sum_dy, sum_dy_dev), passes.moments(x) + passes.plane_sums(dy, x, mean)):
        assert torch.equal(first, again)


def check_elementwise(x):
    mean = exact_moments(x)[0].to(coefficient_dtype(x))
    # The coefficients may be of the type of the mean.
    scale, shift, slope, offset = torch.randn(4, *mean.shape, dtype=mean.dtype, device=x.device)
    dy = torch.randn_like(x)
    deviation = x.double() - spread(mean, x)

    y = passes.affine(x, mean, scale, shift)
    terms = spread(scale, x) * deviation, spread(shift, x)
    assert_near(y, sum(terms), 4 * precision(x) * sum(t.abs() for t in terms))

    dx = passes.input_gradient(dy, x, mean, scale, slope, offset)
    terms = spread(scale, x) * dy.double(), spread(slope, x) * deviation, spread(offset, x)
    assert_near(dx, sum(terms), 4 * precision(x) * sum(t.abs() for t in terms))

    for out in (y, dx):
        assert out.dtype == x.dtype
        assert out.shape == x.shape
        assert out.stride() == x.stride()
    assert torch.equal(y, passes.affine(x, mean, scale, shift))
    assert torch.equal(dx, passes.input_gradient(dy, x, mean, scale, slope, offset))


def check_fused(x, name):
    """Activation and sum; the gradients by plain operators in float64."""
    activation = Activation(name, 0.3)
    mean = exact_moments(x)[0].to(coefficient_dtype(x))
    scale, shift, slope, offset = torch.randn(4, *mean.shape, dtype=mean.dtype, device=x.device)
    dy, z = torch.randn_like(x), torch.randn_like(x)
    deviation = x.double() - spread(mean, x)
    alone = spread(scale, x) * deviation + spread(shift, x)
    size = (spread(scale, x) * deviation).abs() + spread(shift, x).abs() + z.double().abs()
    # Values of half precision do not come nearer to 0 than the rounding of what they are computed in.
    tolerance = 16 * precision(x) * (1 + size)

    def gradient(argument):
        leaf = argument.detach().requires_grad_()
        return torch.autograd.grad(activation(leaf), leaf, dy.double())[0]

    def check_sums(actual, g):
        for sums, term in zip(actual, (g, g * deviation), strict=True):
            assert_near(sums, total(term), total(tolerance * (1 + term.abs()) * (1 + deviation.abs()) * 4))

    y = passes.affine(x, mean, scale, shift, activation)
    assert_near(y, activation(alone), tolerance)
    g = gradient(alone)
    check_sums(passes.plane_sums(dy, x, mean, scale, shift, activation), g)
    dx = passes.input_gradient(dy, x, mean, scale, slope, offset, shift, activation)
    terms = spread(scale, x) * g, spread(slope, x) * deviation, spread(offset, x)
    assert_near(dx, sum(terms), 4 * tolerance * (1 + sum(t.abs() for t in terms)))

    y, kept = passes.affine_add(x, mean, scale, shift, z, activation, True)
    again, nothing = passes.affine_add(x, mean, scale, shift, z, activation, False)
    assert torch.equal(y, again)
    assert nothing is None
    assert_near(y, activation(alone + z), tolerance)
    g = gradient(alone + z)
    *sums, dz = passes.plane_sums_add(dy, x, mean, scale, shift, activation, kept)
    check_sums(sums, g)
    assert_near(dz, g, tolerance * (1 + g.abs()))
    for out in (y, dx, dz):
        assert out.dtype == x.dtype
        assert out.stride() == x.stride()
    if activation.slope is None:
        assert kept is z
    else:
        assert kept.dtype == torch.uint8
        slopes = passes.slopes_of(kept, x, activation.slope)
        assert torch.equal(slopes == 1, alone + z > 0)
        assert slopes.stride() == x.stride()


@collected(RUNS_KERNELS)
@pytest.mark.parametrize('name', ACTIVATIONS)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(('shape', 'last'), [((2, 9, 5, 7), False), ((2, 5, 6, 9), True), ((1, 16, 4, 4), True)])
def test_activation_and_sum(shape, last, dtype, name):
    check_fused(make(shape, last, dtype), name)


@collected(RUNS_KERNELS)
@pytest.mark.parametrize('name', ['relu', 'silu'])
@pytest.mark.parametrize('last', [False, True])
def test_activation_and_sum_in_chunks(monkeypatch, last, name):
    monkeypatch.setattr(passes, 'TILE', 256)
    monkeypatch.setattr(passes, 'SMALL_TILE', 64)
    monkeypatch.setattr(passes, 'CHUNK', 256)
    monkeypatch.setattr(passes, 'CHANNEL_BYTES', 8 * 4)
    x = make((1, 13, 23, 37), last)
    cut = passes.plan(x, reduce=True)
    assert cut.chunks > 2
    assert cut.blocks > 1
    assert cut.positions % cut.block_positions
    check_fused(x, name)


@collected(RUNS_KERNELS)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(('shape', 'last'), CASES)
def test_formulas(shape, last, dtype):
    x = make(shape, last, dtype)
    check_reductions(x)
    check_elementwise(x)


@collected(RUNS_KERNELS)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('last', [False, True])
def test_large_mean(last, dtype):
    x = make((2, 3, 13, 9), last, dtype, offset=1e4)
    check_reductions(x)
    check_elementwise(x)


@collected(RUNS_KERNELS)
@pytest.mark.parametrize('last', [False, True])
def test_mean_is_exact_to_a_millionth_at_ten_thousand(last):
    x = make((2, 3, 13, 9), last, offset=1e4)
    mean, var = passes.moments(x)
    expected_mean, expected_var = exact_moments(x)
    assert (mean - expected_mean).abs().max() < 1e-6
    assert (var - expected_var).abs().max() < 1e-5


@collected(RUNS_KERNELS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('last', [False, True])
def test_planes_cut_into_chunks(monkeypatch, last, dtype):
    # Chunks of several blocks, of which the last is neither full nor has as many.
    monkeypatch.setattr(passes, 'TILE', 256)
    monkeypatch.setattr(passes, 'SMALL_TILE', 64)
    monkeypatch.setattr(passes, 'CHUNK', 256)
    monkeypatch.setattr(passes, 'CHANNEL_BYTES', 4 * dtype.itemsize)
    x = make((1, 5, 29, 31), last, dtype, offset=1e2)
    cut = passes.plan(x, reduce=True)
    assert cut.chunks > 2
    assert cut.blocks > 1
    assert math.ceil(cut.positions / cut.block_positions) % cut.blocks
    assert cut.positions % cut.block_positions
    check_reductions(x)
    check_elementwise(x)


@collected(RUNS_KERNELS)
@pytest.mark.parametrize('last', [False, True])
def test_large_planes_are_cut_into_chunks(last):
    x = make((2, 3, 300, 260), last, offset=1e4)
    assert passes.plan(x, reduce=True).chunks > 4
    check_reductions(x)


@collected(RUNS_KERNELS)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('last', [False, True])
def test_constant_planes_are_exact(monkeypatch, last, dtype):
    monkeypatch.setattr(passes, 'CHUNK', 64)
    value = make((2, 3, 1, 1), dtype=dtype, offset=1e2)
    x = value.expand(2, 3, 50, 50).contiguous(memory_format=LAST[4] if last else torch.contiguous_format)
    mean, var = passes.moments(x)
    assert torch.equal(mean, value.flatten(1).to(mean.dtype))
    assert torch.equal(var, torch.zeros_like(var))


@collected(RUNS_KERNELS)
def test_views_into_larger_storage():
    # Addresses that aren't multiples of 16 bytes.
    x = make((2 * 3 * 64 + 1,))[1:].view(2, 3, 8, 8)
    check_reductions(x)
    check_elementwise(x)


@pytest.mark.parametrize('reduce', [False, True])
@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize(
    'shape',
    [(2, 64, 512, 512), (8, 256, 56, 56), (32, 2048, 7, 7), (1, 3, 512, 512), (4096, 2048, 1, 1), (1, 32, 3, 3)],
)
def test_plan_covers_the_input_with_small_tiles(shape, last, reduce):
    x = torch.empty(shape, device='meta')
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    cut = passes.plan(x, reduce)
    assert cut.groups * cut.planes * cut.positions == x.numel()
    assert cut.block_planes * cut.block_positions <= passes.TILE
    assert cut.chunks * cut.blocks * cut.block_positions >= cut.positions
    assert (cut.chunks - 1) * cut.blocks * cut.block_positions < cut.positions
    # A large input keeps a large GPU busy, whatever its shape.
    assert cut.programs >= 1024 or x.numel() < 1024 * passes.CHUNK


@collected(DEVICE == 'cuda' and not INTERPRETED)
def test_offsets_beyond_32_bits():
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip('needs a GPU with 20 GB of memory')
    values = torch.arange(1.0, 6.0, device=DEVICE, dtype=torch.float16)
    x = values.view(5, 1, 1, 1).expand(5, 1, 2**14, 2**15).contiguous()
    mean, var = passes.moments(x)
    assert torch.equal(mean.flatten(), values.float())
    assert not var.any()
    y = passes.affine(x, torch.zeros_like(mean), torch.ones_like(mean), torch.ones_like(mean))
    assert torch.equal(y[:, 0, -1, -1], values + 1)


# Where types or formats differ by nothing that matters here, what goes into the passes is compiled for one of them.
COMPILED = [(dtype, capability, [None]) for dtype, capability in zip(DTYPES, (80, 80, 90, 90), strict=True)]
COMPILED += [(dtype, capability, ['relu', 'gelu']) for dtype, capability in ((torch.float64, 80), (torch.float16, 90))]


@collected(not INTERPRETED)
@pytest.mark.parametrize(('dtype', 'capability', 'names'), COMPILED)
@pytest.mark.parametrize('last', [False, True])
def test_kernels_compile_for_a_gpu(last, dtype, capability, names):
    if 'nvidia' not in triton.backends.backends:
        pytest.skip('this Triton has no compiler for NVIDIA GPUs')
    x = torch.empty(2, 32, 128, 128, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    with compiled(capability) as launches:
        mean, var = passes.moments(x)
        for name in names:
            activation = name and Activation(name)
            _, kept = passes.affine_add(x, mean, var, var, x, activation, True)
            if kept is not None:
                passes.plane_sums_add(x, x, mean, var, var, activation, kept)
            passes.affine(x, mean, var, var, activation)
            passes.plane_sums(x, x, mean, var, var, activation)
            passes.input_gradient(x, x, mean, var, var, mean, var, activation)
        assert len(launches) == 2 + sum(5 if name else 4 for name in names)
        for name, code in launches:
            assert len(code.asm['cubin']) > 0
            assert resources(code).spilled == 0, name
            # Wide loads, as the divisibility of sizes and addresses by 16 promises.
            if name != '_merge_moments_kernel':
                assert re.search(r'ld\.global[.\w]*\.v[24]\.', code.asm['ptx']), name
