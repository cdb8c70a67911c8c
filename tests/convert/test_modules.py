"""convert_norm and revert_norm: what is replaced, what of it is kept, and what is computed then."""

import copy
import warnings

import pytest
import torch
import torchvision
from helpers import randomize
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.ops import FrozenBatchNorm2d

import mmnorm
from mmnorm import convert_norm, revert_norm
from mmnorm.layers.base import LearnedNorm

NORMS = {'SN': 'SwitchableNorm', 'EN': 'ExemplarNorm', 'ILM': 'InstanceMetaNorm'}
norms = pytest.mark.parametrize('norm', NORMS)
modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


def trained(model):
    """Weights and statistics as after a training: nothing at 0 or 1, and running statistics of some batches."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm | nn.GroupNorm):
            randomize(module)
            if getattr(module, 'num_batches_tracked', None) is not None:
                module.num_batches_tracked.fill_(7)
    return model


class Block(nn.Module):
    """As OpenMMLab's BasicBlock: norms under names of their own, an in-place ReLU behind them."""

    def __init__(self, channels, make_norm):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = make_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = make_norm(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


class Net(nn.Module):
    """A backbone and a head."""

    def __init__(self, make_norm=nn.BatchNorm2d):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), Block(8, make_norm), Block(8, make_norm))
        self.head = nn.Sequential(nn.Conv2d(8, 4, 1), make_norm(4))

    def forward(self, x):
        return self.head(self.backbone(x))


def classes(model):
    return {name: type(module).__name__ for name, module in model.named_modules() if 'Norm' in type(module).__name__}


def images(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


# What is computed


class Chain(nn.Sequential):
    """1d, 2d and 3d norms one after another."""

    def __init__(self):
        super().__init__(
            nn.Conv3d(2, 8, 3),
            nn.BatchNorm3d(8),
            nn.Flatten(3),
            nn.BatchNorm2d(8),
            nn.Flatten(2),
            nn.BatchNorm1d(8),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(1),
            nn.BatchNorm1d(8),
        )


MODELS = {
    'resnet18': (lambda: torchvision.models.resnet18(num_classes=10), (3, 3, 64, 64)),
    'mobilenet_v2': (lambda: torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.5), (3, 3, 64, 64)),
    'block': (Net, (3, 3, 9, 9)),
    'chain': (Chain, (3, 2, 6, 6, 6)),
}


@modes
@pytest.mark.parametrize('norm', ['SN', 'EN'])
@pytest.mark.parametrize('name', MODELS)
def test_init_ratios_on_batch_norm_compute_what_it_computed(name, norm, training):
    make, shape = MODELS[name]
    model = trained(make().double())
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x = images(*shape)
    differences = []
    for rest in (2e-6, 2e-8):
        expected, converted = copy.deepcopy(model), copy.deepcopy(model)
        report = convert_norm(converted, dict(type=norm, init_ratios=(rest / 2, rest / 2, 1 - rest)))
        assert len(report) == sum('BatchNorm' in kind for kind in classes(model).values())
        assert not any('BatchNorm' in kind for kind in classes(converted).values())
        differences.append((converted.train(training)(x) - expected.train(training)(x)).abs().max().item())
        for key, value in expected.named_buffers():
            torch.testing.assert_close(converted.get_buffer(key), value, rtol=1e-3, atol=1e-3)
    # In proportion to what the other normalizers get.
    assert differences[0] < 0.05
    assert differences[1] == pytest.approx(differences[0] / 100, rel=0.2)


@pytest.mark.parametrize(
    ('make_norm', 'options', 'types'),
    [
        (lambda c: nn.GroupNorm(4, c), {}, 'GN'),
        (lambda c: nn.GroupNorm(4, c, affine=False), {}, nn.GroupNorm),
        (lambda c: nn.GroupNorm(1, c), dict(base='LN'), 'GN'),
        (lambda c: nn.InstanceNorm2d(c), {}, 'IN'),
        (lambda c: nn.InstanceNorm2d(c, affine=True), dict(key_group_size=2, var_activation='tanh'), 'all'),
    ],
)
def test_base_to_ilm_is_exact(make_norm, options, types):
    model = trained(Net(make_norm).double())
    for module in model.modules():
        if isinstance(module, nn.InstanceNorm2d):
            randomize(module)
    x = images(3, 3, 9, 9)
    expected = model(x)
    report = convert_norm(model, dict(type='ILM', **options), types=types)
    assert len(report) == 5
    assert all(conversion.exact for conversion in report)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)
    report = revert_norm(model)
    assert all(conversion.exact for conversion in report)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('norm', ['SN', 'EN'])
