"""tools/analyze_norm.py doctor: from the user's end, with and without data; its lines as a user would copy them."""

import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmnorm.datasets import write_layout
from mmnorm.datasets.writers import IMAGENET_CLASSES

ROOT = Path(__file__).resolve().parents[2]
NARROW = dict(type='ResNet', depth=18, stem_channels=16, base_channels=16)


def run_main(name, *arguments):
    """The main function of a tool in this process; its exit status."""
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / f'tools/{name}.py'))['main']()
    except SystemExit as stopped:
        return stopped.code
    finally:
        sys.argv = before
    return 0


@pytest.fixture
def doctor(capsys):
    """Run it; returns what it prints."""

    def run(*arguments, status=0):
        capsys.readouterr()
        assert run_main('analyze_norm', 'doctor', *arguments) == status
        return capsys.readouterr().out

    return run


def classifier(root, norm):
    """A narrow ResNet-18 on the ImageNet layout."""

    def loader(split):
        dataset = dict(
            type='CustomDataset',
            data_root=str(root),
            ann_file=f'meta/{split}.txt',
            data_prefix=split,
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
            classes=list(IMAGENET_CLASSES),
        )
        return dict(batch_size=8, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))

    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=dict(norm_cfg=dict(type=norm), strides=(1, 1, 2, 2), **NARROW),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=128, loss=dict(type='CrossEntropyLoss')),
            ),
            data_preprocessor=dict(num_classes=10, mean=[128] * 3, std=[64] * 3, to_rgb=True),
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=False, max_iters=12, val_interval=1000),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=12)),
            custom_hooks=[dict(type='BatchAverageHook', num_iters=2)],
            custom_imports=dict(imports=['mmnorm']),
            randomness=dict(seed=0),
        )
    )


def segmentor(norm, **options):
    """A narrow DeepLab, whose data are not there."""
    head = dict(num_classes=4, norm_cfg=dict(type=norm, **options), align_corners=False)
    pipeline = [
        dict(type='Resize', scale=(64, 32)),
        dict(type='RandomCrop', crop_size=(32, 64)),
        dict(type='PackSegInputs'),
    ]
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='EncoderDecoder',
                backbone=dict(norm_cfg=dict(type=norm), out_indices=(0, 1, 2, 3), **NARROW),
                decode_head=dict(type='ASPPHead', in_channels=128, in_index=3, channels=64, dilations=(1, 2), **head),
                test_cfg=dict(mode='whole'),
            ),
            train_dataloader=dict(
                batch_size=8, dataset=dict(data_root='/nowhere', type='BaseSegDataset', pipeline=pipeline)
            ),
            train_cfg=dict(max_iters=100),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, weight_decay=1e-4)),
        )
    )


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """A folder with a config, its data, and a run of 12 iterations with EN."""
    folder = tmp_path_factory.mktemp('work')
    root, _ = write_layout('imagenet', folder, train=32, val=16, size=(32, 32))
    classifier(root, 'EN').dump(folder / 'resnet.py')
    run_main('train', folder / 'resnet.py', '--work-dir', folder / 'en')
    segmentor('EN').dump(folder / 'deeplab_en.py')
    segmentor('BN').dump(folder / 'deeplab_bn.py')
    return folder


def test_healthy_run(work, doctor):
    """Of a config, of its checkpoint, and of the checkpoint alone, on the training data."""
    checkpoint = work / 'en/iter_12.pth'
    for source in ([work / 'resnet.py'], [work / 'resnet.py', checkpoint], [checkpoint]):
        said = doctor(*source, '--strict')
        assert 'No finding in 20 norms (20 EN).' in said
        assert 'on up to 20 training batches of 8 images' in said
    said = doctor(checkpoint, '--evaluate', 2)
    assert 'tested with its statistics, and with those of 2 batches: accuracy/top1 ' in said


