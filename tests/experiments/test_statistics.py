"""One network tested with its moving average and with batch averages, each from the same start."""

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmnorm
from mmnorm.errors import UsageError
from mmnorm.experiments.statistics import compare_statistics, markdown


class Steps(Dataset):
    """Image i is the constant i."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.full((1, 2, 2), float(index)))


class Model(BaseModel):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, inputs, mode='tensor'):
        y = self.norm(torch.stack(list(inputs)))
        if mode == 'predict':
            # What it is tested with.
            return [self.norm.running_mean, self.norm.running_var]
        return dict(loss=y.mean())


class Statistics(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append([float(value) for value in data_samples])

    def compute_metrics(self, results):
        return dict(zip(('mean', 'variance'), results[-1], strict=True))


def make_runner(folder, norm):
    loader = dict(dataset=Steps(), batch_size=2, num_workers=0)
    return Runner(
        Model(norm),
        str(folder),
        train_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        test_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader),
        test_cfg=dict(),
        test_evaluator=dict(type=Statistics),
        experiment_name=folder.name,
        randomness=dict(seed=0),
    )


def test_each_with_its_own_statistics(tmp_path):
    checkpoints = []
    for mean in (5.0, -5.0):
        model = Model(mmnorm.SwitchableNorm2d(1))
        model.norm.running_mean.fill_(mean)
        checkpoints.append(str(tmp_path / f'{mean}.pth'))
        torch.save(dict(state_dict=model.state_dict()), checkpoints[-1])
    runner = make_runner(tmp_path, mmnorm.SwitchableNorm2d(1))
    tests = compare_statistics(runner, checkpoints, [None])
    assert [test.checkpoint for test in tests] == [path for path in checkpoints for _ in range(3)]
    for mean, (own, total, average) in zip((5.0, -5.0), (tests[:3], tests[3:]), strict=True):
        assert own.statistics == 'as in the checkpoint'
        assert own.metrics['mean'] == mean
        assert own.metrics['variance'] == 1
        assert total.statistics == 'batch average over 8 images, variance: total'
        assert average.statistics == 'batch average over 8 images, variance: average'
        for test in (total, average):
            assert test.metrics['mean'] == pytest.approx(3.5)
        # Of 0 to 7, four values each, unbiased; within batches of two there is less.
        assert total.metrics['variance'] == pytest.approx(5.25 * 32 / 31)
        assert average.metrics['variance'] < total.metrics['variance']
    text = markdown(tests)
    assert '| BN statistics | mean | variance |' in text
    assert f'| {checkpoints[1]} | as in the checkpoint | -5.00 | 1.00 |' in text


def test_number_of_images(tmp_path):
    runner = make_runner(tmp_path, mmnorm.SwitchableNorm2d(1))
    torch.save(dict(state_dict=runner.model.state_dict()), tmp_path / 'x.pth')
    tests = compare_statistics(runner, [str(tmp_path / 'x.pth')], [2])
    assert tests[1].statistics == 'batch average over 2 images, variance: total'
    # Two different images.
    assert tests[1].metrics['variance'] >= 0.25 * 8 / 7


def test_network_without_statistics(tmp_path):
    runner = make_runner(tmp_path, nn.GroupNorm(1, 1))
    torch.save(dict(state_dict=runner.model.state_dict()), tmp_path / 'x.pth')
    with pytest.raises(UsageError, match='has no running statistics'):
        compare_statistics(runner, [str(tmp_path / 'x.pth')], [None])
