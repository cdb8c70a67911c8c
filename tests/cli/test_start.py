"""Checkpoints that are damaged, foreign or incomplete are refused with a reason; whole ones are written, or none."""

import io
import os
import tarfile
from collections import OrderedDict

import mmseg.models  # noqa: F401  registers its backbones
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.fileio import get_file_backend
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope

import mmnorm
from mmnorm.cli.defaults import DEFAULTS, add_training_defaults, has_learned_norms
from mmnorm.cli.start import check_prefixes, check_weights, latest_checkpoint
from mmnorm.errors import UsageError


@MODELS.register_module(name='CheckpointTestNet')
class Net(torch.nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, channels, 1), mmnorm.ExemplarNorm2d(channels))
        self.head = torch.nn.Linear(channels, 2)


MODEL = ConfigDict(type='CheckpointTestNet')


def full(channels=4, **more):
    meta = dict(epoch=1, iter=5, seed=3)
    return dict(state_dict=Net(channels).state_dict(), meta=meta, message_hub={}, optimizer={}, **more)


@pytest.fixture
def refusal(tmp_path):
    def check(content, resume=False):
        path = tmp_path / 'c.pth'
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        before = path.read_bytes()
        with pytest.raises(UsageError) as raised:
            check_weights(MODEL, str(path), 'load_from', resume)
        assert path.read_bytes() == before
        assert str(path) in str(raised.value)
        return str(raised.value)

    return check


def saved(content, path, **kwargs):
    torch.save(content, path, **kwargs)
    return path.read_bytes()


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('part', [0.02, 0.5, 0.999])
def test_truncated(refusal, tmp_path, part, legacy):
    whole = saved(full(), tmp_path / 'whole.pth', _use_new_zipfile_serialization=not legacy)
    assert 'checkpoint is truncated' in refusal(whole[: int(part * len(whole))])


def test_no_checkpoint_at_all(refusal):
    assert 'checkpoint is empty' in refusal(b'')
    assert 'was not written by torch.save' in refusal(b'<html>404</html>')
    assert 'expected a dict, got a list' in refusal([torch.zeros(1)])
    assert 'before PyTorch 0.2 (tar)' in refusal(tar())
    assert 'no weights in' in refusal(dict(meta=dict(epoch=1)))
    assert 'it has meta, state_dict' in refusal(dict(meta={}, state_dict={}))


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        archive.addfile(tarfile.TarInfo('\x80storages'))
    return file.getvalue()


@pytest.mark.parametrize('resume', [False, True])
def test_more_than_data(refusal, resume):
    message = refusal(full(extra=Net()), resume)
    assert '(from load_from) is not read: it holds more than data, namely test_start.Net,' in message
    assert 'give --trust-checkpoint' in message


def test_foreign(refusal):
    message = refusal(dict(state_dict={'stem.weight': torch.zeros(1)}))
    assert 'of another model: none of its 1 weights' in message
    assert 'It has stem.weight; the model has backbone.0.weight, backbone.0.bias, backbone.1.weight, ...' in message
    message = refusal(Net().backbone.state_dict())
    assert 'They fit its backbone' in message
    assert 'model.backbone.init_cfg.checkpoint=' in message


def test_not_to_resume_from(refusal):
    message = refusal(dict(state_dict=Net().state_dict(), meta=dict(epoch=1)), resume=True)
    assert 'it has no meta.iter, message_hub, optimizer' in message
    assert 'load_from=PATH' in message
    assert 'have another shape: backbone.0.weight has (8, 3, 1, 1), the model (4, 3, 1, 1)' in refusal(
        full(channels=8), resume=True
    )
    content = full()
    del content['state_dict']['head.bias']
    assert 'lacks 1 of' in refusal(content, resume=True)


