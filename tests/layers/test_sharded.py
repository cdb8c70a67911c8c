"""Sharded, wrapped and averaged training by two processes leaves the network that one leaves with the whole batch."""

from copy import deepcopy

import pytest
import torch
from helpers import assert_same, randomize
from processes import run_processes, why_no_fsdp
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.optim.swa_utils import AveragedModel

import mmnorm
from mmnorm.version import is_older

try:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
except ImportError:
    fully_shard = None

UNITS = {mmnorm.ExemplarNorm2d, mmnorm.SwitchableNorm2d, mmnorm.InstanceMetaNorm2d, nn.Conv2d}
CPU = torch.device('cpu')
# Of a batch of four.
PARTS = slice(0, 3), slice(3, 4)
WHOLE = slice(0, 4)
STEPS = 3


def network():
    torch.manual_seed(0)
    norms = (
        mmnorm.ExemplarNorm2d(6, sync=True, momentum=None),
        mmnorm.SwitchableNorm2d(8, sync=True),
        mmnorm.InstanceMetaNorm2d(8, key_group_size=2),
    )
    en, sn, ilm = map(randomize, norms)
    body = nn.Conv2d(3, 6, 3), en, nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3), sn, nn.Conv2d(8, 8, 1), ilm
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).double()


def batches(part):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 9, 8, generator=generator, dtype=torch.float64)[part] for _ in range(STEPS)]


def train(model, part, forwards=1, after_step=lambda: None):
    """SGD on the mean square of all outputs."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x in batches(part):
        optimizer.zero_grad()
        loss = sum(model(x * (i + 1)).square().sum() for i in range(forwards)) / 16
        # Gradients are averaged over the processes, not summed.
        (loss * (1 if part == WHOLE else len(PARTS))).backward()
        optimizer.step()
        after_step()
    return model


def outcome(model, part, state_of=nn.Module.state_dict):
    """The network after training, and the statistics that the batch average gives it."""
    trained = deepcopy(dict(state_of(model)))
    assert mmnorm.update_bn_stats(model, batches(part), STEPS, progress=False) == STEPS
    estimated = {f'estimated {name}': value for name, value in state_of(model).items() if 'running' in name}
    return {name.removeprefix('module.'): value for name, value in {**trained, **estimated}.items()}


def alone(part, forwards=1):
    return outcome(train(network(), part, forwards), part)


def ddp(part, forwards=1, **options):
    model = network()
    train(nn.parallel.DistributedDataParallel(model, **options), part, forwards)
    return outcome(model, part)


def average(part):
    model = network()
    averaged = AveragedModel(model, use_buffers=True)
    wrapped = model if part == WHOLE else nn.parallel.DistributedDataParallel(model)
    train(wrapped, part, after_step=lambda: averaged.update_parameters(model))
    return outcome(averaged, part)


def fsdp(part, use_orig_params, policy=None):
    model = FullyShardedDataParallel(network(), auto_wrap_policy=policy, device_id=CPU, use_orig_params=use_orig_params)

    def state_of(model):
        with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT):
            return model.state_dict()

    return outcome(train(model, part), part, state_of)


def fsdp2(part):
    model, mesh = network(), init_device_mesh('cpu', (len(PARTS),))
    for module in [*model, model]:
        if type(module) in UNITS or module is model:
            fully_shard(module, mesh=mesh)

    def state_of(model):
        return {name: t.full_tensor() if hasattr(t, 'full_tensor') else t for name, t in model.state_dict().items()}

    return outcome(train(model, part), part, state_of)


# What two processes do, and what one does.
CASES = {
    'DDP': (ddp, alone),
    'DDP, static graph': (lambda part: ddp(part, static_graph=True), alone),
    'DDP, two forwards before a backward': (lambda part: ddp(part, forwards=2), lambda part: alone(part, forwards=2)),
    'DDP, AveragedModel': (average, average),
    'FSDP': (lambda part: fsdp(part, False), alone),
    'FSDP, original parameters': (lambda part: fsdp(part, True), alone),
    'FSDP by layer': (lambda part: fsdp(part, False, ModuleWrapPolicy(UNITS)), alone),
    'FSDP by layer, original parameters': (lambda part: fsdp(part, True, ModuleWrapPolicy(UNITS)), alone),
    'FSDP2': (fsdp2, alone),
}


def why_not(name):
    """Why PyTorch can't do it here; None if it can."""
    if name == 'FSDP2' and fully_shard is None:
        return 'torch.distributed.fsdp.fully_shard came with PyTorch 2.6'
    if name == 'FSDP2' and is_older(torch.__version__, (2, 7)):
        return 'fully_shard of PyTorch 2.6 asks a CPU for events of its streams, which it has not'
    return why_no_fsdp() if name.startswith('FSDP') else None


def worker(rank):
    return {name: why_not(name) or together(PARTS[rank]) for name, (together, _) in CASES.items()}


@pytest.fixture(scope='module')
def processes():
    return run_processes(worker, len(PARTS), seconds=90)


@pytest.mark.parametrize('name', CASES)
def test_two_processes_equal_one(processes, name):
    if isinstance(processes[0][name], str):
        pytest.skip(processes[0][name])
    expected = CASES[name][1](WHOLE)
    for process in processes:
        actual = {key: value.double() for key, value in process[name].items()}
        assert_same(actual, {key: value.double() for key, value in expected.items()})
