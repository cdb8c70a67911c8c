"""Every config builds, has its norm where the papers have it, and trains by the papers' protocol."""

import importlib
from collections import Counter
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmnorm
from mmnorm.layers.base import LearnedNorm

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py')) + sorted((ROOT / 'configs/demo').glob('*.py'))
DATA = {'': 'ade20k', '_cityscapes': 'cityscapes'}
DEEPLAB = [f'deeplab_{norm}_r50{data}' for norm in ('en', 'sn', 'ilm', 'gn', 'syncbn') for data in DATA]
MASK_RCNN = [f'mask_rcnn_{norm}_r50_fpn' for norm in ('en', 'sn', 'ilm', 'gn', 'bn')]
CLASSES = {
    'en': 'ExemplarNorm2d',
    'sn': 'SwitchableNorm2d',
    'ilm': 'InstanceMetaNorm2d',
    'gn': 'GroupNorm',
    'syncbn': 'SyncBatchNorm',
    'bn': 'BatchNorm2d',
}


def load(name):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    importlib.import_module(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    return cfg


def norms(module):
    kinds = Counter(type(m).__name__ for m in module.modules() if 'Norm' in type(m).__name__)
    return dict(kinds)


def test_all_configs_are_known():
    names = {str(path.relative_to(ROOT / 'configs').with_suffix('')) for path in CONFIGS}
    makers = {'demo/johnson_sn_digits', 'demo/pix2pix_ilm_in_digits', 'demo/enas_sn_digits'}
    demos = {'demo/deeplab_en_r18_digits', 'demo/deeplab_bn_r18_digits', *makers}
    assert names == {*DEEPLAB, *MASK_RCNN, *demos}


@pytest.mark.parametrize('name', DEEPLAB)
def test_deeplab(name):
    cfg = load(name)
    ade = not name.endswith('cityscapes')
    assert cfg.pretrained, 'what the backbone starts from is a setting of the file'
    assert cfg.model.backbone.init_cfg.checkpoint == cfg.pretrained
    assert cfg.model.backbone.type == 'ResNet', 'the 7x7 stem'
    assert tuple(cfg.model.backbone.dilations) == (1, 1, 2, 4)
    assert tuple(cfg.model.backbone.strides) == (1, 2, 1, 1)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.optim_wrapper.optimizer.lr == (0.02 if ade else 0.01)
    (scheduler,) = cfg.param_scheduler
    assert (scheduler.type, scheduler.power, scheduler.end) == ('PolyLR', 0.9, cfg.train_cfg.max_iters)
    assert cfg.train_cfg.max_iters == (100_000 if ade else 74_375)
    views = cfg.tta_pipeline[1].transforms
    scales = [min(t.scale) if ade else t.scale_factor for t in views[0]]
    assert scales == ([300, 400, 500, 600] if ade else [1, 1.25, 1.5, 1.75])
    assert [t.prob for t in views[1]] == [0.0, 1.0]
    model = MODELS.build(cfg.model)
    assert norms(model) == {CLASSES[name.split('_')[1]]: 60}
    assert model.decode_head.num_classes == (150 if ade else 19)
    assert not any(getattr(m, 'sync', False) for m in model.modules())


@pytest.mark.parametrize('name', MASK_RCNN)
def test_mask_rcnn(name):
    cfg = load(name)
    norm = name.split('_')[2]
    assert cfg.model.backbone.init_cfg.checkpoint == cfg.pretrained
    assert cfg.train_dataloader.batch_size == 2
    # 2x, as in the SN paper; 1x in the ILM paper.
    assert cfg.train_cfg.max_epochs == (12 if norm == 'ilm' else 24)
    assert cfg.param_scheduler[1].milestones == ([8, 11] if norm == 'ilm' else [16, 22])
    assert cfg.model.train_cfg.rpn_proposal.max_per_img == 2000
    model = MODELS.build(cfg.model)
    head = model.roi_head
    if norm == 'bn':
        assert norms(model) == {'BatchNorm2d': 53}
        assert model.backbone.norm_eval
        frozen = [m for m in model.backbone.modules() if 'Norm' in type(m).__name__]
        assert not any(p.requires_grad for m in frozen for p in m.parameters()), 'gamma and beta too'
        return
    everywhere = 'GroupNorm' if norm == 'ilm' else CLASSES[norm]
    assert norms(model.backbone) == {everywhere: 53}
    assert norms(model.neck) == {everywhere: 8}
    assert norms(head.bbox_head) == {CLASSES[norm]: 4}
    assert norms(head.mask_head) == {everywhere: 4}
    assert model.backbone.frozen_stages == -1


@pytest.mark.parametrize('name', ['mask_rcnn_en_r50_fpn', 'mask_rcnn_sn_r50_fpn', 'mask_rcnn_ilm_r50_fpn'])
def test_no_decay_on_gamma_and_beta(name):
    from mmengine.optim import build_optim_wrapper
    from torch import nn

    cfg = load(name)
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    decay = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    for path, module in model.named_modules():
        if isinstance(module, (LearnedNorm, nn.GroupNorm)):
            assert decay[id(module.weight)] == decay[id(module.bias)] == 0, path
        if isinstance(module, mmnorm.ExemplarNorm2d):
            assert decay[id(module.fc1_weight)] == 1e-4
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert decay[id(module.weight)] == 1e-4, path


@pytest.mark.parametrize('norm', ['en', 'bn'])
def test_demo(norm):
    cfg = load(f'demo/deeplab_{norm}_r18_digits')
    model = MODELS.build(cfg.model)
    assert norms(model) == {CLASSES[norm]: 20}
    assert model.decode_head.num_classes == len(cfg.metainfo.classes) == 11
