"""The kernels of the coefficients' steps against plain operators: on the GPU where there is one, else interpreted."""

import math
import os
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers import randomize
from kernels import compiled, resources

import mmnorm
from mmnorm.ops import backend, coefficients
from mmnorm.ops.again import differentiate_again

triton = pytest.importorskip('triton', minversion='3.4')
kernels = pytest.importorskip('mmnorm.ops.coefficients.triton')

MODULES = [sys.modules[f'mmnorm.ops.{name}'] for name in ('coefficients.triton.pools', 'coefficients.triton.mixing')]
PASSES = sys.modules['mmnorm.ops.passes.triton']
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
RUNS_KERNELS = INTERPRETED or DEVICE == 'cuda'
# Of the variances, which is computed in, and of the means: for float64, float32 and half-precision input.
DTYPES = [(torch.float64, torch.float64), (torch.float32, torch.float64), (torch.float32, torch.float32)]
DOUBLE = DTYPES[0]
ALL = ('BN', 'GN', 'LN', 'IN')
# With 'given', BN is given its moments.
POOLS = [
    (('BN',), 1, 1),
    (('IN',), 2, 3),
    (('LN',), 5, 58),
    (('GN',), 2, 100),
    (('given',), 5, 3),
    (('LN', 'given'), 2, 58),
    (('IN', 'LN', 'BN'), 1, 24),
    (ALL, 2, 128),
    (('GN', 'given', 'IN', 'LN'), 5, 58),
    # More samples, and more channels, than a tile has.
    (('GN', 'BN'), 70, 5),
    (('LN',), 2, 1100),
    (('IN',), 2, 600),
]
# (K, N, C)
SIZES = [(1, 1, 1), (2, 2, 3), (3, 5, 58), (4, 2, 100), (3, 40, 24), (2, 1, 200)]


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


@pytest.fixture(autouse=True)
def _nan_for_uninitialized_memory():
    # So that whatever is not written, or read before it is, shows.
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def triton_backend():
    before = mmnorm.set_backend('triton')
    yield
    mmnorm.set_backend(before)


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)


def make_moments(n, c, dtypes):
    return random(n, c, dtype=dtypes[1]) * 2 + 10, random(n, c, dtype=dtypes[0]).abs() + 0.1


def make_deviations(k, n, c, dtype):
    return random(k, n, c, dtype=dtype), random(k, n, c, dtype=dtype).abs() + 0.1


def make_pool(names, n, c, dtypes):
    """Inputs and options of the pool."""
    given = (random(c) + 10, random(c).abs()) if 'given' in names else ()
    names = tuple('BN' if name == 'given' else name for name in names)
    return (*make_moments(n, c, dtypes), *given), dict(normalizers=names, num_groups=math.gcd(c, 8))


def plain(name):
    return getattr(coefficients, name).__wrapped__


def kernel(name, tensors, options):
    return kernels.KERNELS[name](partial(differentiate_again, partial(plain(name), **options)), *tensors, **options)


def leaves(tensors, dtype=None):
    return [None if t is None else t.detach().clone().to(dtype or t.dtype).requires_grad_() for t in tensors]


def outputs_and_gradients(run, tensors, order):
    """Outputs, gradients of all inputs, and (``order`` 2) those of a function of the gradients."""
    given = [t for t in tensors if t is not None]
    outputs = run(tensors)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    generator = torch.Generator().manual_seed(0)
    dys = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype) for y in outputs]
    # The deviation of IN is a constant for plain operators.
    ys, dys = zip(*[(y, dy) for y, dy in zip(outputs, dys, strict=True) if y.requires_grad], strict=True)
    gradients = partial(torch.autograd.grad, inputs=given, allow_unused=True, materialize_grads=True)
    result = [*outputs, *gradients(ys, grad_outputs=dys, retain_graph=order == 2)]
    if order == 2:
        first = gradients(ys, grad_outputs=dys, create_graph=True)
        result += [*first, *gradients(sum(t.double().square().sum() for t in first))]
    return [t.detach() for t in result]


