"""The input shapes that the layers are timed at."""

import argparse
import math
import re

# Contiguous, these are the shapes that the project sets itself targets for on a CPU.
TARGETS = ((4, 64, 128, 128), (8, 256, 56, 56), (16, 512, 28, 28), (4, 2048, 16, 16))
# Where the overhead of a call outweighs the bytes.
SMALL = ((128, 64, 8, 8), (2, 2048, 7, 7))
# Distinct (channels, height or width) that ResNet-50's norms see at 224.
RESNET50 = (
    (64, 112), (64, 56), (256, 56), (128, 56), (128, 28), (512, 28),
    (256, 28), (256, 14), (1024, 14), (512, 14), (512, 7), (2048, 7),
)  # fmt: skip
# DeepLabV3-R50 at 512, output stride 8, heads included; without the single pixel of the image pooling.
DEEPLAB = (
    (64, 256), (64, 128), (256, 128), (128, 128), (128, 64),
    (512, 64), (256, 64), (1024, 64), (2048, 64),
)  # fmt: skip
SETS = {'targets': None, 'small': None, 'resnet50': 8, 'deeplab': 2}

# Of images, or of volumes with their depth before height and width.
Shape = tuple[int, int, int, int] | tuple[int, int, int, int, int]


def parse_shape(text: str) -> str | Shape:
    """The name of a set, or N, C, H and W out of ``NxCxHxW``; with ``NxCxDxHxW`` the depth too."""
    if text in SETS:
        return text
    shape = tuple(map(int, text.split('x'))) if re.fullmatch(r'\d+(x\d+){3,4}', text) else ()
    if not shape or min(shape) == 0:
        known = f'{", ".join(SETS)}, NxCxHxW or NxCxDxHxW'
        raise argparse.ArgumentTypeError(f'unknown shape {text!r}; it is one of {known}')
    if shape[0] * math.prod(shape[2:]) == 1:
        raise argparse.ArgumentTypeError(f'shape {text}: BN does not train on a single value a channel')
    return shape


def expand(names: list[str | Shape], batch: int | None) -> list[Shape]:
    """The shapes of all sets named, each once.

    Args:
        names: What :func:`parse_shape` gave.
        batch: Images a batch in the sets that are networks; None is the default of each.
    """
    shapes = []
    for name in names:
        if name in ('resnet50', 'deeplab'):
            planes = RESNET50 if name == 'resnet50' else DEEPLAB
            shapes += [(batch or SETS[name], channels, size, size) for channels, size in planes]
        elif isinstance(name, str):
            shapes += TARGETS if name == 'targets' else SMALL
        else:
            shapes.append(name)
    return list(dict.fromkeys(shapes))