@pytest.mark.parametrize(
    ('make_norm', 'pool'),
    [
        (nn.BatchNorm2d, 'BN'),
        (lambda c: nn.GroupNorm(2, c), 'GN'),
        (lambda c: nn.GroupNorm(1, c), 'LN'),
        (lambda c: nn.InstanceNorm2d(c, affine=True), 'IN'),
    ],
)
@modes
def test_pool_of_one_is_exact_there_and_back(norm, make_norm, pool, training):
    model = trained(Net(make_norm).double()).train(training)
    expected, converted = copy.deepcopy(model), copy.deepcopy(model)
    for replace in (
        lambda: convert_norm(converted, dict(type=norm, normalizers=(pool,)), types='all'),
        lambda: revert_norm(converted),
    ):
        report = replace()
        assert all(conversion.exact for conversion in report), str(report)
        x = images(3, 3, 9, 9)
        torch.testing.assert_close(converted(x), expected(x), rtol=1e-10, atol=1e-10)


@norms
def test_gradients_reach_what_is_learned_first(norm):
    model = Net()
    convert_norm(model, norm)
    model(images(3, 3, 9, 9, dtype=torch.float32)).square().sum().backward()
    for module in model.modules():
        if isinstance(module, LearnedNorm):
            assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
            assert module.weight.grad.any()
            # What comes before it in the net waits until this has left zero.
            assert getattr(module, {'SN': 'var_weight', 'EN': 'fc2_bias', 'ILM': 'var_decoder_weight'}[norm]).grad.any()


# What is kept


@norms
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_revert_gives_the_weights_back(norm, dtype):
    model = trained(torchvision.models.mobilenet_v2(num_classes=2, width_mult=0.25)).to(dtype)
    source = 'BN'
    if norm == 'ILM':
        source = 'GN'
        model = trained(Net(lambda c: nn.GroupNorm(2, c))).to(dtype)
    before, kinds = copy.deepcopy(model.state_dict()), classes(model)
    convert_norm(model, norm, types=source)
    assert all(t.dtype in (dtype, torch.long) for t in model.state_dict().values())
    revert_norm(model)
    assert classes(model) == kinds
    after = model.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        if norm == 'ILM' and key.endswith('.weight') and value.dim() == 1:
            # gamma - 0.5 is rounded, to half a unit in the last place of what it is.
            error = (after[key] - value).abs().double()
            assert (error <= torch.finfo(dtype).eps * value.abs().double().clamp(min=0.5)).all()
        else:
            assert torch.equal(after[key], value), key


@norms
def test_options_and_modes_are_kept(norm):
    model = nn.Sequential(
        nn.BatchNorm2d(8, eps=1e-3, momentum=0.03),
        nn.BatchNorm2d(8, momentum=None, affine=False),
        nn.BatchNorm2d(8, track_running_stats=False).eval(),
    )
    convert_norm(model, norm)
    assert [layer.training for layer in model] == [True, True, False]
    assert [layer.eps for layer in model] == [1e-3, 1e-5, 1e-5]
    if norm != 'ILM':
        assert [layer.momentum for layer in model] == [0.03, None, 0.1]
        assert [layer.affine for layer in model] == [True, False, True]
        assert [layer.track_running_stats for layer in model] == [True, True, False]
    else:
        # Without B_omega it could not compute what the norm computed; it does not learn, though.
        assert [layer.weight.requires_grad for layer in model] == [True, False, True]
    revert_norm(model)
    assert [layer.training for layer in model] == [True, True, False]
    assert [layer.eps for layer in model] == [1e-3, 1e-5, 1e-5]


