"""What differs between versions of PyTorch is told right on each of them, and private names stay in one place."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import mmnorm
from mmnorm.ops import backend, compat
from mmnorm.ops.passes import composed

PACKAGE = Path(mmnorm.__file__).parent


def test_transforms_are_told():
    seen = []

    def f(x):
        seen.append(compat.is_transformed())
        return x.square().sum()

    x = torch.randn(3)
    for run in (
        lambda: torch.func.grad(f)(x),
        lambda: torch.func.vmap(f)(x[None]),
        lambda: torch.func.jvp(f, (x,), (x,)),
        lambda: torch.func.vjp(f, x),
        lambda: torch.func.vmap(torch.func.grad(f))(x[None]),
        lambda: torch.func.functionalize(f)(x),
    ):
        assert not compat.is_transformed()
        run()
    assert len(seen) == 6
    assert all(seen)
    f(x)
    assert not seen[-1]


def test_transforms_that_raise_leave_nothing():
    def fail(x):
        raise KeyError

    with pytest.raises(KeyError):
        torch.func.grad(fail)(torch.zeros(()))
    assert not compat.is_transformed()


def test_forward_mode_is_told():
    assert not compat.is_forward_ad()
    with forward_ad.dual_level():
        assert compat.is_forward_ad()
    assert not compat.is_forward_ad()


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_autocast_is_told(device):
    assert not compat.is_autocast_enabled(device)
    available = device == 'cpu' or torch.cuda.is_available()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=available):
        assert compat.is_autocast_enabled(device) == available
        assert not compat.is_autocast_enabled({'cpu': 'cuda', 'cuda': 'cpu'}[device])
        with torch.autocast(device, enabled=False):
            assert not compat.is_autocast_enabled(device)
    assert not compat.is_autocast_enabled(device)


def test_devices_without_autocast_have_none_on():
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert not compat.is_autocast_enabled('meta')


def test_compiling_is_told():
    torch._dynamo.reset()

    def f(x):
        return x + 1 if compat.is_compiling() else x - 1

    x = torch.zeros(2)
    assert torch.equal(f(x), x - 1)
    assert torch.equal(torch.compile(f, fullgraph=True, backend='eager')(x), x + 1)
    assert torch.equal(f(x), x - 1)


def test_tracing_is_told():
    with pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(mmnorm.InstanceMetaNorm2d(8, num_groups=2), torch.randn(2, 8, 3, 3))
    assert not any('mmnorm::' in node.kind() for node in traced.inlined_graph.nodes())


@pytest.mark.parametrize('name', ['_innermost', '_current_level'])
def test_without_the_private_name_pytorch_refuses_in_words(name, monkeypatch):
    """As a later PyTorch might lack them: nothing is computed wrong."""
    layer, x = mmnorm.SwitchableNorm2d(8).eval(), torch.randn(2, 8, 3, 3)
    if name == '_innermost':
        monkeypatch.setattr(compat, name, None)
        assert not compat.is_transformed()
        with pytest.raises(RuntimeError):
            torch.func.grad(lambda x: layer(x).square().sum())(x)
    else:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, x)
            monkeypatch.setattr(compat, 'is_forward_ad', lambda: False)
            monkeypatch.setattr(backend, 'is_forward_ad', lambda: False)
            with pytest.raises((RuntimeError, NotImplementedError)):
                layer(dual)
    assert layer(x).shape == x.shape


def test_bases_of_the_norms():
    for dims in (1, 2, 3):
        assert issubclass(getattr(nn, f'BatchNorm{dims}d'), compat.BatchNormBase)
        assert issubclass(getattr(nn, f'InstanceNorm{dims}d'), compat.InstanceNormBase)
        assert issubclass(getattr(nn, f'Dropout{dims}d'), compat.DropoutBase)
    assert issubclass(nn.SyncBatchNorm, compat.BatchNormBase)
    assert issubclass(nn.Dropout, compat.DropoutBase)
    assert not issubclass(nn.GroupNorm, compat.BatchNormBase | compat.InstanceNormBase)


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('training', [True, False])
def test_float16_where_pytorch_has_no_norm_for_it(training, last, monkeypatch):
    """On the CPU of PyTorch 2.1 nn.BatchNorm2d and nn.GroupNorm take no float16; these layers do."""
    monkeypatch.setattr(composed, 'HAS_FLOAT16_NORMS', False)
    layer = mmnorm.ExemplarNorm2d(8).train(training)
    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last if last else torch.contiguous_format)
    half = x.half().requires_grad_()
    y = layer(half)
    y.sum().backward()
    assert y.dtype == half.grad.dtype == torch.float16
    assert torch.allclose(y.float(), layer(half.float()), atol=2e-2)


def private_names(tree):
    """Names that begin with an underscore, of modules of PyTorch or imported from one, in a syntax tree."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split('.')[0] in ('torch', 'functorch', 'torchgen'):
                    modules[alias.asname or 'torch'] = alias.name
                    yield from (part for part in alias.name.split('.') if part.startswith('_'))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split('.')[0] == 'torch':
            modules.update({alias.asname or alias.name: node.module for alias in node.names})
            names = [*node.module.split('.'), *(alias.name for alias in node.names)]
            yield from (name for name in names if name.startswith('_'))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith('_') and not node.attr.startswith('__'):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in modules:
                yield f'{root.id}...{node.attr}'


def test_private_names_are_found():
    for line in (
        'import torch\ntorch._C._functorch.maybe_current_level()',
        'import torch._dynamo',
        'from torch.autograd import forward_ad\nforward_ad._current_level',
        'from torch.nn.modules.batchnorm import _BatchNorm',
        'from torch import nn as n\nn.modules.batchnorm._BatchNorm',
        'from torch._C import _functorch',
    ):
        assert list(private_names(ast.parse(line))), line


def test_private_names_of_pytorch_stand_in_one_file():
    found = {}
    for path in PACKAGE.rglob('*.py'):
        names = list(private_names(ast.parse(path.read_text())))
        if names and path != PACKAGE / 'ops/compat.py':
            found[str(path.relative_to(PACKAGE))] = names
    assert not found
