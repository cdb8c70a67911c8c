"""What the checks say: a finding, and names of layers in few words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# Layers that a finding names; the page has all of them.
NAMED = 6


@dataclass
class Finding:
    """One thing that is wrong, and what to do about it.

    Attributes:
        check: Which check has found it, e.g. 'values'.
        title: In a line.
        layers: Names of the layers that it concerns, in the order of the network; empty if it is about the whole.
        found: What was seen of them, with numbers.
        why: Why it matters, and which figure says so.
        remedies: What to write or to call, each a line that can be copied; the first is what we would do.
        link: Where the documentation has more, e.g. 'docs/training.md#batch-average'.
    """

    check: str
    title: str
    layers: Sequence[str]
    found: str
    why: str
    remedies: list[str] = field(default_factory=list)
    link: str = ''


def name_some(names: Iterable[str]) -> str:
    """Names in a line: the first few, and how many there are."""
    names = list(names)
    more = len(names) - NAMED
    return ', '.join(names[:NAMED]) + (f' and {more} more' if more > 0 else '')


def count_of(number: int, what: str = 'norm') -> str:
    """'1 norm', '2 norms'."""
    return f'{number} {what}' if number == 1 else f'{number} {what}s'
