"""Where the mix starts: next to BN if a config's weights are BatchNorm's, and nowhere else."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmnorm import ExemplarNorm2d, SwitchableNorm2d
from mmnorm.convert.starts import next_to, with_start

NEAR = (0.01, 0.01, 0.98)


def network(norm):
    return nn.Sequential(nn.Conv2d(3, 8, 1), norm)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Checkpoints by the norm that they have."""
    folder = tmp_path_factory.mktemp('weights')
    norms = {'BN': nn.BatchNorm2d(8), 'GN': nn.GroupNorm(2, 8), 'EN': ExemplarNorm2d(8), 'SN': SwitchableNorm2d(8)}
    for name, norm in norms.items():
        torch.save({'state_dict': network(norm).state_dict()}, folder / f'{name}.pth')
    (folder / 'text.pth').write_text('no weights')
    return folder


def pretrained(path):
    return {'model': {'backbone': {'init_cfg': {'type': 'Pretrained', 'checkpoint': str(path)}}}}


def start(cfg, **norm):
    return with_start(Config(cfg), {'type': 'EN', **norm}).get('init_ratios')


def test_weights_of_batch_norm(weights):
    assert start(pretrained(weights / 'BN.pth')) == NEAR
    assert start({'model': {}, 'load_from': str(weights / 'BN.pth')}) == NEAR
    assert start({'model': {'pretrained': 'open-mmlab://resnet50_v1c'}}) == NEAR
    assert start({'model': {'necks': [{'init_cfg': {'checkpoint': 'torchvision://resnet50'}}]}}) == NEAR


def test_no_weights_of_batch_norm(weights):
    for name in ('GN', 'EN', 'SN', 'text', 'missing'):
        assert start(pretrained(weights / f'{name}.pth')) is None, name
    assert start(pretrained('open-mmlab://detectron/resnet50_gn')) is None
    assert start({'model': {'backbone': {'init_cfg': {'type': 'Kaiming'}}}}) is None
    # A network with EN of which a part comes from one with BN: what loads last is not known.
    assert start({**pretrained('torchvision://resnet50'), 'load_from': str(weights / 'EN.pth')}) is None


def test_what_the_norm_says_holds():
    cfg = pretrained('torchvision://resnet50')
    assert start(cfg, init_ratios=(0.2, 0.2, 0.6)) == (0.2, 0.2, 0.6)
    assert 'init_ratios' in with_start(cfg, {'type': 'EN', 'init_ratios': None})
    assert start(cfg, init_ratios=None) is None
    assert start(cfg, type='SN2d') == NEAR
    assert start(cfg, normalizers=('BN', 'GN')) == (0.98, 0.02)
    # Without BN, or nothing else, there is no such start; ILM has no ratios.
    assert start(cfg, normalizers=('LN', 'GN')) is None
    assert start(cfg, normalizers=('BN',)) is None
    assert start(cfg, type='ILM') is None


@pytest.mark.parametrize('pool', [('IN', 'LN', 'BN'), ('BN', 'IN'), ('IN', 'LN', 'GN', 'BN')])
def test_layers_take_it(pool):
    layer = ExemplarNorm2d(8, normalizers=pool, init_ratios=next_to('BN', pool))
    ratios = layer.importance_ratios(torch.randn(3, 8, 4, 4))
    torch.testing.assert_close(ratios, torch.tensor(next_to('BN', pool)).expand(3, -1))
    assert ratios[0, pool.index('BN')] == pytest.approx(0.98, abs=1e-5)
