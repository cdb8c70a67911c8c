"""tools/train.py killed with SIGKILL and resumed, to the weights of the uninterrupted run, bit by bit."""

import importlib
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
DEMO = 'configs/demo/deeplab_en_r18_digits.py'

# A plugin of the run that pulls the plug in the middle of a write.
PLUG = """
import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class PlugHook(Hook):
    def before_save_checkpoint(self, runner, checkpoint):
        if str(runner.iter) == os.environ.get('KILL_IN_SAVE'):
            # The file is half there when the process dies.
            os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
"""

CONFIG = f"""
_base_ = '{ROOT / DEMO}'
custom_imports = dict(imports=['mmnorm', 'plug'])
crop = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomCrop', crop_size=(32, 32)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]
model = dict(data_preprocessor=dict(size=(32, 32)), decode_head=dict(dropout_ratio=0.5))
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=crop))
train_cfg = dict(max_iters=5, val_interval=3)
default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=1), logger=dict(interval=1))
custom_hooks = [dict(type='PlugHook')]
# Left to chance; a resumed run has to find it again.
randomness = dict(seed=None)
"""


@pytest.fixture
def train(digits, tmp_path, monkeypatch):
    """Run tools/train.py in a fork of this process, which has imported everything; returns what it printed."""
    importlib.import_module('mmseg.models')
    (tmp_path / 'plug.py').write_text(PLUG)
    config = tmp_path / 'config.py'
    config.write_text(CONFIG)
    root = digits / 'ade/ADEChallengeData2016'
    options = [f'{loader}_dataloader.dataset.data_root={root}' for loader in ('train', 'val', 'test')]
    monkeypatch.chdir(ROOT)

    def child(log, arguments, environment):
        sys.stdout = sys.stderr = log.open('w')
        for descriptor in (1, 2):
            os.dup2(sys.stdout.fileno(), descriptor)
        os.environ.update(environment)
        torch.set_num_threads(1)
        sys.path.insert(0, str(tmp_path))
        sys.argv = ['tools/train.py', *map(str, arguments)]
        runpy.run_path(sys.argv[0], run_name='__main__')

    def run(work_dir, *arguments, killed=False, seed=None, **environment):
        log = tmp_path / 'log.txt'
        arguments = [config, '--work-dir', tmp_path / work_dir, *arguments, '--cfg-options', *options]
        arguments += [] if seed is None else [f'randomness.seed={seed}']
        process = os.fork()
        if process == 0:
            status = 1
            try:
                child(log, arguments, environment)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert status == (-signal.SIGKILL if killed else 0), log.read_text()[-4000:]
        return log.read_text()

    return run


def load(path):
    checkpoint = torch.load(path, weights_only=False)
    states = checkpoint['optimizer']['state'].items()
    moments = {f'{name} {i}': tensor for i, state in states for name, tensor in state.items()}
    return checkpoint['meta'], {**checkpoint['state_dict'], **moments}


def test_killed_and_resumed(train, tmp_path):
    folder = tmp_path / 'killed'
    # The 4th iteration is the second that saves: the only checkpoint must not be gone when the process dies half way.
    train('killed', killed=True, KILL_IN_SAVE='3')
    assert {path.name for path in folder.glob('iter_*')} == {'iter_2.pth', 'iter_4.pth.part'}
    assert (folder / 'last_checkpoint').read_text().endswith('iter_2.pth')
    # As if it had been killed while it wrote that line.
    (folder / 'last_checkpoint').write_text('')
    output = train('killed', '--resume')
    assert 'resumed epoch: 0, iter: 2' in output
    assert [path.name for path in folder.glob('iter_*')] == ['iter_5.pth']
    meta, resumed = load(folder / 'iter_5.pth')

    train('whole', seed=meta['seed'])
    _, whole = load(tmp_path / 'whole/iter_5.pth')
    assert resumed.keys() == whole.keys()
    different = [name for name in whole if not torch.equal(resumed[name], whole[name])]
    assert not different
    dumped = (folder / 'config.py').read_text()
    for name in ('NormEvalHook', 'ExactResumeHook', 'LearnedNormOptimWrapperConstructor'):
        assert dumped.count(name) == 1, name


@pytest.mark.parametrize('name', ['train', 'test'])
def test_damaged_and_foreign_checkpoints_change_nothing(name, refuse, digits, tmp_path):
    root = digits / 'ade/ADEChallengeData2016'
    options = [f'{loader}_dataloader.dataset.data_root={root}' for loader in ('train', 'val', 'test')]
    work_dir, checkpoint = tmp_path / 'work', tmp_path / 'iter_2.pth'
    given = ['--resume', checkpoint] if name == 'train' else [checkpoint]
    arguments = [name, DEMO, *given, '--work-dir', work_dir, '--cfg-options', *options]
    torch.save({'state_dict': {'stem.weight': torch.zeros(300)}, 'meta': {'epoch': 0, 'iter': 2}}, checkpoint)
    assert f'{checkpoint} (from ' in refuse(*arguments)
    assert 'is of another model' in refuse(*arguments)
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-100])
    assert f'checkpoint is truncated: {checkpoint}' in refuse(*arguments)
    assert not work_dir.exists()
    assert checkpoint.read_bytes() == whole[:-100]


def test_the_latest_checkpoint_is_damaged(refuse, digits, tmp_path):
    """It is not passed over in silence for an older one."""
    root = digits / 'ade/ADEChallengeData2016'
    options = [f'{loader}_dataloader.dataset.data_root={root}' for loader in ('train', 'val', 'test')]
    (tmp_path / 'iter_2.pth').write_bytes(b'PK\x03\x04')
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/iter_2.pth')
    before = sorted(tmp_path.iterdir())
    message = refuse('train', DEMO, '--resume', '--work-dir', tmp_path, '--cfg-options', *options)
    assert f'checkpoint is truncated: {tmp_path}/iter_2.pth (from --resume)' in message
    assert sorted(tmp_path.iterdir()) == before