def test_accepted(tmp_path):
    path = tmp_path / 'c.pth'
    contents = [
        full(),
        Net().state_dict(),
        OrderedDict((f'module.{name}', value) for name, value in Net().state_dict().items()),
        dict(state_dict={'head.weight': torch.zeros(9, 9), 'other': torch.zeros(1)}),
    ]
    for content in contents:
        torch.save(content, path)
        assert check_weights(MODEL, str(path), 'load_from') is not None
    torch.save(full(), path, _use_new_zipfile_serialization=False)
    assert check_weights(MODEL, str(path), 'load_from', resume=True)['meta']['seed'] == 3
    torch.save(full(extra=Net()), path)
    assert check_weights(MODEL, str(path), '--resume', resume=True, trust=True)['meta']['seed'] == 3
    assert check_weights(MODEL, 'https://nowhere/c.pth', 'load_from') is None
    # A model that can't be built just for that.
    torch.save(full(), path)
    assert check_weights(ConfigDict(type='NoSuchModel'), str(path), 'load_from') is not None


@MODELS.register_module(name='CheckpointTestBackbone')
class Backbone(BaseModule):
    pass


@MODELS.register_module(name='CheckpointTestRenamer')
class Renamer(BaseModule):
    def init_weights(self):
        """Has names of its own."""


def test_prefixes(tmp_path):
    whole, alone = str(tmp_path / 'whole.pth'), str(tmp_path / 'alone.pth')
    torch.save(full(), whole)
    torch.save(Net().backbone.state_dict(), alone)

    def check(path, kind='CheckpointTestBackbone', **more):
        init_cfg = dict(type='Pretrained', checkpoint=path, **more)
        check_prefixes(Config(dict(model=dict(type='Any', backbone=dict(type=kind, init_cfg=init_cfg)))))

    check(whole, prefix='backbone.')
    check(whole, prefix='backbone')
    check(alone)
    check(alone, prefix=None)
    check(whole, kind='CheckpointTestRenamer')
    check('https://example.com/r50.pth')
    with pytest.raises(
        UsageError, match=r"whole model.*'backbone\.'.* --cfg-options model.backbone.init_cfg.prefix=backbone."
    ):
        check(whole)
    with DefaultScope.overwrite_default_scope('mmseg'), pytest.raises(UsageError, match='whole model'):
        check(whole, kind='ResNetV1c')
    with pytest.raises(
        UsageError, match=r"no weights under model.backbone.init_cfg.prefix='backbone.': it has 0.weight"
    ):
        check(alone, prefix='backbone.')


def test_latest(tmp_path):
    assert latest_checkpoint(str(tmp_path)) is None
    for name in ('iter_2', 'iter_10', 'best_mIoU_iter_12'):
        torch.save(full(), tmp_path / f'{name}.pth')
    (tmp_path / 'iter_14.pth').write_bytes((tmp_path / 'iter_10.pth').read_bytes()[:-9])
    note = tmp_path / 'last_checkpoint'
    newest = str(tmp_path / 'iter_10.pth')
    assert latest_checkpoint(str(tmp_path)) == newest
    note.write_text('')
    assert latest_checkpoint(str(tmp_path)) == newest
    note.write_text(f'{tmp_path}/iter_2.pth')
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_2.pth')
    note.write_text('/where/it/was/before/iter_2.pth')
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_2.pth')
    note.write_text('/gone/iter_4.pth')
    assert latest_checkpoint(str(tmp_path)) == '/gone/iter_4.pth', 'the caller says that it is missing'


def test_atomic_backend(tmp_path, monkeypatch):
    backend = get_file_backend(str(tmp_path), backend_args=dict(backend='atomic'))
    path, old = tmp_path / 'new' / 'iter_4.pth', tmp_path / 'iter_2.pth'
    old.write_bytes(b'old')
    get_file_backend(str(tmp_path), backend_args=dict(backend='atomic')).remove(str(old))
    assert old.exists(), 'until the next one is complete'
    backend.put(b'whole', str(path))
    assert path.read_bytes() == b'whole'
    assert not old.exists()

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', kill)
    with pytest.raises(KeyboardInterrupt):
        backend.put(b'half', str(path))
    assert path.read_bytes() == b'whole'
    with pytest.raises(FileNotFoundError):
        backend.remove(str(old))


