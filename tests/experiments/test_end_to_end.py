"""A row of each paper from pretraining to evaluation on the built-in digits, and what compare says of it."""

import contextlib
import importlib
import io
import runpy
import sys
from pathlib import Path

import pytest
import torch
from helpers import in_fork

from mmnorm.experiments import run

ROOT = Path(__file__).resolve().parents[2]
ROWS = ('sn/table4/sn', 'en/table6/ade20k-en', 'ilm/table1/ilm-gn')


def execute(command, log):
    """As processes.execute, in a fork of this process."""
    program, *words = command
    assert program == 'mmnorm'
    in_fork(log, *words)
    return 0


def experiments(*arguments):
    """tools/experiments.py in this process; returns what it printed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(ROOT)
        # run() has it as a default.
        patch.setattr(run.run, '__defaults__', (print, execute))
        patch.setattr(sys, 'argv', ['experiments.py', *map(str, arguments)])
        runpy.run_path('tools/experiments.py', run_name='__main__')
    return printed.getvalue()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """The folder of these runs, and what was printed."""
    for codebase in ('mmpretrain', 'mmseg', 'mmdet'):
        importlib.import_module(f'{codebase}.models')
    folder = tmp_path_factory.mktemp('experiments')
    return folder, experiments('run', *ROWS, '--tiny', '--root', folder)


def state(folder):
    path = (folder / 'seed_0/last_checkpoint').read_text().strip()
    return torch.load(path, weights_only=False)['state_dict']


def test_pretraining_and_rows_have_run(root):
    folder, output = root
    titles = [line.partition('] ')[2] for line in output.splitlines() if line.startswith('[')]
    assert titles == [
        'sn/table2/sn-8x32: training, seed 0',
        'sn/table4/sn: training, seed 0',
        'en/table6/pretraining-en: training, seed 0',
        'en/table6/ade20k-en: training, seed 0',
        'en/table6/ade20k-en: test at several scales',
        'ilm/table1/ilm-gn: training, seed 0',
    ]
    again = experiments('run', *ROWS, '--tiny', '--root', folder)
    assert again.count(': done, ') == len(titles)


@pytest.mark.parametrize(
    ('row', 'pretraining'),
    [('sn/table4/sn', 'sn/table2/sn-8x32'), ('en/table6/ade20k-en', 'en/table6/pretraining-en')],
)
def test_the_backbone_started_from_the_pretraining(root, row, pretraining):
    """The network of a few steps later is near it, and nowhere near another start."""
    folder, _ = root
    name = 'backbone.layer1.0.conv2.weight'
    start, end = state(folder / pretraining)[name], state(folder / row)[name]
    assert (end - start).norm() < 0.1 * start.norm()


def test_a_run_that_was_stopped_goes_on(root):
    """From its last checkpoint: to the same network, as if it had never been stopped."""
    folder, _ = root
    run_of_ilm = folder / 'ilm/table1/ilm-gn/seed_0'
    last = run_of_ilm / 'epoch_2.pth'
    before = torch.load(last, weights_only=False)['state_dict']
    last.unlink()
    (run_of_ilm / 'last_checkpoint').write_text(str(run_of_ilm / 'epoch_1.pth'))
    output = experiments('run', 'ilm/table1/ilm-gn', '--tiny', '--root', folder)
    assert ': done' not in output
    assert 'resumed epoch: 1' in (run_of_ilm / 'train.txt').read_text()
    after = torch.load(last, weights_only=False)['state_dict']
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_networks_are_those_of_the_papers(root):
    folder, _ = root
    assert state(folder / 'sn/table4/sn')['backbone.layer4.2.bn3.mean_weight'].shape == (3,)
    assert state(folder / 'en/table6/ade20k-en')['backbone.layer4.2.bn3.conv_weight'].shape == (64, 32)
    assert state(folder / 'ilm/table1/ilm-gn')['backbone.layer3.22.gn3.encoder_weight'].shape == (4, 64)


def test_beside_the_paper(root, tmp_path):
    folder, _ = root
    picture, page = tmp_path / 'bars.png', tmp_path / 'table.md'
    arguments = [*ROWS, '--tiny', '--root', folder, '--out', page, '--picture', picture]
    output = experiments('compare', *arguments)
    assert page.read_text() in output
    for row, figure in (
        ('sn/table4/sn', 'AP | 39.3'),
        ('en/table6/ade20k-en', 'mIoU % | 38.2'),
        ('en/table6/ade20k-en', 'mIoU %, several scales | 38.9'),
        ('ilm/table1/ilm-gn', 'top-1 error % | 5.88'),
    ):
        (line,) = [line for line in output.splitlines() if line.startswith(f'| {row} ') and f'| {figure} |' in line]
        assert float(line.split('|')[5]) >= 0
    assert picture.read_bytes().startswith(b'\x89PNG')
