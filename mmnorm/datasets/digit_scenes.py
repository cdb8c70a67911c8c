"""Composes scenes of scikit-learn's handwritten digits on textured backgrounds, labelled pixel by pixel."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np

CLASSES = ('background', 'zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
PALETTE = (
    (0, 0, 0),
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (127, 127, 127),
    (188, 189, 34),
    (23, 190, 207),
)
SPLITS = ('train', 'val')
MIN_SIDE = 32
"""Smallest height or width of a scene, in pixels: below it a digit's strokes are thinner than two pixels."""

_MIN_DIGIT_HEIGHT = 10.0
_MIN_VISIBLE_PIXELS = 16
_MIN_VISIBLE_FRACTION = 0.7
_ATTEMPTS_PER_DIGIT = 20
_MAX_ROTATION = 10.0
# A digit rotated by _MAX_ROTATION is up to 1.16 times as wide as its height, and has to fit the short side.
_MAX_DIGIT_SIZE = 0.8
_INK_THRESHOLD = 0.42
_WANTED_CONTRAST = 110.0
_PIXEL_NOISE = 5.0
# Bright ink on dark grounds: a network that trains for minutes should spend them on the digits, not on polarity.
_INK_COLOURS = (170, 255)
_BACKGROUND_COLOURS = (0, 80)


class Instance(NamedTuple):
    """One visible digit of a scene.

    Attributes:
        label: The digit, 0 to 9.
        mask: Boolean, shape (H, W); true on the digit's visible ink.
    """

    label: int
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """An image and its labels.

    Attributes:
        image: RGB, uint8, shape (H, W, 3).
        semantic: uint8, shape (H, W); an index into :data:`CLASSES`, so 0 is background and ``d + 1`` is digit ``d``.
        instances: The digits, bottom to top; their masks are disjoint and cover ``semantic > 0``.
        sources: For each instance, the index into ``load_digits().images`` of the digit image drawn.
    """

    image: np.ndarray
    semantic: np.ndarray
    instances: list[Instance]
    sources: list[int]


