"""Parameters and FLOPs, counted: what the file of experiments says is here, and what the papers' formulas give."""

import functools

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmnorm
from mmnorm.analysis.complexity import count_flops
from mmnorm.experiments.catalogue import catalogue
from mmnorm.experiments.commands import read_config

ROWS = catalogue().experiments
NETWORKS = [row.id for row in ROWS.values() if 'params' in row.here]
ADDED = [row.id for row in ROWS.values() if 'added' in row.here]


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def layer_formula(channels, k=3, pi=50):
    """EN paper, Table 1: 2KC + C + Psi(K), the two fully connected layers."""
    return 2 * k * channels + channels + (pi * k) * k * k + pi * k + k * (pi * k) + k


@pytest.mark.parametrize('name', NETWORKS)
def test_parameters_of_networks(name, built):
    _, model = built(name)
    assert f'{parameters(model) / 1e6:.2f}' == str(ROWS[name].here['params'])


@pytest.mark.parametrize('name', [name for name in NETWORKS if name.endswith('-en')])
def test_parameters_of_en_are_those_of_its_formula(name, built):
    """The network with BN, whose gamma and beta give way to what Table 1 says of each layer."""
    _, bn = built(name.replace('-en', '-bn'))
    norms = [module for module in bn.modules() if isinstance(module, nn.BatchNorm2d)]
    expected = parameters(bn) + sum(layer_formula(norm.num_features) - 2 * norm.num_features for norm in norms)
    assert parameters(built(name)[1]) == expected


@pytest.mark.parametrize('name', NETWORKS)
def test_flops_of_networks(name, built):
    """Of one image of 224x224."""
    built(name)  # imports and scope
    model = MODELS.build(read_config(ROWS[name]).model).eval()
    x = torch.zeros(1, 3, 224, 224)
    flops, _ = count_flops(model, lambda: model(x, mode='tensor'))
    assert f'{flops / 1e9:.3f}' == str(ROWS[name].here['gflops'])


@functools.cache
def resnet(depth, **norm):
    backbone = dict(type='mmpretrain.ResNet', depth=depth, norm_cfg=norm)
    width = 2048 if depth > 34 else 512
    with torch.device('meta'):
        return parameters(MODELS.build(backbone)) + 1000 * (width + 1)


@pytest.mark.parametrize('name', ADDED)
def test_parameters_that_ilm_adds(name, built):
    built('sn/table2/bn-8x32')  # imports and scope
    network, keys = name.split('/')[-1].split('-')
    depth = int(network.removeprefix('resnet'))
    base = resnet(depth, type='BN')
    added = 100 * (resnet(depth, type='ILM', key_group_size=16 if keys == 'gn' else 1) - base) / base
    assert f'{added:.3f}' == str(ROWS[name].here['added'])
    assert added == pytest.approx(ROWS[name].paper['added'], abs=1e-3)


def test_the_mlp_of_en_table_9(built):
    """(a): reduces C to C / 32, then to the ratios; expansion has no part in it."""
    _, model = built('en/table9/a')
    layers = [module for module in model.modules() if isinstance(module, mmnorm.ExemplarNorm2d)]
    assert len(layers) == 53
    for layer in layers:
        channels = layer.num_features
        assert layer.fc1_weight.shape == (channels // 32, channels)
        assert layer.fc1_bias.shape == (channels // 32,)
        assert layer.fc2_weight.shape == (3, channels // 32)


def test_parameters_of_layers():
    """SN paper, Table 1, and EN paper, Table 1."""
    channels = 64
    assert parameters(mmnorm.SwitchableNorm2d(channels)) == 2 * channels + 6
    for k, normalizers in {2: ('IN', 'LN'), 4: ('IN', 'LN', 'BN', 'GN')}.items():
        assert parameters(mmnorm.SwitchableNorm2d(channels, normalizers=normalizers)) == 2 * channels + 2 * k
        assert parameters(mmnorm.ExemplarNorm2d(channels, normalizers=normalizers)) == layer_formula(channels, k)
    assert parameters(mmnorm.ExemplarNorm2d(channels)) == layer_formula(channels) == 7 * channels + 1953
