"""Norms that are the same for every input go into the convolutions before them."""

import copy
import io

import pytest
import torch
import torchvision
from helpers import assert_same, randomize
from torch import nn

import mmnorm
from mmnorm.registry import NORMS

BN = ('BN',)


def alone(channels, rank=2, cls='SwitchableNorm', **options):
    """A norm that BN's running statistics alone standardize, as after a training."""
    return randomize(getattr(mmnorm, f'{cls}{rank}d')(channels, normalizers=BN, **options)).double().eval()


def one_hot(channels, normalizer='BN', cls='SwitchableNorm'):
    """SN and SSN whose ratios have become one-hot."""
    layer = randomize(getattr(mmnorm, f'{cls}2d')(channels)).double().eval()
    wanted = torch.tensor([1.0 if name == normalizer else -1.0 for name in layer.normalizers])
    with torch.no_grad():
        for logits in (layer.mean_weight, layer.var_weight):
            logits.copy_(wanted * (1000 if cls == 'SwitchableNorm' else 1))
    if cls == 'SparseSwitchableNorm':
        layer.set_sparsity(1)
    return layer


def exemplar(channels, counts='ratios', **options):
    """EN of which BN alone counts, whatever the sample."""
    layer = randomize(mmnorm.ExemplarNorm2d(channels, normalizers=('IN', 'BN'), **options)).double().eval()
    with torch.no_grad():
        layer.fc2_weight.zero_()
        if counts == 'ratios':
            layer.fc2_bias.copy_(torch.tensor([-1000, 0.0]))
        elif counts == 'gamma':
            layer.weight[0] = 0
    return layer


def check(model, x, folded, left=()):
    """Fold, and compare with what the model was; returns the report."""
    with torch.no_grad():
        expected = model(x)
        report = mmnorm.fold(model)
        assert [entry.name for entry in report] == list(folded)
        assert [entry.name for entry in report.left_alone] == list(left)
        assert_same(dict(y=model(x)), dict(y=expected))
    return report


FIXED = {
    'SN of BN': lambda: alone(6),
    'SN without affine': lambda: alone(6, affine=False),
    'SSN of BN': lambda: alone(6, cls='SparseSwitchableNorm'),
    'EN of BN': lambda: alone(6, cls='ExemplarNorm'),
    'SN one-hot': lambda: one_hot(6),
    'SSN at its end': lambda: one_hot(6, cls='SparseSwitchableNorm'),
    'EN by its ratios': lambda: exemplar(6),
    'EN by its ratios, one gamma': lambda: exemplar(6, shared_affine=True),
    'EN by its ratios, no gamma': lambda: exemplar(6, affine=False),
    'EN by its gammas': lambda: exemplar(6, counts='gamma'),
}


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('name', FIXED)
def test_fixed_norms(name, bias):
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=bias).double(), FIXED[name](), nn.ReLU()).eval()
    report = check(model, torch.randn(2, 3, 7, 8, dtype=torch.float64), ['1'])
    assert type(model[1]) is nn.Identity
    assert 'into 0' in str(report)
    assert model[0].weight.dtype == model[0].bias.dtype == torch.float64


@pytest.mark.parametrize('name', FIXED)
def test_fixed_affine_is_the_layer(name):
    layer, x = FIXED[name](), torch.randn(3, 6, 5, 4, dtype=torch.float64) * 3 + 2
    scale, shift = layer.fixed_affine()
    assert layer.why_not_fixed() is None
    assert_same(dict(y=x * scale[:, None, None] + shift[:, None, None]), dict(y=layer(x).detach()))


def untracked(channels):
    return mmnorm.SwitchableNorm2d(channels, normalizers=BN, track_running_stats=False).eval()


def half_one_hot(channels):
    layer = one_hot(channels)
    nn.init.zeros_(layer.mean_weight)
    return layer


