"""The spread of a segmentation's mIoU over images: areas of each image, kept as text, and the bootstrap."""

import base64
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...engine.image_areas_hook import FILE


def read_areas(work_dir: Path) -> str:
    """What ImageAreasHook has left in a work dir, as text; empty if nothing."""
    path = work_dir / FILE
    if not path.is_file():
        return ''
    with np.load(path) as file:
        areas = file['areas'].astype('<u4')
    # Byte by byte of its significance, which packs best.
    packed = zlib.compress(areas.view('u1').reshape(*areas.shape, 4).transpose(3, 0, 1, 2).tobytes(), 9)
    return f'{",".join(map(str, areas.shape))}:{base64.b64encode(packed).decode()}'


def areas_of_text(text: str) -> np.ndarray:
    """(images, classes, 2): intersection and union in pixels."""
    shape, _, packed = text.partition(':')
    images, classes, kinds = map(int, shape.split(','))
    flat = np.frombuffer(zlib.decompress(base64.b64decode(packed)), 'u1').reshape(4, images, classes, kinds)
    return np.ascontiguousarray(flat.transpose(1, 2, 3, 0)).view('<u4')[..., 0]


def miou(areas: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over the classes of :func:`ious`, (...), without those that are NaN."""
    return np.nanmean(ious(areas, weights), -1)


def ious(areas: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """IoU of each class in percent, NaN of one that is neither there nor predicted.

    Args:
        areas: (images, classes, 2).
        weights: How often each image counts, (..., images); None is once.

    Returns:
        Array (..., classes).
    """
    weights = np.ones(len(areas)) if weights is None else weights
    right, union = np.moveaxis(np.tensordot(weights, areas.astype(float), 1), -1, 0)
    return 100 * np.where(union > 0, right / np.maximum(union, 1), np.nan)


def bootstrap(runs: Sequence[str], base: Sequence[str] = (), draws: int = 1000) -> float:
    """Standard error over images: that of the average over runs if other images of the kind were validated.

    Images are drawn with replacement, the same for all runs.

    Args:
        runs: Areas of runs that differ in their seed alone, as :func:`read_areas` gives them.
        base: Areas of other runs; the error is then that of the difference between both averages.
        draws: How often images are drawn.

    Returns:
        The standard deviation over the draws, in points of mIoU.
    """
    images = len(areas_of_text(runs[0]))
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), draws)

    def mean(texts: Sequence[str]) -> np.ndarray:
        return np.mean([miou(areas_of_text(text), weights) for text in texts], 0)

    values = mean(runs) - (mean(base) if base else 0)
    return float(values.std(ddof=1))
