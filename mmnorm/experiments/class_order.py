"""Whether WebVision numbers its classes as ImageNet does, so that a network of one can be tested on the other."""

from pathlib import Path

from ..errors import UsageError

_CLASSES = 1000


def check_class_order(data: Path) -> None:
    """Compare the order of the classes of ``data/webvision`` and ``data/imagenet``.

    A label of ImageNet is the place of its WordNet id in alphabetical order, as readers of class folders number them;
    one of WebVision is the line of info/synsets.txt.

    Args:
        data: The folder that has both.

    Raises:
        UsageError: If a file is missing, or they differ.
    """
    synsets = data / 'webvision/info/synsets.txt'
    if not synsets.is_file():
        raise UsageError(f'{synsets.absolute()} is missing, which says how WebVision numbers its classes')
    webvision = [line.split()[0] for line in synsets.read_text(encoding='utf-8').splitlines() if line.strip()]
    folder = data / 'imagenet/train'
    imagenet = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else sorted(webvision)
    if len(webvision) != _CLASSES or webvision != imagenet:
        pairs = enumerate(zip(webvision, imagenet))
        first = next((f'class {i} is {a} in one and {b} in the other' for i, (a, b) in pairs if a != b), '')
        counts = f'{len(webvision)} classes in {synsets}, {len(imagenet)} in {folder}, expected {_CLASSES} of both'
        raise UsageError(
            f'WebVision and ImageNet number their classes differently, so a network of one says nothing on the other: '
            f'{first or counts}'
        )
