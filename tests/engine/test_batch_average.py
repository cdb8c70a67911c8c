"""update_bn_stats: the statistics of all values, nothing else touched, over processes too; and its hook."""

import copy
import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

import mmnorm
from mmnorm import update_bn_stats

LAYERS = {
    'SN': mmnorm.SwitchableNorm2d,
    'EN': mmnorm.ExemplarNorm2d,
    'BN': nn.BatchNorm2d,
    'cumulative': lambda c: mmnorm.ExemplarNorm2d(c, momentum=None),
}


def network(layer):
    torch.manual_seed(0)
    return nn.Sequential(layer(4), nn.Dropout(0.5), nn.Conv2d(4, 6, 3), layer(6), nn.ReLU(), nn.Conv2d(6, 2, 1))


def batches(*sizes, offset=0.0):
    """Batches that differ in size, location and scale, so that no average of averages is right by chance."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 4, 5 + i, 6, generator=generator) * (i + 1) + 3 * i + offset, torch.zeros(n))
        for i, n in enumerate(sizes)
    ]


def inputs_of(model, layer, loader):
    """What a layer is given in training mode without dropout, (values, C)."""
    model = copy.deepcopy(model).train()
    model[1].eval()
    seen = []
    model[layer].register_forward_pre_hook(lambda module, args: seen.append(args[0].double()))
    with torch.no_grad():
        for x, _ in loader:
            model(x)
    return torch.cat([x.transpose(0, 1).flatten(1).T for x in seen])


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', LAYERS)
def test_statistics_of_all_values(name, training):
    model, loader = network(LAYERS[name]).train(training), batches(2, 5, 1)
    expected = {layer: inputs_of(model, layer, loader) for layer in (0, 3)}
    before = copy.deepcopy(model.state_dict())
    assert update_bn_stats(model, loader, num_iters=3, progress=False) == 3
    for layer, values in expected.items():
        torch.testing.assert_close(model[layer].running_mean.double(), values.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model[layer].running_var.double(), values.var(0), rtol=1e-5, atol=1e-5)
    for key, value in model.state_dict().items():
        assert key.endswith(('running_mean', 'running_var')) or torch.equal(value, before[key]), key
    assert all(module.training == training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def batch_variances(model, layer, loader):
    """Biased variances of what a layer is given, batch by batch, (batches, C), and their number of values."""
    values = [inputs_of(model, layer, [batch]) for batch in loader]
    return torch.stack([v.var(0, unbiased=False) for v in values]), torch.tensor([float(len(v)) for v in values])


def test_both_readings_of_the_paper():
    """The average of the batches' variances, and the variance of all values, which has that of their means too."""
    model, loader = network(LAYERS['SN']), batches(2, 2, 2, 2)
    variances, counts = batch_variances(model, 0, loader)
    values = inputs_of(model, 0, loader)
    means = torch.stack([inputs_of(model, 0, [batch]).mean(0) for batch in loader])
    within = (variances * counts[:, None]).sum(0) / counts.sum()
    between = ((means - values.mean(0)).square() * counts[:, None]).sum(0) / counts.sum()
    update_bn_stats(model, loader, num_iters=4, progress=False, variance='average')
    torch.testing.assert_close(model[0].running_mean.double(), values.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model[0].running_var.double(), within, rtol=1e-5, atol=1e-5)
    update_bn_stats(model, loader, num_iters=4, progress=False)
    size = counts.sum()
    torch.testing.assert_close(
        model[0].running_var.double(), (within + between) * size / (size - 1), rtol=1e-5, atol=1e-5
    )
    assert (between > 0.1 * within).all(), 'they do differ here'


def test_one_batch_is_what_training_sees():
    """With one batch and momentum 1, training gives the same statistics."""
    model, loader = network(LAYERS['EN']), batches(4)
    trained = copy.deepcopy(model).train()
    trained[0].momentum = trained[3].momentum = 1.0
    trained[1].eval()
    trained(loader[0][0])
    update_bn_stats(model, loader, 1, progress=False)
    for layer in (0, 3):
        torch.testing.assert_close(model[layer].running_mean, trained[layer].running_mean)
        torch.testing.assert_close(model[layer].running_var, trained[layer].running_var)


def test_large_means_cost_no_accuracy():
    model, loader = network(LAYERS['SN']), batches(2, 3, offset=3e4)
    values = inputs_of(model, 0, loader)
    update_bn_stats(model, loader, 2, progress=False)
    torch.testing.assert_close(model[0].running_var.double(), values.var(0), rtol=1e-3, atol=0)


def test_a_layer_that_is_called_twice():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = mmnorm.SwitchableNorm2d(4)

        def forward(self, x):
            return self.norm(x[:, :, ::2]), self.norm(2 * x)

    model, (x, _) = Head(), batches(3)[0]
    update_bn_stats(model, [x, x], 2, progress=False)
    values = torch.cat([t.transpose(0, 1).flatten(1).T for t in (x[:, :, ::2], 2 * x)] * 2)
    torch.testing.assert_close(model.norm.running_mean, values.mean(0))
    torch.testing.assert_close(model.norm.running_var, values.var(0))


