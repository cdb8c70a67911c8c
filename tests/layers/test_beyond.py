"""The norms beyond SN, EN and ILM: their formulas in float64, what they take from BN, and what they refuse."""

import copy
from pathlib import Path

import pytest
import torch
from helpers import assert_same, outputs_and_gradients, randomize
from plain import PlainNorm, channels, plain
from torch import nn
from torch.nn import functional as F

import mmnorm
from mmnorm.registry import NAMES, NORMS

KINDS = ('BCN', 'BRN', 'FRN', 'GRN', 'IBN', 'IEBN', 'RBN', 'SelfNorm')
TRACKING = tuple(kind for kind in KINDS if kind not in ('FRN', 'GRN'))
# They do not standardize.
BESIDE = ('GRN', 'SelfNorm')
SHAPES = [(3, 12, 5, 4), (1, 12, 3, 7), (4, 12, 1, 1), (5, 12), (3, 12, 9), (2, 12, 2, 3, 4)]
OPTIONS = {
    'BCN': [dict(num_groups=4)],
    'BRN': [dict(r_max=1.2, d_max=0.3)],
    'FRN': [dict(learn_eps=True), dict(tlu=True)],
    'IBN': [dict(ratio=0.25)],
}
VARIANTS = [(kind, options) for kind in KINDS for options in (dict(), *OPTIONS.get(kind, ()))]


def build(kind, dims=2, channels=12, training=True, **options):
    return randomize(NAMES[f'{kind}{dims}d'](channels, **options).double()).train(training)


def input_of(shape):
    return torch.randn(shape, dtype=torch.float64) * 2 + 1


@pytest.mark.parametrize('name', ['auto', 'composed', 'reference'])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize(('kind', 'options'), VARIANTS, ids=str)
def test_formula(kind, options, shape, training, name):
    layer = build(kind, max(len(shape) - 2, 1), training=training, **options)
    x = input_of(shape)
    expected = outputs_and_gradients(lambda x: plain(layer, x), layer, x)
    before = mmnorm.set_backend(name)
    try:
        assert_same(outputs_and_gradients(layer, layer, x), expected)
    finally:
        mmnorm.set_backend(before)
    assert set(expected) == {'output', 'input', *(n for n, p in layer.named_parameters() if p.requires_grad)}


@pytest.mark.parametrize('kind', TRACKING)
def test_running_statistics(kind):
    layer = build(kind)
    before = {name: t.clone() for name, t in layer.named_buffers()}
    x = input_of((4, 12, 5, 4))
    layer(x)
    assert layer.num_batches_tracked == 1
    tracked = x
    if kind == 'RBN':
        tracked = x + channels(layer.center_weight, x) * x.mean((2, 3), keepdim=True)
    elif kind == 'SelfNorm':
        std = (x.var((2, 3), unbiased=False) + layer.eps).sqrt()
        tracked = torch.cat([w[0] * x.mean((2, 3)) + w[1] * std for w in layer.attention_weight], 1)
    dims = [d for d in range(tracked.dim()) if d != 1]
    for name, value in dict(running_mean=tracked.mean(dims), running_var=tracked.var(dims)).items():
        torch.testing.assert_close(getattr(layer, name), before[name].lerp(value, 0.1), rtol=1e-10, atol=1e-12)
    layer.eval()
    now = copy.deepcopy(layer.state_dict())
    layer(x)
    assert all(torch.equal(t, now[name]) for name, t in layer.state_dict().items())


@pytest.mark.parametrize('kind', TRACKING)
def test_batch_average(kind):
    """Over one batch, the statistics of that batch: eval mode is what training was."""
    layer = build(kind)
    if kind == 'BRN':
        layer.set_bounds(0, 0)
    x = input_of((4, 12, 5, 4))
    expected = layer(x)
    assert mmnorm.update_bn_stats(nn.Sequential(layer), [x], progress=False, variance='average') == 1
    torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-9, atol=1e-9)


def batch_norm():
    return randomize(nn.BatchNorm2d(12, eps=1e-3, momentum=0.3)).double()


def instance_and_batch(bn, x):
    return torch.cat([F.instance_norm(x, weight=bn.weight, bias=bn.bias, eps=bn.eps)[:, :6], bn(x)[:, 6:]], 1)


