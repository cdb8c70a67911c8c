"""ENAS by the commands: searched, killed and resumed, tested, drawn, and its cell trained."""

import importlib
import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from helpers import in_fork

from mmnorm.analysis.losses import read_losses
from mmnorm.datasets import write_layout
from mmnorm.models.enas import read_genotype

ROOT = Path(__file__).resolve().parents[2]
LOGGED = ('reward', 'baseline', 'entropy', 'loss', 'controller_loss')

# What pulls the plug after an iteration.
PLUG = """
import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class PullPlugHook(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if str(runner.iter) == os.environ.get('KILL_AFTER'):
            os.kill(os.getpid(), signal.SIGKILL)
"""

SEARCH = f"""
_base_ = '{ROOT}/configs/demo/enas_sn_digits.py'
custom_imports = dict(imports=['mmnorm', 'mmnorm.models', 'mmnorm.datasets.search_dataset', 'pull_plug'])
model = dict(
    shared=dict(backbone=dict(nodes=2, cells=0, channels=4, drop_path=0.3), head=dict(in_channels=16)),
    controller=dict(hidden_size=8), architectures=2)
small = dict(data_root='DATA')
digits = dict(_base_.digits, **small)
train_dataloader = dict(
    batch_size=8, batch_sampler=dict(controller_steps=2, training_steps=2),
    dataset=dict(held_out=20, datasets=[digits, digits]))
test_dataloader = dict(batch_size=20, dataset=small)
train_cfg = dict(max_epochs=3)
param_scheduler = dict(shared=[dict(type='CosineAnnealingLR', by_epoch=True, T_max=3)], controller=[])
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=-1))
custom_hooks = [
    dict(type='ExactResumeHook'), dict(type='DeriveHook', architectures=3), dict(type='PullPlugHook')]
"""

CHILD = f"""
_base_ = '{ROOT}/configs/nas/enas_child_cifar10.py'
images = dict(
    type='CustomDataset', data_root='DATA', data_prefix='train', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')])
loader = dict(batch_size=20, num_workers=0, persistent_workers=False, dataset=dict(_delete_=True, **images))
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
model = dict(backbone=dict(cells=0, channels=4), head=dict(in_channels=16))
train_cfg = dict(max_epochs=1)
"""


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    importlib.import_module('mmpretrain.models')
    folder = tmp_path_factory.mktemp('enas')
    root, _ = write_layout('imagenet', out=folder, train=60, val=20, size=(32, 32), overwrite=True)
    (folder / 'pull_plug.py').write_text(PLUG)
    for name, text in (('search.py', SEARCH), ('child.py', CHILD)):
        (folder / name).write_text(text.replace('DATA', str(root)))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope='module')
def run(files):
    """Run a command; returns what it said."""

    def run(command, *arguments, options=None, expected=0):
        words = [f'{key}={value}' for key, value in (options or {}).items()]
        log = files / 'log.txt'
        in_fork(log, command, *arguments, *(['--cfg-options', *words] if words else []), expected=expected)
        return log.read_text()

    return run


@pytest.fixture(scope='module')
def searched(files, run):
    run('train', files / 'search.py', '--work-dir', files / 'whole')
    return files / 'whole'


def rewards(folder):
    found = read_losses(folder, LOGGED)
    return {name: (found.steps[name].tolist(), found.values[name].tolist()) for name in LOGGED}


def test_killed_and_resumed_is_uninterrupted(files, run, searched, monkeypatch):
    """Killed among the controller's steps of the second epoch; all goes on as ever."""
    monkeypatch.setenv('KILL_AFTER', '6')
    run('train', files / 'search.py', '--work-dir', files / 'killed', expected=-signal.SIGKILL)
    monkeypatch.delenv('KILL_AFTER')
    assert not (files / 'killed/epoch_2.pth').exists()
    assert 'resumed epoch: 1, iter: 4' in run('train', files / 'search.py', '--work-dir', files / 'killed', '--resume')
    whole, resumed = rewards(searched), rewards(files / 'killed')
    assert resumed == whole
    assert whole['reward'][0] == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert len(set(whole['entropy'][1])) > 3
    whole, resumed = (torch.load(f / 'epoch_3.pth', weights_only=False) for f in (searched, files / 'killed'))
    assert whole['state_dict'].keys() == resumed['state_dict'].keys()
    assert not [
        name for name, value in whole['state_dict'].items() if not torch.equal(value, resumed['state_dict'][name])
    ]
    assert not whole['state_dict']['baseline'].isnan()
    assert set(whole['optimizer']) == {'shared', 'controller'}


def test_tested_drawn_and_the_cell_trained(files, run, searched):
    out = files / 'metrics.json'
    said = run(
        'test', files / 'search.py', searched / 'epoch_3.pth', '--work-dir', files / 'test', '--out', out
    )  # fmt: skip
    assert 'best of 3 architectures' in said
    accuracy = json.loads(out.read_text())['accuracy/top1']
    assert 0 <= accuracy <= 100
    path = files / 'test/genotype.json'
    found = json.loads(path.read_text())
    genotype = read_genotype(str(path), nodes=2)
    assert str(genotype) == found['genotype']
    # Again, it is the same cell and the same accuracy.
    run('test', files / 'search.py', searched / 'epoch_3.pth', '--work-dir', files / 'again', '--out', out)
    assert (files / 'again/genotype.json').read_text() == path.read_text()
    assert json.loads(out.read_text())['accuracy/top1'] == accuracy

    figure = files / 'rewards.png'
    run('analyze', 'losses', searched, files / 'killed', '--losses', 'reward', '--names', 'a', 'b', '--out', figure)
    assert figure.stat().st_size > 5000
    run('analyze', 'weights', searched / 'epoch_3.pth', '--max-samples', '4', '--out', files / 'weights.png')
    assert (files / 'weights.png').stat().st_size > 5000

    run('train', files / 'child.py', '--work-dir', files / 'child', options={'model.backbone.genotype': path})
    weights = torch.load(files / 'child/epoch_1.pth', weights_only=False)['state_dict']
    shared = torch.load(searched / 'epoch_3.pth', weights_only=False)['state_dict']
    trained = [name for name in weights if not name.endswith(('running_mean', 'running_var', 'num_batches_tracked'))]
    assert all(weights[name].shape == shared[f'shared.{name}'].shape for name in trained)


@pytest.mark.parametrize(
    ('config', 'options', 'message'),
    [
        ('search.py', {'model.controller.norm_cfg.normalizers': '[LN,BN]'}, 'BN would need statistics of its own'),
        ('search.py', {'model.shared.backbone.norm_cfg.track_running_stats': 'True'}, 'keeps running statistics'),
        (
            'child.py',
            {'model.backbone.genotype': '0:conv+1:identity//0:identity+1:identity'},
            "has the operation 'conv'",
        ),
        ('child.py', {'model.backbone.genotype': 'nowhere.json'}, 'nowhere.json cannot be read'),
        ('search.py', {'train_dataloader.batch_size': '41'}, 'do not make batches of 41'),
        ('search.py', {'train_dataloader.dataset.held_out': '60'}, 'expected 1 to 59 of 60 images'),
        ('search.py', {'train_dataloader.dataset.datasets.1.data_root': 'nowhere'}, 'data not found'),
    ],
)
def test_wrong_input_gets_one_message(files, run, config, options, message):
    output = run('train', files / config, '--work-dir', files / 'wrong', options=options, expected=2)
    assert output.count('error: ') == 1
    assert message in output
    assert 'Traceback' not in output
