"""The constructor treats SN, EN and ILM as mmengine's default treats BatchNorm, and knows their ratio parameters."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

import mmnorm

LR, DECAY = 0.1, 0.01
NORMS = [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d, mmnorm.InstanceMetaNorm2d]
PARAMWISE = {
    'norm': dict(norm_decay_mult=0),
    'bias': dict(bias_decay_mult=0.5, bias_lr_mult=2.0),
    'both': dict(norm_decay_mult=0.25, bias_decay_mult=0.5, bias_lr_mult=2.0),
    'flat': dict(flat_decay_mult=0.0),
    'depthwise': dict(dwconv_decay_mult=0.0),
    'custom': dict(norm_decay_mult=0, custom_keys={'norm.weight': dict(lr_mult=3.0, decay_mult=0.1)}),
    'duplicates': dict(norm_decay_mult=0, bypass_duplicate=True),
}


class Network(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 3, groups=64)
        self.norm = norm(64)
        self.shared = self.conv
        self.head = nn.Linear(64, 2)


def options(norm, constructor='LearnedNormOptimWrapperConstructor', freeze=False, **paramwise_cfg):
    """(lr, weight_decay) of each parameter by name."""
    model = Network(norm)
    if freeze:
        model.norm.requires_grad_(False)
    cfg = dict(
        optimizer=dict(type='SGD', lr=LR, weight_decay=DECAY), constructor=constructor, paramwise_cfg=paramwise_cfg
    )
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    found = {id(p): (group['lr'], group['weight_decay']) for group in groups for p in group['params']}
    return {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found}


@pytest.mark.filterwarnings('ignore:optimizer contains a parameter group with duplicate')
@pytest.mark.parametrize('paramwise_cfg', PARAMWISE.values(), ids=PARAMWISE)
@pytest.mark.parametrize('norm', NORMS)
def test_as_batch_norm(norm, paramwise_cfg):
    if not paramwise_cfg.get('bypass_duplicate'):
        paramwise_cfg = {**paramwise_cfg, 'bypass_duplicate': True}
    expected = options(nn.BatchNorm2d, 'DefaultOptimWrapperConstructor', **paramwise_cfg)
    actual = options(norm, **paramwise_cfg)
    assert expected['norm.weight'] != (LR, DECAY) or 'norm_decay_mult' not in paramwise_cfg
    assert {name: actual[name] for name in expected} == expected
    # The constructor changes nothing for other models.
    assert options(nn.BatchNorm2d, **paramwise_cfg) == expected


@pytest.mark.parametrize('norm', NORMS)
def test_ratio_parameters(norm):
    plain = options(norm, norm_decay_mult=0, bypass_duplicate=True)
    ratios = [name for name in plain if name.startswith('norm.') and name not in ('norm.weight', 'norm.bias')]
    assert len(ratios) >= 2
    assert all(plain[name] == (LR, DECAY) for name in ratios)
    actual = options(norm, norm_decay_mult=0, ratio_lr_mult=0.1, ratio_decay_mult=0, bypass_duplicate=True)
    assert all(actual.pop(name) == (LR * 0.1, 0) for name in ratios)
    assert all(value == plain[name] for name, value in actual.items())
    custom = dict(custom_keys={ratios[0]: dict(lr_mult=5.0)})
    actual = options(norm, ratio_lr_mult=0.1, bypass_duplicate=True, **custom)
    assert actual[ratios[0]] == (LR * 5, DECAY)
    assert actual[ratios[1]] == (LR * 0.1, DECAY)


def test_biases_of_the_ratio_net_are_biases():
    mults = dict(bias_decay_mult=0.5, bias_lr_mult=2.0, bypass_duplicate=True)
    actual = options(mmnorm.ExemplarNorm2d, **mults)
    assert actual['norm.fc1_bias'] == actual['head.bias'] == (LR * 2, DECAY * 0.5)
    assert actual['norm.fc1_weight'] == (LR, DECAY)
    actual = options(mmnorm.ExemplarNorm2d, ratio_lr_mult=0.1, ratio_decay_mult=0, **mults)
    assert actual['norm.fc1_bias'] == (LR * 0.1, 0)


@pytest.mark.parametrize('norm', NORMS)
def test_frozen_norms_are_left_out(norm):
    names = options(norm, freeze=True, norm_decay_mult=0, bypass_duplicate=True)
    assert not any(name.startswith('norm.') for name in names)


@pytest.mark.parametrize('key', ['ratio_lr_mult', 'ratio_decay_mult'])
def test_wrong_multipliers(key):
    with pytest.raises(ValueError, match=f"{key} must be a number >= 0, got 'fast'"):
        options(mmnorm.SwitchableNorm2d, **{key: 'fast'})
    with pytest.raises(ValueError, match='got -1'):
        options(mmnorm.SwitchableNorm2d, **{key: -1})


def test_nothing_to_multiply():
    cfg = dict(
        optimizer=dict(type='SGD', lr=LR),
        constructor='LearnedNormOptimWrapperConstructor',
        paramwise_cfg=dict(ratio_decay_mult=0),
    )
    with pytest.raises(ValueError, match='nothing to multiply: give the optimizer its weight_decay'):
        build_optim_wrapper(Network(mmnorm.SwitchableNorm2d), cfg)


def test_the_rate_multiplier_takes_effect():
    layer = mmnorm.SwitchableNorm2d(4)
    cfg = dict(
        optimizer=dict(type='SGD', lr=LR),
        constructor='LearnedNormOptimWrapperConstructor',
        paramwise_cfg=dict(ratio_lr_mult=0.0),
    )
    wrapper = build_optim_wrapper(layer, cfg)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    x = torch.randn(2, 4, 3, 3)
    wrapper.update_params((layer(x) * torch.randn_like(x)).sum())
    moved = {name for name, p in layer.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {'weight', 'bias'}


@pytest.mark.parametrize('norm', [*NORMS, nn.BatchNorm2d])
@pytest.mark.parametrize(
    'mults',
    [
        dict(norm_decay_mult=0),
        dict(bias_decay_mult=0.5),
        dict(norm_decay_mult=0.25, bias_decay_mult=0.5, ratio_lr_mult=0.1, ratio_decay_mult=0),
    ],
    ids=' '.join,
)
def test_groups_in_plain_pytorch_are_the_same(norm, mults):
    expected = options(norm, bypass_duplicate=True, **mults)
    model = Network(norm)
    groups = mmnorm.param_groups(model, LR, DECAY, **mults)
    found = {id(p): (group['lr'], group['weight_decay']) for group in groups for p in group['params']}
    assert {name: found[id(p)] for name, p in model.named_parameters()} == expected
