"""The Python of the worked examples runs as it stands in the pages, block after block, and prints what they say."""

import re
from pathlib import Path

import pytest
import torch

import mmnorm

DOCS = Path(__file__).parents[2] / 'docs'


def blocks(page):
    """The blocks of Python of a page, each under its heading."""
    heading, found = '', []
    parts = re.finditer(r'^#+ ([^\n]*)$|^```python\n(.*?)^```$', (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    for part in parts:
        if part[2] is None:
            heading = part[1]
        else:
            found.append((heading, part[2]))
    return found


def announced(code):
    """What comments after a call of print say that it prints."""
    comments = re.findall(r'^ *print\(.*\)\n((?:# .*\n)+)', code, re.MULTILINE)
    return [line[2:] for comment in comments for line in comment.splitlines()]


def run(code, namespace, capsys, name):
    capsys.readouterr()
    exec(compile(code, name, 'exec'), namespace)
    printed = capsys.readouterr().out.splitlines()
    expected = announced(code)
    if expected:
        assert printed[: len(expected)] == expected
    return printed


def test_plain_pytorch(capsys, tmp_path, monkeypatch):
    pytest.importorskip('torchvision')
    pytest.importorskip('sklearn')
    monkeypatch.chdir(tmp_path)
    namespace = {}
    printed = {}
    for heading, code in blocks('plain_pytorch.md'):
        if 'import timm' not in code:
            printed[heading] = run(code, namespace, capsys, heading)
    for heading in ('Batch average before testing', 'A LightningModule'):
        share = re.fullmatch(r'(\d+)% of the digits', printed[heading][-1])[1]
        assert int(share) > 50, heading

    # The groups have every parameter once, and the norms' are where the page says.
    model = namespace['classifier']
    groups = namespace['parameter_groups'](model, 1.0, 0.5, 0.25)
    of = {id(p): group for group in groups for p in group['params']}
    assert sum(len(group['params']) for group in groups) == len(of) == len(list(model.parameters()))
    norm = model.network.bn1
    assert isinstance(norm, mmnorm.SwitchableNorm2d)
    assert (of[id(norm.weight)]['lr'], of[id(norm.weight)]['weight_decay']) == (1.0, 0.0)
    assert (of[id(norm.mean_weight)]['lr'], of[id(norm.mean_weight)]['weight_decay']) == (0.25, 0.0)
    assert of[id(model.network.conv1.weight)]['weight_decay'] == 0.5


def test_plain_pytorch_with_timm(capsys):
    """Norms with an activation inside, as timm has them, are tested without it in tests/convert/test_modules.py."""
    pytest.importorskip('timm', reason='timm is not among the packages of the tests')
    (code,) = [code for _, code in blocks('plain_pytorch.md') if 'import timm' in code]
    namespace = dict(mmnorm=mmnorm, norm='EN')
    run(code, namespace, capsys, 'timm')
    assert namespace['network'].eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)