def test_the_norm_goes_before_the_layer():
    model = nn.Sequential(nn.BatchNorm2d(8, eps=1e-3))
    norm = dict(type='EN', eps=1e-2, momentum=0.5, normalizers=('IN', 'BN'), requires_grad=False)
    convert_norm(model, norm)
    assert (model[0].eps, model[0].momentum, model[0].normalizers) == (1e-2, 0.5, ('IN', 'BN'))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert norm['type'] == 'EN', 'the dict is the caller’s'


@norms
def test_frozen_stays_frozen(norm):
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8))
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(False)
    convert_norm(model, norm)
    assert not any(parameter.requires_grad for parameter in model[0].parameters())
    frozen = [name for name, parameter in model[1].named_parameters() if not parameter.requires_grad]
    assert frozen == ['bias']
    assert all(parameter.requires_grad for parameter in model[2].parameters())
    revert_norm(model)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, False, True, True]


@norms
def test_meta_device(norm):
    with torch.device('meta'):
        model = Net()
        # Also within the context, where every tensor that a layer makes is on meta.
        convert_norm(model, norm, include='head')
    convert_norm(model, norm)
    assert all(t.is_meta for t in model.state_dict().values())
    assert len(revert_norm(model)) == 5
    assert all(t.is_meta for t in model.state_dict().values())


def test_layers_are_made_where_their_predecessors_are():
    model = trained(Net())
    with torch.device('meta'):
        convert_norm(model, 'ILM')
    assert not any(t.is_meta for t in model.state_dict().values())


def test_buffers_keep_their_types():
    model = nn.Sequential(nn.BatchNorm2d(8))
    model[0].weight.data = model[0].weight.data.half()
    model[0].bias.data = model[0].bias.data.half()
    convert_norm(model, 'SN')
    assert model[0].weight.dtype == model[0].mean_weight.dtype == torch.float16
    assert model[0].running_var.dtype == torch.float32


def test_layers_without_tensors_follow_their_neighbors():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8)).double()
    convert_norm(model, 'SN', types=nn.InstanceNorm2d)
    assert model[1].mean_weight.dtype == torch.float64
    model(images(2, 3, 5, 5))


@norms
def test_shared_layers_stay_shared(norm):
    shared, block = nn.BatchNorm2d(8), Block(8, nn.BatchNorm2d)
    model = nn.ModuleDict({'a': nn.Sequential(shared, block), 'b': nn.Sequential(shared, block), 'c': shared})
    report = convert_norm(model, norm)
    assert [conversion.name for conversion in report] == ['a.0', 'a.1.bn1', 'a.1.bn2']
    assert model['a'][0] is model['b'][0] is model['c']
    assert isinstance(model['c'], LearnedNorm)
    assert model['a'][1] is model['b'][1] is block
    assert len(revert_norm(model)) == 3
    assert model['a'][0] is model['c']


def test_a_shared_layer_is_selected_by_any_of_its_names_and_excluded_by_any():
    model = nn.ModuleDict({'a': nn.BatchNorm2d(8), 'b': nn.BatchNorm2d(8)})
    model['c'] = model['a']
    assert [c.name for c in convert_norm(copy.deepcopy(model), 'SN', include='c')] == ['a']
    assert [c.name for c in convert_norm(copy.deepcopy(model), 'SN', exclude='c')] == ['b']