def test_findings_of_a_run(work, doctor, tmp_path):
    """Planted by options; the line that it prints, given in its turn, takes the finding away."""
    source, page = work / 'resnet.py', tmp_path / 'page.html'
    decay = ['optim_wrapper.optimizer.weight_decay=0.1', 'train_cfg.max_iters=1000']
    said = doctor(source, '--cfg-options', *decay, '--out', page, '--strict', status=1)
    assert '1 finding in 20 norms' in said
    assert f'wrote {page}' in said
    assert 'EN: weight decay draws 20 norms towards uniform ratios' in page.read_text()
    assert page.read_text().count('<tr>') == 21
    advice = next(line for line in said.splitlines() if '> --cfg-options' in line)
    words = shlex.split(advice.partition('> ')[2])
    assert 'No finding' in doctor(source, words[0], *decay, *words[1:])
    rate = [
        'optim_wrapper.constructor=LearnedNormOptimWrapperConstructor',
        'optim_wrapper.paramwise_cfg.ratio_lr_mult=0',
    ]
    assert 'EN: the rate of what decides the ratios is 0 in 20 norms' in doctor(source, '--cfg-options', *rate)
    frozen = 'model.backbone.norm_eval=True'
    assert '20 norms in eval mode whose running statistics were never set' in doctor(source, '--cfg-options', frozen)
    plain = 'model.backbone.norm_cfg.type=BN'
    assert '20 norms in eval mode whose running' in doctor(source, '--cfg-options', frozen, plain)
    said = doctor(source, '--cfg-options', frozen, '--without', 'norm-eval')
    assert 'norm_eval=True does not reach 20 learned norms' in said


@pytest.mark.parametrize('norm', ['en', 'bn'])
def test_image_pooling_without_data(work, doctor, norm):
    """DeepLab's branch at 1x1, from the crop in the config; the line that it prints, given in its turn."""
    source = work / f'deeplab_{norm}.py'
    said = doctor(source)
    assert '1 finding in 24 norms' in said
    assert 'decode_head.image_pool.1.bn (8 images x 1 position: ' in said
    assert 'data not found: /nowhere' in said
    assert 'on random images, 8 of 32x64' in said
    advice = next(line for line in said.splitlines() if line.startswith('   > '))
    expected = {
        'en': '--cfg-options model.decode_head.norm_cfg.normalizers="(LN,GN)"',
        'bn': "--norm \"EN(normalizers=('LN', 'GN'))\" --norm-scope decode_head.image_pool.1",
    }
    assert advice == f'   > {expected[norm]}'
    said = doctor(source, *shlex.split(advice.partition('> ')[2]))
    assert 'too few values' not in said
    # A single image, of which nn.BatchNorm makes an error.
    assert 'decode_head.image_pool.1.bn (1 image x 1 position: ' in doctor(source, '--batch', 1, '--shape', 64)


def test_what_is_wrong(work, refuse, tmp_path):
    def refused(*arguments):
        return refuse('analyze_norm', 'doctor', *arguments)

    config, checkpoint = work / 'resnet.py', work / 'en/iter_12.pth'
    assert 'config not found' in refused(tmp_path / 'none.py')
    assert 'checkpoint not found' in refused(tmp_path / 'none.pth')
    assert 'is a folder; expected a config' in refused(work)
    assert 'two checkpoints' in refused(checkpoint, checkpoint)
    assert '--config is for a checkpoint alone' in refused(config, '--config', config)
    other = tmp_path / 'other.pth'
    torch.save({'state_dict': {'x': torch.zeros(1)}}, other)
    assert 'is of another model' in refused(config, other)
    assert 'give its config with --config' in refused(other)
    assert '--out: expected the name of an .html file' in refused(config, '--out', 'x.pdf')
    assert '--shape: expected a side' in refused(config, '--shape', 1, 2, 3)
    assert '--gpus: expected at least 1, got 0' in refused(config, '--gpus', 0)
    assert '--evaluate: expected a checkpoint' in refused(config, '--evaluate', 2)
    assert 'the data set of train_dataloader is empty' in refused(
        config, '--cfg-options', 'train_dataloader.dataset.indices=0'
    )
    assert 'does not run on 8 of' in refused(
        work / 'deeplab_en.py', '--cfg-options', 'model.decode_head.in_channels=64'
    )
