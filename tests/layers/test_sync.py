"""sync=True over two processes equals one process with the whole batch."""

import copy
import multiprocessing

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import outputs_and_gradients, randomize
from torch import nn

import mmnorm

# Autograd does not survive a fork, and each spawned process would import everything again.
multiprocessing.set_forkserver_preload(['mmnorm'])


def worker(rank, sizes, store, layer, x, dy, results, wrap):
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=len(sizes))
    torch.set_num_threads(1)
    # What was handed over is in memory that the processes share.
    layer = copy.deepcopy(layer)
    dist.barrier()
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    mine = x[part].clone().requires_grad_()
    network = nn.parallel.DistributedDataParallel(layer, broadcast_buffers=False) if wrap else layer
    y = network(mine)
    y.backward(dy[part])
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    results[rank] = y.detach(), mine.grad, gradients, dict(layer.named_buffers())
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ('sizes', 'wrap'), [((2, 2), False), ((3, 1), False), ((4, 0), False), ((3, 1), True)], ids=str
)
@pytest.mark.parametrize('cls', [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d])
def test_two_processes_equal_the_whole_batch(cls, sizes, wrap, tmp_path):
    layer = randomize(cls(6, sync=True).double())
    x = torch.randn(4, 6, 5, 3, dtype=torch.float64)
    whole = copy.deepcopy(layer)
    expected = outputs_and_gradients(whole, whole, x)
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with mp.Manager() as manager:
        results = manager.dict()
        mp.start_processes(
            worker, args=(sizes, tmp_path / 'store', layer, x, dy, results, wrap), nprocs=2, start_method='forkserver'
        )
        outputs, input_gradients, gradients, buffers = zip(*(results[rank] for rank in range(2)))
    torch.testing.assert_close(torch.cat(outputs), expected['output'], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.cat(input_gradients), expected['input'], rtol=1e-10, atol=1e-10)
    for name in dict(layer.named_parameters()):
        # DistributedDataParallel leaves the mean over processes, in each.
        total = gradients[0][name] * 2 if wrap else gradients[0][name] + gradients[1][name]
        torch.testing.assert_close(total, expected[name], rtol=1e-10, atol=1e-10)
    for mine in buffers:
        for name, value in whole.named_buffers():
            torch.testing.assert_close(mine[name], value, rtol=1e-10, atol=1e-10)
