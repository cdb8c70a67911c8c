"""Inputs that real networks produce and that break other norms; and input that no layer can accept."""

import copy
import itertools
import pickle

import pytest
import torch
from helpers import AUTOCAST_TYPES, LAYERS, assert_same, outputs_and_gradients, randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import plain
from torch import nn

import mmnorm

LAYERS_2D = [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d, mmnorm.InstanceMetaNorm2d]
each_layer = pytest.mark.parametrize('cls', LAYERS_2D, ids=lambda cls: cls.__name__)


@each_layer
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_large_mean_is_as_accurate_as_batch_norm(cls, training):
    def errors(layer, x):
        layer.train()(x)
        layer.train(training)
        exact = copy.deepcopy(layer).double()
        return (layer(x).double() - exact(x.double())).square().mean().item()

    ours, batch_norm = 0, 0
    for _ in range(20):  # the error is mostly the rounding of each mean, a matter of luck in a single one
        x = torch.randn(4, 64, 12, 12) + 1e4
        layer = cls(64, momentum=1.0)
        if cls is mmnorm.InstanceMetaNorm2d:  # its base: with gamma 1, and without betas predicted from the huge mean
            nn.init.constant_(layer.weight, 0.5)
            nn.init.zeros_(layer.mean_decoder_weight)
            nn.init.zeros_(layer.var_decoder_weight)
        ours += errors(layer, x)
        batch_norm += errors(nn.BatchNorm2d(64, momentum=1.0), x)
    assert ours <= batch_norm


@pytest.mark.parametrize('shape', [(0, 8, 4, 4), (2, 8, 0, 4), (0, 8, 0, 0)], ids=str)
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@each_layer
def test_empty(cls, shape, training):
    layer = randomize(cls(8)).train(training)
    before = copy.deepcopy(layer.state_dict())
    x = torch.zeros(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f'{name} has no gradient: DistributedDataParallel would wait for it'
        assert not parameter.grad.any()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_importance_ratios_of_an_empty_batch():
    assert mmnorm.ExemplarNorm2d(8).importance_ratios(torch.zeros(0, 8, 4, 4)).shape == (0, 3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize('channels', [1, 3, 24, 58, 100, 116])
@pytest.mark.parametrize('kind', ['random', 'constant', '1x1, one image', 'one image', 'tiny', 'zero'])
@each_layer
def test_finite_and_of_the_right_type(cls, channels, kind, dtype):
    shape = {'1x1, one image': (1, channels, 1, 1), 'one image': (1, channels, 3, 5)}.get(kind, (3, channels, 4, 4))
    x = torch.randn(shape)
    x = {'constant': torch.full(shape, 7.3), 'tiny': x * 1e-6, 'zero': torch.zeros(shape)}.get(kind, x)
    x = x.to(dtype).requires_grad_()
    for layer in (cls(channels), cls(channels).to(dtype)):
        for training in (True, False):
            x.grad = None
            y = layer.train(training)(x)
            y.sum().backward()
            assert y.dtype == x.grad.dtype == dtype
            assert torch.isfinite(y).all()
            assert torch.isfinite(x.grad).all()
            for parameter in layer.parameters():
                assert parameter.grad.dtype == parameter.dtype
                assert torch.isfinite(parameter.grad).all()
            for name, buffer in layer.named_buffers():
                assert torch.isfinite(buffer).all(), name


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@each_layer
def test_half_precision_is_float32_inside(cls, dtype):
    layer = randomize(cls(16))
    x = (torch.randn(4, 16, 9, 9) + 30).to(dtype)
    expected = copy.deepcopy(layer)(x.float())
    # Half a unit of the last place of the output type, and not more.
    torch.testing.assert_close(layer(x).float(), expected, rtol=torch.finfo(dtype).eps / 2, atol=2e-5)


@pytest.mark.parametrize('dtype', AUTOCAST_TYPES, ids=str)
@each_layer
def test_autocast(cls, dtype):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), cls(16), nn.ReLU(inplace=True))
    x = torch.randn(2, 3, 9, 9)
    with torch.autocast('cpu', dtype=dtype):
        y = model(x)
        after_float32 = model[1](torch.randn(2, 16, 3, 3))
    assert y.dtype == dtype
    assert after_float32.dtype == torch.float32
    y.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@each_layer
def test_inplace_relu_behind(cls):
    layer = randomize(cls(6).double())
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    expected = outputs_and_gradients(lambda x: plain(layer, x).relu(), layer, x)
    assert_same(outputs_and_gradients(lambda x: layer(x).relu_(), layer, x), expected)
    assert not layer(x)._is_view()


@each_layer
def test_input_is_left_alone(cls):
    x = torch.randn(2, 6, 5, 5)
    before = x.clone()
    cls(6)(x)
    assert torch.equal(x, before)


