"""What wheel and source distribution hold, nothing compiled: configs and tools in the package, sources beside it."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import modelindex
import pytest

ROOT = Path(__file__).resolve().parents[2]
# In place of PyTorch: nothing is compiled.
NO_TORCH = 'import sys, runpy; sys.modules["torch"] = None; sys.argv = ["setup.py", *sys.argv[1:]]; '


def setup(*words, folder=ROOT):
    code = f'{NO_TORCH}runpy.run_path("setup.py", run_name="__main__")'
    done = subprocess.run(
        [sys.executable, '-c', code, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': ''},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def files_in(folder, pattern='*'):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob(pattern)
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """An unpacked source distribution."""
    out = tmp_path_factory.mktemp('sdist')
    setup('-q', 'egg_info', '--egg-base', out, 'sdist', '--dist-dir', out)
    (archive,) = out.glob('*.tar.gz')
    with tarfile.open(archive) as opened:
        opened.extractall(out)
    (folder,) = (path for path in out.iterdir() if (path / 'setup.py').is_file())
    return folder


@pytest.fixture(scope='module')
def built(source, tmp_path_factory):
    """The package as it is installed, built from the source distribution; and what the build said."""
    out = tmp_path_factory.mktemp('built')
    return out, setup('-q', 'build_py', '--build-lib', out, folder=source)


def test_the_source_distribution_is_all_that_is_built_of(source):
    for folder in ('configs', 'tools', 'requirements'):
        assert files_in(source / folder) == files_in(ROOT / folder)
    for pattern in ('*.py', '*.cpp', '*.h', '*.yaml', '*.md'):
        assert files_in(source / 'mmnorm', pattern) == files_in(ROOT / 'mmnorm', pattern)
    for name in ('model-index.yml', 'pyproject.toml', 'mmnorm_command.py', 'LICENSE', 'README.md', 'tests/helpers.py'):
        assert (source / name).is_file(), name
    assert not list(source.rglob('*.so'))
    assert not (source / 'mmnorm/.mim').exists(), 'configs are there once'


def test_the_package_has_configs_and_tools_where_openmmlab_looks(built):
    out, _ = built
    for name in ('configs', 'tools'):
        assert files_in(out / 'mmnorm/.mim' / name) == files_in(ROOT / name)
    modelindex.load(str(out / 'mmnorm/.mim/model-index.yml')).check()
    for name in ('py.typed', 'csrc/step.cpp', 'experiments/experiments.yaml', 'commands/train.py'):
        assert (out / 'mmnorm' / name).is_file()
    assert (out / 'mmnorm_command.py').is_file()
    assert not (out / 'tests').exists()


def test_the_build_says_what_is_slower_and_why(built):
    _, said = built
    (line,) = [line for line in said.splitlines() if 'mmnorm._C' in line]
    assert 'layers take about twice as long on a CPU' in line
    assert '--no-build-isolation' in line


def test_the_built_package_reads_its_own_configs(built, tmp_path):
    """In a folder that is not the repository, with nothing of the repository to import."""
    out, _ = built
    code = (
        'from mmengine.config import Config\nimport mmnorm\n'
        f'assert mmnorm.__file__.startswith({str(out)!r})\n'
        'from mmnorm.engine.own_configs import config_path\n'
        'path = config_path("mmnorm::deeplab_en_r50.py")\n'
        f'assert str(path).startswith({str(out / "mmnorm/.mim/configs")!r}), path\n'
        'open("mine.py", "w").write("_base_ = \'mmnorm::demo/deeplab_en_r18_digits.py\'")\n'
        'assert Config.fromfile("mine.py").model.backbone.norm_cfg.type == "EN"\n'
        'from mmengine.hub import get_config\n'
        'assert get_config("mmnorm::demo/deeplab_en_r18_digits.py").model.backbone.norm_cfg.type == "EN"\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(out)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
