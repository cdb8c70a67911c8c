"""Configs that get a learned norm, by --norm or by hand: what is built, what stays as it was, what is refused."""

import ast
import importlib
from copy import deepcopy
from pathlib import Path

import mmseg.models
import pytest
import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmnorm
from mmnorm.convert.configs import parse_norm, set_norm
from mmnorm.errors import UsageError
from mmnorm.layers.base import LearnedNorm
from mmnorm.registry import NORMS

BACKBONE = dict(
    type='ResNet', depth=18, base_channels=8, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)
)
HEAD = dict(type='FCNHead', in_channels=16, in_index=0, channels=8, num_convs=1, num_classes=3)
NUM_NORMS = 13


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


def segmentor(norm_cfg=None, **backbone):
    """A segmentor of which no norm_cfg is written, unless one is given."""
    model = dict(type='EncoderDecoder', backbone={**BACKBONE, **backbone}, decode_head=dict(HEAD))
    if norm_cfg is not None:
        model['decode_head']['norm_cfg'] = model['backbone']['norm_cfg'] = norm_cfg
    else:
        # FCNHead's ConvModule has no norm by default, ResNet's default is BN.
        model['decode_head']['norm_cfg'] = dict(type='BN')
    return Config(dict(model=model))


def norms_of(model, kind=LearnedNorm):
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def converted(cfg, norm='EN', scope=()):
    set_norm(cfg, parse_norm(norm), scope)
    return MODELS.build(cfg.model)


# Any norm_cfg


def written_norm_cfgs():
    """Every dict(type='BN', ...) and the like in the code and the configs of the installed codebases, once each."""
    found = {}
    for codebase in ('mmseg', 'mmdet', 'mmpretrain'):
        for path in Path(importlib.import_module(codebase).__file__).parent.rglob('*.py'):
            text = path.read_text(encoding='utf-8')
            if "BN'" not in text:
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
                    try:
                        cfg = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
                    except ValueError:
                        continue
                    if cfg.get('type') in ('BN', 'SyncBN', 'MMSyncBN'):
                        found[repr(sorted(cfg.items(), key=str))] = cfg
    return list(found.values())


ALL_KEYS = [
    dict(type='BN', eps=1e-3, momentum=0.03, affine=True, track_running_stats=True, requires_grad=True),
    dict(type='BN', momentum=None, affine=False, track_running_stats=False, bias=True),
    dict(type='SyncBN', process_group=None, requires_grad=False),
    dict(type='MMSyncBN', group=None, stats_mode='N'),
]


def test_every_norm_cfg_of_the_codebases_takes_another_type():
    cfgs = written_norm_cfgs()
    assert len(cfgs) > 10
    for cfg in cfgs + ALL_KEYS:
        for norm in NORMS:
            _, layer = build_norm_layer({**cfg, 'type': norm}, 32)
            _, default = build_norm_layer(dict(type=norm), 32)
            assert layer.eps == (cfg.get('eps', default.eps) or 1e-12)
            # Without an affine form FRN and GRN have no parameters.
            assert {p.requires_grad for p in layer.parameters()} <= {cfg.get('requires_grad', True)}
            if norm not in ('ILM', 'FRN', 'GRN'):
                assert layer.momentum == cfg.get('momentum', 0.1)
            assert layer(torch.randn(2, 32, 4, 4)).isfinite().all()


@pytest.mark.parametrize('norm', NORMS)
def test_eps_zero(norm):
    """NAS-FCOS has it. A map of one value has variance 0; BatchNorm of PyTorch gives NaN there."""
    _, layer = build_norm_layer(dict(type=norm, eps=0), 32)
    x = torch.full((2, 32, 4, 4), 3.0, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()))


@pytest.mark.parametrize('norm', NORMS)
def test_what_no_batch_norm_takes_is_refused(norm):
    with pytest.raises(TypeError, match="unexpected keyword argument 'momentun'"):
        build_norm_layer(dict(type=norm, momentun=0.1), 32)
    with pytest.raises(ValueError, match='bias=False'):
        build_norm_layer(dict(type=norm, bias=False), 32)


# What --norm means


