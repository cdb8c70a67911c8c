"""tools/convert_checkpoint.py: what it writes, what it says, and that a refusal writes nothing."""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

import mmnorm

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def convert(capsys, monkeypatch):
    """Run the tool in this process; what it says on the stream that belongs to ``status``."""
    spec = importlib.util.spec_from_file_location('convert_checkpoint', ROOT / 'tools/convert_checkpoint.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments, status=0):
        monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', *map(str, arguments)])
        if status == 0:
            module.run(module.main)
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stopped:
            module.run(module.main)
        assert stopped.value.code == status
        message = capsys.readouterr().err
        assert message.startswith('error: ')
        return message

    return run


class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 1)
        self.bn1 = norm


def runner_checkpoint(model):
    """What mmengine's Runner saves: weights, and the state of the run with the buffers of its log."""
    hub = MessageHub.get_instance('test_convert_checkpoint')
    hub.update_scalar('train/loss', 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.conv1.weight.sum().backward()
    optimizer.step()
    return {
        'meta': {'epoch': 3, 'dataset_meta': {'classes': ('a', 'b')}},
        'state_dict': model.state_dict(),
        'message_hub': hub.state_dict(),
        'optimizer': optimizer.state_dict(),
    }


def published():
    sn = {'weight': torch.rand(1, 8, 1, 1), 'bias': torch.rand(1, 8, 1, 1)}
    sn |= {'running_mean': torch.rand(1, 8, 1), 'running_var': torch.rand(1, 8, 1)}
    sn |= {'mean_weight': torch.rand(3), 'var_weight': torch.rand(3)}
    return {'module.conv1.weight': torch.rand(8, 3, 1, 1), **{f'module.sn1.{key}': value for key, value in sn.items()}}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'source.pth'
    torch.save({'state_dict': published(), 'epoch': 7, 'best_prec1': torch.tensor(76.9)}, path)
    return path


@pytest.mark.parametrize('container', ['state_dict', 'model', 'net', None])
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_published(container, zipped, tmp_path, convert):
    """PyTorch 0.4, of which the published files are, had the legacy format."""
    state_dict = published()
    checkpoint = state_dict if container is None else {container: state_dict, 'step': 5}
    torch.save(checkpoint, tmp_path / 'in.pth', _use_new_zipfile_serialization=zipped)
    said = convert(tmp_path / 'in.pth', tmp_path / 'out.pth', '--codebase', 'mmpretrain')
    written = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert written['state_dict']['backbone.bn1.weight'].equal(state_dict['module.sn1.weight'].flatten())
    assert '-> backbone.bn1.weight' in said
    assert "norm_cfg=dict(type='SN')" in said
    assert ('not of the weights: step' in said) == (container is not None)


def test_two_parts(source, tmp_path, convert):
    torch.save({'conv_last.bias': torch.rand(150), 'extra.bias': torch.rand(1)}, tmp_path / 'decoder.pth')
    said = convert(source, tmp_path / 'decoder.pth', tmp_path / 'out.pth', '--codebase', 'mmseg', '--verbose')
    assert torch.load(tmp_path / 'out.pth')['state_dict'].keys() >= {'decode_head.conv_seg.bias', 'backbone.bn1.bias'}
    assert 'conv_last.bias -> decode_head.conv_seg.bias' in said
    assert '    extra.bias' in said.splitlines()


@pytest.mark.parametrize('cls', [mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d])
def test_to_batch_norm_and_back(cls, tmp_path, convert):
    checkpoint = runner_checkpoint(Net(cls(8)))
    torch.save(checkpoint, tmp_path / 'ours.pth')
    said = convert(tmp_path / 'ours.pth', tmp_path / 'bn.pth', '--to', 'BN')
    assert '2 not of the weights: message_hub, optimizer' in said
    plain = torch.load(tmp_path / 'bn.pth', weights_only=True)
    Net(nn.BatchNorm2d(8)).load_state_dict(plain['state_dict'], strict=True)
    assert plain['meta'] == checkpoint['meta']
    convert(tmp_path / 'bn.pth', tmp_path / 'again.pth', '--restore')
    again = torch.load(tmp_path / 'again.pth', weights_only=True)['state_dict']
    assert again.keys() == checkpoint['state_dict'].keys()
    assert all(value.equal(again[key]) for key, value in checkpoint['state_dict'].items())


def test_nothing_is_overwritten_without_force(source, tmp_path, convert):
    out = tmp_path / 'out.pth'
    out.write_text('mine')
    assert '--force' in convert(source, out, '--codebase', 'mmpretrain', status=2)
    assert out.read_text() == 'mine'
    convert(source, out, '--codebase', 'mmpretrain', '--force')
    assert 'backbone.conv1.weight' in torch.load(out)['state_dict']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.pth', 'source.pth']


def test_a_write_that_fails_leaves_the_old_file(source, tmp_path, convert, monkeypatch):
    out = tmp_path / 'out.pth'
    out.write_text('mine')

    def save(checkpoint, file):
        file.write(b'half of it')
        raise OSError('No space left on device')

    monkeypatch.setattr(torch, 'save', save)
    assert 'No space left' in convert(source, out, '--codebase', 'mmpretrain', '--force', status=2)
    assert out.read_text() == 'mine'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.pth', 'source.pth']


def truncated(path):
    torch.save({'state_dict': published()}, path)
    path.write_bytes(path.read_bytes()[:2000])


def truncated_legacy(path):
    torch.save({'state_dict': published()}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-100])


