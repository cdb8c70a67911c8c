"""The norm of docs/extending.md, as it stands there, has all that the page promises."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_same, outputs_and_gradients, randomize
from plain import channels
from torch import nn

import mmnorm
from mmnorm.registry import NAMES, NORM_LAYERS, NORMS

PAGE = Path(__file__).parents[2] / 'docs/extending.md'


@pytest.fixture(scope='module')
def bin_norm(tmp_path_factory):
    path = tmp_path_factory.mktemp('extending') / 'bin_norm.py'
    path.write_text(re.search(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)[1])
    spec = importlib.util.spec_from_file_location('bin_norm', path)
    module = sys.modules['bin_norm'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del NORMS['BIN'], sys.modules['bin_norm']
    for name in ('BIN', 'BIN1d', 'BIN2d', 'BIN3d'):
        del NAMES[name]
        if NORM_LAYERS is not None:
            NORM_LAYERS.module_dict.pop(name)
            NORM_LAYERS.children['mmnorm'].module_dict.pop(name)


def plain(layer, x):
    def standard(mean, var):
        return (x - mean) / (var + layer.eps).sqrt()

    dims = tuple(range(2, x.dim()))
    instance = standard(x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True))
    if layer.training:
        batch = standard(x.mean((0, *dims), keepdim=True), x.var((0, *dims), unbiased=False, keepdim=True))
    else:
        batch = standard(channels(layer.running_mean, x), channels(layer.running_var, x))
    gate = channels(layer.gate.clamp(0, 1), x)
    return (gate * batch + (1 - gate) * instance) * channels(layer.weight, x) + channels(layer.bias, x)


@pytest.mark.parametrize('backend', ['auto', 'composed', 'reference'])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('dims', [1, 2, 3])
def test_formula(bin_norm, dims, training, backend):
    layer = getattr(bin_norm, f'BatchInstanceNorm{dims}d')(8).double()
    layer = randomize(layer).train(training)
    x = torch.randn(3, 8, *[4, 5, 2][:dims], dtype=torch.float64)
    expected = outputs_and_gradients(lambda x: plain(layer, x), layer, x)
    before = mmnorm.set_backend(backend)
    try:
        assert_same(outputs_and_gradients(layer, layer, x), expected)
    finally:
        mmnorm.set_backend(before)


def test_length(bin_norm):
    lines = Path(bin_norm.__file__).read_text().splitlines()
    assert len(lines) <= 45, 'the page says that it is small'


def test_conversion_and_weights(bin_norm):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), randomize(nn.BatchNorm2d(8)), nn.ReLU()).double().eval()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    expected = model(x)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    mmnorm.convert_norm(model, 'BIN')
    assert type(model[1]) is bin_norm.BatchInstanceNorm2d
    torch.testing.assert_close(model(x), expected)
    with torch.no_grad():
        model[1].gate.fill_(0.5)
    en = nn.Sequential(nn.Conv2d(3, 8, 3), mmnorm.ExemplarNorm2d(8)).double()
    en.load_state_dict(model.state_dict())  # drops the gate, whose norm it knows
    mmnorm.revert_norm(model)
    assert type(model[1]) is nn.BatchNorm2d
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def test_one_graph(bin_norm):
    torch._dynamo.reset()
    layer = randomize(bin_norm.BatchInstanceNorm2d(8).double())
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    expected = outputs_and_gradients(layer, layer, x)
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
    assert_same(outputs_and_gradients(compiled, layer, x), expected)


def test_a_name_that_is_no_name():
    with pytest.raises(ValueError, match="expected a short name of letters such as 'SN', got '2d'"):
        mmnorm.register('2d')
