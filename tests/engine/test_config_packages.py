"""`_base_ = 'mmseg::...'` finds the installed configs, whichever distribution they came from."""

import importlib.metadata

import pytest
from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.hub import get_config

from mmnorm.engine import config_packages

NAMES = {
    'mmseg': 'mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmdet': 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmpretrain': 'mmpretrain::resnet/resnet50_8xb32_in1k.py',
}


@pytest.mark.parametrize('scope', NAMES)
def test_base_and_get_config(scope, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = '{NAMES[scope]}'\n")
    assert Config.fromfile(config).model.type
    assert get_config(NAMES[scope]).model.type


@pytest.mark.parametrize('fork', [False, True], ids=['upstream', 'fork'])
def test_mapping(monkeypatch, fork):
    """An upstream installation is left as mmengine has it; a fork is found by the module that it installs."""
    mapping = {'mmseg': 'mmsegmentation', 'mmdet': 'mmdet', 'mmocr': 'mmocr'}
    installed = {'onedl-mmsegmentation', 'onedl-mmdetection'} if fork else {'mmsegmentation', 'mmdet'}

    def distribution(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)

    providers = {'mmseg': ['onedl-mmsegmentation'], 'mmdet': ['onedl-mmdetection']}
    monkeypatch.setattr(config_utils, 'MODULE2PACKAGE', mapping)
    monkeypatch.setattr(config_packages, 'distribution', distribution)
    monkeypatch.setattr(config_packages, 'packages_distributions', lambda: providers if fork else {})
    config_packages.resolve_config_packages()
    if fork:
        assert mapping == {'mmseg': 'onedl-mmsegmentation', 'mmdet': 'onedl-mmdetection', 'mmocr': 'mmocr'}
    else:
        assert mapping == {'mmseg': 'mmsegmentation', 'mmdet': 'mmdet', 'mmocr': 'mmocr'}