@pytest.mark.parametrize(
    ('text', 'norm'),
    [
        ('EN', dict(type='EN')),
        ('SN(momentum=None)', dict(type='SN', momentum=None)),
        ("ILM(base='IN', key_group_size=8)", dict(type='ILM', base='IN', key_group_size=8)),
        ("dict(type='EN', init_ratios=(.05, .15, .8))", dict(type='EN', init_ratios=(0.05, 0.15, 0.8))),
    ],
)
def test_parse_norm(text, norm):
    assert parse_norm(text) == norm


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('XYZ', "unknown norm 'XYZ': expected EN, ILM, SN, SSN"),
        ('BN', "unknown norm 'BN'"),
        ('EN(', 'is not understood: expected EN, ILM, SN, SSN'),
        ('', 'is not understood'),
        ('EN(16)', 'is not understood'),
        ('EN(reduction=r)', 'is not understood'),
        ('__import__("os").system("true")', 'is not understood'),
        ('dict(reduction=16)', 'unknown norm None'),
        ('EN(reductoin=16)', "unexpected keyword argument 'reductoin'"),
        ('EN(init_ratios=(0.5, 0.5))', 'expected 3 positive probabilities'),
        ('SN(num_features=3)', 'num_features'),
    ],
)
def test_norms_that_are_none(text, message):
    with pytest.raises(ValueError) as error:
        parse_norm(text)
    assert message in str(error.value)


# The config


def test_keys_of_the_model_stay_where_they_were():
    cfg = segmentor()
    before = cfg.model.to_dict()
    set_norm(cfg, dict(type='EN'), ['backbone'])
    after = cfg.model.to_dict()
    assert after.pop('model_type') == before.pop('type')
    assert (after.pop('type'), after.pop('norm'), after.pop('norm_scope')) == (
        'NormConverted', dict(type='EN'), ['backbone'])  # fmt: skip
    assert after == before


def test_last_norm_wins():
    cfg, twice = segmentor(), segmentor()
    set_norm(twice, dict(type='EN', reduction=8), ['backbone'])
    for c in (cfg, twice):
        set_norm(c, dict(type='SN'))
    assert cfg.model == twice.model
    assert cfg.custom_imports == twice.custom_imports


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        (None, dict(imports=['mmnorm'])),
        (dict(imports='a.b'), dict(imports=['a.b', 'mmnorm'])),
        (dict(imports=['a'], allow_failed_imports=True), dict(imports=['a', 'mmnorm'], allow_failed_imports=True)),
        (dict(imports=['mmnorm']), dict(imports=['mmnorm'])),
    ],
)
def test_custom_imports_are_kept(before, after):
    cfg = segmentor()
    cfg.custom_imports = before
    set_norm(cfg, dict(type='EN'))
    assert cfg.custom_imports == after


def test_configs_that_cannot_be_changed():
    with pytest.raises(ValueError, match='no model'):
        set_norm(Config(dict(a=1)), dict(type='EN'))
    cfg = segmentor()
    cfg.model.norm_scope = 3
    with pytest.raises(ValueError, match='norm_scope'):
        set_norm(cfg, dict(type='EN'))


def test_config_of_the_new_style(tmp_path):
    """Types given as classes are dumped by name, and the dumped config builds the same model."""
    backbone, head = ({k: v for k, v in part.items() if k != 'type'} for part in (BACKBONE, HEAD))
    (tmp_path / 'new.py').write_text(
        'from mmseg.models.segmentors import EncoderDecoder\n'
        'from mmseg.models.backbones import ResNet\n'
        'from mmseg.models.decode_heads import FCNHead\n'
        f'backbone = dict(type=ResNet, **{backbone!r})\n'
        f'model = dict(type=EncoderDecoder, backbone=backbone, decode_head=dict(type=FCNHead, **{head!r}))\n'
    )
    cfg = Config.fromfile(tmp_path / 'new.py')
    model = converted(cfg, 'EN(reduction=8)')
    assert type(model) is mmseg.models.EncoderDecoder
    cfg.dump(tmp_path / 'dumped.py')
    dumped = Config.fromfile(tmp_path / 'dumped.py')
    assert dumped.model.model_type == 'mmseg.models.segmentors.EncoderDecoder'
    assert str(MODELS.build(dumped.model)) == str(model)
    assert len(norms_of(model)) > 5


# The model


@pytest.mark.parametrize('norm', NORMS)
def test_model_is_that_of_a_norm_cfg(norm):
    """Layers and their start are those of a model whose norm_cfg names the norm, up to the order of random numbers."""
    model = converted(segmentor(), norm)
    model.init_weights()
    by_hand = MODELS.build(segmentor(dict(type=norm)).model)
    by_hand.init_weights()
    pairs = list(zip(norms_of(model).values(), norms_of(by_hand).values(), strict=True))
    assert len(pairs) == NUM_NORMS
    for ours, theirs in pairs:
        assert repr(ours) == repr(theirs)
        for (name, value), (_, other) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
            constant = other.numel() < 2 or bool((other == other.flatten()[0]).all())
            assert torch.equal(value, other) if constant else value.std() > 0, name


