"""SSN: sparsestmax is the projection that it claims to be, its end is one-hot, and all that is of SN is of SSN."""

import copy
import itertools
import math

import pytest
import torch
from helpers import assert_same, outputs_and_gradients, randomize
from plain import plain
from plain import sparsestmax as plain_sparsestmax

import mmnorm
from mmnorm.layers.sparse_switchable_norm import sparsestmax

SPARSITIES = (0.0, 0.3, 0.6, 0.9, 1.0)
POOLS = [('IN', 'LN', 'BN'), ('LN', 'BN'), ('IN', 'LN', 'BN', 'GN'), ('GN',)]


def circumradius(k):
    return math.sqrt(1 - 1 / k)


def radius(sparsity, k):
    return torch.tensor(sparsity * circumradius(k), dtype=torch.float64)


@pytest.mark.parametrize('sparsity', SPARSITIES)
@pytest.mark.parametrize('k', [2, 3, 4])
def test_nearest_point_outside_of_the_sphere(k, sparsity):
    """No point of a grid over what is allowed is nearer."""
    parts = {2: 400, 3: 100, 4: 24}[k]
    grid = [c for c in itertools.product(range(parts + 1), repeat=k) if sum(c) == parts]
    grid = torch.tensor(grid, dtype=torch.float64) / parts
    allowed = grid[(grid - 1 / k).norm(dim=1) >= radius(sparsity, k) - 1e-9]
    z = torch.randn(100, k, dtype=torch.float64) * torch.rand(100, 1)
    p = sparsestmax(z, radius(sparsity, k))
    torch.testing.assert_close(p.sum(1), torch.ones(100, dtype=torch.float64))
    assert p.min() >= 0
    assert (p - 1 / k).norm(dim=1).min() >= radius(sparsity, k) - 1e-9
    assert ((p - z).norm(dim=1) <= torch.cdist(z, allowed).amin(1) + 1e-9).all()


@pytest.mark.parametrize('sparsity', SPARSITIES)
@pytest.mark.parametrize('k', [1, 2, 3, 4])
def test_step_by_step(k, sparsity):
    z = torch.randn(50, k, dtype=torch.float64)
    expected = torch.stack([plain_sparsestmax(row, radius(sparsity, k)) for row in z])
    torch.testing.assert_close(sparsestmax(z, radius(sparsity, k)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('k', [2, 3, 4])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_end_is_one_hot(k, dtype):
    z = torch.randn(200, k, dtype=dtype, requires_grad=True)
    p = sparsestmax(z, radius(1, k).to(dtype))
    assert torch.equal(p, torch.nn.functional.one_hot(z.argmax(1), k).to(dtype))
    p.square().sum().backward()
    assert not z.grad.any()


@pytest.mark.parametrize('sparsity', SPARSITIES)
@pytest.mark.parametrize('z', [[1.0, 1.0, 1.0], [0.5, 0.5, -3.0]])
def test_ties_stay_ties_with_finite_gradients(z, sparsity):
    z = torch.tensor([z], requires_grad=True)
    p = sparsestmax(z, radius(sparsity, 3).float())
    torch.testing.assert_close(p[0, 0], p[0, 1])
    (p[0, 0] - p[0, 1]).backward()
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() <= 2


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('sparsity', SPARSITIES)
@pytest.mark.parametrize('pool', POOLS, ids='+'.join)
def test_formula(pool, sparsity, training):
    layer = randomize(mmnorm.SparseSwitchableNorm2d(12, normalizers=pool, num_groups=4).double()).train(training)
    layer.set_sparsity(sparsity)
    x = torch.randn(3, 12, 5, 4, dtype=torch.float64) * 2 + 1
    expected = outputs_and_gradients(lambda x: plain(layer, x), layer, x)
    assert_same(outputs_and_gradients(layer, layer, x), expected)


@pytest.mark.parametrize('dims', [1, 2, 3])
def test_weights_of_switchable_norm_are_the_same_function(dims):
    sn = randomize(getattr(mmnorm, f'SwitchableNorm{dims}d')(8).double()).eval()
    ssn = getattr(mmnorm, f'SparseSwitchableNorm{dims}d')(8).double().eval()
    ssn.load_state_dict(sn.state_dict())
    x = torch.randn(3, 8, *[4] * dims, dtype=torch.float64)
    torch.testing.assert_close(ssn(x), sn(x))
    back = type(sn)(8).double().eval()
    back.load_state_dict(ssn.state_dict())
    torch.testing.assert_close(back(x), sn(x))


def test_conversion_from_switchable_norm():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), randomize(mmnorm.SwitchableNorm2d(8))).double().eval()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    expected = model(x)
    report = mmnorm.convert_norm(model, 'SSN', types='SN')
    assert isinstance(model[1], mmnorm.SparseSwitchableNorm2d)
    assert len(report) == 1
    torch.testing.assert_close(model(x), expected)


def test_radius_is_saved_and_what_is_made_is_uniform():
    layer = mmnorm.SparseSwitchableNorm2d(8)
    torch.testing.assert_close(layer.importance_weights(), torch.full((2, 3), 1 / 3))
    layer = mmnorm.SparseSwitchableNorm2d(8, init_ratios=(0.1, 0.2, 0.7))
    torch.testing.assert_close(layer.importance_weights(), torch.tensor([[0.1, 0.2, 0.7]] * 2))
    layer.set_sparsity(0.9)
    other = mmnorm.SparseSwitchableNorm2d(8)
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert other.radius == layer.radius > 0
    assert torch.equal(other.importance_weights(), layer.importance_weights())


def test_one_graph():
    layer = randomize(mmnorm.SparseSwitchableNorm2d(8).double())
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    expected = outputs_and_gradients(layer, layer, x)
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
    assert_same(outputs_and_gradients(compiled, layer, x), expected)
