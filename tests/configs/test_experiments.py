"""The papers' experiments: every config builds and follows the papers' protocol; their rows are in tests/experiments."""

import functools
import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, utils
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope

from mmnorm.cli import checks

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ('.', 'imagenet', 'webvision', 'cifar', 'coco', 'segmentation')
CONFIGS = sorted(path for folder in FOLDERS for path in (ROOT / 'configs' / folder).glob('*.py'))

NORMS = {
    'bn': 'BatchNorm2d',
    'se_bn': 'BatchNorm2d',
    'brn': 'BatchRenorm2d',
    'syncbn': 'SyncBatchNorm',
    'gn': 'GroupNorm',
    'ln': 'GroupNorm',
    'in': 'InstanceNorm2d',
    'sn': 'SwitchableNorm2d',
    'ssn': 'SparseSwitchableNorm2d',
    'sn_in_ln': 'SwitchableNorm2d',
    'en': 'ExemplarNorm2d',
    **dict.fromkeys(('ilm', 'ilm_gn', 'ilm_in', 'ilm_ln'), 'InstanceMetaNorm2d'),
}


@pytest.fixture(scope='module', autouse=True)
def quick():
    """Models on the meta device, and no codebase's list of configs is parsed twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', functools.cache(utils.load))
        # mmpretrain's ResNet reads the values of a linspace.
        patch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
        yield


@functools.cache
def load(name):
    return Config.fromfile(ROOT / f'configs/{name}.py')


@functools.cache
def build(name, depth=None):
    cfg = load(name)
    importlib.import_module(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    model = cfg.model.copy()
    if depth is not None:
        model.backbone.depth = depth
    with torch.device('meta'):
        return MODELS.build(model)


def norms(module):
    return [m for m in module.modules() if type(m).__name__ in NORMS.values()]


def kinds(module):
    return dict(Counter(type(m).__name__ for m in norms(module)))


def names(pattern):
    """Names of the configs that match, with what the pattern captures, as parameters of a test."""
    found = [(str(path.relative_to(ROOT / 'configs').with_suffix('')), path) for path in CONFIGS]
    matches = [re.fullmatch(pattern, name) for name, _ in found]
    params = [(match[0], *match.groups()) for match in matches if match]
    assert params
    return params


def hooks(cfg):
    return [hook.type for hook in cfg.get('custom_hooks', [])]


def sgd(cfg):
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'SGD'
    return optimizer.lr, optimizer.momentum, optimizer.weight_decay


def rate(cfg, images):
    """Learning rate at a batch of ``images`` with --auto-scale-lr."""
    return cfg.optim_wrapper.optimizer.lr * images / cfg.auto_scale_lr.base_batch_size


# <model>_<norm>[_<backbone>][_<data>], and what differs: the data are left out where they are ImageNet, ADE20K or COCO.
IMAGENET = r'imagenet/resnet50_(\w+)'
WEBVISION = r'webvision/(resnet50|inception_v2)_(\w+)_webvision'
SHUFFLENET = r'imagenet/shufflenet_v2_(\w+)'
THIN = r'cifar/resnet20_(\w+)_cifar(100?)'
WIDE = r'cifar/resnet101_(\w+)_cifar(100?)'
C4 = r'coco/faster_rcnn_(frozen_bn|bn|gn|sn)_r50_c4(_scratch)?'
FPN = r'(?:coco/)?(faster|mask)_rcnn_(frozen_)?(bn_gn|bn_sn|gn_sn|bn|syncbn|gn|sn|en|ilm)_r50_fpn(_1gpu)?'
SEGMENTATION = r'deeplab_(\w+?)_r50(_cityscapes)?'
# Of no paper's table: any norm, on data sets of files. tests/tools/test_real_data_configs.py trains them.
OWN = {
    'cifar/resnet20_bn_cifar10_folders',
    'cifar/resnet20_bn_cifar10_short',
    'cifar/resnet20_bn_cifar10_sweep',
    'cifar/resnet20_bn_cifar10_steps',
    'cifar/resnet18_bn_cifar10_pretraining',
    'segmentation/deeplab_bn_r50_camvid',
    'segmentation/deeplab_bn_r18_camvid',
    'segmentation/deeplab_bn_half_r18_camvid',
}


def test_every_config_is_tested():
    patterns = (IMAGENET, WEBVISION, SHUFFLENET, THIN, WIDE, C4, FPN, SEGMENTATION)
    tested = {name for pattern in patterns for name, *_ in names(pattern)} | OWN
    assert tested == {str(path.relative_to(ROOT / 'configs').with_suffix('')) for path in CONFIGS}


@pytest.mark.parametrize(('name', 'schedule'), [('coco/faster_rcnn_sn_r50_fpn', '1x'), ('mask_rcnn_sn_r50_fpn', '2x')])
def test_schedules_are_those_of_mmdet(name, schedule):
    cfg, mmdet = load(name), get_config(f'mmdet::faster_rcnn/faster-rcnn_r50_fpn_{schedule}_coco.py')
    assert cfg.train_cfg.max_epochs == mmdet.train_cfg.max_epochs
    for ours, theirs in zip(cfg.param_scheduler, mmdet.param_scheduler, strict=True):
        assert {key: value for key, value in ours.items() if key != '_scope_'} == {
            key: value for key, value in theirs.items() if key != '_scope_'
        }


def test_work_dirs_are_distinct():
    stems = [path.stem for path in CONFIGS]
    assert len(set(stems)) == len(stems)


@pytest.mark.parametrize(('name', 'norm'), names(IMAGENET))
def test_imagenet(name, norm):
    cfg, model = load(name), build(name)
    assert cfg.train_cfg.max_epochs == 100
    scheduler = cfg.param_scheduler
    assert (scheduler.type, scheduler.milestones, scheduler.gamma) == ('MultiStepLR', [30, 60, 90], 0.1)
    assert sgd(cfg) == ((0.025, 0.9, 5e-4) if 'ilm' in norm else (0.1, 0.9, 1e-4))
    assert cfg.model.head.cal_acc, 'training accuracy is logged'
    assert 'paramwise_cfg' not in cfg.optim_wrapper, 'decay on everything'
    assert not cfg.model.backbone.zero_init_residual
    assert cfg.model.backbone.type == ('SEResNet' if norm == 'se_bn' else 'ResNet')
    assert cfg.train_dataloader.batch_size == {'ilm_gn': 64, 'en': 16}.get(norm, 32)
    # --auto-scale-lr: the rates that the authors name for (8, 32), (8, 4), (8, 1), and the ILM paper's.
    assert [rate(cfg, images) for images in (256, 32, 8, 64)] == pytest.approx([0.1, 0.0125, 0.003125, 0.025])
    assert ('BatchAverageHook' in hooks(cfg)) == (norm in ('sn', 'ssn', 'en'))
    assert kinds(model) == {NORMS[norm]: 53}
    assert model.head.fc.weight.shape == (1000, 2048)
    for layer in norms(model):
        if norm == 'sn_in_ln':
            assert layer.normalizers == ('IN', 'LN')
        elif norm in ('sn', 'ssn', 'en'):
            assert layer.normalizers == ('IN', 'LN', 'BN')
            assert not layer.sync
        elif 'ilm' in norm:
            assert layer.base == norm[-2:].upper()
            assert (layer.key_group_size, layer.reduction) == (16, 16)
        elif norm in ('gn', 'ln'):
            assert layer.num_groups == (32 if norm == 'gn' else 1)
        elif norm == 'in':
            assert layer.affine
            assert not layer.track_running_stats
        if norm == 'en':
            assert (layer.reduction, layer.expansion) == (32, 50)


@pytest.mark.parametrize(('name', 'norm'), names(SHUFFLENET))
def test_shufflenet(name, norm):
    cfg, model = load(name), build(name)
    assert cfg.model.backbone.widen_factor == 0.5
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('Adam', 0.1, 4e-5)
    assert 'momentum' not in optimizer
    assert cfg.train_dataloader.batch_size == 16
    assert cfg.train_cfg.max_epochs == 300
    assert kinds(model) == {NORMS[norm]: 56}
    if norm == 'bn':
        assert sum(p.numel() for p in model.parameters()) == 1_366_792  # that of torchvision's
    if norm == 'en':
        assert {layer.reduction for layer in norms(model)} == {8}


@pytest.mark.parametrize(('name', 'network', 'norm'), names(WEBVISION))
def test_webvision(name, network, norm):
    cfg, model = load(name), build(name)
    files = [dataset.ann_file for dataset in cfg.train_dataloader.dataset.datasets]
    assert files == ['info/train_filelist_google.txt', 'info/train_filelist_flickr.txt']
    assert cfg.val_dataloader.dataset.ann_file == 'info/val_filelist.txt'
    assert cfg.param_scheduler.milestones == [10_000 * drop for drop in (30, 50, 60, 65, 70)]
    assert not cfg.param_scheduler.by_epoch
    assert cfg.train_dataloader.batch_size == 32
    assert cfg.train_dataloader.sampler == dict(type='ClassBalancedSampler')
    assert kinds(model) == {NORMS[norm]: 53 if network == 'resnet50' else 69}
    assert ('BatchAverageHook' in hooks(cfg)) == (norm in ('sn', 'en'))
    if norm == 'en':
        assert {layer.reduction for layer in norms(model)} == {32 if network == 'resnet50' else 16}


@pytest.mark.parametrize(('name', 'norm', 'classes'), names(THIN))
def test_cifar_of_the_en_paper(name, norm, classes):
    cfg = load(name)
    assert cfg.train_cfg.max_epochs == 165
    warmup, steps = cfg.param_scheduler
    assert (warmup.type, warmup.begin, warmup.end, warmup.convert_to_iter_based) == ('LinearLR', 0, 1, True)
    assert (steps.milestones, steps.gamma) == ([80, 120], 0.1)
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 128
    assert cfg.train_dataloader.dataset.type == f'CIFAR{classes}'
    assert sgd(cfg) == (0.1, 0.9, 1e-4)
    assert ('BatchAverageHook' in hooks(cfg)) == (norm in ('sn', 'en'))
    for depth in (20, 56, 110):
        model = build(name, depth)
        assert kinds(model) == {NORMS[norm]: depth - 1}
        assert min(layer.num_features if norm != 'gn' else layer.num_channels for layer in norms(model)) == 16
    assert model.head.fc.weight.shape == (int(classes), 64)
    if norm == 'en':
        assert {layer.reduction for layer in norms(model)} == {8}


@pytest.mark.parametrize(('name', 'norm', 'classes'), names(WIDE))
def test_cifar_of_the_ilm_paper(name, norm, classes):
    cfg, model = load(name), build(name)
    assert cfg.train_cfg.max_epochs == 350
    assert cfg.param_scheduler.milestones == [150, 250]
    assert sgd(cfg) == (0.1, 0.9, 5e-4)
    assert cfg.train_dataloader.batch_size == 64
    # --auto-scale-lr: the authors' code.
    assert [rate(cfg, images) for images in (64, 2)] == pytest.approx([0.1 * 64 / 256, 0.1 * 2 / 256])
    assert not cfg.model.backbone.zero_init_residual
    assert cfg.train_dataloader.dataset.type == f'CIFAR{classes}'
    assert kinds(model) == {NORMS[norm]: 104}
    assert model.head.fc.weight.shape == (int(classes), 2048)
    assert tuple(cfg.val_evaluator.topk) == ((1, 5) if classes == '100' else (1,))
    if norm in ('gn', 'ln'):
        assert {layer.num_groups for layer in norms(model)} == {32 if norm == 'gn' else 1}
    if 'ilm' in norm:
        assert {layer.base for layer in norms(model)} == {norm[-2:].upper()}


def check_no_decay_on_affine(cfg, model):
    from mmengine.optim import build_optim_wrapper

    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    decay = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    for layer in norms(model):
        for parameter in (layer.weight, layer.bias):
            assert not parameter.requires_grad or decay[id(parameter)] == 0
    assert set(decay.values()) >= {0, 1e-4}


def check_coco(cfg, scratch, batch=16):
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert (cfg.model.backbone.init_cfg is None) == bool(scratch)
    assert sgd(cfg)[1:] == (0.9, 1e-4)


def check_frozen(model, expected):
    parameters = [p for layer in norms(model.backbone) for p in layer.parameters()]
    assert {p.requires_grad for p in parameters} == {not expected}
    assert {layer.training for layer in norms(model.train().backbone)} == {not expected}


@pytest.mark.parametrize(('name', 'norm', 'scratch'), names(C4))
def test_faster_rcnn_c4(name, norm, scratch):
    cfg, model = load(name), build(name)
    check_coco(cfg, scratch, 12)
    assert cfg.train_dataloader.batch_size == 3
    assert (cfg.train_cfg.max_iters, cfg.param_scheduler[1].milestones) == (120_000, [80_000])
    assert cfg.optim_wrapper.optimizer.lr == 0.01
    frozen = norm == 'frozen_bn'
    kind = NORMS[norm.removeprefix('frozen_')]
    assert kinds(model.backbone) == {kind: 43}
    assert kinds(model.roi_head.shared_head) == {kind: 10}
    check_frozen(model, frozen)
    assert {layer.training for layer in norms(model.roi_head)} == {not frozen}
    assert cfg.model.backbone.style == cfg.model.roi_head.shared_head.style == 'pytorch'
    # Detectron's GN weights see BGR without division.
    assert cfg.model.data_preprocessor.bgr_to_rgb == (norm != 'gn' or bool(scratch))
    assert (cfg.model.roi_head.shared_head.init_cfg is None) == bool(scratch)
    if not frozen:
        check_no_decay_on_affine(cfg, model)
        assert model.backbone.frozen_stages == -1


@pytest.mark.parametrize(('name', 'detector', 'frozen', 'norm', 'single'), names(FPN))
def test_rcnn_fpn(name, detector, frozen, norm, single):
    cfg, model = load(name), build(name)
    check_coco(cfg, False, 2 if single else 16)
    assert cfg.train_dataloader.batch_size == 2
    loop, steps = cfg.train_cfg, cfg.param_scheduler[1]
    if single:
        assert (loop.max_iters, steps.milestones) == (90_000, [60_000, 80_000])
        assert cfg.optim_wrapper.optimizer.lr == 0.0025
    else:
        once = detector == 'faster' or norm == 'ilm'
        assert (loop.max_epochs, steps.end, steps.milestones) == ((12, 12, [8, 11]) if once else (24, 24, [16, 22]))
        assert cfg.optim_wrapper.optimizer.lr == 0.02
    assert cfg.model.train_cfg.rpn_proposal.max_per_img == 2000
    assert cfg.model.test_cfg.rpn.max_per_img == 1000
    backbone, _, head = norm.partition('_')
    frozen = frozen or norm == 'bn'
    assert kinds(model.backbone) == {NORMS['gn' if norm == 'ilm' else backbone]: 53}
    check_frozen(model, bool(frozen))
    assert ('BatchAverageHook' in hooks(cfg)) == ((head or norm) in ('sn', 'en'))
    if norm == 'bn':
        assert kinds(model) == {'BatchNorm2d': 53}
        return
    kind = NORMS[head or norm]
    everywhere = 'GroupNorm' if norm == 'ilm' else kind
    assert kinds(model.neck) == {everywhere: 8}
    assert kinds(model.roi_head.bbox_head) == {kind: 4}
    if detector == 'mask':
        assert kinds(model.roi_head.mask_head) == {everywhere: 4}
    check_no_decay_on_affine(cfg, model)


@pytest.mark.parametrize(('name', 'norm', 'data'), names(SEGMENTATION))
def test_segmentation(name, norm, data):
    cfg, model = load(name), build(name)
    ade20k = data is None
    assert cfg.optim_wrapper.optimizer.lr == (0.02 if ade20k else 0.01)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.train_cfg.max_iters == (100_000 if ade20k else 74_375)
    assert cfg.crop_size == ((450, 450) if ade20k else (713, 713))
    assert kinds(model) == {NORMS[norm]: 60}
    assert ('BatchAverageHook' in hooks(cfg)) == (norm in ('sn', 'en'))


def pretrained_configs():
    return [name for pattern in (SEGMENTATION, C4, FPN) for name, *_ in names(pattern) if 'scratch' not in name]


@pytest.mark.parametrize('name', pretrained_configs())
def test_start_is_one_setting(name):
    """``pretrained`` is what every part with an init_cfg starts from; without a prefix, as of a backbone alone."""
    cfg = load(name)
    starts = [start for _, start in checks.pretrained_settings(cfg)]
    assert len(starts) == (2 if 'c4' in name else 1)
    assert {(start.checkpoint, start.prefix) for start in starts} == {(cfg.pretrained, None)}
    backbone = cfg.model.backbone.norm_cfg.type
    assert cfg.pretrained == ('open-mmlab://detectron/resnet50_gn' if backbone == 'GN' else 'torchvision://resnet50')
    # Detectron's weights see BGR without division.
    assert cfg.model.data_preprocessor.bgr_to_rgb == (backbone != 'GN')


@pytest.mark.parametrize('name', pretrained_configs())
def test_checkpoint_of_the_imagenet_config_fits(name):
    """What the ImageNet config of the backbone's norm saves has every weight of the backbone, under its prefix."""
    model = build(name)
    norm = load(name).model.backbone.norm_cfg
    source = 'bn' if 'BN' in norm.type else 'ilm_gn' if norm.type == 'ILM' else norm.type.lower()
    saved = {key: value.shape for key, value in build(f'imagenet/resnet50_{source}').state_dict().items()}
    parts = [model.backbone, model.roi_head.shared_head] if 'c4' in name else [model.backbone]
    for part in parts:
        for key, value in part.state_dict().items():
            assert saved[f'backbone.{key}'] == value.shape, key