VARYING = {
    'SN as it starts': (lambda: mmnorm.SwitchableNorm2d(6).eval(), 'BN is not the only normalizer that counts'),
    'SN one-hot of variances': (lambda: half_one_hot(6), 'BN is not the only normalizer that counts'),
    'SN one-hot on IN': (lambda: one_hot(6, 'IN'), 'its scale and shift depend on the sample'),
    'SN without BN': (lambda: mmnorm.SwitchableNorm2d(6, normalizers=['IN']).eval(), 'it has no running statistics'),
    'SN without statistics': (lambda: untracked(6), 'it has no running statistics'),
    'SSN near its end': (lambda: randomize(mmnorm.SparseSwitchableNorm2d(6)).eval(), 'BN is not the only normalizer'),
    'EN as it starts': (lambda: mmnorm.ExemplarNorm2d(6).eval(), 'BN is not the only normalizer that counts'),
    'EN as trained': (lambda: randomize(mmnorm.ExemplarNorm2d(6)).eval(), 'its ratios depend on the sample'),
    'EN of equal ratios': (lambda: exemplar(6, counts='both'), 'BN is not the only normalizer that counts'),
    'ILM': (lambda: mmnorm.InstanceMetaNorm2d(6).eval(), 'its scale and shift depend on the sample'),
    'in training mode': (lambda: alone(6).train(), 'is in training mode'),
    'with a hook': (lambda: hooked(alone(6)), 'has hooks'),
    'meta': (lambda: alone(6).to('meta'), 'is on the meta device'),
    'BN': (lambda: nn.BatchNorm2d(6).eval(), 'is no learned norm'),
}


def hooked(module):
    module.register_forward_hook(lambda module, args, y: y)
    return module


@pytest.mark.parametrize('name', VARYING)
def test_others_stay(name):
    make, reason = VARYING[name]
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Identity()).eval()
    layer = model[1] = make()
    before = model[0].weight
    report = mmnorm.fold(model)
    assert len(report) == 0
    assert model[1] is layer
    assert model[0].weight is before
    assert reason in str(report)
    assert '1' in str(report)


CONVOLUTIONS = {
    'Conv1d': (1, nn.Conv1d, {}),
    'Conv2d': (2, nn.Conv2d, {}),
    'Conv3d': (3, nn.Conv3d, {}),
    'ConvTranspose1d': (1, nn.ConvTranspose1d, {}),
    'ConvTranspose2d': (2, nn.ConvTranspose2d, dict(stride=2)),
    'ConvTranspose3d': (3, nn.ConvTranspose3d, {}),
    'reflected': (2, nn.Conv2d, dict(padding=1, padding_mode='reflect')),
}


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_convolutions(name, groups, bias):
    rank, cls, options = CONVOLUTIONS[name]
    convolution = cls(4, 6, 3, groups=groups, bias=bias, **options).double()
    model = nn.Sequential(convolution, alone(6, rank, cls='ExemplarNorm')).eval()
    check(model, torch.randn(2, 4, *[5] * rank, dtype=torch.float64), ['1'])


@pytest.mark.parametrize('bias', [True, False])
def test_linear(bias):
    model = nn.Sequential(nn.Linear(5, 6, bias=bias).double(), alone(6, 1)).eval()
    check(model, torch.randn(4, 5, dtype=torch.float64), ['1'])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_types_and_gradients_stay(dtype):
    convolution = nn.Conv2d(3, 6, 1).to(dtype).requires_grad_(False)
    model = nn.Sequential(convolution, alone(6).to(dtype)).to(memory_format=torch.channels_last).eval()
    x = torch.randn(2, 3, 4, 4).to(dtype)
    expected, held = model(x).detach(), model.state_dict()
    weight = held['0.weight'].clone()
    assert len(mmnorm.fold(model)) == 1
    assert_same(dict(y=model(x)), dict(y=expected), tolerance=8 * torch.finfo(dtype).eps)
    assert not model[0].weight.requires_grad
    assert not model[0].bias.requires_grad
    assert torch.equal(held['0.weight'], weight)


@pytest.mark.parametrize('activation', ['relu', 'leaky_relu', 'silu', 'gelu'])
def test_activation_stays(activation):
    norm = alone(6, activation=activation, negative_slope=0.3)
    model = nn.Sequential(nn.Conv2d(3, 6, 1).double(), norm).eval()
    check(model, torch.randn(2, 3, 4, 4, dtype=torch.float64), ['1'])
    assert activation.replace('_', '') in type(model[1]).__name__.lower()


def test_norm_with_an_activation_inside():
    class BatchNormAct2d(nn.BatchNorm2d):
        """As timm's."""

        def __init__(self, channels):
            super().__init__(channels)
            self.drop, self.act = nn.Identity(), nn.SiLU()

        def forward(self, x):
            return self.act(self.drop(super().forward(x)))

    model = nn.Sequential(nn.Conv2d(3, 6, 1), randomize(BatchNormAct2d(6))).double().eval()
    mmnorm.convert_norm(model, dict(type='SN', normalizers=BN))
    check(model, torch.randn(2, 3, 4, 4, dtype=torch.float64), ['1'])
    assert isinstance(model[1].act, nn.SiLU)


