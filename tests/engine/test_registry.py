"""The layers are found by name wherever OpenMMLab builds norms, and start as they should in real networks."""

import subprocess
import sys
import textwrap

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS, DefaultScope

import mmnorm
from mmnorm.layers.base import LearnedNorm
from mmnorm.registry import NAMES

SCOPES = ['mmengine', 'mmseg', 'mmdet', 'mmpretrain']


@pytest.mark.parametrize('scope', SCOPES)
@pytest.mark.parametrize('name', NAMES)
def test_found_in_every_scope(scope, name):
    with DefaultScope.overwrite_default_scope(scope):
        abbr, layer = build_norm_layer(dict(type=name), 8, postfix=1)
    if (scope, name) == ('mmpretrain', 'GRN'):
        # That of its ConvNeXt V2.
        assert type(layer) is MODELS.get('mmpretrain.GRN')
        return
    assert type(layer) is NAMES[name]
    assert abbr == ('gn1' if name.startswith(('ILM', 'FRN', 'GRN')) else 'bn1')


def test_registry_is_the_root():
    assert mmnorm.NORM_LAYERS is MODELS
    assert MODELS.get('EN') is mmnorm.ExemplarNorm2d


@pytest.mark.parametrize('name', ['SN', 'EN', 'ILM'])
def test_keys_of_a_bn_config(name):
    cfg = dict(type=name, requires_grad=False, eps=1e-3, momentum=0.01, affine=True, track_running_stats=True)
    _, layer = build_norm_layer(cfg, 8)
    assert layer.eps == 1e-3
    assert not any(p.requires_grad for p in layer.parameters())
    if name != 'ILM':
        assert layer.momentum == 0.01
    _, layer = build_norm_layer(dict(type=name, num_groups=4), 8)  # and the key of a GN config
    assert layer.num_groups == 4
    assert all(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize('blocked', ['mmengine', 'mmcv'])
def test_import_without_openmmlab(blocked):
    # A finder that hides the packages, in a process of its own.
    code = (
        'import sys\n'
        f'hidden = {("mmengine", "mmcv") if blocked == "mmengine" else ("mmcv",)!r}\n'
        'class Hide:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name.partition(".")[0] in hidden:\n'
        '            raise ModuleNotFoundError(name, name=name)\n'
        'sys.meta_path.insert(0, Hide())\n'
        'import mmnorm, torch\n'
        'y = mmnorm.ExemplarNorm2d(8)(torch.randn(2, 8, 3, 3))\n'
        f'assert (mmnorm.NORM_LAYERS is None) == {blocked == "mmengine"}\n'
        'print(tuple(y.shape))\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == '(2, 8, 3, 3)', done.stderr


def learned_norms(model):
    norms = {name: m for name, m in model.named_modules() if isinstance(m, LearnedNorm)}
    assert norms
    return norms


CONFIGS = {
    'segmentor': ('configs/deeplab_{norm}_r50.py', 60),
    'detector': ('configs/mask_rcnn_{norm}_r50_fpn.py', 69),
    'classifier': ('mmpretrain::resnet/resnet50_8xb32_in1k.py', 53),
}


@pytest.mark.parametrize('kind', CONFIGS)
@pytest.mark.parametrize('norm', ['en', 'sn'])
def test_start_of_real_networks(kind, norm):
    """init_weights() of the parents re-initializes every nn.Linear and nn.Conv it finds; not our ratio nets."""
    from mmengine.config import Config
    from mmengine.hub import get_config
    from mmengine.registry import init_default_scope

    path, count = CONFIGS[kind]
    path = path.format(norm=norm)
    cfg = get_config(path) if '::' in path else Config.fromfile(path)
    if kind == 'classifier':
        cfg.model.backbone.norm_cfg = dict(type=norm.upper())
    cfg.model.backbone.init_cfg = None
    __import__(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    norms = learned_norms(model)
    assert len(norms) == count
    for name, layer in norms.items():
        # Those of ours start next to BN, as the weights that they are for; that of mmpretrain is even, to the bit.
        assert (layer.init_ratios is None) == (kind == 'classifier'), name
        start = torch.tensor(layer.init_ratios or (1 / 3,) * 3).expand(2, 3)
        tolerance = 1e-6 if layer.init_ratios else 0
        if norm == 'en':
            x = torch.randn(2, layer.num_features, 3, 3)
            torch.testing.assert_close(layer.importance_ratios(x), start, rtol=0, atol=tolerance, msg=name)
            assert layer.conv_weight.any(), name
            assert layer.fc1_weight.any(), name
        else:
            torch.testing.assert_close(layer.importance_weights(), start, rtol=0, atol=tolerance, msg=name)
        # zero_init_residual of mmdet's and mmpretrain's ResNet is the model's own affair.
        assert torch.equal(layer.weight, torch.ones_like(layer.weight)) or not layer.weight.any(), name


def test_zero_init_residual_reaches_the_last_gamma():
    from mmdet.models.backbones import ResNet

    model = ResNet(50, norm_cfg=dict(type='SN'), zero_init_residual=True)
    model.init_weights()
    assert not model.layer1[0].bn3.weight.any()
    assert model.layer1[0].bn2.weight.all()


def test_hooks_are_found_from_every_scope_by_whoever_imports_mmnorm_first():
    code = """
    import mmnorm, sys
    assert 'mmengine.hooks' not in sys.modules
    from mmengine.registry import HOOKS
    from mmdet.registry import HOOKS as THEIRS, OPTIM_WRAPPER_CONSTRUCTORS
    import torch
    for registry in (THEIRS, HOOKS):
        for kind in ('NormRatioHook', 'mmnorm.NormRatioHook'):
            hook = registry.build(dict(type=kind, interval=7))
            assert type(hook).__name__ == 'NormRatioHook' and hook.interval == 7
    assert HOOKS.get('NormRatioHook') is HOOKS.get('mmnorm.NormRatioHook') is type(hook)
    arguments = dict(optim_wrapper_cfg=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0)))
    constructor = dict(type='LearnedNormOptimWrapperConstructor', **arguments)
    wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(constructor)(torch.nn.Sequential(mmnorm.ExemplarNorm2d(4)))
    assert len(wrapper.param_groups) > 1 or wrapper.param_groups[0]['params']
    """
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
