"""An mmcv without its compiled operators, as the demo has: what needs them says what to type, before it begins."""

import importlib.util

import pytest
from mmengine.config import Config

from mmnorm.cli.checks import check_codebase, check_operators
from mmnorm.errors import UsageError

REMEDIES = r'make env.*pip install --force-reinstall .*--no-cache-dir (onedl-)?mmcv==\d+\.\d+'


@pytest.fixture
def config(tmp_path):
    def make(**content):
        (tmp_path / 'some.py').touch()
        return Config(content, filename=tmp_path / 'some.py')

    return make


def test_message(no_operators):
    with pytest.raises(UsageError, match=f'^the sweep needs mmdet, and .* operators of mmcv.*{REMEDIES}'):
        check_operators('the sweep')


def test_lite(no_operators, monkeypatch):
    """It never has any; the remedy is the other distribution."""
    monkeypatch.setattr('mmnorm.cli.checks.packages_distributions', lambda: {'mmcv': ['mmcv-lite']})
    monkeypatch.setattr('mmnorm.cli.checks.version', lambda name: '2.1.0')
    with pytest.raises(UsageError, match=r' mmcv==2\.1\.0$'):
        check_operators('the sweep')


def test_with_operators(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, package=None: object())
    check_operators('the sweep')


@pytest.mark.parametrize(
    ('scope', 'model'),
    [
        ('mmdet', dict(type='FasterRCNN')),
        ('mmseg', dict(type='EncoderDecoder', decode_head=dict(loss_cls=[dict(type='mmdet.CrossEntropyLoss')]))),
    ],
)
def test_configs_that_need_them(no_operators, config, scope, model):
    with pytest.raises(UsageError, match=f'some.py needs mmdet.*{REMEDIES}'):
        check_codebase(config(model=model), scope)


def test_configs_that_do_not(no_operators, config):
    check_codebase(config(model=dict(type='EncoderDecoder', backbone=dict(type='ResNet'))), 'mmseg')
    check_codebase(config(), 'mmpretrain')
