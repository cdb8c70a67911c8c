"""Weights of other norms load, under their own names and under those of a sibling; broken checkpoints do not."""

import copy

import mmengine.runner.checkpoint as mmengine_checkpoint
import pytest
import torch
from helpers import randomize
from torch import nn

import mmnorm


class Block(nn.Module):
    """Names its norm as OpenMMLab does: after its kind."""

    def __init__(self, name, norm):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.add_module(name, norm)
        self.downsample = nn.Sequential(nn.Conv2d(3, 8, 1), copy.deepcopy(norm))

    def forward(self, x):
        norm = next(m for name, m in self.named_children() if name[:2] in ('bn', 'gn', 'in', 'ln'))
        return norm(self.conv(x)) + self.downsample(x[:, :, 1:-1, 1:-1])


def trained(name, norm):
    model = randomize(nn.Sequential(Block(name, norm)).double())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            module.num_batches_tracked.fill_(7)
    return model


def load_with_torch(model, state_dict):
    model.load_state_dict(state_dict, strict=True)


def load_with_mmengine(model, state_dict):
    mmengine_checkpoint.load_state_dict(model, state_dict, strict=True)


loaders = pytest.mark.parametrize('load', [load_with_torch, load_with_mmengine])
X = torch.randn(3, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@loaders
@pytest.mark.parametrize('cls', [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_batch_norm_into_a_pool_of_batch_norm(load, cls, training):
    source = trained('bn1', nn.BatchNorm2d(8)).train(training)
    target = nn.Sequential(Block('bn1', cls(8, normalizers=('BN',)))).double().train(training)
    load(target, source.state_dict())
    torch.testing.assert_close(target(X), source(X), rtol=1e-10, atol=1e-10)
    assert target[0].bn1.num_batches_tracked == source[0].bn1.num_batches_tracked


@loaders
@pytest.mark.parametrize('cls', [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d])
def test_batch_norm_into_a_mixed_pool(load, cls):
    source = trained('bn1', nn.BatchNorm2d(8)).eval()
    target = nn.Sequential(Block('bn1', cls(8, init_ratios=(1e-6, 1e-6, 1 - 2e-6)))).double().eval()
    load(target, source.state_dict())
    torch.testing.assert_close(target(X), source(X), rtol=1e-4, atol=1e-3)
    norm = target[0].bn1
    torch.testing.assert_close(norm.weight, source[0].bn1.weight.expand_as(norm.weight))
    total = norm.bias.sum(0) if norm.bias.dim() == 2 else norm.bias
    torch.testing.assert_close(total, source[0].bn1.bias)
    assert torch.equal(norm.running_var, source[0].bn1.running_var)


BASES = {
    'GN': ('gn1', nn.GroupNorm(4, 8)),
    'LN': ('ln1', nn.GroupNorm(1, 8)),
    'IN': ('in1', nn.InstanceNorm2d(8, affine=True)),
}


@loaders
@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize('activations', [('tanh', 'sigmoid'), ('sigmoid', 'tanh'), ('relu', 'identity')])
def test_base_into_instance_meta_norm(load, base, activations):
    name, norm = BASES[base]
    source = trained(name, copy.deepcopy(norm))
    mean_activation, var_activation = activations
    options = dict(num_groups=4, base=base, mean_activation=mean_activation, var_activation=var_activation)
    target = nn.Sequential(Block('gn1', mmnorm.InstanceMetaNorm2d(8, **options))).double()
    load(target, source.state_dict())
    torch.testing.assert_close(target(X), source(X), rtol=1e-10, atol=1e-10)
    assert target[0].gn1.encoder_weight.any(), 'the encoder has to be able to learn'


@loaders
@pytest.mark.parametrize(('source_name', 'target_name'), [('bn1', 'gn1'), ('gn1', 'bn1'), ('in1', 'bn1'), ('ln', 'gn')])
def test_sibling_names(load, source_name, target_name):
    source = trained(source_name, nn.BatchNorm2d(8))
    norm = mmnorm.InstanceMetaNorm2d(8) if target_name.startswith('gn') else mmnorm.SwitchableNorm2d(8)
    target = nn.Sequential(Block(target_name, norm)).double()
    load(target, source.state_dict())
    expected = getattr(source[0], source_name).bias
    assert torch.equal(getattr(target[0], target_name).bias, expected)


@loaders
def test_a_sibling_that_exists_keeps_its_weights(load):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn1 = nn.BatchNorm2d(8)
            self.gn1 = mmnorm.InstanceMetaNorm2d(8)

    model = Two()
    state_dict = {f'bn1.{name}': value for name, value in nn.BatchNorm2d(8).state_dict().items()}
    with pytest.raises(RuntimeError, match=r'[Mm]issing key.*gn1\.weight'):
        load(model, state_dict)


@loaders
@pytest.mark.parametrize('cls', [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d, mmnorm.InstanceMetaNorm2d])
def test_own_checkpoint(load, cls):
    source = trained('bn1', cls(8))
    target = nn.Sequential(Block('bn1', cls(8))).double()
    load(target, source.state_dict())
    torch.testing.assert_close(target.eval()(X), source.eval()(X), rtol=0, atol=0)


@loaders
@pytest.mark.parametrize('cls', [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d, mmnorm.InstanceMetaNorm2d])
def test_incomplete_checkpoint_is_refused(load, cls):
    layer = nn.Sequential(Block('bn1', cls(8)))
    # Of the ratio parameters one is left, so these are weights of this layer, and they are not all.
    state_dict = layer.state_dict()
    left_out = [f'0.bn1.{name}' for name in cls._own_parameters[1:]]
    for key in left_out:
        del state_dict[key]
    with pytest.raises(RuntimeError, match=left_out[0].replace('.', r'\.')):
        load(layer, state_dict)


def test_loading_leaves_the_state_dict_alone():
    source = trained('bn1', nn.BatchNorm2d(8)).state_dict()
    before = copy.deepcopy(source)
    nn.Sequential(Block('gn1', mmnorm.InstanceMetaNorm2d(8))).double().load_state_dict(source)
    assert source.keys() == before.keys()
    assert all(torch.equal(source[key], before[key]) for key in before)


def test_hook_is_added_once_and_survives_copies():
    model = nn.Module()
    for _ in range(3):
        model.bn1 = mmnorm.SwitchableNorm2d(8)
    model.gn2 = mmnorm.SwitchableNorm2d(8)
    assert len(model._load_state_dict_pre_hooks) == 1
    clone = copy.deepcopy(model)
    state_dict = {key.replace('gn2', 'bn2'): torch.full_like(value, 3) for key, value in model.state_dict().items()}
    clone.load_state_dict(state_dict)
    assert (clone.gn2.weight == 3).all()
    assert not (model.gn2.weight == 3).any()
