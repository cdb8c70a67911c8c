"""norm_eval and frozen stages of OpenMMLab's backbones reach the learned norms; SyncBN conversion leaves them alone."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import HOOKS
from torch import nn

import mmnorm
from mmnorm.layers.base import LearnedNorm

BACKBONES = {'mmdet': 'mmdet.models', 'mmseg': 'mmseg.models', 'mmpretrain': 'mmpretrain.models'}


def resnet(codebase, norm, **kwargs):
    cls = pytest.importorskip(BACKBONES[codebase]).ResNet
    model = cls(depth=18, norm_cfg=dict(type=norm, requires_grad=True), **kwargs)
    model.train()
    return model


def norms(module):
    return [m for m in module.modules() if isinstance(m, LearnedNorm)]


def train(model, steps=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()
        sum(out.square().mean() for out in model(torch.randn(2, 3, 32, 32))).backward()
        optimizer.step()


@pytest.mark.parametrize('norm', ['SN', 'EN'])
@pytest.mark.parametrize('codebase', ['mmdet', 'mmseg'])
def test_frozen_stages(codebase, norm):
    model = resnet(codebase, norm, frozen_stages=1, norm_eval=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model)
    frozen = ('conv1', 'bn1', 'layer1')
    for name, value in model.state_dict().items():
        if name.startswith(frozen):
            assert torch.equal(value, before[name]), name
    for name in ('layer2.0.bn1.running_mean', 'layer2.0.bn1.weight', 'layer2.0.bn1.num_batches_tracked'):
        assert not torch.equal(model.state_dict()[name], before[name]), name


@pytest.mark.parametrize('norm', ['SN', 'EN'])
@pytest.mark.parametrize('codebase', BACKBONES)
def test_norm_eval(codebase, norm):
    model = nn.Sequential(resnet(codebase, norm, norm_eval=True), mmnorm.SwitchableNorm2d(3))
    assert all(layer.training for layer in norms(model)), "OpenMMLab's own switch does not see these layers"
    hook = HOOKS.build(dict(type='NormEvalHook'))
    hook.before_train(SimpleNamespace(model=model, logger=MMLogger.get_current_instance()))
    backbone = model[0]
    before = copy.deepcopy(backbone.state_dict())
    train(backbone)
    assert not any(layer.training for layer in norms(backbone))
    assert model.train()[1].training, 'a norm outside of the backbone is no business of its'
    for name, value in backbone.state_dict().items():
        if name.endswith(('running_mean', 'running_var', 'num_batches_tracked')):
            assert torch.equal(value, before[name]), name
    learned = ['weight', 'bias', 'mean_weight', 'var_weight'] if norm == 'SN' else ['weight', 'bias', 'fc2_weight']
    for name in learned:
        assert not torch.equal(backbone.state_dict()[f'bn1.{name}'], before[f'bn1.{name}']), name
    assert backbone.state_dict().keys() == before.keys()


@pytest.mark.parametrize('switch', [{}, {'norm_eval': False}])
def test_without_the_switch_nothing_changes(switch):
    model = nn.Sequential(mmnorm.ExemplarNorm2d(4), nn.BatchNorm2d(4))
    vars(model).update(switch)
    assert mmnorm.apply_norm_eval(model) == 0
    model.train()
    assert model[0].training
    assert not model[0].norm_eval


@pytest.mark.parametrize('convert', [nn.SyncBatchNorm.convert_sync_batchnorm, convert_sync_batchnorm])
@pytest.mark.parametrize('sync', [False, True])
def test_sync_bn_conversion_leaves_learned_norms_alone(convert, sync):
    layers = [
        mmnorm.SwitchableNorm2d(16, sync=sync),
        mmnorm.ExemplarNorm2d(16, sync=sync),
        mmnorm.InstanceMetaNorm2d(16),
    ]
    model = nn.Sequential(*layers, nn.BatchNorm2d(16))
    state = copy.deepcopy(model.state_dict())
    for step in (convert, revert_sync_batchnorm):
        model = step(model)
        assert list(model)[:3] == layers
        assert type(model[3]) is not nn.BatchNorm2d, 'the step did do something'
    assert isinstance(model[3], nn.modules.batchnorm._BatchNorm)
    assert [layer.sync for layer in layers[:2]] == [sync, sync]
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
