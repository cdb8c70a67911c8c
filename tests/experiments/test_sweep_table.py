"""The table of a sweep: what is kept, what it says, what is drawn of it."""

import json

import pytest

from mmnorm.errors import UsageError
from mmnorm.experiments.sweeps.figure import curves_figure, norms_figure, rates_figure, validations_figure
from mmnorm.experiments.sweeps.plan import SweepRun
from mmnorm.experiments.sweeps.summary import markdown, sum_up
from mmnorm.experiments.sweeps.table import POINTS, Record, append, read_table, record_of


def run_of(norm='BN', rate=0.1, seed=0, group='x', batch=2):
    return SweepRun(group, norm, 'c.py', batch, 100, rate, seed, 1, {'model.norm': norm}, ('--fuse',))


def record(value, ratios=None, **of):
    loss = [(50, 2.0), (95, 1.0), (100, 1.5)]
    return Record(run_of(**of), value, [(100, value)], loss, ratios or {}, 60, 'v1')


@pytest.fixture
def work_dir(tmp_path):
    """What a run leaves, resumed after 60 of 100 iterations."""
    for name, steps in (('a', range(2, 70, 2)), ('b', range(62, 102, 2))):
        folder = tmp_path / f'run/{name}/vis_data'
        folder.mkdir(parents=True)
        lines = [{'loss': 10 / step + (name == 'a' and step > 60), 'step': step} for step in steps]
        lines += [{'EN/l1/BN': 0.2 if name == 'b' else 0.9, 'EN/l2/BN': 0.4, 'EN/l1/IN': 0.8, 'EN/l2/IN': 0.6}]
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    with (tmp_path / 'run/b/vis_data/scalars.json').open('a') as file:
        file.write('\n' + json.dumps({'accuracy/top1': 43.2104, 'step': 100}) + '\n{"loss": 1')
    return tmp_path / 'run'


def test_record_of_a_run(work_dir, tmp_path):
    kept = record_of(run_of(), 'accuracy/top1', work_dir, 61.4, 'v1')
    assert (kept.value, kept.validation, kept.seconds) == (43.21, [(100, 43.21)], 61)
    assert len(kept.loss) <= POINTS
    # Of iterations that were run twice the second counts.
    assert all(value == pytest.approx(10 / step, abs=1e-4) for step, value in kept.loss)
    assert kept.ratios == {'EN/BN': 0.3, 'EN/IN': 0.7}
    path = tmp_path / 'new/table.jsonl'
    append(path, kept)
    append(path, record(1.0, seed=1))
    assert read_table(path) == [kept, record(1.0, seed=1)]


def test_metrics_of_coco_in_percent(work_dir):
    (work_dir / 'b/vis_data/scalars.json').write_text(json.dumps({'coco/bbox_mAP': 0.4321, 'step': 100}))
    assert record_of(run_of(), 'coco/bbox_mAP', work_dir, 1, 'v1').value == 43.21


def test_a_run_that_has_not_ended(work_dir):
    with pytest.raises(UsageError, match='has no mIoU at iteration 100'):
        record_of(run_of(), 'mIoU', work_dir, 1, 'v1')


def test_a_broken_table(tmp_path):
    path = tmp_path / 'table.jsonl'
    path.write_text(record(1.0).line() + '\n{"group": "x"}\n')
    with pytest.raises(UsageError, match='line 2 is no run of a sweep'):
        read_table(path)
    assert read_table(tmp_path / 'none.jsonl') == []


def test_summary():
    records = [record(40, seed=1), record(42), record(44, seed=2), record(50, rate=0.01), record(9, norm='EN')]
    low, high, en = sum_up(records)
    assert (low.values, low.mean, low.spread) == ([50], 50, None)
    assert (high.values, high.mean, high.spread) == ([42, 40, 44], 42, 2)
    assert high.loss == 1.25
    assert (low.here(), high.here()) == ('50.00', '42.00 ± 2.00 (3)')
    # One seed, however high, is not the best rate where another has more.
    assert sum_up(records, best=True) == [high, en]
    higher = record(10, norm='EN', rate=0.3)
    assert sum_up([*records, higher], best=True) == [high, *sum_up([higher])]


def test_summary_as_markdown():
    ratios = [{'EN/IN': 0.5, 'EN/BN': 0.5}, {'EN/IN': 0.7, 'EN/BN': 0.3}]
    records = [record(40 + 2 * seed, ratios[seed], norm='EN', seed=seed) for seed in (0, 1)]
    assert '| x | EN | 0.1 | top1 | 41.00 ± 1.41 (2) | 1.250 | IN 0.60, BN 0.40 |' in markdown(
        sum_up(records), {'x': 'top1'}
    )


def test_figures():
    records = [record(40), record(45, seed=1), record(50, rate=0.01), record(60, norm='EN')]
    records.append(record(7, group='y', batch=4))
    metrics = {'x': 'accuracy/top1', 'y': 'mIoU'}
    by_rate = rates_figure(records, metrics)
    assert [axes.get_title() for axes in by_rate.axes] == ['x', 'y']
    assert [axes.get_ylabel() for axes in by_rate.axes] == ['accuracy/top1', 'mIoU']
    means = by_rate.axes[0].get_lines()[0]
    assert (list(means.get_xdata()), list(means.get_ydata())) == ([0.01, 0.1], [50, 42.5])
    by_norm = norms_figure(records, metrics, ['x']).axes[0]
    assert [list(line.get_ydata()) for line in by_norm.get_lines() if line.get_marker() == '.'] == [[40, 45], [60]]
    assert [label.get_text() for label in by_norm.get_xticklabels()] == ['BN', 'EN']
    curves = curves_figure(records, metrics, ['x'])
    assert [line.get_label() for line in curves.axes[0].get_lines()] == ['BN at 0.1', 'EN at 0.1']
    validations = validations_figure(records, metrics, ['x']).axes[0]
    assert [list(line.get_ydata()) for line in validations.get_lines()] == [[42.5], [60]]
    assert validations.get_ylabel() == 'accuracy/top1'
    with pytest.raises(UsageError, match='no run of z is done; there are runs of: x, y'):
        rates_figure(records, metrics, ['z'])
