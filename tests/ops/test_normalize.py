"""The whole layer through every path: the same values, gradients of any order, and nothing kept that need not be."""

import copy
import gc
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import AUTOCAST_TYPES, CPU_BACKENDS, assert_same, outputs_and_gradients, randomize
from torch import nn
from torch.utils.checkpoint import checkpoint

import mmnorm
from mmnorm import ops
from mmnorm.ops import backend as backends
from mmnorm.ops.passes import native, portable

LAYERS = {
    'SN': mmnorm.SwitchableNorm2d,
    'SN-all': partial(mmnorm.SwitchableNorm2d, normalizers=('GN', 'BN', 'LN', 'IN'), num_groups=4),
    'SN-BN': partial(mmnorm.SwitchableNorm2d, normalizers=('BN',), affine=False),
    'EN': partial(mmnorm.ExemplarNorm2d, reduction=4, expansion=5),
    'EN-mlp': partial(mmnorm.ExemplarNorm2d, ratio_net='mlp', ratio_activation='relu', shared_affine=True, expansion=5),
    'EN-plain': partial(mmnorm.ExemplarNorm2d, conv=False, affine=False, normalizers=('LN', 'GN'), num_groups=2),
    'ILM': partial(mmnorm.InstanceMetaNorm2d, num_groups=4, key_group_size=2),
    'ILM-IN': partial(mmnorm.InstanceMetaNorm2d, base='IN', key_group_size=4, mean_activation='sigmoid'),
    'ILM-LN': partial(mmnorm.InstanceMetaNorm2d, base='LN', affine=False, var_activation='identity'),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return randomize(LAYERS[request.param](8)).double()


@pytest.fixture
def backend():
    """A function that forces a backend until the test ends."""
    before = ops.get_backend()
    yield ops.set_backend
    ops.set_backend(before)


@pytest.fixture
def plain_coefficients(monkeypatch):
    """A function after which the coefficients have no kernels, until the test ends."""
    return lambda: monkeypatch.setattr(backends, 'kernel', lambda name, mean: None)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_every_path_gives_the_reference(layer, training, memory_format, backend, plain_coefficients):
    layer.train(training)
    x = torch.randn(3, 8, 5, 7, dtype=torch.float64).to(memory_format=memory_format) + 0.3
    results, buffers = [], []
    paths = ['reference', 'composed', *(['portable'] if backends.has_portable() else [])]
    paths += ['native', 'native, plain'] if backends.has_native() else []
    for name in paths:
        if name == 'native, plain':
            plain_coefficients()
        backend(name.removesuffix(', plain'))
        path = copy.deepcopy(layer)
        results.append(outputs_and_gradients(path, path, x))
        buffers.append(dict(path.named_buffers()))
        assert results[-1]['output'].stride() == x.stride()
    for result, buffer in zip(results[1:], buffers[1:], strict=True):
        assert_same(result, results[0])
        assert_same(buffer, buffers[0])


@pytest.mark.parametrize('frozen', ['input', 'parameters', 'some'])
def test_only_what_is_asked_for_gets_gradients(layer, frozen):
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=frozen != 'input')
    for i, parameter in enumerate(layer.parameters()):
        parameter.requires_grad_(frozen == 'input' or (frozen == 'some' and i % 2 == 0))
    expected = copy.deepcopy(layer)
    before = ops.set_backend('reference')
    expected(x).square().sum().backward()
    expected_grad, x.grad = x.grad, None
    ops.set_backend(before)
    layer(x).square().sum().backward()
    assert (x.grad is None) == (frozen == 'input')
    if x.grad is not None:
        assert torch.allclose(x.grad, expected_grad, rtol=1e-10)
    for mine, theirs in zip(layer.parameters(), expected.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        assert mine.grad is None or torch.allclose(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('path', CPU_BACKENDS)
def test_gradients_that_can_be_differentiated_are_the_same(layer, path, backend):
    backend(path)
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layer.parameters()]
    y = layer(x)
    dy = torch.randn_like(y)
    once = torch.autograd.grad(y, wanted, dy, retain_graph=True)
    again = torch.autograd.grad(y, wanted, dy, create_graph=True)
    for first, second in zip(once, again, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('path', [*CPU_BACKENDS, 'native, plain'])
def test_gradients_of_gradients(layer, path, backend, plain_coefficients):
    if path == 'native, plain' and not backends.has_native():
        pytest.skip('mmnorm._C is not compiled')
    backend(path.removesuffix(', plain'))
    if path == 'native, plain':
        plain_coefficients()
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    # Statistics would differ from one evaluation to the next, were they used.
    layer.train()
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradgradcheck(run, (x, *layer.parameters()), atol=1e-4, rtol=1e-3, fast_mode=True)


def test_second_order_leaves_statistics_alone():
    layer = mmnorm.SwitchableNorm2d(8)
    x = torch.randn(2, 8, 3, 3, requires_grad=True)
    y = layer(x)
    statistics = {name: t.clone() for name, t in layer.named_buffers()}
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad is not None
    assert all(torch.equal(t, statistics[name]) for name, t in layer.named_buffers())


def test_functional_transforms(layer):
    layer.eval()
    x, tangent = torch.randn(2, 3, 8, 4, 4, dtype=torch.float64).unbind(0)
    gradient = torch.func.grad(lambda x: layer(x).square().sum())(x)
    leaf = x.clone().requires_grad_()
    layer(leaf).square().sum().backward()
    assert torch.allclose(gradient, leaf.grad, rtol=1e-9, atol=1e-12)
    _, forward = torch.func.jvp(layer, (x,), (tangent,))
    _, vjp = torch.func.vjp(layer, x)
    assert torch.allclose((vjp(forward)[0] * tangent).sum(), forward.square().sum())
    with torch.autograd.forward_ad.dual_level():
        dual = layer(torch.autograd.forward_ad.make_dual(x, tangent))
        assert torch.allclose(torch.autograd.forward_ad.unpack_dual(dual).tangent, forward)


def test_per_sample_gradients():
    layer = mmnorm.InstanceMetaNorm2d(8, num_groups=2, key_group_size=4).double()
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    parameters = dict(layer.named_parameters())

    def loss(parameters, sample):
        return torch.func.functional_call(layer, parameters, (sample[None],)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    loss_of_all = sum(loss(parameters, sample) for sample in x)
    total = torch.autograd.grad(loss_of_all, list(parameters.values()))
    for name, gradient in zip(parameters, total, strict=True):
        assert torch.allclose(per_sample[name].sum(0), gradient, rtol=1e-9, atol=1e-10)


def test_in_place_relu_may_follow(layer):
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    expected = outputs_and_gradients(lambda x: torch.relu(copy.deepcopy(layer)(x)), layer, x)['input']
    actual = outputs_and_gradients(lambda x: torch.relu_(layer(x)), layer, x)['input']
    assert torch.equal(actual, expected)
    y = layer(x)
    assert y._base is None
    assert y.data_ptr() != x.data_ptr()


def test_what_is_kept_must_not_change(layer):
    """Whatever changes in place before the backward: an error, or the gradients as if it had not."""
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer.train(False)(x).square().sum(), wanted)
    for changed in (*wanted, *layer.buffers()):
        y = layer(x)
        before = changed.detach().clone()
        with torch.no_grad():
            changed.add_(1)
        gradients, refusal = None, ''
        try:
            gradients = torch.autograd.grad(y.square().sum(), wanted)
        except RuntimeError as error:
            refusal = str(error)
        assert 'modified by an inplace operation' in refusal if gradients is None else changed is not x
        if gradients is not None:
            for gradient, exact in zip(gradients, expected, strict=True):
                torch.testing.assert_close(gradient, exact, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            changed.copy_(before)


def test_backward_twice(layer):
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    wanted = [x, *layer.parameters()]
    first, second = (torch.autograd.grad(y.square().sum(), wanted, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    y.sum().backward()
    with pytest.raises(RuntimeError, match='backward through the graph a second time'):
        y.sum().backward()


def test_gradients_where_they_are_needed(layer):
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]
    for wanted in (names[-1:], names[:1], ['input']):
        trained = copy.deepcopy(layer)
        for name, parameter in trained.named_parameters():
            parameter.requires_grad_(name in wanted)
        inputs = x.clone().requires_grad_('input' in wanted)
        found = {'input': inputs, **dict(trained.named_parameters())}
        y = trained(inputs)
        y.square().sum().backward()
        for name, tensor in found.items():
            assert (tensor.grad is not None) == (name in wanted), name


def test_nothing_outlives_the_graph(layer):
    layer = copy.deepcopy(layer)
    alive = weakref.ref(layer)
    parameters = [weakref.ref(parameter) for parameter in layer.parameters()]
    y = layer(torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True))
    del layer
    gc.collect()
    assert alive() is None, 'the graph needs its parameters, not the layer'
    del y
    gc.collect()
    assert all(parameter() is None for parameter in parameters)


@pytest.mark.skipif(not backends.has_native(), reason='the nodes are in C++')
def test_nodes_say_which_step_they_are():
    """Anomaly detection, and drawings of graphs, name them."""
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    node = mmnorm.SwitchableNorm2d(8)(x).grad_fn
    assert node.name().endswith('AffineStep')
    before = [parent.name().rpartition('::')[2] for parent, _ in node.next_functions if parent is not None]
    assert {'AccumulateGrad', 'MomentsStep'} <= set(before)
    assert any(name.startswith('MixStep') for name in before)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('size', [(2, 8, 5, 3), (4, 64, 40, 40)])
def test_the_same_bits_again(size, memory_format):
    for name in ('SN', 'EN', 'ILM'):
        layer = LAYERS[name](size[1])
        x = torch.randn(size).to(memory_format=memory_format)
        results = [outputs_and_gradients(copy.deepcopy(layer), layer, x) for _ in range(2)]
        assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize('without', [False, True])
@pytest.mark.parametrize('name', ['SN', 'EN', 'ILM'])
def test_only_the_input_is_kept(name, without, plain_coefficients):
    layer = LAYERS[name](32)
    if without:
        plain_coefficients()
    x = torch.randn(4, 32, 64, 64, requires_grad=True)
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    assert kept.pop(x.untyped_storage().data_ptr()) == x.nbytes
    assert sum(kept.values()) < 0.05 * x.nbytes


@pytest.mark.parametrize('name', ['SN', 'EN', 'ILM'])
def test_gradients_at_a_large_offset(name):
    """Sums of dy * (x - mean) lose nothing to the mean: as accurate as nn.BatchNorm2d's gradients."""
    layer = LAYERS[name](16)
    norms = layer, nn.BatchNorm2d(16)
    x = torch.randn(4, 16, 24, 24) + 1e4
    errors = []
    for norm in norms:
        actual = outputs_and_gradients(copy.deepcopy(norm), norm, x)
        exact = outputs_and_gradients(copy.deepcopy(norm).double(), norm.double(), x.double())
        errors.append((actual['input'] - exact['input']).square().mean())
    assert errors[0] <= errors[1]


@pytest.mark.parametrize('dtype', AUTOCAST_TYPES, ids=str)
@pytest.mark.parametrize('name', ['SN', 'EN', 'ILM'])
def test_autocast(name, dtype):
    conv, norm = nn.Conv2d(3, 16, 3), LAYERS[name](16)
    x = torch.randn(2, 3, 12, 12)
    expected = outputs_and_gradients(lambda x: copy.deepcopy(norm)(conv(x)), norm, x)['input']
    with torch.autocast('cpu', dtype=dtype):
        y = norm(conv(x.requires_grad_()))
        assert y.dtype == dtype
        # A backward inside the region must not lower the precision of the coefficients either.
        gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        y.backward(gradient.to(dtype))
    assert all(p.grad.dtype == torch.float32 for p in norm.parameters())
    assert torch.isfinite(x.grad).all()
    assert torch.nn.functional.cosine_similarity(x.grad.flatten(), expected.flatten(), dim=0) > 0.995


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='PyTorch scales gradients on the CPU since 2.3')
def test_gradient_scaler():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), LAYERS['EN'](8), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler('cpu')
    before = copy.deepcopy(model.state_dict())
    with torch.autocast('cpu', dtype=torch.float16):
        loss = model(torch.randn(2, 3, 9, 9)).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**16
    assert not torch.equal(model.state_dict()['1.weight'], before['1.weight'])


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_checkpointing(layer, use_reentrant):
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    # Batch statistics, as nn.BatchNorm in a checkpoint, would enter the running ones twice.
    expected = outputs_and_gradients(copy.deepcopy(layer), layer, x)
    run = copy.deepcopy(layer)
    actual = outputs_and_gradients(lambda x: checkpoint(run, x, use_reentrant=use_reentrant), run, x)
    assert torch.allclose(actual['output'], expected['output'])
    assert torch.allclose(actual['input'], expected['input'])


def test_strided_inputs_and_gradients(layer):
    wide = torch.randn(3, 8, 6, 10, dtype=torch.float64)
    for view in (wide[:, :, ::2, 1:9:2], wide.transpose(2, 3), wide[:1].expand(3, -1, -1, -1)):
        expected = outputs_and_gradients(copy.deepcopy(layer), layer, view.contiguous())
        assert_same(outputs_and_gradients(copy.deepcopy(layer), layer, view), expected)
    x = wide.clone().requires_grad_()
    # sum() sends back an expanded scalar, which has no memory of its own.
    layer(x).sum().backward()
    expected, x.grad = x.grad, None
    y = layer(x)
    y.backward(torch.ones_like(y).to(memory_format=torch.channels_last))
    assert torch.allclose(x.grad, expected)


class Doubled(nn.Module):
    def forward(self, t):
        return 2 * t


@pytest.mark.parametrize('name', ['SN', 'EN', 'ILM'])
def test_parameters_that_are_computed(name):
    layer = randomize(LAYERS[name](8)).double()
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    expected = copy.deepcopy(layer)
    with torch.no_grad():
        expected.weight.mul_(2)
    nn.utils.parametrize.register_parametrization(layer, 'weight', Doubled())
    expected_results, results = (outputs_and_gradients(copy.deepcopy(run), run, x) for run in (expected, layer))
    assert torch.allclose(results['output'], expected_results['output'])
    assert torch.allclose(results['input'], expected_results['input'])

    replica = expected._replicate_for_data_parallel()
    for parameter, t in expected._parameters.items():
        setattr(replica, parameter, t.detach())
    assert torch.allclose(replica(x), expected_results['output'])


def test_unusual_tensors():
    layer = LAYERS['EN'](8)
    assert layer.to('meta')(torch.empty(2, 8, 4, 4, device='meta')).shape == (2, 8, 4, 4)
    with torch._subclasses.FakeTensorMode():
        fake = LAYERS['SN'](8)
        y = fake(torch.empty(2, 8, 4, 4, requires_grad=True))
        y.sum().backward()
        assert fake.weight.grad.shape == (8,)


def test_backends(backend, monkeypatch):
    assert backend('reference') == 'auto'
    assert ops.get_backend() == 'reference'
    with pytest.raises(
        ValueError, match="backend must be one of auto, reference, composed, native, portable, triton, got 'cuda'"
    ):
        backend('cuda')
    monkeypatch.setattr(backends, 'has_triton', lambda: False)
    with pytest.raises(
        RuntimeError, match="needs the package triton, 3.4 or newer, which is not installed; use 'auto'"
    ):
        backend('triton')
    monkeypatch.setattr(native, 'load', lambda: None)
    with pytest.raises(RuntimeError, match='needs the compiled module mmnorm._C, which is missing or does not load'):
        backend('native')
    monkeypatch.setattr(portable, 'load', lambda: None)
    with pytest.raises(RuntimeError, match='needs the compiled library mmnorm/_loops.so, which is missing'):
        backend('portable')
    assert ops.get_backend() == 'reference'


def test_what_runs(backend):
    x = torch.randn(2, 8, 3, 3)
    cpu = 'native' if backends.has_native() else 'portable' if backends.has_portable() else 'composed'
    assert mmnorm.backend_for(x) == mmnorm.backend_for(x.bfloat16()) == cpu
    assert mmnorm.backend_for(x.half()) == 'composed'
    assert mmnorm.backend_for(x[:0]) == mmnorm.backend_for(x.to('meta')) == 'reference'
    backend('composed')
    assert mmnorm.backend_for(x) == 'composed'


def test_without_the_compiled_loops(layer, backend, monkeypatch):
    backend('auto')
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    expected = layer.eval()(x)
    monkeypatch.setattr(native, 'load', lambda: None)
    assert mmnorm.backend_for(x) == ('portable' if backends.has_portable() else 'composed')
    assert torch.allclose(layer(x), expected, rtol=1e-10, atol=1e-10)
    monkeypatch.setattr(portable, 'load', lambda: None)
    assert mmnorm.backend_for(x) == 'composed'
    assert torch.allclose(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_compiled_loops_of_another_version_are_not_used(monkeypatch):
    monkeypatch.setattr(native.importlib, 'import_module', lambda name: SimpleNamespace(INTERFACE=0))
    with pytest.warns(UserWarning, match='another version of mmnorm. Install mmnorm again, with --no-build-isolation'):
        assert native._load() is None

    def fail(name):
        raise ImportError('undefined symbol: _ZN2at')

    monkeypatch.setattr(native.importlib, 'import_module', fail)
    with pytest.warns(UserWarning, match='undefined symbol.*to compile it for PyTorch'):
        assert native._load() is None
