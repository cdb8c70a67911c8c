"""Writes composed digits in the folder layouts that OpenMMLab's configs of four well-known datasets read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .digit_scenes import CLASSES, Scene, check_size, check_whole_number, compose_scene, import_extra, single_digit
from .manifest import already_written, publish

IMAGENET_CLASSES = tuple(sorted(CLASSES[1:]))
"""Class names of the ImageNet layout in label order: alphabetical, as readers of class folders number them."""

_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Layout:
    """One way of storing the digits.

    Attributes:
        folder: Where it lies below the output folder: the ``data_root`` of the matching configs.
        classes: Class names in label order.
        default_size: Height and width of its images in pixels, unless told otherwise.
        write: Writes the number of training images, the number of validation images, the size and the seed given
            into an empty folder.
    """

    folder: str
    classes: tuple[str, ...]
    default_size: tuple[int, int]
    write: Callable[[Path, int, int, tuple[int, int], int], None]


def write_layout(
    name: str,
    out: str | Path,
    train: int = 400,
    val: int = 100,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
) -> tuple[Path, bool]:
    """Write the digits in one layout, unless they are there already.

    Args:
        name: A key of :data:`LAYOUTS`.
        out: Output folder; the layout gets a folder of its own below it.
        train: Number of training images.
        val: Number of validation images.
        size: Height and width in pixels; the layout's own default if omitted.
        seed: Which dataset, from 0.
        overwrite: Whether to replace what an earlier call wrote there with other arguments.
        dry_run: Only check that the call would succeed, and whether it would write.

    Returns:
        The layout's folder, and whether it was (or, in a dry run, would be) written.

    Raises:
        ValueError: If an argument is out of its range.
        LayoutConflictError: If the folder holds something that may not be replaced.
        ImportError: If a module of the extra ``digits`` is missing.
    """
    if name not in LAYOUTS:
        raise ValueError(f'layout is {name!r}, expected one of {", ".join(LAYOUTS)}; pass one of them')
    layout = LAYOUTS[name]
    size = layout.default_size if size is None else size
    check_size(size)
    check_whole_number('train', train, smallest=1)
    check_whole_number('val', val, smallest=1)
    check_whole_number('seed', seed, smallest=0)

    root = Path(out) / layout.folder
    parameters = {
        'layout': name,
        'train': int(train),
        'val': int(val),
        'size': [int(side) for side in size],
        'seed': int(seed),
        'classes': list(layout.classes),
    }
    wanted = not already_written(root, parameters, overwrite)
    if wanted and not dry_run:
        publish(root, parameters, lambda draft: layout.write(draft, train, val, size, seed))
    return root, wanted


def _write_ade20k(root: Path, train: int, val: int, size: tuple[int, int], seed: int) -> None:
    for split, folder, count in (('train', 'training', train), ('val', 'validation', val)):
        for index in range(count):
            scene = compose_scene(index, split, seed, size)
            stem = f'digits_{split}_{index:08d}'
            _save_image(root / 'images' / folder / f'{stem}.jpg', scene.image)
            # ADE20K is read with reduce_zero_label=True: 0 means unlabelled, and class c is stored as c + 1.
            _save_image(root / 'annotations' / folder / f'{stem}.png', scene.semantic + 1)


def _write_cityscapes(root: Path, train: int, val: int, size: tuple[int, int], seed: int) -> None:
    for split, count in (('train', train), ('val', val)):
        for index in range(count):
            scene = compose_scene(index, split, seed, size)
            stem = f'digits_{index:06d}_000000'
            _save_image(root / 'leftImg8bit' / split / 'digits' / f'{stem}_leftImg8bit.png', scene.image)
            _save_image(root / 'gtFine' / split / 'digits' / f'{stem}_gtFine_labelTrainIds.png', scene.semantic)


def _write_coco(root: Path, train: int, val: int, size: tuple[int, int], seed: int) -> None:
    (root / 'annotations').mkdir()
    for split, count in (('train', train), ('val', val)):
        images: list[dict] = []
        annotations: list[dict] = []
        for index in range(count):
            scene = compose_scene(index, split, seed, size)
            # Identifiers count from 1: pycocotools takes an annotation numbered 0 for no match when it evaluates.
            image_id = index + 1
            file_name = f'{image_id:012d}.jpg'
            _save_image(root / f'{split}2017' / file_name, scene.image)
            images.append({'id': image_id, 'file_name': file_name, 'height': size[0], 'width': size[1]})
            annotations += _coco_annotations(scene, image_id, first_id=len(annotations) + 1)
        categories = [
            {'id': label + 1, 'name': name, 'supercategory': 'digit'} for label, name in enumerate(CLASSES[1:])
        ]
        dataset = {
            'info': {'description': "scenes composed of scikit-learn's handwritten digits"},
            'licenses': [],
            'images': images,
            'annotations': annotations,
            'categories': categories,
        }
        path = root / 'annotations' / f'instances_{split}2017.json'
        path.write_text(json.dumps(dataset), encoding='utf-8')


def _coco_annotations(scene: Scene, image_id: int, first_id: int) -> list[dict]:
    rle = import_extra('pycocotools.mask')
    annotations = []
    for offset, (label, mask) in enumerate(scene.instances):
        encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        annotations.append(
            {
                'id': first_id + offset,
                'image_id': image_id,
                'category_id': label + 1,
                'segmentation': {'size': encoded['size'], 'counts': encoded['counts'].decode('ascii')},
                'bbox': rle.toBbox(encoded).tolist(),
                'area': int(rle.area(encoded)),
                'iscrowd': 0,
            }
        )
    return annotations


def _write_imagenet(root: Path, train: int, val: int, size: tuple[int, int], seed: int) -> None:
    (root / 'meta').mkdir()
    for split, count in (('train', train), ('val', val)):
        for name in IMAGENET_CLASSES:
            (root / split / name).mkdir(parents=True)
        lines = []
        for index in range(count):
            image, digit = single_digit(index, split, seed, size)
            name = CLASSES[digit + 1]
            file_name = f'{name}/digits_{index:08d}.JPEG'
            _save_image(root / split / file_name, image)
            lines.append(f'{file_name} {IMAGENET_CLASSES.index(name)}\n')
        (root / 'meta' / f'{split}.txt').write_text(''.join(lines), encoding='utf-8')


def _save_image(path: Path, image: np.ndarray) -> None:
    cv2 = import_extra('cv2')
    channels_for_cv2 = image[..., ::-1] if image.ndim == 3 else image
    encoded = cv2.imencode(path.suffix.lower(), channels_for_cv2, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())


LAYOUTS = {
    'ade20k': Layout('ade/ADEChallengeData2016', CLASSES, (128, 128), _write_ade20k),
    'cityscapes': Layout('cityscapes', CLASSES, (128, 256), _write_cityscapes),
    'coco': Layout('coco', CLASSES[1:], (128, 128), _write_coco),
    'imagenet': Layout('imagenet', IMAGENET_CLASSES, (128, 128), _write_imagenet),
}
"""The layouts by name."""
