"""A fused model computes what it computed, and can be copied, saved, converted and unfused."""

import copy
import pickle

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

import mmnorm
from mmnorm import ExemplarNorm2d, SwitchableNorm2d
from mmnorm.convert.fusion import _Fused


def results(model, x, mode):
    """Outputs, gradients and buffers."""
    model = copy.deepcopy(model)
    model.train(mode)
    x = x.clone().requires_grad_()
    outputs = model(x)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() for y in outputs).backward()
    # Not all blocks use all that they have.
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) > 4
    return {**dict(enumerate(outputs)), **gradients, **dict(model.named_buffers()), 'x': x.grad}


def check_fused(model, x):
    """Fuse a copy, compare, and return its report."""
    fused = copy.deepcopy(model)
    report = mmnorm.fuse(fused)
    assert list(fused.state_dict()) == list(model.state_dict())
    for mode in (True, False):
        expected, actual = (results(m, x, mode) for m in (model, fused))
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                actual[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f'{n}: {text}'
            )
    return report


def randomized(model):
    for parameter in model.parameters():
        if parameter.dim() < 3:
            nn.init.normal_(parameter, std=0.5)
    return model.double()


def small(**options):
    return ExemplarNorm2d(4, **options)


class Block(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.norm1, self.norm2 = small(), SwitchableNorm2d(4)
        self.act, self.se = nn.LeakyReLU(0.3), nn.Conv2d(4, 4, 1)
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


FORWARDS = {
    'functions': (lambda m, x: F.relu(m.norm2(F.relu(m.norm1(x), inplace=True)) + m.se(x)), ['relu', 'sum and relu']),
    'methods': (lambda m, x: m.norm2(m.norm1(x).relu_()).add_(m.se(x)).relu(), ['relu', 'sum and relu']),
    'other side': (lambda m, x: torch.add(m.se(x), m.norm2(F.silu(m.norm1(x)))), ['silu', 'sum']),
    'slopes': (lambda m, x: F.leaky_relu(m.norm2(m.act(m.norm1(x))), 0.2), ['leaky_relu', 'leaky_relu']),
    'two norms': (lambda m, x: torch.relu(m.norm1(x) + m.norm2(m.se(x))), ['sum and relu', None]),
    'its own input': (lambda m, x: F.gelu(m.norm1(x) + x) + m.norm2(m.se(x)), ['sum and gelu', 'sum']),
    'broadcast': (lambda m, x: F.relu(m.norm1(x) + m.se(x).mean((2, 3), keepdim=True)) + m.norm2(x), [..., 'sum']),
    'used again': (lambda m, x: (lambda y: F.relu(y) + 2 * y)(m.norm1(x)) * m.norm2(m.se(x)), [None, None]),
    'sum used again': (lambda m, x: (lambda y: F.relu(y) * y)(m.norm1(x) + m.se(x)) * m.norm2(x), ['sum', None]),
    'number': (lambda m, x: F.relu(m.norm1(x) + 1) * m.norm2(m.se(x)), [None, None]),
    'twice': (lambda m, x: F.relu(m.norm1(F.relu(m.norm1(x)))) * m.norm2(m.se(x)), ['relu', None]),
    'approximate': (lambda m, x: F.gelu(m.norm1(x), approximate='tanh') * m.norm2(m.se(x)), [None, None]),
}


@pytest.mark.parametrize('name', FORWARDS)
def test_patterns(name):
    forward, expected = FORWARDS[name]
    report = check_fused(randomized(Block(forward)), torch.randn(2, 4, 5, 6, dtype=torch.float64))
    for norm, what in zip(('norm1', 'norm2'), expected, strict=True):
        assert what is ... or report.fused.get(norm) == what
        assert (norm in report.fused) != (norm in report.unfused)


def test_what_is_added_to_in_place_stays_so():
    """The sum lies in a tensor that others see."""

    def forward(m, x):
        y = m.se(x)
        z = y * 1
        z += m.norm1(x)
        return F.relu(z) * z + m.norm2(y)

    report = check_fused(randomized(Block(forward)), torch.randn(2, 4, 5, 6, dtype=torch.float64))
    assert report.fused == {'norm2': 'sum'}


@pytest.mark.parametrize(('scope', 'options'), [
    ('mmseg', dict(type='ResNetV1c', depth=18)),
    ('mmseg', dict(type='ResNet', depth=50, with_cp=True)),
    ('mmdet', dict(type='ResNet', depth=18)),
    ('mmpretrain', dict(type='ResNet', depth=18)),
    ('mmpretrain', dict(type='RegNet', arch='regnetx_400mf')),
])  # fmt: skip
def test_backbones(scope, options):
    from importlib import import_module

    import_module(f'{scope}.models')
    registry = import_module(f'{scope}.registry').MODELS
    model = randomized(registry.build(dict(options, type=f'{scope}.{options["type"]}', norm_cfg=dict(type='SN'))))
    report = check_fused(model, torch.randn(2, 3, 32, 32, dtype=torch.float64))
    # The norms of shortcuts are followed by the sum, which the other norm does.
    assert report.unfused
    assert all('downsample' in name for name in report.unfused)
    assert {'relu', 'sum and relu'} == set(report.fused.values())


def test_torchvision():
    model = resnet18(num_classes=5)
    mmnorm.convert_norm(model, 'ILM')
    report = check_fused(randomized(model), torch.randn(2, 3, 32, 32, dtype=torch.float64))
    assert len(report.fused) == 17


def test_conv_module_called_otherwise():
    module = ConvModule(3, 4, 3, norm_cfg=dict(type='EN'), act_cfg=dict(type='LeakyReLU', negative_slope=0.5)).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = [module(x), module(x, activate=False), module(x, norm=False)]
    assert mmnorm.fuse(module).fused == {'bn': 'leaky_relu'}
    for actual, value in zip([module(x), module(x, activate=False), module(x, norm=False)], expected, strict=True):
        torch.testing.assert_close(actual, value)


def test_children_of_a_sequential_called_one_by_one():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), small(), nn.LeakyReLU(0.5)).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = model(x)
    assert mmnorm.fuse(model).fused == {'1': 'leaky_relu'}
    y = x
    for child in model:
        y = child(y)
    torch.testing.assert_close(y, expected)


