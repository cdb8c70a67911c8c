"""Costs: FLOPs against counts by hand and against mmengine's, memory that autograd keeps, the papers' figures."""

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn

import mmnorm
from mmnorm.analysis.complexity import activation_bytes, complexity, count_flops
from mmnorm.analysis.cost_table import CostTable
from mmnorm.analysis.costs import Cost
from mmnorm.analysis.norm_flops import norm_flops
from mmnorm.analysis.norm_variants import parse_variant, with_norm
from mmnorm.convert.sources import kind_of
from mmnorm.errors import UsageError

NORMS = ('BN', 'GN', 'IN', 'LN', 'SN', 'EN', 'ILM')
SHAPE = (2, 4, 3, 3)  # 8 planes, 72 values


def small_network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.Flatten()
    )


def test_switchable_by_hand():
    layer = mmnorm.SwitchableNorm2d(4)
    mixture = 8 * 2 + 8 * 3  # means of LN and BN relative to IN, three variances
    rest = 8 * 2 + 8 + 8 + 2 * 3 * 3  # eps and root, gamma, shift, two softmax of three
    differences = 8 * 2
    layer_pool = batch_pool = 8 * 4
    running = 2 * 2 * 4
    flops = norm_flops(layer.train(), SHAPE)
    assert flops.moments == 3 * 72
    assert flops.affine == 2 * 72
    assert flops.coefficients == layer_pool + batch_pool + running + differences + mixture + rest
    assert norm_flops(layer.eval(), SHAPE).coefficients == layer_pool + differences + mixture + rest


def test_exemplar_by_hand():
    layer = mmnorm.ExemplarNorm2d(4, reduction=2, expansion=5).eval()
    pools = 8 * 4 + 8 * 2
    normalized = 8 * 3 * 3  # eps, root, product, three normalizers
    convolution = 2 * 3 * 2 * 2  # samples, normalizers, groups, channels of each
    correlations = 2 * 3 * 3 * 2  # samples, pairs, groups
    connected = 2 * (9 * 15 + 15 + 15 * 3 + 3 * 3)  # samples; layer, tanh, layer, softmax
    scale_and_shift = 8 * 3 + 8 * 3 + 8 * 3 + 2 * 4 + 8  # ratio * gamma; two sums; betas; their addition
    expected = pools + normalized + convolution + correlations + connected + scale_and_shift
    assert norm_flops(layer, SHAPE).coefficients == expected


def test_instance_meta_by_hand():
    layer = mmnorm.InstanceMetaNorm2d(4, key_group_size=2, num_groups=2)
    assert layer.encoder_weight.shape == (2, 2)
    nets = 2 * 2 * (2 * 2 + 2 + 2 * 2 + 2)  # samples, mean and variance; encoder, relu, decoder, activation
    pools = 2 * 8 * 4
    rest = 8 + 8 * 2 + 8 * 2 + 8 + 8  # difference of means, B_omega and B_beta, eps and root, scale, shift
    assert norm_flops(layer, SHAPE).coefficients == nets + pools + rest


def test_options_cost_what_they_should():
    def coefficients(**options):
        return norm_flops(mmnorm.ExemplarNorm2d(64, **options).eval(), (2, 64, 5, 5)).coefficients

    assert coefficients(conv=False) - coefficients() == 2 * 9 * (64 - 2) - 3 * 2 * 64
    # 64 to 2 and 2 to 3, where the pairwise net normalizes and correlates the means, then has 9 to 150 to 3.
    mlp, pairwise = 64 * 2 + 2 + 2 * 3, 3 * 64 + 9 * 64 + 9 * 150 + 150 + 150 * 3
    assert coefficients(ratio_net='mlp') - coefficients(conv=False) == 2 * (mlp - pairwise)
    assert coefficients() - coefficients(shared_affine=True) == 2 * 64
    assert norm_flops(mmnorm.SwitchableNorm2d(64), (0, 64, 5, 5)).total == 0
    with pytest.raises(TypeError, match='Conv2d is no norm'):
        norm_flops(nn.Conv2d(1, 1, 1), SHAPE)


