"""SparsityHook: the radius grows with the iterations, to one-hot ratios, through an interruption too."""

import math

import norm_runner
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from norm_runner import NormModel

import mmnorm
from mmnorm.analysis.history import read_history

CIRCUMRADIUS = math.sqrt(2 / 3)


class Radii(Hook):
    def __init__(self):
        self.seen = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen[runner.iter + 1] = round(runner.model.norm.radius.item() / CIRCUMRADIUS, 4)


def train(work_dir, iterations, model=None, resume=False, interrupt=None, **schedule):
    radii = Radii()
    hooks = [dict(type='SparsityHook', **schedule), dict(type='NormRatioHook', interval=1), radii]
    if interrupt is not None:
        hooks.append(interrupt)
    model = model or NormModel(mmnorm.SparseSwitchableNorm2d)
    runner = norm_runner.train(work_dir, model, iterations, hooks, save_every=4, resume=resume)
    return runner, radii.seen


def test_grows_to_one_hot(tmp_path):
    runner, radii = train(tmp_path, 8)
    assert radii == {i: i / 8 for i in range(1, 9)}
    ratios = runner.model.norm.importance_weights()
    assert sorted(ratios.unique().tolist()) == [0, 1]
    (curve,) = read_history(tmp_path).curves
    assert (curve.norm, curve.learns) == ('SSN', 'weights')
    assert curve.values['mean_IN'][0] != curve.values['mean_IN'][-1]


def test_part_of_the_run(tmp_path):
    _, radii = train(tmp_path, 8, begin=0.25, end=0.75)
    assert radii == {1: 0, 2: 0, 3: 0.25, 4: 0.5, 5: 0.75, 6: 1, 7: 1, 8: 1}


class Interrupt(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 5:
            raise KeyboardInterrupt


def test_goes_on_where_it_was(tmp_path):
    whole, _ = train(tmp_path / 'whole', 8)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'parts', 8, interrupt=Interrupt())
    parts, radii = train(tmp_path / 'parts', 8, resume=True)
    assert radii == {i: i / 8 for i in range(5, 9)}
    assert parts.model.norm.radius == whole.model.norm.radius


def test_without_such_layers(tmp_path):
    model = NormModel(mmnorm.SwitchableNorm2d)
    model.norm.radius = torch.zeros(())  # for Radii
    train(tmp_path, 1, model)
    assert 'the model has no SSN layer' in next(tmp_path.glob('*/*.log')).read_text()


@pytest.mark.parametrize('schedule', [dict(begin=0.5, end=0.5), dict(begin=-0.1), dict(end=1.5)], ids=str)
def test_nonsense_is_refused(schedule):
    with pytest.raises(ValueError, match='expected 0 <= begin < end <= 1'):
        HOOKS.build(dict(type='SparsityHook', **schedule))
