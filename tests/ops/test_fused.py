"""Activation and residual sum in the passes: what the layer and plain operators give, forward and every gradient."""

import copy
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

import mmnorm
from mmnorm.ops import backend

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
RUNS_KERNELS = backend.has_triton() and (INTERPRETED or DEVICE == 'cuda')
KERNELS = ['triton'] if RUNS_KERNELS else []
PORTABLE = ['portable'] if backend.has_portable() and not INTERPRETED else []
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
ACTIVATIONS = {
    None: lambda y: y,
    'relu': torch.relu,
    'leaky_relu': lambda y: F.leaky_relu(y, 0.2),
    'silu': F.silu,
    'gelu': F.gelu,
}
# Planes of one value, odd lengths, widths around those of vectors, volumes.
SHAPES = [
    (3, 5),
    (2, 6, 7),
    (2, 3, 1, 1),
    (2, 40, 3, 3),
    (1, 17, 7, 5),
    (2, 33, 9, 8),
    (2, 24, 20, 13),
    (2, 5, 3, 4, 5),
]
# The interpreter takes its time, and what a tile may meet has tests of the passes alone.
SHAPES = SHAPES if not INTERPRETED else [(3, 5), (2, 3, 3, 1), (2, 9, 2, 3, 2)]
CASES = [(shape, False) for shape in SHAPES] + [(shape, True) for shape in SHAPES if len(shape) > 3]
LAYERS = {
    'SN': mmnorm.SwitchableNorm2d,
    'EN': mmnorm.ExemplarNorm2d,
    'ILM': mmnorm.InstanceMetaNorm2d,
    'SSN': mmnorm.SparseSwitchableNorm2d,
}


