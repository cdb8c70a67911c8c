"""Every process takes part in every collective, whatever it was given: nothing, fewer batches, or no data at all."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from helpers import randomize
from mmengine.registry import HOOKS
from plain import exemplar_ratios, plain
from processes import run_processes
from torch import nn

import mmnorm
from mmnorm.analysis.recorder import record

WORLDS = 2, 3
ITERATIONS = 4


class Network(nn.Module):
    """What learns what, with statistics of all processes or of one; a head of regions sees maps of all sizes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.en = randomize(mmnorm.ExemplarNorm2d(4, sync=True, momentum=None))
        self.own = randomize(mmnorm.ExemplarNorm2d(4))
        self.ilm = randomize(mmnorm.InstanceMetaNorm2d(4, key_group_size=2))
        self.sn = randomize(mmnorm.SwitchableNorm2d(4, sync=True))

    def forward(self, x):
        return self.sn(self.ilm(self.own(self.en(x))).tanh())


def maps(world_size, iteration):
    """Of all processes; one of them has none, in turn, and another has no positions."""
    generator = torch.Generator().manual_seed(iteration)
    sizes = [(2 + rank, 4, 3 + iteration, 2 + rank) for rank in range(world_size)]
    sizes[iteration % world_size] = (0, 4, 5, 5) if iteration < 3 else (2, 4, 0, 3)
    return [torch.randn(size, generator=generator, dtype=torch.float64) + rank for rank, size in enumerate(sizes)]


def train(rank, world_size, hooks):
    """The network after some iterations, and what was logged."""
    network, logged = Network().double(), []
    runner = SimpleNamespace(
        model=nn.parallel.DistributedDataParallel(network),
        visualizer=SimpleNamespace(add_scalars=lambda scalars, step: logged.append(scalars)),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for runner.iter in range(ITERATIONS):
        for hook in hooks:
            hook.before_train_iter(runner, runner.iter)
        optimizer.zero_grad()
        y = runner.model(maps(world_size, runner.iter)[rank])
        y.square().sum().backward()
        optimizer.step()
        for hook in hooks:
            hook.after_train_iter(runner, runner.iter)
    return network, logged


def run_update_bn_stats(model, loader, num_iters=5):
    """Number of batches and statistics; or what is said."""
    model = copy.deepcopy(model)
    try:
        used = mmnorm.update_bn_stats(model, loader, num_iters, progress=False)
    except ValueError as error:
        return str(error)
    return used, {name: buffer for name, buffer in model.named_buffers() if 'running' in name}


def worker(rank, world_size):
    results = {}
    hook = HOOKS.build(dict(type='NormRatioHook', interval=2))
    network, logged = train(rank, world_size, [hook])
    results['hook'] = network.state_dict(), logged
    results['no hook'] = train(rank, world_size, [])[0].state_dict()

    batches = [maps(world_size, i)[rank] for i in range(ITERATIONS)]
    fewer = batches[: ITERATIONS - rank]
    results['uneven'] = run_update_bn_stats(network, fewer)
    results['uneven, of unknown length'] = run_update_bn_stats(network, (x for x in fewer))
    results['uneven numbers'] = run_update_bn_stats(network, batches, ITERATIONS - rank)
    results['nothing in one'] = run_update_bn_stats(network, batches if rank else [])

    data = [(x, torch.zeros(len(x), dtype=torch.long)) for x in batches[:2] if len(x)] if rank else []
    kept = record(network, data, num_images=0, progress=False)
    results['record'] = None if kept is None else (kept.samples, [layer.values['mean'] for layer in kept.layers[:2]])
    # All are where they should be: the sum of the ranks, not of something else.
    total = torch.tensor(rank)
    dist.all_reduce(total)
    results['in step'] = int(total) == sum(range(world_size))
    return results


@pytest.fixture(scope='module', params=WORLDS)
def processes(request):
    return run_processes(worker, request.param, request.param)


def test_in_step(processes):
    assert all(process['in step'] for process in processes)


def test_norm_ratio_hook(processes):
    """What it logs is what the layers do to the samples of all processes, and it changes nothing."""
    world_size = len(processes)
    for process in processes:
        state, logged = process['hook']
        assert [len(scalars) for scalars in logged] == [14] * 3
        for name, value in state.items():
            assert torch.equal(value, process['no hook'][name]), f'{name}: training was disturbed'
            if name not in ('own.running_mean', 'own.running_var', 'own.num_batches_tracked'):
                assert torch.equal(value, processes[0]['hook'][0][name]), f'{name}: processes have different networks'
    network, batch = Network().double(), [x for x in maps(world_size, 0) if x.numel()]
    _, logged = processes[0]['hook']
    ratios = torch.cat([exemplar_ratios(network.en, x, batch) for x in batch]).mean(0)
    for normalizer, ratio in zip(network.en.normalizers, ratios.tolist(), strict=True):
        assert logged[0][f'EN/en/{normalizer}'] == pytest.approx(ratio, abs=1e-10)
    inside = [plain(network.en, x, batch=batch) for x in batch]
    ratios = torch.cat([exemplar_ratios(network.own, x) for x in inside]).mean(0)
    assert logged[0]['EN/own/BN'] == pytest.approx(ratios[2].item(), abs=1e-10)


@pytest.mark.parametrize('name', ['uneven', 'uneven, of unknown length', 'uneven numbers'])
def test_update_bn_stats_with_uneven_loaders(processes, name):
    world_size = len(processes)
    used = ITERATIONS - world_size + 1
    seen = torch.cat([x.transpose(0, 1).flatten(1) for i in range(used) for x in maps(world_size, i)], 1)
    for process in processes:
        assert process[name][0] == used
        torch.testing.assert_close(process[name][1]['en.running_mean'], seen.mean(1))
        torch.testing.assert_close(process[name][1]['en.running_var'], seen.var(1))
        for key, value in process[name][1].items():
            assert torch.equal(value, processes[0][name][1][key]), key


def test_update_bn_stats_without_a_batch_in_one(processes):
    for process in processes:
        assert 'empty loader in at least one of the processes' in process['nothing in one']


def test_record_without_data_in_one(processes):
    assert all(process['record'] is None for process in processes[1:])
    samples, means = processes[0]['record']
    assert samples == sum(len(maps(len(processes), i)[rank]) for rank in range(1, len(processes)) for i in range(2))
    for mean in means:
        assert mean.sum() == pytest.approx(1, abs=1e-6)
