"""ExactResumeHook: a run that stopped anywhere and was resumed computes what the uninterrupted run computes."""

import copy
import random

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import mmnorm


class Noisy(Dataset):
    """Augmentation from each of the generators that transforms use."""

    def __len__(self):
        return 11

    def get_data_info(self, index):
        return dict(width=1 + index % 3, height=2)

    def __getitem__(self, index):
        noise = torch.randn(3, 4, 4) * np.random.rand() + random.random()
        return dict(inputs=noise + torch.tensor(float(index)))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = mmnorm.ExemplarNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, inputs, mode='tensor'):
        y = self.head(self.dropout(self.norm(self.conv(torch.stack(list(inputs))))))
        return dict(loss=y.square().mean()) if mode == 'loss' else [y]


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        torch.rand(3), self.results.append(np.random.rand())

    def compute_metrics(self, results):
        return {'count': len(results)}


# Kept, as the workers of a loader that was not exhausted take seconds to end when it is collected.
RUNNERS = []
RUNS = {
    'iterations': (False, 'InfiniteSampler', {}),
    'iterations, epochs in the sampler': (False, 'DefaultSampler', {}),
    'iterations, 2 workers': (False, 'InfiniteSampler', dict(num_workers=2, persistent_workers=True)),
    'iterations, batches of one shape, 2 workers': (
        False,
        'InfiniteSampler',
        dict(num_workers=2, batch_sampler=dict(type='mmdet.AspectRatioBatchSampler')),
    ),
    'epochs': (True, 'DefaultSampler', {}),
    'epochs, 2 persistent workers': (True, 'DefaultSampler', dict(num_workers=2, persistent_workers=True)),
    'epochs, 1 worker': (True, 'DefaultSampler', dict(num_workers=1)),
}


def run(work_dir, by_epoch, sampler, workers, resume=None, hooks=('ExactResumeHook',), validate=True, seed=4):
    torch.manual_seed(0)
    loader = dict(dataset=Noisy(), batch_size=3, collate_fn=dict(type='pseudo_collate'))
    evaluation = dict(
        val_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader),
        val_cfg=dict(),
        val_evaluator=dict(type=Nothing),
    )
    cfg = dict(by_epoch=True, max_epochs=2) if by_epoch else dict(by_epoch=False, max_iters=8, val_interval=2)
    runner = Runner(
        Model(),
        str(work_dir),
        train_dataloader=dict(sampler=dict(type=sampler, shuffle=True), **loader, **workers),
        train_cfg=cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='PolyLR', power=0.9, begin=0, end=8, by_epoch=False),
        # By iteration also in the loop by epochs: checkpoints in the middle of an epoch of 4.
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[dict(type=name) for name in hooks],
        randomness=dict(seed=seed),
        load_from=resume and str(resume),
        resume=resume is not None,
        experiment_name=f'{work_dir.parent.name}_{work_dir.name}',
        **(evaluation if validate else {}),
    )
    runner.train()
    RUNNERS.append(runner)
    return torch.load(work_dir / 'iter_8.pth', weights_only=False)


def tensors(checkpoint):
    """Weights and momenta, by name."""
    momenta = checkpoint['optimizer']['state']
    return {**checkpoint['state_dict'], **{f'momentum {i}': s['momentum_buffer'] for i, s in momenta.items()}}


def same(a, b):
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize('setting', RUNS.values(), ids=RUNS)
def test_resumed_is_uninterrupted(setting, tmp_path):
    whole = run(tmp_path / 'whole', *setting)
    stops = [3, 4] if setting[2] else [1, 2, 3, 4, 5, 7]
    for stop in stops:
        resumed = run(tmp_path / f'from_{stop}', *setting, resume=tmp_path / f'whole/iter_{stop}.pth')
        assert same(resumed, whole), f'resumed from iteration {stop}'


def test_neither_workers_nor_validation_matter(tmp_path):
    setting = RUNS['iterations']
    whole = run(tmp_path / 'whole', *setting)
    assert same(run(tmp_path / 'unseen', *setting, validate=False), whole)
    assert same(run(tmp_path / 'workers', *RUNS['iterations, 2 workers']), whole)
    assert not same(run(tmp_path / 'seed', *setting, seed=5), whole)


def test_mmengine_alone_does_not(tmp_path):
    """What the hook is for; if this fails, it may go."""
    setting = RUNS['iterations']
    whole = run(tmp_path / 'whole', *setting, hooks=())
    assert not same(run(tmp_path / 'from_3', *setting, resume=tmp_path / 'whole/iter_3.pth', hooks=()), whole)


def test_the_samples_are_those_of_mmengine(tmp_path, monkeypatch):
    """Only the noise is another: every image is seen as often, in the order of the sampler."""
    seen = []
    getitem = Noisy.__getitem__
    monkeypatch.setattr(Noisy, '__getitem__', lambda self, index: (seen.append(index), getitem(self, index))[1])
    orders = []
    for hooks in (('ExactResumeHook',), ()):
        for name in ('iterations', 'iterations, epochs in the sampler', 'epochs'):
            seen.clear()
            run(tmp_path / f'{name}_{len(hooks)}', *RUNS[name], hooks=hooks, validate=False)
            orders.append(copy.copy(seen))
    assert orders[:3] == orders[3:]


def test_with_batch_average(tmp_path):
    setting, hooks = RUNS['epochs'], ('ExactResumeHook', 'BatchAverageHook')
    whole = run(tmp_path / 'whole', *setting, hooks=hooks)
    assert same(run(tmp_path / 'from_3', *setting, resume=tmp_path / 'whole/iter_3.pth', hooks=hooks), whole)


def test_other_loaders_are_left_alone(tmp_path):
    class Stream(IterableDataset):
        def __len__(self):
            return 6

        def __iter__(self):
            yield from (torch.randn(3, 4, 4) for _ in range(6))

    runner = Runner(
        Model(),
        str(tmp_path),
        train_dataloader=DataLoader(Stream(), batch_size=3, collate_fn=lambda images: dict(inputs=images)),
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='ExactResumeHook')],
        experiment_name=tmp_path.name,
    )
    runner.train()
    assert runner.iter == 2
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'no way to number the batches of DataLoader in a IterBasedTrainLoop' in log
