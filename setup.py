"""Packaging of mmnorm. The layers need torch alone; everything else is an extra.

The loops for the CPU (mmnorm/csrc) are compiled against the PyTorch that is installed, so pip must see it:
``pip install --no-build-isolation .``. Without PyTorch, a C++ compiler or that option the layers work as well, slower.

Configs and tools stand at the top of the repository, and in the package that is built in ``mmnorm/.mim``, where openmim
and mmengine look for them.
"""

import runpy
import shutil
import sys
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

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
DIGITS = ['numpy', 'scikit-learn>=1.0', 'opencv-python-headless', 'pycocotools']


def compiled_loops() -> dict:
    """Arguments of setup() that compile mmnorm._C, or the reason why it is not compiled.

    Raises:
        SystemExit: If that PyTorch is too old for mmnorm altogether.
    """
    try:
        import torch
    except ImportError:
        return {'reason': 'this build sees no PyTorch, which --no-build-isolation would let it see'}
    if VERSIONS['is_older'](torch.__version__, OLDEST_PYTORCH):
        needed = '.'.join(map(str, OLDEST_PYTORCH))
        sys.exit(f'mmnorm needs PyTorch {needed} or newer, but {torch.__version__} is installed; upgrade it first')
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        # PyTorch 2.1 and 2.2 ask setuptools for what it dropped in its version 70.
        return {'reason': f'{error}; with PyTorch 2.1 or 2.2 use setuptools<70'}
    openmp = sys.platform == 'linux'
    extension = CppExtension(
        'mmnorm._C',
        # Two files, one a core; together.cpp includes all others.
        ['mmnorm/csrc/together.cpp', 'mmnorm/csrc/core.cpp'],
        depends=sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'mmnorm/csrc').iterdir()),
        # Compiled with OpenMP but not linked to it: the functions are found in the library that PyTorch has loaded, and
        # a second one would have threads of its own.
        extra_compile_args=[
            '-O3',
            # Python's own flags have -g, which takes a third of the time and makes 39 MB of 2.
            '-g0',
            '-fno-math-errno',
            '-fno-trapping-math',
            '-fvisibility=hidden',
            *(['-fopenmp'] if openmp else []),
        ],
        # A failure to compile is a warning.
        optional=True,
    )

    # ninja's failures would not be.
    class BuildInParallel(BuildExtension):
        """Compiles a file on each core; half of a file's half minute goes into the headers of PyTorch."""

        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **{**kwargs, 'use_ninja': False})

        def build_extensions(self) -> None:
            def compile_all(compile_one, sources, *args, **kwargs):
                with ThreadPool() as pool:
                    lists = pool.map(lambda source: compile_one([source], *args, **kwargs), sources)
                return [name for names in lists for name in names]

            original = self.compiler.compile
            self.compiler.compile = partial(compile_all, original)
            super().build_extensions()

    return {'ext_modules': [extension], 'cmdclass': {'build_ext': BuildInParallel}}


class BuildWithConfigs(build_py):
    """Puts configs, tools and model-index.yml into the package: copies, or links in an editable installation."""

    def run(self) -> None:
        super().run()
        if 'reason' in COMPILED:
            slower = 'layers take about twice as long on a CPU'
            print(f'mmnorm._C is not compiled, so {slower}: {COMPILED["reason"]}', file=sys.stderr)
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


COMPILED = compiled_loops()

setup(
    name='mmnorm',
    version=VERSIONS['__version__'],
    description='Learned normalization for OpenMMLab: Switchable, Exemplar and Instance-Level Meta Normalization',
    long_description=(ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else '',
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
        'test': [*DIGITS, 'matplotlib', 'pytest', 'hypothesis', 'ruff', 'onnx', 'onnxruntime', 'onnxscript'],
    },
    ext_modules=COMPILED.get('ext_modules', []),
    cmdclass={'build_py': BuildWithConfigs, **COMPILED.get('cmdclass', {})},
)