class Wired(nn.Module):
    """One convolution and one norm, wired as a function says."""

    def __init__(self, wire, convolution=None):
        super().__init__()
        self.conv = convolution or nn.Conv2d(3, 3, 1)
        self.norm = alone(3)
        self.wire = wire

    def forward(self, x):
        return self.wire(self, x)


WIRINGS = {
    'used twice': (
        lambda m, x: m.norm(y := m.conv(x)) + y,
        'the output of the convolution before it is used elsewhere',
    ),
    'conv called alone too': (lambda m, x: m.norm(m.conv(x)) + m.conv(-x), 'is used elsewhere too'),
    'relu between': (lambda m, x: m.norm(m.conv(x).relu()), 'not the output of a convolution but of relu'),
    'before the conv': (lambda m, x: m.conv(m.norm(x)), 'not the output of a convolution but of the module before'),
    'norm of two things': (lambda m, x: m.norm(m.conv(x)) + m.norm(x), 'not the output of a convolution but of'),
    'residual': (lambda m, x: m.norm(m.conv(x), x), 'is called with more than its input'),
    'weight read': (lambda m, x: m.norm(m.conv(x)) * m.conv.weight.sum(), 'is not the only one that uses its weights'),
    'not called': (lambda m, x: m.conv(x), 'does not call it in this mode'),
    'asks for values': (lambda m, x: m.norm(m.conv(x)) if x.sum() > 0 else x, 'torch.fx cannot trace Wired'),
}


@pytest.mark.parametrize('name', WIRINGS)
def test_wirings_that_stay(name):
    wire, reason = WIRINGS[name]
    report = check(Wired(wire).double().eval(), torch.rand(2, 3, 4, 4, dtype=torch.float64), [], ['norm'])
    assert reason in str(report)


def test_twice_the_same_way():
    model = Wired(lambda m, x: m.norm(m.conv(m.norm(m.conv(x))))).double().eval()
    check(model, torch.rand(2, 3, 4, 4, dtype=torch.float64), ['norm'])


class Standardized(nn.Conv2d):
    """Weight standardization: its scale is lost on the way."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


def spectral(convolution):
    return nn.utils.spectral_norm(convolution)


OBSTACLES = {
    'forward of its own': (lambda: Standardized(3, 3, 1), 'is a Standardized, which has a forward of its own'),
    'spectral norm': (lambda: spectral(nn.Conv2d(3, 3, 1)), 'has reparametrized or pruned weights'),
    'parametrized': (
        lambda: nn.utils.parametrize.register_parametrization(nn.Conv2d(3, 3, 1), 'weight', nn.Tanh()),
        'has reparametrized or pruned weights',
    ),
    'hooks': (lambda: hooked(nn.Conv2d(3, 3, 1)), 'has hooks'),
    'linear on the last dimension': (lambda: nn.Linear(4, 4), 'is a Linear with 4 outputs'),
}


@pytest.mark.parametrize('name', OBSTACLES)
def test_convolutions_that_stay(name):
    make, reason = OBSTACLES[name]
    model = Wired(lambda m, x: m.norm(m.conv(x)), make()).double().eval()
    report = check(model, torch.rand(2, 3, 4, 4, dtype=torch.float64), [], ['norm'])
    assert f'conv, which is before it, {reason}' in str(report)


def test_shared_convolutions_stay():
    """Detection heads have one convolution for all levels and a norm for each."""
    model = nn.ModuleDict({level: nn.Sequential(nn.Conv2d(3, 3, 1), alone(3)) for level in 'ab'}).double().eval()
    model['b'][0] = model['a'][0]
    assert 'a.1, b.1: the output of the convolution before it is used elsewhere too' in str(mmnorm.fold(model))
    model['c'] = Wired(WIRINGS['asks for values'][0], model['a'][0])
    model['b'][0] = nn.Conv2d(3, 3, 1)
    assert 'a.1: a.0, which is before it, stands at several places' in str(mmnorm.fold(copy.deepcopy(model)))
    del model['c']
    model['b'][1] = alone(3)
    model['b'][0].weight = model['a'][0].weight
    assert 'shares its parameters with another layer' in str(mmnorm.fold(model))


def test_a_shared_block_is_folded_once():
    block = nn.Sequential(nn.Conv2d(3, 3, 1).double(), alone(3))
    check(nn.Sequential(block, block).eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64), ['0.1'])


class Remembers(nn.Module):
    """What can't be traced, and what a trace must not leave behind, around what can."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 1), alone(6))
        self.seen = None

    def forward(self, x):
        self.seen = x
        y = self.stem(x)
        return y if y.sum() > 0 else -y


