"""ENAS: the search space, the networks, the controller and both steps of a search."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from mmnorm.datasets.search_dataset import SearchBatchSampler, SearchDataset
from mmnorm.errors import UsageError
from mmnorm.models import EnasNetwork
from mmnorm.models.enas import Controller, read_genotype
from mmnorm.models.enas.search import reinforce_loss
from mmnorm.models.enas.search_space import INPUTS, OPERATIONS, genotype_of, loose_ends

ROOT = Path(__file__).resolve().parents[2]
TEXT = '0:identity+1:sep_conv_3x3/2:max_pool_3x3+0:identity//0:avg_pool_3x3+1:identity/2:sep_conv_5x5+1:identity'
SN = dict(type='SN', normalizers=('LN', 'GN'), num_groups=4)
BN = dict(type='BN', track_running_stats=False)


def choices_of(genotype):
    """The inverse of genotype_of."""
    return [
        [[*(edge.source for edge in node), *(OPERATIONS.index(edge.operation) for edge in node)] for node in cell]
        for cell in (genotype.normal, genotype.reduction)
    ]


def test_genotypes_in_text_numbers_and_files(tmp_path):
    genotype = read_genotype(TEXT)
    assert str(genotype) == TEXT
    assert genotype_of(choices_of(genotype)) == genotype
    assert choices_of(genotype)[0] == [[0, 1, 4, 0], [2, 0, 3, 4]]
    assert loose_ends(genotype.normal) == loose_ends(genotype.reduction) == [1]
    assert loose_ends(read_genotype(TEXT.replace('2:', '1:')).normal) == [0, 1]
    (tmp_path / 'genotype.json').write_text(json.dumps(dict(genotype=TEXT)))
    assert read_genotype(str(tmp_path / 'genotype.json'), nodes=2) == genotype


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (None, 'expected the normal cell'),
        ('', 'expected the normal cell'),
        (TEXT.split('//')[0], '1 cells between //'),
        (TEXT.rpartition('/')[0], 'its normal cell has 2 nodes and its reduction cell 1'),
        (TEXT.replace('1:sep_conv_3x3', '2:sep_conv_3x3'), "has the input '2'; expected 0 or 1.* at most 1"),
        (TEXT.replace('sep_conv_5x5', 'conv'), 'expected one of sep_conv_3x3'),
        (TEXT.replace('+', ''), 'has the operation'),
        (TEXT.replace('0:identity+', ''), 'has 1 inputs'),
        ('none.json', 'none.json cannot be read: No such file'),
    ],
)
def test_wrong_genotypes_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        read_genotype(given)


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / 'genotype.json'
    for text, message in (('{', 'is no JSON'), ('{"cell": 1}', 'has no text under'), ('[]', 'has no text under')):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_genotype(str(path))
    with pytest.raises(UsageError, match='2 nodes, expected 5'):
        EnasNetwork(nodes=5, genotype=TEXT)
    with pytest.raises(UsageError, match='channels of EnasNetwork'):
        EnasNetwork(channels=0)
    with pytest.raises(UsageError, match='has no architecture'):
        EnasNetwork(2, 0, 4)(torch.zeros(1, 3, 8, 8))


def controller(nodes=3, norm_cfg=SN):
    torch.manual_seed(0)
    return Controller(nodes, 8, norm_cfg)


def test_draws_are_legal_and_as_probable_as_they_say():
    torch.manual_seed(1)
    found = controller()
    draw = found.draw(64)
    assert draw.choices.shape == (64, 2, 3, 4)
    for node in range(3):
        sources, operations = draw.choices[:, :, node, :2], draw.choices[:, :, node, 2:]
        assert sorted(sources.unique().tolist()) == list(range(INPUTS + node))
        assert sorted(operations.unique().tolist()) == list(range(len(OPERATIONS)))
    again = found.judge(draw.choices)
    torch.testing.assert_close(again.log_prob, draw.log_prob)
    torch.testing.assert_close(again.entropy, draw.entropy)
    alone = found.judge(draw.choices[5:6])
    torch.testing.assert_close(alone.log_prob, draw.log_prob[5:6])
    assert not draw.entropy.requires_grad
    assert read_genotype(str(draw.genotypes()[0])) == draw.genotypes()[0]
    assert len({str(found.most_likely()) for _ in range(3)}) == 1


def test_probabilities_sum_to_one_and_entropy_is_theirs():
    """Over all cells of one node: 4 sources, 25 operations, twice."""
    found = controller(nodes=1).double()
    pairs = [(a, b, p, q) for a in range(2) for b in range(2) for p in range(5) for q in range(5)]
    choices = torch.tensor([[[one], [two]] for one in pairs for two in pairs])
    with torch.no_grad():
        judged = found.judge(choices)
        probability = judged.log_prob.exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-9)
    # The expectation of the entropies on the way is the entropy of the whole.
    whole = -(probability * judged.log_prob).sum()
    assert (probability * judged.entropy).sum().item() == pytest.approx(whole.item(), abs=1e-9)


def test_reinforce_is_the_gradient_of_the_hand_formula():
    found = controller().double()
    choices = found.draw(5).choices
    reward = torch.tensor([0.1, 0.5, 0.2, 0.9, 0.4], dtype=torch.float64, requires_grad=True)
    baseline = torch.tensor(0.3, dtype=torch.float64)
    reinforce_loss(found.judge(choices).log_prob, reward, baseline).backward()
    assert reward.grad is None
    actual = {name: p.grad for name, p in found.named_parameters()}
    expected = {name: torch.zeros_like(p) for name, p in found.named_parameters()}
    for m in range(5):
        found.zero_grad()
        found.judge(choices[m : m + 1]).log_prob.sum().backward()
        for name, p in found.named_parameters():
            expected[name] -= (reward[m].item() - 0.3) / 5 * p.grad
    torch.testing.assert_close(actual, expected)
    assert all(gradient.abs().sum() > 0 for gradient in actual.values())


def test_the_better_choice_becomes_more_probable():
    torch.manual_seed(0)
    found = controller(nodes=1)
    optimizer = torch.optim.Adam(found.parameters(), lr=0.02)

    def reward_of(choices):
        return (choices[..., 2:] == OPERATIONS.index('identity')).float().mean((1, 2, 3))

    first = reward_of(found.draw(200).choices).mean()
    for _ in range(40):
        draw = found.draw(16)
        reward = reward_of(draw.choices)
        optimizer.zero_grad()
        reinforce_loss(draw.log_prob, reward, reward.mean()).backward()
        optimizer.step()
    assert reward_of(found.draw(200).choices).mean() > first + 0.1


@pytest.mark.parametrize('norm_cfg', [BN, dict(type='SN', track_running_stats=False)])
def test_the_derived_network_is_the_shared_one(norm_cfg):
    torch.manual_seed(0)
    shared = EnasNetwork(2, 0, 4, norm_cfg).double()
    for genotype in (read_genotype(TEXT), *controller(2).draw(1).genotypes()):
        shared.choose(genotype)
        child = EnasNetwork(cells=0, channels=4, norm_cfg=norm_cfg, genotype=str(genotype)).double()
        weights = {name: value for name, value in shared.state_dict().items() if name in child.state_dict()}
        child.load_state_dict(weights)
        for size in ((16, 16), (13, 7), (1, 1)):
            x = torch.randn(3, 3, *size, dtype=torch.float64)
            (expected,), (actual,) = shared(x), child(x)
            torch.testing.assert_close(actual, expected)
            assert actual.shape == (3, child.out_channels, *((s + 3) // 4 for s in size))
        with pytest.raises(UsageError, match='has the weights of'):
            child.choose(read_genotype(TEXT.replace('max', 'avg')))
        if str(genotype) == TEXT:
            # Both its cells take both their inputs, so whatever is built is used.
            actual.sum().backward()
            assert all(p.grad is not None for p in child.parameters())


def test_the_cell_of_the_paper():
    """ENAS, Fig. 8: 3 stages of 5 cells. Table 3 has 4.6 M parameters, where wider outputs are concatenated."""
    child = MODELS.build(Config.fromfile(ROOT / 'configs/nas/enas_child_cifar10.py').model)
    assert sum(p.numel() for p in child.parameters()) == 3_190_870
    assert len(child.backbone.cells) == 17


def test_drop_path_is_of_training_alone():
    torch.manual_seed(0)
    network = EnasNetwork(cells=1, channels=4, norm_cfg=dict(type='GN', num_groups=2), genotype=TEXT, drop_path=0.6)
    x = torch.randn(8, 3, 8, 8)
    (first,), (second,) = network(x), network(x)
    assert not torch.equal(first, second)
    (first,), (second,) = network.eval()(x), network(x)
    assert torch.equal(first, second)


def model_cfg(**changes):
    backbone = dict(type='EnasNetwork', nodes=2, cells=0, channels=4, norm_cfg=BN)
    head = dict(type='LinearClsHead', num_classes=10, in_channels=16, topk=(1,), loss=dict(type='CrossEntropyLoss'))
    shared = dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)
    cfg = dict(type='EnasSearch', shared=shared, controller=dict(hidden_size=8, norm_cfg=SN), architectures=3)
    cfg['data_preprocessor'] = dict(mean=[0.0] * 3, std=[1.0] * 3)
    return {**cfg, **changes}


def batch(held_out, size=6):
    samples = [DataSample().set_gt_label(i % 10) for i in range(size)]
    for sample in samples:
        if held_out:
            sample.set_metainfo(dict(held_out=True))
    generator = torch.Generator().manual_seed(0)
    return dict(inputs=torch.randn(size, 3, 8, 8, generator=generator), data_samples=samples)


@pytest.fixture
def search():
    torch.manual_seed(0)
    model = MODELS.build(model_cfg())
    model.init_weights()
    parts = dict(
        shared=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        controller=dict(optimizer=dict(type='Adam', lr=0.1)),
    )
    return model, build_optim_wrapper(model, dict(constructor='PartsOptimWrapperConstructor', parts=parts))


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_each_step_changes_its_part_alone(search):
    model, wrappers = search
    model.train()
    before = snapshot(model.shared), snapshot(model.controller)
    logged = model.train_step(batch(held_out=False), wrappers)
    assert set(logged) == {'loss'}
    assert changed(model.shared, before[0])
    # Only what the architecture has.
    network = model.network
    used = {name for name in network.state_dict() if name in EnasNetwork(
        cells=0, channels=4, norm_cfg=BN, genotype=network.genotype).state_dict()}  # fmt: skip
    assert {name.removeprefix('backbone.') for name in changed(model.shared, before[0]) if 'backbone' in name} <= used
    assert not changed(model.controller, before[1])
    assert model.baseline.isnan()

    before = snapshot(model.shared), snapshot(model.controller)
    logged = model.train_step(batch(held_out=True), wrappers)
    assert set(logged) == {'reward', 'baseline', 'entropy', 'controller_loss'}
    assert not changed(model.shared, before[0])
    # Of the first rewards the baseline is the mean, so that there is a gradient wherever they differ.
    assert model.shared.training


def test_reward_and_baseline(search):
    model, wrappers = search
    data, entropy_weight = batch(held_out=True), model.entropy_weight
    logged = model.train_step(data, wrappers)
    first = logged['reward'] + entropy_weight * logged['entropy']
    torch.testing.assert_close(model.baseline, first)
    logged = model.train_step(data, wrappers)
    second = logged['reward'] + entropy_weight * logged['entropy']
    torch.testing.assert_close(logged['baseline'], 0.99 * first + 0.01 * second)
    genotypes = model.controller.draw(2).genotypes()
    found = model.accuracies(genotypes, data['inputs'], data['data_samples'])
    for genotype, accuracy in zip(genotypes, found, strict=True):
        model.network.choose(genotype)
        model.shared.eval()
        right = model.shared(data['inputs']).argmax(1) == torch.arange(6)
        assert right.float().mean() == accuracy


def test_derive_keeps_the_best(search):
    model, _ = search
    batches = [batch(held_out=True), batch(held_out=True, size=3)]
    torch.manual_seed(3)
    best, accuracy = model.derive(batches, 5)
    torch.manual_seed(3)
    genotypes = model.controller.draw(5).genotypes()
    found = sum(
        len(b['data_samples']) * model.accuracies(genotypes, b['inputs'], b['data_samples']) for b in batches
    ) / 9  # fmt: skip
    assert accuracy == pytest.approx(found.max().item())
    assert best == genotypes[int(found.argmax())] == model.genotype
    model(batches[0]['inputs'])
    assert model.network.genotype == best


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(architectures=0), 'architectures of EnasSearch'),
        (dict(baseline_decay=1), 'baseline_decay of EnasSearch'),
        (dict(controller=dict(norm_cfg=dict(type='SN'))), 'BN would need statistics of its own'),
        (dict(controller=dict(temperature=0)), 'temperature of the controller'),
    ],
)
def test_wrong_searches_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        MODELS.build(model_cfg(**changes))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(norm_cfg=dict(type='BN')), 'keeps running statistics, which would be those of no architecture'),
        (dict(norm_cfg=dict(type='EN')), 'keeps running statistics'),
        (dict(genotype=TEXT), 'nothing is left to search'),
        (dict(type='ResNet', depth=18), 'expected shared.backbone to be an EnasNetwork'),
    ],
)
def test_wrong_shared_networks_are_refused(changes, message):
    cfg = model_cfg()
    backbone = cfg['shared']['backbone']
    cfg['shared']['backbone'] = changes if 'type' in changes else {**backbone, **changes}
    with pytest.raises(UsageError, match=message):
        MODELS.build(cfg)


def test_other_optimizers_and_batches_are_refused(search):
    model, wrappers = search
    one = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
    with pytest.raises(UsageError, match='no optimizer for controller and shared.*PartsOptimWrapperConstructor'):
        model.train_step(batch(held_out=False), one)
    mixed = batch(held_out=False)
    mixed['data_samples'][0].set_metainfo(dict(held_out=True))
    with pytest.raises(UsageError, match='expected train_dataloader.batch_sampler'):
        model.train_step(mixed, wrappers)


class Numbers(torch.utils.data.Dataset):
    """Image i is the number i."""

    def __init__(self, length, flag):
        self.length, self.flag = length, flag

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return dict(inputs=index, view=self.flag, data_samples=DataSample())


@pytest.fixture
def numbers(monkeypatch):
    monkeypatch.setattr('mmnorm.datasets.search_dataset.DATASETS.build', lambda cfg: Numbers(**cfg))
    return lambda held_out, lengths=(50, 50): SearchDataset(
        [dict(length=length, flag=flag) for length, flag in zip(lengths, ('train', 'test'), strict=True)], held_out
    )


class SeededSampler:
    def __init__(self, dataset, seed=0, epoch=0):
        self.dataset, self.seed, self.epoch = dataset, seed, epoch


def test_data_by_turns(numbers):
    dataset = numbers(20)
    samples = [dataset[i] for i in range(50)]
    assert sorted(sample['inputs'] for sample in samples) == list(range(50))
    assert [sample['view'] for sample in samples] == ['train'] * 30 + ['test'] * 20
    assert [sample['data_samples'].get('held_out', False) for sample in samples] == [False] * 30 + [True] * 20
    batches = SearchBatchSampler(SeededSampler(dataset), 8, controller_steps=4)
    found = list(batches)
    assert len(found) == len(batches) == 3 + 4
    assert all(len(batch) == 8 for batch in found)
    assert len({i for batch in found[:3] for i in batch}) == 24
    assert all(i < 30 for batch in found[:3] for i in batch)
    assert all(i >= 30 for batch in found[3:] for i in batch)
    assert len({*found[3], *found[4]}) == 16
    assert list(batches) == found
    batches.sampler.epoch = 1
    assert list(batches) != found


def test_wrong_data_are_refused(numbers):
    with pytest.raises(UsageError, match='expected the same images twice, got 50 and 49'):
        numbers(20, (50, 49))
    for held_out in (0, 50, 2.5):
        with pytest.raises(UsageError, match='expected 1 to 49 of 50 images'):
            numbers(held_out)
    dataset = numbers(20)
    with pytest.raises(UsageError, match='do not make batches of 21'):
        SearchBatchSampler(SeededSampler(dataset), 21)
    with pytest.raises(UsageError, match='training_steps of 1 to 3'):
        SearchBatchSampler(SeededSampler(dataset), 8, training_steps=4)
    with pytest.raises(UsageError, match='expected a SearchDataset, got list'):
        SearchBatchSampler(SeededSampler([]), 8)


def test_shared_weights_start_as_convolutions_do(search):
    model, _ = search
    conv = next(m for m in model.network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    assert conv.weight.std().item() == pytest.approx((2 / conv.out_channels) ** 0.5, rel=0.3)