def check(name, tensors, order=1, repeat=False, **options):
    """Compare with plain operators in float64."""
    run = partial(kernel, name, options=options)
    actual = outputs_and_gradients(run, leaves(tensors), order)
    exact = partial(plain(name), **options)
    expected = outputs_and_gradients(lambda ts: exact(*ts), leaves(tensors, torch.float64), order)
    # The mean is more precise than what is computed in.
    tolerance = 1e-10 if tensors[1].dtype == torch.float64 else 1e-5
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == e.shape
        scale = max(1, e.abs().max().item())
        bound = (tolerance + (torch.finfo(a.dtype).eps if a.dtype != torch.float64 else 0)) * scale
        difference = (a.double() - e).abs().max().item()
        assert difference <= bound, f'{name}: result {i} differs by up to {difference:.1e} at {scale:.1e}'
    if repeat:
        for a, b in zip(actual, outputs_and_gradients(run, leaves(tensors), order), strict=True):
            assert torch.equal(a, b)


def affine(*shape, dtype=torch.float32):
    return random(*shape, dtype=dtype) + 1, random(*shape, dtype=dtype)


@collected(RUNS_KERNELS)
class TestPool:
    @pytest.mark.parametrize(('names', 'n', 'c'), POOLS, ids=lambda value: '-'.join(value) if value is tuple else None)
    def test_pools(self, names, n, c):
        tensors, options = make_pool(names, n, c, DOUBLE)
        check('pool', tensors, **options)

    @pytest.mark.parametrize('names', [ALL, ('given', 'GN', 'IN')])
    @pytest.mark.parametrize('dtypes', DTYPES)
    def test_types(self, dtypes, names):
        tensors, options = make_pool(names, 5, 24, dtypes)
        check('pool', tensors, order=2, repeat=True, **options)

    @pytest.mark.parametrize(('n', 'c', 'groups'), [(1, 1, 1), (2, 3, 1), (5, 58, 29), (2, 100, 25), (40, 24, 24)])
    def test_group_moments(self, n, c, groups):
        check('group_moments', make_moments(n, c, DOUBLE), groups=groups)

    @pytest.mark.parametrize('dtypes', DTYPES)
    def test_types_of_group_moments(self, dtypes):
        check('group_moments', make_moments(5, 24, dtypes), order=2, repeat=True, groups=3)

    def test_large_means(self):
        mean, var = make_moments(5, 24, DTYPES[1])
        check('pool', (mean + 1e6, var * 1e-2), normalizers=ALL, num_groups=8)


