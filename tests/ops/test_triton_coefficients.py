"""The kernels of the coefficients against the closed forms: on the GPU where there is one, else interpreted."""

import math
import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from mmnorm import SwitchableNorm2d
from mmnorm.ops import closed_form

triton = pytest.importorskip('triton', minversion='3.0')
coefficients = pytest.importorskip('mmnorm.ops.triton_coefficients')

from mmnorm.ops.triton_coefficients import exemplar, instance_meta, pool, switchable  # noqa: E402

MODULES = exemplar, instance_meta, pool, switchable
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
RUNS_KERNELS = INTERPRETED or DEVICE == 'cuda'
# Of the coefficients and of the means: for float64, float32 and half-precision input.
DTYPES = [(torch.float64, torch.float64), (torch.float32, torch.float64), (torch.float32, torch.float32)]
DOUBLE = DTYPES[0]
POOLS = [
    (('BN',), 1, 1),
    (('IN',), 2, 3),
    (('LN',), 5, 58),
    (('GN',), 2, 100),
    (('running',), 5, 3),
    (('LN', 'running'), 2, 58),
    (('IN', 'LN', 'BN'), 1, 24),
    (('BN', 'GN', 'LN', 'IN'), 2, 128),
    (('GN', 'running', 'IN', 'LN'), 5, 58),
    # More samples and channels than a tile has.
    (('GN', 'BN'), 40, 5),
    (('IN', 'LN', 'BN'), 2, 600),
]
POOL_IDS = [f'{"-".join(names)}-{n}x{c}' for names, n, c in POOLS]


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


def make_moments(n, c, dtypes):
    dtype, mean_dtype = dtypes
    mean = (torch.randn(n, c, dtype=torch.float64) * 2 + 10).to(DEVICE, mean_dtype)
    return mean, torch.rand(n, c, device=DEVICE).to(dtype) + 0.1, mean.to(dtype)


def make_pools(names, c, dtype, track=None):
    running = torch.randn(c, device=DEVICE) + 10, torch.rand(c, device=DEVICE) + 0.1
    return [
        closed_form.PoolForm(name, dtype, math.gcd(c, 8), running if name == 'running' else None, track)
        for name in names
    ]


def parameters(*shapes, dtype=torch.float32):
    """Random ones; None for each None."""
    return [None if s is None else torch.randn(s, device=DEVICE).div_(math.sqrt(s[-1])).to(dtype) for s in shapes]


def switchable_parameters(k, c, affine=True, **kwargs):
    return parameters(*([(c,)] * 2 if affine else [None] * 2), (k,), (k,), **kwargs)


