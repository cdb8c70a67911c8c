"""``mmnorm._C`` called by anybody with anything: errors, never a crash."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import CPU_BACKENDS, randomize

import mmnorm
from mmnorm.ops import backend
from mmnorm.ops.passes import native

needs_native = pytest.mark.skipif(not backend.has_native(), reason='mmnorm._C is not compiled')
_C = native.load()
X = torch.ones(2, 4, 3, 3)
MEAN = torch.ones(2, 4, dtype=torch.float64)
POOLED = torch.ones(2, 2, 4)


@needs_native
def test_ten_thousand_random_calls():
    command = [sys.executable, str(Path(__file__).with_name('fuzz_operators.py')), '--calls', '10000']
    # mmnorm need not be installed: it is found where this process has found it.
    env = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f'exit status {done.returncode}\n{done.stdout[-5000:]}{done.stderr[-5000:]}'


def pool(normalizers=('IN', 'BN'), groups=1, stats=(None, None, None, None, 0), batch=(None, None)):
    return _C.pool(MEAN, MEAN.float(), *batch, list(normalizers), groups, *stats, print)


def statistics(mean=None, var=None, batches=None, momentum=0.1, positions=9):
    defaults = torch.zeros(4), torch.ones(4), torch.tensor(0)
    given = mean, var, batches
    return (*(d if t is None else t for t, d in zip(given, defaults, strict=True)), momentum, positions)


MESSAGES = {
    'empty': (lambda: _C.moments(X[:0]), r'x: expected .* that is not empty, got Float .* shape \[0, 4, 3, 3\]'),
    'no positions': (lambda: _C.moments(X[..., :0]), r'not empty, got .* \[2, 4, 3, 0\]'),
    'rank': (lambda: _C.moments(X[0, 0, 0]), r'expected a tensor \(N, C, \*\).*got .* \[3\]'),
    'type': (lambda: _C.moments(X.half()), 'of float, double or bfloat16 .* got Half'),
    'device': (lambda: _C.moments(X.to('meta')), 'on the CPU.* on meta'),
    'strides': (lambda: _C.moments(X.transpose(1, 2)), r'contiguous or channels_last.* strides \[36, 3, 9, 1\]'),
    'expanded': (lambda: _C.moments(X[:1].expand(2, 4, 3, 3)), r'strides \[0, 9, 3, 1\]'),
    'sign': (lambda: _C.moments(torch._neg_view(X)), r'a negative view \(call resolve_neg\(\) first\)'),
    'sparse': (lambda: _C.moments(X.to_sparse()), 'got Float on cpu, Sparse'),
    'planes': (lambda: _C.affine(X, MEAN, *torch.ones(2, 2, 5), 1), r'scale: expected .* \[2, 4\], got .* \[2, 5\]'),
    'mean': (lambda: _C.plane_sums(X, X, MEAN.float(), MEAN, MEAN, 1), 'mean: expected .* Double .* got Float'),
    'formats': (
        lambda: _C.plane_sums(X.to(memory_format=torch.channels_last), X, MEAN, MEAN, MEAN, 1),
        'dy: expected .* memory format of x',
    ),
    'residual': (lambda: _C.affine_add(X, MEAN, MEAN, MEAN, X.double(), 0, True), 'other: expected .* format of x'),
    'bits': (
        lambda: _C.plane_sums_add(X, X, MEAN, torch.zeros(8, 1, dtype=torch.uint8), 0),
        r'bits: expected a contiguous tensor of Byte .* of shape \[8, 2\], got .* \[8, 1\]',
    ),
    'stand-ins': (lambda: _C.affine_node(X, MEAN, MEAN, MEAN, None, [X], 1, print), 'expected the three .* got 1'),
    'name': (lambda: pool(['XN']), "expected 'IN', 'LN', 'GN' or 'BN', got 'XN'"),
    'groups': (lambda: pool(['GN'], -1), 'groups: expected a divisor of 4 channels, got -1'),
    'divisor': (lambda: pool(['GN'], 3), 'groups: expected a divisor of 4 channels, got 3'),
    'nothing': (lambda: pool([]), 'normalizers: expected at least one'),
    'twice': (lambda: pool(['BN', 'BN']), "'BN' is there twice"),
    'one of two': (lambda: pool(batch=(torch.ones(4), None)), 'expected both or none'),
    'batch': (lambda: pool(batch=(torch.ones(5),) * 2), r'batch_mean: expected .* \[4\], got .* \[5\]'),
    'statistics': (lambda: pool(stats=statistics(var=torch.ones(5))), r'running_var: .* got .* \[5\]'),
    'types': (lambda: pool(stats=statistics(var=torch.ones(4).double())), 'running_var: .* like the running mean'),
    'one memory': (
        lambda: pool(stats=(lambda t: statistics(t, t))(torch.zeros(4))),
        'running_var: expected numbers of their own',
    ),
    'batches': (lambda: pool(stats=statistics(batches=torch.tensor(1.0))), 'num_batches: expected one number of int64'),
    'momentum': (lambda: pool(stats=statistics(momentum=1.5)), 'momentum: expected none or .* got 1.5'),
    'counted': (lambda: pool(stats=statistics(positions=0)), 'positions: expected a positive number, got 0'),
    'key groups': (lambda: _C.group_moments(MEAN, MEAN, 3, print), 'groups: expected a divisor of 4 channels, got 3'),
    'ratios': (
        lambda: _C.mix_statistics(POOLED, POOLED, torch.ones(2, 3), None, None, 1e-5, print),
        r'ratios: expected .* \[2, 2\], got .* \[2, 3\]',
    ),
    'parameter': (
        lambda: _C.mix_statistics(POOLED, POOLED, torch.ones(2, 2), torch.ones(3), None, 1e-5, print),
        r'weight: expected .* \[4\], got .* \[3\]',
    ),
    'rows': (
        lambda: _C.mix_outputs(POOLED, POOLED, torch.ones(2, 2), torch.ones(3, 4), None, 1e-5, print),
        r'weight: expected .* \[2, 4\], got .* \[3, 4\]',
    ),
    'eps': (
        lambda: _C.mix_outputs(POOLED, POOLED, torch.ones(2, 2), None, None, 0.0, print),
        'eps: expected a positive number, got 0',
    ),
    'variance': (
        lambda: _C.correlate(POOLED, POOLED[:1], None, 1e-5, print),
        r'variance: expected .* \[2, 2, 4\], got .* \[1, 2, 4\]',
    ),
    'convolution': (
        lambda: _C.correlate(POOLED, POOLED, torch.ones(3, 1), 1e-5, print),
        r'conv_weight: expected a tensor \(C/r, r\) for 4 channels',
    ),
    'bases': (
        lambda: _C.rescale(POOLED, POOLED, *torch.ones(2, 2, 2), None, None, 1e-5, print),
        r'expected that of one normalizer',
    ),
    'predicted': (
        lambda: _C.rescale(POOLED[:1], POOLED[:1], torch.ones(2, 2), torch.ones(2, 4), None, None, 1e-5, print),
        r'beta: expected .* \[2, 2\], got .* \[2, 4\]',
    ),
}


@needs_native
@pytest.mark.parametrize('case', MESSAGES)
def test_messages_of_the_loops(case):
    call, message = MESSAGES[case]
    with pytest.raises(RuntimeError, match=message) as caught:
        call()
    assert 'frame #' not in str(caught.value), 'the stack of C++ is nothing to users'


@pytest.mark.parametrize('name', [*CPU_BACKENDS, 'reference'])
@pytest.mark.parametrize('cls', [mmnorm.SwitchableNorm2d, mmnorm.InstanceMetaNorm2d])
def test_signs_that_are_not_in_memory(cls, name):
    """x.imag of a conjugate has its sign to be changed; so may a gradient have."""
    layer = randomize(cls(4)).double()
    with torch.no_grad():
        layer.bias.data = torch._neg_view(layer.bias.data)
    x, dy = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64)
    before = mmnorm.set_backend(name)
    try:
        results = []
        for change in (torch._neg_view, torch.neg):
            leaf = x.clone().requires_grad_()
            y = layer(change(leaf))
            results.append((y.detach(), *torch.autograd.grad(y, [leaf, layer.weight], change(dy))))
    finally:
        mmnorm.set_backend(before)
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@needs_native
def test_gradients_of_gradients_that_fail():
    pooled = torch.rand(2, 2, 4, requires_grad=True)

    def second_order(again):
        scale, _ = _C.mix_statistics(pooled, pooled + 1, torch.ones(2, 2) / 2, None, None, 1e-5, again)
        return torch.autograd.grad(scale.sum(), pooled, create_graph=True)

    def fail(*arguments):
        raise KeyError('what it says')

    caught = []

    def run():
        with pytest.raises(KeyError, match='what it says'):
            second_order(fail)
        caught.append(True)

    run()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(caught) == 2
    for result in (None, [], [None] * 3, [1] * 5):
        with pytest.raises((RuntimeError, TypeError)):
            second_order(lambda *arguments, result=result: result)


@needs_native
def test_running_statistics_without_batch_normalization():
    """They are left alone, and forgotten before the backward."""
    mean, stats = MEAN.clone().requires_grad_(), statistics()
    deviation, variance = _C.pool(mean, MEAN.float(), None, None, ['LN'], 1, *stats, print)
    del stats
    (variance.sum() + deviation.square().sum()).backward()
    assert mean.grad.isfinite().all()


@needs_native
@pytest.mark.parametrize('cls', [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d, mmnorm.InstanceMetaNorm2d])
def test_backward_over_what_was_not_saved(cls):
    """Hooks of saved tensors may hand over anything, and the loops must not believe it."""
    layer = cls(8)
    x = torch.randn(2, 8, 3, 3, requires_grad=True)

    def backward(swapped):
        seen = []

        def unpack(t):
            seen.append(t)
            return t[..., :0] if len(seen) == swapped else t

        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            y = layer(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
        return gradients, len(seen)

    layer.eval()
    expected, count = backward(None)
    refused = 0
    for swapped in range(1, count + 1):
        try:
            gradients, _ = backward(swapped)
        except RuntimeError:
            refused += 1
        else:
            # Not read in a first backward; or by nodes of PyTorch's, in ILM's net, which believe what they are given.
            assert cls is mmnorm.InstanceMetaNorm2d or all(map(torch.equal, gradients, expected))
    assert refused >= 8


@needs_native
def test_threads_share_a_layer():
    """Loops without the interpreter's lock, and Python with it, in threads that autograd does not know."""
    layer = randomize(mmnorm.SwitchableNorm2d(8)).double().eval()
    inputs = torch.randn(4, 2, 8, 5, 5, dtype=torch.float64)

    def gradients(x):
        x = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), x)[0]

    expected, results = [gradients(x) for x in inputs], [[] for _ in inputs]

    def work(i):
        for _ in range(10):
            results[i].append(gradients(inputs[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for exact, found in zip(expected, results, strict=True):
        assert len(found) == 10
        assert all(torch.allclose(t, exact, rtol=1e-10) for t in found)
