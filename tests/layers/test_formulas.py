"""Outputs and all gradients equal the papers' formulas, in float64 to 1e-10."""

import itertools

import pytest
import torch
from helpers import CPU_BACKENDS, assert_same, outputs_and_gradients, randomize
from plain import channels, exemplar_ratios, moments_of, plain

import mmnorm

POOLS = [pool for size in range(1, 5) for pool in itertools.combinations(('IN', 'LN', 'BN', 'GN'), size)]
SHAPES = {
    'square': (3, 12, 5, 5),
    'non-square': (2, 12, 3, 7),
    'one image': (1, 12, 4, 6),
    '1x1 maps': (4, 12, 1, 1),
    '1x1, one image': (1, 12, 1, 1),
}
OTHER_RANKS = [(1, (5, 12)), (1, (1, 12)), (1, (3, 12, 9)), (3, (2, 12, 2, 3, 4))]


@pytest.fixture(params=CPU_BACKENDS)
def _cpu_backend(request):
    before = mmnorm.set_backend(request.param)
    yield
    mmnorm.set_backend(before)


def check(layer, x, training):
    layer = randomize(layer.double()).train(training)
    before = {name: b.clone() for name, b in layer.named_buffers()}
    expected = outputs_and_gradients(lambda x: plain(layer, x), layer, x)
    for name, buffer in layer.named_buffers():  # the plain formula has no side effects
        assert torch.equal(buffer, before[name])
    assert_same(outputs_and_gradients(layer, layer, x), expected)
    assert set(expected) == {'output', 'input', *dict(layer.named_parameters())}


@pytest.mark.usefixtures('_cpu_backend')
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize('pool', POOLS, ids='+'.join)
@pytest.mark.parametrize('cls', [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d])
def test_pools(cls, pool, shape, training):
    options = dict(reduction=3, expansion=5) if cls is mmnorm.ExemplarNorm2d else {}
    layer = cls(12, normalizers=pool, num_groups=4, **options)
    check(layer, torch.randn(shape, dtype=torch.float64) * 2 + 1, training)


@pytest.mark.usefixtures('_cpu_backend')
@pytest.mark.parametrize('base', ['GN', 'LN', 'IN'])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize('key_group_size', [3, 1], ids=['group keys', 'instance keys'])
def test_instance_meta_norm(base, shape, key_group_size):
    layer = mmnorm.InstanceMetaNorm2d(12, base=base, num_groups=4, key_group_size=key_group_size, reduction=2)
    check(layer, torch.randn(shape, dtype=torch.float64) * 2 + 1, True)


@pytest.mark.usefixtures('_cpu_backend')
@pytest.mark.parametrize(('dims', 'shape'), OTHER_RANKS, ids=str)
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('name', ['SwitchableNorm', 'SparseSwitchableNorm', 'ExemplarNorm', 'InstanceMetaNorm'])
def test_other_ranks(name, dims, shape, training):
    layer = getattr(mmnorm, f'{name}{dims}d')(12, num_groups=4)
    check(layer, torch.randn(shape, dtype=torch.float64) * 2 + 1, training)


@pytest.mark.usefixtures('_cpu_backend')
@pytest.mark.parametrize(
    'options',
    [
        dict(ratio_net='mlp'),
        dict(conv=False),
        dict(ratio_activation='relu'),
        dict(shared_affine=True),
        dict(reduction=1, normalizers=('BN', 'GN')),
        dict(ratio_net='mlp', shared_affine=True, ratio_activation='relu'),
    ],
    ids=str,
)
def test_exemplar_ablations(options):
    layer = mmnorm.ExemplarNorm2d(12, num_groups=4, **{**dict(reduction=3, expansion=5), **options})
    check(layer, torch.randn(3, 12, 4, 5, dtype=torch.float64), True)


@pytest.mark.usefixtures('_cpu_backend')
@pytest.mark.parametrize('mean_activation', ['tanh', 'sigmoid', 'relu', 'leaky_relu', 'relu6', 'identity'])
@pytest.mark.parametrize('var_activation', ['tanh', 'sigmoid', 'relu', 'leaky_relu', 'relu6', 'identity'])
def test_meta_activations(mean_activation, var_activation):
    layer = mmnorm.InstanceMetaNorm2d(
        12, key_group_size=3, reduction=2, mean_activation=mean_activation, var_activation=var_activation
    )
    # Far apart, so that what is decoded lies on both sides of 0 and of 6.
    check(layer, torch.randn(3, 12, 4, 5, dtype=torch.float64) * 8 - 1, True)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_importance_ratios(training):
    layer = randomize(mmnorm.ExemplarNorm2d(12, reduction=3, expansion=5).double()).train(training)
    x = torch.randn(4, 12, 5, 3, dtype=torch.float64)
    before = {name: b.clone() for name, b in layer.named_buffers()}
    ratios = layer.importance_ratios(x)
    assert ratios.shape == (4, 3)
    torch.testing.assert_close(ratios, exemplar_ratios(layer, x).detach(), rtol=1e-10, atol=1e-12)
    assert (ratios[0] - ratios[1]).abs().max() > 1e-3, 'samples have ratios of their own'
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, before[name]), f'{name} was changed by looking'


def test_importance_weights():
    layer = mmnorm.SwitchableNorm2d(6)
    with torch.no_grad():
        layer.mean_weight.copy_(torch.tensor([0.0, 1.0, 2.0]))
    weights = layer.importance_weights()
    assert weights.shape == (2, 3)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 1.0, 2.0]).softmax(0))
    torch.testing.assert_close(weights[1], torch.full((3,), 1 / 3))


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('base', ['GN', 'LN', 'IN'])
def test_predicted_affine(base, affine):
    layer = randomize(mmnorm.InstanceMetaNorm2d(12, base=base, num_groups=4, key_group_size=3, affine=affine).double())
    x = torch.randn(4, 12, 5, 3, dtype=torch.float64) * torch.rand(4, 1, 1, 1, dtype=torch.float64)
    omega, beta = layer.predicted_affine(x)
    assert omega.shape == beta.shape == (4, 12)
    assert not omega.requires_grad
    mean, var = moments_of(x, base, layer.num_groups)
    standard = (x - mean) / torch.sqrt(var + layer.eps)
    torch.testing.assert_close(standard * channels(omega, x) + channels(beta, x), layer(x), rtol=1e-10, atol=1e-12)
    assert (omega[0] - omega[1]).abs().max() > 1e-3, 'samples have predictions of their own'
    assert layer.predicted_affine(x[:0])[1].shape == (0, 12)


def test_gradgradcheck():
    # The reference is differentiable any number of times.
    layer = randomize(mmnorm.ExemplarNorm2d(4, reduction=2, expansion=2).double())
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))
