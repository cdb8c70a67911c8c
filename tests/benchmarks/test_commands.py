import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def run(*words, status=0):
    """Run Python as a user would; returns stdout and stderr."""
    command = [sys.executable, *map(str, words)]
    # With a thread each, tests that run at the same time don't wait for each other's.
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout, done.stderr


# Parses one command line after another, given as JSON, and prints the refusal of each.
REFUSALS = """
import contextlib, io, json, sys
sys.path.insert(0, 'benchmarks')
parse = __import__(sys.argv[1]).parse_arguments
for words in json.loads(sys.argv[2]):
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            parse(words)
            print('accepted')
        except SystemExit as end:
            print(end.code, stderr.getvalue().strip())
"""


CUDA = {} if torch.cuda.is_available() else {'--device cuda': 'cuda: PyTorch sees no GPU here'}


def refusals(script, cases):
    stdout, _ = run('-c', REFUSALS, script, json.dumps([words.split() for words in cases]))
    return stdout.splitlines()


def test_layers(tmp_path):
    sizes = ['--shapes', '2x32x6x5', '2x48x4x4', '--repeats', 2, '--device', 'cpu']
    # No layer takes a millionth of BN's time, and none a million times it.
    limits = ['--at-most', 'SN=1e-6', 'EN=1e6']
    stdout, stderr = run('benchmarks/layers.py', *sizes, '--out', tmp_path, *limits, status=1)
    assert 'geometric mean' in stdout
    assert [line.split()[1] for line in stderr.splitlines() if line.startswith('missed')] == ['SN', 'SN']

    content = json.loads((tmp_path / 'layers.json').read_text())
    assert content['environment']['threads'] > 0
    ours = ['SN', 'SSN', 'EN', 'ILM']
    layers = ['BN', 'GN', *ours, *(f'{name}-plain' for name in ours), 'floor']
    assert [result['layer'] for result in content['results']] == layers * 4
    assert len(content['geometric_means']) == len(layers) * 2
    for result in content['results']:
        assert result['forward+backward'] > 0
        assert all(len(samples) == 2 for samples in result['samples'].values())
        kept = result['kept / input']
        # The formulas keep whole tensors, the layers coefficients; those of EN-plain are one or more a normalizer.
        assert kept > {'SN-plain': 1.9, 'EN-plain': 5, 'ILM-plain': 1.9}.get(result['layer'], -1)
        assert result['peak / input'] >= 2
    with (tmp_path / 'layers.csv').open() as file:
        assert len(list(csv.DictReader(file))) == len(layers) * 4
    assert 'floor' in (tmp_path / 'layers.md').read_text()
    assert (tmp_path / 'layers.png').stat().st_size > 10000


def test_layers_of_volumes(tmp_path):
    """Layers for three dimensions, in the memory format that goes with them."""
    sizes = ['--shapes', '2x8x3x4x4', '--repeats', 1, '--device', 'cpu', '--memory-format', 'channels_last']
    run('benchmarks/layers.py', *sizes, '--layers', 'SN', 'SN-plain', '--then', 'sum-relu', '--out', tmp_path)
    results = json.loads((tmp_path / 'layers.json').read_text())['results']
    assert [result['layer'] for result in results] == ['BN', 'SN', 'SN-plain', 'floor']
    assert {result['shape'] for result in results} == {'2x8x3x4x4'}


def test_layers_refuses():
    cases = {
        '--shapes 8x64': "unknown shape '8x64'; it is one of targets, small, resnet50, deeplab, NxCxHxW or NxCxDxHxW",
        '--shapes 1x64x1x1': 'BN does not train on a single value a channel',
        '--layers SN XN': "invalid choice: 'XN'",
        '--batch 4 --shapes small': 'only the shapes resnet50 and deeplab have a batch',
        **CUDA,
        '--repeats 0': "'0' is not a positive whole number",
        '--device tpu': "'tpu' is neither cpu nor cuda",
        '--at-most SN': "'SN' is not of the form NAME=RATIO",
        '--layers GN --at-most SN=1': "'SN' is not measured; measured are BN, GN",
    }
    for line, expected in zip(refusals('layers', cases), cases.values(), strict=True):
        assert line.startswith('2 ')
        assert expected in line