def test_frozen_layers_keep_their_statistics():
    model, loader = network(LAYERS['SN']).train(), batches(2, 2)
    model[0].eval()
    before = model[0].running_mean.clone()
    update_bn_stats(model, loader, 2, progress=False)
    assert torch.equal(model[0].running_mean, before)
    assert model[3].running_mean.abs().max() > 0
    assert not model[0].training
    model[3].norm_eval = True
    before = copy.deepcopy(model[3].state_dict())
    update_bn_stats(model.eval(), loader, 2, progress=False)
    assert torch.equal(model[3].running_mean, before['running_mean'])
    assert model[0].running_mean.abs().max() > 0, 'a model in eval mode is asked by train()'


def test_generators_go_on_as_if_nothing_happened():
    def draw(*_):
        return torch.rand(2).tolist(), np.random.rand(), random.random()

    def seed():
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)

    model = network(LAYERS['BN'])
    seed()
    expected = draw()
    seed()
    update_bn_stats(model, batches(2, 2), 2, forward=lambda model, batch: draw(model(batch[0])), progress=False)
    assert draw() == expected


@pytest.mark.parametrize('fault', ['forward', 'loader', 'nan', 'empty'])
def test_after_an_error_everything_is_as_before(fault):
    model = network(LAYERS['EN']).train()
    model[3].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]

    def loader():
        yield from batches(2, 3)
        if fault == 'loader':
            raise OSError('disk')

    def forward(model, batch):
        model(batch[0] * torch.nan if fault == 'nan' else batch[0])
        if fault == 'forward':
            raise OSError('disk')

    if fault == 'empty':
        with pytest.raises(ValueError, match='empty loader'):
            update_bn_stats(model, [], 2)
    elif fault == 'nan':
        with pytest.raises(ValueError, match='the input of 0 was not finite'):
            update_bn_stats(model, loader(), 9, forward=forward, progress=False)
    else:
        with pytest.raises(OSError, match='disk'):
            update_bn_stats(model, loader(), 9, forward=forward, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_is_said(caplog):
    model = network(LAYERS['SN'])
    with caplog.at_level(logging.WARNING):
        assert update_bn_stats(model, batches(2, 2), 5, progress=False) == 2
        assert update_bn_stats(nn.Sequential(nn.Conv2d(4, 2, 1), mmnorm.InstanceMetaNorm2d(2)), batches(2)) == 0
        update_bn_stats(model, batches(2), 1, forward=lambda model, batch: model[:2](batch[0]), progress=False)
    assert 'only 2 of the 5 batches' in caplog.text
    assert 'Sequential has no BN' in caplog.text
    assert 'no data reached 3; statistics kept' in caplog.text
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match='num_iters must be a positive integer'):
            update_bn_stats(model, batches(2), wrong)
    with pytest.raises(TypeError, match='forward=lambda'):
        update_bn_stats(model, [('text', 1)], 1, progress=False)


def test_half_precision_and_autocast():
    model, loader = network(LAYERS['EN']), batches(3, 4)
    expected = copy.deepcopy(model)
    update_bn_stats(expected, loader, 2, progress=False)

    def forward(model, batch):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            model(batch[0])

    update_bn_stats(model, loader, 2, forward=forward, progress=False)
    assert model[3].running_mean.dtype == torch.float32
    torch.testing.assert_close(model[3].running_var, expected[3].running_var, rtol=3e-2, atol=3e-2)


def worker(rank, store, model, loaders, results):
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    torch.set_num_threads(1)
    wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    used = update_bn_stats(wrapped, loaders[rank], 5, progress=False)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    update_bn_stats(wrapped, loaders[rank], 5, progress=False, variance='average')
    results[rank] = used, statistics, model[0].running_var.clone()
    dist.destroy_process_group()


