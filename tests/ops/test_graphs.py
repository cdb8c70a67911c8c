"""torch.compile, torch.export and ONNX of networks with the layers."""

import copy
import inspect
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func
from helpers import assert_same
from torch import nn
from torch._dynamo.backends.common import aot_autograd

import mmnorm

LAYERS = {
    'SN': mmnorm.SwitchableNorm2d,
    'EN': mmnorm.ExemplarNorm2d,
    'ILM': mmnorm.InstanceMetaNorm2d,
}


class Block(nn.Module):
    """A ResNet's basic block with a strided shortcut."""

    def __init__(self, norm, channels, out_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = norm(out_channels)
        self.downsample = nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride=2, bias=False), norm(out_channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


def small_resnet(norm):
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False), norm(16), nn.ReLU(inplace=True)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)
    return nn.Sequential(*stem, Block(norm, 16, 32), *head)


SIZES = (2, 3, 16, 16), (3, 3, 20, 24)


def crash_of_inductor():
    """The signal that a compiled block with nn.BatchNorm2d ends in, in a process of its own; None if it does not."""
    script = """
import torch, test_graphs
model = test_graphs.Block(torch.nn.BatchNorm2d, 3, 16)
compiled = torch.compile(model, fullgraph=True, backend='inductor', dynamic=True)
for size in test_graphs.SIZES:
    test_graphs.step(compiled, model, torch.randn(size))
"""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run([sys.executable, '-c', script], env=os.environ | {'PYTHONPATH': paths}, capture_output=True)
    return signal.Signals(-done.returncode).name if done.returncode < 0 else None


def step(run, model, x):
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = run(x)
    y.square().sum().backward()
    return dict(output=y.detach(), input=x.grad, **{name: p.grad.clone() for name, p in model.named_parameters()})


def block_of_each():
    """A block with one norm of each kind: as good as three networks, at a third of the compiler's time."""
    layers = iter(LAYERS.values())
    return Block(lambda channels: next(layers)(channels), 3, 16)


inductor = pytest.mark.skipif(
    not hasattr(torch.library, 'custom_op'),
    reason='from PyTorch 2.4 on: that of 2.1 crashes on this block, with nn.BatchNorm2d too',
)
COMPILERS = [(name, 'aot_eager') for name in LAYERS] + [pytest.param('each', 'inductor', marks=inductor)]


@pytest.mark.parametrize(('norm', 'backend'), COMPILERS)
def test_compiled_training(norm, backend):
    """One graph, forward and backward, of static and then of dynamic shapes, equal to eager mode."""
    if backend == 'inductor' and (crash := crash_of_inductor()):
        pytest.skip(f"PyTorch's compiler ends in {crash} on this processor, with nn.BatchNorm2d too")
    torch._dynamo.reset()
    model = block_of_each() if norm == 'each' else small_resnet(LAYERS[norm])
    eager = copy.deepcopy(model)
    # By default a second size has it compiled anew, for all; the slower compiler is spared the first time.
    compiled = torch.compile(model, fullgraph=True, backend=backend, dynamic=True if backend == 'inductor' else None)
    for size in SIZES:
        x = torch.randn(size)
        assert_same(step(compiled, model, x), step(eager, eager, x), tolerance=1e-4)
        buffers = {key: t.float() for key, t in model.named_buffers()}
        assert_same(buffers, {key: t.float() for key, t in eager.named_buffers()}, tolerance=1e-4)


@pytest.mark.parametrize('name', LAYERS)
def test_compiled_graph_holds_plain_operators(name):
    """The compiler sees all that there is, and fuses it with what comes before and after."""
    torch._dynamo.reset()
    targets = []

    def compiler(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == 'call_function')
        return make_boxed_func(graph.forward)

    model = LAYERS[name](16)
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    y = torch.compile(model, fullgraph=True, backend=aot_autograd(fw_compiler=compiler))(x)
    y.sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert len(targets) > 20
    assert {target.split('.')[0] for target in targets} <= {'aten', '<built-in function getitem>', 'prims'}, targets


@pytest.fixture(params=LAYERS)
def trained(request):
    model = small_resnet(LAYERS[request.param])
    # As trained weights do, each differs: torch's older ONNX exporter trips over equal ones (it merges them, then
    # folds one that is gone).
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    for _ in range(3):
        model(torch.randn(4, 3, 16, 16) * 2 + 1)
    return model.eval()


exports = pytest.mark.skipif(
    not hasattr(torch.compiler, 'is_exporting'),
    reason='before PyTorch 2.7 torch.export is not told apart from torch.compile, so the layers cannot suit it',
)


def dynamic_shapes():
    sizes = torch.export.Dim('batch', max=64), *(torch.export.Dim(name, min=8, max=512) for name in ('height', 'width'))
    return (dict(zip((0, 2, 3), sizes)),)


@exports
@pytest.mark.parametrize('strict', [False, True])
def test_export(trained, strict):
    example = (torch.randn(2, 3, 16, 24),)
    program = torch.export.export(trained, example, dynamic_shapes=dynamic_shapes(), strict=strict)
    assert not any('mmnorm' in str(node.target) for node in program.graph.nodes)
    for size in ((1, 3, 16, 16), (3, 3, 33, 47)):
        x = torch.randn(size)
        with torch.no_grad():
            assert torch.allclose(program.module()(x), trained(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dynamo', [pytest.param(True, marks=exports), False])
def test_onnx(trained, dynamo):
    onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    buffer = io.BytesIO()
    example = (torch.randn(2, 3, 16, 24),)
    if dynamo:
        torch.onnx.export(trained, example, dynamo=True, dynamic_shapes=dynamic_shapes(), verbose=False).save(buffer)
    else:
        axes = {'x': {0: 'batch', 2: 'height', 3: 'width'}}
        # Until there was another exporter, there was nothing to choose.
        choice = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
        torch.onnx.export(trained, example, buffer, input_names=['x'], dynamic_axes=axes, **choice)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=['CPUExecutionProvider'])
    for size in ((1, 3, 16, 16), (3, 3, 33, 47)):
        x = torch.randn(size)
        with torch.no_grad():
            expected = trained(x)
        (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert (torch.from_numpy(actual) - expected).abs().max() <= 1e-4


# Nodes of a layer's graph of any batch and size, without constants.
LENGTHS = {'SN': 60, 'EN': 75, 'ILM': 71}


@exports
@pytest.mark.parametrize('name', LENGTHS)
def test_length_of_onnx(name):
    """No node beyond what the formula, its precision and the exporter ask for; docs/performance.md has the numbers."""
    onnx = pytest.importorskip('onnx', reason='onnx is not installed')
    buffer = io.BytesIO()
    example = (torch.randn(2, 64, 16, 24),)
    model = LAYERS[name](64).eval()
    torch.onnx.export(model, example, dynamo=True, dynamic_shapes=dynamic_shapes(), verbose=False).save(buffer)
    assert len(onnx.load_from_string(buffer.getvalue()).graph.node) <= LENGTHS[name]


def test_traced():
    """mmengine counts FLOPs, and mmdeploy exports, by tracing."""
    layer = LAYERS['EN'](16).eval()
    x = torch.randn(2, 16, 8, 8)
    traced = torch.jit.trace(layer, x)
    assert torch.allclose(traced(torch.ones(1, 16, 8, 8)), layer(torch.ones(1, 16, 8, 8)), atol=1e-5)
