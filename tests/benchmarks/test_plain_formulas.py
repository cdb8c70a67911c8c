"""The formula in the place of a layer: the same, running statistics included, and at no more than a script spends."""

import pytest
import torch
from helpers import LAYERS, assert_same, outputs_and_gradients, randomize
from plain import PlainNorm


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('channels', [64, 48])
@pytest.mark.parametrize('name', ['SwitchableNorm', 'SparseSwitchableNorm', 'ExemplarNorm', 'InstanceMetaNorm'])
def test_formula_equals_layer(name, channels, training):
    layer = randomize(LAYERS[name, 2](channels, dtype=torch.float64)).train(training)
    twin = LAYERS[name, 2](channels, dtype=torch.float64).train(training)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(3, channels, 5, 7, dtype=torch.float64) * 2 + 1

    expected = outputs_and_gradients(layer, layer, x)
    assert_same(outputs_and_gradients(PlainNorm(twin), twin, x), expected)
    assert_same(dict(twin.named_buffers()), dict(layer.named_buffers()))


def _float16_on_the_cpu():
    try:
        torch.ones(2, 2, dtype=torch.float16).softmax(0)
    except RuntimeError:
        return False
    return True


FLOAT16 = pytest.param(
    torch.float16, marks=pytest.mark.skipif(not _float16_on_the_cpu(), reason='this PyTorch has no float16 on the CPU')
)


@pytest.mark.parametrize('dtype', [FLOAT16, torch.bfloat16])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('name', ['SwitchableNorm', 'SparseSwitchableNorm', 'ExemplarNorm', 'InstanceMetaNorm'])
def test_formula_stays_in_type_and_format(name, memory_format, dtype):
    x = torch.randn(2, 32, 6, 6, dtype=dtype).contiguous(memory_format=memory_format)
    y = PlainNorm(LAYERS[name, 2](32))(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=memory_format)