@given(
    key=st.sampled_from(sorted(LAYERS)),
    channels=st.sampled_from([1, 2, 3, 6, 8, 12]),
    samples=st.integers(1, 4),
    positions=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    pool=st.lists(st.sampled_from(['IN', 'LN', 'BN', 'GN']), min_size=1, max_size=4, unique=True),
    num_groups=st.integers(1, 40),
    layout=st.sampled_from(['contiguous', 'channels_last', 'transposed', 'sliced']),
    training=st.booleans(),
    offset=st.floats(-100, 100),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_shape_pool_and_layout(key, channels, samples, positions, pool, num_groups, layout, training, offset):
    name, dims = key
    options = dict(num_groups=num_groups)
    if name != 'InstanceMetaNorm':
        options['normalizers'] = pool
    layer = randomize(LAYERS[key](channels, **options).double()).train(training)
    x = torch.randn(samples, channels, *positions[:dims], dtype=torch.float64) + offset
    if layout == 'channels_last':
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    elif layout == 'transposed':
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == 'sliced':
        x = torch.cat([x, x], -1)[..., : x.shape[-1]]
    expected = outputs_and_gradients(lambda x: plain(layer, x), layer, x.contiguous())
    actual = outputs_and_gradients(layer, layer, x)
    # Where |mean| >> std the plain formula in float64 is itself exact to mean/std * 1e-16 only.
    assert_same(actual, expected, tolerance=1e-9, floor=1)
    if dims == 2 and layout == 'channels_last' and channels > 1:
        assert layer(x).is_contiguous(memory_format=torch.channels_last)
    if layout == 'contiguous':
        assert layer(x).is_contiguous()


@each_layer
def test_pickle_and_deepcopy(cls):
    layer = randomize(nn.Sequential(cls(6)))
    x = torch.randn(2, 6, 5, 5)
    for clone in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        torch.testing.assert_close(clone.eval()(x), layer.eval()(x))


@pytest.mark.parametrize(('name', 'dims'), LAYERS, ids=str)
def test_wrong_rank_and_channels(name, dims):
    layer = LAYERS[name, dims](4)
    good = {1: [2, 3], 2: [4], 3: [5]}[dims]
    for rank in range(1, 7):
        x = torch.zeros([2, 4, *[3] * 4][:rank] if rank > 1 else [4])
        if rank in good:
            layer(x)
        else:
            with pytest.raises(ValueError, match=rf'{name}{dims}d expected .*{good[0]}D.* got {rank}D'):
                layer(x)
    with pytest.raises(ValueError, match='expected 4 channels .* got 5'):
        layer(torch.zeros(2, 5, *[3] * dims))
    with pytest.raises(ValueError, match=r'floating-point input, got torch\.int64'):
        layer(torch.zeros(2, 4, *[3] * dims, dtype=torch.long))


BAD = [
    (cls, {'num_features': 4, name: value}, rf'{name}.*{message}')
    for cls, (name, value, message) in itertools.chain(
        itertools.product(
            LAYERS_2D,
            [
                ('num_features', 0, 'positive integer, got 0'),
                ('num_features', -3, 'positive integer, got -3'),
                ('num_features', 2.5, 'positive integer, got 2.5'),
                ('num_features', True, 'positive integer, got True'),
                ('eps', -1e-5, 'positive number, or 0, got -1e-05'),
                ('eps', float('nan'), 'positive number, or 0, got nan'),
                ('eps', '1e-5', "positive number, or 0, got '1e-5'"),
                ('num_groups', 0, 'positive integer, got 0'),
            ],
        ),
        itertools.product(
            LAYERS_2D[:2],
            [
                ('normalizers', (), 'expected a non-empty choice of IN, LN, BN, GN'),
                ('normalizers', 'BN', 'expected a non-empty choice'),
                ('normalizers', ('BN', 'XN'), r"unknown \['XN'\].*IN, LN, BN, GN"),
                ('normalizers', ('BN', 'IN', 'BN'), 'twice'),
                ('momentum', 1.5, r'number in \[0, 1\], got 1.5'),
                ('init_ratios', (0.5, 0.5), 'expected 3 positive probabilities'),
                ('init_ratios', (0.5, 0.5, 0.5), 'that sum to 1'),
                ('init_ratios', (0, 0.5, 0.5), 'expected 3 positive'),
            ],
        ),
        itertools.product(
            [mmnorm.ExemplarNorm2d],
            [
                ('reduction', 0, 'positive integer, got 0'),
                ('expansion', 0, 'positive integer, got 0'),
                ('ratio_net', 'linear', "one of pairwise, mlp, got 'linear'"),
                ('ratio_activation', 'gelu', "one of tanh, relu, got 'gelu'"),
            ],
        ),
        itertools.product(
            [mmnorm.InstanceMetaNorm2d],
            [
                ('base', 'BN', "one of GN, LN, IN, got 'BN'"),
                ('key_group_size', 0, 'positive integer, got 0'),
                ('reduction', 0, 'positive integer, got 0'),
                ('mean_activation', 'gelu', "one of sigmoid, tanh, relu, leaky_relu, relu6, identity, got 'gelu'"),
                ('var_activation', None, 'got None'),
                ('init', 'zero', "one of kaiming, normal, got 'zero'"),
            ],
        ),
    )
]


@pytest.mark.parametrize(('cls', 'options', 'message'), BAD, ids=lambda value: str(value)[:60])
def test_bad_arguments(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)
