"""A training of mmengine's Runner that takes a moment: one norm, a handful of points."""

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset


class Points(Dataset):
    """Six images, each of another mean and standard deviation."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(inputs=torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(index)) * (index + 1) + index)


class NormModel(BaseModel):
    """A norm of three channels, made by ``norm(3)``, whose output is to be 1."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm(3)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=(self.norm(torch.stack(list(inputs))) - 1).square().mean())


def train(work_dir, model, iterations, hooks, save_every, resume=False):
    """Train ``model`` on batches of two; the Runner."""
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(batch_size=2, sampler=dict(type='InfiniteSampler', shuffle=False), dataset=Points()),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=save_every, by_epoch=False), logger=None),
        custom_hooks=hooks,
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name=work_dir.name),
        experiment_name=work_dir.name,
        resume=resume,
        log_level='WARNING',
    )
    runner.train()
    return runner