@collected(RUNS_KERNELS)
class TestMixing:
    @pytest.mark.parametrize(('k', 'n', 'c'), SIZES)
    def test_mix_statistics(self, k, n, c):
        ratios = random(2, k).softmax(1)
        check('mix_statistics', (*make_deviations(k, n, c, torch.float64), ratios, *affine(c)), eps=1e-5)

    @pytest.mark.parametrize(('k', 'n', 'c'), SIZES)
    def test_mix_outputs(self, k, n, c):
        ratios = random(n, k).softmax(1)
        check('mix_outputs', (*make_deviations(k, n, c, torch.float64), ratios, *affine(k, c)), eps=1e-5)

    @pytest.mark.parametrize(('k', 'n', 'c'), SIZES)
    @pytest.mark.parametrize('conv', [True, False])
    def test_correlate(self, k, n, c, conv):
        r = math.gcd(c, 16)
        conv_weight = random(c // r, r) if conv else None
        check('correlate', (*make_deviations(k, n, c, torch.float64), conv_weight), eps=1e-5)

    def test_correlate_with_more_channels_a_group_than_a_tile_has(self):
        check('correlate', (*make_deviations(2, 1, 600, torch.float64), random(2, 300)), eps=1e-5)

    @pytest.mark.parametrize(
        ('n', 'c', 'groups'),
        [(1, 1, 1), (2, 3, 1), (5, 58, 29), (2, 100, 25), (40, 24, 3), (2, 128, 128), (2, 200, 2)],
    )
    def test_rescale(self, n, c, groups):
        predicted = random(n, groups, dtype=torch.float64), random(n, groups)
        check('rescale', (*make_deviations(1, n, c, torch.float64), *predicted, *affine(c)), eps=1e-5)

    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
    def test_types(self, dtype):
        k, n, c, groups = 3, 5, 24, 4
        moments, kind = make_deviations(k, n, c, dtype), dict(dtype=dtype)
        again = dict(order=2, repeat=True, eps=1e-5)
        check('mix_statistics', (*moments, random(2, k, **kind).softmax(1), *affine(c, **kind)), **again)
        check('mix_outputs', (*moments, random(n, k, **kind).softmax(1), *affine(k, c, **kind)), **again)
        check('correlate', (*moments, random(3, 8, **kind) / 3), **again)
        predicted = random(n, groups, **kind), random(n, groups, **kind)
        check('rescale', (*(t[:1] for t in moments), *predicted, *affine(c, **kind)), **again)

    def test_without_affine(self):
        k, n, c = 3, 5, 24
        moments = make_deviations(k, n, c, torch.float64)
        for w, b in ((None, None), (None, random(c)), (random(c), None)):
            check('mix_statistics', (*moments, random(2, k).softmax(1), w, b), eps=1e-5)
            check('mix_outputs', (*moments, random(n, k).softmax(1), w, b), eps=1e-5)
            check('rescale', (*(t[:1] for t in moments), random(n, 4), random(n, 4), w, b), eps=1e-5)

    def test_one_gamma_and_beta_of_all_normalizers(self):
        k, n, c = 3, 5, 24
        moments, ratios = make_deviations(k, n, c, torch.float64), random(n, k).softmax(1)
        check('mix_outputs', (*moments, ratios, *affine(c)), repeat=True, eps=1e-5)
        check('mix_outputs', (*moments, ratios, random(k, c), random(c)), eps=1e-5)
        check('mix_outputs', (*moments, ratios, random(c), random(k, c)), eps=1e-5)

    def test_half_precision_parameters(self):
        k, n, c, half = 3, 5, 24, dict(dtype=torch.float16)
        moments = make_deviations(k, n, c, torch.float32)
        check('mix_statistics', (*moments, random(2, k, **half).softmax(1), *affine(c, **half)), eps=1e-5)
        check('mix_outputs', (*moments, random(n, k).softmax(1), *affine(k, c, **half)), eps=1e-5)
        check('correlate', (*moments, random(3, 8, **half) / 3), eps=1e-5)


@collected(RUNS_KERNELS)
class TestRunningStatistics:
    @pytest.mark.parametrize('buffers', [torch.float16, torch.float32, torch.float64])
    @pytest.mark.parametrize(('n', 'positions'), [(5, 12), (1, 1)])
    @pytest.mark.parametrize('momentum', [0.1, 1, None])
    def test_as_by_plain_operators(self, momentum, n, positions, buffers):
        c = 40
        ours, plains = [], []
        for stats in (ours, plains):
            torch.manual_seed(0)
            # Every second value of a longer buffer.
            mean, var = (random(2 * c, dtype=buffers)[::2] for _ in range(2))
            stats += [mean, var.abs_(), torch.tensor(0, device=DEVICE)]
        options = dict(normalizers=('LN', 'BN'), num_groups=1)
        versions = [t._version for t in ours]
        for _ in range(2):
            tensors = make_moments(n, c, DTYPES[1])
            kernel('pool', tensors, options | dict(track=coefficients.RunningStats(*ours, momentum, positions)))
            plain('pool')(*tensors, **options, track=coefficients.RunningStats(*plains, momentum, positions))
        tolerance = max(4 * torch.finfo(buffers).eps, 1e-12)
        for a, e in zip(ours[:2], plains[:2], strict=True):
            torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)
        assert ours[2] == plains[2] == 2
        # What autograd has saved of them counts as changed.
        assert all(t._version > version for t, version in zip(ours, versions, strict=True))

    def test_gradients_of_gradients_leave_them_alone(self, triton_backend):
        stats = coefficients.RunningStats(random(24), random(24).abs(), torch.tensor(3, device=DEVICE), 0.1, 12)
        mean, var = leaves(make_moments(5, 24, DOUBLE))
        _, variance = coefficients.pool(mean, var, normalizers=('BN',), track=stats)
        before = [t.clone() for t in stats[:3]]
        (gradient,) = torch.autograd.grad(variance.square().sum(), mean, create_graph=True)
        gradient.square().sum().backward()
        assert mean.grad is not None
        assert all(torch.equal(a, b) for a, b in zip(stats, before, strict=False))

    def test_they_may_change_before_the_backward(self):
        tensors, options = make_pool(('LN', 'given'), 5, 24, DOUBLE)
        results = []
        for change in (False, True):
            mean, var = leaves(tensors[:2])
            given = [t.clone() for t in tensors[2:]]
            outputs = kernel('pool', (mean, var, *given), options)
            if change:
                for t in given:
                    t.fill_(7)
            results.append(torch.autograd.grad(sum(t.square().sum() for t in outputs), (mean, var)))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)


