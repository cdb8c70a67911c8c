"""tools/complexity.py from the user's end."""

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from mmnorm.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
CIFAR = 'configs/cifar/resnet20_bn_cifar10.py'


@pytest.fixture
def main(monkeypatch):
    """Run the tool in this process, as the command line would."""

    def run(*arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', ['complexity', '--device', 'cpu', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools/complexity.py'))['main']()

    return run


@pytest.fixture
def costs(main, tmp_path):
    """Run the tool without times; returns what it saved, by norm."""

    def run(*arguments):
        out = tmp_path / 'costs.json'
        main(*arguments, '--repeats', 0, '--out', out)
        return {row['norm']: row for row in json.loads(out.read_text())['costs']}

    return run


def test_table_and_files(main, tmp_path):
    files = [tmp_path / f'costs.{suffix}' for suffix in ('json', 'csv', 'md')]
    main(CIFAR, '--shape', 32, '--repeats', 1, '--out', *files)
    content = json.loads(files[0].read_text())
    rows = list(csv.DictReader(files[1].open()))
    assert content['batch'] == 2
    assert [row['norm'] for row in rows] == ['BN', 'GN', 'SN', 'EN', 'ILM']
    for row, saved in zip(rows, content['costs'], strict=True):
        assert saved['step_seconds'] > 0
        assert saved['forward_seconds'] > 0
        assert float(row['flops']) == saved['flops']
        assert saved['paper'] is None
        assert f'| {row["norm"]} |' in files[2].read_text()
    parameters = {row['norm']: int(row['parameters']) for row in rows}
    widths = [16] * 7 + [32] * 6 + [64] * 6
    assert parameters['SN'] - parameters['BN'] == 6 * len(widths)
    assert parameters['EN'] - parameters['BN'] == sum(5 * c + 150 * 9 + 150 + 3 * 150 + 3 for c in widths)


def test_the_norm_of_the_config_does_not_matter(costs):
    options = '--shape', 32, '--norms', 'EN', 'ILM'
    first = costs(CIFAR, *options)
    assert costs('configs/cifar/resnet20_en_cifar10.py', *options) == first
    assert first['EN']['step_seconds'] is None


def test_parts_of_segmentation(costs):
    arguments = 'configs/demo/deeplab_bn_r18_digits.py', '--shape', 64, 96, '--norms', 'EN'
    both = costs(*arguments)
    part = costs(*arguments, '--norm-scope', 'backbone.layer1, backbone.layer2')
    assert part['BN'] == both['BN']
    assert part['BN']['parameters'] < part['EN']['parameters'] < both['EN']['parameters']
    assert part['BN']['flops'] < part['EN']['flops'] < both['EN']['flops']


def test_sync_bn_of_mmcv(costs):
    options = '--shape', 64, '--norms', 'EN'
    swapped = 'model.backbone.norm_cfg.type=MMSyncBN', 'model.decode_head.norm_cfg.type=MMSyncBN'
    config = 'configs/demo/deeplab_bn_r18_digits.py'
    assert costs(config, *options, '--cfg-options', *swapped) == costs(config, *options)


def test_detectors_differ_by_their_norms_alone(costs):
    found = costs('configs/pipeline/faster_rcnn_en_r18_fpn_digits.py', '--shape', 64, '--norms', 'GN', 'SN', 'EN')
    besides = {name: row['flops'] - row['norm_flops'] for name, row in found.items()}
    assert besides['BN'] == besides['GN'] == besides['SN'] == besides['EN']
    # 100 proposals of 64x7x7 through the four 3x3 convolutions of the box head, and more.
    assert besides['BN'] > 4 * 100 * 49 * 64 * 64 * 9


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--norms', 'XN'], "unknown norm 'XN'"),
        (['--norms', 'EN(depth=3)'], 'EN does not take'),
        (['--norm-scope', 'neck.bn'], 'matches no module; at its top the model has: '),
        (['--shape', '1', '2', '3'], 'expected a side, or height and width'),
        (['--shape', '-4'], 'expected a side'),
        (['--batch', '0'], 'at least 1 image'),
        (['--repeats', '-1'], '0 (no times) or more'),
        (['--device', 'none'], 'expected e.g. cpu'),
        (['--out', 'costs.xlsx'], 'ends in .json, .csv, .md'),
        (['--out', 'no/such/folder/costs.md'], 'create it first'),
        (['--cfg-options', 'model.head.in_channels=3'], 'does not run on 2 random images of 224x224'),
    ],
)
def test_refused(main, arguments, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        main(CIFAR, *arguments)


def test_missing_config(refuse):
    assert 'config not found' in refuse('complexity', 'configs/none.py')
