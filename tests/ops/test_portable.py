"""The loops without PyTorch: what they refuse, whose threads they use, and what becomes of them in forks.

What they compute is in test_passes.py, test_normalize.py and test_fused.py, and in tests/layers.
"""

import multiprocessing
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

import mmnorm
from mmnorm.ops import backend, compat
from mmnorm.ops.activation import Activation
from mmnorm.ops.passes import native, portable

X = torch.ones(2, 4, 3, 3)
MEAN = torch.ones(2, 4, dtype=torch.float64)
RELU = Activation('relu')

needs_loops = pytest.mark.skipif(not backend.has_portable(), reason='mmnorm/_loops.so is not compiled')


def emptied():
    """A tensor, and a view into it that does not begin where it does, whose memory is gone."""
    t = torch.ones(4, 4, 3, 3)
    view = t[2:]
    t.untyped_storage().resize_(0)
    return t, view


MESSAGES = {
    'empty': (
        lambda: portable.moments(X[:0]),
        r'x: expected .* that is not empty, got torch.float32 .* \(0, 4, 3, 3\)',
    ),
    'no positions': (lambda: portable.moments(X[..., :0]), r'not empty, got .* \(2, 4, 3, 0\)'),
    'rank': (lambda: portable.moments(X[0, 0, 0]), r'expected a tensor \(N, C, \*\).*got .* \(3,\)'),
    'type': (lambda: portable.moments(X.half()), 'of float32, float64 or bfloat16 .* got torch.float16'),
    'device': (lambda: portable.moments(X.to('meta')), 'on the CPU.* on meta'),
    'strides': (lambda: portable.moments(X.transpose(1, 2)), r'contiguous or channels_last.* strides \(36, 3, 9, 1\)'),
    'expanded': (lambda: portable.moments(X[:1].expand(2, 4, 3, 3)), r'strides \(0, 9, 3, 1\)'),
    'sign': (lambda: portable.moments(torch._neg_view(X)), r'a negative view \(call resolve_neg\(\) first\)'),
    'sparse': (lambda: portable.moments(X.to_sparse()), 'got torch.float32 on cpu, torch.sparse_coo'),
    'memory': (lambda: portable.moments(emptied()[0]), 'without memory'),
    'memory of a view': (lambda: portable.moments(emptied()[1]), 'without memory'),
    'planes': (
        lambda: portable.affine(X, MEAN, *torch.ones(2, 2, 5)),
        r'scale: expected .* \(2, 4\), got .* \(2, 5\)',
    ),
    'number': (
        lambda: portable.affine(X, MEAN, MEAN, MEAN.long()),
        'shift: expected a dense .* got torch.int64',
    ),
    'mean': (lambda: portable.plane_sums(X, X, MEAN.float()), 'mean: expected .* float64 .* got torch.float32'),
    'formats': (
        lambda: portable.plane_sums(X.to(memory_format=torch.channels_last), X, MEAN),
        'dy: expected .* memory format of x',
    ),
    'gradient': (lambda: portable.input_gradient(X[:1], X, MEAN, MEAN, MEAN, MEAN), 'dy: expected .* shape.* of x'),
    'offset': (lambda: portable.input_gradient(X, X, MEAN, MEAN, MEAN, MEAN[0]), r'offset: .* got .* \(4,\)'),
    'residual': (
        lambda: portable.affine_add(X, MEAN, MEAN, MEAN, X.double(), RELU, True),
        'residual: expected .* format of x',
    ),
    'bits': (
        lambda: portable.plane_sums_add(X, X, MEAN, MEAN, MEAN, RELU, torch.zeros(8, 9, dtype=torch.uint8)),
        r'bits: expected a contiguous tensor of uint8 on the CPU, of shape \(8, 2\), got .* \(8, 9\)',
    ),
    'activation': (
        lambda: portable.affine(X, MEAN, MEAN, MEAN, Activation('gelu')),
        "activation: expected 'relu' or 'leaky_relu', got 'gelu'",
    ),
}


@needs_loops
@pytest.mark.parametrize('case', MESSAGES)
def test_messages(case):
    call, message = MESSAGES[case]
    with pytest.raises(ValueError, match=message):
        call()


@needs_loops
@pytest.mark.parametrize('last', [False, True])
def test_numbers_of_any_type_and_order(last):
    """What the coefficients give is taken as it is."""
    x = torch.randn(3, 8, 5, 7)
    x = x.to(memory_format=torch.channels_last) if last else x
    mean, _ = portable.moments(x)
    scale = torch.randn(8, 3, dtype=torch.float64)
    expected = portable.affine(x, mean, scale.T.contiguous(), scale.T.contiguous())
    assert torch.equal(portable.affine(x, mean, scale.T, scale.T), expected)
    assert torch.equal(portable.affine(x, mean, torch._neg_view(-scale.T), scale.T), expected)
    half = scale.half().T
    assert torch.equal(portable.affine(x, mean, half, half), portable.affine(x, mean, half.double(), half.double()))