@pytest.mark.skipif(RUNS_KERNELS or not backend.has_triton(), reason='the tests below run right here, or there is none')
@pytest.mark.parametrize('implementation', ['auto'], indirect=True)
def test_triton_in_the_interpreter():
    # In a process of its own: Triton asks once, at its import, and interpreting changes its library for good.
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-k', 'triton', __file__]
    done = subprocess.run(command, env=os.environ | {'TRITON_INTERPRET': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-2000:]


@pytest.fixture(autouse=True, params=['auto', *PORTABLE, *KERNELS])
def implementation(request):
    """Which one runs; Triton on the GPU where there is one."""
    previous = mmnorm.set_backend(request.param)
    with torch.device(DEVICE) if request.param == 'triton' else nullcontext():
        yield request.param
    mmnorm.set_backend(previous)


def layer_for(shape, activation, **options):
    rank = max(1, len(shape) - 2)
    layer = getattr(mmnorm, f'SwitchableNorm{rank}d')(shape[1], negative_slope=0.2, activation=activation, **options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def make(shape, last=False, dtype=torch.float64):
    t = torch.randn(shape, dtype=torch.float64).to(dtype)
    return t.contiguous(memory_format=LAST[len(shape)]) if last else t


def run(function, layer, tensors, dy):
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    y = function(layer, *leaves)
    return [y, *torch.autograd.grad(y, [*leaves, *layer.parameters()], dy)]


def plainly(activation):
    return lambda layer, x, *z: ACTIVATIONS[activation](sum(z, layer(x)))


@pytest.mark.parametrize('with_residual', [False, True], ids=['norm', 'sum'])
@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize(('shape', 'last'), CASES)
@pytest.mark.parametrize('implementation', ['auto', 'composed', 'reference', *PORTABLE, *KERNELS], indirect=True)
def test_equals_plain_operators(shape, last, activation, with_residual):
    fused = layer_for(shape, activation).double()
    alone = copy.deepcopy(fused)
    alone.activation = None
    tensors = [make(shape, last) for _ in range(2 if with_residual else 1)]
    dy = make(shape, last)
    actual = run(lambda layer, *t: layer(*t), fused, tensors, dy)
    expected = run(plainly(activation), alone, tensors, dy)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert a.stride() == b.stride()
    for a, b in zip(fused.buffers(), alone.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(('shape', 'last'), [((2, 33, 9, 8), True), ((2, 33, 9, 7), False)])
@pytest.mark.parametrize('with_residual', [False, True], ids=['norm', 'sum'])
def test_precision(shape, last, with_residual, dtype):
    """No further from float64 than the layer and plain operators in that type are."""
    fused = layer_for(shape, 'relu')
    alone, wide = copy.deepcopy(fused), copy.deepcopy(fused).double()
    alone.activation = None
    tensors = [make(shape, last, dtype) for _ in range(2 if with_residual else 1)]
    dy = make(shape, last, dtype)
    exact = run(lambda layer, *t: layer(*t), wide, [t.double() for t in tensors], dy.double())
    actual = run(lambda layer, *t: layer(*t), fused, tensors, dy)
    plain = run(lambda layer, x, *z: torch.relu(sum(z, layer(x))), alone, tensors, dy)
    for a, p, e in zip(actual, plain, exact, strict=True):
        assert a.dtype == p.dtype
        error, allowed = (a.double() - e).abs().mean(), (p.double() - e).abs().mean()
        assert error <= 1.1 * allowed + torch.finfo(a.dtype).eps * e.abs().mean()


@pytest.mark.parametrize('implementation', ['auto'], indirect=True)
@pytest.mark.parametrize('kind', LAYERS)
@pytest.mark.parametrize('with_residual', [False, True], ids=['norm', 'sum'])
@pytest.mark.parametrize('activation', ['relu', 'leaky_relu'])
def test_gradients_of_gradients(kind, activation, with_residual):
    layer = LAYERS[kind](4, activation=activation).double()
    tensors = [make((2, 4, 3, 3)).requires_grad_() for _ in range(2 if with_residual else 1)]
    torch.autograd.gradcheck(layer, tensors)
    torch.autograd.gradgradcheck(layer, tensors)


@pytest.mark.parametrize('with_residual', [False, True], ids=['norm', 'sum'])
@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('last', [False, True])
def test_gradients_of_gradients_equal_plain_operators(last, activation, with_residual):
    fused = layer_for((2, 9, 5, 3), activation).double()
    alone = copy.deepcopy(fused)
    alone.activation = None
    tensors = [make((2, 9, 5, 3), last) for _ in range(2 if with_residual else 1)]

    def twice(function, layer):
        leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
        leaves += layer.parameters()
        y = function(layer, *leaves[: len(tensors)])
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return *first, *torch.autograd.grad(sum(t.square().sum() for t in first), leaves)

    for a, b in zip(twice(lambda layer, *t: layer(*t), fused), twice(plainly(activation), alone), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('kind', LAYERS)
def test_eval_and_no_grad(kind):
    layer = LAYERS[kind](24, activation='relu')
    x, z = make((2, 24, 7, 9), dtype=torch.float32), make((2, 24, 7, 9), dtype=torch.float32)
    layer.train()(x)
    layer.eval()
    alone = copy.deepcopy(layer)
    alone.activation = None
    with torch.no_grad():
        torch.testing.assert_close(layer(x, z), torch.relu(alone(x) + z))
        torch.testing.assert_close(layer(x), torch.relu(alone(x)))


@pytest.mark.parametrize(
    'implementation', [*(['auto'] if backend.has_native() else []), *PORTABLE, *KERNELS], indirect=True
)
@pytest.mark.parametrize('with_residual', [False, True], ids=['norm', 'sum'])
@pytest.mark.parametrize('last', [False, True])
def test_only_the_input_and_a_bit_a_value_are_kept(last, with_residual):
    layer = mmnorm.ExemplarNorm2d(64, activation='relu')
    x, z = [make((2, 64, 32, 32), last, torch.float32).requires_grad_() for _ in range(2)]
    kept = {}

    def pack(t):
        kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x, z) if with_residual else layer(x)
    assert kept.pop(x.data_ptr()) == x.nbytes
    assert z.data_ptr() not in kept
    bits = x.numel() / 8
    numbers = 60 * 2 * 64 * 8
    assert sum(kept.values()) <= (bits if with_residual else 0) + numbers


def test_the_residual_may_be_used_again_and_be_the_input():
    """Gradients meet in z, which the pass must not write into; x may be its own residual."""
    layer = layer_for((2, 8, 5, 5), 'relu').double()
    alone = copy.deepcopy(layer)
    alone.activation = None
    x, dy = make((2, 8, 5, 5)), make((2, 8, 5, 5))
    for function, plain in (
        (lambda m, x: m(x, x) + x, lambda m, x: torch.relu(m(x) + x) + x),
        (lambda m, x: m(x.sin(), x) * x.exp(), lambda m, x: torch.relu(m(x.sin()) + x) * x.exp()),
    ):
        for a, b in zip(run(function, layer, [x], dy), run(plain, alone, [x], dy), strict=True):
            torch.testing.assert_close(a, b)


def test_the_output_may_be_changed_in_place():
    layer = layer_for((2, 8, 5, 5), 'relu').double()
    x, z, dy = (make((2, 8, 5, 5)) for _ in range(3))
    expected = run(lambda m, x, z: m(x, z) * 2, layer, [x, z], dy)
    actual = run(lambda m, x, z: m(x, z).mul_(2), layer, [x, z], dy)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_two_backwards_of_one_forward_give_the_same():
    layer = layer_for((2, 8, 5, 5), 'leaky_relu')
    x, z = (make((2, 8, 5, 5), dtype=torch.float32).requires_grad_() for _ in range(2))
    y = layer(x, z)
    dy = torch.randn_like(y)
    first, second = (torch.autograd.grad(y, [x, z], dy, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize('last', [False, True])
def test_a_residual_of_another_format_or_type(last):
    layer = layer_for((2, 8, 5, 5), 'relu').double()
    alone = copy.deepcopy(layer)
    alone.activation = None
    x, z = make((2, 8, 5, 5), last), make((2, 8, 5, 5), not last)
    torch.testing.assert_close(layer(x, z), torch.relu(alone(x) + z))
    torch.testing.assert_close(layer(x, z.float()), torch.relu(alone(x) + z.float()))


def test_infinite_and_missing_values_pass_as_in_plain_operators():
    layer = layer_for((1, 4, 2, 2), 'relu').eval()
    x, z = torch.ones(1, 4, 2, 2), torch.tensor([-torch.inf, torch.inf, torch.nan, -1.0]).repeat(4).reshape(1, 4, 2, 2)
    alone = copy.deepcopy(layer)
    alone.activation = None
    torch.testing.assert_close(layer(x, z), torch.relu(alone(x) + z), equal_nan=True)


@pytest.mark.parametrize('activation', ['silu', 'gelu'])
@pytest.mark.skipif(not KERNELS, reason='runs in the process of test_triton_in_the_interpreter')
@pytest.mark.parametrize('implementation', ['triton'], indirect=True)
def test_the_input_and_the_residual_are_kept(activation):
    layer = mmnorm.ExemplarNorm2d(64, activation=activation)
    x, z = [make((2, 64, 16, 16), False, torch.float32).requires_grad_() for _ in range(2)]
    kept = {}

    def pack(t):
        kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x, z)
    assert kept.pop(x.data_ptr()) == kept.pop(z.data_ptr()) == x.nbytes
    assert sum(kept.values()) <= 60 * 2 * 64 * 8


@pytest.mark.parametrize('shape', [(0, 8, 5, 5), (2, 8, 0, 5)])
def test_empty(shape):
    layer = layer_for((2, 8, 5, 5), 'relu')
    x, z = torch.zeros(shape, requires_grad=True), torch.zeros(shape, requires_grad=True)
    y = layer(x, z)
    y.sum().backward()
    assert y.shape == x.grad.shape == z.grad.shape == shape
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_refused():
    layer = mmnorm.SwitchableNorm2d(8)
    with pytest.raises(ValueError, match=r'a residual of the shape of its input, \(2, 8, 5, 5\), got \(2, 8, 1, 1\)'):
        layer(torch.zeros(2, 8, 5, 5), torch.zeros(2, 8, 1, 1))
    with pytest.raises(ValueError, match="activation must be None or one of relu, leaky_relu, silu, gelu, got 'tanh'"):
        layer.activation = 'tanh'
    with pytest.raises(ValueError, match="got 'swish'"):
        mmnorm.ExemplarNorm2d(8, activation='swish')


def test_copies_and_says_so():
    layer = copy.deepcopy(mmnorm.InstanceMetaNorm2d(8, activation='leaky_relu', negative_slope=0.3))
    assert layer.activation == 'leaky_relu'
    assert "activation='leaky_relu'" in repr(layer)
    assert not [name for name in layer.state_dict() if 'activation' in name]
    layer.activation = None
    assert 'activation=' not in repr(layer).replace('mean_activation', '').replace('var_activation', '')
