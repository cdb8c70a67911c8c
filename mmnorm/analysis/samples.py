"""What is kept of the samples themselves: their labels, and small pictures of a few."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Longest side of a picture in a record.
_SIDE = 96


class Samples:
    """Labels of all samples, pictures of ``num_images`` of them, drawn at random.

    Args:
        num_images: How many pictures to keep.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.count = 0
        self.labels: list[int] = []
        # By sample. Which ones are kept is no business of the run's own generators.
        self.images: dict[int, np.ndarray] = {}
        self._random = np.random.default_rng(0)

    def add(self, batch: Any) -> int:
        """Take in a batch; returns the number of its samples."""
        inputs = inputs_of(batch)
        labels = _labels_of(batch, len(inputs))
        for image, label in zip(inputs, labels, strict=True):
            kept = self._place()
            if kept is not None and self._add_image(image) and kept >= 0:
                del self.images[kept]
            self.labels.append(label)
            self.count += 1
        return len(inputs)

    def _place(self) -> int | None:
        """Reservoir sampling: the sample to make room (-1: there is room), or None to leave this one out."""
        if len(self.images) < self.num_images:
            return -1
        place = int(self._random.integers(self.count + 1))
        return sorted(self.images)[place] if place < self.num_images else None

    def _add_image(self, image: Any) -> bool:
        small = thumbnail(image)
        if small is not None:
            self.images[self.count] = small
        return small is not None


def inputs_of(batch: Any) -> Any:
    """The inputs in a batch of mmengine (a dict with 'inputs'), or of a plain loader: a tensor, or what comes first.

    Raises:
        TypeError: If the batch is none of these.
    """
    if isinstance(batch, Mapping):
        batch = batch['inputs'] if 'inputs' in batch else next(iter(batch.values()))
    elif isinstance(batch, list | tuple):
        batch = batch[0]
    if not isinstance(batch, Tensor | list | tuple):
        raise TypeError(f'no inputs in a batch: expected a tensor or a list of them, got a {type(batch).__name__}')
    return batch


def _labels_of(batch: Any, count: int) -> list[int]:
    if isinstance(batch, Mapping):
        targets = [getattr(sample, 'gt_label', None) for sample in batch.get('data_samples') or [None] * count]
    elif isinstance(batch, list | tuple) and len(batch) > 1 and isinstance(batch[1], Tensor):
        targets = list(batch[1]) if batch[1].dim() == 1 else [None] * count
    else:
        targets = [None] * count
    labels = [_label(target) for target in targets]
    return labels if len(labels) == count else [-1] * count


def _label(target: Any) -> int:
    if not isinstance(target, Tensor) or target.numel() != 1 or target.is_floating_point():
        return -1
    return int(target)


def thumbnail(image: Any) -> np.ndarray | None:
    """A square RGB picture of an input (C, H, W), white around it; None if it is none.

    mmcv's pipelines give uint8 in BGR; other input is stretched to the range of a picture.
    """
    if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] not in (1, 3):
        return None
    picture = image.detach().float().cpu()
    if image.dtype == torch.uint8:
        picture = picture.flip(0)
    else:
        low, high = picture.min(), picture.max()
        picture = (picture - low) * (255 / (high - low).clamp(min=1e-12))
    height, width = picture.shape[1:]
    scale = _SIDE / max(height, width)
    size = [max(1, round(side * scale)) for side in (height, width)]
    options = dict(mode='nearest') if scale > 1 else dict(mode='bilinear', antialias=True, align_corners=False)
    small = F.interpolate(picture[None], size, **options)[0].expand(3, -1, -1)
    square = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    top, left = ((_SIDE - side) // 2 for side in size)
    square[top : top + size[0], left : left + size[1]] = small.permute(1, 2, 0).round().clamp(0, 255).numpy()
    return square