@needs_loops
@pytest.mark.skipif(not backend.has_native(), reason='mmnorm._C is not compiled')
@pytest.mark.parametrize('dtype', portable.DTYPES, ids=str)
@pytest.mark.parametrize('last', [False, True])
def test_the_same_bits_as_the_loops_with_pytorch(last, dtype):
    x, dy, z = (torch.randn(2, 35, 9, 7).to(dtype) for _ in range(3))
    if last:
        x, dy, z = (t.to(memory_format=torch.channels_last) for t in (x, dy, z))
    compiled = native.compiled()
    scale, shift = torch.randn(2, 2, 35)
    mean, var = portable.moments(x)
    y, bits = portable.affine_add(x, mean, scale, shift, z, RELU, True)
    ours = [mean, var, y, bits, *portable.plane_sums_add(dy, x, mean, scale, shift, RELU, bits)]
    theirs = [*compiled.moments(x), *compiled.affine_add(x, mean, scale, shift, z, 0, True)]
    theirs += compiled.plane_sums_add(dy, x, mean, bits, 0)
    ours += portable.plane_sums(dy, x, mean, scale, shift, RELU)
    theirs += compiled.plane_sums(dy, x, mean, scale, shift, 0)
    ours.append(portable.input_gradient(dy, x, mean, scale, shift, scale, shift, RELU))
    theirs.append(compiled.input_gradient(dy, x, mean, scale, shift, shift, scale, 1, 1, 0))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def test_openmp_is_that_of_pytorch():
    functions = compat.openmp_functions()
    if 'OpenMP' not in torch.__config__.parallel_info() or sys.platform != 'linux':
        pytest.skip('this PyTorch has its threads from elsewhere')
    assert functions is not None
    assert len(set(functions)) == 3
    with open('/proc/self/maps') as maps:
        names = {line.split()[-1] for line in maps if 'libgomp' in line or 'libomp' in line or 'libiomp' in line}
    assert names


@needs_loops
def test_without_openmp_there_is_one_thread():
    code = (
        'import torch\nfrom mmnorm.ops.passes import portable\nportable.openmp_functions = lambda: None\n'
        'torch.set_num_threads(2)\nx = torch.arange(2**20).float().reshape(8, 32, 64, 64)\n'
        'mean, var = portable.moments(x)\nassert torch.allclose(mean, x.double().mean((2, 3)), rtol=1e-7)\n'
    )
    run(code)


def run(code):
    """Python code in a process of its own, which finds what this one finds."""
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path), 'MMNORM_BACKEND': 'portable'},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# Threads are at work, then a child is forked: OpenMP in it would wait for threads that it has not.
FORK = """
import os, torch
from mmnorm.ops.passes import portable
torch.set_num_threads(2)
x = torch.randn(8, 64, 32, 32)
mean, _ = portable.moments(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(portable.moments(x)[0], mean) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@needs_loops
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system does not fork')
def test_after_a_fork():
    run(FORK)


class Normalized(torch.utils.data.Dataset):
    """Items that a layer has made."""

    def __init__(self, layer, items):
        self.layer, self.items = layer, items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        assert mmnorm.backend_for(self.items) == 'portable'
        return self.layer(self.items[i : i + 1])[0]


@needs_loops
@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='this system does not fork')
def test_in_workers_of_a_data_loader():
    before, threads = mmnorm.set_backend('portable'), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        layer, items = mmnorm.SwitchableNorm2d(16).eval().requires_grad_(False), torch.randn(4, 16, 40, 40)
        expected = layer(items)
        loader = torch.utils.data.DataLoader(
            Normalized(layer, items), batch_size=2, num_workers=1, multiprocessing_context='fork', timeout=60
        )
        torch.testing.assert_close(torch.cat(list(loader)), expected)
    finally:
        torch.set_num_threads(threads)
        mmnorm.set_backend(before)


def test_a_library_of_another_version_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(portable, 'LIBRARY', tmp_path / '_loops.so')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert portable._load() is None, 'nothing to say: that it is missing is said with what is used in its place'
    portable.LIBRARY.write_bytes(b'no library')
    with pytest.warns(UserWarning, match='the portable loops are not used: .*_loops.so.* Install mmnorm again'):
        assert portable._load() is None
    old = SimpleNamespace(mmnorm_interface=lambda: 0)
    monkeypatch.setattr(portable.ctypes, 'CDLL', lambda path: old)
    with pytest.warns(UserWarning, match='_loops.so is of another version of mmnorm'):
        assert portable._load() is None


@pytest.mark.parametrize('there', [False, True])
def test_what_is_said_without_the_loops_for_this_pytorch(there, monkeypatch):
    """One line, of what runs instead and what it costs."""

    def fail(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(native.importlib, 'import_module', fail)
    monkeypatch.setattr(native.portable, 'load', lambda: object() if there else None)
    with pytest.warns(UserWarning, match='mmnorm._C is not compiled, so ') as caught:
        assert native._load() is None
    (text,) = [str(warning.message) for warning in caught]
    assert '\n' not in text
    assert ('mmnorm/_loops.so' in text) == there
    assert '--no-build-isolation' in text
