"""RenormHook: BN first, then bounds that grow with the iterations, through an interruption too."""

import norm_runner
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from norm_runner import NormModel
from torch import nn

import mmnorm

SCHEDULE = dict(begin=2, r_end=8, d_end=6)
# r_max and d_max of each iteration, of 3 and 5 at the end.
BOUNDS = [(1, 0), (1, 0), (1, 0), (4 / 3, 1.25), (5 / 3, 2.5), (2, 3.75), (7 / 3, 5), (8 / 3, 5), (3, 5), (3, 5)]


class Seen(Hook):
    """Bounds and weights of every iteration; stops before one."""

    def __init__(self, stop=None):
        self.stop, self.bounds, self.weights = stop, {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.stop:
            raise KeyboardInterrupt

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        norm = runner.model.norm
        self.weights[runner.iter] = norm.weight.detach().clone()
        if hasattr(norm, 'r_max'):
            self.bounds[runner.iter] = norm.r_max.item(), norm.d_max.item()


def train(work_dir, norm=mmnorm.BatchRenorm2d, iterations=10, resume=False, stop=None):
    seen = Seen(stop)
    hooks = [dict(type='RenormHook', **SCHEDULE), seen]
    runner = norm_runner.train(work_dir, NormModel(norm), iterations, hooks, save_every=6, resume=resume)
    return runner.model, seen


def test_from_bn_to_the_bounds(tmp_path):
    _, seen = train(tmp_path / 'brn')
    assert list(seen.bounds.values()) == [pytest.approx(bounds) for bounds in BOUNDS]
    _, bn = train(tmp_path / 'bn', nn.BatchNorm2d)
    for iteration in range(3):
        torch.testing.assert_close(seen.weights[iteration], bn.weights[iteration])
    assert not torch.allclose(seen.weights[9], bn.weights[9])


def test_goes_on_where_it_was(tmp_path):
    whole, _ = train(tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'parts', stop=7)
    # The checkpoint does not say where the data were: at iteration 6 they begin anew in either run.
    parts, seen = train(tmp_path / 'parts', resume=True)
    assert list(seen.bounds.values()) == [pytest.approx(bounds) for bounds in BOUNDS[6:]]
    expected = whole.norm.state_dict()
    for name, value in parts.norm.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_without_such_layers(tmp_path):
    train(tmp_path, nn.BatchNorm2d, iterations=1)
    assert 'the model has no BRN layer' in next(tmp_path.glob('*/*.log')).read_text()


@pytest.mark.parametrize('schedule', [dict(begin=10, r_end=10), dict(begin=-1), dict(d_end=5000)], ids=str)
def test_nonsense_is_refused(schedule):
    with pytest.raises(ValueError, match='0 <= begin < r_end and d_end'):
        HOOKS.build(dict(type='RenormHook', **schedule))
