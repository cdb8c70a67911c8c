"""What --tta makes of a config; that the result runs is shown with the tools."""

import pytest
from mmengine.config import Config

from mmnorm.cli.tta import enable_tta
from mmnorm.errors import UsageError


def detector(**extra):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs', meta_keys=('img_id',)),
    ]
    model = dict(type='MaskRCNN', roi_head=dict(mask_head=dict(type='FCNMaskHead'), mask_roi_extractor=dict()))
    evaluator = dict(type='CocoMetric', metric=['bbox', 'segm'])
    dataset = dict(type='RepeatDataset', dataset=dict(pipeline=pipeline))
    return Config(dict(model=model, test_dataloader=dict(dataset=dataset), test_evaluator=evaluator, **extra))


def test_detector_gets_scales_and_flips_and_no_masks():
    cfg = detector()
    enable_tta(cfg, 'mmdet')
    load, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert load.type == 'LoadImageFromFile'
    resizes, flips, annotations, pack = augment.transforms
    assert [tuple(t.scale) for t in resizes] == [(1333, 800), (666, 400), (2000, 1200)]
    assert sorted(t.prob for t in flips) == [0, 1]
    assert annotations[0].type == 'LoadAnnotations'
    assert 'flip' in pack[0].meta_keys
    assert cfg.model.type == 'DetTTAModel'
    assert cfg.model.module.roi_head.mask_head is None
    assert cfg.test_evaluator.metric == ['bbox']


def test_the_config_has_the_say():
    cfg = detector(tta_model=dict(type='Mine'), tta_pipeline=[dict(type='Mine')])
    enable_tta(cfg, 'mmdet')
    assert cfg.model.type == 'Mine'
    assert [t.type for t in cfg.test_dataloader.dataset.dataset.pipeline] == ['Mine']


def test_nothing_to_vary():
    cfg = detector()
    del cfg.test_dataloader.dataset.dataset.pipeline[1]
    with pytest.raises(UsageError, match='no Resize with a scale'):
        enable_tta(cfg, 'mmdet')
    with pytest.raises(UsageError, match='no tta_model and no tta_pipeline'):
        enable_tta(cfg, 'mmseg')
