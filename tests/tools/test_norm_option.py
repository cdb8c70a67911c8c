"""--norm of tools/train.py and tools/test.py: runs, what is dumped, and what is refused."""

import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmnorm import ExemplarNorm2d, SwitchableNorm2d
from mmnorm.cli import launch
from mmnorm.commands import check
from mmnorm.errors import UsageError
from mmnorm.registry import NORMS

ROOT = Path(__file__).resolve().parents[2]
DEMO = 'configs/demo/deeplab_bn_r18_digits.py'
SYNC_BN = ['model.backbone.norm_cfg.type=SyncBN', 'model.decode_head.norm_cfg.type=SyncBN']
SHORT = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']
QUICK = ['train_dataloader.batch_size=4', 'model.backbone.base_channels=16', 'model.backbone.stem_channels=16']
NARROW = ['model.decode_head.in_channels=[16,32,64,128]', 'model.decode_head.channels=240']


@pytest.fixture
def main(monkeypatch):
    """Run a tool in this process, as the command line would."""

    def run(name, *arguments):
        spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / f'tools/{name}.py')
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up.
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        # The layout of the dumped config takes longer than the training.
        monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))
        module.main()

    return run


def options(digits):
    root = digits / 'ade/ADEChallengeData2016'
    loaders = ('train', 'val', 'test')
    settings = (f'dataset.data_root={root}', 'num_workers=0', 'persistent_workers=False')
    data = [f'{loader}_dataloader.{setting}' for loader in loaders for setting in settings]
    return ['--cfg-options', *data, *SYNC_BN, *SHORT, *QUICK, *NARROW]


def weights(path):
    return torch.load(path, weights_only=False)['state_dict']


def test_dumped_config_is_the_run(digits, main, tmp_path):
    """A SyncBN config, on the CPU, with another norm; then what was dumped, without the option."""
    norm = ['--norm', 'EN(reduction=16)', '--norm-scope', 'backbone']
    main('train', DEMO, '--work-dir', tmp_path / 'a', *norm, *options(digits))
    dumped = tmp_path / 'a' / Path(DEMO).name
    main('train', dumped, '--work-dir', tmp_path / 'b')
    first, second = (weights(tmp_path / run / 'iter_2.pth') for run in 'ab')
    assert first['backbone.layer1.0.bn1.conv_weight'].shape == (1, 16)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key

    checkpoint = tmp_path / 'a/iter_2.pth'
    scores = []
    for name, arguments in {'option': [DEMO, *norm, *options(digits)], 'dumped': [dumped]}.items():
        out = tmp_path / f'{name}.json'
        main('test', arguments[0], checkpoint, '--work-dir', tmp_path / name, '--out', out, *arguments[1:])
        scores.append(json.loads(out.read_text())['mIoU'])
    assert scores[0] == scores[1]


def test_plain_sync_bn_trains_on_the_cpu(digits, main, tmp_path):
    main('train', DEMO, '--work-dir', tmp_path, *options(digits))
    assert 'backbone.layer1.0.bn1.running_mean' in weights(tmp_path / 'iter_2.pth')


def load(config, norm=None, scope=None, cfg_options=None, **more):
    arguments = dict(config=config, norm=norm, norm_scope=scope, cfg_options=cfg_options, work_dir='unused', fuse=False)
    return launch.load_config(Namespace(**arguments, launcher='none', local_rank=0, trust_checkpoint=False, **more))[0]


@pytest.mark.parametrize(
    'config',
    [
        'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
    ],
)
def test_configs_of_the_codebases(config, tmp_path):
    """Also: overrides of the model still find their keys, and a dumped config takes another norm."""
    cfg = load(config, norm='EN', scope='backbone', cfg_options={'model.backbone.frozen_stages': 1})
    cfg.dump(tmp_path / 'dumped.py')
    cfg = load(str(tmp_path / 'dumped.py'), cfg_options={'model.backbone.norm_eval': True})
    model = MODELS.build(cfg.model).train()
    norms = [m for m in model.modules() if isinstance(m, ExemplarNorm2d)]
    assert len(norms) > 50
    assert all(norm.norm_eval for norm in norms)
    assert sum(not p.requires_grad for norm in norms[:1] for p in norm.parameters()) == 7
    cfg = load(str(tmp_path / 'dumped.py'), norm='SN')
    model = MODELS.build(cfg.model)
    assert sum(isinstance(m, SwitchableNorm2d) for m in model.modules()) >= len(norms)


def test_weights_of_batch_norm_are_a_start_next_to_it(monkeypatch):
    said = []
    monkeypatch.setattr(launch, 'print_log', lambda text, logger: said.append(text))
    near = (0.01, 0.01, 0.98)
    pspnet = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    # Its 'pretrained' is a checkpoint of the hub.
    assert load(pspnet, norm='EN').model.norm == dict(type='EN', init_ratios=near)
    assert 'EN starts next to BN, init_ratios=(0.01, 0.01, 0.98)' in said.pop()
    assert load(pspnet, norm='EN', cfg_options={'model.pretrained': None}).model.norm == dict(type='EN')
    assert not said
    assert load(pspnet, norm='EN(init_ratios=None)').model.norm == dict(type='EN', init_ratios=None)
    cfg = load('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', norm='SN(momentum=0.2)', scope='backbone')
    assert cfg.model.norm == dict(type='SN', momentum=0.2, init_ratios=near)
    cfg.model.backbone.init_cfg = None
    norm = MODELS.build(cfg.model).backbone.layer3[0].bn2
    assert norm.importance_weights()[0].tolist() == pytest.approx(near, abs=1e-6)


