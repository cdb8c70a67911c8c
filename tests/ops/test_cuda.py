"""What only a GPU can show: the layers on the device against the CPU, half precision, CUDA graphs."""

import copy

import pytest
import torch
from helpers import assert_same, outputs_and_gradients, randomize

import mmnorm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
LAYERS = {'SN': mmnorm.SwitchableNorm2d, 'EN': mmnorm.ExemplarNorm2d, 'ILM': mmnorm.InstanceMetaNorm2d}
FORMATS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}


@pytest.fixture(params=['auto', 'composed'])
def backend(request):
    before = mmnorm.set_backend(request.param)
    yield
    mmnorm.set_backend(before)


@pytest.mark.usefixtures('backend')
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('shape', [(2, 64, 7, 7), (4, 96, 33, 31), (1, 256, 1, 1), (2, 32, 160, 160)])
@pytest.mark.parametrize('name', LAYERS)
def test_the_gpu_gives_what_the_cpu_gives(name, shape, memory_format, training):
    layer = randomize(LAYERS[name](shape[1])).train(training)
    x = torch.randn(shape).contiguous(memory_format=FORMATS[memory_format])
    exact = copy.deepcopy(layer).double()
    expected = outputs_and_gradients(exact, exact, x.double())
    layer.cuda()

    def run(x):
        return layer(x.cuda()).cpu()

    actual = {key: t.cpu().double() for key, t in outputs_and_gradients(run, layer, x).items()}
    assert_same(actual, expected, tolerance=1e-4)
    statistics = {key: t.cpu().double() for key, t in layer.named_buffers()}
    assert_same(statistics, {key: t.double() for key, t in exact.named_buffers()}, tolerance=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', LAYERS)
def test_half_precision(name, dtype):
    layer = LAYERS[name](64).cuda()
    x = torch.randn(4, 64, 28, 28, device='cuda').to(dtype).contiguous(memory_format=torch.channels_last)
    y = layer(x.requires_grad_())
    y.float().square().sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(layer).double()(x.detach().double())
    assert (y - exact).abs().max() <= 8 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize('name', LAYERS)
def test_captured_in_a_cuda_graph(name):
    layer = LAYERS[name](64).cuda()
    twin = copy.deepcopy(layer)
    x = torch.randn(4, 64, 28, 28, device='cuda', requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(layer, (x,), num_warmup_iters=3)
    # Warm-up and capture have moved the statistics.
    twin.load_state_dict(layer.state_dict())
    for _ in range(2):
        x.data.normal_()
        results = []
        for run in (graphed, twin):
            x.grad = None
            y = run(x)
            y.square().sum().backward()
            results.append({'output': y.detach().clone(), 'input': x.grad.clone()})
        assert_same(results[0], results[1], tolerance=1e-5)
    buffers = dict(layer.named_buffers())
    assert_same({k: t.float() for k, t in buffers.items()}, {k: t.float() for k, t in twin.named_buffers()}, 1e-5)