def config(norm='EN', **more):
    return Config(
        dict(
            model=dict(backbone=dict(type='ResNet', norm_cfg=dict(type=norm))),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook')),
            **more,
        )
    )


def test_defaults():
    cfg = config()
    add_training_defaults(cfg)
    assert [hook.type for hook in cfg.custom_hooks] == ['NormEvalHook', 'ExactResumeHook']
    assert cfg.optim_wrapper.constructor == 'LearnedNormOptimWrapperConstructor'
    assert cfg.default_hooks.checkpoint.backend_args == dict(backend='atomic')
    assert cfg.custom_imports.imports == ['mmnorm']
    again = Config.fromstring(cfg.dump(), '.py')
    add_training_defaults(again)
    assert again.to_dict() == cfg.to_dict(), 'once, also from the dumped config'


@pytest.mark.parametrize(
    'model',
    [
        dict(type='NormConverted', model_type='EncoderDecoder', norm=dict(type='EN')),
        dict(type='mmnorm.NormConverted'),
        dict(type='A', heads=[dict(type='B', norm_cfg=dict(type='mmnorm.SN2d'))]),
        dict(type='A', neck=dict(norm_cfg=dict(type=mmnorm.InstanceMetaNorm1d))),
    ],
    ids=str,
)
def test_learned_norms_are_found_in_a_config(model):
    assert has_learned_norms(Config(dict(model=model)))


@pytest.mark.parametrize('norm', ['BN', 'SyncBN', 'mmseg.EN'])
def test_a_run_without_learned_norms_stays_as_it_is(norm):
    cfg = config(norm)
    before = cfg.to_dict()
    add_training_defaults(cfg)
    assert cfg.to_dict() == before
    add_training_defaults(cfg, with_=['exact-resume'])
    assert [hook.type for hook in cfg.custom_hooks] == ['ExactResumeHook']
    assert cfg.custom_imports.imports == ['mmnorm']
    assert 'constructor' not in cfg.optim_wrapper
    assert 'backend_args' not in cfg.default_hooks.checkpoint


@pytest.mark.parametrize('name', DEFAULTS)
def test_each_default_can_be_left_out(name):
    whole, without, nothing = config(), config(), config()
    add_training_defaults(whole)
    add_training_defaults(without, without=[name])
    assert whole.to_dict() != without.to_dict()
    DEFAULTS[name](without)
    normal = [sorted(hook.type for hook in cfg.custom_hooks) for cfg in (whole, without)]
    assert normal[0] == normal[1]
    add_training_defaults(nothing, without=list(DEFAULTS))
    assert nothing.to_dict() == config().to_dict()
    with pytest.raises(UsageError, match=f'--with and --without both name {name}'):
        add_training_defaults(nothing, with_=[name], without=[name])


def test_what_a_config_says_itself_stays():
    cfg = config(
        custom_hooks=[dict(type='NumClassCheckHook'), dict(type='NormEvalHook')],
        custom_imports=dict(imports=['other'], allow_failed_imports=True),
    )
    cfg.optim_wrapper.constructor = 'LearningRateDecayOptimWrapperConstructor'
    cfg.default_hooks.checkpoint.out_dir = 's3://bucket'
    add_training_defaults(cfg)
    assert [hook.type for hook in cfg.custom_hooks] == ['NumClassCheckHook', 'NormEvalHook', 'ExactResumeHook']
    assert cfg.custom_imports == dict(imports=['other', 'mmnorm'], allow_failed_imports=True)
    assert cfg.optim_wrapper.constructor == 'LearningRateDecayOptimWrapperConstructor'
    assert 'backend_args' not in cfg.default_hooks.checkpoint
    several = Config(
        dict(model=dict(type='SN'), optim_wrapper=dict(constructor='Many', generator={}, discriminator={}))
    )
    add_training_defaults(several)
    assert several.optim_wrapper.constructor == 'Many'