# What a layer computes right after it has taken BN's weights.
STARTS = {
    'BCN': lambda bn, x: F.group_norm(bn(x), 4, eps=bn.eps),
    'BRN': lambda bn, x: bn(x),
    'FRN': lambda bn, x: (
        channels(bn.weight, x) * x / (x.square().mean((2, 3), keepdim=True) + bn.eps).sqrt() + channels(bn.bias, x)
    ),
    'GRN': lambda bn, x: x,
    'IBN': instance_and_batch,
    'IEBN': lambda bn, x: bn(x),
    'RBN': lambda bn, x: bn(x),
}


@pytest.mark.parametrize('load', [False, True], ids=['convert', 'load'])
@pytest.mark.parametrize('kind', STARTS)
def test_from_batch_norm(kind, load):
    bn = batch_norm().eval()
    model = nn.Sequential(copy.deepcopy(bn))
    x = input_of((3, 12, 5, 4))
    if load:
        layer = NAMES[kind](12, eps=1e-3, momentum=0.3) if kind in TRACKING else NAMES[kind](12, eps=1e-3)
        model = nn.Sequential(layer.double().eval())
        model.load_state_dict({f'0.{name}': t for name, t in bn.state_dict().items()})
    else:
        (conversion,) = mmnorm.convert_norm(model, kind).converted
        assert conversion.exact == (kind in ('BRN', 'IEBN', 'RBN'))
    assert type(model[0]) is NAMES[kind]
    assert model[0].eps == 1e-3
    assert getattr(model[0], 'momentum', 0.3) == 0.3
    torch.testing.assert_close(model(x), STARTS[kind](bn, x), rtol=1e-10, atol=1e-10)
    if kind in ('IEBN', 'RBN'):  # in training too
        torch.testing.assert_close(model.train()(x), bn.train()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind not in (*BESIDE, 'FRN')])
def test_and_back(kind):
    bn = batch_norm().eval()
    model = nn.Sequential(copy.deepcopy(bn))
    mmnorm.convert_norm(model, kind)
    mmnorm.revert_norm(model)
    assert type(model[0]) is nn.BatchNorm2d
    for name, t in bn.state_dict().items():
        torch.testing.assert_close(model[0].state_dict()[name], t)


@pytest.mark.parametrize('kind', BESIDE)
def test_what_does_not_standardize_takes_and_gives_nothing(kind):
    model = nn.Sequential(batch_norm())
    (conversion,) = mmnorm.convert_norm(model, kind).converted
    assert f'{kind} does not standardize' in conversion.note
    with pytest.raises(ValueError, match=f'{kind} does not standardize, so that no plain norm comes close'):
        mmnorm.revert_norm(model)
    sn = mmnorm.SwitchableNorm2d(12).double()
    sn.load_state_dict(model[0].state_dict(), strict=False)
    assert torch.equal(sn.weight, torch.ones_like(sn.weight))


@pytest.mark.parametrize('kind', ['BRN', 'IEBN', 'RBN'])
def test_folds_where_it_is_batch_norm(kind):
    model = nn.Sequential(nn.Conv2d(3, 12, 3), batch_norm()).double().eval()
    x = input_of((2, 3, 9, 9))
    expected = model(x)
    mmnorm.convert_norm(model, kind)
    assert len(mmnorm.fold(model)) == 1
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_own_checkpoint_and_gradients_of_gradients(kind):
    layer = build(kind)
    other = NAMES[kind](12).double().train()
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    x = input_of((2, 12, 4, 3))
    assert torch.equal(other(x), layer(x))
    small = build(kind, channels=2, training=False)
    x = input_of((2, 2, 2, 3)).requires_grad_()
    assert torch.autograd.gradgradcheck(small, (x,))


@pytest.mark.parametrize('kind', KINDS)
def test_robust(kind):
    """An empty batch, one value a plane, a constant input, half precision, and a graph of its own."""
    layer = NAMES[kind](12)
    empty = layer(torch.zeros(0, 12, 4, 4, requires_grad=True))
    assert empty.shape == (0, 12, 4, 4)
    empty.sum().backward()
    assert all(not p.grad.any() for p in layer.parameters() if p.requires_grad)
    for x in (torch.zeros(1, 12, 1, 1), torch.full((2, 12, 3, 3), 7.0)):
        x.requires_grad_()
        y = layer(x)
        y.sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in layer.parameters() if p.requires_grad)
    x = torch.randn(2, 12, 4, 4)
    half = layer.eval()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize('kind', KINDS)
