"""The doctor finds each planted fault, its advice takes it away, and of a healthy network it says nothing."""

import pytest
import torch
from torch import nn

import mmnorm
from mmnorm import update_bn_stats
from mmnorm.analysis.doctor import diagnose
from mmnorm.analysis.doctor.remedies import Remedies
from mmnorm.analysis.doctor.report import as_text, write_diagnosis
from mmnorm.analysis.doctor.statistics import check_cost
from mmnorm.errors import UsageError

MAKE = {
    'BN': nn.BatchNorm2d,
    'GN': lambda c: nn.GroupNorm(4, c),
    'IN': lambda c: nn.InstanceNorm2d(c, affine=True),
    'SyncBN': nn.SyncBatchNorm,
    'SN': mmnorm.SwitchableNorm2d,
    'SSN': mmnorm.SparseSwitchableNorm2d,
    'EN': mmnorm.ExemplarNorm2d,
    'ILM': mmnorm.InstanceMetaNorm2d,
}
LEARNED = ['SN', 'SSN', 'EN', 'ILM']


class Net(nn.Module):
    """Two stages, and with ``pool`` a branch at 1x1 as DeepLab has."""

    def __init__(self, norm, pool=None, channels=64, norm_eval=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3), norm(channels), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(channels, channels, 3), norm(channels), nn.ReLU())
        self.pool = nn.Sequential(nn.Conv2d(channels, channels, 1), pool(channels)) if pool else None
        if norm_eval is not None:
            self.norm_eval = norm_eval

    def forward(self, x):
        x = self.stage(self.stem(x))
        return x.mean((2, 3), keepdim=True) + self.pool(x.mean((2, 3), keepdim=True)) if self.pool else x


def batches(number=6, images=4, mean=0.0):
    generator = torch.Generator().manual_seed(0)
    return [mean + torch.randn(images, 3, 9, 9, generator=generator) for _ in range(number)]


