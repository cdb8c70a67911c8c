"""The version of mmnorm, in one place, and how those of other packages compare."""

import re

__version__ = '0.1.0'


def is_older(version: str, oldest: tuple[int, int]) -> bool:
    """Whether a version such as '2.1.2+cu121' comes before a major and minor number.

    One without numbers does not: somebody has built it, who knows what it is.
    """
    numbers = re.match(r'(\d+)\.(\d+)', version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < oldest