def test_one_graph(kind):
    torch._dynamo.reset()
    layer = build(kind)
    x = input_of((2, 12, 5, 5))
    twin = copy.deepcopy(layer)
    expected = outputs_and_gradients(layer, layer, x)
    compiled = torch.compile(twin, fullgraph=True, backend='aot_eager')
    assert_same(outputs_and_gradients(compiled, twin, x), expected)


@pytest.mark.parametrize('kind', ['IEBN', 'RBN', 'SelfNorm'])
def test_predicted_affine(kind):
    layer = build(kind, training=False)
    x = input_of((3, 12, 5, 4))
    omega, beta = layer.predicted_affine(x)
    assert omega.shape == beta.shape == (3, 12)
    if kind == 'SelfNorm':
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    else:
        mean, var = (channels(t, x) for t in (layer.running_mean, layer.running_var))
    calibrated = x + channels(layer.center_weight, x) * x.mean((2, 3), keepdim=True) if kind == 'RBN' else x
    standard = (calibrated - mean) / (var + layer.eps).sqrt()
    torch.testing.assert_close(layer(x), standard * channels(omega, x) + channels(beta, x))
    assert layer.summary(x).shape == (3, 2)


def test_plain_twin_tracks():
    layer = build('IEBN')
    twin = copy.deepcopy(layer)
    x = input_of((4, 12, 5, 4))
    torch.testing.assert_close(PlainNorm(twin)(x), layer(x))
    torch.testing.assert_close(twin.running_var, layer.running_var)


def test_renorm_is_batch_norm_at_first():
    bn = batch_norm().train()
    layer = mmnorm.BatchRenorm2d(12, eps=1e-3, momentum=0.3).double()
    layer.load_state_dict({**layer.state_dict(), **bn.state_dict()})
    layer.set_bounds(0, 0)
    x = input_of((4, 12, 5, 4))
    torch.testing.assert_close(layer(x), bn(x))
    layer.set_bounds(0.5, 1)
    assert (layer.r_max, layer.d_max) == (2, 5)


def test_thresholded_linear_unit_of_a_config():
    ConvModule = pytest.importorskip('mmcv.cnn').ConvModule
    module = ConvModule(12, 12, 1, norm_cfg=dict(type='FRN'), act_cfg=dict(type='TLU'))
    assert isinstance(module.activate, mmnorm.ThresholdedLinearUnit)
    module(torch.randn(2, 12, 4, 4)).sum().backward()
    assert module.activate.tau.grad is not None


def test_thresholded_linear_unit():
    x = torch.randn(2, 12, 4, 4)
    assert torch.equal(mmnorm.ThresholdedLinearUnit(12)(x), x.relu())
    layer, z = build('FRN', tlu=True), input_of((2, 12, 4, 4))
    residual = input_of(z.shape)
    layer.activation = 'relu'
    torch.testing.assert_close(layer(z, residual), (plain(layer, z) + residual).relu())


@pytest.mark.parametrize(
    ('kind', 'options', 'message'),
    [
        ('IBN', dict(ratio=1.5), 'ratio must be in'),
        ('BRN', dict(r_max=0.5), 'r_max >= 1'),
        ('BRN', dict(d_max=-1), 'd_max >= 0'),
        ('BCN', dict(num_groups=0), 'num_groups must be a positive integer'),
        ('RBN', dict(momentum=2), 'momentum must be'),
        *[(kind, dict(eps=-1), 'eps must be a positive number') for kind in KINDS],
        *[(kind, dict(activation='tanh'), 'activation must be None') for kind in KINDS],
    ],
    ids=str,
)
def test_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        NAMES[kind](12, **options)


@pytest.mark.parametrize('kind', KINDS)
def test_unknown_argument(kind):
    for options in (dict(normalizers=('IN',)), dict(no_such=1)):
        with pytest.raises(TypeError, match='unexpected keyword argument'):
            NAMES[kind](12, **options)


@pytest.mark.parametrize('kind', NORMS)
def test_paper_and_length(kind):
    cls = NORMS[kind]
    title, where = cls.paper
    assert title
    assert where
    if kind in KINDS:
        path = Path(mmnorm.__file__).parent.joinpath(*cls.__module__.split('.')[1:]).with_suffix('.py')
        assert len(path.read_text().splitlines()) < 80, 'one small file a norm'
        assert cls.__doc__
        assert '.. math::' in cls.__doc__