def train(model, steps=30, rate=0.05):
    """A few steps towards whatever, so that ratios and statistics move."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], rate)
    target = torch.randn(1, generator=torch.Generator().manual_seed(1))
    for _, x in zip(range(steps), batches(steps)):
        optimizer.zero_grad()
        (model(x).square().mean() - target).square().backward()
        optimizer.step()
    return model


def findings(model, data=None, optimizer=None, **options):
    return {f.check: f for f in diagnose(model, data or batches(), optimizer, **options).findings}


@pytest.mark.parametrize('kind', MAKE)
@pytest.mark.parametrize('trained', [False, True])
def test_healthy(kind, trained):
    """Nothing is said, and the network is as before: modes, buffers, gradients, random numbers."""
    model = Net(MAKE[kind])
    if trained:
        train(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.eval()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    random = torch.get_rng_state()
    gpus = 2 if kind == 'SyncBN' else 1
    diagnosis = diagnose(model, batches(), optimizer, done=None if trained else 0, gpus=gpus)
    assert diagnosis.findings == []
    assert as_text(diagnosis) == f'Net: No finding in 2 norms (2 {kind}).'
    assert not model.training
    assert not model.stem.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(('kind', 'few'), [('BN', 'BN'), ('SN', 'IN and BN'), ('EN', 'IN and BN'), ('IN', 'IN')])
def test_too_few_values(kind, few):
    model = Net(MAKE['GN'], MAKE[kind])
    found = findings(model)
    assert list(found) == ['values']
    finding = found['values']
    assert finding.layers == ['pool.1']
    assert finding.title == f'{kind}: too few values for {few} in 1 norm'
    assert '4 images x 1 position' in finding.found
    advice = {
        'BN': "norm_cfg=dict(type='EN', normalizers=('LN', 'GN'))",
        'SN': "norm_cfg=dict(type='SN', normalizers=('LN', 'GN'))",
        'EN': "norm_cfg=dict(type='EN', normalizers=('LN', 'GN'))",
        'IN': "norm_cfg=dict(type='GN', num_groups=4)",
    }
    assert finding.remedies[0] == advice[kind]
    norm_cfg = eval(finding.remedies[0].partition('=')[2])  # noqa: S307
    better = {
        'SN': mmnorm.SwitchableNorm2d,
        'EN': mmnorm.ExemplarNorm2d,
        'GN': lambda c, num_groups: nn.GroupNorm(4, c),
    }
    make = better[norm_cfg.pop('type')]
    assert not findings(Net(MAKE['GN'], lambda c: make(c, **norm_cfg)))


def test_one_value_that_batch_norm_refuses():
    """A single image at 1x1: nn.BatchNorm raises, and is named all the same."""
    model = Net(MAKE['BN'], MAKE['BN'])
    with pytest.raises(ValueError, match='more than 1 value'):
        model(batches(images=1)[0])
    finding = findings(model, batches(2, images=1))
    assert finding['values'].layers == ['pool.1']
    assert 'nn.BatchNorm refuses it' in finding['values'].why
    assert model.training
    assert model.pool[1].training


def test_values_of_all_processes():
    sync = Net(MAKE['GN'], lambda c: mmnorm.ExemplarNorm2d(c, normalizers=('LN', 'BN'), sync=True))
    alone = Net(MAKE['GN'], lambda c: mmnorm.ExemplarNorm2d(c, normalizers=('LN', 'BN')))
    assert not findings(sync, gpus=4)
    found = findings(alone, gpus=4)['values']
    assert "norm_cfg=dict(type='EN', sync=True)" in found.remedies


@pytest.mark.parametrize('kind', ['SN', 'EN'])
def test_bn_weight_in_small_batches(kind):
    make = lambda c, **options: MAKE[kind](c, **options)  # noqa: E731
    model = Net(lambda c: make(c, init_ratios=(0.05, 0.05, 0.9)))
    train(model, 5)
    # So it was to be.
    assert 'batch weight' not in findings(model, done=1000)
    for norm in (model.stem[1], model.stage[1]):
        norm.init_ratios = None
    found = findings(model, done=1000)
    assert list(found)[0] == 'batch weight'
    assert 'BN has 0.90 on average over 2 norms' in found['batch weight'].found
    assert 'EN gives it 0.30 and SN 0.28' in found['batch weight'].why
    assert found['batch weight'].remedies == [f"norm_cfg=dict(type='{kind}', normalizers=('IN', 'LN', 'GN'))"]
    assert 'batch weight' not in findings(model, done=0)
    assert 'batch weight' not in findings(model, batches(3, images=16), done=1000)
    assert 'batch weight' not in findings(Net(lambda c: make(c, normalizers=('IN', 'LN', 'GN'))), done=1000)


@pytest.mark.parametrize('kind', ['BN', 'SN', 'EN'])
def test_running_statistics(kind):
    model = train(Net(MAKE[kind]))
    other = batches(mean=3.0)
    found = findings(model, other, done=1000)
    assert 'statistics' in found
    finding = found['statistics']
    assert 'stem.1' in finding.layers
    assert finding.remedies[-1] == 'mmnorm.update_bn_stats(model, train_loader, num_iters=200)'
    assert 'statistics' not in findings(model, other, done=0)
    assert 'statistics' not in findings(model, other, done=1000, from_data=False)
    update_bn_stats(model, other)
    assert 'statistics' not in findings(model, other, done=1000)


def test_frozen_statistics():
    """Norms in eval mode within a part that learns: their statistics are those of other data."""
    model = train(Net(MAKE['EN'], norm_eval=True))
    found = findings(model, batches(mean=3.0), done=1000, norm_eval=True)
    assert found['statistics'].title.startswith('Frozen running statistics')
    assert model.stem[1].norm_eval is False, 'as before'


@pytest.mark.parametrize('kind', ['SN', 'EN'])
def test_stuck(kind):
    model = Net(MAKE[kind])
    update_bn_stats(model, batches())
    found = findings(model, done=5000)
    assert list(found) == ['stuck']
    assert found['stuck'].layers == ['stem.1', 'stage.1']
    assert 'after 5000 iterations' in found['stuck'].found
    assert not findings(model, done=50), 'too early to say'
    assert not findings(train(model), done=5000)


@pytest.mark.parametrize('kind', ['SN', 'EN'])
def test_saturated(kind):
    make = lambda c, **options: MAKE[kind](c, **options)  # noqa: E731
    found = findings(Net(lambda c: make(c, init_ratios=(1e-3, 1e-3, 0.998))))
    assert list(found) == ['saturated']
    assert found['saturated'].title == f'{kind}: BN is all that counts in 2 of 2 norms'
    assert found['saturated'].remedies == [
        f"norm_cfg=dict(type='{kind}', init_ratios=(0.01, 0.01, 0.98))",
        f"norm_cfg=dict(type='{kind}', normalizers=('BN',))",
    ]
    for applied in (dict(init_ratios=(0.01, 0.01, 0.98)), dict(normalizers=('BN',))):
        assert not findings(Net(lambda c, applied=applied: make(c, **applied)))
    sparse = Net(MAKE['SSN'])
    for layer in (sparse.stem[1], sparse.stage[1]):
        layer.set_sparsity(1.0)
        layer.mean_weight.data[2] = layer.var_weight.data[2] = 3.0
    assert not findings(sparse), 'what it is made for'


@pytest.mark.parametrize('kind', LEARNED)
def test_ratios_that_do_not_learn(kind):
    """Frozen, left out of the optimizer, at a rate of 0."""
    model = Net(MAKE[kind])
    norms = [m for m in model.modules() if isinstance(m, mmnorm.LearnedNorm)]
    own = [p for m in norms for name, p in m.named_parameters() if name in m.own_parameters]
    rest = [p for p in model.parameters() if not any(p is q for q in own)]
    found = findings(model, optimizer=torch.optim.SGD(rest, 0.1))['gradients']
    assert 'the optimizer does not have what decides the ratios in 2 norms' in found.title
    groups = [dict(params=rest), dict(params=own, lr=0.0)]
    assert (
        'rate of what decides the ratios is 0' in findings(model, None, torch.optim.SGD(groups, 0.1))['gradients'].title
    )
    for p in own:
        p.requires_grad_(False)
    found = findings(model)['gradients']
    assert 'is frozen' in found.title
    assert found.layers == ['stem.1', 'stage.1']
    for name in found.layers:
        model.get_submodule(name).requires_grad_(True)
    assert not findings(model, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    model.stage.requires_grad_(False)
    model.stage.eval()
    assert not findings(model), 'a frozen stage is no fault'


def test_dead_net():
    """All layers of EN's net at zero, as an init_cfg of one's own may leave them."""
    model = Net(MAKE['EN'])
    layer = model.stage[1]
    for name in layer.own_parameters:
        nn.init.zeros_(getattr(layer, name))
    found = findings(model)['gradients']
    assert found.layers == ['stage.1']
    layer.reset_parameters()
    assert not findings(model)


@pytest.mark.parametrize('kind', ['BN', 'SN', 'EN'])
def test_eval_by_statistics_that_were_never_set(kind):
    model = Net(MAKE[kind])
    model.stage[1].eval()
    if kind != 'BN':
        model.stage[1].norm_eval = True
    found = findings(model)
    assert list(found) == ['modes']
    assert found['modes'].layers == ['stage.1']
    assert 'never set' in found['modes'].title
    assert not findings(model, will_load=['stage.'])
    model.stage[1].norm_eval = False
    model.train()
    assert not findings(model)


def test_norm_eval_passes_learned_norms_by():
    model = train(Net(MAKE['SN'], norm_eval=True))
    found = findings(model)
    assert found['modes'].title == 'norm_eval=True does not reach 2 learned norms'
    assert found['modes'].remedies[-1] == 'mmnorm.apply_norm_eval(model)'
    mmnorm.apply_norm_eval(model)
    assert not findings(model)


@pytest.mark.parametrize('kind', ['BN', 'EN'])
def test_frozen_stage_that_moves(kind):
    model = train(Net(MAKE[kind]))
    model.stem.requires_grad_(False)
    found = findings(model)
    assert list(found) == ['modes']
    assert found['modes'].layers == ['stem.1']
    assert 'still update their running statistics' in found['modes'].title
    model.stem.eval()
    assert not findings(model)


@pytest.mark.parametrize('kind', LEARNED)
def test_decay(kind):
    model = Net(MAKE[kind])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=1e-4)
    found = findings(model, None, optimizer, iterations=50_000)['decay']
    assert (
        found.title == f'{kind}: weight decay draws 2 norms towards {"its base" if kind == "ILM" else "uniform ratios"}'
    )
    assert 'ratio_decay_mult' in found.remedies[0]
    assert not findings(model, None, optimizer, iterations=1000), 'too little to count'
    own = {id(p) for m in model.modules() if isinstance(m, mmnorm.LearnedNorm) for p in m.parameters()}
    groups = [[p for p in model.parameters() if (id(p) in own) == inside] for inside in (True, False)]
    groups = [dict(params=groups[0], weight_decay=0), dict(params=groups[1])]
    assert not findings(model, None, torch.optim.SGD(groups, 0.1, weight_decay=1e-4), iterations=50_000)


def test_synchronized_alone():
    for make, kind in ((nn.SyncBatchNorm, 'SyncBN'), (lambda c: mmnorm.ExemplarNorm2d(c, sync=True), 'EN')):
        found = findings(Net(make))['leftovers']
        assert found.title == '2 norms synchronized, and there is one process'
        assert kind in found.found
        assert not findings(Net(make), gpus=2)


def test_left_beside_learned_norms():
    model = Net(MAKE['EN'], MAKE['BN'])
    data = batches(images=16)
    found = findings(model, data)['leftovers']
    assert found.title == '1 BN layer left beside 2 EN layers'
    assert found.layers == ['pool.1']
    assert not findings(model, data, scope=['stem', 'stage'])
    model.pool[1].eval()
    model.pool[1].running_mean.fill_(0.1)
    assert not findings(model, data), 'frozen BN is meant to be there'
    model.train()
    mmnorm.convert_norm(model, dict(type='EN', normalizers=('LN', 'GN')))
    assert not findings(model, data)


def test_cost_of_statistics():
    lines = Remedies()
    found = check_cost({'mIoU': 22.9, 'time': 1}, {'mIoU': 26.2, 'time': 9}, 200, lines)
    assert found[0].title == 'The running statistics cost 3.3 points'
    assert '--batch-average 200' in found[0].remedies[0]
    assert len(check_cost({'bbox_mAP': 0.20}, {'bbox_mAP': 0.22}, 200, lines)) == 1
    assert check_cost({'mIoU': 22.94}, {'mIoU': 23.79}, 200, lines) == []


def test_text_and_page(tmp_path):
    """Names are escaped, all findings are there, and every norm has a row."""
    diagnosis = diagnose(Net(MAKE['EN'], MAKE['EN']), batches(), title='<net>')
    text = as_text(diagnosis)
    assert text.startswith('<net>: 1 finding in 3 norms (3 EN).')
    assert '   > norm_cfg=dict(' in text
    write_diagnosis(diagnosis, tmp_path / 'page.html')
    page = (tmp_path / 'page.html').read_text()
    assert '&lt;net&gt;: 1 finding' in page
    assert page.count('<h2>') == 2
    assert page.count('<tr>') == 4
    assert 'norm_cfg=dict(type=&#x27;EN&#x27;, normalizers=(&#x27;LN&#x27;, &#x27;GN&#x27;))' in page
    assert [path.name for path in tmp_path.iterdir()] == ['page.html']


def test_nothing_to_look_at():
    with pytest.raises(UsageError, match='has no norm'):
        diagnose(nn.Conv2d(3, 3, 1), batches())
    with pytest.raises(UsageError, match='no batch to look at'):
        diagnose(Net(MAKE['EN']), [])
