"""Packaging of mmnorm. The layers need torch alone; everything else is an extra.

The loops for the CPU (mmnorm/csrc) are compiled twice: as mmnorm._C, with nodes of autograd, against the PyTorch that
is installed, which pip must see (``pip install --no-build-isolation .``), and as mmnorm/_loops.so, which knows no
PyTorch. A wheel that is built without PyTorch has the second alone, and serves all versions. Without a C++ compiler the
layers work as well, slower.

Configs and tools stand at the top of the repository, and in the package that is built in ``mmnorm/.mim``, where openmim
and mmengine look for them.
"""

import runpy
import shutil
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from subprocess import CalledProcessError

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    # Before setuptools 70.1.
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
VERSIONS = runpy.run_path(str(ROOT / 'mmnorm/version.py'))
# As mmnorm/prerequisites.py has it, which cannot be imported here.
OLDEST_PYTORCH = (2, 1)

# OpenMMLab is published twice: upstream, and as onedl-*, its maintained continuation under the same import names.
# Neither is a requirement, so that installing mmnorm never replaces the one that a user already has.
ONEDL = [
    'onedl-mmengine>=0.10.10',
    'onedl-mmcv>=2.3.0',
    'onedl-mmsegmentation>=1.4.0',
    'onedl-mmdetection>=3.5.0',
    'onedl-mmpretrain>=1.3.0',
]
# The versions that the tests were run with; see docs/installation.md for the PyTorch that they stand on.
UPSTREAM = ['mmengine==0.10.7', 'mmcv==2.1.0', 'mmsegmentation==1.2.2', 'mmdet==3.3.0', 'mmpretrain==1.2.0']
# What goes into mmnorm/.mim, as in the packages of OpenMMLab.
MIM = ('configs', 'tools', 'model-index.yml')
# SSIM and LPIPS.
SIMILARITY = ['scikit-image', 'lpips', 'torchvision']
DIGITS = ['numpy', 'scikit-learn>=1.0', 'opencv-python-headless', 'pycocotools']


FLAGS = [
    '-O3',
    # Python's own flags have -g, which takes a third of the time and makes 39 MB of 2.
    '-g0',
    '-fno-math-errno',
    '-fno-trapping-math',
    '-fvisibility=hidden',
]
# What layers take without mmnorm._C, and without both; see docs/performance.md.
BY_LOOPS = 'a quarter longer, three times as long on small maps'
BY_COMPOSED = 'a third longer on a CPU, three to four times as long on small maps'
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'mmnorm/csrc').iterdir())
# The loops, compiled once for both.
CORE = 'mmnorm/csrc/core.cpp'
PYTORCH, ANY = 'mmnorm._C', 'mmnorm._loops'


def loops_for_pytorch() -> tuple[Extension | None, type[build_ext], str]:
    """mmnorm._C, the command that builds it, and if there is none the reason.

    Raises:
        SystemExit: If that PyTorch is too old for mmnorm altogether.
    """
    try:
        import torch
    except ImportError:
        return None, build_ext, 'this build sees no PyTorch, which --no-build-isolation would let it see'
    if VERSIONS['is_older'](torch.__version__, OLDEST_PYTORCH):
        needed = '.'.join(map(str, OLDEST_PYTORCH))
        sys.exit(f'mmnorm needs PyTorch {needed} or newer, but {torch.__version__} is installed; upgrade it first')
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        # PyTorch 2.1 and 2.2 ask setuptools for what it dropped in its version 70.
        return None, build_ext, f'{error}; with PyTorch 2.1 or 2.2 use setuptools<70'
    openmp = sys.platform == 'linux'
    extension = CppExtension(
        PYTORCH,
        # Two files, one a core; together.cpp includes all others.
        ['mmnorm/csrc/together.cpp', CORE],
        depends=SOURCES,
        # Compiled with OpenMP but not linked to it: the functions are found in the library that PyTorch has loaded, and
        # a second one would have threads of its own.
        extra_compile_args=[*FLAGS, *(['-fopenmp'] if openmp else [])],
        optional=True,
    )
    return extension, BuildExtension, ''


def loops_for_any_pytorch() -> Extension:
    """mmnorm/_loops.so, which asks nothing of PyTorch or Python."""
    flags = [*FLAGS, '-std=c++17', '-fopenmp-simd']
    # A failure to compile is a warning, here as there.
    return Extension(
        ANY, [CORE, 'mmnorm/csrc/loops.cpp'], depends=SOURCES, extra_compile_args=flags, optional=True, language='c++'
    )


