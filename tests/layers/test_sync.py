"""sync=True over several processes equals one that normalizes by the statistics of all their values.

The reference is the plain formula in float64, on the maps of each process, with BN's moments over the maps of all.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from helpers import assert_same, randomize
from plain import batch_moments, exemplar_ratios, plain
from processes import run_processes
from torch import nn

import mmnorm

SN1d, SN2d, SN3d = mmnorm.SwitchableNorm1d, mmnorm.SwitchableNorm2d, mmnorm.SwitchableNorm3d
EN1d, EN2d, EN3d = mmnorm.ExemplarNorm1d, mmnorm.ExemplarNorm2d, mmnorm.ExemplarNorm3d
C = 6
COMPILES = hasattr(torch.library, 'custom_op')


@dataclass
class Case:
    """A layer and the sizes of what it is given, by step and process: (N, *), between which the channels are put."""

    layer: type
    steps: list[list[tuple]]
    options: dict = field(default_factory=dict)
    offset: float = 0.0
    #: Processes whose input depends on nothing.
    detached: tuple = ()
    wrap: bool = False
    dtype: torch.dtype = torch.float64

    def build(self):
        torch.manual_seed(0)
        layer = randomize(self.layer(C, sync=True, **self.options).double())
        return layer if self.dtype == torch.float64 else layer.float()

    def data(self):
        """Input and gradient of the output, by step and process; location and scale are each process's own."""
        generator = torch.Generator().manual_seed(1)

        def draw(rank, size):
            x, dy = torch.randn(2, size[0], C, *size[1:], generator=generator, dtype=torch.float64)
            return (x * (rank + 1) + rank + self.offset).to(self.dtype), dy.to(self.dtype)

        return [[draw(rank, size) for rank, size in enumerate(sizes)] for sizes in self.steps]


EMPTY = (0, 8, 8)
CASES = {
    2: {
        'equal': Case(SN2d, [[(2, 5, 3), (2, 5, 3)]]),
        'uneven batches': Case(EN2d, [[(3, 5, 3), (1, 5, 3)]]),
        'one empty': Case(SN2d, [[(4, 5, 3), (0, 5, 3)]]),
        'one empty, EN': Case(EN2d, [[(0, 5, 3), (4, 5, 3)]]),
        '8x8 beside 16x12': Case(SN2d, [[(2, 8, 8), (3, 16, 12)]]),
        '8x8 beside 16x12, EN': Case(EN2d, [[(2, 8, 8), (3, 16, 12)]]),
        '1x1 beside 7x5': Case(SN2d, [[(1, 1, 1), (2, 7, 5)]]),
        '1x1 beside 7x5, EN': Case(EN2d, [[(3, 1, 1), (1, 7, 5)]]),
        'one value in each': Case(EN2d, [[(1, 1, 1), (1, 1, 1)]]),
        'one value in all': Case(SN2d, [[(0, 1, 1), (1, 1, 1)]]),
        '(N, C) beside (N, C, L)': Case(SN1d, [[(5,), (2, 7)]]),
        '(N, C) beside (N, C, L), EN': Case(EN1d, [[(2, 7), (5,)]]),
        '3d': Case(SN3d, [[(1, 2, 3, 4), (2, 3, 1, 2)]]),
        '3d, EN': Case(EN3d, [[(1, 2, 3, 4), (2, 3, 1, 2)]]),
        'BN alone': Case(SN2d, [[(2, 8, 8), (1, 3, 4)]], dict(normalizers=('BN',))),
        'all four': Case(EN2d, [[(2, 8, 8), (1, 3, 4)]], dict(normalizers=('GN', 'BN', 'LN', 'IN'), num_groups=2)),
        'mlp': Case(EN2d, [[(2, 8, 8), (1, 3, 4)]], dict(ratio_net='mlp', shared_affine=True)),
        'large mean': Case(SN2d, [[(2, 8, 8), (3, 16, 12)]], offset=1e6),
        'large mean, EN': Case(EN2d, [[(2, 8, 8), (3, 16, 12)]], offset=1e6),
        'cumulative': Case(EN2d, [[(2, 8, 8), (1, 3, 4)], [EMPTY, (2, 2, 2)], [(1, 4, 4)] * 2], dict(momentum=None)),
        'maps without positions': Case(SN2d, [[(2, 0, 4), (2, 3, 4)]]),
        'maps without positions, EN': Case(EN2d, [[(2, 3, 4), (2, 4, 0)]]),
        'nothing': Case(SN2d, [[EMPTY, EMPTY]], dict(momentum=None)),
        'nothing, EN': Case(EN2d, [[EMPTY, (3, 0, 4)]]),
        'an empty batch that depends on nothing': Case(SN2d, [[EMPTY, (2, 3, 4)]], detached=(0,)),
        'inputs that depend on nothing': Case(EN2d, [[(2, 8, 8), (2, 3, 4)]], detached=(0, 1)),
        'no running statistics': Case(SN2d, [[(2, 8, 8), (1, 3, 4)]], dict(track_running_stats=False)),
        'DDP': Case(EN2d, [[(2, 8, 8), (1, 3, 4)], [EMPTY, (1, 3, 4)]], wrap=True),
        'float32': Case(SN2d, [[(2, 8, 8), (3, 16, 12)]], offset=1e4, dtype=torch.float32),
        'float32, EN': Case(EN2d, [[(2, 8, 8), (3, 16, 12)]], offset=1e4, dtype=torch.float32),
        'bfloat16': Case(EN2d, [[(2, 8, 8), (3, 16, 12)]], dtype=torch.bfloat16),
    },
    3: {
        'sizes': Case(EN2d, [[(2, 8, 8), (3, 16, 12), (1, 1, 1)]]),
        'one empty': Case(SN2d, [[(2, 8, 8), (3, 16, 12), EMPTY]]),
        'two empty': Case(EN2d, [[EMPTY, (3, 16, 12), EMPTY]]),
        'cumulative': Case(SN2d, [[(2, 8, 8), EMPTY, (1, 3, 4)], [EMPTY] * 3, [(1, 2, 2)] * 3], dict(momentum=None)),
        'DDP': Case(EN2d, [[(2, 8, 8), EMPTY, (1, 3, 4)], [(1, 2, 2)] * 3], wrap=True),
    },
}
LARGE_MEANS = 'large mean', 'large mean, EN'
MIXED = CASES[2]['8x8 beside 16x12, EN']
COLLECTIVES = 'all_gather', 'all_gather_into_tensor', 'all_reduce', 'all_to_all', 'broadcast', 'reduce', 'scatter'


