"""Packaging of mmnorm. The layers need torch alone; everything else is an extra."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'mmnorm/version.py').read_text()).group(1)

# OpenMMLab is published twice: upstream, and as onedl-*, its maintained continuation under the same import names.
# Neither is a requirement, so that installing mmnorm never replaces the one that a user already has.
ONEDL = [
    'onedl-mmengine>=0.10.10',
    'onedl-mmcv>=2.3.0',
    'onedl-mmsegmentation>=1.4.0',
    'onedl-mmdetection>=3.5.0',
    'onedl-mmpretrain>=1.3.0',
]
UPSTREAM = ['mmengine>=0.10.0', 'mmcv>=2.0.0', 'mmsegmentation>=1.2.0', 'mmdet>=3.2.0', 'mmpretrain>=1.0.0']
DIGITS = ['numpy', 'scikit-learn>=1.0', 'opencv-python-headless', 'pycocotools']

setup(
    name='mmnorm',
    version=VERSION,
    description='Learned normalization for OpenMMLab: Switchable, Exemplar and Instance-Level Meta Normalization',
    long_description=(ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmnorm', 'mmnorm.*']),
    python_requires='>=3.10',
    install_requires=['torch>=2.1'],
    extras_require={
        'onedl': ONEDL,
        'upstream': UPSTREAM,
        'digits': DIGITS,
        'demo': [*DIGITS, 'matplotlib'],
        'test': [*DIGITS, 'matplotlib', 'pytest', 'hypothesis', 'ruff', 'onnx', 'onnxruntime', 'onnxscript'],
    },
)
