"""What runs have left, beside the papers' figures: mean and spread over seeds, in the papers' units."""

import json
import statistics
from pathlib import Path

import pytest

from mmnorm.errors import UsageError
from mmnorm.experiments.catalogue import catalogue
from mmnorm.experiments.compare import bars_figure, curves_figure, gather, markdown
from mmnorm.experiments.folders import RunFolder, run_folder


def log(folder, entries, name='20260101_000000'):
    file = folder / name / 'vis_data/scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))


def end(folder, row, epochs=2):
    """What a run leaves that has come to its end."""
    (folder / Path(row.config).name).write_text(f'train_cfg = dict(max_epochs={epochs})')
    (folder / 'last_checkpoint').write_text(f'/moved/since/epoch_{epochs}.pth')


@pytest.fixture
def runs(tmp_path):
    """Three seeds of SN at (8, 32), one of EN in segmentation, one of ILM on CIFAR."""
    rows = catalogue().experiments
    for seed, top1 in enumerate((76.0, 77.0, 77.6)):
        folder = run_folder(tmp_path, rows['sn/table2/sn-8x32'], seed).path
        train = [{'accuracy_top-1': 10.0 * i, 'epoch': 1 + i // 2, 'iter': i, 'step': i} for i in range(4)]
        log(folder, [*train, {'accuracy/top1': 50.0, 'step': 1}, {'accuracy/top1': top1, 'step': 2}])
        end(folder, rows['sn/table2/sn-8x32'])
    for name, entry in {
        'en/table6/ade20k-en': {'mIoU': 38.5},
        'ilm/table1/ilm-gn': {'accuracy/top1': 94.0},
        'sn/table5/sn': {'coco/bbox_mAP': 0.405, 'coco/segm_mAP': 0.36},
    }.items():
        folder = run_folder(tmp_path, rows[name], 0).path
        log(folder, [{**entry, 'step': 2}])
        end(folder, rows[name])
    folder = run_folder(tmp_path, rows['en/table6/ade20k-en'], 0).path
    (folder / 'several_scales.json').write_text(json.dumps({'mIoU': 39.25}))
    return tmp_path


def table(runs, *patterns):
    return markdown(catalogue(), gather(catalogue(), catalogue().matching(patterns), runs))


def test_mean_and_spread_over_seeds(runs):
    (line,) = gather(catalogue(), [catalogue()['sn/table2/sn-8x32']], runs)
    (cell,) = line.cells
    values = (76.0, 77.0, 77.6)
    assert cell.values == values
    assert cell.mean == pytest.approx(statistics.fmean(values))
    assert cell.spread == pytest.approx(statistics.stdev(values))
    text = f'{cell.mean:.2f} ± {cell.spread:.2f} (3) | {cell.mean - 76.9:+.2f}'
    assert f'| sn/table2/sn-8x32 | SN (8, 32) | top-1 % | 76.9 | {text} |' in table(runs, 'sn/table2/sn-8x32')


def test_figures_are_in_the_units_of_the_papers(runs):
    text = table(runs, 'en/table6/ade20k-en', 'ilm/table1', 'sn/table5/sn')
    assert '| mIoU % | 38.2 | 38.50 | +0.30 |' in text
    assert '| mIoU %, several scales | 38.9 | 39.25 | +0.35 |' in text
    assert '| ilm/table1/ilm-gn | ILM on GN | top-1 error % | 5.88 | 6.00 | +0.12 |' in text
    assert '| ilm/table1/gn | GN | top-1 error % | 7.02 |  |  |' in text
    assert '| AP | 41.0 | 40.50 | -0.50 |' in text
    assert '| mask AP | 36.5 | 36.00 | -0.50 |' in text
    assert 'Instance-Level Meta Normalization, CVPR 2019' in text


def test_a_run_that_has_not_ended_does_not_stand_for_one_that_has(runs):
    row = catalogue()['sn/table2/sn-8x32']
    folder = run_folder(runs, row, 3).path
    log(folder, [{'accuracy/top1': 40.0, 'step': 1}])
    (line,) = gather(catalogue(), [row], runs)
    assert (line.cells[0].values, line.cells[0].under_way) == ((76.0, 77.0, 77.6), (40.0,))
    assert '| 76.9 | 76.87 ± 0.81 (3) (under way: 40.00) | -0.03 |' in table(runs, row.id)
    end(folder, row)
    (folder / 'last_checkpoint').write_text('/moved/since/epoch_1.pth')
    assert '(under way: 40.00)' in table(runs, row.id)


def test_a_row_without_a_paper_has_what_was_reported(tmp_path):
    row = catalogue()['own/cifar10/en']
    folder = run_folder(tmp_path, row, 0).path
    log(folder, [{'accuracy/top1': 74.6, 'step': 2}])
    end(folder, row)
    (line,) = gather(catalogue(), [row], tmp_path)
    assert [(cell.metric.label, cell.here()) for cell in line.cells] == [('top-1 %', '74.60')]


def test_curves_of_a_row_without_a_figure_are_drawn_like_the_others(tmp_path):
    """Single channels as key features, which ILM's Fig. 4 has and no table."""
    rows = catalogue().matching(['ilm/fig4/groups', 'ilm/fig4/channels'])
    for index, row in enumerate(rows):
        entries = [{'accuracy/top1': 90.0 + index, 'step': 1}, {'accuracy/top1': 94.0 + index, 'step': 2}]
        log(run_folder(tmp_path, catalogue().run_of(row), 0).path, entries)
    axes = curves_figure(catalogue(), rows, tmp_path).axes[0]
    assert [line.get_label() for line in axes.lines] == [row.row for row in rows]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[10.0, 6.0], [9.0, 5.0]]
    axes = curves_figure(catalogue(), rows[1:], tmp_path).axes[0]
    assert axes.get_ylabel() == 'top-1 %'


def test_sizes_that_no_object_has(tmp_path):
    """COCO's evaluation has -1 there, which is no figure."""
    folder = run_folder(tmp_path, catalogue()['sn/table4/sn'], 0).path
    log(folder, [{'coco/bbox_mAP': 0.4, 'coco/bbox_mAP_l': -1.0, 'step': 12}])
    end(folder, catalogue()['sn/table4/sn'])
    text = table(tmp_path, 'sn/table4/sn')
    assert '| AP | 39.3 | 40.00 | +0.70 |' in text
    assert '| AP l | 50.3 |  |  |' in text


def test_a_row_that_is_the_same_run_has_its_figures(runs):
    assert '| ilm/table4/ilm-gn-64 | ILM on GN, 64 images | top-1 error % | 5.88 | 6.00 |' in table(runs, 'ilm/table4')


def test_runs_that_were_resumed_or_killed(tmp_path):
    log(tmp_path, [{'accuracy/top1': 1.0, 'step': 1}, {'accuracy/top1': 2.0, 'step': 2}], '20260101')
    log(tmp_path, [{'accuracy/top1': 3.0, 'step': 2}], '20260102')
    file = tmp_path / '20260102/vis_data/scalars.json'
    file.write_text(file.read_text() + '{"accuracy/top1": 9')
    assert RunFolder(tmp_path).curve('accuracy/top1') == [(1, 1.0), (2, 3.0)]


def test_pictures(runs):
    rows = catalogue().matching(['sn/table2'])
    axes = bars_figure(gather(catalogue(), rows, runs)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [r.row for r in rows if r.id != 'sn/table2/bn-8x1']
    outlines = [bar.get_width() for bar in axes.patches if not bar.get_fill()]
    assert outlines == [r.paper['top1'] for r in rows if r.id != 'sn/table2/bn-8x1']
    assert [bar.get_width() for bar in axes.patches if bar.get_fill()] == pytest.approx([76.8667], abs=1e-3)

    # A panel for each kind of figure, in its own unit.
    rows_of_three = catalogue().matching(['sn/table5/sn', 'en/table6/ade20k-en', 'ilm/table1/ilm-gn'])
    panels = bars_figure(gather(catalogue(), rows_of_three, runs)).axes
    assert [axes.get_xlabel() for axes in panels] == ['AP', 'mIoU %', 'top-1 error %']
    assert [axes.patches[-1].get_width() for axes in panels] == pytest.approx([40.5, 38.5, 6.0])
    assert panels[0].get_yticklabels()[0].get_text() == 'sn/table5: SN, head SN'

    figure = curves_figure(catalogue(), rows, runs, training=True)
    validation, training = figure.axes[0].lines
    assert validation.get_xydata().tolist() == [[1, 50], [2, 76]]
    assert training.get_xydata().tolist() == [[1, 5], [2, 25]], 'averaged over the epoch'
    assert figure.axes[0].get_xlabel().startswith('epoch')
    assert len(curves_figure(catalogue(), rows, runs).axes[0].lines) == 1
    with pytest.raises(UsageError, match='has been evaluated below'):
        curves_figure(catalogue(), [catalogue()['sn/table2/gn-8x1']], runs)
