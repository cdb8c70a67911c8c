"""docs/api.md names what mmnorm offers, and `import mmnorm` is light and polite."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmnorm

ROOT = Path(__file__).parents[1]


def test_the_page_names_all_of_it():
    page = (ROOT / 'docs/api.md').read_text()
    named = set()
    for cell in re.findall(r'^\| (`.*?) \|', page, re.MULTILINE):
        names = [name.partition('(')[0] for name in re.findall(r'`([^`]+)`', cell)]
        stem = names[0].removesuffix('1d')
        named.update(stem + name if name in ('2d', '3d') else name for name in names)
    assert named == set(mmnorm.__all__)
    assert all(getattr(mmnorm, name).__doc__ for name in named if name not in ('NORM_LAYERS', '__version__'))


IMPORT = """
import json, sys
import torch
import mmengine
from torch.nn.modules.module import _global_module_registration_hooks as hooks
from mmengine.config.utils import MODULE2PACKAGE
{runner}
before, table, loaders = set(sys.modules), dict(MODULE2PACKAGE), {loaders}
import mmnorm
assert loaders == {loaders}
model = torch.nn.Sequential(mmnorm.ExemplarNorm2d(4), torch.nn.ReLU())
assert len(hooks) <= 1
model.eval()
assert not hooks
changed = [module for module in table if MODULE2PACKAGE[module] != table[module]]
print(json.dumps([sorted(set(sys.modules) - before), changed]))
"""
RUNNER = 'from mmengine.runner.checkpoint import CheckpointLoader'


@pytest.mark.parametrize('runner', [False, True], ids=['first', 'after the Runner'])
def test_import_is_light_and_leaves_things_alone(runner):
    code = IMPORT.format(runner=RUNNER * runner, loaders='dict(CheckpointLoader._schemes)' if runner else '0')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    imported, changed = json.loads(done.stdout.splitlines()[-1])
    heavy = ('mmengine.runner', 'mmengine.hooks', 'mmengine.model', 'mmengine.optim', 'mmcv', 'cv2', 'matplotlib')
    assert not [name for name in imported if name in heavy or name.startswith(('mmseg', 'mmdet', 'mmpretrain', 'yaml'))]
    assert set(changed) <= {'mmseg', 'mmdet', 'mmpretrain'}


def test_pre_commit_has_the_ruff_of_the_environment():
    pinned = re.search(r'^ruff==\S+$', (ROOT / 'requirements/dev.txt').read_text(), re.MULTILINE)[0]
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert set(re.findall(r'ruff==[\w.]+', hooks)) == {pinned}
