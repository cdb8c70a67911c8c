"""Every layout reads back as the scenes it was written from, and nothing foreign is ever overwritten."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from mmnorm.datasets import (
    CLASSES,
    IMAGENET_CLASSES,
    LAYOUTS,
    LayoutConflictError,
    compose_scene,
    single_digit,
    write_layout,
)
from mmnorm.errors import UsageError

pytest.importorskip('sklearn')
cv2 = pytest.importorskip('cv2')
rle = pytest.importorskip('pycocotools.mask')
COCO = pytest.importorskip('pycocotools.coco').COCO

TOOL = Path(__file__).parents[2] / 'tools' / 'make_digits.py'
SMALL = {'train': 12, 'val': 11, 'size': (40, 56), 'seed': 5}
SMALL_OPTIONS = ['--train', '2', '--val', '1', '--size', '32', '32']


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp('digits')
    return {name: write_layout(name, out, **SMALL)[0] for name in LAYOUTS}


@pytest.fixture(scope='module')
def make_digits():
    main = runpy.run_path(str(TOOL))['main']

    def run(arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [str(TOOL), *arguments])
            main()

    return run


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def read_rgb(path):
    return cv2.imread(str(path))[..., ::-1]


def read_labels(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def assert_same_photo(image, original):
    assert image.shape == original.shape
    # JPEG stores colour at half the resolution, so only brightness compares closely.
    brightness, expected = (np.dot(rgb, [0.299, 0.587, 0.114]) for rgb in (image, original))
    assert np.abs(brightness - expected).mean() < 3


@pytest.mark.parametrize(('folder', 'split', 'count'), [('training', 'train', 12), ('validation', 'val', 11)])
def test_ade20k_shifts_labels_by_one(written, folder, split, count):
    root = written['ade20k']
    assert root.parts[-2:] == ('ade', 'ADEChallengeData2016')
    images = sorted((root / 'images' / folder).glob('*.jpg'))
    maps = sorted((root / 'annotations' / folder).glob('*.png'))
    assert [path.stem for path in images] == [path.stem for path in maps]
    assert len(images) == count
    for index, (image, labels) in enumerate(zip(images, maps, strict=True)):
        scene = compose_scene(index, split, 5, (40, 56))
        assert_same_photo(read_rgb(image), scene.image)
        np.testing.assert_array_equal(read_labels(labels), scene.semantic + 1)


@pytest.mark.parametrize(('split', 'count'), [('train', 12), ('val', 11)])
def test_cityscapes_pairs_images_and_train_ids(written, split, count):
    root = written['cityscapes']
    images = sorted((root / 'leftImg8bit' / split).glob('*/*_leftImg8bit.png'))
    assert len(images) == count
    assert len(list((root / 'gtFine' / split).rglob('*.png'))) == count
    for index, image in enumerate(images):
        scene = compose_scene(index, split, 5, (40, 56))
        name = image.name.replace('_leftImg8bit', '_gtFine_labelTrainIds')
        np.testing.assert_array_equal(read_rgb(image), scene.image)
        np.testing.assert_array_equal(read_labels(root / 'gtFine' / split / 'digits' / name), scene.semantic)


def test_cityscapes_is_twice_as_wide_as_high_by_default(tmp_path):
    root, _ = write_layout('cityscapes', tmp_path, train=1, val=1)
    height, width = read_labels(next((root / 'gtFine').rglob('*.png'))).shape
    assert width == 2 * height


@pytest.mark.parametrize(('split', 'count'), [('train', 12), ('val', 11)])
def test_coco_annotations_describe_the_instances(written, split, count):
    root = written['coco']
    coco = COCO(root / 'annotations' / f'instances_{split}2017.json')
    assert [category['name'] for category in coco.loadCats(range(1, 11))] == list(CLASSES[1:])
    assert len(coco.imgs) == len(list((root / f'{split}2017').glob('*.jpg'))) == count
    assert 0 not in coco.anns
    for index, image in enumerate(coco.loadImgs(sorted(coco.imgs))):
        scene = compose_scene(index, split, 5, (40, 56))
        assert (image['height'], image['width']) == (40, 56)
        assert_same_photo(read_rgb(root / f'{split}2017' / image['file_name']), scene.image)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image['id'], iscrowd=False))
        assert len(annotations) == len(scene.instances)
        for annotation, (label, mask) in zip(annotations, scene.instances, strict=True):
            rows, columns = np.nonzero(mask)
            np.testing.assert_array_equal(rle.decode(annotation['segmentation']), mask)
            assert annotation['category_id'] == label + 1
            assert annotation['area'] == mask.sum()
            assert annotation['bbox'] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


@pytest.mark.parametrize(('split', 'count'), [('train', 12), ('val', 11)])
def test_imagenet_lists_what_the_folders_hold(written, split, count):
    root = written['imagenet']
    folders = sorted(path.name for path in (root / split).iterdir())
    assert folders == list(IMAGENET_CLASSES)
    listed = dict(line.rsplit(' ', 1) for line in (root / 'meta' / f'{split}.txt').read_text().splitlines())
    assert set(listed) == {path.relative_to(root / split).as_posix() for path in (root / split).rglob('*.JPEG')}
    assert len(listed) == count
    for file_name, label in listed.items():
        assert file_name.split('/')[0] == folders[int(label)]


def test_imagenet_files_each_digit_under_its_name(written):
    for index in range(10):
        image, digit = single_digit(index, 'val', 5, (40, 56))
        path = written['imagenet'] / 'val' / CLASSES[digit + 1] / f'digits_{index:08d}.JPEG'
        assert_same_photo(read_rgb(path), image)


@pytest.mark.parametrize('name', LAYOUTS)
def test_a_rerun_writes_the_same_bytes(written, name, tmp_path):
    assert contents(write_layout(name, tmp_path, **SMALL)[0]) == contents(written[name])


def test_an_image_does_not_depend_on_how_many_there_are(written, tmp_path):
    fewer, _ = write_layout('ade20k', tmp_path, **{**SMALL, 'train': 3, 'val': 2})
    of_fewer = contents(fewer)
    del of_fewer['digits.json']
    assert len(of_fewer) == 10
    assert of_fewer.items() <= contents(written['ade20k']).items()


def test_the_same_request_is_not_written_again(tmp_path):
    root, first = write_layout('coco', tmp_path, 2, 1, (32, 32))
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert first
    assert write_layout('coco', tmp_path, 2, 1, (32, 32)) == (root, False)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'train': 3}, 'train is 2 there and 3 here'),
        ({'val': 2}, 'val is 1 there and 2 here'),
        ({'size': (32, 33)}, r'size is \[32, 32\] there and \[32, 33\] here'),
        ({'seed': 9}, 'seed is 0 there and 9 here'),
    ],
)
def test_another_request_is_refused_unless_told_to_overwrite(tmp_path, change, message):
    base = {'train': 2, 'val': 1, 'size': (32, 32), 'seed': 0}
    root, _ = write_layout('imagenet', tmp_path, **base)
    before = contents(root)
    with pytest.raises(LayoutConflictError, match=f'{message}.*--overwrite'):
        write_layout('imagenet', tmp_path, **{**base, **change})
    assert contents(root) == before

    write_layout('imagenet', tmp_path, **{**base, **change}, overwrite=True)
    fresh, _ = write_layout('imagenet', tmp_path / 'fresh', **{**base, **change})
    assert contents(root) == contents(fresh)
    assert {path.name for path in tmp_path.iterdir()} == {'imagenet', 'fresh'}


def test_a_lost_file_is_noticed(tmp_path):
    root, _ = write_layout('ade20k', tmp_path, 2, 1, (32, 32))
    next(root.rglob('*.png')).unlink()
    with pytest.raises(LayoutConflictError, match='missing there'):
        write_layout('ade20k', tmp_path, 2, 1, (32, 32))


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('manifest', [None, '[]', '{"files": []}', 'not json'])
def test_a_folder_the_tool_did_not_write_is_left_alone(tmp_path, overwrite, manifest):
    precious = tmp_path / 'coco' / 'train2017' / 'photo.jpg'
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b'precious')
    if manifest is not None:
        (tmp_path / 'coco' / 'digits.json').write_text(manifest)
    before = contents(tmp_path)
    with pytest.raises(LayoutConflictError, match='another --out'):
        write_layout('coco', tmp_path, 2, 1, (32, 32), overwrite=overwrite)
    assert contents(tmp_path) == before


def test_overwriting_spares_files_added_later(tmp_path):
    root, _ = write_layout('coco', tmp_path, 2, 1, (32, 32))
    (root / 'train2017' / 'photo.jpg').write_bytes(b'precious')
    before = contents(root)
    with pytest.raises(LayoutConflictError, match=r'photo\.jpg'):
        write_layout('coco', tmp_path, 2, 1, (32, 32), overwrite=True)
    assert contents(root) == before


def test_an_interrupted_run_leaves_the_earlier_data(tmp_path, monkeypatch):
    root, _ = write_layout('coco', tmp_path, 2, 1, (32, 32))
    before = contents(tmp_path)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr('mmnorm.datasets.writers._coco_annotations', interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_layout('coco', tmp_path, 3, 1, (32, 32), overwrite=True)
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [root]


def test_an_empty_folder_is_written(tmp_path):
    (tmp_path / 'coco').mkdir()
    assert write_layout('coco', tmp_path, 1, 1, (32, 32))[1]


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="layout is 'voc'"):
        write_layout('voc', tmp_path)


def test_the_tool_prints_every_folder_it_wrote(make_digits, tmp_path, capsys):
    make_digits(['all', '--out', str(tmp_path), *SMALL_OPTIONS])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f'wrote {tmp_path / layout.folder}' for layout in LAYOUTS.values()]
    for layout in LAYOUTS.values():
        parameters = json.loads((tmp_path / layout.folder / 'digits.json').read_text())['parameters']
        assert parameters['size'] == [32, 32]
        assert (parameters['train'], parameters['val']) == (2, 1)

    make_digits(['coco', '--out', str(tmp_path), *SMALL_OPTIONS])
    assert 'already holds this data' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--size', '31', '64'], 'height in size is 31'),
        (['--size', '64', '0'], 'width in size is 0'),
        (['--train', '0'], 'train is 0'),
        (['--val', '-1'], 'val is -1'),
        (['--seed', '-1'], 'seed is -1'),
    ],
)
def test_the_tool_refuses_nonsense_and_writes_nothing(make_digits, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        make_digits(['all', '--out', str(tmp_path / 'new'), *options])
    assert not (tmp_path / 'new').exists()


def test_the_tool_refuses_a_file_as_output(make_digits, tmp_path):
    (tmp_path / 'file').write_text('precious')
    with pytest.raises(UsageError, match='is a file, expected a folder'):
        make_digits(['ade20k', '--out', str(tmp_path / 'file')])
    assert (tmp_path / 'file').read_text() == 'precious'


def test_the_tool_writes_all_layouts_or_none(make_digits, tmp_path):
    (tmp_path / 'imagenet').mkdir()
    (tmp_path / 'imagenet' / 'photo.jpg').write_bytes(b'precious')
    with pytest.raises(UsageError, match='imagenet'):
        make_digits(['all', '--out', str(tmp_path), *SMALL_OPTIONS])
    assert list(contents(tmp_path)) == ['imagenet/photo.jpg']


def test_the_tools_exit_status_is_the_refusals(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), 'coco', '--out', str(tmp_path), '--train', '0'])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert exit_info.value.code == 2
    assert 'train is 0' in capsys.readouterr().err
