"""The hook that keeps what a segmentation's IoU is made of, image by image."""

from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from ..registry import register_in

FILE = 'image_areas.npz'


@register_in(HOOKS)
class ImageAreasHook(Hook):
    """After each validation of a segmentation, writes the areas of every image to the work dir.

    ``image_areas.npz`` has ``areas``, (images, classes, 2): how many pixels of the class are found right, and how many
    are of it or are taken for it. IoU over any choice of images is a ratio of sums; IoUMetric's is that over all. So
    the spread over images can be told, which one IoU cannot. With several processes nothing is written.

    Args:
        ignore_index: The label that does not count.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index
        self._areas: list[Tensor] = []

    def before_val_epoch(self, runner) -> None:
        """Forget the images of before."""
        self._areas = []
        if runner.world_size > 1:
            runner.logger.warning('ImageAreasHook: nothing is kept, each of several processes has some images only')

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Count the pixels of a batch."""
        for sample in outputs or ():
            found, label = sample.pred_sem_seg.data.flatten(), sample.gt_sem_seg.data.flatten()
            classes = len(runner.val_dataloader.dataset.metainfo['classes'])
            self._areas.append(areas_of(found.cpu(), label.cpu(), classes, self.ignore_index))

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Write them."""
        if self._areas and runner.world_size == 1:
            np.savez_compressed(Path(runner.work_dir) / FILE, areas=torch.stack(self._areas).numpy())


def areas_of(found: Tensor, label: Tensor, classes: int, ignore_index: int = 255) -> Tensor:
    """Intersection and union of each class, as IoUMetric counts them.

    Args:
        found: Classes that the network finds, of any shape.
        label: Those that are right, of the same shape.
        classes: How many there are.
        ignore_index: The label of pixels that do not count.

    Returns:
        Tensor (classes, 2), numbers of pixels.
    """
    from mmseg.evaluation import IoUMetric

    right, union, *_ = IoUMetric.intersect_and_union(found, label, classes, ignore_index)
    return torch.stack([right, union], 1).long()