def run_case(rank, case):
    """By step what process ``rank`` computes, then its gradients (with DDP those of all processes) and buffers."""
    layer, results = case.build(), []
    network = nn.parallel.DistributedDataParallel(layer, broadcast_buffers=False) if case.wrap else layer
    for step in case.data():
        x, dy = step[rank]
        x.requires_grad_(rank not in case.detached)
        result = dict(ratios=layer.importance_ratios(x)) if hasattr(layer, 'importance_ratios') else {}
        y = network(x)
        y.backward(dy)
        result |= dict(output=y.detach()) if x.grad is None else dict(output=y.detach(), input=x.grad)
        results.append(result)
    factor = dist.get_world_size() if case.wrap else 1
    gradients = {name: p.grad * factor for name, p in layer.named_parameters()}
    return results, gradients, dict(layer.named_buffers())


def count_collectives(x):
    """How many there are forward, and after the backward."""
    layer = SN2d(C, sync=True)
    with ExitStack() as stack:
        spies = [stack.enter_context(mock.patch.object(dist, n, wraps=getattr(dist, n))) for n in COLLECTIVES]
        y = layer(x)
        forward = sum(spy.call_count for spy in spies)
        y.sum().backward()
        return forward, sum(spy.call_count for spy in spies)


def second_derivatives(function, maps):
    """Gradient of a sum over the gradients of a sum of cubes, of whichever ``maps`` this process has."""
    maps = [x.clone().requires_grad_() for x in maps]
    total = sum(function(x, maps).pow(3).sum() for x in maps)
    first = torch.autograd.grad(total, maps, create_graph=True)
    sum((dx * x.detach().pow(3)).sum() for dx, x in zip(first, maps)).backward()
    return [x.grad for x in maps]


def compiled(rank):
    """Output, gradient and running variance in eager mode, and in one graph."""
    results = []
    for compiles in (False, True):
        layer, (((x, dy)),) = MIXED.build(), [step[rank] for step in MIXED.data()]
        run = torch.compile(layer, fullgraph=True, backend='aot_eager') if compiles else layer
        y = run(x.requires_grad_())
        y.backward(dy)
        results.append(dict(output=y.detach(), input=x.grad, running_var=layer.running_var))
    return results


