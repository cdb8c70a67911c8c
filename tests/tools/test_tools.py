"""tools/train.py and tools/test.py: the codebases they serve, several processes, and what they say when things miss."""

import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
DEMO = 'configs/demo/deeplab_en_r18_digits.py'
SHORT = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']


def data_root(digits):
    root = digits / 'ade/ADEChallengeData2016'
    return [f'{loader}_dataloader.dataset.data_root={root}' for loader in ('train', 'val', 'test')]


def test_classification_config_of_mmpretrain(digits, tool, tmp_path):
    config = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
    options = ['model.backbone.norm_cfg.type=EN', 'model.head.num_classes=10', 'model.head.topk=(1,)']
    for loader, split in {'train': 'train', 'val': 'val', 'test': 'val'}.items():
        options += [
            f'{loader}_dataloader.dataset.data_root={digits / "imagenet"}',
            f'{loader}_dataloader.dataset.ann_file=meta/{split}.txt',
            f'{loader}_dataloader.dataset.data_prefix={split}',
            f'{loader}_dataloader.dataset.split=',
            f'{loader}_dataloader.batch_size=4',
            f'{loader}_dataloader.num_workers=1',
        ]
    options += ['val_evaluator.topk=(1,)', 'test_evaluator.topk=(1,)', 'train_cfg.max_epochs=1']
    tool('train.py', config, '--work-dir', tmp_path, '--cfg-options', *options)
    state_dict = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert state_dict['backbone.layer4.1.bn2.fc1_weight'].shape == (150, 9)
    out = tmp_path / 'metrics.json'
    evaluate = [config, tmp_path / 'epoch_1.pth', '--work-dir', tmp_path, '--out', out]
    for flags in ([], ['--tta', '--batch-average', 2]):
        output = tool('test.py', *evaluate, *flags, '--cfg-options', *options)
        assert ('Batch average over 2 training batches' in output) == ('--batch-average' in flags)
        assert 'accuracy/top1' in json.loads(out.read_text())


def test_two_processes(digits, tool, tmp_path):
    options = ['--cfg-options', *data_root(digits), *SHORT]
    output = tool('dist_train.sh', DEMO, 2, '--work-dir', tmp_path, *options)
    assert 'mIoU' in output
    assert 'Distributed training: True' in output
    assert 'GPU number: 2' in output
    output = tool('dist_test.sh', DEMO, tmp_path / 'iter_2.pth', 2, '--work-dir', tmp_path, *options)
    assert 'mIoU' in output
    assert 'usage' in tool('dist_train.sh', DEMO, status=2)
    assert 'usage' in tool('dist_test.sh', DEMO, 'x.pth', status=2)


@pytest.mark.parametrize('arguments', [['train.py', DEMO], ['test.py', DEMO, __file__]], ids=['train', 'test'])
def test_no_traceback_from_the_command_line(tool, arguments):
    loader = arguments[0].replace('.py', '')
    output = tool(*arguments, '--cfg-options', f'{loader}_dataloader.dataset.data_root=/nowhere', status=2)
    assert 'error: data not found: /nowhere' in output
    assert 'Traceback' not in output


def test_missing_config(refuse):
    message = refuse('train', 'configs/missing.py')
    assert f'config not found: {ROOT}/configs/missing.py' in message


def test_broken_config(refuse, tmp_path):
    config = tmp_path / 'broken.py'
    config.write_text('model = dict(type=\n')
    assert f'{config} cannot be read' in refuse('train', config)


@pytest.mark.parametrize('scope', ['mmnothing', 'mmdet3d'])
def test_missing_codebase(refuse, tmp_path, scope):
    config = tmp_path / 'config.py'
    config.write_text(f"default_scope = '{scope}'\n")
    assert f'is written for {scope}, which is not installed: install {scope}' in refuse('train', config)
    assert f'{scope}, which is not installed' in refuse('train', f'{scope}::a/b.py')
    config.write_text(f"_base_ = '{scope}::_base_/default_runtime.py'\n")
    message = refuse('train', config)
    assert scope in message
    config.write_text('model = dict()\n')
    assert 'no default_scope; expected one of mmseg, mmdet, mmpretrain' in refuse('train', config)


