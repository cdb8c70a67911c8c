"""The norm of docs/extending.md is known to configs, to the recorder and its figures, to curves and costs."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / 'docs/extending.md'

CHECKS = """
import torch
from mmcv.cnn import build_norm_layer
from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mmnorm.analysis import load_record, record, save_record
from mmnorm.analysis.figures.weights import parts_figure, weights_figure
from mmnorm.analysis.norm_flops import norm_flops
from mmnorm.cli.defaults import has_learned_norms
from mmnorm.convert.configs import parse_norm

assert build_norm_layer(dict(type='BIN', eps=1e-3), 8, postfix=1)[0] == 'bn1'
assert parse_norm('BIN(momentum=0.2)') == dict(type='BIN', momentum=0.2)
assert has_learned_norms(Config(dict(model=dict(norm_cfg=dict(type='BIN')))))

model = nn.Sequential(nn.Conv2d(3, 8, 3), mmnorm.registry.NAMES['BIN'](8), nn.ReLU())
nn.init.constant_(model[1].gate, 0.75)
assert model[1].tags() == ['mean_BN', 'mean_IN', 'var_BN', 'var_IN']
assert model[1].summary().tolist() == [[0.75, 0.25, 0.75, 0.25]]
assert norm_flops(model[1], (2, 8, 5, 5)).coefficients > norm_flops(nn.BatchNorm2d(8), (2, 8, 5, 5)).coefficients
save_record(record(model, DataLoader(TensorDataset(torch.randn(4, 3, 9, 9)), 2), progress=False), 'record.npz')
recorded = load_record('record.npz')
(layer,) = recorded.layers
assert (layer.norm, layer.learns, layer.normalizers) == ('BIN', 'weights', ('BN', 'IN'))
weights_figure(recorded).savefig('weights.png')
parts_figure(recorded).savefig('parts.png')
"""


def test_own_norm(tmp_path):
    # In a process of its own: what is registered stays.
    norm = re.search(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)[1]
    command = [sys.executable, '-c', norm + CHECKS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.iterdir()} == {'record.npz', 'weights.png', 'parts.png'}