def test_networks(tmp_path):
    pytest.importorskip('mmpretrain')
    # One norm only: importing mmpretrain takes seconds, in a process for each.
    options = ['--size', 32, '--batch', 2, '--steps', 1, '--norms', 'BN', '--device', 'cpu', '--at-most', 'BN=0.5']
    _, stderr = run('benchmarks/networks.py', *options, '--out', tmp_path, status=1)
    assert 'missed: BN takes 1.000 of the time of BN (resnet50), at most 0.5 was asked' in stderr
    [result] = json.loads((tmp_path / 'networks.json').read_text())['results']
    assert result['step'] > 0
    # ResNet-50's weights, gradients and momentum are 3 * 98 MiB.
    assert result['peak'] is None or 250 * 2**20 < result['peak'] < 2**31
    assert (tmp_path / 'networks.csv').is_file()
    assert 'resnet50, 2x3x32x32' in (tmp_path / 'networks.md').read_text()


def test_profile_of_steps():
    pytest.importorskip('torchvision')
    options = ['--model', 'torchvision_resnet50', '--size', 32, '--batch', 2, '--steps', 1, '--device', 'cpu']
    stdout, _ = run('benchmarks/profile_steps.py', *options, '--norms', 'BN', 'EN+fuse')
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in stdout.splitlines() if line.startswith('│')]
    assert [row[0] for row in rows] == ['BN', 'EN+fuse']
    for row in rows:
        # Of the kinds, ResNet-50 has all.
        assert len(row) == 9
        assert all(float(cell.split()[0]) > 0 for cell in row[1:])
    assert 'of the rest: ' in stdout


def test_profile_has_the_forward_of_the_layers():
    """The loops are no operators of PyTorch's, which its profiler lists."""
    script = """
import sys
sys.path.insert(0, 'benchmarks')
import mmnorm, torch
from profile_steps import spent_in
x, layer = torch.randn(4, 64, 128, 128), mmnorm.ExemplarNorm2d(64)
with torch.no_grad():
    layer(x)
    kinds, rest = spent_in(lambda: (layer(x), torch.relu(x)))
# Two passes, one that writes, beside one.
assert kinds['norms'] > kinds['activations and sums'] > 0, kinds
assert '__call__' not in vars(mmnorm.layers.base.LearnedNorm)
"""
    run('-c', script)


def test_objects_of_mask_rcnn():
    pytest.importorskip('mmdet.models')
    script = """
import sys
sys.path.insert(0, 'benchmarks')
import networks, torch
network, samples = networks.build_mask_rcnn_r50(dict(type='EN'), 64, 2, torch.device('cpu'))
kinds = {type(module).__name__ for module in network.modules()}
assert 'ExemplarNorm2d' in kinds and not any('BatchNorm' in kind for kind in kinds), kinds
for sample in samples:
    objects = sample.gt_instances
    assert len(objects.labels) == len(objects.masks) == 8
    assert 0 <= objects.bboxes.min() and objects.bboxes.max() <= 64
    assert (objects.masks.height, objects.masks.width) == (64, 64)
"""
    run('-c', script)


def test_networks_refuses():
    cases = {
        '--model resnet18': "invalid choice: 'resnet18'",
        '--norms XN': "invalid choice: 'XN'",
        **CUDA,
        '--amp float64': "invalid choice: 'float64'",
        '--batch -1': "'-1' is not a positive whole number",
        '--model deeplabv3_r50 --batch 1': 'BN does not train on the image pooling of a single image',
        '--norms GN --at-most EN=1': "'EN' is not measured; measured are BN, GN",
    }
    for line, expected in zip(refusals('networks', cases), cases.values(), strict=True):
        assert line.startswith('2 ')
        assert expected in line


def test_exported_refuses():
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    assert refusals('exported', ['--size 0'])[0].endswith("argument --size: '0' is not a positive whole number")
