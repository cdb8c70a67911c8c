"""What a table says of two norms, and of each class."""

from dataclasses import replace

import numpy as np
import pytest

from mmnorm.commands import sweep
from mmnorm.engine.image_areas_hook import FILE
from mmnorm.errors import UsageError
from mmnorm.experiments.sweeps import classes, differences
from mmnorm.experiments.sweeps.areas import read_areas
from mmnorm.experiments.sweeps.plan import read_plan
from mmnorm.experiments.sweeps.summary import sum_up
from mmnorm.experiments.sweeps.table import Record, append

PLAN = """
config: segmentation/deeplab_bn_r18_camvid.py
metric: mIoU
norms: {BN: {}, EN: {flags: [--norm, EN]}}
sets:
  - {name: x, batch: 2, iterations: 10, rates: [0.1, 0.2], seeds: [0, 1]}
  - {name: y, batch: 4, iterations: 10, rates: [0.1], norms: [EN]}
"""
# By set, norm and rate, of seeds 0 and 1: EN's best rate is the second, BN's the first.
VALUES = {
    ('x', 'BN', 0.1): (30, 32),
    ('x', 'BN', 0.2): (20, 20),
    ('x', 'EN', 0.1): (10, 10),
    ('x', 'EN', 0.2): (36, 40),
    ('y', 'EN', 0.1): (50,),
}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / 'plan.yaml'
    path.write_text(PLAN)
    read = read_plan(path)
    for run in read.runs:
        value = VALUES[run.group, run.norm, run.rate][run.seed]
        append(read.table, Record(run, value, [(10, value)], [(10, 1.0)], {}, 1, 'v1', areas_of_value(value, tmp_path)))
    return path


def areas_of_value(value, folder):
    """20 images of 11 classes with that IoU, the second class 10 points below, the third nowhere."""
    areas = np.full((20, 11, 2), (value * 10, 1000))
    areas[:, 1, 0] -= 100
    areas[:, 2] = 0
    np.savez_compressed(folder / FILE, areas=areas)
    return read_areas(folder)


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr('sys.argv', ['sweep', *map(str, words)])
    sweep.main()
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in capsys.readouterr().out.splitlines()]


def test_each_at_its_best_rate(plan, monkeypatch, capsys):
    rows = run(monkeypatch, capsys, 'compare', plan)
    # The set without BN has nothing to compare with.
    found = [row for row in rows[2:] if row]
    # Standard deviations over two seeds are sqrt(2) and sqrt(8): an error of sqrt((2 + 8) / 2).
    expected = ['x', 'EN, 0.2', '38.00 ± 2.83 (2)', 'BN, 0.1', '31.00 ± 1.41 (2)', '+7.00', '2.24, 3.1 times', '0']
    assert found == [expected]
    rows = run(monkeypatch, capsys, 'compare', plan, 'x', '--base', 'EN')
    assert rows[2][1:6] == ['BN, 0.1', '31.00 ± 1.41 (2)', 'EN, 0.2', '38.00 ± 2.83 (2)', '-7.00']


def test_one_seed_has_no_error_over_seeds(plan):
    records = [group.records[0] for group in sum_up(sweep.read_table(read_plan(plan).table), best=True)]
    other = replace(records[1], run=replace(records[1].run, group='x', norm='SN', rate=0.3), areas='')
    [_, found] = differences.differences(sum_up([*records[:2], other]), 'BN')
    assert (found.group.records[0].run.norm, found.error, found.over_images) == ('SN', None, None)


def test_classes(plan, monkeypatch, capsys):
    rows = run(monkeypatch, capsys, 'classes', plan, 'x')
    assert rows[0] == ['x, IoU', 'BN', 'EN']
    table = {row[0]: row[1:] for row in rows[2:] if row}
    assert table['sky'] == ['31.0 ± 1.4', '38.0 ± 2.8']
    assert table['building'] == ['21.0 ± 1.4', '28.0 ± 2.8']
    assert table['pole'] == ['-', '-']
    assert table['mean'][0] == '30.0 ± 1.4'
    assert len(table) == 12


def test_refused(plan, monkeypatch, capsys):
    with pytest.raises(UsageError, match=r'no run of SN is done; the table has BN, EN'):
        run(monkeypatch, capsys, 'compare', plan, '--base', 'SN')
    with pytest.raises(UsageError, match='no run of z is done; there are runs of: x, y'):
        run(monkeypatch, capsys, 'classes', plan, 'z')
    bare = [replace(record, areas='') for record in sweep.read_table(read_plan(plan).table)]
    with pytest.raises(UsageError, match='ImageAreasHook keeps them'):
        classes.markdown(sum_up(bare))
