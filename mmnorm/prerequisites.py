"""What is too old for mmnorm is refused here, at import, before anything of it is used.

What it has been run with is in docs/installation.md.
"""

import torch

from .version import __version__, is_older

# The oldest ones that it was run with; setup.py names them too.
PYTORCH = (2, 1)
MMENGINE = (0, 10)


def check_version(package: str, version: str, oldest: tuple[int, int], remedy: str) -> None:
    """Refuse a package that is too old.

    Args:
        package: Its name, for the message.
        version: The version that is installed.
        oldest: Major and minor number of the oldest one that will do.
        remedy: What to do about it.

    Raises:
        ImportError: If it is older.
    """
    if is_older(version, oldest):
        needed = '.'.join(map(str, oldest))
        raise ImportError(
            f'mmnorm {__version__} needs {package} {needed} or newer, but {version} is installed. {remedy}'
        )


def check_prerequisites() -> None:
    """Refuse a PyTorch that is too old, and a mmengine, where there is one.

    Raises:
        ImportError: If one is; it says which, and what to do.
    """
    check_version('PyTorch', torch.__version__, PYTORCH, 'Upgrade PyTorch, then install mmnorm again.')
    try:
        import mmengine
    except ImportError:
        return
    remedy = 'Upgrade it (pip install -U mmengine), or uninstall it: the layers need PyTorch alone.'
    check_version('mmengine', mmengine.__version__, MMENGINE, remedy)


check_prerequisites()