@pytest.mark.parametrize('norm', ['BN', 'GN', 'IN', 'LN'])
@pytest.mark.parametrize('training', [False, True])
def test_plain_networks_as_mmengine(norm, training):
    network = with_norm(small_network(), parse_variant(norm)).train(training)
    x = torch.randn(2, 3, 6, 6)
    theirs = FlopAnalyzer(network, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
    assert count_flops(network, lambda: network(x))[0] == theirs


@pytest.mark.parametrize('norm', NORMS)
def test_norms_are_counted_by_formula_alone(norm):
    """Whatever a norm multiplies inside is not counted a second time."""
    network = with_norm(small_network(), parse_variant(norm)).eval()
    x = torch.randn(2, 3, 6, 6)
    total, in_norms = count_flops(network, lambda: network(x))
    assert total - in_norms == 2 * 4 * 4 * 8 * (3 * 9 + 4)
    assert in_norms == sum(norm_flops(network[i], (2, c, 4, 4)).total for i, c in ((1, 8), (4, 4)))


def test_memory_by_hand():
    x = torch.randn(1000, requires_grad=True)
    weight = nn.Parameter(torch.randn(1000))
    module = nn.ParameterList([weight])
    # Both factors of the square are x; the exponential keeps its result; the product keeps that too, and the weight.
    assert activation_bytes(module, lambda: (x * x).exp() * weight) == 2 * 4000


@pytest.mark.parametrize('norm', NORMS)
def test_norms_keep_their_input_and_little_else(norm):
    network = with_norm(nn.Sequential(nn.BatchNorm2d(64)), parse_variant(norm))
    x = torch.randn(2, 64, 32, 32, requires_grad=True)
    extra = activation_bytes(network, lambda: network(x)) - 4 * x.numel()
    # A plane has 1024 values; the largest are EN's, some numbers a plane and normalizer, and 150 hidden units a sample.
    assert 0 < extra < 4 * (2 * 64 * 30 + 2 * 500)


def test_complexity_leaves_modes():
    network = small_network().train()
    network[1].eval()
    x = torch.randn(2, 3, 6, 6)
    counted = complexity(network, lambda: network(x))
    assert [m.training for m in network] == [True, False, True, True, True, True]
    assert counted.parameters == 8 * 28 + 16 + 4 * 9 + 8
    assert counted.norm_parameters == 24


@pytest.mark.parametrize('before', ['BN', 'GN', 'SN', 'EN', 'ILM'])
@pytest.mark.parametrize('after', NORMS)
def test_any_norm_in_place_of_any(before, after):
    source = with_norm(small_network(), parse_variant(before))
    network = with_norm(source, parse_variant(after))
    # GroupNorm does not say the rank of its input; the BatchNorm that takes any is SyncBatchNorm.
    expected = 'SyncBN' if (before, after) == ('GN', 'BN') else after
    instead = {'LN': 'GN', 'IN': 'GN' if before == 'GN' else 'IN'}
    assert [kind_of(network[i]) for i in (1, 4)] == [instead.get(expected, expected)] * 2
    assert kind_of(source[1]) == before
    if after == 'LN':
        assert [network[i].num_groups for i in (1, 4)] == [1, 1]


def test_arguments_of_the_norm_go_before_those_of_the_config():
    source = with_norm(small_network(), parse_variant('EN(expansion=7)'))
    assert source[1].expansion == 7
    assert with_norm(source, parse_variant('EN'))[1].expansion == 50


def test_what_cannot_be_compared():
    with pytest.raises(UsageError, match='Sequential has no norm .* found LayerNorm'):
        with_norm(nn.Sequential(nn.LayerNorm(4)), parse_variant('EN'))
    with pytest.raises(UsageError, match='none at all'):
        with_norm(nn.Sequential(nn.Linear(4, 4)), parse_variant('EN'))
    with pytest.raises(UsageError, match=r"'3' matches no module; .* has: 0"):
        with_norm(nn.Sequential(nn.BatchNorm2d(4)), parse_variant('EN'), ['3'])
    with pytest.raises(ValueError, match='unknown norm .*BN, GN, IN, LN without arguments'):
        parse_variant('XN')


def cost(text, parameters):
    return Cost(text, parse_variant(text), parameters, 0, 4e9, 1e7, 2**20)


def test_papers_figures_stand_only_where_they_belong(capsys):
    resnet50 = 25_557_032
    norms = ('EN', 'EN(reduction=16)', 'SN', 'ILM', 'ILM(key_group_size=1)', 'ILM(reduction=8)')
    parameters = (25_793_341, 25_793_341, 25_557_350, 25_578_896, 30_846_248, 25_578_896)
    table = CostTable('', [cost('BN', resnet50), *map(cost, norms, parameters)], {})
    assert [row[-1] for row in table.rows()] == ['', '25.91 M', '', '', '+0.086 %', '+20.696 %', '']
    assert '25.91 M for ResNet-50, does not follow from its own formula, which gives 25.79 M' in table.notes[0]
    assert all(note.endswith('as here.') for note in table.notes[1:])
    table.print()
    printed = capsys.readouterr().out
    assert all(text in printed for text in ('│ ILM(key_group_size=1) │', '│ +20.696 % │', *table.notes))

    other = CostTable('', [cost('BN', resnet50 + 1), *map(cost, norms, parameters)], {})
    assert not other.notes
    assert 'paper' not in other.columns()


def test_where_the_paper_cuts():
    costs = [cost('BN', 21_797_672), cost('ILM(key_group_size=1)', 21_797_672 + 536_840)]
    assert 'here 2.4628 %, which the paper cuts' in CostTable('', costs, {}).notes[0]
