"""The configs of docs/results.md, on files that look like their data."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmnorm.experiments.sweeps.areas import areas_of_text, miou, read_areas

CAMVID = 'configs/segmentation/deeplab_bn_r18_camvid.py'
HALF_WIDTH = 'configs/segmentation/deeplab_bn_half_r18_camvid.py'


def iterations(number):
    settings = ('train_cfg.max_iters', 'train_cfg.val_interval', 'default_hooks.checkpoint.interval')
    return [f'{setting}={number}' for setting in settings]


@pytest.fixture
def scenes(tmp_path):
    """Four images to train on and two to validate, of 11 classes and void, in CamVid's folders."""
    rng = np.random.default_rng(0)
    for split, number in (('train', 4), ('val', 2)):
        for kind in ('img', 'ann'):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(number):
            label = np.kron(rng.integers(0, 12, (9, 12)), np.ones((40, 40))).astype(np.uint8)
            image = np.stack([label * 20] * 3, 2)
            cv2.imwrite(str(tmp_path / f'img/{split}/{i}.jpg'), image)
            label[label == 11] = 255
            cv2.imwrite(str(tmp_path / f'ann/{split}/{i}.png'), label)
    return tmp_path


def test_camvid(scenes, tool, tmp_path):
    options = [f'{split}_dataloader.dataset.data_root={scenes}' for split in ('train', 'val', 'test')]
    work_dir = tmp_path / 'run'
    arguments = ['--work-dir', work_dir, '--cfg-options', *options]
    output = tool('train.py', CAMVID, '--norm', 'EN', *arguments, *iterations(2))
    assert 'bicyclist' in output
    saved = torch.load(work_dir / 'iter_2.pth', weights_only=False)
    assert saved['state_dict']['decode_head.image_pool.1.bn.fc1_weight'].shape == (150, 9)
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    reported = json.loads(scalars.read_text().splitlines()[-1])['mIoU']
    # Of two images, by image; IoUMetric leaves out the classes that there are not, and rounds.
    assert miou(areas_of_text(read_areas(work_dir))) == pytest.approx(reported, abs=0.01)
    metrics = tmp_path / 'metrics.json'
    tool('test.py', CAMVID, work_dir / 'iter_2.pth', '--norm', 'EN', '--tta', '--out', metrics, *arguments)
    assert 0 <= json.loads(metrics.read_text())['mIoU'] <= 100


def test_camvid_of_half_the_width(scenes, tool, tmp_path):
    options = [f'{split}_dataloader.dataset.data_root={scenes}' for split in ('train', 'val', 'test')]
    arguments = ['--work-dir', tmp_path / 'run', '--cfg-options', *options, *iterations(2)]
    tool('train.py', HALF_WIDTH, '--norm', 'SN', '--fuse', *arguments)
    weights = torch.load(tmp_path / 'run/iter_2.pth', weights_only=False)['state_dict']
    assert weights['backbone.layer4.1.conv2.weight'].shape == (256, 256, 3, 3)
    assert weights['backbone.layer4.1.conv2.weight'].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ('config', 'norm'),
    [
        ('resnet20_bn_cifar10_short', ('--cfg-options', 'model.backbone.norm_cfg.type=EN')),
        ('resnet18_bn_cifar10_pretraining', ('--norm', 'EN', '--cfg-options')),
    ],
)
def test_cifar(digits, tool, tmp_path, config, norm):
    folders = {'train': 'train', 'val': 'val', 'test': 'val'}
    options = [f'{split}_dataloader.dataset.data_root={digits / "imagenet"}' for split in folders]
    options += [f'{split}_dataloader.dataset.data_prefix={folder}' for split, folder in folders.items()]
    options += ['train_dataloader.batch_size=2']
    config = f'configs/cifar/{config}.py'
    output = tool('train.py', config, '--work-dir', tmp_path, *norm, *options, *iterations(3))
    assert 'accuracy/top1' in output
    assert list(tmp_path.glob('*/vis_data/scalars.json'))