def import_extra(name: str) -> ModuleType:
    """Import a module that only the built-in dataset needs.

    Args:
        name: Module name.

    Returns:
        The module.

    Raises:
        ImportError: If the module is missing; the message names the extra to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"mmnorm.datasets needs the module '{name}', which could not be imported ({error}); "
            "install the extra: pip install 'mmnorm[digits]'"
        ) from error


@functools.lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    bunch = import_extra('sklearn.datasets').load_digits()
    return bunch.images.astype(np.float32) / 16, bunch.target


@functools.lru_cache(maxsize=2)
def digit_indices(split: str) -> tuple[np.ndarray, ...]:
    """Which of scikit-learn's digit images a split may draw; no image belongs to both splits.

    Args:
        split: 'train' or 'val'.

    Returns:
        Ten integer arrays, one for each digit, of indices into ``load_digits().images``.

    Raises:
        ValueError: If the split is unknown.
        ImportError: If scikit-learn is missing.
    """
    _check_split(split)
    # By rank within the class: the bundled images come in the order 0, 1, ..., 9, 0, 1, ..., so taking every
    # fifth image overall would leave the validation split with two classes.
    by_class = [np.flatnonzero(_digits()[1] == digit) for digit in range(10)]
    is_val = [np.arange(len(indices)) % 5 == 4 for indices in by_class]
    return tuple(indices[val if split == 'val' else ~val] for indices, val in zip(by_class, is_val, strict=True))


def compose_scene(
    index: int,
    split: str = 'train',
    seed: int = 0,
    size: tuple[int, int] = (128, 128),
    digits: tuple[int, int] = (1, 2),
    digit_size: tuple[float, float] = (0.5, 0.8),
) -> Scene:
    """Compose one scene; the same arguments always give the same scene.

    A digit that would hide too much of an earlier one is drawn anew elsewhere, so every instance keeps at least
    70 % of its ink and 16 pixels. A crowded scene may for that reason end with fewer digits than drawn for it.

    Args:
        index: Which scene of the split, from 0.
        split: 'train' or 'val'; the splits draw different digit images.
        seed: Which dataset, from 0.
        size: Height and width in pixels, each at least 32.
        digits: Fewest and most digits in a scene.
        digit_size: Smallest and largest height of a digit, as a fraction of the scene's shorter side.

    Returns:
        The scene.

    Raises:
        ValueError: If an argument is out of its range.
        ImportError: If scikit-learn or OpenCV is missing.
    """
    rng = _scene_rng(index, split, seed, size)
    _check_digits(digits)
    _check_digit_size(digit_size, size)

    canvas = _background(rng, size)
    wanted = rng.integers(digits[0], digits[1], endpoint=True)
    labels: list[int] = []
    masks: list[np.ndarray] = []
    sources: list[int] = []
    whole_areas: list[int] = []
    for _ in range(wanted * _ATTEMPTS_PER_DIGIT):
        if len(masks) == wanted:
            break
        label = int(rng.integers(10))
        source, alpha, colour = _draw_digit(rng, canvas, label, split, digit_size)
        mask = alpha >= 0.5
        left_visible = [earlier & ~mask for earlier in masks]
        if not _all_visible([*left_visible, mask], [*whole_areas, mask.sum()]):
            continue
        canvas = _paint(canvas, alpha, colour)
        masks = [*left_visible, mask]
        labels.append(label)
        sources.append(source)
        whole_areas.append(mask.sum())

    semantic = np.zeros(size, np.uint8)
    for label, mask in zip(labels, masks, strict=True):
        semantic[mask] = label + 1
    instances = [Instance(label, mask) for label, mask in zip(labels, masks, strict=True)]
    return Scene(_photograph(rng, canvas), semantic, instances, sources)


def single_digit(
    index: int,
    split: str = 'train',
    seed: int = 0,
    size: tuple[int, int] = (128, 128),
    digit_size: tuple[float, float] = (0.5, 0.8),
) -> tuple[np.ndarray, int]:
    """Compose an image of one digit, for classification; the digits take turns, so ten images hold all ten.

    Args:
        index: Which image of the split, from 0.
        split: 'train' or 'val'; the splits draw different digit images.
        seed: Which dataset, from 0.
        size: Height and width in pixels, each at least 32.
        digit_size: Smallest and largest height of the digit, as a fraction of the image's shorter side.

    Returns:
        The RGB image, uint8 of shape (H, W, 3), and the digit, 0 to 9.

    Raises:
        ValueError: If an argument is out of its range.
        ImportError: If scikit-learn or OpenCV is missing.
    """
    rng = _scene_rng(index, split, seed, size)
    _check_digit_size(digit_size, size)
    canvas = _background(rng, size)
    label = index % 10
    _, alpha, colour = _draw_digit(rng, canvas, label, split, digit_size)
    return _photograph(rng, _paint(canvas, alpha, colour)), label


def _draw_digit(
    rng: np.random.Generator, canvas: np.ndarray, label: int, split: str, digit_size: tuple[float, float]
) -> tuple[int, np.ndarray, np.ndarray]:
    height, width = canvas.shape[:2]
    source = int(rng.choice(digit_indices(split)[label]))
    glyph = _glyph(
        _digits()[0][source],
        height=rng.uniform(*digit_size) * min(height, width),
        angle=rng.uniform(-_MAX_ROTATION, _MAX_ROTATION),
    )
    top = rng.integers(height - glyph.shape[0], endpoint=True)
    left = rng.integers(width - glyph.shape[1], endpoint=True)
    window = np.s_[top : top + glyph.shape[0], left : left + glyph.shape[1]]
    alpha = np.zeros((height, width), np.float32)
    alpha[window] = glyph
    return source, alpha, _contrasting_colour(rng, canvas[window])


def _glyph(ink: np.ndarray, height: float, angle: float) -> np.ndarray:
    """Opacity in [0, 1] of a rotated digit, cropped to its ink, from its 8x8 ink and the wanted height in pixels."""
    cv2 = import_extra('cv2')
    pixels_per_cell = height / len(ink)
    # An empty margin lets strokes at the edge of the 8x8 image end in a curve, and leaves room for the rotation.
    padded = np.pad(ink, 2)
    side = max(1, round(pixels_per_cell * len(padded)))
    smooth = cv2.resize(padded, (side, side), interpolation=cv2.INTER_CUBIC)
    rotation = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, 1)
    smooth = cv2.warpAffine(smooth, rotation, (side, side), flags=cv2.INTER_LINEAR)
    # Ink changes by about 1 / pixels_per_cell from a pixel to the next: this makes an edge one to two pixels soft.
    alpha = np.clip((smooth - _INK_THRESHOLD) * pixels_per_cell / 1.5 + 0.5, 0, 1)
    rows, columns = (np.flatnonzero((alpha >= 0.5).any(axis)) for axis in (1, 0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _contrasting_colour(rng: np.random.Generator, beneath: np.ndarray) -> np.ndarray:
    candidates = rng.uniform(*_INK_COLOURS, (24, 3)).astype(np.float32)
    pixels = beneath[::3, ::3].reshape(1, -1, 3)
    distances = np.linalg.norm(candidates[:, None] - pixels, axis=2)
    contrast = np.quantile(distances, 0.1, axis=1)
    # The first good colour rather than the best: the best is always near white or a pure hue.
    return candidates[np.argmax(np.minimum(contrast, _WANTED_CONTRAST))]


def _all_visible(masks: list[np.ndarray], whole_areas: list[int]) -> bool:
    return all(
        mask.sum() >= max(_MIN_VISIBLE_PIXELS, _MIN_VISIBLE_FRACTION * whole)
        for mask, whole in zip(masks, whole_areas, strict=True)
    )


def _paint(canvas: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return canvas + alpha[..., None] * (colour - canvas)


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    noisy = canvas + rng.normal(0, _PIXEL_NOISE, canvas.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    texture = _TEXTURES[rng.integers(len(_TEXTURES))](rng, size)[..., None]
    first, second = rng.uniform(*_BACKGROUND_COLOURS, (2, 3))
    return (first + texture * (second - first)).astype(np.float32)


def _noise_texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    cv2 = import_extra('cv2')
    height, width = size
    total = np.zeros(size, np.float32)
    for cells in (2, 4, 8, 16, 32):
        grid = rng.random((-(-cells * height // min(size)), -(-cells * width // min(size)))).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / np.sqrt(cells)
    return (total - total.min()) / (np.ptp(total) + 1e-6)


def _stripes_texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    across, _ = _rotated_axes(rng, size)
    return 0.5 + 0.5 * np.sin(2 * np.pi * across * rng.uniform(3, 12))


def _checkerboard_texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    across, along = _rotated_axes(rng, size)
    squares = rng.uniform(3, 12)
    return (np.floor(across * squares) + np.floor(along * squares)) % 2


def _gradient_texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    across, _ = _rotated_axes(rng, size)
    return (across - across.min()) / np.ptp(across)


def _rotated_axes(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two perpendicular coordinates in units of the shorter side, each of shape ``size``, at a random angle."""
    angle = rng.uniform(0, np.pi)
    rows, columns = np.mgrid[: size[0], : size[1]] / min(size)
    across = columns * np.cos(angle) + rows * np.sin(angle)
    along = rows * np.cos(angle) - columns * np.sin(angle)
    return across, along


