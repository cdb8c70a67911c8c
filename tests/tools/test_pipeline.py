"""The line from pretraining to evaluation, cut short: every step runs, and the backbones start from the checkpoint."""

import contextlib
import importlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from helpers import in_fork
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).resolve().parents[2]
TASKS = ('segmentation', 'detection')


def run_pipeline(*arguments):
    """tools/pipeline.py in this process; returns what it printed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(ROOT)
        patch.setattr('mmnorm.commands.pipeline.run_step', in_fork)
        patch.setattr(sys, 'argv', ['pipeline.py', *map(str, arguments)])
        runpy.run_path('tools/pipeline.py', run_name='__main__')
    return printed.getvalue()


@pytest.fixture(scope='module')
def line(tmp_path_factory):
    """The folder of a very short run, and what it printed."""
    for codebase in ('mmpretrain', 'mmseg', 'mmdet'):
        importlib.import_module(f'{codebase}.models')
    out = tmp_path_factory.mktemp('pipeline')
    return out, run_pipeline('--out', out, '--iterations', 1, '--images', 32)


def backbone(work_dir, initialized=False):
    """Weights of the backbone that the run in ``work_dir`` started from, or ended with."""
    if not initialized:
        path = (work_dir / 'last_checkpoint').read_text().strip()
        state = torch.load(path, weights_only=False)['state_dict']
        return {name.removeprefix('backbone.'): w for name, w in state.items() if name.startswith('backbone.')}
    (config,) = work_dir.glob('*_digits.py')
    cfg = Config.fromfile(config)
    importlib.import_module(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.backbone.state_dict()


def test_table(line):
    _, output = line
    for task, metric in zip(TASKS, ('mIoU', 'box AP'), strict=True):
        numbers = r' +-?\d+\.\d\d \(it\. +1\)' * 2 + r' +-?\d+\.\d\d +\d+ s$'
        for start in ('finetuned', 'scratch'):
            assert re.search(rf'^{task} +{start} +{metric}{numbers}', output, re.MULTILINE), output
    assert len(re.findall(r'^ +finetuning started better: (yes|no) \([+-]', output, re.MULTILINE)) == len(TASKS)


@pytest.mark.parametrize('task', TASKS)
def test_finetuning_starts_from_the_checkpoint(line, task):
    out, _ = line
    trained = backbone(out / 'classification')
    start = backbone(out / task / 'finetuned', initialized=True)
    assert start.keys() == trained.keys()
    assert all(torch.equal(start[name], trained[name]) for name in trained)
    scratch = backbone(out / task / 'scratch', initialized=True)
    assert not torch.equal(scratch['layer1.0.conv1.weight'], trained['layer1.0.conv1.weight'])


@pytest.mark.parametrize('run', ['classification', 'segmentation/finetuned', 'detection/scratch'])
def test_batch_average_at_the_end(line, run):
    out, _ = line
    log = (out / run / 'train.txt').read_text()
    assert log.index('Batch average over') < log.index('Saving checkpoint at')


@pytest.mark.parametrize('task', TASKS)
def test_several_scales(line, task):
    out, _ = line
    for start in ('finetuned', 'scratch'):
        assert json.loads((out / task / start / 'tta.json').read_text())
        assert re.search('TTAModel', (out / task / start / 'test.txt').read_text())


@pytest.mark.parametrize(('option', 'value'), [('--iterations', 0), ('--images', 3)])
def test_refuses_too_little(capsys, tmp_path, option, value):
    with pytest.raises(SystemExit) as stopped:
        run_pipeline('--out', tmp_path / 'new', option, value)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f'error: {option} is {value}, expected at least')
    assert not (tmp_path / 'new').exists()
