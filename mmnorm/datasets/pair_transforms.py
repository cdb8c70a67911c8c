"""The pipeline of pairs: both images are one array, ``img``, (H, W, 6), uint8: BGR of the input, BGR of the target.

So what moves pixels does the same to both, mmcv's RandomFlip too.
"""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, to_tensor
from mmengine.registry import TRANSFORMS
from mmengine.structures import BaseDataElement

from ..errors import UsageError
from ..registry import register_in

# Of classes by their number: as many as one byte can tell apart.
_CLASSES = 256


def distinct_palette() -> np.ndarray:
    """256 colours by number, (256, 3), uint8, RGB: the bits of a number are dealt out to the channels, highest first.

    These are the colours of Pascal VOC's label maps; 0 is black.
    """
    numbers = np.arange(_CLASSES)
    colours = np.zeros((_CLASSES, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (numbers >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


@register_in(TRANSFORMS)
class LoadPair(BaseTransform):
    """Reads a pair of :class:`.PairedImages`: grey images, ones with a palette or an EXIF turn too.

    Args:
        palette: Colours (RGB) of label maps that hold the numbers of classes, by number; classes beyond it are black.
            'distinct' has one for each of 256. None takes the input as an image, a label map with a palette of its own
            in its colours.
    """

    def __init__(self, palette: Sequence[Sequence[int]] | str | None = None) -> None:
        self.colours: np.ndarray | None = None
        if isinstance(palette, str):
            if palette != 'distinct':
                raise UsageError(f"LoadPair: palette is a list of colours, 'distinct' or None, got {palette!r}")
            self.colours = distinct_palette()
        elif palette is not None:
            given = np.asarray(palette, int)
            if given.ndim != 2 or given.shape[1] != 3 or len(given) > _CLASSES:
                raise UsageError(f'LoadPair: expected a palette of up to {_CLASSES} colours (R, G, B), got {palette!r}')
            self.colours = np.zeros((_CLASSES, 3), np.uint8)
            self.colours[: len(given)] = given

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        joined = results.get('joined')
        source = self._read(results['source_path'], painted=joined is None)
        if joined is None:
            target = self._read(results['target_path'], painted=False)
        else:
            source, target = np.split(source, 2, axis=1)
            if joined == 'target-source':
                source, target = target, source
        results['img'] = np.ascontiguousarray(np.concatenate([source[..., ::-1], target[..., ::-1]], axis=2))
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results

    def _read(self, path: str, painted: bool) -> np.ndarray:
        """An image, (H, W, 3), uint8, RGB; with the colours of the palette if it is to be painted."""
        from PIL import Image, ImageOps

        with Image.open(Path(path)) as opened:
            image = ImageOps.exif_transpose(opened)
            if not painted or self.colours is None:
                return np.asarray(image.convert('RGB'))
            numbers = np.asarray(image)
        if numbers.ndim != 2 or numbers.min() < 0 or numbers.max() >= _CLASSES:
            raise UsageError(
                f'{path} is no label map with numbers of classes from 0 to {_CLASSES - 1}: its mode is {image.mode}, '
                f'its values are {numbers.min()} to {numbers.max()}. Images in colour need no palette'
            )
        return self.colours[numbers]


@register_in(TRANSFORMS)
class ResizePair(BaseTransform):
    """Scales both images, by the mean of the area where they shrink, else bicubically.

    Args:
        scale: Width and height, in mmcv's order.
    """

    def __init__(self, scale: tuple[int, int]) -> None:
        self.scale = tuple(scale)

    def transform(self, results: dict) -> dict:
        """Scale them."""
        image = results['img']
        shrinks = image.shape[1] >= self.scale[0] and image.shape[0] >= self.scale[1]
        # One by one: OpenCV's 'area' takes no more than 4 channels.
        halves = np.split(image, 2, axis=2)
        scaled = [mmcv.imresize(half, self.scale, interpolation='area' if shrinks else 'bicubic') for half in halves]
        results['img'] = np.concatenate(scaled, axis=2)
        results['img_shape'] = results['img'].shape[:2]
        return results


@register_in(TRANSFORMS)
class RandomPairCrop(BaseTransform):
    """Cuts a random part out of ``img``, whatever its channels.

    Args:
        size: Height and width.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = tuple(size)

    def transform(self, results: dict) -> dict:
        """Cut it out.

        Raises:
            UsageError: If the image is smaller than that.
        """
        image = results['img']
        rooms = [have - want for have, want in zip(image.shape[:2], self.size, strict=True)]
        if min(rooms) < 0:
            raise UsageError(
                f'RandomPairCrop cuts {self.size[0]}x{self.size[1]} (height x width) out of {results["img_path"]}, '
                f'which has {image.shape[0]}x{image.shape[1]} by then; scale it to more before (Resize), or cut less'
            )
        top, left = (np.random.randint(room + 1) for room in rooms)
        results['img'] = image[top : top + self.size[0], left : left + self.size[1]]
        results['img_shape'] = self.size
        return results


@register_in(TRANSFORMS)
class PackPair(BaseTransform):
    """The last step: ``inputs`` (3, H, W), uint8, BGR, and a sample with ``target`` (3, H, W), uint8, RGB."""

    def transform(self, results: dict) -> dict:
        """Pack the pair."""
        image = results['img'].transpose(2, 0, 1)
        sample = BaseDataElement(metainfo=dict(img_path=results['img_path'], img_shape=image.shape[1:]))
        sample.target = to_tensor(image[:2:-1].copy())
        return dict(inputs=to_tensor(image[:3].copy()), data_samples=sample)