@norms
def test_copies_and_checkpoints_of_the_converted_model(norm):
    model = trained(Net())
    convert_norm(model, norm)
    for module in model.modules():
        if isinstance(module, LearnedNorm):
            randomize(module)
    other = Net()
    convert_norm(other, norm)
    other.load_state_dict(model.state_dict())
    x = images(3, 3, 9, 9, dtype=torch.float32)
    expected = model.eval()(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(other.eval()(x), expected)
    # A checkpoint of the model as it was still loads.
    other.load_state_dict(Net().state_dict())


def test_load_weights_false_leaves_new_layers_as_they_are_made():
    model = trained(Net())
    report = convert_norm(model, 'EN', load_weights=False)
    assert (model.head[1].weight == 1).all()
    assert (model.head[1].running_mean == 0).all()
    assert not any(conversion.exact for conversion in report)


# Which layers


def converted_names(model, norm='EN', **selection):
    model = copy.deepcopy(model)
    report = convert_norm(model, norm, **selection)
    names = [name for name, module in model.named_modules() if isinstance(module, LearnedNorm)]
    assert names == [conversion.name for conversion in report]
    return names


BACKBONE = ['backbone.1.bn1', 'backbone.1.bn2', 'backbone.2.bn1', 'backbone.2.bn2']


@pytest.mark.parametrize(
    ('selection', 'expected'),
    [
        ({}, [*BACKBONE, 'head.1']),
        (dict(include='backbone'), BACKBONE),
        (dict(include=['backbone.2', 'head']), [*BACKBONE[2:], 'head.1']),
        (dict(include='*.bn1'), BACKBONE[::2]),
        (dict(include='backbone.[12].bn2'), BACKBONE[1::2]),
        (dict(exclude='backbone'), ['head.1']),
        (dict(include='backbone', exclude=['*.bn1']), BACKBONE[1::2]),
        (dict(predicate=lambda name, module: module.num_features == 4), ['head.1']),
        (dict(include='backbone', predicate=lambda name, module: name.endswith('2.bn1')), ['backbone.2.bn1']),
    ],
)
def test_selection_by_name_and_predicate(selection, expected):
    assert converted_names(Net(), **selection) == expected


MIXED = nn.Sequential(
    nn.BatchNorm1d(8),
    nn.BatchNorm2d(8),
    nn.SyncBatchNorm(8),
    nn.GroupNorm(4, 8),
    nn.InstanceNorm3d(8),
    FrozenBatchNorm2d(8),
    nn.LayerNorm(8),
)


@pytest.mark.parametrize(
    ('types', 'expected'),
    [
        (None, '012'),
        ('BN', '01'),
        (nn.BatchNorm2d, '1'),
        (['SyncBN', nn.GroupNorm], '23'),
        (('IN', 'FrozenBN'), '45'),
        ('all', '012345'),
    ],
)
def test_selection_by_type(types, expected):
    assert ''.join(converted_names(MIXED, types=types)) == expected


@norms
def test_the_rank_is_that_of_the_layer(norm):
    model = copy.deepcopy(MIXED)
    report = convert_norm(model, norm, types='all')
    ranks = '122232'
    assert [conversion.new for conversion in report] == [f'{NORMS[norm]}{rank}d' for rank in ranks]
    # SyncBatchNorm and GroupNorm take any rank, so their replacements do.
    for layer in (model[2], model[3]):
        for shape in ((2, 8), (2, 8, 3), (2, 8, 3, 3), (2, 8, 3, 3, 3)):
            assert copy.deepcopy(layer)(torch.randn(shape)).shape == shape
    with pytest.raises(ValueError, match='4D'):
        model[1](torch.randn(2, 8, 3))


def test_a_rank_in_the_name_selects_and_decides():
    model = copy.deepcopy(MIXED)
    report = convert_norm(model, 'SN1d', types='all')
    assert [(c.name, c.new) for c in report] == [(name, 'SwitchableNorm1d') for name in '023']
    assert '1d was asked for' in next(entry.reason for entry in report.left_alone if entry.name == '1')
    with pytest.raises(ValueError, match='4D'):
        model[3](torch.randn(2, 8, 3, 3))


def test_sync_batch_norm_syncs():
    model = nn.Sequential(nn.SyncBatchNorm(8), nn.BatchNorm2d(8))
    other = copy.deepcopy(model)
    convert_norm(model, 'EN')
    assert [layer.sync for layer in model] == [True, False]
    convert_norm(other, dict(type='EN', sync=False))
    assert [layer.sync for layer in other] == [False, False]
    revert_norm(model)
    assert [type(layer) for layer in model] == [nn.SyncBatchNorm, nn.BatchNorm2d]


def test_sync_batch_norm_that_is_told_by_its_name():
    # As mmcv's: a module of its own.
    twin = type('SyncBatchNorm', (nn.Module,), {})()
    layer = trained(nn.Sequential(nn.BatchNorm2d(8)))[0]
    twin.__dict__.update(layer.__dict__)
    model = nn.Sequential(twin)
    convert_norm(model, 'SN')
    assert model[0].sync
    assert torch.equal(model[0].running_mean, layer.running_mean)


def test_converting_twice_changes_nothing():
    model = Net()
    convert_norm(model, 'EN')
    layers = list(model.modules())
    report = convert_norm(model, 'EN')
    assert len(report) == 0
    assert {entry.reason for entry in report.left_alone} == {'is EN already'}
    assert all(a is b for a, b in zip(layers, model.modules(), strict=True))


def test_one_learned_norm_to_another_if_asked():
    model = trained(Net())
    convert_norm(model, dict(type='SN', normalizers=('LN', 'BN'), momentum=0.02))
    gamma = model.head[1].weight.detach().clone()
    with pytest.raises(ValueError, match='5 SwitchableNorm2d'):
        convert_norm(model, 'EN')
    convert_norm(model, 'EN', types='SN')
    layer = model.head[1]
    assert isinstance(layer, mmnorm.ExemplarNorm2d)
    assert (layer.normalizers, layer.momentum) == (('LN', 'BN'), 0.02)
    assert torch.equal(layer.weight, gamma.expand(2, -1))


def test_frozen_batch_norm_stays_unless_named():
    model = nn.Sequential(FrozenBatchNorm2d(8), nn.BatchNorm2d(8))
    randomize(model[1])
    model[0].load_state_dict({k: v for k, v in model[1].state_dict().items() if 'tracked' not in k})
    x = torch.randn(4, 8, 5, 5)
    expected = model[0](x)
    report = convert_norm(model, 'SN')
    assert [entry.name for entry in report.left_alone] == ['0']
    convert_norm(model, dict(type='SN', normalizers=('BN',)), types=FrozenBatchNorm2d)
    model.train()
    torch.testing.assert_close(model[0](x), expected, rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in model[0].parameters())
    assert model[0].num_batches_tracked == 0


# What can't be replaced


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TwiceBatchNorm2d(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))


