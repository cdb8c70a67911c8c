"""``mmnorm::...``: in commands, as a base of other configs, and what is said of names that there are none of."""

from collections import Counter
from pathlib import Path

import pytest
from mmengine.config import Config

from mmnorm.engine.own_configs import config_folder, config_names, config_path, let_mmengine_find_them

ROOT = Path(__file__).resolve().parents[2]


def test_every_config_of_the_repository_has_a_name():
    files = {path.relative_to(ROOT / 'configs').as_posix() for path in (ROOT / 'configs').rglob('*.py')}
    assert {f'mmnorm::{file}' for file in files if not file.startswith('_base_/')} == set(config_names())
    for name in config_names():
        assert config_path(name).is_file()


def test_openmim_finds_each_by_its_file_name():
    """It looks for that in the whole package, and takes no folder with it."""
    folders = ('configs', 'mmnorm', 'tools')
    files = {path for folder in folders for path in (ROOT / folder).rglob('*.py') if '.mim' not in path.parts}
    times = Counter(path.name for path in files)
    assert [name for name in config_names() if times[name.rpartition('/')[2].removeprefix('mmnorm::')] != 1] == []


def test_the_built_package_comes_before_what_lies_beside_it(tmp_path, monkeypatch):
    """Folders called configs may stand in site-packages, too."""
    monkeypatch.setattr('mmnorm.engine.own_configs._PACKAGE', tmp_path / 'mmnorm')
    assert config_folder() == tmp_path / 'configs'
    (tmp_path / 'mmnorm/.mim/configs').mkdir(parents=True)
    assert config_folder() == tmp_path / 'mmnorm/.mim/configs'


def test_a_name_that_there_is_not():
    with pytest.raises(
        FileNotFoundError, match=r'no config mmnorm::deeplab_en_r51.py; nearest: mmnorm::deeplab_en_r50'
    ):
        config_path('mmnorm::deeplab_en_r51.py')


@pytest.mark.parametrize('name', ['deeplab_en_r50.py', 'demo/deeplab_en_r18_digits.py', '_base_/deeplab_r50.py'])
def test_as_base(name, tmp_path):
    """At the top as in a folder; what is built is what the file says, in the scope that the file says."""
    (tmp_path / 'mine.py').write_text(f"_base_ = 'mmnorm::{name}'\nmine = 1\n")
    built = Config.fromfile(tmp_path / 'mine.py').to_dict()
    assert built.pop('mine') == 1
    assert built == Config.fromfile(ROOT / 'configs' / name).to_dict()


def test_the_base_of_a_base_and_a_value_of_it(tmp_path):
    (tmp_path / 'other.py').write_text('other = 2\n')
    (tmp_path / 'mine.py').write_text(
        "_base_ = ['mmnorm::cifar/resnet20_en_cifar10.py', 'other.py']\nnorm = {{_base_.model.backbone.norm_cfg}}\n"
    )
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.norm.type == 'EN'
    assert cfg.other == 2


def test_a_base_that_there_is_not(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmnorm::none.py'\n")
    with pytest.raises(FileNotFoundError, match='there is no config mmnorm::none.py'):
        Config.fromfile(tmp_path / 'mine.py')


def test_other_names_are_left_to_mmengine(tmp_path):
    let_mmengine_find_them()
    (tmp_path / 'mine.py').write_text("_base_ = 'mmnothing::a/b.py'\n")
    with pytest.raises(AssertionError, match='does not support to load mmnothing'):
        Config.fromfile(tmp_path / 'mine.py')
