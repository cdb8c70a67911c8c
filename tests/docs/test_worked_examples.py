"""The Python of the worked examples runs as it stands in the pages, block after block, and prints what they say."""

import re
from pathlib import Path

import pytest
import torch
from helpers import assert_same, randomize

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


def test_plain_pytorch_with_timm(capsys):
    """Norms with an activation inside, as timm has them, are tested without it in tests/convert/test_modules.py."""
    pytest.importorskip('timm', reason='timm is not among the packages of the tests')
    (code,) = [code for _, code in blocks('plain_pytorch.md') if 'import timm' in code]
    namespace = dict(mmnorm=mmnorm, norm='EN')
    run(code, namespace, capsys, 'timm')
    assert namespace['network'].eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.fixture
def without_bn(capsys):
    namespace = {}
    for heading, code in blocks('without_bn.md'):
        run(code, namespace, capsys, heading)
    return namespace


@pytest.mark.parametrize(
    'norm',
    [dict(type='SN', normalizers=('IN', 'LN', 'GN')), dict(type='EN', normalizers=('LN', 'GN')), dict(type='ILM')],
    ids=lambda norm: norm['type'],
)
def test_gradients_by_sample(without_bn, norm):
    """Those of the page's function are those of a loop over the samples, of every parameter."""
    model = without_bn['model'] = without_bn['network'](torch.nn.BatchNorm2d).double()
    mmnorm.convert_norm(model, norm)
    randomize(model)
    assert not list(model.buffers())
    x, y = without_bn['x'].double(), without_bn['y']
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    by_sample = torch.func.vmap(torch.func.grad(without_bn['loss']), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(len(x)):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        assert_same({k: v[i] for k, v in by_sample.items()}, {k: p.grad for k, p in model.named_parameters()})


def test_with_bn_there_is_no_gradient_of_a_sample(without_bn):
    model = without_bn['model'] = without_bn['network'](mmnorm.SwitchableNorm2d)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with pytest.raises(RuntimeError, match='in-place'):
        torch.func.grad(without_bn['loss'])(parameters, without_bn['x'][0], without_bn['y'][0])


def test_statistics_of_an_average(without_bn):
    """PyTorch's update_bn does nothing to the learned norms, ours takes an averaged network."""
    average = without_bn['AveragedModel'](without_bn['network'](mmnorm.ExemplarNorm2d))
    running_mean = average.module[1].running_mean
    torch.optim.swa_utils.update_bn([without_bn['x']], average)
    assert not running_mean.any()
    assert mmnorm.update_bn_stats(average.module, [without_bn['x']], num_iters=1) == 1
    assert running_mean.all()