BROKEN = {
    'missing': (lambda path: None, 'not found'),
    'truncated': (truncated, 'checkpoint is truncated'),
    'truncated legacy': (truncated_legacy, 'checkpoint is truncated'),
    'text': (lambda path: path.write_text('<html>Sign in</html>'), 'was not written by torch.save'),
    'empty': (lambda path: path.touch(), 'checkpoint is empty'),
    'pickled objects': (
        lambda path: torch.save({'state_dict': published(), 'args': argparse.Namespace(lr=1)}, path),
        'more than data, namely argparse.Namespace',
    ),
    'a whole model': (
        lambda path: torch.save(Net(nn.BatchNorm2d(8)), path),
        'more than data, namely test_convert_checkpoint.Net',
    ),
    'a tensor': (lambda path: torch.save(torch.ones(3), path), 'expected a dict, got a Tensor'),
    'no weights': (lambda path: torch.save({'epoch': 3}, path), "'epoch' is a int"),
    'nothing': (lambda path: torch.save({'state_dict': {}}, path), 'it is empty'),
    'another network': (lambda path: torch.save(Net(nn.BatchNorm2d(8)).state_dict(), path), 'no SN'),
}


@pytest.mark.parametrize(('make', 'message'), BROKEN.values(), ids=BROKEN)
def test_broken_source(make, message, tmp_path, convert):
    make(tmp_path / 'in.pth')
    said = convert(tmp_path / 'in.pth', tmp_path / 'out.pth', '--codebase', 'mmdet', status=2)
    assert message in said
    assert 'in.pth' in said
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--to', 'BN'], 'no EN, ILM, SN, SSN, '),
        (['--restore'], 'does not keep the learned norms'),
    ],
)
def test_wrong_direction(options, message, tmp_path, convert):
    torch.save({'state_dict': Net(nn.BatchNorm2d(8)).state_dict()}, tmp_path / 'in.pth')
    assert message in convert(tmp_path / 'in.pth', tmp_path / 'out.pth', *options, status=2)
    assert message not in convert(tmp_path / 'in.pth', tmp_path / 'in.pth', tmp_path / 'out.pth', *options, status=2)
    assert 'is not a file in a folder' in convert(tmp_path / 'in.pth', tmp_path / 'no/out.pth', *options, status=2)
    assert not (tmp_path / 'out.pth').exists()
