"""Running statistics are those of nn.BatchNorm, as a moving and as a cumulative average, compiled or not."""

import pytest
import torch
from torch import nn

import mmnorm
from mmnorm.ops import set_backend

LAYERS = mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d
SIZES = (2, 6, 5, 4), (3, 6, 2, 7), (4, 6, 3, 3)
SINGLE = (1, 6, 1, 1)


@pytest.fixture(params=['reference', 'composed', 'auto'])
def backend(request):
    previous = set_backend(request.param)
    yield request.param
    set_backend(previous)


def feed(layer, run, sizes=SIZES):
    """The buffers after some batches."""
    generator = torch.Generator().manual_seed(1)
    for i, size in enumerate(sizes):
        # nn.BatchNorm raises where there is a single value.
        x = torch.randn(size, generator=generator, dtype=torch.float64) * (i + 1) + i
        if isinstance(layer, nn.BatchNorm2d) and size == SINGLE:
            layer.num_batches_tracked += 1
            weight = 1 / layer.num_batches_tracked.item() if layer.momentum is None else layer.momentum
            layer.running_mean.lerp_(x.flatten(), weight)
            layer.running_var.lerp_(torch.zeros(6, dtype=torch.float64), weight)
        else:
            run(x)
    return dict(layer.named_buffers())


@pytest.mark.parametrize('momentum', [None, 0.1, 0.0, 1.0])
@pytest.mark.parametrize('cls', LAYERS)
def test_those_of_batch_norm(cls, momentum, backend):
    batch_norm, layer = (c(6, momentum=momentum).double() for c in (nn.BatchNorm2d, cls))
    expected = feed(batch_norm, batch_norm, (*SIZES, SINGLE, SIZES[0]))
    for name, buffer in feed(layer, layer, (*SIZES, SINGLE, SIZES[0])).items():
        torch.testing.assert_close(buffer, expected[name], rtol=1e-13, atol=1e-13)


def keep_graphs(graphs):
    """A backend that compiles nothing."""

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return backend


def test_cumulative_average_in_one_graph():
    """Exact, through the compiler too, and without a number that the program waits for."""
    batch_norm, graphs = nn.BatchNorm2d(6, momentum=None).double(), []
    expected = feed(batch_norm, batch_norm)
    for backend in ('aot_eager', keep_graphs(graphs)):
        torch._dynamo.reset()
        layer = mmnorm.SwitchableNorm2d(6, momentum=None).double()
        compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
        for name, buffer in feed(layer, compiled).items():
            torch.testing.assert_close(buffer, expected[name], rtol=1e-13, atol=1e-13)
    assert graphs
    items = [node for graph in graphs for node in graph.graph.nodes if node.target == 'item']
    assert not [node for node in items if 'num_batches' in str(node.args)]
