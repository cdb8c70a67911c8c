"""What a conversion did, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Conversion:
    """One layer that was replaced.

    Attributes:
        name: Path of the layer in the model; the first one where it is shared.
        old: Name of the class that was replaced.
        new: Name of the class that took its place.
        exact: Whether the new layer computes what the old one computed, up to rounding.
        note: What was added or dropped on the way; may be empty.
    """

    name: str
    old: str
    new: str
    exact: bool
    note: str = ''


@dataclass(frozen=True)
class LeftAlone:
    """One norm layer that stayed.

    Attributes:
        name: Path of the layer in the model.
        type: Name of its class.
        reason: Why it stayed.
    """

    name: str
    type: str
    reason: str


@dataclass
class ConversionReport:
    """What :func:`convert_norm` or :func:`revert_norm` did: ``len`` counts the replaced layers, ``print`` sums up.

    A layer that stands at several places of the model counts once.

    Attributes:
        converted: The replaced layers, in the order of the model.
        left_alone: The norm layers that stayed, with the reason.
    """

    converted: list[Conversion] = field(default_factory=list)
    left_alone: list[LeftAlone] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.converted)

    def __iter__(self) -> Iterator[Conversion]:
        return iter(self.converted)

    def __str__(self) -> str:
        lines = [f'{len(self.converted)} norm layers replaced, {len(self.left_alone)} left alone']
        for (old, new, exact, note), names in _group(self.converted, ('old', 'new', 'exact', 'note')):
            remarks = ', '.join(filter(None, ['same function' if exact else '', note]))
            lines.append(f'  {old} -> {new}: {_names(names)}' + (f' ({remarks})' if remarks else ''))
        for (type_name, reason), names in _group(self.left_alone, ('type', 'reason')):
            lines.append(f'  {type_name} stays: {_names(names)}: {reason}')
        return '\n'.join(lines)


def _group(entries: list, keys: tuple[str, ...]):
    groups: dict[tuple, list[str]] = {}
    for entry in entries:
        groups.setdefault(tuple(getattr(entry, key) for key in keys), []).append(entry.name)
    return groups.items()


def _names(names: list[str], shown: int = 3) -> str:
    text = ', '.join(names[:shown])
    return text if len(names) <= shown else f'{text} and {len(names) - shown} more'
