"""NormRatioHook: what it logs is what the layers do in that batch, and training goes on as without."""

import json

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import randomize
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmnorm
from mmnorm.analysis.history import read_history
from mmnorm.engine.norm_ratio_hook import _sum_over_processes
from mmnorm.errors import UsageError


class Points(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(index)) * (index + 1))


class Model(BaseModel):
    def __init__(self, norms=True):
        super().__init__()
        torch.manual_seed(0)
        kinds = mmnorm.ExemplarNorm2d, mmnorm.SwitchableNorm2d, mmnorm.InstanceMetaNorm2d
        self.en, self.sn, self.ilm = (randomize(k(3)) for k in kinds) if norms else (nn.BatchNorm2d(3),) * 3
        self.unused = mmnorm.ExemplarNorm2d(3) if norms else None

    def forward(self, inputs, mode='tensor'):
        y = self.ilm(self.sn(self.en(torch.stack(list(inputs)))))
        return dict(loss=(y - 1).square().mean())


class Spy(Hook):
    """What the layers do in each iteration, found by other means."""

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model, x = runner.model, torch.stack(data_batch['inputs'])
        ratios = model.en.importance_ratios(x).mean(0)
        seen = {f'EN/en/{n}': v for n, v in zip(('IN', 'LN', 'BN'), ratios, strict=True)}
        for moment, row in zip(('mean', 'var'), model.sn.importance_weights(), strict=True):
            seen |= {f'SN/sn/{moment}_{n}': v for n, v in zip(('IN', 'LN', 'BN'), row, strict=True)}
        self.seen[runner.iter + 1] = {key: value.item() for key, value in seen.items()}


def train(work_dir, hooks, model=None, iterations=7):
    runner = Runner(
        model or Model(),
        str(work_dir),
        train_dataloader=dict(dataset=Points(), batch_size=2, sampler=dict(type='InfiniteSampler', shuffle=False)),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
        ),
        custom_hooks=hooks,
        randomness=dict(seed=5),
        experiment_name=work_dir.name,
    )
    runner.train()
    return runner.model


def test_what_is_logged(tmp_path):
    spy = Spy()
    model = train(tmp_path / 'with', [spy, dict(type='NormRatioHook', interval=3)])
    assert not any(m._forward_pre_hooks for m in model.modules())
    (file,) = (tmp_path / 'with').glob('*/vis_data/scalars.json')
    lines = [entry for entry in map(json.loads, file.read_text().splitlines()) if 'EN/en/IN' in entry]
    assert [line['step'] for line in lines] == [1, 3, 6]
    for line in lines:
        assert {key for key in line if '/' in key} == {*spy.seen[1], 'ILM/ilm/omega', 'ILM/ilm/beta'}
        for key, value in spy.seen[line['step']].items():
            assert line[key] == pytest.approx(value, abs=1e-5), key
    assert lines[0]['EN/en/IN'] != lines[2]['EN/en/IN']
    plain = train(tmp_path / 'without', [])
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), f'{name}: training was disturbed'

    history = read_history(tmp_path / 'with')
    curves = {curve.name: curve for curve in history.curves}
    assert history.unit == 'iteration'
    assert curves['sn'].steps.tolist() == [1, 3, 6]
    assert curves['sn'].values['var_BN'][1] == pytest.approx(spy.seen[3]['SN/sn/var_BN'], abs=1e-5)
    # A run that was killed in the middle of a line, and resumed from iteration 4: what came later counts.
    with file.open('a') as end:
        end.write('\n{"EN/en/IN": 0.1, "EN/')
    later = tmp_path / 'with/99990101_000000/vis_data/scalars.json'
    later.parent.mkdir(parents=True)
    later.write_text(json.dumps({'EN/en/IN': 0.25, 'step': 6}) + '\n' + json.dumps({'EN/en/IN': 0.5, 'step': 9}))
    curve = next(curve for curve in read_history(tmp_path / 'with').curves if curve.name == 'en')
    assert curve.steps.tolist() == [1, 3, 6, 9]
    assert curve.values['IN'].tolist()[2:] == [0.25, 0.5]


def test_others_run_the_model_in_between(tmp_path):
    spy = Spy()
    train(tmp_path, [spy, dict(type='NormRatioHook', interval=1), dict(type='BatchAverageHook', num_iters=3)])
    (file,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [entry for entry in map(json.loads, file.read_text().splitlines()) if 'EN/en/IN' in entry]
    assert [line['step'] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    for line in lines:
        for key, value in spy.seen[line['step']].items():
            assert line[key] == pytest.approx(value, abs=1e-5), key


def test_a_model_without_learned_norms(tmp_path, caplog):
    train(tmp_path, [dict(type='NormRatioHook')], Model(norms=False), iterations=1)
    assert 'no EN, ILM, SN, SSN, IEBN, RBN or SelfNorm layer' in next(tmp_path.glob('*/*.log')).read_text()
    with pytest.raises(
        UsageError, match="no.* curves of EN, ILM, SN, SSN, IEBN, RBN or SelfNorm.*type='NormRatioHook'"
    ):
        read_history(tmp_path)
    with pytest.raises(UsageError, match='no vis_data/scalars.json in'):
        read_history(tmp_path / 'nothing')


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match='interval must be a positive integer, got 0'):
        HOOKS.build(dict(type='NormRatioHook', interval=0))


def worker(rank, store, out):
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    sums = {'a': torch.tensor([1.0, 2.0, 1.0]) * (rank + 1), 'b': torch.tensor([0.5, rank])}
    if rank == 0:
        torch.save(_sum_over_processes(sums), out)
    else:
        _sum_over_processes(sums)
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    mp.start_processes(worker, (tmp_path / 'store', tmp_path / 'out'), nprocs=2, start_method='fork')
    sums = torch.load(tmp_path / 'out')
    assert sums['a'].tolist() == [3, 6, 3]
    assert sums['b'].tolist() == [1, 1]
