"""``mmnorm configs``, and configs by name where commands take one."""

import sys
from argparse import Namespace

import pytest

from mmnorm.cli import launch
from mmnorm.commands import configs
from mmnorm.errors import UsageError


@pytest.fixture
def listed(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['mmnorm configs', *arguments])
        configs.main()
        return capsys.readouterr().out.splitlines()

    return run


def test_lists(listed):
    assert {'mmnorm::deeplab_en_r50.py', 'mmnorm::coco/faster_rcnn_sn_r50_fpn.py'} < set(listed())
    assert listed('demo/', 'mask_rcnn_sn_r50') == [
        'mmnorm::demo/deeplab_bn_r18_digits.py',
        'mmnorm::demo/deeplab_en_r18_digits.py',
        'mmnorm::demo/enas_sn_digits.py',
        'mmnorm::demo/johnson_sn_digits.py',
        'mmnorm::demo/pix2pix_ilm_in_digits.py',
        'mmnorm::mask_rcnn_sn_r50_fpn.py',
    ]
    (path,) = listed('--paths', 'deeplab_*en_r50.py')
    assert path.endswith('configs/deeplab_en_r50.py')
    with pytest.raises(UsageError, match="no config has 'xyz' in its name"):
        listed('xyz')


def load(config):
    arguments = dict(norm=None, norm_scope=None, cfg_options=None, work_dir=None, fuse=False, launcher='none')
    return launch.load_config(Namespace(config=config, **arguments, local_rank=0, trust_checkpoint=False))[0]


def test_a_command_takes_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load('mmnorm::deeplab_en_r50.py')
    assert cfg.model.backbone.norm_cfg.type == 'EN'
    assert cfg.work_dir == 'work_dirs/deeplab_en_r50'
    assert load('mmnorm::demo/deeplab_en_r18_digits.py').work_dir == 'work_dirs/deeplab_en_r18_digits'
    with pytest.raises(
        UsageError, match='there is no config mmnorm::deeplab_en_r5.py; nearest: mmnorm::deeplab_en_r50'
    ):
        load('mmnorm::deeplab_en_r5.py')
