"""BatchNorm's checkpoints in whole networks of OpenMMLab, and ours back in BatchNorm's."""

import copy
import logging

import pytest
import torch
from helpers import randomize
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

import mmnorm
from mmnorm.convert.checkpoints import from_plain_state_dict, to_plain_state_dict

X = torch.randn(2, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def resnet(norm_cfg):
    """mmpretrain's ResNet-50; its features."""
    init_default_scope('mmpretrain')
    from mmpretrain.models import ResNet

    return ResNet(depth=50, norm_cfg=norm_cfg, norm_eval=False).double()


def resnet18(norm_cfg, init_cfg=None):
    init_default_scope('mmpretrain')
    from mmpretrain.models import ResNet

    return ResNet(depth=18, norm_cfg=norm_cfg, init_cfg=init_cfg)


def deeplab(norm_cfg):
    """mmseg's DeepLabV3 on a ResNet-50; the output of its head."""
    init_default_scope('mmseg')
    from mmseg.registry import MODELS

    backbone = dict(type='ResNetV1c', depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True)
    head = dict(type='ASPPHead', in_channels=2048, in_index=3, channels=64, dilations=(1, 2), num_classes=5)
    model = dict(
        type='EncoderDecoder',
        backbone=dict(norm_cfg=norm_cfg, norm_eval=False, **backbone),
        # Dropout would make the two networks differ in train mode.
        decode_head=dict(norm_cfg=norm_cfg, dropout_ratio=0, **head),
    )
    return MODELS.build(model).double()


def output(model, training=True):
    # mmpretrain's backbones return nothing from train().
    model.train(training)
    out = model(X) if not hasattr(model, 'decode_head') else model.encode_decode(X, [dict(img_shape=(48, 48))] * 2)
    return out[-1] if isinstance(out, tuple) else out


def trained(model):
    """Gamma, beta and running statistics that are not what a network starts with."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def difference(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope='module')
def bn_models(tmp_path_factory):
    """For each network: the one with BN, and a file with its weights as the Runner saves them."""
    models = {}
    for build in (resnet, deeplab):
        torch.manual_seed(0)
        model = trained(build(dict(type='BN')))
        path = tmp_path_factory.mktemp('bn') / f'{build.__name__}.pth'
        torch.save({'meta': {}, 'state_dict': model.state_dict()}, path)
        models[build] = model, str(path)
    return models


@torch.no_grad()
@pytest.mark.parametrize('build', [resnet, deeplab])
@pytest.mark.parametrize('norm', ['SN', 'EN'])
def test_with_ratios_on_batch_norm_the_network_is_that_of_batch_norm(norm, build, bn_models):
    bn_model, path = bn_models[build]
    model = build(dict(type=norm))
    errors = {True: [], False: []}
    for epsilon in (1e-6, 1e-8):
        # What init_ratios does at the construction, which takes long.
        for module in model.modules():
            if isinstance(module, mmnorm.SwitchableNorm2d | mmnorm.ExemplarNorm2d):
                module.init_ratios = (epsilon / 2, epsilon / 2, 1 - epsilon)
                module.reset_parameters()
        load_checkpoint(model, path, strict=True)
        for training in (False, True):  # train mode moves the running statistics
            expected = output(copy.deepcopy(bn_model), training)
            errors[training].append(difference(output(model, training), expected))
    for coarse, fine in errors.values():
        assert fine < 1e-3
        assert fine < coarse / 30, 'the difference is not that of the ratios'


@torch.no_grad()
@pytest.mark.parametrize('norm', ['SN', 'EN'])
def test_a_pool_of_batch_norm_is_exact(norm, bn_models):
    bn_model, path = bn_models[resnet]
    model = resnet(dict(type=norm, normalizers=('BN',)))
    load_checkpoint(model, path, strict=True)
    for training in (False, True):
        assert difference(output(model, training), output(copy.deepcopy(bn_model), training)) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize('build', [resnet, deeplab])
def test_group_norm_into_instance_meta_norm_is_exact(build, tmp_path):
    gn_model = trained(build(dict(type='GN', num_groups=32)))
    torch.save({'state_dict': gn_model.state_dict()}, tmp_path / 'gn.pth')
    model = build(dict(type='ILM'))
    load_checkpoint(model, str(tmp_path / 'gn.pth'), strict=True)
    assert difference(output(model), output(gn_model)) < 1e-9


def test_round_trip_of_batch_norm_gives_the_same_bits(bn_models):
    bn_model, path = bn_models[resnet]
    model = resnet(dict(type='EN'))
    load_checkpoint(model, path, strict=True)
    plain, own, report = to_plain_state_dict(model.state_dict(), 'BN')
    copy.deepcopy(bn_model).load_state_dict(plain, strict=True)
    assert plain.keys() == bn_model.state_dict().keys()
    assert all(value.equal(plain[key]) for key, value in bn_model.state_dict().items())
    assert report.dropped.keys() == own.keys() - plain.keys()
    assert len(report.kept) + len(report.renamed) == len(plain)


@pytest.mark.parametrize('norm_type', ['SN', 'EN', 'ILM'])
def test_pretrained_backbone_by_init_cfg(norm_type, tmp_path):
    source = trained(resnet18(dict(type='BN')))
    state_dict = {f'backbone.{key}': value for key, value in source.state_dict().items()}
    torch.save({'state_dict': {**state_dict, 'head.fc.weight': torch.ones(1)}}, tmp_path / 'classifier.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'classifier.pth'), prefix='backbone.')
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    model = resnet18(dict(type=norm_type), init_cfg)
    model.init_weights()
    logger.removeHandler(handler)
    norm = getattr(model.layer1[0], 'gn1' if norm_type == 'ILM' else 'bn1')
    expected = source.layer1[0].bn1.weight - (0.5 if norm_type == 'ILM' else 0)
    assert norm.weight.equal(expected.expand_as(norm.weight))
    said = [line for line in lines if 'took weights' in line or 'match' in line]
    lost = 'mmnorm: InstanceMetaNorm2d layers took weights of BN without its running statistics'
    assert said == ([lost] if norm_type == 'ILM' else [])


class Net(nn.Module):
    def __init__(self, name, norm):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.add_module(name, norm)
        self.block = nn.Sequential(nn.Conv2d(3, 8, 1), copy.deepcopy(norm))


PLAIN = [
    (mmnorm.ExemplarNorm2d(8), 'bn1', 'BN', nn.BatchNorm2d(8), 'bn1'),
    (mmnorm.ExemplarNorm2d(8, shared_affine=True, conv=False), 'bn1', 'BN', nn.BatchNorm2d(8), 'bn1'),
    (mmnorm.SwitchableNorm2d(8), 'bn1', 'BN', nn.SyncBatchNorm(8), 'bn1'),
    (mmnorm.SwitchableNorm2d(8), 'bn', 'GN', nn.GroupNorm(2, 8), 'gn'),
    (mmnorm.SwitchableNorm2d(8, normalizers=('LN',)), 'bn2', 'LN', nn.GroupNorm(1, 8), 'ln2'),
    (mmnorm.InstanceMetaNorm2d(8), 'gn3', 'GN', nn.GroupNorm(2, 8), 'gn3'),
    (mmnorm.InstanceMetaNorm2d(8, base='IN'), 'norm', 'IN', nn.InstanceNorm2d(8, affine=True), 'norm'),
]


@pytest.mark.parametrize(('learned', 'name', 'norm', 'plain_norm', 'plain_name'), PLAIN)
def test_plain_names_and_back(learned, name, norm, plain_norm, plain_name):
    state_dict = randomize(Net(name, learned)).state_dict()
    plain, own, report = to_plain_state_dict(state_dict, norm)
    Net(plain_name, plain_norm).load_state_dict(plain, strict=True)
    restored = from_plain_state_dict(plain, own, norm)
    assert restored.keys() == state_dict.keys()
    assert all(value.equal(restored[key]) for key, value in state_dict.items())
    assert sorted([*report.kept, *report.renamed, *report.dropped]) == sorted(state_dict)


def test_plain_norm_of_exemplar_norm():
    norm = randomize(mmnorm.ExemplarNorm2d(8))
    plain, _, report = to_plain_state_dict({f'bn1.{key}': value for key, value in norm.state_dict().items()})
    torch.testing.assert_close(plain['bn1.bias'], norm.bias.sum(0))
    torch.testing.assert_close(plain['bn1.weight'], norm.fc2_bias.softmax(0) @ norm.weight)
    assert plain['bn1.running_mean'].equal(norm.running_mean)
    assert '1 norms without the ratios of each sample' in report.notes


def test_state_dict_of_a_single_layer():
    plain, _, _ = to_plain_state_dict(mmnorm.ExemplarNorm2d(8).state_dict())
    nn.BatchNorm2d(8).load_state_dict(plain, strict=True)


def test_changed_since():
    plain, own, _ = to_plain_state_dict(randomize(Net('bn1', mmnorm.SwitchableNorm2d(8))).state_dict())
    plain['conv.weight'] = plain['conv.weight'] + 1
    from_plain_state_dict(plain, own, 'BN')
    plain['bn1.weight'] = plain['bn1.weight'] + 1
    with pytest.raises(ValueError, match='trained since'):
        from_plain_state_dict(plain, own, 'BN')


@pytest.mark.parametrize(
    ('module', 'norm', 'message'),
    [
        (nn.BatchNorm2d(8), 'BN', 'no EN, ILM, SN, SSN, '),
        (mmnorm.InstanceMetaNorm2d(8), 'BN', 'no running statistics'),
        (mmnorm.SwitchableNorm2d(8, normalizers=('IN', 'LN')), 'BN', 'no running statistics'),
        (mmnorm.SwitchableNorm2d(8), 'EN', 'norm must be one of'),
    ],
)
def test_refused(module, norm, message):
    with pytest.raises(ValueError, match=message):
        to_plain_state_dict(Net('bn1', module).state_dict(), norm)
