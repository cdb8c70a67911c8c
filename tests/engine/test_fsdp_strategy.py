"""mmengine's FSDPStrategy, by two processes: what is saved and logged is what one process saves and logs."""

import json
import os

import pytest
import torch
from helpers import assert_same, randomize
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner
from mmnorm.engine.errors import UsageError
from processes import run_processes, why_no_fsdp
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import Dataset

import mmnorm
from mmnorm.analysis.recorder import record

WORLD_SIZE = 2
HOOKS = (
    dict(type='NormEvalHook'),
    dict(type='ExactResumeHook'),
    dict(type='NormRatioHook', interval=1),
    dict(type='BatchAverageHook', num_iters=2),
)
# 'full' for short also moves to the CPU what is there already, at which PyTorch crashes, nn.BatchNorm or not.
STATE_DICT = dict(
    state_dict_type='FULL_STATE_DICT',
    state_dict_config=dict(type='FullStateDictConfig', rank0_only=False),
    optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=False),
)


class Points(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(4, 4, 3, generator=generator, dtype=torch.float64) * (index + 1))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.en = randomize(mmnorm.ExemplarNorm2d(4, sync=True))
        self.conv = nn.Conv2d(4, 4, 1)
        self.sn = randomize(mmnorm.SwitchableNorm2d(4, sync=True))
        self.ilm = randomize(mmnorm.InstanceMetaNorm2d(4, key_group_size=2))
        self.double()

    def forward(self, inputs, mode='tensor'):
        y = self.ilm(self.sn(self.conv(self.en(torch.stack(list(inputs))))))
        return dict(loss=(y - 1).square().mean()) if mode == 'loss' else [y]


def train(work_dir, world_size, runner=Runner, **options):
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3)
    runner(
        Model(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Points(), batch_size=4 // world_size, sampler=dict(type='InfiniteSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=3),
        optim_wrapper=dict(
            optimizer=optimizer,
            constructor='LearnedNormOptimWrapperConstructor',
            paramwise_cfg=dict(norm_decay_mult=0, ratio_lr_mult=0.1),
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3)),
        custom_hooks=list(HOOKS),
        randomness=dict(seed=5),
        experiment_name=work_dir.name,
        **options,
    ).train()


def worker(rank, work_dir):
    reason = why_no_fsdp()
    if reason is None:
        os.environ['LOCAL_RANK'] = str(rank)
        wrapper = dict(type='MMFullyShardedDataParallel', device_id=torch.device('cpu'), use_orig_params=True)
        strategy = dict(type='FSDPStrategy', model_wrapper=wrapper, state_dict_cfg=STATE_DICT)
        train(work_dir, WORLD_SIZE, FlexibleRunner, strategy=strategy)
        with pytest.raises(UsageError, match='sharded'):
            record(FullyShardedDataParallel(Model(), device_id=torch.device('cpu')), [])
    return reason


def outcome(work_dir):
    """What was saved, and what the layers did in each iteration."""
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    logged = [entry for entry in map(json.loads, file.read_text().splitlines()) if 'EN/en/IN' in entry]
    return torch.load(work_dir / 'iter_3.pth', weights_only=False)['state_dict'], logged


def test_two_processes_equal_one(tmp_path):
    (reason, _) = run_processes(worker, WORLD_SIZE, tmp_path / 'sharded', seconds=90)
    if reason is not None:
        pytest.skip(reason)
    train(tmp_path / 'whole', 1)
    (state, logged), (expected, expected_logs) = outcome(tmp_path / 'sharded'), outcome(tmp_path / 'whole')
    assert_same({n: t.double() for n, t in state.items()}, {n: t.double() for n, t in expected.items()})
    assert len(logged) == len(expected_logs) == 3
    for ours, theirs in zip(logged, expected_logs, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-8)