class Aside(nn.Module):
    """Holds its norms a second time."""

    def __init__(self, norms):
        super().__init__()
        self.layers = nn.ModuleList(norms)
        self.again = {'norms': None, 'first': norms[0]}
        self.batches = iter([1])


def with_tied_weights():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8))
    model[1].weight = model[0].weight
    return model


def with_replaced_forward():
    layer = nn.BatchNorm2d(8)
    layer.forward = lambda x: x
    return layer


def pruned():
    layer = nn.BatchNorm2d(8)
    prune.random_unstructured(layer, 'weight', 0.5)
    return layer


OBSTACLES = {
    'layer norm': (lambda: nn.LayerNorm(8), 'normalizes the last dimensions'),
    'layer norm of channels': (lambda: LayerNorm2d(8), 'statistics of each position'),
    'unknown': (RMSNorm, 'not a norm over channels that is known'),
    'lazy': (nn.LazyBatchNorm2d, 'channels are unknown'),
    'parametrized': (lambda: parametrizations.weight_norm(nn.BatchNorm2d(8), dim=None), 'reparametrized'),
    'pruned': (pruned, 'pruned'),
    'own forward': (lambda: TwiceBatchNorm2d(8), 'forward of its own'),
    'replaced forward': (with_replaced_forward, 'forward was replaced'),
    'tied': (with_tied_weights, 'shares its parameters'),
    'aside': (lambda: Aside([nn.BatchNorm2d(8)]), 'holds it in again too'),
}


@pytest.mark.filterwarnings('ignore:Lazy modules')
@pytest.mark.parametrize('name', OBSTACLES)
def test_what_cannot_be_replaced_stays_and_the_report_says_why(name):
    make, reason = OBSTACLES[name]
    model = nn.ModuleDict({'odd': make() if name in ('tied', 'aside') else nn.Sequential(make())})
    layers = list(model.modules())
    with pytest.raises(ValueError, match=f'(?s)no norm layer to replace.*{reason}'):
        convert_norm(model, 'EN', types='all')
    model['plain'] = nn.BatchNorm2d(8)
    report = convert_norm(model, 'EN', types='all')
    assert [conversion.name for conversion in report] == ['plain']
    assert all(a is b for a, b in zip(layers[1:], list(model.modules())[1:], strict=False))
    if name == 'aside':
        assert list(model['odd'].batches) == [1], 'looking at an iterator would use it up'


