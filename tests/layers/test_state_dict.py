"""Weights of other norms load, under their own names and under those of a sibling; broken checkpoints do not."""

import copy
import logging
import sys

import pytest
import torch
from helpers import randomize
from torch import nn

import mmnorm
from mmnorm.layers.state_dict import merge_affine, split_affine


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
    pytest.importorskip('mmengine.runner.checkpoint').load_state_dict(model, state_dict, strict=True)


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
@pytest.mark.parametrize(
    'activations', [('tanh', 'sigmoid'), ('sigmoid', 'tanh'), ('relu', 'identity'), ('leaky_relu', 'relu6')]
)
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
    left_out = [f'0.bn1.{name}' for name in cls.own_parameters[1:]]
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


@pytest.fixture
def log():
    """What mmengine's logger of the run says, or mmnorm's own without mmengine, a list that grows."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    try:
        from mmengine.logging import MMLogger
    except ImportError:
        logger = logging.getLogger('mmnorm')
    else:
        logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


class Deep(nn.Module):
    """Two blocks in a list that has a parent before it has children."""

    def __init__(self, name, norm):
        super().__init__()
        self.blocks = nn.ModuleList()
        self.blocks.extend(Block(name, copy.deepcopy(norm)) for _ in range(2))


def load_with_mmengine_through_a_wrapper(model, state_dict):
    load_with_mmengine(nn.DataParallel(model), state_dict)


all_loaders = pytest.mark.parametrize(
    'load', [load_with_torch, load_with_mmengine, load_with_mmengine_through_a_wrapper]
)
SN, EN, ILM = mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d, mmnorm.InstanceMetaNorm2d
# Four norms in the model; the rest of the line is the same for all.
WITHOUT_BN = ('IN', 'LN')
LOST = [
    (nn.GroupNorm(2, 8), SN(8), 'GN, LN or IN without running statistics (re-estimate them before eval mode)'),
    (nn.BatchNorm2d(8), SN(8, normalizers=WITHOUT_BN), 'BN without its running statistics (this pool has no use for'),
    (nn.BatchNorm2d(8), ILM(8), 'BN without its running statistics'),
    (
        SN(8),
        EN(8),
        'SN (gamma and beta, running statistics, the weights of the variances as ratios) without the weights',
    ),
    (EN(8), SN(8), 'EN (gamma and beta, running statistics) without the differences between the gammas of the'),
    (
        SN(8),
        EN(8, normalizers=WITHOUT_BN),
        'SN (gamma and beta) without its running statistics (this pool has no use for them), its ratios (they are of',
    ),
    (SN(8), ILM(8), 'SN (gamma and beta) without its running statistics, its ratios'),
    (ILM(8), EN(8), 'ILM (gamma and beta) without what the key features predict, running statistics (re-estimate'),
]


@all_loaders
@pytest.mark.parametrize(('source', 'target', 'text'), LOST, ids=[text for _, _, text in LOST])
def test_one_line_says_what_was_lost(load, source, target, text, log):
    state_dict = randomize(Deep('bn1', source)).state_dict()
    model = Deep('bn1', target)
    for _ in range(2):
        log.clear()
        load(model, state_dict)
        assert len(log) == 1, log
        assert log[0].startswith(f'mmnorm: {type(target).__name__} layers took weights of {text}')


LOSSLESS = [
    (nn.BatchNorm2d(8), SN(8)),
    (nn.BatchNorm2d(8), EN(8)),
    (nn.GroupNorm(2, 8), EN(8, normalizers=WITHOUT_BN)),
    (nn.GroupNorm(2, 8), ILM(8, num_groups=2)),
    (EN(8), EN(8)),
]


@all_loaders
@pytest.mark.parametrize(('source', 'target'), LOSSLESS)
def test_lossless_loads_are_silent(load, source, target, log):
    load(Deep('bn1', target), Deep('bn1', source).state_dict())
    assert log == []


def test_losses_of_one_load_are_said_once_a_kind(log):
    model = nn.Sequential(Deep('bn1', SN(8)), Deep('bn1', ILM(8)))
    model.load_state_dict(nn.Sequential(Deep('bn1', nn.GroupNorm(2, 8)), Deep('bn1', nn.BatchNorm2d(8))).state_dict())
    lost_statistics = 'without running statistics (re-estimate them before eval mode)'
    assert log == [
        f'mmnorm: SwitchableNorm2d layers took weights of GN, LN or IN {lost_statistics}',
        'mmnorm: InstanceMetaNorm2d layers took weights of BN without its running statistics',
    ]


def test_a_load_that_failed_leaves_no_words_behind(log):
    model = Deep('bn1', ILM(8))
    incomplete = {'blocks.0.bn1.weight': torch.ones(8), 'blocks.0.bn1.running_mean': torch.ones(8)}
    with pytest.raises(RuntimeError, match='Missing key'):
        model.load_state_dict(incomplete)
    log.clear()
    model.load_state_dict(Deep('bn1', nn.GroupNorm(2, 8)).state_dict())
    assert log == []


def test_without_mmengine_the_summary_goes_to_logging(monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, 'mmengine.logging', raising=False)
    ILM(8).load_state_dict(nn.BatchNorm2d(8).state_dict())
    assert [record.getMessage() for record in caplog.records] == [
        'mmnorm: InstanceMetaNorm2d layers took weights of BN without its running statistics'
    ]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('k', [1, 2, 3, 4])
def test_split_affine_loses_no_bit(dtype, k):
    gamma, beta = (torch.randn(2, 20000, dtype=torch.float64) * torch.logspace(-7, 3, 20000).double()).to(dtype)
    weight, bias = split_affine(gamma, beta, k)
    assert weight.shape == bias.shape == (k, 20000)
    assert torch.equal(weight, gamma.expand(k, -1))
    torch.testing.assert_close(bias, (beta / k).expand(k, -1), rtol=4 * torch.finfo(dtype).eps, atol=1e-6)
    for merged, whole in zip(merge_affine(weight, bias, torch.rand(k).softmax(0)), (gamma, beta), strict=True):
        assert torch.equal(merged, whole)


def test_switchable_into_exemplar_and_back():
    sn = randomize(SN(8).double()).eval()
    with torch.no_grad():
        sn.mean_weight.copy_(sn.var_weight)
    en = randomize(EN(8).double()).eval()  # with a trained ratio net, which has to make way
    en.load_state_dict(sn.state_dict())
    x = X.repeat(1, 3, 1, 1)[:, :8]
    torch.testing.assert_close(en.importance_ratios(x), sn.importance_weights()[1].expand(3, -1))
    assert torch.equal(en.weight, sn.weight.expand(3, -1))
    assert torch.equal(en.running_var, sn.running_var)
    back = SN(8).double().eval()
    back.load_state_dict(en.state_dict())
    torch.testing.assert_close(back(x), sn(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(back.bias, sn.bias)


def test_ratios_of_each_sample_do_not_carry_over():
    en, sn = randomize(EN(8)), SN(8, init_ratios=(0.2, 0.3, 0.5))
    sn.load_state_dict(en.state_dict())
    torch.testing.assert_close(sn.importance_weights(), torch.tensor([[0.2, 0.3, 0.5]] * 2))
    torch.testing.assert_close(sn.weight, en.fc2_bias.softmax(0) @ en.weight)
    torch.testing.assert_close(sn.bias, en.bias.sum(0))


def test_instance_meta_and_back():
    norm = randomize(nn.GroupNorm(2, 8)).double()
    ilm, sn = ILM(8, num_groups=2).double(), SN(8, normalizers=('GN',), num_groups=2).double()
    ilm.load_state_dict(norm.state_dict())
    sn.load_state_dict(ilm.state_dict())
    x = X.repeat(1, 3, 1, 1)[:, :8]
    torch.testing.assert_close(sn(x), norm(x), rtol=1e-12, atol=1e-12)


def test_unknown_entries_are_still_unexpected():
    state_dict = {**nn.BatchNorm2d(8).state_dict(), 'alpha': torch.ones(8)}
    with pytest.raises(RuntimeError, match='alpha'):
        SN(8).load_state_dict(state_dict)
    # A part of a learned norm is no other norm: nothing of it is dropped in silence.
    part = {name: value for name, value in EN(8).state_dict().items() if name != 'fc2_weight'}
    with pytest.raises(RuntimeError, match='fc1_weight'):
        SN(8).load_state_dict(part)
