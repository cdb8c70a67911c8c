"""The file of experiments: every row has what it takes, and its figures are those of the papers."""

import re
from pathlib import Path

import pytest
import yaml

from mmnorm.errors import UsageError
from mmnorm.experiments.catalogue import FILE, catalogue, read

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = catalogue().experiments


def paper(name, metric):
    return EXPERIMENTS[name].paper[metric]


def test_every_config_is_an_experiment():
    named = {row.config for row in EXPERIMENTS.values() if row.config}
    files = {str(path.relative_to(ROOT / 'configs')) for path in (ROOT / 'configs').rglob('*.py')}
    assert named == {name for name in files if not name.startswith('_base_')}


def test_every_table_and_figure_of_the_papers():
    found = {table.id for table, _ in catalogue().tables()}
    # Figures that show no experiment: SN 7 (code), EN 2 and ILM 2 (diagrams).
    expected = {f'sn/{name}' for name in ('table1', 'table2', 'table3', 'table4', 'table5')}
    expected |= {f'sn/fig{n}' for n in (1, 2, 3, 4, 5, 6, 8, 9)}
    expected |= {f'en/table{n}' for n in range(1, 10)} | {f'en/fig{n}' for n in (1, 3, 4, 5, 6, 7, 8)}
    expected |= {f'ilm/table{n}' for n in range(1, 9)} | {f'ilm/fig{n}' for n in (1, 3, 4)}
    assert expected <= found
    assert found - expected == {'sn/text', 'sn/passing', 'en/passing', *(f for f in found if f.startswith('own/'))}


@pytest.mark.parametrize(
    ('first', 'second', 'differences'),
    [
        ('gn', 'bn', (-0.5, -0.5, 0.8, 3.1, 10.6, -0.3, -0.7, None, 0.1)),
        ('sn', 'bn', (0.5, 0.4, 1.5, 3.2, 10.3, 0.1, 0.1, None, 0.5)),
        ('sn', 'gn', (1.0, 0.9, 0.7, 0.1, -0.3, 0.4, 0.8, -0.5, 0.4)),
    ],
)
def test_sn_table_2_by_its_own_differences(first, second, differences):
    settings = ('8x32', '8x16', '8x8', '8x4', '8x2', '1x16', '1x32', '8x1', '1x8')
    for setting, difference in zip(settings, differences, strict=True):
        values = [paper(f'sn/table2/{norm}-{setting}', 'top1') for norm in (first, second)]
        if difference is None:
            assert values[1] == 'did not converge'
        else:
            assert values[0] - values[1] == pytest.approx(difference)


def test_sn_tables_of_coco_by_their_text():
    """The gains that Section 4.2 names."""
    assert paper('sn/table3/frozen-bn', 'ap') == 29.6
    assert paper('sn/table3/sn-scratch', 'ap') - paper('sn/table3/bn-scratch', 'ap') == pytest.approx(9.5)
    assert paper('sn/table3/sn-scratch', 'ap') - paper('sn/table3/gn-scratch', 'ap') == pytest.approx(1.2)
    assert paper('sn/table4/frozen-bn-sn', 'ap') - paper('sn/table4/frozen-bn-gn', 'ap') == pytest.approx(0.8)
    assert paper('sn/table4/sn', 'ap') - paper('sn/table4/gn', 'ap') == pytest.approx(1.1)
    for metric, gain in (('ap', 0.5), ('mask_ap', 0.4)):
        gained = paper('sn/table5/frozen-bn-sn', metric) - paper('sn/table5/frozen-bn-gn', metric)
        assert gained == pytest.approx(gain)
    for metric, gain in (('ap', 0.2), ('mask_ap', 0.3)):
        assert paper('sn/table5/gn-sn', metric) - paper('sn/table5/gn', metric) == pytest.approx(gain)


@pytest.mark.parametrize(
    ('table', 'metric', 'gains'),
    [
        ('table7', 'top1', {'pi-1': 0.2, 'pi-10': 0.6, 'pi-20': 0.9, 'pi-50': 1.2, 'pi-100': 1.1}),
        ('table8', 'top1', {'r-2': 0.8, 'r-4': 1.0, 'r-16': 1.0, 'r-32': 1.2, 'r-64': 0.8}),
        ('table9', 'top1', {'a': -1.4, 'b': -0.5, 'c': -0.4, 'd': -0.5}),
        ('table9', 'top5', {'a': -0.7, 'b': -0.7, 'c': -0.2, 'd': -0.3}),
    ],
)
def test_en_tables_by_their_own_differences(table, metric, gains):
    base = paper(f'en/{table}/{"en" if table == "table9" else "sn"}', metric)
    for row, gain in gains.items():
        assert paper(f'en/{table}/{row}', metric) - base == pytest.approx(gain)