def exemplar_parameters(k, c, pairwise=True, conv=True, shared=False, affine=True, expansion=50, **kwargs):
    r, hidden = math.gcd(c, 32), expansion * k
    gamma = ((c,) if shared else (k, c)) if affine else None
    conv_shape = (c // r, r) if pairwise and conv else None
    shapes = gamma, gamma, conv_shape, (hidden, k * k if pairwise else c), (hidden,), (k, hidden), (k,)
    return parameters(*shapes, **kwargs)


def instance_meta_parameters(c, keys, embedding, affine=True, **kwargs):
    return parameters(*([(c,)] * 2 if affine else [None] * 2), (embedding, keys), *[(keys, embedding)] * 2, **kwargs)


def run(form, moments, params, dscale, dshift):
    scale, shift, saved = form.forward(*moments, *params)
    assert all(t is None or isinstance(t, torch.Tensor) for t in saved)
    dmean, dvar, dparams = form.backward(saved, params, dscale, dshift)
    gradients = [torch.zeros_like(scale) if t is None else t for t in (dmean, dvar)]
    return dict(scale=scale, shift=shift, dmean=gradients[0], dvar=gradients[1]) | {
        f'dparams[{i}]': t for i, t in enumerate(dparams)
    }


def check(form, twin, moments, params, repeat=False):
    assert coefficients.supports(form, *moments[0].shape, *params)
    # The twin wants all in the type that it computes in.
    exact = [None if p is None else p.to(form.dtype) for p in params]
    dscale, dshift = torch.randn(2, *moments[0].shape, device=DEVICE, dtype=form.dtype)
    actual = run(form, moments, params, dscale, dshift)
    expected = run(twin, moments, exact, dscale, dshift)
    tolerance = 1e-10 if form.dtype == torch.float64 else 1e-5
    for name, value in expected.items():
        if value is None:
            assert actual[name] is None, name
            continue
        assert actual[name].shape == value.shape, name
        assert actual[name].is_contiguous(), name
        bound = tolerance * max(1, value.abs().max().item())
        if name.startswith('dparams') and actual[name].dtype != value.dtype:
            bound += torch.finfo(actual[name].dtype).eps * value.abs().max().item()
        difference = (actual[name].double() - value.double()).abs().max().item()
        assert difference <= bound, f'{name} differs by up to {difference:.1e}'
    if repeat:
        for name, value in run(form, moments, params, dscale, dshift).items():
            assert torch.equal(actual[name], value), name


def check_switchable(names, n, c, dtypes, repeat=False, **kwargs):
    moments, pools = make_moments(n, c, dtypes), make_pools(names, c, dtypes[0])
    forms = (package.SwitchableForm(pools, 1e-5, dtypes[0]) for package in (coefficients, closed_form))
    check(*forms, moments, switchable_parameters(len(names), c, **kwargs), repeat)


def check_exemplar(names, n, c, dtypes, tanh=True, repeat=False, **kwargs):
    moments, pools = make_moments(n, c, dtypes), make_pools(names, c, dtypes[0])
    arguments = pools, 1e-5, dtypes[0], kwargs.get('pairwise', True), tanh
    forms = (package.ExemplarForm(*arguments) for package in (coefficients, closed_form))
    check(*forms, moments, exemplar_parameters(len(names), c, **kwargs), repeat)


def check_instance_meta(base, n, c, keys, embedding, dtypes, activations=('tanh', 'sigmoid'), repeat=False, **kwargs):
    moments, (base,) = make_moments(n, c, dtypes), make_pools((base,), c, dtypes[0])
    arguments = base, keys, 1e-5, dtypes[0], *activations
    forms = (package.InstanceMetaForm(*arguments) for package in (coefficients, closed_form))
    check(*forms, moments, instance_meta_parameters(c, keys, embedding, **kwargs), repeat)


@collected(RUNS_KERNELS)
class TestSwitchable:
    @pytest.mark.parametrize(('names', 'n', 'c'), POOLS, ids=POOL_IDS)
    def test_pools(self, names, n, c):
        check_switchable(names, n, c, DOUBLE)

    @pytest.mark.parametrize('dtypes', DTYPES)
    def test_types(self, dtypes):
        check_switchable(('IN', 'LN', 'BN', 'GN'), 5, 24, dtypes, repeat=True)

    def test_without_affine(self):
        check_switchable(('IN', 'LN', 'BN'), 5, 24, DOUBLE, affine=False)

    def test_half_precision_parameters(self):
        check_switchable(('IN', 'LN', 'BN'), 5, 24, DTYPES[2], dtype=torch.float16)


@collected(RUNS_KERNELS)
class TestExemplar:
    @pytest.mark.parametrize(('names', 'n', 'c'), POOLS, ids=POOL_IDS)
    def test_pools(self, names, n, c):
        check_exemplar(names, n, c, DOUBLE)

    @pytest.mark.parametrize('dtypes', DTYPES)
    def test_types(self, dtypes):
        check_exemplar(('IN', 'LN', 'BN', 'GN'), 5, 24, dtypes, repeat=True)

    @pytest.mark.parametrize(
        'ablation',
        [dict(conv=False), dict(pairwise=False), dict(tanh=False), dict(shared=True), dict(affine=False)],
        ids=lambda ablation: '-'.join(ablation),
    )
    def test_ablations(self, ablation):
        check_exemplar(('LN', 'IN', 'GN', 'BN'), 5, 24, DOUBLE, expansion=5, **ablation)

    def test_all_ablations_at_once(self):
        check_exemplar(('LN', 'BN'), 5, 24, DTYPES[1], pairwise=False, tanh=False, shared=True)

    def test_half_precision_parameters(self):
        check_exemplar(('IN', 'LN', 'BN'), 5, 24, DTYPES[2], dtype=torch.float16)


@collected(RUNS_KERNELS)
class TestInstanceMeta:
    @pytest.mark.parametrize(
        ('base', 'n', 'c', 'keys', 'embedding'),
        [
            ('GN', 1, 1, 1, 2),
            ('LN', 2, 3, 1, 2),
            ('IN', 5, 58, 29, 4),
            ('GN', 2, 100, 25, 3),
            ('LN', 2, 128, 128, 32),
            ('GN', 40, 24, 3, 5),
            ('GN', 2, 600, 300, 18),
        ],
    )
    def test_bases(self, base, n, c, keys, embedding):
        check_instance_meta(base, n, c, keys, embedding, DOUBLE)

    @pytest.mark.parametrize('base', ['IN', 'LN', 'GN'])
    @pytest.mark.parametrize('dtypes', DTYPES)
    def test_types(self, base, dtypes):
        check_instance_meta(base, 3, 24, 6, 4, dtypes, repeat=True)

    @pytest.mark.parametrize('activations', [('sigmoid', 'tanh'), ('relu', 'identity'), ('identity', 'relu')])
    def test_activations(self, activations):
        check_instance_meta('GN', 5, 24, 6, 4, DOUBLE, activations)

    def test_without_affine(self):
        check_instance_meta('GN', 5, 24, 6, 4, DOUBLE, affine=False)

    def test_half_precision_parameters(self):
        check_instance_meta('GN', 5, 24, 6, 4, DTYPES[2], dtype=torch.float16)


@collected(RUNS_KERNELS)
@pytest.mark.parametrize('buffers', [torch.float32, torch.float64])
@pytest.mark.parametrize(('n', 'positions'), [(5, 12), (1, 1)])
@pytest.mark.parametrize('momentum', [0.1, 1.0, None])
def test_running_statistics(momentum, n, positions, buffers):
    c, dtype = 24, torch.float64
    layer = SwitchableNorm2d(c, momentum=momentum, device=DEVICE)
    for name in ('running_mean', 'running_var'):
        getattr(layer, name).data = torch.rand(c, device=DEVICE).to(buffers)
    stats = [layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone()]
    twin_pools = make_pools(('IN', 'BN'), c, dtype, partial(layer._track, positions))
    for kind, params in (
        ('SwitchableForm', switchable_parameters(2, c)),
        ('ExemplarForm', exemplar_parameters(2, c, expansion=4)),
    ):
        moments = make_moments(n, c, DOUBLE)
        pools = make_pools(('IN', 'BN'), c, dtype)
        running_stats = coefficients.RunningStats(*stats, momentum, positions)
        getattr(coefficients, kind)(pools, 1e-5, dtype, running_stats=running_stats).forward(*moments, *params)
        getattr(closed_form, kind)(twin_pools, 1e-5, dtype).forward(*moments, *[p.to(dtype) for p in params])
        tolerance = 1e-12 if buffers == torch.float64 else 1e-6
        torch.testing.assert_close(stats[0], layer.running_mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(stats[1], layer.running_var, rtol=tolerance, atol=tolerance)
        assert stats[2] == layer.num_batches_tracked
    assert stats[2] == 2


@collected(RUNS_KERNELS)
def test_track_is_called_without_running_statistics():
    calls = []
    moments = make_moments(5, 24, DTYPES[1])
    pools = make_pools(('LN', 'BN', 'GN'), 24, torch.float32, lambda *args: calls.append(args))
    params = switchable_parameters(3, 24)
    for package in (coefficients, closed_form):
        package.SwitchableForm(pools, 1e-5, torch.float32).forward(*moments, *params)
    (actual, expected) = calls
    assert actual[0] == expected[0] == 5
    for a, b in zip(actual[1:], expected[1:]):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b)


@collected(RUNS_KERNELS)
def test_running_statistics_may_change_before_the_backward():
    pools = make_pools(('LN', 'running'), 24, torch.float64)
    moments, params = make_moments(5, 24, DOUBLE), switchable_parameters(2, 24)
    form = coefficients.SwitchableForm(pools, 1e-5, torch.float64)
    _, _, saved = form.forward(*moments, *params)
    dscale, dshift = torch.randn(2, 5, 24, device=DEVICE, dtype=torch.float64)
    before = form.backward(saved, params, dscale, dshift)
    for t in pools[1].running:
        t.fill_(7)
    after = form.backward(saved, params, dscale, dshift)
    for a, b in zip((*before[:2], *before[2]), (*after[:2], *after[2])):
        assert torch.equal(a, b)


def make_forms(c, dtype=torch.float32, n=32, momentum=0.1, group=32):
    """The three forms as the layers have them by default, each with its parameters."""
    pools = make_pools(('IN', 'LN', 'BN'), c, dtype)
    buffers = torch.zeros(c, device=DEVICE), torch.ones(c, device=DEVICE), torch.tensor(0, device=DEVICE)
    stats = coefficients.RunningStats(*buffers, momentum, 49)
    keys = c // math.gcd(c, 16)
    embedding = keys // 16 if keys > 16 else 2
    base = closed_form.PoolForm('GN', dtype, math.gcd(c, group))
    return [
        (coefficients.SwitchableForm(pools, 1e-5, dtype, stats), switchable_parameters(3, c)),
        (coefficients.ExemplarForm(pools, 1e-5, dtype, running_stats=stats), exemplar_parameters(3, c)),
        (coefficients.InstanceMetaForm(base, keys, 1e-5, dtype), instance_meta_parameters(c, keys, embedding)),
    ]


@pytest.fixture
def launches(monkeypatch):
    """What is launched, instead of a launch."""
    calls = []

    def launch(kernel, programs, *args, num_warps=4, **constants):
        assert programs > 0
        calls.append((kernel, args, constants, num_warps))

    for module in MODULES:
        monkeypatch.setattr(module, 'launch', launch)
    return calls


@collected(not INTERPRETED)
def test_two_launches_each_way(launches):
    moments = make_moments(8, 64, DTYPES[1])
    for form, params in make_forms(64):
        _, _, saved = form.forward(*moments, *params)
        assert len(launches) == 2
        form.backward(saved, params, *torch.randn(2, 8, 64, device=DEVICE))
        assert len(launches) == 4
        launches.clear()


@collected(not INTERPRETED)
@pytest.mark.parametrize(('dtypes', 'c'), [(DTYPES[1], 64), (DTYPES[2], 64), (DTYPES[1], 2048)])
def test_kernels_compile_for_a_gpu(launches, tmp_path, dtypes, c):
    if not hasattr(triton, 'knobs'):
        pytest.skip('before Triton 3.4 its compiler is called otherwise')
    if 'nvidia' not in triton.backends.backends:
        pytest.skip('this Triton has no compiler for NVIDIA GPUs')
    moments = make_moments(32, c, dtypes)
    for form, params in make_forms(c, dtypes[0]):
        _, _, saved = form.forward(*moments, *params)
        form.backward(saved, params, *torch.randn(2, 32, c, device=DEVICE, dtype=dtypes[0]))
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        for launch in launches:
            assert len(compile_as_launched(*launch)['cubin']) > 0


@collected(not INTERPRETED)
def test_ablations_compile_for_a_gpu(launches, tmp_path):
    if not hasattr(triton, 'knobs'):
        pytest.skip('before Triton 3.4 its compiler is called otherwise')
    if 'nvidia' not in triton.backends.backends:
        pytest.skip('this Triton has no compiler for NVIDIA GPUs')
    n, c, dtype = 3, 58, torch.float32
    moments = make_moments(n, c, DTYPES[1])
    running, mixed = make_pools(('running', 'GN', 'IN'), c, dtype), make_pools(('BN', 'GN', 'LN', 'IN'), c, dtype)
    instance, batch = make_pools(('IN', 'BN'), c, dtype)
    for form, params in [
        (coefficients.SwitchableForm([batch], 1e-5, dtype), switchable_parameters(1, c)),
        (coefficients.SwitchableForm(running, 1e-5, dtype), switchable_parameters(3, c, affine=False)),
        (coefficients.SwitchableForm([instance], 1e-5, dtype), switchable_parameters(1, c, dtype=torch.float16)),
        (coefficients.ExemplarForm(mixed, 1e-5, dtype, True, False), exemplar_parameters(4, c, conv=False)),
        (coefficients.ExemplarForm([instance], 1e-5, dtype), exemplar_parameters(1, c, affine=False)),
        (coefficients.ExemplarForm(running, 1e-5, dtype, False), exemplar_parameters(3, c, pairwise=False)),
        (coefficients.ExemplarForm(running, 1e-5, dtype), exemplar_parameters(3, c, shared=True)),
        (
            coefficients.InstanceMetaForm(instance, 29, 1e-5, dtype, 'relu', 'identity'),
            instance_meta_parameters(c, 29, 3, affine=False),
        ),
    ]:
        _, _, saved = form.forward(*moments, *params)
        form.backward(saved, params, *torch.randn(2, n, c, device=DEVICE))
    for momentum in (None, 1):
        make_forms(c, momentum=momentum)[0][0].pool.forward(*moments)
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        for launch in launches:
            assert len(compile_as_launched(*launch)['cubin']) > 0


def compile_as_launched(kernel, args, constants, num_warps):
    """Compile for an H100, specialized as a launch with these arguments would be."""
    signature = dict.fromkeys(kernel.arg_names, 'constexpr')
    constants, divisible = dict(constants), {}
    for i, (name, arg) in enumerate(zip(kernel.arg_names, args)):
        if arg is None:
            constants[name] = None
            continue
        signature[name] = triton.runtime.jit.mangle_type(arg)
        if isinstance(arg, int):
            assert kernel.params[i].do_not_specialize, name
        else:
            divisible[(i,)] = [['tt.divisibility', 16]]
    source = triton.compiler.ASTSource(kernel, signature, constants, divisible)
    target = triton.backends.compiler.GPUTarget('cuda', 90, 32)
    return triton.compile(source, target=target, options=dict(num_warps=num_warps)).asm


class TestSupports:
    @pytest.mark.parametrize('c', [1, 3, 58, 64, 2048, 4096])
    def test_usual_sizes(self, c):
        for form, params in make_forms(c):
            assert coefficients.supports(form, 256, c, *params)

    def test_twins_of_the_layers(self):
        form = SwitchableNorm2d(64).closed_form(closed_form, torch.float32, 9)
        assert coefficients.supports(form, 2, 64, *switchable_parameters(3, 64))

    def test_too_large(self):
        for form, params in make_forms(32768):
            assert not coefficients.supports(form, 2, 32768, *params)
        for form, params in make_forms(64):
            assert not coefficients.supports(form, 10**7, 64, *params)
        _, (exemplar_form, _), (meta_form, _) = make_forms(64)
        assert not coefficients.supports(exemplar_form, 2, 64, *exemplar_parameters(3, 64, expansion=500))
        assert not coefficients.supports(meta_form, 2, 64, *instance_meta_parameters(64, 4, 1000))

    def test_a_normalizer_twice(self):
        for names in (('IN', 'IN'), ('BN', 'running')):
            form = closed_form.SwitchableForm(make_pools(names, 64, torch.float32), 1e-5, torch.float32)
            assert not coefficients.supports(form, 2, 64, *switchable_parameters(2, 64))
