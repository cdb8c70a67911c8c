"""What the papers state of how they trained and tested is what the built network and the run of each row have."""

import functools

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmnorm.convert.sources import kind_of
from mmnorm.experiments.catalogue import catalogue
from mmnorm.experiments.properties import main_network, network_properties, run_properties

CHECKED = [setting for setting in catalogue().settings if setting.check]


@pytest.fixture(scope='module')
def properties(built):
    @functools.cache
    def of(name):
        row = catalogue().run_of(catalogue()[name])
        cfg, model = built(row.id)
        return {**run_properties(row, cfg), **network_properties(cfg, model), **starts(cfg)}

    return of


def norm_cfgs(node, kind):
    """Every norm_cfg of this kind in a model's config."""
    if isinstance(node, dict) and node.get('type') == kind:
        yield dict(node)
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            yield from norm_cfgs(child, kind)


def starts(cfg):
    """How the first norm of the network starts, and the last of each block."""
    network = main_network(cfg.model)
    _, layer = build_norm_layer(dict(network.norm_cfg), 64)
    found = {}
    if getattr(layer, 'weight', None) is not None:
        assert layer.bias.eq(0).all()
        found['last_gamma'] = 0 if network.get('zero_init_residual') else layer.weight.flatten()[0].item()
        assert layer.weight.eq(layer.weight.flatten()[0]).all()
    if hasattr(layer, 'mean_weight'):
        (found['logits'],) = {*layer.mean_weight.tolist(), *layer.var_weight.tolist()}
    for settings in norm_cfgs(cfg.model, 'ILM'):
        _, layer = build_norm_layer(settings, 64)
        assert found.setdefault('ilm_start', layer.init) == layer.init
        # Its values too: of a standard normal distribution half are beyond 0.674; of the other none, as their bound is
        # 1 / sqrt(128).
        wide = type(layer)(2048, init=layer.init)
        for parameter in (wide.encoder_weight, wide.mean_decoder_weight, wide.var_decoder_weight):
            far = (parameter.abs() > 0.674).float().mean()
            assert (0.4 < far < 0.6) == (layer.init == 'normal')
    if hasattr(layer, 'importance_ratios'):
        ratios = layer.importance_ratios(torch.randn(3, 64, 4, 4))
        found['uniform_start'] = torch.equal(ratios, torch.full_like(ratios, 1 / 3))
    return found


def rows_of(setting):
    rows = catalogue().matching(setting.rows)
    return [row.id for row in rows if row.kind in ('train', 'same')]


@pytest.mark.parametrize('setting', CHECKED, ids=lambda setting: f'{setting.paper}: {setting.setting}')
def test_what_is_stated_is_what_is_built(setting, properties):
    rows = rows_of(setting)
    assert rows
    for row in rows:
        found = properties(row)
        assert {key: found.get(key) for key in setting.check} == dict(setting.check), row


@pytest.mark.parametrize('name', [row.id for row in catalogue().experiments.values() if row.kind in ('train', 'test')])
def test_every_row_builds(name, built):
    """Its network has the norm that the row is about."""
    row = catalogue()[name]
    _, model = built(name)
    # Over images LN is GN of one group; in an LSTM it is LN.
    kinds = {'LN', 'GN'} if row.norm == 'LN' else {row.norm}
    assert kinds & {kind_of(module) for module in model.modules()}


def test_every_setting_that_differs_says_why():
    for setting in catalogue().settings:
        same = setting.here.startswith(('as stated', setting.states))
        assert same or setting.why or setting.here == setting.code, setting.setting


def rates(cfg, steps, epoch_length):
    """The learning rate at the start of these iterations, by the schedulers as the Runner builds them."""
    wrapper = build_optim_wrapper(nn.Linear(1, 1), dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer))
    schedulers = []
    end = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    for entry in cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]:
        entry = {key: value for key, value in entry.items() if key != '_scope_'}
        by_epoch = entry.pop('by_epoch', True)
        cls = PARAM_SCHEDULERS.get(entry.pop('type'))
        if entry.pop('convert_to_iter_based', False):
            scheduler = cls.build_iter_from_epoch(wrapper, by_epoch=True, epoch_length=epoch_length, **entry)
            by_epoch = False
        else:
            entry.setdefault('end', end)
            scheduler = cls(wrapper, by_epoch=by_epoch, **entry)
        schedulers.append((scheduler, by_epoch))
    found = {}
    for iteration in range(max(steps) + 1):
        if iteration in steps:
            found[iteration] = wrapper.get_lr()['lr'][0]
        for scheduler, by_epoch in schedulers:
            if not by_epoch or (iteration + 1) % epoch_length == 0:
                scheduler.step()
    return [found[step] for step in steps]


def test_warm_up_of_cifar_is_from_0_in_the_first_epoch(built):
    """391 batches of 128 make an epoch."""
    cfg, _ = built('en/table5/cifar10-resnet20-en')
    first, middle, last, after = rates(cfg, (0, 195, 390, 391), 391)
    assert first < 1e-6
    assert middle == pytest.approx(0.05, rel=0.01)
    assert last == pytest.approx(0.1, rel=1e-6)
    assert after == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('en/table5/cifar10-resnet20-en', {79: 0.1, 80: 0.01, 119: 0.01, 120: 0.001, 164: 0.001}),
        ('ilm/table1/ilm-gn', {0: 0.1, 149: 0.1, 150: 0.01, 249: 0.01, 250: 0.001}),
        ('ilm/table3/ilm-gn', {0: 0.025, 29: 0.025, 30: 0.0025, 60: 0.00025, 90: 0.000025}),
        ('sn/table2/sn-8x2', {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001}),
        ('sn/table4/sn', {7: 0.02, 8: 0.002, 11: 0.0002}),
    ],
)
def test_rate_by_epoch(built, name, expected):
    # Long enough for mmdet's warm-up.
    length = 200
    found = rates(built(name)[0], [epoch * length + length - 1 for epoch in expected], length)
    assert found == pytest.approx(list(expected.values()))


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('sn/table3/sn', {600: 0.01, 79_999: 0.01, 80_000: 0.001, 119_999: 0.001}),
        ('sn/table3/gn-scratch', {79_999: 0.01, 80_000: 0.001}),
        ('ilm/table5/ilm-2', {59_999: 0.0025, 60_000: 0.00025, 80_000: 0.000025}),
        ('en/table6/ade20k-en', {0: 0.02, 50_000: 0.02 * 0.5**0.9}),
    ],
)
def test_rate_by_iteration(built, name, expected):
    found = rates(built(name)[0], list(expected), 10**9)
    assert found == pytest.approx(list(expected.values()), rel=1e-3)
