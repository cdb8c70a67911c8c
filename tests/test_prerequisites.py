"""What is too old is refused at import, in words: which version is there, which is needed, what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmnorm.prerequisites import PYTORCH
from mmnorm.version import is_older

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ('version', 'older'),
    [
        ('2.0.1+cu118', True),
        ('1.13.1', True),
        ('2.1.0', False),
        ('2.1.0a0+git123', False),
        ('2.15.0', False),
        ('10.0', False),
        ('custom', False),
    ],
)
def test_versions_are_compared_as_numbers(version, older):
    assert is_older(version, (2, 1)) == older


def last_words(code):
    """What a process says in the end that runs into an error."""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def import_with(code):
    return last_words(f'{code}\nimport mmnorm')


def test_a_pytorch_that_is_too_old_is_refused():
    message = import_with('import torch\ntorch.__version__ = "2.0.1+cu118"')
    assert message.startswith('ImportError: mmnorm ')
    assert 'needs PyTorch 2.1 or newer, but 2.0.1+cu118 is installed. Upgrade PyTorch' in message


def test_a_mmengine_that_is_too_old_is_refused():
    code = 'import sys, types\nsys.modules["mmengine"] = types.SimpleNamespace(__version__="0.7.4")'
    message = import_with(code)
    assert 'needs mmengine 0.10 or newer, but 0.7.4 is installed. Upgrade it (pip install -U mmengine)' in message
    assert 'or uninstall it: the layers need PyTorch alone' in message


def test_setup_refuses_a_pytorch_that_is_too_old():
    code = (
        'import torch, runpy, sys\n'
        'torch.__version__ = "2.0.1"\n'
        'sys.argv = ["setup.py", "--version"]\n'
        'runpy.run_path("setup.py", run_name="__main__")'
    )
    assert last_words(code) == 'mmnorm needs PyTorch 2.1 or newer, but 2.0.1 is installed; upgrade it first'
    assert f"install_requires=['torch>={'.'.join(map(str, PYTORCH))}']" in (ROOT / 'setup.py').read_text()
