"""A sweep on the built-in digits: what is done is passed over, what was cut goes on, the table has every run."""

import importlib
import json
import threading

import pytest
import torch
from helpers import in_fork

from mmnorm.datasets import write_layout
from mmnorm.experiments.sweeps.claims import claim
from mmnorm.experiments.sweeps.plan import read_plan
from mmnorm.experiments.sweeps.queue import missing, work_off
from mmnorm.experiments.sweeps.table import read_table

PLAN = """
config: cifar/resnet20_bn_cifar10_sweep.py
metric: accuracy/top1
set: {model.backbone.base_channels: 8, model.head.in_channels: 32}
norms:
  BN: {}
  EN: {set: {model.backbone.norm_cfg.type: EN}, flags: [--fuse]}
sets:
  - {name: small, batch: 2, iterations: 8, rates: [0.01]}
"""


def execute(command, log):
    """As processes.execute, in a fork of this process."""
    program, *words = command
    assert program == 'mmnorm'
    in_fork(log, *words)
    return 0


def cut(command, log):
    """The same, ended after half of the iterations."""
    execute([word.replace('max_iters=8', 'max_iters=4') for word in command], log)
    raise KeyboardInterrupt


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    importlib.import_module('mmpretrain.models')
    root, _ = write_layout('imagenet', out=tmp_path_factory.mktemp('digits'), train=8, val=10, size=(32, 32))
    (root / 'test').symlink_to(root / 'val')
    return root


def sweep(folder, data, with_, text=PLAN):
    folder.mkdir(exist_ok=True)
    path, said = folder / 'plan.yaml', []
    path.write_text(text)
    roots, extra = {'data/cifar10_images': str(data)}, {'default_hooks.logger.interval': 1}
    try:
        work_off(path, folder / 'runs', roots, extra, said.append, with_)
    finally:
        (folder / 'said.json').write_text(json.dumps(said))
    return read_plan(path), said


def weights(folder):
    (path,) = folder.glob('runs/plan/small/EN/*/iter_8.pth')
    return torch.load(path, weights_only=False)['state_dict']


def test_runs_are_cut_and_go_on(tmp_path, data):
    plan, said = sweep(tmp_path / 'whole', data, execute)
    assert [line.split(' ', 1)[1].split(';')[0] for line in said[:-1:2]] == [
        'small/BN, rate 0.01, seed 0, of 2 to run',
        'small/EN, rate 0.01, seed 0, of 1 to run',
    ]
    assert missing(plan) == []
    whole = read_table(plan.table)
    assert [record.run for record in whole] == list(plan.runs)
    assert set(whole[1].ratios) == {'EN/IN', 'EN/LN', 'EN/BN'}
    assert len(whole[0].loss) == 8

    # All is done: nothing may be run.
    _, said = sweep(tmp_path / 'whole', data, None)
    assert said == [f'nothing is left to run; {plan.table} has 2 runs']

    # Cut in each run.
    for _ in plan.runs:
        with pytest.raises(SystemExit):
            sweep(tmp_path / 'parts', data, cut)
        half, _ = sweep_one(tmp_path / 'parts', data)
    parts = read_table(half.table)
    assert [(r.run, r.value, r.loss) for r in parts] == [(r.run, r.value, r.loss) for r in whole]
    expected, found = weights(tmp_path / 'whole'), weights(tmp_path / 'parts')
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def sweep_one(folder, data):
    """One run more."""
    ran = []

    def once(command, log):
        if ran:
            raise KeyboardInterrupt
        ran.append(command)
        return execute(command, log)

    try:
        return sweep(folder, data, once)
    except SystemExit:
        return read_plan(folder / 'plan.yaml'), ran


def test_processes_share_a_plan(tmp_path, data):
    """While BN is trained, another process comes, and finds EN to be trained."""
    heard = []

    def with_another(command, log):
        if not heard:
            heard.append('')
            heard[:] = sweep(tmp_path, data, execute)[1]
        return execute(command, log)

    plan, said = sweep(tmp_path, data, with_another)
    assert [record.run.norm for record in read_table(plan.table)] == ['EN', 'BN']
    assert 'small/EN, rate 0.01, seed 0, of 2 to run' in heard[0]
    assert heard[-1] == 'what is left to run (1) is in the hands of other processes'
    assert said[-1] == f'nothing is left to run; {plan.table} has 2 runs'


def test_a_claim_is_waited_for(tmp_path):
    order = []

    def wait():
        with claim(tmp_path / 'run', wait=True) as ours:
            order.append(ours)

    waiting = threading.Thread(target=wait)
    with claim(tmp_path / 'run') as ours, claim(tmp_path / 'run') as again:
        assert (ours, again) == (True, False)
        waiting.start()
        waiting.join(0.2)
        order.append('free')
    waiting.join(10)
    assert order == ['free', True]


STARTED = """
  - {name: tuned, batch: 2, iterations: 8, rates: [0], norms: [EN], start: small/BN}
"""


def test_a_run_starts_from_the_best_of_another(tmp_path, data):
    text = PLAN.replace('rates: [0.01]', 'rates: [0.01, 0.1], norms: [BN]') + STARTED
    plan, _ = sweep(tmp_path, data, execute, text)
    *sources, tuned = read_table(plan.table)
    assert [record.run.group for record in sources] == ['small', 'small']
    assert tuned.run.start == 'small/BN'
    best = max(sources, key=lambda record: record.value)

    def weights_of(run):
        path = tmp_path / 'runs/plan' / run.folder / 'iter_8.pth'
        return torch.load(path, weights_only=False)['state_dict']

    # At a rate of 0 nothing has been learned since.
    before, after = weights_of(best.run), weights_of(tuned.run)
    assert torch.equal(before['backbone.conv1.weight'], after['backbone.conv1.weight'])
    assert not torch.equal(before['head.fc.weight'], after['head.fc.weight'])

    # The line is there, and the checkpoint is not: it is trained again, and no line is added.
    (tmp_path / 'runs').rename(tmp_path / 'gone')
    lines = plan.table.read_text().splitlines(keepends=True)
    plan.table.write_text(''.join(lines[:-1]))
    sweep(tmp_path, data, execute, text)
    again = read_table(plan.table)
    assert [record.run for record in again] == [*(record.run for record in sources), tuned.run]
    assert again[-1].value == tuned.value
