"""The networks of the papers compute, once they are converted, what they computed before."""

import copy

import pytest
import torch
import torchvision
from helpers import randomize
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmnorm import convert_norm

pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')


def torchvision_resnet50(norm_cfg):
    norm_layer = {'BN': nn.BatchNorm2d, 'GN': lambda channels: nn.GroupNorm(16, channels)}[norm_cfg['type']]
    return torchvision.models.resnet50(num_classes=10, norm_layer=norm_layer)


def mmpretrain_resnet50(norm_cfg):
    return MODELS.build(dict(type='mmpretrain.ResNet', depth=50, norm_cfg=norm_cfg, norm_eval=False))


def mmseg_deeplabv3(norm_cfg):
    backbone = dict(type='mmseg.ResNetV1c', depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), out_indices=(2, 3))
    head = dict(in_channels=2048, in_index=1, channels=32, num_classes=5, norm_cfg=norm_cfg, dropout_ratio=0)
    auxiliary = dict(head, type='mmseg.FCNHead', in_channels=1024, in_index=0)
    return MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            backbone=dict(backbone, norm_cfg=norm_cfg, norm_eval=False, contract_dilation=True),
            decode_head=dict(head, type='mmseg.ASPPHead', dilations=(1, 2, 3, 4)),
            auxiliary_head=auxiliary,
        )
    )


MAKERS = {maker.__name__: maker for maker in (torchvision_resnet50, mmpretrain_resnet50, mmseg_deeplabv3)}


@pytest.fixture(scope='module')
def trained():
    """A network as after a training: weights without symmetry, and running statistics of such inputs."""
    made = {}

    def make(name, kind):
        if (name, kind) not in made:
            torch.manual_seed(0)
            norm_cfg = dict(type='BN') if kind == 'BN' else dict(type='GN', num_groups=16)
            init_default_scope('mmseg')
            model = MAKERS[name](norm_cfg).double()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                    randomize(module)
            model(IMAGES)
            made[name, kind] = model
        return copy.deepcopy(made[name, kind])

    return make


IMAGES = torch.randn(4, 3, 33, 33, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def outputs(model):
    y = model(IMAGES)
    return y if isinstance(y, torch.Tensor) else y[-1]


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('norm', ['SN', 'EN'])
@pytest.mark.parametrize('name', MAKERS)
def test_batch_norm_up_to_the_ratios(trained, name, norm, training):
    model = trained(name, 'BN')
    # OpenMMLab's train() returns nothing.
    model.train(training)
    differences = {}
    for rest in (1e-5, 1e-7):
        converted = copy.deepcopy(model)
        convert_norm(converted, dict(type=norm, init_ratios=(rest / 2, rest / 2, 1 - rest)))
        with torch.no_grad():
            differences[rest] = (outputs(converted) - outputs(copy.deepcopy(model))).abs().max().item()
    with torch.no_grad():
        scale = outputs(model).abs().max().item()
    assert differences[1e-7] < 1e-4 * scale
    assert differences[1e-7] == pytest.approx(differences[1e-5] / 100, rel=0.2)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('name', MAKERS)
def test_group_norm_to_ilm_is_exact(trained, name, training):
    model = trained(name, 'GN')
    model.train(training)
    with torch.no_grad():
        expected = outputs(model)
        report = convert_norm(model, 'ILM', types='GN')
        assert all(conversion.exact for conversion in report)
        torch.testing.assert_close(outputs(model), expected, rtol=1e-10, atol=1e-10)