def test_a_class_that_is_named_is_replaced_whatever_its_forward():
    model = nn.Sequential(TwiceBatchNorm2d(8))
    assert len(convert_norm(model, 'EN', types=TwiceBatchNorm2d)) == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(norm='BN'), r"unknown norm 'BN'; expected one of EN1d, EN2d"),
        (dict(norm=dict(eps=1)), 'has no type'),
        (dict(norm=dict(type='EN', foo=1)), 'takes eps, momentum.*foo'),
        (dict(norm=dict(type='EN', num_features=4)), 'taken from each replaced layer'),
        (dict(norm=dict(type='EN', init_ratios=(0.5, 0.5))), 'expected 3 positive probabilities'),
        (dict(norm='EN', include='bakbone'), "include='bakbone' matches no module.*backbone, head"),
        (dict(norm='EN', exclude=['head', 'neck']), "exclude='neck' matches no module"),
        (dict(norm='EN', types='GN'), '(?s)no norm layer to replace. The model has 5 BatchNorm2d.*not asked for'),
        (dict(norm='EN', types='Batch'), "types: expected.*'Batch'"),
        (dict(norm='EN', types=()), 'types is empty'),
        (dict(norm='EN', predicate=lambda name, module: False), 'the predicate refused it'),
        (dict(norm='EN', include='backbone.0'), 'not selected by name'),
    ],
)
def test_errors_change_nothing(arguments, message):
    model = Net()
    kinds = classes(model)
    with pytest.raises(ValueError, match=message):
        convert_norm(model, **arguments)
    assert classes(model) == kinds


def test_an_error_at_the_last_layer_changes_nothing():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8, momentum=2))
    with pytest.raises(ValueError, match=r'1 \(BatchNorm2d\) cannot be replaced, so nothing was: momentum'):
        convert_norm(model, 'EN')
    assert all(isinstance(layer, nn.BatchNorm2d) for layer in model)


@pytest.mark.parametrize('arguments', [('model', 'EN'), (Net(), 3), (Net(), None)])
def test_wrong_types_of_arguments(arguments):
    with pytest.raises(TypeError):
        convert_norm(*arguments)


def test_the_model_itself_can_be_no_norm():
    with pytest.raises(ValueError, match='the model itself is the norm, BatchNorm2d'):
        convert_norm(nn.BatchNorm2d(8), 'EN')
    with pytest.raises(ValueError, match='the model itself is the norm, ExemplarNorm2d'):
        revert_norm(mmnorm.ExemplarNorm2d(8))


def test_a_wrapped_model_is_refused():
    wrapper = type('MMDistributedDataParallel', (type('DistributedDataParallel', (nn.Module,), {}),), {})()
    wrapper.module = Net()
    with pytest.raises(ValueError, match='wrapped in DistributedDataParallel.*wrap afterwards'):
        convert_norm(wrapper, 'EN')


def test_nothing_to_revert():
    with pytest.raises(ValueError, match='no norm layer to replace. The model has 5 BatchNorm2d'):
        revert_norm(Net())
    with pytest.raises(ValueError, match='The model has no norm layers'):
        revert_norm(nn.Sequential(nn.Linear(3, 3)))


@pytest.mark.parametrize(
    'register',
    [
        lambda layer: layer.register_forward_hook(lambda *args: None),
        lambda layer: layer.register_full_backward_hook(lambda *args: None),
        lambda layer: layer.weight.register_hook(lambda grad: grad),
    ],
)
def test_hooks_are_lost_with_one_warning(register):
    model = Net()
    register(model.backbone[1].bn1)
    register(model.head[1])
    with pytest.warns(UserWarning, match='hooks of the replaced layers are lost') as caught:
        convert_norm(model, 'EN')
    assert len(caught) == 1
    assert str(caught[0].message).endswith('on: backbone.1.bn1, head.1')
    assert caught[0].filename == __file__


def test_no_warning_without_hooks():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = Net()
        convert_norm(model, 'SN')
        model.load_state_dict(model.state_dict())
        convert_norm(model, 'ILM', types='SN')
        revert_norm(model)


# Norms with an activation inside, as timm has them