def test_weights_of_batch_norms_that_are_not_fresh_are_taken(monkeypatch):
    class Started(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
            nn.init.constant_(self.a.weight, 3)
            nn.init.constant_(self.b.running_mean, 2)

    monkeypatch.setitem(MODELS.module_dict, 'Started', Started)
    model = converted(Config(dict(model=dict(type='Started'))), 'EN')
    assert (model.a.weight == 3).all()
    assert (model.b.running_mean == 2).all()
    model = converted(Config(dict(model=dict(type='Started'))), 'ILM')
    assert (model.a.weight == 2.5).all()


def test_hard_coded_batch_norm(monkeypatch):
    cfg = get_config('mmpretrain::levit/levit-128s_8xb256_in1k.py')
    init_default_scope('mmpretrain')
    importlib.import_module('mmpretrain')
    assert 'norm_cfg' not in str(cfg.model)
    with torch.device('cpu'):
        model = converted(cfg, 'SN')
    assert not norms_of(model, nn.modules.batchnorm._BatchNorm)
    assert len(norms_of(model)) > 50


def test_scope():
    model = converted(segmentor(), 'EN', ['backbone.layer1', 'decode_head'])
    assert {name.rpartition('.')[0] for name in norms_of(model)} == {
        'backbone.layer1.0',
        'backbone.layer1.0.downsample',
        'backbone.layer1.1',
        'decode_head.conv_cat',
        'decode_head.convs.0',
    }
    assert len(norms_of(model, nn.BatchNorm2d)) == NUM_NORMS - len(norms_of(model))


@pytest.mark.parametrize(
    ('scope', 'message'),
    [
        (
            'bakbone',
            "'bakbone' is no sub-module of the model; EncoderDecoder has data_preprocessor, backbone, decode_head",
        ),
        (
            'backbone.layer9',
            "'backbone.layer9' is no sub-module of the model; backbone of EncoderDecoder has conv1, bn1",
        ),
        ('data_preprocessor', 'EN cannot take the place of BatchNorm in EncoderDecoder'),
    ],
)
def test_scope_that_is_none(scope, message):
    with pytest.raises(UsageError) as error:
        converted(segmentor(), 'EN', [scope])
    assert message in str(error.value)


def test_model_without_batch_norm():
    with pytest.raises(UsageError, match='EN cannot take the place of BatchNorm in EncoderDecoder'):
        converted(segmentor(dict(type='GN', num_groups=2)))


def test_sync_bn_of_mmcv_in_one_process():
    cfg = segmentor(dict(type='MMSyncBN', stats_mode='N', requires_grad=True))
    with pytest.raises((ValueError, RuntimeError), match='process group'):
        MODELS.build(cfg.model)
    assert len(norms_of(converted(cfg))) == NUM_NORMS


def test_convolution_and_norm_are_not_folded(monkeypatch):
    class Folding(ConvModule):
        def __init__(self):
            super().__init__(3, 8, 1, norm_cfg=dict(type='BN'), efficient_conv_bn_eval=True)

    monkeypatch.setitem(MODELS.module_dict, 'Folding', Folding)
    by_hand = Folding()
    mmnorm.convert_norm(by_hand, 'EN')
    x = torch.randn(2, 3, 4, 4)
    for model in (converted(Config(dict(model=dict(type='Folding')))).eval(), by_hand.eval()):
        torch.testing.assert_close(model(x), model.bn(model.conv(x)).relu())


# What frozen means


def run_in_training_mode(model):
    """As the Runner's loops do; also what comes back from validation."""
    for _ in range(2):
        model.eval()
        model.train()
        model(torch.randn(2, 3, 32, 32), mode='tensor').sum().backward()


@pytest.mark.parametrize('norm', NORMS)
def test_frozen_stages(norm):
    model = converted(segmentor(frozen_stages=1, zero_init_residual=False), norm)
    frozen = {n: m for n, m in norms_of(model).items() if n.startswith(('backbone.bn1', 'backbone.layer1'))}
    assert len(frozen) == 6
    before = deepcopy({name: module.state_dict() for name, module in frozen.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=1, weight_decay=0.1)
    run_in_training_mode(model)
    optimizer.step()
    for name, module in frozen.items():
        assert not module.training
        for key, value in module.state_dict().items():
            assert torch.equal(value, before[name][key]), (name, key)
    others = [m for n, m in norms_of(model).items() if n not in frozen]
    assert all(m.training for m in others)
    assert all(p.grad is not None for m in others for p in m.parameters() if p.requires_grad)
    if hasattr(others[0], 'num_batches_tracked'):
        assert all(m.num_batches_tracked == 2 for m in others)


@pytest.mark.parametrize('norm', ['SN', 'EN'])
def test_norm_eval(norm):
    model = converted(segmentor(norm_eval=True), norm)
    run_in_training_mode(model)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.train().backbone(x)[0], model.eval().backbone(x)[0])
    model.train()
    for name, module in norms_of(model).items():
        assert module.training != name.startswith('backbone')
        assert module.num_batches_tracked == (2 if module.training else 0)
        assert all(p.grad is not None for p in module.parameters())


# What else configs and runs do to a model


def test_initialization_by_name_and_by_checkpoint(tmp_path):
    model = converted(segmentor(zero_init_residual=True))
    model.init_weights()
    assert not model.backbone.layer1[0].bn2.weight.any()
    assert model.backbone.layer1[0].bn1.weight.all()

    weights = MODELS.build(BACKBONE).state_dict()
    weights = {
        key: torch.rand_like(value) + 0.5 if '.bn' in key and value.dim() else value for key, value in weights.items()
    }
    torch.save(weights, tmp_path / 'bn.pth')
    model = converted(segmentor(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'bn.pth'))))
    model.init_weights()
    norm = model.backbone.layer2[1].bn2
    assert torch.equal(norm.weight, weights['layer2.1.bn2.weight'].expand(3, -1))
    assert torch.equal(norm.running_var, weights['layer2.1.bn2.running_var'])


