"""What is too old for mmnorm is refused here, at import, before anything of it is used.

What newer versions have been run with is in docs/installation.md.
"""

import re

import torch

from .version import __version__

# The oldest that the tests were run with, as setup.py says too.
PYTORCH = (2, 1)
MMENGINE = (0, 10)


def check_version(package: str, found: str, oldest: tuple[int, int], remedy: str) -> None:
    """Refuse a version of a package that is older than the oldest that will do.

    Args:
        package: Its name, for the message.
        found: The version that is installed, e.g. '2.1.2+cu121'.
        oldest: Major and minor number of the oldest one that will do.
        remedy: What to do about it, a sentence.

    Raises:
        ImportError: If it is older.
    """
    numbers = re.match(r'(\d+)\.(\d+)', found)
    # A version without numbers is one that somebody has built, who knows what it is.
    if numbers and (int(numbers[1]), int(numbers[2])) < oldest:
        needed = '.'.join(map(str, oldest))
        raise ImportError(f'mmnorm {__version__} needs {package} {needed} or newer, but {found} is installed. {remedy}')


def check_prerequisites() -> None:
    """Refuse a PyTorch, or a mmengine where there is one, that is too old.

    Raises:
        ImportError: If one is; it says which, and what to do.
    """
    check_version('PyTorch', torch.__version__, PYTORCH, 'Upgrade it (https://pytorch.org), then install mmnorm again.')
    try:
        import mmengine
    except ImportError:
        return
    check_version(
        'mmengine',
        mmengine.__version__,
        MMENGINE,
        'Upgrade OpenMMLab (pip install -U mmengine), or uninstall mmengine: the layers need PyTorch alone.',
    )


check_prerequisites()