@pytest.mark.parametrize('sync', [False, True])
def test_two_processes(sync, tmp_path):
    """Each with batches of its own, of which one has more."""
    model = network(lambda c: mmnorm.SwitchableNorm2d(c, sync=sync))
    loader = batches(2, 3, 4, 1, 2)
    loaders = loader[:2], loader[2:]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.start_processes(worker, (tmp_path / 'store', model, loaders, results), nprocs=2, start_method='fork')
        (used, first, within), (_, second, other) = results[0], results[1]
    assert used == 2
    values = inputs_of(model, 0, loader[:4])
    torch.testing.assert_close(first['0.running_mean'].double(), values.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first['0.running_var'].double(), values.var(0), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(first[name], second[name]) for name in first)
    variances, counts = batch_variances(model, 0, loader[:4])
    torch.testing.assert_close(
        within.double(), (variances * counts[:, None]).sum(0) / counts.sum(), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(within, other)


class Points(Dataset):
    """Image i has the mean i + 1.5, about, the 1.5 being augmentation."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        x = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(index)) + index
        return dict(inputs=x + torch.rand(()) + np.random.rand() + random.random())


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.norm = mmnorm.SwitchableNorm2d(3)
        self.conv = nn.Conv2d(3, 2, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs, mode='tensor'):
        y = self.dropout(self.conv(self.norm(torch.stack(list(inputs)))))
        return dict(loss=y.square().mean()) if mode == 'loss' else [y]


class Count(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'count': len(results)}


class Spy(Hook):
    """Remembers the running mean at each evaluation."""

    def __init__(self):
        self.seen = {}

    def before_val_epoch(self, runner):
        self.seen[runner.iter] = runner.model.norm.running_mean.clone()


def train(work_dir, by_epoch, hooks):
    torch.manual_seed(3)
    loader = dict(dataset=Points(), batch_size=2)
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    epochs = dict(by_epoch=True, max_epochs=2)
    runner = Runner(
        Model(),
        str(work_dir),
        train_dataloader=dict(sampler=sampler, **loader),
        val_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader),
        train_cfg=epochs if by_epoch else dict(by_epoch=False, max_iters=7, val_interval=3),
        val_cfg=dict(),
        val_evaluator=dict(type=Count),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 2)),
        custom_hooks=hooks,
        randomness=dict(seed=5),
        experiment_name=f'{work_dir.name}_{by_epoch}',
    )
    runner.train()
    saved = {path.stem: torch.load(path, weights_only=False)['state_dict'] for path in work_dir.glob('*.pth')}
    return runner.model, saved


@pytest.mark.parametrize('by_epoch', [True, False])
def test_hook(by_epoch, tmp_path):
    spy = Spy()
    model, saved = train(tmp_path / 'with', by_epoch, [dict(type='BatchAverageHook', num_iters=100), spy])
    assert set(saved) == ({'epoch_1', 'epoch_2'} if by_epoch else {'iter_2', 'iter_4', 'iter_6', 'iter_7'})
    assert set(spy.seen) == ({6, 12} if by_epoch else {3, 6, 7})
    for mean in [*spy.seen.values(), *(state['norm.running_mean'] for state in saved.values())]:
        # 5.5 is the mean of 0 to 11; a moving average over so few iterations is far below.
        torch.testing.assert_close(mean, torch.full((3,), 7.0), rtol=0, atol=0.6)
    plain, _ = train(tmp_path / 'without', by_epoch, [])
    assert plain.norm.running_mean.max() < 6
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name)), f'{name}: training was disturbed'


def test_hook_before_a_test(tmp_path):
    loader = dict(dataset=Points(), batch_size=2)
    model = Model()
    weights = {name: p.clone() for name, p in model.named_parameters()}
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=dict(sampler=dict(type='InfiniteSampler'), **loader),
        test_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader),
        train_cfg=dict(by_epoch=False, max_iters=7),
        test_cfg=dict(),
        test_evaluator=dict(type=Count),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='BatchAverageHook', in_test=True)],
        randomness=dict(seed=5),
        experiment_name=tmp_path.name,
    )
    assert runner.test() == {'count': 6}
    torch.testing.assert_close(model.norm.running_mean, torch.full((3,), 7.0), rtol=0, atol=0.6)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])


def test_hook_groups_images_as_training_does():
    class Grouping(BatchSampler):
        """Keeps what is left over, as mmdet's AspectRatioBatchSampler does when it isn't exhausted."""

        left = ()

        def __iter__(self):
            for index in self.sampler:
                self.left = (*self.left, index)
                if len(self.left) == self.batch_size:
                    yield list(self.left)
                    self.left = ()

    train = DataLoader(Points(), batch_size=5)
    cfg = dict(train_dataloader=dict(batch_sampler=dict(type=Grouping, drop_last=False)))
    runner = SimpleNamespace(train_dataloader=train, cfg=cfg, seed=5, iter=3)
    hook = HOOKS.build(dict(type='BatchAverageHook'))
    orders = []
    for _ in range(2):
        batch_sampler = hook._build_loader(runner).batch_sampler
        assert type(batch_sampler) is Grouping
        assert batch_sampler.batch_size == 5
        batches = iter(batch_sampler)
        orders.append(next(batches))
        batch_sampler.left = (99,)
    assert orders[0] == orders[1]
    runner.iter = 4
    assert next(iter(hook._build_loader(runner).batch_sampler)) != orders[0]


def test_hook_refuses_nonsense():
    with pytest.raises(ValueError, match='num_iters must be a positive integer, got 0'):
        HOOKS.build(dict(type='BatchAverageHook', num_iters=0))
    with pytest.raises(ValueError, match="variance must be one of total, average, got 'mean'"):
        HOOKS.build(dict(type='BatchAverageHook', variance='mean'))
    with pytest.raises(ValueError, match='variance must be one of total, average'):
        update_bn_stats(network(nn.BatchNorm2d), batches(2), variance='mean')