def test_en_table_5_by_its_text():
    for depth, gain in ((20, 1.04), (56, 1.31), (110, 0.79)):
        values = [paper(f'en/table5/cifar100-resnet{depth}-{norm}', 'top1') for norm in ('en', 'sn')]
        assert values[0] - values[1] == pytest.approx(gain)


@pytest.mark.parametrize(
    ('table', 'metric', 'to_base', 'to_bn'),
    [
        ('table1', 'error', (-1.14, -0.50, -2.63), (-0.55, 0.07, 0.92)),
        ('table2', 'error', (-3.63, -2.11, -16.18), (-2.97, -2.31, -0.85)),
        ('table2', 'error5', (-0.55, -0.89, -8.38), (-2.90, -2.66, -2.49)),
    ],
)
def test_ilm_tables_1_and_2_by_their_own_differences(table, metric, to_base, to_bn):
    for base, first, second in zip(('gn', 'in', 'ln'), to_base, to_bn, strict=True):
        ours = paper(f'ilm/{table}/ilm-{base}', metric)
        assert ours - paper(f'ilm/{table}/{base}', metric) == pytest.approx(first)
        assert ours - paper(f'ilm/{table}/bn', metric) == pytest.approx(second)


def test_ilm_tables_3_to_5_by_their_own_differences():
    bn = paper('ilm/table3/bn', 'error')
    for row, difference in {'gn': 0.21, 'in': 4.55, 'ln': 1.45, 'ilm-gn': -0.28}.items():
        assert paper(f'ilm/table3/{row}', 'error') - bn == pytest.approx(difference)
    to_gn, to_bn = (-1.14, -0.78, -0.60, -0.52, -0.26, -0.18), (-0.55, -0.12, -0.75, -3.08, -4.10, -6.68)
    for batch, first, second in zip((64, 32, 16, 8, 4, 2), to_gn, to_bn, strict=True):
        ours = paper(f'ilm/table4/ilm-gn-{batch}', 'error')
        assert ours - paper(f'ilm/table4/gn-{batch}', 'error') == pytest.approx(first)
        assert ours - paper(f'ilm/table4/bn-{batch}', 'error') == pytest.approx(second)
    for batch, metric, gain in ((2, 'ap', 0.28), (2, 'mask_ap', 0.31), (16, 'ap', 0.32), (16, 'mask_ap', 0.26)):
        values = [paper(f'ilm/table5/{norm}-{batch}', metric) for norm in ('ilm', 'gn')]
        assert values[0] - values[1] == pytest.approx(gain)


def test_rows_that_are_the_same_run_have_the_same_figures():
    for row in EXPERIMENTS.values():
        if row.same:
            other = catalogue().run_of(row)
            assert row.config == other.config
            assert all(other.paper[metric] == value for metric, value in row.paper.items() if metric in other.paper)


def test_choosing():
    found = catalogue().select(paper='en', table='6', data='ade20k')
    assert [row.norm for row in found] == ['SyncBN', 'GN', 'SN', 'EN']
    assert all(row.why for row in catalogue().select(state='not built'))
    names = [row.id for row in catalogue().matching(['sn/table2/sn-8x[12]', 'sn/table2/sn-8x2'])]
    assert names == ['sn/table2/sn-8x2', 'sn/table2/sn-8x1']
    assert len(catalogue().matching(['sn/table2'])) == 27
    with pytest.raises(UsageError, match=r"no experiment is called 'sn/table2/sn-8x3'; nearest: sn/table2/sn-8x"):
        catalogue().matching(['sn/table2/sn-8x3'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(colour='red'), 'unknown key colour'),
        (dict(state='not built'), 'says why'),
        (dict(config=None), 'it has no config'),
        (dict(paper=dict(top9=1.0)), 'no metric is called top9'),
        (dict(start='sn/table2/none'), 'there is no sn/table2/none'),
        (dict(draw='curves', of=['sn/none/*']), 'nothing matches sn/none'),
    ],
)
def test_a_row_that_is_wrong_is_refused(tmp_path, change, message):
    content = yaml.safe_load(FILE.read_text())
    content['tables'][1]['rows'][0].update(change)
    file = tmp_path / 'experiments.yaml'
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=re.escape(message)):
        read(file)


def test_numbers_stay_as_they_are_written():
    assert str(paper('sn/table2/gn-8x8', 'top1')) == '76.0'
    assert str(paper('ilm/table4/ilm-gn-8', 'error')) == '6.70'