def test_cifar_from_folders(tmp_path):
    """The data file that takes the place of the pickles reads class folders, in RGB."""
    import cv2
    import numpy as np
    from mmpretrain.registry import DATASETS

    name = 'cifar/resnet20_bn_cifar10_folders'
    cfg = load(name)
    build(name)
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 2] = 255  # BGR
    for split in ('train', 'test'):
        for label in ('bird', 'cat'):
            (tmp_path / split / label).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / split / label / '0.png'), red)
    preprocessor = MODELS.build({**cfg.model.get('data_preprocessor', {}), **cfg.data_preprocessor, **SCOPE})
    for loader, steps in ((cfg.train_dataloader, 4), (cfg.val_dataloader, 2)):
        dataset = DATASETS.build({**loader.dataset, 'data_root': str(tmp_path)})
        assert [dataset[i]['data_samples'].gt_label.item() for i in range(2)] == [0, 1]
        assert len(dataset.pipeline.transforms) == steps
    inputs = preprocessor(dict(inputs=[dataset[0]['inputs']], data_samples=[dataset[0]['data_samples']]))['inputs']
    assert inputs[0, 0].mean() > 2
    assert inputs[0, 2].mean() < -2


SCOPE = {'type': 'mmpretrain.ClsDataPreprocessor'}
