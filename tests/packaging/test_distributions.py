"""What wheel and source distribution hold, configs, tools, sources and loops, and what the build says."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import modelindex
import pytest
import torch

from mmnorm.ops.passes import portable

ROOT = Path(__file__).resolve().parents[2]
# In place of PyTorch, as in an isolated build.
NO_TORCH = 'import sys, runpy; sys.modules["torch"] = None; sys.argv = ["setup.py", *sys.argv[1:]]; '


def setup(*words, folder=ROOT, **variables):
    code = f'{NO_TORCH}runpy.run_path("setup.py", run_name="__main__")'
    done = subprocess.run(
        [sys.executable, '-c', code, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': '', **variables},
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
    """The package built from the source distribution without a compiler, as it is installed, and what was said."""
    out = tmp_path_factory.mktemp('built')
    compiler = {'CC': 'no-such-compiler', 'CXX': 'no-such-compiler'}
    said = setup('-q', 'build', '--build-lib', out, '--build-temp', out / 'objects', folder=source, **compiler)
    # By which mmengine finds it, before another installation of the environment.
    setup('-q', 'egg_info', '--egg-base', out, folder=source)
    return out, said


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
    (line,) = [line for line in said.splitlines() if 'mmnorm' in line]
    assert 'mmnorm._C and mmnorm/_loops.so are not compiled, so layers take a third longer on a CPU' in line
    assert 'no-such-compiler' in line


@pytest.mark.skipif(portable.load() is None, reason='mmnorm/_loops.so is not compiled')
def test_a_wheel_that_is_built_without_pytorch_has_the_loops_for_any(source, tmp_path):
    """The library is not compiled once more: that of the tree, newer than its sources, is up to date."""
    library, build = portable.LIBRARY, tmp_path / 'build/lib'
    (build / 'mmnorm').mkdir(parents=True)
    shutil.copyfile(library, build / 'mmnorm/_loops.so')
    # Of an earlier build that saw PyTorch.
    (build / 'mmnorm/_C.cpython-311-x86_64-linux-gnu.so').touch()
    words = 'build', '--build-lib', build, 'egg_info', '--egg-base', tmp_path
    said = setup('-q', *words, 'bdist_wheel', '--dist-dir', tmp_path, '--bdist-dir', tmp_path / 'wheel', folder=source)
    (line,) = [line for line in said.splitlines() if 'mmnorm._C' in line]
    assert 'mmnorm/_loops.so runs on a CPU' in line
    assert '--no-build-isolation' in line
    (wheel,) = tmp_path.glob('*.whl')
    python, abi, platform = wheel.stem.split('-')[-3:]
    assert (python, abi) == ('py3', 'none')
    assert platform != 'any'
    installed = tmp_path / 'installed'
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(installed)
    assert [path.name for path in installed.rglob('*.so')] == ['_loops.so']
    code = (
        'import torch, warnings, mmnorm\n'
        f'assert mmnorm.__file__.startswith({str(installed)!r})\n'
        'x = torch.randn(2, 8, 5, 5, requires_grad=True)\n'
        'with warnings.catch_warnings(record=True) as caught:\n'
        '    for name in ("SwitchableNorm2d", "ExemplarNorm2d", "InstanceMetaNorm2d"):\n'
        '        layer = getattr(mmnorm, name)(8)\n'
        '        assert mmnorm.backend_for(x) == "portable"\n'
        '        y = layer(x)\n'
        '        y.square().sum().backward()\n'
        '        mmnorm.set_backend("reference")\n'
        '        torch.testing.assert_close(y, getattr(mmnorm, name).forward(layer, x), rtol=1e-4, atol=1e-5)\n'
        '        mmnorm.set_backend("auto")\n'
        '(warning,) = [w for w in caught if "mmnorm" in str(w.message)]\n'
        'assert "layers run in mmnorm/_loops.so on a CPU" in str(warning.message), warning.message\n'
    )
    # Without what .pth files do: an editable installation finds the parts of its package, whoever imports them.
    paths = [str(installed), str(Path(torch.__file__).parents[1])]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, '-S', '-c', code], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(sys.platform != 'linux' or portable.load() is None, reason='mmnorm/_loops.so is not compiled')
def test_the_loops_load_where_manylinux2014_does():
    """Or auditwheel gives the wheel a newer tag. What an OpenMP would bring is not linked at all: PyTorch has one."""
    content = portable.LIBRARY.read_bytes()
    newest = {}
    for name, version in re.findall(rb'\0(GLIBC|GLIBCXX|CXXABI|GCC)_([0-9.]+)(?=\0)', content):
        numbers = tuple(map(int, version.split(b'.')))
        newest[name.decode()] = max(newest.get(name.decode(), ()), numbers)
    allowed = {'GLIBC': (2, 17), 'GLIBCXX': (3, 4, 19), 'CXXABI': (1, 3, 7), 'GCC': (4, 8, 0)}
    assert 'GLIBC' in newest
    assert {name: version for name, version in newest.items() if version > allowed[name]} == {}
    libraries = {name.decode() for name in re.findall(rb'\0(lib[\w+-]+)\.so[.\d]*(?=\0)', content)}
    assert libraries <= {'libc', 'libm', 'libstdc++', 'libgcc_s', 'libpthread'}


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