def worker(rank, world_size):
    results = {name: run_case(rank, case) for name, case in CASES[world_size].items()}
    if world_size == 2:
        x = torch.randn(2, C, 3, 3)
        results['collectives'] = [count_collectives(x.clone().requires_grad_(needed)) for needed in (True, False)]
        layer, maps = MIXED.build(), [x for x, _ in MIXED.data()[0]]
        results['second derivatives'] = second_derivatives(lambda x, _: layer(x), maps[rank : rank + 1])
        if COMPILES:
            results['compiled'] = compiled(rank)
        # In eval mode nobody waits for anybody, as with SyncBatchNorm: one may have more batches than another.
        layer = SN2d(C, sync=True, track_running_stats=False).eval()
        for _ in range(rank):
            layer(x)
    return results


@pytest.fixture(scope='module')
def computed():
    """What the processes computed, by their number; if they failed, all that needs it does, and at once."""

    @cache
    def run(world_size):
        try:
            return run_processes(worker, world_size, world_size)
        except Exception as error:
            return error

    def get(world_size):
        results = run(world_size)
        if isinstance(results, Exception):
            raise results
        return results

    return get


def expected_of(case):
    """By step and process what the plain formula gives, then the gradients and the buffers."""
    layer, results, factor = case.build().double(), [], case.options.get('momentum', 0.1)
    statistics = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    for step in case.data():
        maps, dys = ([t.double() for t in ts] for ts in zip(*step))
        for rank, x in enumerate(maps):
            x.requires_grad_(rank not in case.detached)
        batch = [x for x in maps if x.numel()]
        outputs = [plain(layer, x, batch=batch) if x.numel() else x.clone() for x in maps]
        sum((y * dy).sum() for y, dy in zip(outputs, dys)).backward() if any(y.requires_grad for y in outputs) else None
        results.append([dict(output=y.detach()) for y in outputs])
        for result, x in zip(results[-1], maps):
            if x.requires_grad:
                result['input'] = x.grad
            if hasattr(layer, 'importance_ratios'):
                nothing = torch.full((x.shape[0], len(layer.normalizers)), torch.nan)
                result['ratios'] = exemplar_ratios(layer, x.detach(), batch).detach() if x.numel() else nothing
        if statistics and batch:
            statistics['num_batches_tracked'] += 1
            weight = factor or 1 / statistics['num_batches_tracked'].item()
            count = sum(x.numel() // C for x in batch)
            mean, var = (t.detach() for t in batch_moments(batch))
            statistics['running_mean'].lerp_(mean, weight)
            statistics['running_var'].lerp_(var * count / max(count - 1, 1), weight)
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in layer.named_parameters()}
    return results, gradients, statistics


@pytest.mark.parametrize(('world_size', 'name'), [(size, name) for size, cases in CASES.items() for name in cases])
def test_processes_equal_the_union(computed, world_size, name):
    case = CASES[world_size][name]
    expected, expected_gradients, expected_buffers = expected_of(case)
    # The plain formula in float64 is itself exact to |mean| / std * 1e-16 only.
    tolerance = {torch.float64: 1e-8 if name in LARGE_MEANS else 1e-10, torch.float32: 1e-5}.get(case.dtype, 2e-2)
    processes = [process[name] for process in computed(world_size)]
    for rank, (results, gradients, buffers) in enumerate(processes):
        for result, steps in zip(results, expected, strict=True):
            result = {key: value.double() for key, value in result.items()}
            assert_same(
                {key: torch.nan_to_num(value, -1) for key, value in result.items()},
                {key: torch.nan_to_num(value, -1) for key, value in steps[rank].items()},
                tolerance,
                floor=1,
            )
        assert_same(
            {n: t.double() for n, t in buffers.items()}, {n: t.double() for n, t in expected_buffers.items()}, tolerance
        )
        if case.wrap:
            assert_same(gradients, expected_gradients, tolerance, floor=1)
    if not case.wrap:
        total = {n: sum(process[1][n].double() for process in processes) for n in expected_gradients}
        assert_same(total, expected_gradients, tolerance, floor=1)


def test_one_collective_each_way(computed):
    for process in computed(2):
        # The second is that of a layer whose input is the data.
        assert process['collectives'] == [(1, 2), (1, 1)]


def test_second_derivatives(computed):
    layer, maps = MIXED.build(), [x for x, _ in MIXED.data()[0]]
    expected = second_derivatives(lambda x, maps: plain(layer, x, batch=maps), maps)
    for process, gradient in zip(computed(2), expected):
        torch.testing.assert_close(process['second derivatives'][0], gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.skipif(not COMPILES, reason='torch.compile took no collectives before PyTorch 2.4')
def test_compiled(computed):
    for process in computed(2):
        assert_same(process['compiled'][1], process['compiled'][0])