@collected(RUNS_KERNELS)
def test_memory_that_is_not_contiguous():
    """Inputs, and gradients that are expanded, which is what a sum sends back."""
    k, n, c = 3, 5, 24
    moments = make_deviations(k, n, c, torch.float64)
    inputs = leaves((*moments, random(n, k).softmax(1), *affine(k, c)))
    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in inputs]
    assert not any(t.is_contiguous() for t in strided)
    results = []
    for run in (partial(kernel, options=dict(eps=1e-5)), lambda name, ts: plain(name)(*ts, eps=1e-5)):
        outputs = run('mix_outputs', strided)
        results.append([*outputs, *torch.autograd.grad(outputs[0].sum() + outputs[1].sum(), inputs)])
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a, e)


@collected(RUNS_KERNELS)
def test_only_what_is_asked_for_gets_gradients():
    k, n, c = 3, 5, 24
    tensors = (*make_deviations(k, n, c, torch.float64), random(n, k).softmax(1), *affine(k, c))
    for wanted in range(len(tensors)):
        inputs = [t.detach().clone().requires_grad_(i == wanted) for i, t in enumerate(tensors)]
        scale, _ = kernel('mix_outputs', inputs, dict(eps=1e-5))
        if wanted in (0, 4):
            # The scale depends on neither deviations nor beta.
            continue
        for create_graph in (False, True):
            found = torch.autograd.grad(scale.sum(), inputs[wanted], retain_graph=True, create_graph=create_graph)[0]
            (expected,) = torch.autograd.grad(plain('mix_outputs')(*inputs, eps=1e-5)[0].sum(), inputs[wanted])
            torch.testing.assert_close(found, expected)