def test_missing_data(refuse, digits, tmp_path):
    message = refuse('train', 'configs/deeplab_en_r50.py', '--work-dir', tmp_path / 'work')
    assert f'data not found: {ROOT}/data/ade/ADEChallengeData2016' in message
    assert 'train_dataloader.dataset.data_root=PATH' in message
    assert 'ADE20KDataset' in message
    assert not (tmp_path / 'work').exists(), 'nothing is written before the checks'
    coco = [f'{loader}_dataloader.dataset.data_root={digits / "coco"}' for loader in ('train', 'val')]
    message = refuse('train', 'configs/mask_rcnn_sn_r50_fpn.py', '--cfg-options', *coco)
    assert 'annotations not found' in message
    assert 'val_evaluator.ann_file=PATH' in message
    message = refuse(
        'train', DEMO, '--cfg-options', *data_root(digits), 'val_dataloader.dataset.data_prefix.img_path=x'
    )
    assert 'data_prefix.img_path of val_dataloader.dataset' in message


def test_missing_checkpoints(refuse, digits):
    options = ['--cfg-options', *data_root(digits)]
    assert 'checkpoint not found: /no/c.pth (from --resume)' in refuse('train', DEMO, '--resume', '/no/c.pth', *options)
    assert 'checkpoint not found: /no/c.pth (from the command line)' in refuse('test', DEMO, '/no/c.pth', *options)
    assert '(from load_from)' in refuse('train', DEMO, *options, 'load_from=/no/c.pth')
    pretrained = ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=/no/c.pth']
    message = refuse('train', DEMO, *options, *pretrained)
    assert 'checkpoint not found: /no/c.pth (from model.backbone.init_cfg.checkpoint)' in message
    assert 'model.backbone.init_cfg=None' in message


def test_download_that_fails(refuse, digits, tmp_path):
    # Port 9 of this machine answers at once: with a refusal.
    url = 'http://127.0.0.1:9/resnet50.pth'
    pretrained = ['model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={url}']
    message = refuse('train', DEMO, '--work-dir', tmp_path, '--cfg-options', *data_root(digits), *pretrained)
    assert f'could not download {url}' in message
    assert 'model.backbone.init_cfg=None' in message


def test_start_that_is_not_there(refuse, digits, tmp_path, monkeypatch):
    """A headline config as it stands, in a place without internet and with nothing in the cache: one message."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    for proxy in ('http_proxy', 'https_proxy'):
        monkeypatch.setenv(proxy, 'http://127.0.0.1:9')
    config, key = 'configs/deeplab_en_r50.py', 'model.backbone.init_cfg'
    choices = [f'{key}.checkpoint=PATH', f'{key}.checkpoint=torchvision://resnet50', f'{key}=None']
    options = ['--work-dir', tmp_path, '--cfg-options', *data_root(digits)]
    message = refuse('train', config, *options)
    assert f'could not download torchvision://resnet50 (from {key})' in message
    for choice in choices:
        assert message.count(choice) == 1
    message = refuse('train', config, *options, f'{key}.checkpoint=/no/c.pth')
    assert f'checkpoint not found: /no/c.pth (from {key}.checkpoint)' in message
    for choice in choices:
        assert message.count(choice) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason='what a machine without a GPU is told')
def test_what_needs_a_gpu(refuse, digits):
    options = ['--cfg-options', *data_root(digits)]
    assert '--amp needs a GPU' in refuse('train', DEMO, '--amp', *options)
    assert '--launcher slurm needs GPUs' in refuse('train', DEMO, '--launcher', 'slurm', *options)
    assert 'use tools/dist_train.sh' in refuse('train', DEMO, '--launcher', 'pytorch', *options)


def test_options_that_make_no_sense(refuse, digits):
    options = ['--cfg-options', *data_root(digits)]
    assert 'no auto_scale_lr.base_batch_size' in refuse('train', DEMO, '--auto-scale-lr', *options)
    assert '--out expects a .json file, got x.pkl' in refuse('test', DEMO, 'c.pth', '--out', 'x.pkl')
    average = ['test', DEMO, __file__, '--batch-average']
    assert 'expected at least 1 training batch, got 0' in refuse(*average, 0, *options)
    assert 'has no train_dataloader' in refuse(*average, 2, *options[:1], *options[2:], 'train_dataloader=None')
    assert 'no tta_pipeline' in refuse('test', DEMO, __file__, '--tta', *options, 'tta_pipeline=None')
    assert 'no default_hooks.visualization' in refuse(
        'test', DEMO, __file__, '--show-dir', 'x', *options, 'default_hooks.visualization=None'
    )


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('train', ['configs/mask_rcnn_en_r50_fpn.py']),
        ('test', ['configs/mask_rcnn_en_r50_fpn.py', __file__]),
        ('complexity', ['configs/mask_rcnn_en_r50_fpn.py']),
        ('sweep_configs', ['mmdet']),
        ('pipeline', ['--out', 'work_dirs/never']),
    ],
)
def test_operators_that_are_not_there(no_operators, refuse, monkeypatch, name, arguments):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    assert 'type: make env' in refuse(name, *arguments)
    assert not Path('work_dirs/never').exists()
