"""EMAHook with BatchAverageHook: each network is evaluated and saved with the statistics that it has itself."""

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmnorm


class Points(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(inputs=torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(index)) + index)


class Model(BaseModel):
    """Keeps what is evaluated. The first norm is frozen, as those in a backbone's first stages may be."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = mmnorm.ExemplarNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = mmnorm.SwitchableNorm2d(4)
        self.head = nn.Conv2d(4, 4, 1)
        self.last = nn.BatchNorm2d(4)
        self.evaluated = []

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, inputs, mode='tensor'):
        y = self.last(self.head(self.norm(self.conv(self.frozen(torch.stack(list(inputs)))))))
        if mode == 'predict':
            self.evaluated.append({name: value.clone() for name, value in self.state_dict().items()})
        return dict(loss=(y - 1).square().mean()) if mode == 'loss' else [y]


class Count(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'count': len(results)}


def train(work_dir, hooks, by_epoch=False, **options):
    # All data are in a batch, so that there is one estimate of the statistics, whatever the order.
    loader = dict(dataset=Points(), batch_size=6)
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    runner = Runner(
        Model(),
        str(work_dir),
        train_dataloader=dict(sampler=sampler, **loader),
        val_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader),
        train_cfg=dict(by_epoch=True, max_epochs=3) if by_epoch else dict(by_epoch=False, max_iters=5, val_interval=2),
        val_cfg=dict(),
        val_evaluator=dict(type=Count),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.3)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 2)),
        custom_hooks=hooks,
        randomness=dict(seed=5),
        experiment_name=work_dir.name,
        **options,
    )
    runner.train()
    return runner


def statistics(state):
    return {name: value for name, value in state.items() if 'running' in name}


def estimate(state):
    """The statistics of the network that has the parameters in ``state``, over all data."""
    model, found = Model(), {}
    model.load_state_dict(state)

    def see(name, module, args):
        values = args[0].double().transpose(0, 1).flatten(1)
        found.update({f'{name}.running_mean': values.mean(1), f'{name}.running_var': values.var(1)})

    for name in ('norm', 'last'):
        model.get_submodule(name).register_forward_pre_hook(lambda *args, name=name: see(name, *args))
    with torch.no_grad():
        model.train()(torch.stack([Points()[i]['inputs'] for i in range(len(Points()))]))
    return found


def assert_has_its_own(state):
    for name, value in estimate(state).items():
        torch.testing.assert_close(state[name].double(), value, rtol=1e-5, atol=1e-5, msg=name)
    assert not state['frozen.running_mean'].any(), 'a frozen layer has new statistics'


def weights(state):
    return state['head.weight']


@pytest.mark.parametrize('update_buffers', [False, True])
@pytest.mark.parametrize('by_epoch', [False, True])
def test_statistics_of_the_averaged_weights(by_epoch, update_buffers, tmp_path):
    ema = dict(type='EMAHook', momentum=0.3, update_buffers=update_buffers)
    hooks = [ema, dict(type='BatchAverageHook')]
    runner = train(tmp_path / 'with', hooks, by_epoch)
    evaluated = runner.model.evaluated
    assert len(evaluated) == 3
    for state in evaluated:
        assert_has_its_own(state)
    paths = sorted((tmp_path / 'with').glob('*.pth'))
    assert len(paths) == 3
    for path in paths:
        checkpoint = torch.load(path, weights_only=False)
        trained = {name.removeprefix('module.'): value for name, value in checkpoint['ema_state_dict'].items()}
        trained.pop('steps')
        assert_has_its_own(checkpoint['state_dict'])
        assert_has_its_own(trained)
    assert not torch.equal(weights(checkpoint['state_dict']), weights(trained))
    # Evaluated and saved in the same iteration.
    assert torch.equal(weights(evaluated[-1]), weights(checkpoint['state_dict']))
    assert not torch.equal(weights(evaluated[-1]), weights(runner.model.state_dict()))
    assert_has_its_own(runner.model.state_dict())
    average = next(hook for hook in runner.hooks if hasattr(hook, 'ema_model')).ema_model
    assert average.update_buffers == update_buffers

    plain = train(tmp_path / 'without', [ema], by_epoch).model
    for name, parameter in runner.model.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name)), f'{name}: training was disturbed'


def test_both_networks_are_evaluated(tmp_path):
    """mmpretrain's EMAHook can evaluate the averaged weights and those in training one after the other."""
    pytest.importorskip('mmpretrain.engine')
    hooks = [dict(type='mmpretrain.EMAHook', momentum=0.3, evaluate_on_origin=True), dict(type='BatchAverageHook')]
    runner = train(tmp_path, hooks)
    evaluated = runner.model.evaluated
    assert len(evaluated) == 6
    for averaged, trained in zip(evaluated[::2], evaluated[1::2], strict=True):
        assert not torch.equal(weights(averaged), weights(trained))
        assert_has_its_own(averaged)
        assert_has_its_own(trained)


def test_before_the_average_begins(tmp_path, caplog):
    """Both networks are still the same, so the data are gone through once."""
    runner = train(tmp_path, [dict(type='EMAHook', begin_iter=5), dict(type='BatchAverageHook')])
    for state in runner.model.evaluated:
        assert_has_its_own(state)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'Batch average over 1 training batches' in log
    assert 'with the averaged weights' not in log.partition('Iter(val) [1/1]')[0]


def test_a_test_of_a_checkpoint(tmp_path):
    train(tmp_path / 'trained', [dict(type='EMAHook', momentum=0.3)])
    loader = dict(dataset=Points(), batch_size=6)
    runner = Runner(
        Model(),
        str(tmp_path / 'tested'),
        load_from=str(tmp_path / 'trained/iter_5.pth'),
        train_dataloader=dict(sampler=dict(type='InfiniteSampler'), **loader),
        test_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader),
        train_cfg=dict(by_epoch=False, max_iters=5),
        test_cfg=dict(),
        test_evaluator=dict(type=Count),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='EMAHook'), dict(type='BatchAverageHook', in_test=True)],
        randomness=dict(seed=5),
        experiment_name='tested',
    )
    runner.test()
    (state,) = runner.model.evaluated
    assert_has_its_own(state)
    saved = torch.load(tmp_path / 'trained/iter_5.pth', weights_only=False)['state_dict']
    assert torch.equal(weights(state), weights(saved))