def test_config_of_the_new_style_needs_no_default_scope(tmp_path):
    (tmp_path / 'new.py').write_text(
        'from mmpretrain.models import ImageClassifier, LinearClsHead, VGG\n'
        'backbone = dict(type=VGG, depth=11, norm_cfg=dict(type="BN"))\n'
        'head = dict(type=LinearClsHead, num_classes=2, in_channels=9)\n'
        'model = dict(type=ImageClassifier, backbone=backbone, head=head)\n'
        'default_scope = None\n'
    )
    for norm in (None, 'EN'):
        cfg = load(str(tmp_path / 'new.py'), norm=norm)
        assert cfg.default_scope == 'mmpretrain'
    cfg.dump(tmp_path / 'dumped.py')
    dumped = load(str(tmp_path / 'dumped.py'))
    model = MODELS.build(dumped.model)
    assert sum(isinstance(m, ExemplarNorm2d) for m in model.modules()) == 8


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(norm='XYZ'), "--norm: unknown norm 'XYZ': expected EN, ILM, SN, SSN"),
        (dict(norm='EN(reduction=0)'), '--norm: EN does not take'),
        (dict(scope='backbone'), 'give --norm too'),
    ],
)
def test_refused_before_anything_is_built(arguments, message):
    with pytest.raises(UsageError) as error:
        load(str(ROOT / DEMO), **arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('config', 'arguments', 'message'),
    [
        (DEMO, ['--norm', 'EN', '--norm-scope', 'backbone,nek'], 'nek'),
        ('configs/demo/deeplab_en_r18_digits.py', ['--norm', 'SN', '--norm-scope', 'backbone'], 'BatchNorm'),
    ],
)
def test_refused_once_the_model_is_there(config, arguments, message, digits, main, tmp_path):
    with pytest.raises(UsageError) as error:
        main('train', config, '--work-dir', tmp_path, *arguments, *options(digits)[:10])
    assert message in str(error.value)
    assert not list(tmp_path.rglob('*.pth'))


def test_sweep(tool, tmp_path):
    out = tmp_path / 'report.txt'
    output = tool('sweep_configs.py', 'mmpretrain', '--filter', 'resnet18_8xb', '--output', out)
    *_, last = out.read_text().splitlines()
    configs, _, _, built, have, *ours = map(int, last.split()[1:])
    assert configs == built == have > 1
    assert ours == [have] * len(NORMS)
    assert last in output


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--filter', 'nothing-like-this'], "no config has 'nothing-like-this' in its path"),
        (['mmfoo'], 'unknown codebase mmfoo; expected mmseg, mmdet, mmpretrain'),
        (['--jobs', '0'], '--jobs expects a positive number, got 0'),
        (['--fuse', '--swap-type'], '--fuse goes with --norm, which is the default here; leave out --swap-type'),
    ],
)
def test_sweep_refuses(arguments, message, main):
    with pytest.raises(UsageError) as error:
        main('sweep_configs', *arguments)
    assert str(error.value).endswith(message)


def test_sweep_fuses(main, capsys):
    with pytest.raises(SystemExit) as end:
        main('sweep_configs', 'mmpretrain', '--filter', 'resnet18_8xb32_in1k', '--fuse', '--norms', 'SN', 'EN')
    output = capsys.readouterr().out
    assert not end.value.code, output
    # All but those of the shortcuts, which the sum follows as its other part.
    assert '17 of 20 learned norms do what follows them' in output
    assert '1 x nothing that could be part of its pass follows it in its Sequential' in output


def test_sweep_says_what_breaks_fused():
    class Renames(torch.nn.Sequential):
        """Another name in the state dict once it is fused."""

        def state_dict(self, *args, **kwargs):
            state = super().state_dict(*args, **kwargs)
            return state if type(self) is Renames else {'renamed': state.popitem()[1], **state}

    with pytest.raises(RuntimeError, match='names in the state dict have changed'):
        check.fuse_and_undo(Renames(SwitchableNorm2d(4), torch.nn.ReLU()))


def test_sweep_says_what_fails():
    bad = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18, norm_cfg=dict(type='BN', eps=-1)))
    launch.checks.check_codebase(Config(dict()), 'mmpretrain')
    found = check.try_model(Config(dict(model=bad)), check.Ways(tuple(NORMS)))
    assert found['error'] is None
    assert found['num_bn'] == 20
    assert found['failed'].keys() == NORMS.keys()
    lines = []
    assert not check.report([check.Result('mmpretrain/a.py', **found)], tuple(NORMS), lines.append)
    assert 'FAILS with EN: mmpretrain/a.py' in '\n'.join(lines)
    assert lines[-1].split() == ['all', '1', '0', '0', '1', '1', *['0'] * len(NORMS)]


def test_fuse(digits, main, tmp_path):
    """The run is fused, its config says so, and its checkpoint is that of any run."""
    main('train', DEMO, '--norm', 'EN', '--fuse', '--work-dir', tmp_path / 'fused', *options(digits))
    main('train', DEMO, '--norm', 'EN', '--work-dir', tmp_path / 'alone', *options(digits))
    dumped = tmp_path / 'fused' / Path(DEMO).name
    assert [hook.type for hook in Config.fromfile(dumped).custom_hooks].count('FuseHook') == 1
    log = next((tmp_path / 'fused').glob('*/*.log')).read_text()
    assert 'FuseHook: 17 of 20 learned norms do what follows them' in log
    fused, alone = (weights(tmp_path / name / 'iter_2.pth') for name in ('fused', 'alone'))
    assert list(fused) == list(alone)
    for name, value in alone.items():
        torch.testing.assert_close(fused[name], value, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f'{n}: {text}')
    main('test', dumped, tmp_path / 'fused/iter_2.pth', '--work-dir', tmp_path / 'test')