class BatchNormAct2d(nn.BatchNorm2d):
    def __init__(self, num_features, act):
        super().__init__(num_features)
        self.drop = nn.Identity()
        self.act = act

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class FrozenBatchNormAct2d(nn.Module):
    def __init__(self, source):
        super().__init__()
        self.eps = source.eps
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            self.register_buffer(name, getattr(source, name).detach().clone())
        self.drop, self.act = source.drop, source.act

    def forward(self, x):
        shape = (1, -1, 1, 1)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return self.act(self.drop(x * scale.view(shape) + shift.view(shape)))


@modes
@norms
def test_activations_inside_are_kept(norm, training):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, nn.PReLU(8))).double().train(training)
    randomize(model[1])
    before, x = copy.deepcopy(model), images(3, 3, 9, 9)
    options = {} if norm == 'ILM' else dict(normalizers=('BN',))
    report = convert_norm(model, dict(type=norm, **options))
    assert report.converted[0].new == f'{NORMS[norm]}Act2d'
    assert isinstance(model[1], getattr(mmnorm, f'{NORMS[norm]}2d'))
    assert torch.equal(model[1].act.weight, before[1].act.weight)
    if norm != 'ILM':
        torch.testing.assert_close(model(x), before(x), rtol=1e-10, atol=1e-10)
    # Checkpoints of the model as it was still load: the names are the same.
    model.load_state_dict(before.state_dict())
    other = copy.deepcopy(model)
    other.load_state_dict(model.state_dict())
    revert_norm(model)
    if norm != 'ILM':
        assert list(model.state_dict()) == list(before.state_dict())
        before.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(x), before(x), rtol=0, atol=0)


def test_frozen_norm_with_an_activation_inside():
    source = randomize(BatchNormAct2d(8, nn.ReLU()))
    model = nn.Sequential(FrozenBatchNormAct2d(source))
    x = torch.randn(3, 8, 5, 5)
    expected = model(x)
    convert_norm(model, dict(type='EN', normalizers=('BN',)), types='FrozenBN')
    torch.testing.assert_close(model.train()(x), expected, rtol=1e-5, atol=1e-5)


# The report


def test_report():
    model = nn.ModuleDict({'net': Net(), 'norm': nn.LayerNorm(8), 'gn': nn.GroupNorm(2, 8)})
    report = convert_norm(model, dict(type='ILM'), types='all')
    assert len(report) == len(list(report)) == 6
    assert str(report) == (
        '6 norm layers replaced, 1 left alone\n'
        '  BatchNorm2d -> InstanceMetaNorm2d: net.backbone.1.bn1, net.backbone.1.bn2, net.backbone.2.bn1 and 2 more '
        '(without its running statistics)\n'
        '  GroupNorm -> InstanceMetaNorm2d: gn (same function)\n'
        '  LayerNorm stays: norm: normalizes the last dimensions; the layers here have channels in dimension 1'
    )


def test_revert_says_what_was_dropped():
    model = trained(Net())
    convert_norm(model, 'EN')
    for module in model.modules():
        if isinstance(module, LearnedNorm):
            randomize(module)
    gammas, betas = model.head[1].weight.detach().clone(), model.head[1].bias.detach().clone()
    ratios = model.head[1].fc2_bias.detach().softmax(0)
    report = revert_norm(model)
    assert not any(conversion.exact for conversion in report)
    assert all('fc2_weight' in conversion.note for conversion in report)
    torch.testing.assert_close(model.head[1].weight, ratios @ gammas)
    torch.testing.assert_close(model.head[1].bias, betas.sum(0))


@pytest.mark.parametrize('norm', ['SN', 'EN'])
@pytest.mark.parametrize(
    ('ratios', 'expected'), [((0.2, 0.7, 0.1), nn.GroupNorm(1, 8)), ((0.8, 0.1, 0.1), nn.InstanceNorm2d(8))]
)
def test_without_batch_norm_the_largest_ratio_decides(norm, ratios, expected):
    model = nn.Sequential(nn.BatchNorm2d(8))
    convert_norm(model, dict(type=norm, normalizers=('IN', 'LN', 'GN'), init_ratios=ratios))
    revert_norm(model)
    assert type(model[0]) is type(expected)
    assert getattr(model[0], 'num_groups', None) == getattr(expected, 'num_groups', None)