def test_pieces_of_what_cannot_be_traced():
    inner = Remembers()
    model = nn.Sequential(inner, nn.Conv2d(6, 4, 1), alone(4)).double().eval()
    check(model, torch.randn(2, 3, 4, 4, dtype=torch.float64), ['0.stem.1', '2'])
    inner = Remembers().eval()
    mmnorm.fold(inner)
    assert inner.seen is None


def test_errors():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), alone(3))
    with pytest.raises(ValueError, match=r'in training mode, .* call model.eval\(\) first'):
        mmnorm.fold(model.train())
    with pytest.raises(TypeError, match=r'expected a torch.nn.Module, got str'):
        mmnorm.fold('model')

    class DistributedDataParallel(nn.Sequential):
        pass

    with pytest.raises(ValueError, match='fold first and wrap afterwards'):
        mmnorm.fold(DistributedDataParallel(model).eval())


def test_one_hot_is_reverted_exactly():
    model = nn.Sequential(one_hot(6, cls='SparseSwitchableNorm'), one_hot(6, 'IN'), exemplar(6, counts='gamma'))
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    first, last = model[0](x).detach(), model[2](x).detach()
    assert [entry.exact for entry in mmnorm.revert_norm(model)] == [True, False, True]
    assert_same(dict(first=model[0](x), last=model[2](x)), dict(first=first, last=last))


# Networks


def fixed(model, norm='SN'):
    """The network with learned norms that are all fixed in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomize(module)
    mmnorm.convert_norm(model, dict(type=norm, normalizers=BN))
    model.double().eval()
    return model


def tensors_of(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else [t for part in outputs for t in tensors_of(part)]


def norms_of(model):
    return [name for name, module in model.named_modules() if isinstance(module, mmnorm.LearnedNorm)]


def resnet(**options):
    return pytest.importorskip('mmpretrain.models').ResNet(depth=50, base_channels=8, stem_channels=8, **options)


def basic(**options):
    return pytest.importorskip('mmseg.models').ResNetV1c(
        depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type='BN'), **options
    )


def detector(**options):
    models = pytest.importorskip('mmdet.models')
    return models.ResNet(depth=18, base_channels=8, **options)


NETWORKS = {
    'torchvision': lambda: torchvision.models.resnet18(num_classes=3),
    'torchvision-mobilenet': lambda: torchvision.models.mobilenet_v3_small(num_classes=3),
    'mmpretrain': resnet,
    'mmpretrain-checkpointed': lambda: resnet(with_cp=True, norm_eval=True),
    'mmseg': basic,
    'mmdet': detector,
}


@pytest.mark.parametrize('name', NETWORKS)
def test_networks(name):
    model = fixed(NETWORKS[name]())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected, names = model(x), norms_of(model)
        report = mmnorm.fold(model)
        actual = model(x)
    assert [entry.name for entry in report] == names
    assert not norms_of(model)
    for y, z in zip(tensors_of(actual), tensors_of(expected), strict=True):
        assert_same(dict(y=y), dict(y=z))


def test_some_of_a_network():
    """Named in the report: what was folded, into what, and what not, and why."""
    model = torchvision.models.resnet18(num_classes=3)
    mmnorm.convert_norm(model, dict(type='SN', normalizers=BN), include='layer1')
    mmnorm.convert_norm(model, 'EN', include='layer2')
    for module in model.modules():
        if isinstance(module, mmnorm.LearnedNorm):
            randomize(module)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    report = check(model.double().eval(), x, [f'layer1.{i}.bn{j}' for i in (0, 1) for j in (1, 2)], left_of(model))
    assert [entry.note for entry in report][:2] == ['into layer1.0.conv1', 'into layer1.0.conv2']
    reasons = {entry.name: entry.reason for entry in report.left_alone}
    assert reasons['layer2.0.bn1'] == 'its ratios depend on the sample'
    assert reasons['bn1'] == 'is no learned norm'


def left_of(model):
    norms = (mmnorm.LearnedNorm, nn.BatchNorm2d)
    return [n for n, m in model.named_modules() if isinstance(m, norms) and not n.startswith('layer1')]


def conv_module(*args, **options):
    return pytest.importorskip('mmcv.cnn').ConvModule(*args, norm_cfg=dict(type='BN'), **options)


@pytest.mark.parametrize('order', [('conv', 'norm', 'act'), ('conv', 'act', 'norm'), ('norm', 'conv', 'act')])
def test_conv_module(order):
    class Head(nn.Module):
        """Its own forward can't be traced."""

        def __init__(self):
            super().__init__()
            self.conv = conv_module(4, 4, 3, padding=1, padding_mode='reflect', order=order)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    model = fixed(Head())
    x = torch.rand(2, 4, 5, 5, dtype=torch.float64)
    names = ['conv.bn']
    folded = order == ('conv', 'norm', 'act')
    check(model, x, names if folded else [], [] if folded else names)


