"""The headline configs themselves, ResNet-50 and all, on the digits: only --cfg-options differ from real training."""

import json
import re

import mmengine
import pytest

CLASSES = '(zero,one,two,three,four,five,six,seven,eight,nine)'


def segmentation(root):
    options = {
        'model.backbone.init_cfg': None,
        'model.data_preprocessor.size': '(64,64)',
        'model.decode_head.num_classes': 11,
        'model.auxiliary_head.num_classes': 11,
        'train_dataloader.dataset.pipeline.2.scale': '(64,64)',
        'train_dataloader.dataset.pipeline.3.crop_size': '(64,64)',
        'val_dataloader.dataset.pipeline.1.scale': '(64,64)',
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.checkpoint.save_best': None,  # half a gigabyte each
        'test_dataloader.dataset.indices': 1,
    }
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        options[f'{loader}.dataset.data_root'] = root
    return options


def ade20k(digits):
    options = segmentation(digits / 'ade/ADEChallengeData2016')
    # The papers' scales 300 to 600, shrunk with the images.
    for i, side in enumerate((48, 64, 80, 96)):
        options[f'tta_pipeline.1.transforms.0.{i}.scale'] = f'({side},{side})'
    return options


def cityscapes(digits):
    return segmentation(digits / 'cityscapes')


def coco(digits):
    options = {
        'model.backbone.init_cfg': None,
        'model.roi_head.bbox_head.num_classes': 10,
        'model.roi_head.mask_head.num_classes': 10,
        'model.train_cfg.rcnn.sampler.num': 32,
        'train_dataloader.dataset.indices': 4,
        'test_dataloader.dataset.indices': 1,
        'train_dataloader.dataset.pipeline.2.scale': '(64,64)',
        'val_dataloader.dataset.pipeline.1.scale': '(64,64)',
        'test_dataloader.dataset.pipeline.1.scale': '(64,64)',
    }
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        options[f'{loader}.dataset.data_root'] = digits / 'coco'
        options[f'{loader}.dataset.metainfo.classes'] = CLASSES
    for evaluator in ('val_evaluator', 'test_evaluator'):
        options[f'{evaluator}.ann_file'] = digits / 'coco/annotations/instances_val2017.json'
    return options


ITERATIONS = ('train_cfg.max_iters', (2, 4), 'iter_{}.pth', 'mIoU')
EPOCHS = ('train_cfg.max_epochs', (1, 2), 'epoch_{}.pth', 'coco/bbox_mAP')  # of 2 iterations each
HEADLINES = {
    'ade20k': ('configs/deeplab_en_r50.py', ade20k, *ITERATIONS),
    'cityscapes': ('configs/deeplab_en_r50_cityscapes.py', cityscapes, *ITERATIONS),
    'coco': ('configs/mask_rcnn_sn_r50_fpn.py', coco, *EPOCHS),
}


@pytest.mark.parametrize('name', HEADLINES)
def test_train_resume_evaluate(name, digits, tool, tmp_path):
    config, options_for, length, (first, second), checkpoint, metric = HEADLINES[name]
    options = [f'{key}={value}' for key, value in options_for(digits).items()]
    work_dir = tmp_path / 'work'

    start = ['--no-validate', '--cfg-options', *options, f'{length}={first}']
    tool('train.py', config, '--work-dir', work_dir, *start)
    assert (work_dir / checkpoint.format(first)).exists()
    dumped = mmengine.Config.fromfile(work_dir / config.split('/')[-1])
    assert dumped.model.backbone.depth == 50
    assert dumped.model.backbone.type == 'ResNet'

    resume = ['--resume', '--cfg-options', *options, f'{length}={second}']
    output = tool('train.py', config, '--work-dir', work_dir, *resume)
    assert re.search(rf'resumed epoch: \d+, iter: {2}\b', output), 'went on where it stopped'
    assert metric in output, 'evaluated during training'
    last = work_dir / checkpoint.format(second)

    evaluate = [config, last, '--work-dir', tmp_path / 'test']
    metrics, pictures = tmp_path / 'metrics.json', tmp_path / 'pictures'
    tool('test.py', *evaluate, '--out', metrics, '--show-dir', pictures, '--cfg-options', *options)
    assert metric in json.loads(metrics.read_text())
    painted = [path for path in pictures.rglob('*') if path.suffix in ('.png', '.jpg')]
    assert painted, '--show-dir painted nothing'

    output = tool('test.py', *evaluate, '--tta', '--out', metrics, '--cfg-options', *options)
    assert metric in json.loads(metrics.read_text())
