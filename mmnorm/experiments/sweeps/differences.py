"""How far each norm is from another in the same set, in points and in standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from .areas import bootstrap
from .summary import Group


@dataclass(frozen=True)
class Difference:
    """Of a norm to the base of its set, each with its runs.

    Attributes:
        group: Of the norm.
        base: Of the base.
    """

    group: Group
    base: Group

    @property
    def points(self) -> float:
        """Of the means over the seeds."""
        return self.group.mean - self.base.mean

    @property
    def error(self) -> float | None:
        """Standard error of that over seeds, sqrt(s1²/n1 + s2²/n2); None where one of both has one seed."""
        errors = [
            group.spread / math.sqrt(len(group.values)) for group in (self.group, self.base) if group.spread is not None
        ]
        return math.hypot(*errors) if len(errors) == 2 else None

    @property
    def over_images(self) -> float | None:
        """Standard error of that over images, by bootstrap, both on the same images; None where areas are not kept."""
        areas, base = ([record.areas for record in group.records] for group in (self.group, self.base))
        return bootstrap(areas, base) if all(areas) and all(base) else None


def differences(groups: Sequence[Group], base: str) -> list[Difference]:
    """Of every norm to ``base``, in every set that has it.

    Args:
        groups: Each norm once a set, at the rate that it is compared at.
        base: Name of a norm in the plan.

    Raises:
        UsageError: If no set has it.
    """
    bases = {group.records[0].run.group: group for group in groups if group.records[0].run.norm == base}
    if not bases:
        known = ', '.join(dict.fromkeys(group.records[0].run.norm for group in groups))
        raise UsageError(f'no run of {base} is done; the table has {known or "none"}')
    return [
        Difference(group, bases[group.records[0].run.group])
        for group in groups
        if group.records[0].run.group in bases and group.records[0].run.norm != base
    ]


def markdown(found: Sequence[Difference]) -> str:
    """A table: set, both norms with their rates and values, points between them, and the errors of those."""
    lines = [
        '| set | norm, rate | at the end | base, rate | at the end | points | over seeds | over images |',
        '| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |',
    ]
    for difference in found:
        cells = [difference.group.records[0].run.group]
        for group in (difference.group, difference.base):
            run = group.records[0].run
            cells += [f'{run.norm}, {run.rate:g}', group.over_seeds()]
        cells += [f'{difference.points:+.2f}', _errors(difference.points, difference.error)]
        cells.append(_errors(difference.points, difference.over_images))
        lines.append(f'| {" | ".join(cells)} |')
    note = 'Over seeds, over images: standard error of the difference, and how many of them it is.'
    return '\n'.join([*lines, '', note]) + '\n'


def _errors(points: float, error: float | None) -> str:
    if error is None:
        return ''
    return f'{error:.2f}, {abs(points) / error:.1f} times' if error > 1e-9 else '0'