def test_below_another_model():
    """Test-time augmentation and semi-supervised detectors build a model inside a model; EMA copies one."""
    from mmengine.model import ExponentialMovingAverage

    cfg = segmentor()
    set_norm(cfg, dict(type='EN'))
    tta = MODELS.build(ConfigDict(type='SegTTAModel', module=cfg.model))
    assert len(norms_of(tta)) == NUM_NORMS
    ema = ExponentialMovingAverage(tta.module)
    ema.update_parameters(tta.module)
    assert len(norms_of(ema)) == NUM_NORMS


@pytest.mark.parametrize(
    ('config', 'source', 'average'),
    [
        ('byol/byol_resnet50_16xb256-coslr-200e_in1k', ('backbone', 'neck'), 'target_net'),
        ('mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k', ('backbone', 'neck'), 'encoder_k'),
    ],
)
def test_averages_inside_a_model_start_as_what_they_average(config, source, average):
    cfg = get_config(f'mmpretrain::{config}.py')
    importlib.import_module('mmpretrain')
    init_default_scope('mmpretrain')
    cfg.model.backbone.base_channels = 8
    cfg.model.neck.in_channels = 256
    model = converted(cfg, 'ILM')
    norms = [norm for name in source for norm in norms_of(getattr(model, name)).values()]
    averages = list(norms_of(getattr(model, average)).values())
    assert len(norms) == len(averages) > 50
    for norm, copy in zip(norms, averages, strict=True):
        assert norm is not copy
        for name, value in norm.state_dict().items():
            assert torch.equal(value, copy.state_dict()[name])
        assert not any(parameter.requires_grad for parameter in copy.parameters())

    # And they are what is averaged from then on.
    averaged = getattr(model, average)
    with torch.no_grad():
        for norm in norms:
            norm.weight.fill_(5.0)
    averaged.steps.fill_(1)
    averaged.avg_func = lambda old, new, steps: old.copy_(new)
    averaged.update_parameters(nn.Sequential(*(getattr(model, name) for name in source)))
    assert all((copy.weight == 5).all() for copy in averages)


def test_inference_of_the_codebase():
    """mmseg's init_model sets keys of the model that it expects to be there."""
    from mmseg.apis import init_model

    cfg = segmentor()
    cfg.default_scope = 'mmseg'
    set_norm(cfg, dict(type='EN'))
    model = init_model(cfg, device='cpu')
    assert type(model) is mmseg.models.EncoderDecoder
    assert not model.training
    assert len(norms_of(model)) == NUM_NORMS


def test_teacher_and_student():
    cfg = get_config('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')
    importlib.import_module('mmdet')
    init_default_scope('mmdet')
    cfg.model.detector.backbone.update(depth=18, init_cfg=None)
    cfg.model.detector.neck.in_channels = [64, 128, 256, 512]
    cfg.model.detector.roi_head.bbox_head.fc_out_channels = 8
    model = converted(cfg, 'EN', ['student'])
    assert len(norms_of(model.student)) == 20
    assert not norms_of(model.teacher)
    set_norm(cfg, dict(type='EN'))
    model = MODELS.build(cfg.model)
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert len(norms_of(model)) == 40


def test_import_registers():
    assert MODELS.get('NormConverted') is mmnorm.convert.configs.build_converted
