"""ChannelsLastHook: the format is that of convolutions and norms, what is learned is the same."""

import norm_runner
import pytest
import torch
from norm_runner import NormModel
from torch import nn

import mmnorm

FORMAT = torch.channels_last


def net(norm):
    def build(channels):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(channels, 8, 3), norm(8), nn.Conv2d(8, 8, 2))

    return NormModel(build)


def train(work_dir, norm, hooks, seen):
    model = net(norm)
    model.norm[1].register_forward_hook(lambda *call: seen.append(call[-1].is_contiguous(memory_format=FORMAT)))
    norm_runner.train(work_dir, model, 6, hooks, save_every=3)
    return torch.load(work_dir / 'iter_6.pth', weights_only=False)['state_dict']


@pytest.mark.parametrize('norm', [nn.BatchNorm2d, mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d])
def test_format_and_weights(tmp_path, norm):
    last, plain = [], []
    found = train(tmp_path / 'last', norm, [dict(type='ChannelsLastHook')], last)
    expected = train(tmp_path / 'plain', norm, [], plain)
    assert last == [True] * 6
    assert plain == [False] * 6
    assert found['norm.0.weight'].is_contiguous(memory_format=FORMAT)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
