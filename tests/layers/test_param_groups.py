"""Groups of parameters for an optimizer: every parameter once, each with the rate and decay of what it is."""

import pytest
import torch
from torch import nn

import mmnorm

LR, DECAY = 0.1, 0.01
NORMS = [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d, mmnorm.InstanceMetaNorm2d, mmnorm.SparseSwitchableNorm2d]
PLAIN = [
    nn.BatchNorm2d,
    lambda channels: nn.GroupNorm(2, channels),
    lambda channels: nn.InstanceNorm2d(channels, affine=True),
]


def network(norm):
    return nn.Sequential(nn.Conv2d(64, 64, 1), norm(64), nn.ReLU(), nn.Conv2d(64, 2, 1, bias=False))


def options(model, *args, **kwargs):
    """(lr, weight_decay) of each parameter by name, having checked that each is in one group."""
    groups = mmnorm.param_groups(model, LR, DECAY, *args, **kwargs)
    torch.optim.SGD(groups, lr=1.0)  # which takes no parameter twice
    found = {id(p): (group['lr'], group['weight_decay']) for group in groups for p in group['params']}
    return {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found}


@pytest.mark.parametrize('norm', NORMS + PLAIN)
def test_without_multipliers_there_is_one_group(norm):
    model = network(norm)
    (group,) = mmnorm.param_groups(model, LR, DECAY)
    assert [id(p) for p in group['params']] == [id(p) for p in model.parameters()]
    assert (group['lr'], group['weight_decay']) == (LR, DECAY)


@pytest.mark.parametrize('norm', NORMS + PLAIN)
def test_each_has_its_own(norm):
    model = network(norm)
    actual = options(model, ratio_lr_mult=0.5, ratio_decay_mult=2, norm_decay_mult=0, bias_decay_mult=0.25)
    affine = {'1.weight': (LR, 0), '1.bias': (LR, 0)}
    others = {'0.weight': (LR, DECAY), '0.bias': (LR, DECAY / 4), '3.weight': (LR, DECAY)}
    for name, expected in (affine | others).items():
        assert actual.pop(name) == expected, name
    assert bool(actual) == isinstance(model[1], mmnorm.LearnedNorm)
    assert all(pair == (LR / 2, DECAY * 2) for pair in actual.values())


def test_biases_of_norms_follow_where_nothing_is_said_of_norms():
    actual = options(network(mmnorm.ExemplarNorm2d), bias_decay_mult=0)
    assert {name for name, pair in actual.items() if pair == (LR, 0)} == {
        '0.bias',
        '1.bias',
        '1.fc1_bias',
        '1.fc2_bias',
    }


def test_shared_parameters_are_in_once_and_frozen_ones_are_not():
    model = network(mmnorm.SwitchableNorm2d)
    model.append(mmnorm.SwitchableNorm2d(2))
    model.append(model[1])
    model[-2].weight = model[1].bias
    model[0].requires_grad_(False)
    names = options(model, norm_decay_mult=0)
    assert set(names) == {
        '1.weight',
        '1.bias',
        '1.mean_weight',
        '1.var_weight',
        '3.weight',
        '4.bias',
        '4.mean_weight',
        '4.var_weight',
    }


def test_the_rate_multiplier_takes_effect():
    layer = mmnorm.ExemplarNorm2d(4)
    optimizer = torch.optim.SGD(mmnorm.param_groups(layer, LR, 0.0, ratio_lr_mult=0), momentum=0.9)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    x = torch.randn(2, 4, 3, 3)
    layer(x).mul(torch.randn(2, 4, 3, 3)).sum().backward()
    optimizer.step()
    assert {name for name, p in layer.named_parameters() if not torch.equal(p, before[name])} == {'weight', 'bias'}


@pytest.mark.parametrize(
    'name', ['lr', 'weight_decay', 'ratio_lr_mult', 'ratio_decay_mult', 'norm_decay_mult', 'bias_decay_mult']
)
@pytest.mark.parametrize('value', [-1, 'fast', True, float('nan'), float('inf')])
def test_wrong_numbers(name, value):
    with pytest.raises(ValueError, match=f'^{name} must be a number >= 0, got {value!r}'):
        mmnorm.param_groups(mmnorm.SwitchableNorm2d(4), **{'lr': LR, 'weight_decay': DECAY, name: value})
