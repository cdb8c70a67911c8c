"""Who overrides what the coefficients are made of is obeyed on every path."""

import copy

import overrides
import pytest
import torch
from helpers import assert_same, outputs_and_gradients, randomize

import mmnorm
from mmnorm.ops import backend as ops_backend


@pytest.fixture
def backend():
    """A function that forces a backend until the test ends."""
    before = mmnorm.get_backend()
    yield mmnorm.set_backend
    mmnorm.set_backend(before)


def paths():
    names = ['native'] if ops_backend.has_native() else []
    return ['composed', *names, *(['portable'] if ops_backend.has_portable() else [])]


def run(layer, x):
    result = outputs_and_gradients(layer, layer, x)
    return result | {name: t.double().clone() for name, t in layer.named_buffers()}


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('case', overrides.CASES)
def test_an_override_is_obeyed(case, training, backend):
    layer, parent = overrides.make(case)
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64)
    state = copy.deepcopy(layer.state_dict())
    results = {}
    for name in ('reference', *paths()):
        backend(name)
        layer.load_state_dict(state)
        results[name] = run(layer.train(training), x)
    for name in paths():
        assert_same(results[name], results['reference'])
    theirs = run(parent.train(training), x)
    same = all(torch.allclose(theirs[name], t) for name, t in results['reference'].items())
    assert not same, 'the case must make a difference'


@pytest.mark.parametrize('case', ['SN-pool', 'EN-ratios', 'ILM-mixin'])
def test_an_override_is_obeyed_by_the_compiler(case, backend):
    torch._dynamo.reset()
    layer, _ = overrides.make(case)
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64)
    state = copy.deepcopy(layer.state_dict())
    backend('reference')
    expected = run(layer, x)
    backend('auto')
    layer.load_state_dict(state)
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
    actual = outputs_and_gradients(compiled, layer, x)
    assert_same(actual | {name: t.double() for name, t in layer.named_buffers()}, expected)


@pytest.mark.parametrize('name', ['coefficients', 'pool'])
def test_a_class_that_is_patched_is_obeyed(name, monkeypatch):
    layer = randomize(mmnorm.SwitchableNorm2d(8))
    x = torch.randn(2, 8, 3, 3)
    expected = layer.eval()(x)
    original = getattr(mmnorm.layers.switchable_norm.SwitchableNorm, name)

    def patched(self, *args):
        first, second = original(self, *args)
        return first * 2, second * 2

    monkeypatch.setattr(mmnorm.layers.switchable_norm.SwitchableNorm, name, patched)
    assert not torch.allclose(layer(x), expected)

    class Made(mmnorm.SwitchableNorm2d):
        """Made while the class was patched."""

    made = Made(8).eval()
    made.load_state_dict(layer.state_dict())
    assert torch.allclose(made(x), layer(x))
    monkeypatch.undo()
    assert torch.equal(layer(x), expected)
