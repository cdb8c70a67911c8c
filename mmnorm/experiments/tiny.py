"""A row made small: its network and its schedule's shape stay, data are the built-in digits, a few images, a few steps.

It shows that a row runs from pretraining to evaluation, on a CPU in a minute; the figures mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..datasets import write_layout
from ..datasets.writers import IMAGENET_CLASSES

_DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_SIDE = 64
# Images of the training and of the validation data, images a batch, and length: iterations, or epochs. A checkpoint
# half way shows that a run goes on from it, and gives the figures over training two points.
_TRAIN, _VAL, _BATCH, _ITERATIONS, _EPOCHS = 8, 4, 4, 4, 2
# The digits take turns: so many images are one of each class, for the figures by class.
_VAL_CLASSES = len(IMAGENET_CLASSES)


@dataclass
class Tiny:
    """Makes configs small, in place.

    Args:
        folder: Where the digits are; they are written when they are first needed.
    """

    folder: Path

    def __call__(self, cfg: Config) -> None:
        """Make ``cfg`` small."""
        shrink = {
            'mmpretrain': self._search if cfg.model.type == 'EnasSearch' else self._classify,
            'mmseg': self._segment,
            'mmdet': self._detect,
            'mmengine': self._translate if cfg.model.type == 'Pix2Pix' else self._stylize,
        }
        shrink[cfg.default_scope](cfg)
        for name in _LOADERS:
            if cfg.get(name) is not None:
                cfg[name].update(num_workers=0, persistent_workers=False)
        cfg.train_dataloader.batch_size = min(cfg.train_dataloader.batch_size, _BATCH)
        _shorten(cfg)

    @staticmethod
    def words(words: Sequence[str]) -> list[str]:
        """The words of a figure's command, with digits in place of the classes that it names."""
        found = list(words)
        if '--classes' in found:
            first = found.index('--classes') + 1
            options = (i for i in range(first, len(found)) if found[i].startswith('--'))
            last = next(options, len(found))
            found[first:last] = IMAGENET_CLASSES[: last - first]
        return found

    def _root(self, layout: str, val: int = _VAL) -> Path:
        root, _ = write_layout(layout, out=self.folder, train=_TRAIN, val=val, size=(_SIDE, _SIDE), overwrite=True)
        return root

    def _classify(self, cfg: Config) -> None:
        root = self._root('imagenet', _VAL_CLASSES)
        side = 16 if 'CIFAR' in cfg.model.backbone.type else 32
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(side, side)),
            dict(type='PackInputs'),
        ]
        for name, prefix in zip(_LOADERS, ('train', 'val', 'val'), strict=True):
            dataset = dict(type='CustomDataset', data_root=str(root), data_prefix=prefix, pipeline=pipeline)
            cfg[name].dataset = ConfigDict(dataset)
            cfg[name].batch_size = _BATCH
        cfg.model.head.num_classes = 10
        # CIFAR's images are RGB as they are read, files are BGR.
        cfg.data_preprocessor = ConfigDict({**cfg.get('data_preprocessor', {}), 'num_classes': 10, 'to_rgb': True})

    def _search(self, cfg: Config) -> None:
        root = self._root('imagenet', _VAL_CLASSES)
        resize = dict(type='Resize', scale=(16, 16))
        pipeline = [dict(type='LoadImageFromFile'), resize, dict(type='PackInputs')]
        train, test = (
            dict(type='CustomDataset', data_root=str(root), data_prefix=prefix, pipeline=pipeline)
            for prefix in ('train', 'val')
        )
        dataset = dict(type='SearchDataset', held_out=_TRAIN // 2, datasets=[train, train])
        cfg.train_dataloader.dataset = ConfigDict(dataset)
        cfg.train_dataloader.batch_sampler.update(controller_steps=1, training_steps=1)
        cfg.test_dataloader.update(dataset=ConfigDict(test), batch_size=_BATCH)
        cfg.model.update(architectures=2)
        cfg.model.shared.backbone.update(nodes=2, cells=0)

    def _segment(self, cfg: Config) -> None:
        cityscapes = 'cityscapes' in str(cfg.train_dataloader.dataset.type).lower()
        root = self._root('cityscapes' if cityscapes else 'ade20k')
        for name in _LOADERS:
            cfg[name].dataset.data_root = str(root)
        size = (_SIDE, _SIDE)
        cfg.model.data_preprocessor.size = size
        for head in ('decode_head', 'auxiliary_head'):
            cfg.model[head].num_classes = 19 if cityscapes else 11
        for name in _LOADERS:
            for transform in cfg[name].dataset.pipeline:
                if 'scale' in transform:
                    transform.scale = size
                if 'crop_size' in transform:
                    transform.crop_size = size
        for i, view in enumerate(cfg.tta_pipeline[1].transforms[0]):
            cfg.tta_pipeline[1].transforms[0][i] = ConfigDict(
                type=view.type, scale=(_SIDE + 16 * i, _SIDE + 16 * i), keep_ratio=True
            )

    def _stylize(self, cfg: Config) -> None:
        images = self._root('ade20k') / 'images'
        for name, prefix in (('train_dataloader', 'training'), ('test_dataloader', 'validation')):
            cfg[name].dataset.update(data_root=str(images), data_prefix=ConfigDict(img_path=prefix))
            for transform in cfg[name].dataset.pipeline:
                if 'scale' in transform:
                    transform.scale = (_SIDE, _SIDE)
        style = next(iter(sorted((images / 'validation').iterdir())))
        cfg.model.loss.update(style_image=str(style), vgg='random', style_size=_SIDE)

    def _translate(self, cfg: Config) -> None:
        root = self._root('ade20k')
        resize = dict(type='ResizePair', scale=(_SIDE, _SIDE))
        pipeline = [dict(type='LoadPair', palette='distinct'), resize, dict(type='PackPair')]
        for name, split in (('train_dataloader', 'training'), ('test_dataloader', 'validation')):
            prefix = dict(source=f'annotations/{split}', target=f'images/{split}')
            dataset = dict(type='PairedImages', data_root=str(root), data_prefix=prefix, pipeline=pipeline)
            cfg[name].dataset = ConfigDict(dataset)
        # As often as the side can be halved, which leaves one position.
        cfg.model.generator.num_downs = min(cfg.model.generator.get('num_downs', 8), _SIDE.bit_length() - 1)
        cfg.test_evaluator.lpips_weights = 'random'

    def _detect(self, cfg: Config) -> None:
        root = self._root('coco')
        for name in _LOADERS:
            cfg[name].dataset.data_root = f'{root}/'
            cfg[name].dataset.metainfo = ConfigDict(classes=_DIGITS)
            for transform in cfg[name].dataset.pipeline:
                if 'scale' in transform:
                    transform.scale = (_SIDE, _SIDE)
        annotations = str(root / 'annotations/instances_val2017.json')
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = annotations
        for head in ('bbox_head', 'mask_head'):
            if cfg.model.roi_head.get(head):
                cfg.model.roi_head[head].num_classes = 10
        cfg.model.train_cfg.rcnn.sampler.num = 32


def _shorten(cfg: Config) -> None:
    loop = cfg.train_cfg
    if 'max_iters' in loop:
        end, by = _ITERATIONS, 'iters'
        cfg.train_cfg.val_interval = _ITERATIONS
    else:
        end, by = _EPOCHS, 'epochs'
    cfg.train_cfg[f'max_{by}'] = end
    given: Any = cfg.get('param_scheduler') or []
    by_part = given.values() if isinstance(given, dict) and 'type' not in given else [given]
    schedulers = [one for part in by_part for one in (part if isinstance(part, list) else [part])]
    for scheduler in schedulers:
        if scheduler.type in ('PolyLR', 'CosineAnnealingLR') and 'end' in scheduler:
            scheduler.end = min(scheduler.end, end)
        elif scheduler.type == 'LinearLR' and scheduler.get('end_factor') == 0:
            scheduler.begin, scheduler.end = end // 2 - 1, end + 1
    cfg.default_hooks.checkpoint.interval = end // 2
    cfg.default_hooks.checkpoint.save_best = None
    cfg.default_hooks.logger.interval = 1
    for hook in cfg.get('custom_hooks') or []:
        if hook.type == 'BatchAverageHook':
            hook.num_iters = 2