def every_step(n=32, c=256, dtypes=DTYPES[1]):
    """A call of each step as the layers make it, and of what they can be told to leave out: name, inputs, options."""
    k, g, dtype = 3, c // 16, dtypes[0]
    moments, deviations = make_moments(n, c, dtypes), make_deviations(k, n, c, dtype)
    track = coefficients.RunningStats(random(c), random(c).abs(), torch.tensor(0, device=DEVICE), 0.1, 49)
    weight, bias = random(2, k, c)
    return [
        ('pool', moments, dict(normalizers=('IN', 'LN', 'BN'), num_groups=32, track=track)),
        ('pool', (*moments, random(c), random(c)), dict(normalizers=('GN', 'BN', 'IN', 'LN'), num_groups=32)),
        ('pool', moments, dict(normalizers=('BN',), track=track._replace(momentum=None))),
        ('group_moments', moments, dict(groups=g)),
        ('mix_statistics', (*deviations, random(2, k), weight[0], bias[0]), dict(eps=1e-5)),
        ('mix_statistics', (*(t[:1] for t in deviations), random(2, 1), None, None), dict(eps=1e-5)),
        ('mix_outputs', (*deviations, random(n, k), weight, bias), dict(eps=1e-5)),
        ('correlate', (*deviations, random(c // 32, 32)), dict(eps=1e-5)),
        ('correlate', (*deviations, None), dict(eps=1e-5)),
        ('rescale', (*(t[:1] for t in deviations), random(n, g), random(n, g), weight[0], bias[0]), dict(eps=1e-5)),
    ]


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that are launched, instead of a launch."""
    names = []

    def launch(kernel, programs, *args, **constants):
        assert programs > 0
        names.append(kernel.__name__)

    for module in (*MODULES, PASSES):
        monkeypatch.setattr(module, 'launch', launch)
    return names


@collected(not INTERPRETED)
def test_launches_of_the_steps(launches):
    for name, tensors, options in every_step():
        launches.clear()
        outputs = kernel(name, leaves(tensors), options)
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        assert len(launches) == 1
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])
        assert len(launches) == (3 if name == 'pool' else 2)


@collected(not INTERPRETED)
@pytest.mark.parametrize('name', ['SN', 'EN', 'ILM'])
def test_launches_of_the_layers(launches, name, triton_backend):
    """As the documentation of the kernels has them."""
    layers = {'SN': mmnorm.SwitchableNorm2d, 'EN': mmnorm.ExemplarNorm2d, 'ILM': mmnorm.InstanceMetaNorm2d}
    layer = randomize(layers[name](64)).to(DEVICE)
    x = torch.randn(2, 64, 8, 8, device=DEVICE, requires_grad=True)
    y = layer(x)
    forward = len(launches)
    y.sum().backward()
    (row,) = re.findall(rf'^\| {name} \| (\d+): .*\| (\d+): .*\|$', kernels.__doc__, re.MULTILINE)
    # The passes besides: moments and affine, the sums of the planes and the gradient of the input.
    assert (forward - 2, len(launches) - forward - 2) == tuple(map(int, row))


@collected(not INTERPRETED)
@pytest.mark.parametrize(('capability', 'dtypes'), [(80, DTYPES[1]), (90, DTYPES[1]), (90, DTYPES[0])])
def test_kernels_compile_for_a_gpu(capability, dtypes):
    if 'nvidia' not in triton.backends.backends:
        pytest.skip('this Triton has no compiler for NVIDIA GPUs')
    with compiled(capability) as codes:
        for name, tensors, options in every_step(dtypes=dtypes):
            outputs = kernel(name, leaves(tensors), options)
            outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
            torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])
        found = {code.hash: (name, code) for name, code in codes}
    assert len({name for name, _ in found.values()}) == 9
    for name, code in found.values():
        assert len(code.asm['cubin']) > 0
        assert resources(code).spilled == 0, name
        # There may be more than 2 ** 31 planes: no offset of 32 bits.
        assert not re.search(r'tt\.addptr .*tensor<[\dx]*xi32>', code.asm['ttir']), name


def test_triton_that_is_too_old(monkeypatch):
    backend.has_triton.cache_clear()
    try:
        for version, enough in [('3.3.1', False), ('3.4.0', True), ('3.10.0+git1234', True), ('2.1.0', False)]:
            monkeypatch.setattr(triton, '__version__', version)
            assert backend.has_triton() is enough
            backend.has_triton.cache_clear()
    finally:
        backend.has_triton.cache_clear()
