"""Classes as a user names them: by name, by the first of several names, or by number."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ..errors import UsageError
from .record_file import Record

T = TypeVar('T')


def find_classes(wanted: Iterable[str], names: Mapping[int, str], where: str = 'the record') -> list[int]:
    """The numbers of classes.

    Args:
        wanted: A name, the first of several ('flute' for 'flute, transverse flute'), or a number each.
        names: Of the classes that there are samples of, by number.
        where: What the samples are of, for the message.

    Raises:
        UsageError: If there is no such class, or two of that name.
    """
    found = []
    for text in wanted:
        exact = [label for label, name in names.items() if text in (name, str(label))]
        matches = exact or [label for label, name in names.items() if text.lower() == first_name(name).lower()]
        if not matches:
            there = some_names(list(names.values()))
            raise UsageError(f'{where} has no sample of class {text}; its {len(names)} classes are {there}')
        if len(matches) > 1:
            raise UsageError(f'several classes are called {text}: {", ".join(map(str, matches))}; give the number')
        found.append(matches[0])
    return found


def first_name(name: str) -> str:
    """ImageNet has 'great white shark, white shark, man-eater, ...'."""
    return name.partition(',')[0]


def some_names(names: Sequence[str]) -> str:
    """The first of a list, for a message."""
    return f'{", ".join(names[:30])}{", ..." if len(names) > 30 else ""}'


def class_name(record: Record, label: int) -> str:
    """Name of a class, its number where names are not known."""
    return record.classes[label] if 0 <= label < len(record.classes) else str(label)


def choose_classes(record: Record, classes: list[str] | None, most: int = 20) -> list[int]:
    """Numbers of the classes called so; without names at most so many that there are samples of, evenly taken.

    Raises:
        UsageError: If the record has no labels, or no sample of a class.
    """
    if record.labels is None:
        raise UsageError(
            f'{record.title or "the record"} has no labels, so ratios cannot be told by class. Labels come with '
            f'classification data (gt_label of mmpretrain, or (input, target) batches with integer targets); for other '
            f'data there are the figures weights, parts, layers, images, tsne.'
        )
    present = [int(label) for label in np.unique(record.labels) if label >= 0]
    if not classes:
        return some_of(present, most)
    return find_classes(classes, {label: class_name(record, label) for label in present})


def some_of(items: list[T], count: int) -> list[T]:
    """At most ``count`` of them, evenly taken, the first and last among them."""
    if len(items) <= count:
        return items
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, count)]