def test_with_checkpoints_less_is_kept():
    from mmseg.models.backbones.resnet import BasicBlock

    block = BasicBlock(4, 4, norm_cfg=dict(type='EN'), with_cp=True)
    mmnorm.fuse(block)

    def kept(block):
        tensors = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: tensors.add(t.data_ptr()) or t, lambda t: t):
            block(torch.randn(2, 4, 16, 16, requires_grad=True))
        return len(tensors)

    with_cp = kept(block)
    block.with_cp = False
    assert with_cp < kept(block) / 3


class Depends(Block):
    def forward(self, x):
        return F.relu(self.norm1(x)) if x.sum() > 0 else self.norm2(x)


class Drops(Block):
    def forward(self, x):
        return F.dropout(F.relu(self.norm1(x)), training=self.training) + self.norm2(x)


def test_what_is_not_fused_says_why():
    model = nn.ModuleDict(dict(a=Depends(None), b=Drops(None), c=nn.ModuleList([small()]), d=Block(None)))
    model['d'].forward = lambda x: x
    report = mmnorm.fuse(model)
    assert not report.fused
    assert not any(isinstance(m, _Fused) for m in model.modules())
    assert 'Depends cannot be traced: symbolically traced variables' in report.unfused['a.norm1']
    assert 'something else in training' in report.unfused['b.norm2']
    assert report.unfused['c.0'] == 'ModuleList has no forward'
    assert report.unfused['d.norm1'] == 'the forward of its Block was replaced'
    assert '0 of 7 learned norms' in str(report)
    assert 'a.norm1: alone' in str(report)
    assert mmnorm.fuse(small()).unfused == {'': 'it is the model'}


def test_copies_are_their_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), small(), nn.ReLU())
    mmnorm.fuse(model)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(again, nn.Sequential)
        assert type(again).__name__ == 'Sequential'
        nn.init.zeros_(again[1].weight)
        nn.init.ones_(again[1].bias)
        # Each of the three normalizers adds its beta.
        torch.testing.assert_close(again(torch.randn(2, 3, 4, 4)), torch.full((2, 4, 4, 4), 3.0))
    assert model(torch.randn(2, 3, 4, 4)).std() > 0


def test_again_and_back():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), small(), nn.ReLU())
    first = mmnorm.fuse(model)
    assert first.fused
    assert not mmnorm.fuse(model).fused
    assert mmnorm.unfuse(model) is model
    assert type(model) is nn.Sequential
    assert mmnorm.fuse(model).fused == first.fused


def test_conversions_of_a_fused_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), small(), nn.ReLU())
    x = torch.randn(2, 3, 4, 4)
    mmnorm.fuse(model)
    mmnorm.convert_norm(model, 'SN', types='EN')
    assert isinstance(model[1], SwitchableNorm2d)
    assert model(x).min() == 0
    mmnorm.revert_norm(model)
    assert type(model) is nn.Sequential
    assert isinstance(model[1], nn.BatchNorm2d)
    assert model(x).min() == 0


def test_hooks_on_the_norm_see_its_input():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), small(), nn.ReLU())
    mmnorm.fuse(model)
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    x = torch.randn(2, 3, 4, 4)
    model(x)
    torch.testing.assert_close(seen, [model[0](x)])


def test_norms_with_an_activation_inside():
    from mmnorm.convert.norm_act import act_class

    layer = act_class(ExemplarNorm2d)(4)
    layer.drop, layer.act = nn.Identity(), nn.SiLU()
    other = copy.deepcopy(layer)
    other.act = nn.Identity()
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer, other)
    report = check_fused(randomized(model), torch.randn(2, 3, 4, 4, dtype=torch.float64))
    assert report.fused == {'1': 'silu'}
    assert report.unfused == {'2': 'nothing follows it in its module'}
    mmnorm.fuse(model)
    assert layer.is_fused
    assert not mmnorm.unfuse(model)[1].is_fused


def test_compiled():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), small(), nn.ReLU())
    x = torch.randn(2, 3, 4, 4)
    mmnorm.fuse(model)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
