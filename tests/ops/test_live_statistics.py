"""Gradients of an eval forward are those of the statistics it has seen, whatever becomes of the buffers in between.

nn.BatchNorm2d refuses the backward after an edit, and goes wrong without a word after a batch in training mode.
"""

import pytest
import torch
from helpers import CPU_BACKENDS, assert_same, randomize

import mmnorm

LAYERS = {'SN': mmnorm.SwitchableNorm2d, 'EN': mmnorm.ExemplarNorm2d}
PATHS = ['reference', *CPU_BACKENDS]


def train(layer):
    layer.train()(torch.randn(3, 8, 4, 4, dtype=layer.weight.dtype) * 5 + 3)


def train_and_return(layer):
    train(layer)
    layer.eval()


def edit(layer):
    with torch.no_grad():
        layer.running_mean.add_(3)
        layer.running_var.mul_(9)


def replace(layer):
    layer.running_mean.data = torch.zeros(8)
    layer.running_var = torch.ones_like(layer.running_var)


def load(layer):
    state = {name: t.clone() for name, t in layer.state_dict().items()}
    state['running_mean'] += 3
    state['running_var'] *= 9
    layer.load_state_dict(state)


CHANGES = [train, train_and_return, edit, replace, mmnorm.SwitchableNorm2d.reset_running_stats]


@pytest.fixture(params=PATHS)
def path(request):
    """One of the implementations, until the test ends."""
    before = mmnorm.set_backend(request.param)
    yield request.param
    mmnorm.set_backend(before)


def make(name, dtype=torch.float64):
    layer = randomize(LAYERS[name](8)).to(dtype).eval()
    return layer, torch.randn(3, 8, 4, 5, dtype=dtype, requires_grad=True)


def gradients(y, x, layer, **kwargs):
    wanted = {'x': x, **dict(layer.named_parameters())}
    return dict(zip(wanted, torch.autograd.grad(y.square().sum(), list(wanted.values()), **kwargs), strict=True))


def second_order(y, x, layer):
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    wanted = [x, layer.weight]
    return dict(zip('xw', torch.autograd.grad(dx.square().sum(), wanted), strict=True)) | {'dx': dx.detach()}


def check(run, layer, x, change):
    y = run(x)
    before = layer.running_var.clone()
    expected = gradients(y, x, layer, retain_graph=True)
    change(layer)
    assert not torch.equal(layer.running_var, before)
    actual = gradients(y, x, layer)
    assert all(torch.equal(t, expected[key]) for key, t in actual.items())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize('name', LAYERS)
def test_gradients_are_of_the_forward(name, change, dtype, path):
    layer, x = make(name, dtype)
    check(layer, layer, x, change)


@pytest.mark.parametrize('change', [train, edit], ids=lambda change: change.__name__)
@pytest.mark.parametrize('name', LAYERS)
def test_gradients_of_a_compiled_layer(name, change):
    torch._dynamo.reset()
    layer, x = make(name)
    check(torch.compile(layer, fullgraph=True, backend='aot_eager'), layer, x, change)


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize('name', LAYERS)
def test_gradients_of_gradients_are_of_the_forward(name, change, path):
    layer, x = make(name)
    run = layer
    expected = second_order(run(x), x, layer)
    y = run(x)
    change(layer)
    assert_same(second_order(y, x, layer), expected, tolerance=1e-9)


@pytest.mark.parametrize('name', LAYERS)
def test_the_mode_is_that_of_the_forward(name, path):
    layer, x = make(name)
    run = layer.train()
    expected = second_order(run(x), x, layer)
    y = run(x)
    layer.eval()
    assert_same(second_order(y, x, layer), expected, tolerance=1e-9)


@pytest.mark.parametrize('name', LAYERS)
def test_loading_is_never_silently_wrong(name, path):
    """It changes the parameters too, which PyTorch refuses for any layer that has saved them."""
    layer, x = make(name)
    y = layer(x)
    expected = gradients(y, x, layer, retain_graph=True)
    load(layer)
    actual, refusal = None, ''
    try:
        actual = gradients(y, x, layer)
    except RuntimeError as error:
        refusal = str(error)
    assert 'modified by an inplace operation' in refusal if actual is None else not refusal
    if actual is not None:
        assert_same(actual, expected)


@pytest.mark.parametrize('buffer', ['running_mean', 'running_var', 'num_batches_tracked'])
@pytest.mark.parametrize('name', LAYERS)
def test_a_batch_counts_as_a_change(name, buffer, path):
    """Whoever has saved a buffer for a backward of his own is refused, not given another's values."""
    layer, x = make(name)
    t = getattr(layer.train(), buffer)
    scale = torch.ones(t.shape, dtype=torch.float64, requires_grad=True)
    product = scale * t.double() if buffer == 'num_batches_tracked' else scale * t
    version = t._version
    layer(x)
    assert t._version > version
    if buffer != 'num_batches_tracked':
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            product.sum().backward()