def what_is_slower(missing: dict[str, str]) -> str:
    """One line.

    Args:
        missing: Names of what is not compiled, each with the reason.
    """
    # Of both, the reason of the one that needs less.
    reason = ' '.join(missing.get(ANY, missing.get(PYTORCH)).split())
    if len(missing) == 2:
        return f'mmnorm._C and mmnorm/_loops.so are not compiled, so layers take {BY_COMPOSED}: {reason}'
    if PYTORCH in missing:
        return f'mmnorm._C is not compiled, so mmnorm/_loops.so runs on a CPU, and layers take {BY_LOOPS}: {reason}'
    return f'mmnorm/_loops.so is not compiled, so with another PyTorch layers take {BY_COMPOSED}: {reason}'


FOR_PYTORCH, BUILD_EXT, WHY_NOT = loops_for_pytorch()


class BuildLoops(BUILD_EXT):
    """Compiles what can be compiled, a file on each core, and says once what is slower for want of the rest."""

    has_said = False

    def __init__(self, *args, **kwargs) -> None:
        # With ninja, failures would not be warnings.
        super().__init__(*args, **{**kwargs, 'use_ninja': False})

    def run(self) -> None:
        self.missing = {} if FOR_PYTORCH else {PYTORCH: WHY_NOT}
        if not FOR_PYTORCH:
            # Of an earlier build, for a PyTorch that the wheel is not to belong to.
            for stale in Path(self.build_lib, 'mmnorm').glob('_C.*'):
                stale.unlink()
        super().run()
        # A wheel's build runs this twice.
        if self.missing and not BuildLoops.has_said:
            BuildLoops.has_said = True
            print(what_is_slower(self.missing), file=sys.stderr)

    def build_extensions(self) -> None:
        compile_one, objects = self.compiler.compile, {}

        def compile_all(sources, *args, **kwargs):
            def compile_new(source):
                if source not in objects:
                    objects[source] = compile_one([source], *args, **kwargs)

            # Half of a file's half minute goes into the headers of PyTorch.
            with ThreadPool() as pool:
                pool.map(compile_new, sources)
            return [name for source in sources for name in objects[source]]

        self.compiler.compile = compile_all
        try:
            super().build_extensions()
        except CalledProcessError as error:
            # Earlier versions of PyTorch ask `which` for the compiler before anything is compiled.
            self.missing.update({ext.name: str(error) for ext in self.extensions})

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError, OSError) as error:
            self.missing[ext.name] = str(error)

    def get_ext_filename(self, fullname: str) -> str:
        # No module of Python. The name comes with the package and without.
        *packages, name = fullname.split('.')
        return '/'.join([*packages, '_loops.so']) if name == '_loops' else super().get_ext_filename(fullname)


class WheelOfLoops(bdist_wheel):
    """A wheel that belongs to a Python and a PyTorch only where it has mmnorm._C."""

    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        return tag if FOR_PYTORCH else ('py3', 'none', tag[2])


class BuildWithConfigs(build_py):
    """Puts configs, tools and model-index.yml into the package: copies, or links in an editable installation."""

    def run(self) -> None:
        super().run()
        target = ROOT / 'mmnorm/.mim' if self.editable_mode else Path(self.build_lib, 'mmnorm/.mim')
        # Of an earlier build.
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in MIM:
            if self.editable_mode:
                self.link(target / name)
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy2(ROOT / name, target / name)

    @staticmethod
    def link(path: Path) -> None:
        """Let what stands at the top be found below the package, too. mmnorm itself does without."""
        try:
            path.symlink_to(Path('../..', path.name))
        except OSError as error:
            print(f'openmim will not find mmnorm: {error}', file=sys.stderr)


setup(
    name='mmnorm',
    version=VERSIONS['__version__'],
    description='Learned normalization for OpenMMLab: Switchable, Exemplar and Instance-Level Meta Normalization',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8') if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    author='The mmnorm authors',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: C++',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmnorm', 'mmnorm.*']),
    python_requires='>=3.10',
    package_data={'mmnorm': ['csrc/*.h', 'csrc/*.cpp', 'experiments/*.yaml', 'experiments/*.md', 'py.typed']},
    py_modules=['mmnorm_command'],
    entry_points={'console_scripts': ['mmnorm=mmnorm_command:main']},
    install_requires=['torch>=2.1'],
    extras_require={
        'onedl': ONEDL,
        'upstream': UPSTREAM,
        'digits': DIGITS,
        'demo': [*DIGITS, 'matplotlib'],
        'analysis': ['numpy', 'matplotlib>=3.7', 'scikit-learn>=1.0'],
        'translation': SIMILARITY,
        'test': [
            *DIGITS,
            *SIMILARITY,
            'matplotlib',
            'pytest',
            'hypothesis',
            'ruff',
            'onnx',
            'onnxruntime',
            'onnxscript',
        ],
    },
    # The one for PyTorch takes longer: while it is compiled, so are the loops.
    ext_modules=[*([FOR_PYTORCH] if FOR_PYTORCH else []), loops_for_any_pytorch()],
    cmdclass={'build_py': BuildWithConfigs, 'build_ext': BuildLoops, 'bdist_wheel': WheelOfLoops},
)