_TEXTURES = (_noise_texture, _stripes_texture, _checkerboard_texture, _gradient_texture)


def _scene_rng(index: int, split: str, seed: int, size: tuple[int, int]) -> np.random.Generator:
    _check_split(split)
    check_whole_number('index', index, smallest=0)
    check_whole_number('seed', seed, smallest=0)
    check_size(size)
    return np.random.default_rng([seed, SPLITS.index(split), index])


def check_whole_number(name: str, value: int, smallest: int) -> None:
    """Refuse anything but a whole number that is large enough.

    Args:
        name: What to call the value in the message.
        value: The value.
        smallest: The smallest value accepted.

    Raises:
        ValueError: If the value is not a whole number, or smaller than that.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
        raise ValueError(f'{name} is {value!r}, expected a whole number of at least {smallest}; pass one')


def check_size(size: tuple[int, int]) -> None:
    """Refuse a scene size that cannot hold legible digits.

    Args:
        size: Height and width in pixels.

    Raises:
        ValueError: If it is not two whole numbers of at least :data:`MIN_SIDE`.
    """
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f'size is {size!r}, expected (height, width) in pixels; pass two whole numbers')
    check_whole_number('height in size', size[0], smallest=MIN_SIDE)
    check_whole_number('width in size', size[1], smallest=MIN_SIDE)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected 'train' or 'val'; pass one of them")


def _check_digits(digits: tuple[int, int]) -> None:
    if len(digits) != 2 or digits[0] > digits[1]:
        raise ValueError(f'digits is {digits!r}, expected (fewest, most); pass two whole numbers in that order')
    check_whole_number('fewest in digits', digits[0], smallest=1)
    check_whole_number('most in digits', digits[1], smallest=1)


def _check_digit_size(digit_size: tuple[float, float], size: tuple[int, int]) -> None:
    smallest, largest = digit_size
    if not 0 < smallest <= largest <= _MAX_DIGIT_SIZE:
        raise ValueError(
            f'digit_size is {digit_size!r}, expected 0 < smallest <= largest <= {_MAX_DIGIT_SIZE}, as fractions of '
            "the scene's shorter side; pass two such fractions"
        )
    if smallest * min(size) < _MIN_DIGIT_HEIGHT:
        raise ValueError(
            f'digit_size {digit_size!r} in a scene of size {tuple(size)} allows digits {smallest * min(size):.1f} '
            f'pixels high, expected at least {_MIN_DIGIT_HEIGHT:.0f}; enlarge the scene or the smallest digit'
        )