@pytest.mark.parametrize(
    ('name', 'staying'),
    [
        # Its heads share their convolutions between levels, and have norms for each.
        ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 12),
        ('mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py', 0),
    ],
)
def test_models_of_openmmlab(name, staying):
    pytest.importorskip(name.partition('::')[0])
    architectures = pytest.importorskip('test_architectures')
    model, scope, model_cfg = architectures.build(name, norm=None)
    fixed(model)
    batch = architectures.batch_of(scope, model, model_cfg)
    inputs = batch['inputs'].double()

    def outputs():
        with torch.no_grad():
            return tensors_of(model(inputs, batch['data_samples'], mode='tensor'))

    expected, names = outputs(), norms_of(model)
    report = mmnorm.fold(model)
    assert len(report.left_alone) == staying
    assert len(report) == len(names) - staying
    for y, z in zip(outputs(), expected, strict=True):
        assert_same(dict(y=y), dict(y=z))


def test_fuse_conv_bn_of_mmcv():
    """It goes by BatchNorm and by the order of modules: layers of ours it leaves alone, before and after folding."""
    fuse_conv_bn = pytest.importorskip('mmcv.cnn.utils').fuse_conv_bn
    x = torch.randn(1, 3, 33, 33, dtype=torch.float64)
    for norm in ('SN', 'EN', 'ILM'):
        model = nn.Sequential(conv_module(3, 32, 3), conv_module(32, 32, 3))
        mmnorm.convert_norm(model, norm)
        model.double().eval()
        expected, state = model(x).detach(), copy.deepcopy(model.state_dict())
        fused = fuse_conv_bn(model)
        assert torch.equal(fused(x), expected)
        assert fused.state_dict().keys() == state.keys()
    model = torchvision.models.resnet18(num_classes=3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomize(module)
    mmnorm.convert_norm(model, dict(type='SN', normalizers=BN), include='layer[13]')
    model.double().eval()
    with torch.no_grad():
        expected = model(x)
        for mixed in (copy.deepcopy(model), model):
            if mixed is model:
                assert len(mmnorm.fold(mixed)) == 9
            assert_same(dict(y=fuse_conv_bn(mixed)(x)), dict(y=expected))
            assert not any(isinstance(module, nn.BatchNorm2d) for module in mixed.modules())


@pytest.mark.skipif(not hasattr(torch.compiler, 'is_exporting'), reason='as in tests/ops/test_graphs.py')
def test_exported_graph_has_the_convolution_alone():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), alone(6), nn.ReLU()).float().eval()
    mmnorm.fold(model)
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    file = io.BytesIO()
    torch.onnx.export(model, (torch.randn(2, 3, 8, 8),), dynamo=True, verbose=False).save(file)
    assert [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node] == ['Conv', 'Relu']


def test_a_norm_of_ones_own(monkeypatch):
    class Offset(mmnorm.LearnedNorm):
        """Fixed by its own account."""

        kind = 'Offset'

        def __init__(self):
            super().__init__(3)
            self.register_buffer('offset', torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

        def coefficients(self, mean, var, positions, update_running_stats=True):
            return torch.ones_like(mean), mean + self.offset

        def why_not_fixed(self):
            return None

        def fixed_affine(self):
            return torch.ones_like(self.offset), self.offset

    # As registered, but not for good.
    monkeypatch.setitem(NORMS, 'Offset', Offset)
    model = nn.Sequential(nn.Conv2d(2, 3, 1).double(), Offset()).eval()
    check(model, torch.randn(2, 2, 4, 4, dtype=torch.float64), ['1'])


def test_a_fused_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), mmnorm.SwitchableNorm2d(4, normalizers=('BN',)), nn.ReLU()).eval()
    x = torch.randn(2, 3, 5, 5)
    expected = model(x)
    mmnorm.fuse(model)
    assert [c.name for c in mmnorm.fold(model).converted] == ['1']
    torch.testing.assert_close(model(x), expected)
