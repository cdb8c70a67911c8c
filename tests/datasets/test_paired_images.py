"""Pairs of images: found in every layout, painted, moved together, and refused where they do not fit."""

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, TRANSFORMS
from PIL import Image

import mmnorm.datasets.pair_transforms
from mmnorm.datasets.pair_transforms import LoadPair, RandomPairCrop, ResizePair, distinct_palette
from mmnorm.datasets.paired_images import PairedImages
from mmnorm.errors import UsageError

SIZE = (10, 14)


def image(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pairs(root, **settings):
    pipeline = settings.pop('pipeline', [dict(type='LoadPair'), dict(type='PackPair')])
    return DATASETS.build(dict(type='PairedImages', data_root=str(root), pipeline=pipeline, **settings))


FOLDERS = dict(data_prefix=dict(source='A', target='B'))


@pytest.fixture
def folders(tmp_path):
    for i in range(3):
        save(tmp_path / f'A/deeper/{i}.png', image(i))
        save(tmp_path / f'B/deeper/{i}.bmp', image(10 + i))
    return tmp_path


def check(sample, source, target):
    """The input as mmcv reads it, BGR; the target RGB."""
    assert torch.equal(sample['inputs'], torch.from_numpy(source[..., ::-1].copy()).permute(2, 0, 1))
    assert torch.equal(sample['data_samples'].target, torch.from_numpy(target).permute(2, 0, 1))


def test_two_folders(folders):
    dataset = pairs(folders, **FOLDERS)
    assert len(dataset) == 3
    for i in range(3):
        check(dataset[i], image(i), image(10 + i))
    assert dataset[1]['data_samples'].metainfo['img_path'] == str(folders / 'A/deeper/1.png')


def test_facades_as_distributed(tmp_path):
    """Photograph .jpg, label map .png with a palette, and .xml, which is no image, in one folder."""
    palette = np.array([[0, 0, 0], [0, 0, 170], [0, 85, 255]], np.uint8)
    labels = np.random.default_rng(0).integers(1, 3, SIZE, dtype=np.uint8)
    for i in (1, 2, 3):
        painted = Image.fromarray(labels, 'P') if i == 0 else Image.fromarray(labels).convert('P')
        painted.putpalette(palette.flatten().tolist())
        (tmp_path / 'base').mkdir(exist_ok=True)
        painted.save(tmp_path / f'base/cmp_b000{i}.png')
        save(tmp_path / f'base/cmp_b000{i}.jpg', image(i))
        (tmp_path / f'base/cmp_b000{i}.xml').write_text('<object/>')
    settings = dict(
        data_prefix=dict(source='base', target='base'), suffix=dict(source='.png', target='.jpg'), indices=2
    )
    dataset = pairs(tmp_path, **settings)
    assert len(dataset) == 2
    photo = np.asarray(Image.open(tmp_path / 'base/cmp_b0002.jpg'))
    check(dataset[1], palette[labels], photo)
    assert len(pairs(tmp_path, **{**settings, 'indices': 3})) == 3
    rest = pairs(tmp_path, **{**settings, 'indices': [2]})
    assert rest[0]['data_samples'].metainfo['img_path'].endswith('cmp_b0003.png')
    for indices, named in ((4, 4), (-4, 4), ([0, 3], 4)):
        with pytest.raises(UsageError, match=f'there are 3 pairs in .*, but indices names {named} of them'):
            pairs(tmp_path, **{**settings, 'indices': indices})


def test_side_by_side(tmp_path):
    left, right = image(0), image(1)
    save(tmp_path / 'train/1.png', np.concatenate([left, right], axis=1))
    for joined, expected in {'source-target': (left, right), 'target-source': (right, left)}.items():
        dataset = pairs(tmp_path, data_prefix=dict(source='train'), joined=joined)
        assert list(dataset.data_prefix) == ['source']
        check(dataset[0], *expected)
    save(tmp_path / 'train/2.png', image(2, (4, 7)))
    with pytest.raises(UsageError, match='2.png has 7x4 pixels .* the width has to be even'):
        pairs(tmp_path, data_prefix=dict(source='train'), joined='source-target')
    with pytest.raises(UsageError, match="joined is 'source-target', 'target-source' or None, got 'AB'"):
        pairs(tmp_path, joined='AB')


def test_grey_images_and_turned_ones(tmp_path):
    grey, photo = image(0)[..., 0], Image.fromarray(image(1, SIZE[::-1]))
    save(tmp_path / 'A/1.png', grey)
    exif = photo.getexif()
    exif[0x0112] = 6
    (tmp_path / 'B').mkdir()
    photo.save(tmp_path / 'B/1.png', exif=exif)
    sample = pairs(tmp_path, **FOLDERS)[0]
    assert torch.equal(sample['inputs'][0], torch.from_numpy(grey.copy()))
    assert sample['data_samples'].target.shape == (3, *SIZE)


@pytest.mark.parametrize('palette', ['distinct', [[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
def test_label_maps_are_painted(tmp_path, palette):
    labels = np.array([[0, 1, 2], [2, 2, 255]], np.uint8)
    save(tmp_path / 'A/1.png', labels)
    save(tmp_path / 'B/1.png', np.stack([labels] * 3, 2))
    pipeline = [dict(type='LoadPair', palette=palette), dict(type='PackPair')]
    sample = pairs(tmp_path, pipeline=pipeline, **FOLDERS)[0]
    painted = sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
    if palette == 'distinct':
        # The first colours of Pascal VOC, and that of its void.
        expected = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 255: (224, 224, 192)}
    else:
        expected = {**dict(enumerate(palette)), 255: (0, 0, 0)}
    for (row, column), label in np.ndenumerate(labels):
        assert tuple(painted[row, column]) == tuple(expected[label])
    # The target stays as it is.
    assert torch.equal(sample['data_samples'].target[0], torch.from_numpy(labels))


def test_colours_are_distinct():
    assert len(np.unique(distinct_palette(), axis=0)) == 256


def test_both_move_together(folders):
    """What is done to the input is done to the target: here they are equal, and stay so."""
    array = image(5, (40, 30))
    for side in 'AB':
        save(folders / f'{side}/deeper/0.png', array)
    (folders / 'B/deeper/0.bmp').unlink()
    pipeline = [
        dict(type='LoadPair'),
        dict(type='ResizePair', scale=(20, 36)),
        dict(type='RandomPairCrop', size=(32, 16)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackPair'),
    ]
    for i in (1, 2):
        (folders / f'A/deeper/{i}.png').unlink()
        (folders / f'B/deeper/{i}.bmp').unlink()
    dataset, different = pairs(folders, pipeline=pipeline, **FOLDERS), []
    for seed in range(12):
        np.random.seed(seed)
        sample = dataset[0]
        assert sample['inputs'].shape == (3, 32, 16)
        assert torch.equal(sample['inputs'].flip(0), sample['data_samples'].target)
        if not any(torch.equal(sample['inputs'], other) for other in different):
            different.append(sample['inputs'])
    assert len(different) > 6


def test_shrinking_takes_the_mean_of_areas():
    array = np.concatenate([image(0, (12, 8)), image(1, (12, 8))], axis=2)
    found = ResizePair((2, 3)).transform(dict(img=array))['img']
    expected = array.reshape(3, 4, 2, 4, 6).mean((1, 3))
    assert abs(found - expected).max() <= 0.5 + 1e-6
    assert ResizePair((16, 24)).transform(dict(img=array))['img'].shape == (24, 16, 6)


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda root: [path.unlink() for path in (root / 'A').rglob('*.png')], 'no images in .*A: expected files'),
        (lambda root: (root / 'B/deeper/1.bmp').unlink(), 'of 3 inputs .* 2 targets .*, 2 do, and 1 do not, such as'),
        (lambda root: (root / 'B/deeper/1.bmp').rename(root / 'B/1.bmp'), '2 do, and 2 do not, such as deeper/1, 1'),
        (lambda root: save(root / 'B/deeper/1.bmp', image(0, (10, 12))), '1.png has 14x10 pixels .*1.bmp 12x10; scale'),
        (lambda root: (root / 'B/deeper/2.bmp').write_text('words'), '2.bmp cannot be read as an image'),
        (lambda root: save(root / 'B/deeper/2.png', image(0)), r'have the same name, .*suffix\.target'),
    ],
)  # fmt: skip
def test_pairs_that_are_none(folders, spoil, message):
    spoil(folders)
    with pytest.raises(UsageError, match=message):
        pairs(folders, **FOLDERS)


def test_settings_that_do_not_fit(folders):
    with pytest.raises(UsageError, match=r"no source images in .* end with '\.tif'"):
        pairs(folders, suffix=dict(source='.tif'), **FOLDERS)
    with pytest.raises(UsageError, match="a list of colours, 'distinct' or None, got 'voc'"):
        LoadPair('voc')
    with pytest.raises(UsageError, match='expected a palette of up to 256 colours'):
        LoadPair([1, 2, 3])
    # Said by the data set, before a run has begun.
    crop = [dict(type='LoadPair'), dict(type='RandomPairCrop', size=(8, 20)), dict(type='PackPair')]
    with pytest.raises(UsageError, match=r'cuts 8x20 .* which has 10x14 by then'):
        pairs(folders, pipeline=crop, **FOLDERS)
    with pytest.raises(UsageError, match='is no label map with numbers of classes from 0 to 255: its mode is RGB'):
        pairs(folders, pipeline=[dict(type='LoadPair', palette='distinct')], **FOLDERS)
    # Unless it is told not to look.
    assert not pairs(folders, pipeline=crop, lazy_init=True, **FOLDERS)._fully_initialized


def test_names_are_registered():
    assert DATASETS.get('mmnorm.PairedImages') is PairedImages
    for cls in (LoadPair, ResizePair, RandomPairCrop, mmnorm.datasets.pair_transforms.PackPair):
        assert TRANSFORMS.get(f'mmnorm.{cls.__name__}') is cls
