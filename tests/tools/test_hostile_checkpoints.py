"""Checkpoints that run code, given to every tool in every way: a message, and nothing is run."""

import os
import runpy
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import hostile
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.runner import checkpoint as mmengine_checkpoint

import mmnorm
from mmnorm.datasets import write_layout

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = tuple(hostile.attacks('marker'))
# Where it takes seconds.
ONE = 'globals of a method'


@MODELS.register_module(name='LoadsItself')
class LoadsItself(BaseModule):
    """As mmdet's teachers are loaded: when the model is built."""

    def __init__(self, checkpoint, **kwargs):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        load_checkpoint(self, checkpoint)


@pytest.fixture(autouse=True)
def _mmengine_as_before(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    monkeypatch.setattr(mmengine_checkpoint, 'load_url', mmengine_checkpoint.load_url)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A config of mmpretrain with data that are there."""
    folder = tmp_path_factory.mktemp('hostile')
    root, _ = write_layout('imagenet', folder, train=2, val=2, size=(32, 32))
    dataset = dict(type='CustomDataset', data_root=str(root), data_prefix='val', pipeline=[dict(type='PackInputs')])
    loader = dict(batch_size=2, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, norm_cfg=dict(type='EN')),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=512),
    )
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            data_preprocessor=dict(num_classes=10),
            train_dataloader=loader,
            train_cfg=dict(by_epoch=False, max_iters=1),
            test_dataloader=loader,
            test_evaluator=dict(type='Accuracy'),
            test_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        )
    )
    cfg.dump(folder / 'resnet18_en.py')
    return folder / 'resnet18_en.py'


INIT = ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint={path}']
# Arguments by way in; {path} is the checkpoint, {out} a folder for what would be written.
WAYS = {
    'load_from': ['train', '{config}', '--work-dir', '{out}', '--cfg-options', 'load_from={path}'],
    'resume': ['train', '{config}', '--work-dir', '{out}', '--resume', '{path}'],
    'resume the latest': ['train', '{config}', '--work-dir', '{folder}', '--resume'],
    'init_cfg': ['train', '{config}', '--work-dir', '{out}', '--cfg-options', *INIT],
    'init_cfg of an address': [
        *('train', '{config}', '--work-dir', '{out}', '--cfg-options', INIT[0]),
        'model.backbone.init_cfg.checkpoint=https://example.com/iter_1.pth',
    ],
    'test': ['test', '{config}', '{path}', '--work-dir', '{out}'],
    'record': ['analyze_norm', 'record', '{path}', '--out', '{out}.npz'],
    'record with a config': ['analyze_norm', 'record', '{path}', '--config', '{config}', '--out', '{out}.npz'],
    'figure': ['analyze_norm', 'weights', '{path}', '--out', '{out}.png'],
    'report': ['analyze_norm', 'report', '{path}', '--out', '{out}.html'],
    'convert from published': ['convert_checkpoint', '{path}', '{out}.pth', '--codebase', 'mmseg'],
    'convert to BN': ['convert_checkpoint', '{path}', '{out}.pth', '--to', 'BN'],
    'convert back': ['convert_checkpoint', '{path}', '{out}.pth', '--restore'],
    'complexity': [
        *('complexity', '{config}', '--repeats', '0', '--cfg-options', 'model.type=LoadsItself'),
        'model.checkpoint={path}',
    ],
}


def arguments_of(way, path, config, out):
    names = dict(path=path, config=config, out=out, folder=path.parent)
    return [argument.format(**names) for argument in WAYS[way]]


@pytest.mark.parametrize('way', WAYS)
def test_nothing_is_run(way, config, refuse, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    folder, marker, out = tmp_path / 'checkpoints', tmp_path / 'marker', tmp_path / 'out'
    folder.mkdir()
    # Only the Runner fetches it, and it looks at the machine first.
    late = way == 'init_cfg of an address'
    for attack in [ONE] if late else ATTACKS:
        for layout in hostile.LAYOUTS[:1] if late else hostile.LAYOUTS:
            path = hostile.write(folder / 'iter_1.pth', hostile.attacks(marker)[attack], layout)
            (folder / 'last_checkpoint').write_text(str(path))
            message = refuse(*arguments_of(way, path, config, out))
            assert 'iter_1.pth' in message
            assert 'is not read: it holds more than data, namely ' in message, attack
            assert 'give --trust-checkpoint' in message
            assert not marker.exists(), attack
            assert late or not list(tmp_path.glob('out*')), 'nothing is written'


@pytest.mark.parametrize(('way', 'layout'), [('resume', 'zip'), ('convert to BN', 'series')])
def test_nothing_is_run_in_a_process_of_its_own(way, layout, config, tool, tmp_path):
    marker = tmp_path / 'marker'
    path = hostile.write(tmp_path / 'iter_1.pth', hostile.attacks(marker)[ONE], layout)
    name, *arguments = arguments_of(way, path, config, tmp_path / 'out')
    said = tool(f'{name}.py', *arguments, status=2)
    assert 'is not read: it holds more than data, namely ' in said
    assert 'Traceback' not in said
    assert not marker.exists()


def test_the_config_of_a_checkpoint_is_code(refuse, tmp_path):
    """It is run where it lies in the work dir of the run, or where the user says so."""
    made, path = tmp_path / 'made', tmp_path / 'iter_1.pth'
    arguments = ['analyze_norm', 'record', path, '--out', tmp_path / 'out.npz']
    code = {
        'statement': f'import os\nos.mkdir({str(made)!r})\n',
        'type': f"default_scope = 'mmpretrain'\nmodel = dict(type='os.mkdir', path={str(made)!r})\n",
    }
    for text in code.values():
        torch.save({'state_dict': {'bn1.fc2_bias': torch.zeros(3)}, 'meta': {'cfg': text}}, path)
        message = refuse(*arguments)
        assert f'{path} has its config with it, and a config is code' in message
        assert '--config' in message
        assert '--trust-checkpoint' in message
        assert not made.exists()
        for kind in ('trusted', 'beside it'):
            if kind == 'beside it':
                (tmp_path / 'config.py').write_text(text)
            # No model comes of it.
            with suppress(AttributeError):
                refuse(*arguments, *(['--trust-checkpoint'] if kind == 'trusted' else []))
            os.rmdir(made)
        os.remove(tmp_path / 'config.py')


def test_trusted(refuse, tmp_path, monkeypatch):
    """An object of a class of one's own is let in by the option alone."""
    path, out = tmp_path / 'a.pth', tmp_path / 'out.pth'
    weights = {f'bn1.{name}': value for name, value in mmnorm.SwitchableNorm2d(4).state_dict().items()}
    torch.save({'state_dict': weights, 'path': path}, path)
    arguments = [path, out, '--to', 'BN']
    assert 'namely pathlib.PosixPath' in refuse('convert_checkpoint', *arguments)
    monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', *map(str, arguments), '--trust-checkpoint'])
    runpy.run_path(str(ROOT / 'tools/convert_checkpoint.py'), run_name='__main__')
    assert out.is_file()


def test_conversion_needs_no_mmengine(tmp_path):
    """Nor does reading what mmengine has written."""
    path, out = tmp_path / 'a.pth', tmp_path / 'out.pth'
    log = HistoryBuffer([1.0], [1])
    weights = {f'bn1.{name}': value for name, value in mmnorm.SwitchableNorm2d(4).state_dict().items()}
    torch.save({'state_dict': weights, 'message_hub': {'log_scalars': {'loss': log}}}, path)
    program = (
        'import runpy, sys; sys.modules["mmengine"] = sys.modules["mmcv"] = None; '
        f'sys.argv = ["", {str(path)!r}, {str(out)!r}, "--to", "BN"]; '
        'runpy.run_path("tools/convert_checkpoint.py", run_name="__main__")'
    )
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'bn1.running_var' in torch.load(out, weights_only=True)['state_dict']
