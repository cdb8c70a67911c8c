"""What a plan says, and what it may not say."""

import copy
import functools

import pytest
from mmengine.config import Config

from mmnorm.errors import UsageError
from mmnorm.experiments.commands import CONFIGS
from mmnorm.experiments.sweeps.plan import read_plan
from mmnorm.experiments.sweeps.queue import data_settings, settings_of, step_of

ROOT = CONFIGS.parent
HEAD = """
config: cifar/resnet20_bn_cifar10_sweep.py
metric: accuracy/top1
set: {a.b: 1}
norms:
  BN: {}
  EN: {set: {model.backbone.norm_cfg.type: EN, a.b: 2}, flags: [--fuse]}
sets:
"""


def plan_of(folder, sets, head=HEAD):
    path = folder / 'plan.yaml'
    path.write_text(head + sets)
    return read_plan(path)


def test_runs_in_order(tmp_path):
    plan = plan_of(tmp_path, '  - {name: x, batch: 2, iterations: 100, rates: [1e-3, 0.01], seeds: [0, 1]}')
    assert [(run.seed, run.rate, run.norm) for run in plan.runs] == [
        (seed, rate, norm) for seed in (0, 1) for rate in (0.001, 0.01) for norm in ('BN', 'EN')
    ]
    assert plan.table == tmp_path / 'plan.jsonl'
    assert len({run.folder for run in plan.runs}) == len(plan.runs)


def test_settings_of_plan_norm_and_set(tmp_path):
    plan = plan_of(tmp_path, '  - {name: x, batch: 2, iterations: 100, rates: [1], set: {c: 3}, flags: [--amp]}')
    bn, en = plan.runs
    assert (bn.options, bn.flags) == ({'a.b': 1, 'c': 3}, ('--amp',))
    assert (en.options, en.flags) == ({'a.b': 2, 'c': 3, 'model.backbone.norm_cfg.type': 'EN'}, ('--fuse', '--amp'))


def test_rates_by_norm_and_the_same_run_once(tmp_path):
    one = '  - {name: x, batch: 2, iterations: 100, rates: {BN: [0.1, 0.2], EN: [0.3]}}\n'
    plan = plan_of(tmp_path, one + one.replace('name: x', 'name: y').replace('EN: [0.3]', 'EN: [0.4]'))
    assert [(run.group, run.norm, run.rate) for run in plan.runs] == [
        ('x', 'BN', 0.1),
        ('x', 'EN', 0.3),
        ('x', 'BN', 0.2),
        ('y', 'EN', 0.4),
    ]


@pytest.mark.parametrize(
    ('sets', 'words'),
    [
        ('  - {name: x, batch: 2, rates: [1]}', 'iterations is missing'),
        ('  - {name: x, batch: 2, iterations: 9, rates: [1], rate: 2}', 'unknown rate'),
        ('  - {name: x, batch: 2, iterations: 9, rates: [1], norms: [SN]}', 'no norm SN in the plan; it has BN, EN'),
        ('  - {name: x, batch: 2, iterations: 9, rates: [high]}', "a rate must be a number, got 'high'"),
        ('  - {name: x, batch: 2, iterations: 9, rates: [1], start: y}', 'starts from y/BN, and there is no such run'),
        ('  - {name: x, batch: 2, iterations: 9, rates: [1], set: {a: {b: 1}}}', 'give each with dots, a.KEY: VALUE'),
        ('  - {', 'is not YAML'),
        ('  - x', "expected keys and values, got 'x'"),
        (
            '  - {name: x, batch: 2, iterations: 9, rates: [1]}\n  - {name: x, batch: 3, iterations: 9, rates: [1]}',
            'two runs that differ are called "x/BN, rate 1, seed 0"',
        ),
    ],
)
def test_refused(tmp_path, sets, words):
    with pytest.raises(UsageError) as refused:
        plan_of(tmp_path, sets)
    assert words in str(refused.value)


def test_no_such_plan(tmp_path):
    with pytest.raises(UsageError, match='plan not found'):
        read_plan(tmp_path / 'plan.yaml')


def test_the_schedule_is_stretched(tmp_path):
    (run, _) = plan_of(tmp_path, '  - {name: x, batch: 2, iterations: 8000, rates: [0.003], seeds: [5]}').runs
    cfg = Config.fromfile(CONFIGS / run.config)
    assert cfg.train_cfg.max_iters == 1000
    cfg.merge_from_dict(settings_of(run, cfg))
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == 8000
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 800), (800, 8000)]
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.optim_wrapper.optimizer.lr == 0.003
    assert cfg.randomness.seed == 5
    assert cfg.custom_hooks[0] == dict(type='NormRatioHook', interval=400)


def test_steps_of_the_rate_in_proportion(tmp_path):
    head = HEAD.replace('cifar10_sweep', 'cifar10_steps')
    run = plan_of(tmp_path, '  - {name: x, batch: 128, iterations: 1650, rates: [0.1]}', head).runs[0]
    cfg = Config.fromfile(CONFIGS / run.config)
    cfg.merge_from_dict(settings_of(run, cfg))
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.end, steps.milestones) == (10, [800, 1200])


def test_where_data_are():
    cfg = Config.fromfile(CONFIGS / 'cifar/resnet20_bn_cifar10_sweep.py')
    found = data_settings(cfg, {'data/cifar10_images': '/x', 'data/camvid': '/y'})
    assert found == {f'{name}_dataloader.dataset.data_root': '/x' for name in ('train', 'val', 'test')}
    assert data_settings(cfg, {'data/camvid': '/y'}) == {}
    # COCO's evaluator has a path of its own.
    cfg = Config.fromfile(CONFIGS / 'pipeline/faster_rcnn_bn_r18_fpn_digits.py')
    found = data_settings(cfg, {'data/digits/coco/': '/z'})
    assert found['val_evaluator.ann_file'] == '/z/annotations/instances_val2017.json'
    assert found['test_dataloader.dataset.data_root'] == '/z'


def test_a_config_of_epochs_is_refused(tmp_path):
    head = HEAD.replace('cifar10_sweep', 'cifar10')
    run, _ = plan_of(tmp_path, '  - {name: x, batch: 2, iterations: 9, rates: [1]}', head).runs
    with pytest.raises(UsageError, match='this one counts epochs'):
        step_of(run, tmp_path, {}, {})


@pytest.mark.parametrize('path', sorted((ROOT / 'docs/results').glob('*.yaml')), ids=lambda path: path.stem)
def test_plans_of_the_project(path):
    read = functools.cache(Config.fromfile)
    for run in read_plan(path).runs:
        cfg = copy.deepcopy(read(CONFIGS / run.config))
        cfg.merge_from_dict(settings_of(run, cfg))
