"""What a table says: of each set, norm and rate the mean over the seeds, their spread and their number."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ...errors import UsageError
from .areas import bootstrap
from .table import Record


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        records: One or more, by seed.
    """

    records: tuple[Record, ...]

    @property
    def values(self) -> list[float]:
        """The metric at the end, by seed."""
        return [record.value for record in self.records]

    @property
    def mean(self) -> float:
        """Of the metric."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, of a sample; None for less than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def loss(self) -> float:
        """The loss of training over the last tenth, averaged over the seeds; NaN where none was logged."""
        ends = []
        for record in self.records:
            last = [loss for step, loss in record.loss if step > 0.9 * record.run.iterations]
            ends.append(statistics.fmean(last) if last else float('nan'))
        return statistics.fmean(ends)

    @cached_property
    def over_images(self) -> float | None:
        """Standard error of the mean over images, by bootstrap; None where areas of images are not kept."""
        areas = [record.areas for record in self.records]
        return bootstrap(areas) if all(areas) else None

    def here(self) -> str:
        """As text: '43.30' of one seed, '43.30 ± 0.41 (3)' of three, and the error over images, if it is known."""
        return self.over_seeds() + ('' if self.over_images is None else f', images ± {self.over_images:.2f}')

    def over_seeds(self) -> str:
        """The same without the images."""
        return f'{self.mean:.2f}' + ('' if self.spread is None else f' ± {self.spread:.2f} ({len(self.values)})')

    def ratios(self) -> str:
        """Mean ratios at the end, averaged over the seeds: 'IN 0.50, LN 0.20, BN 0.30'; empty without any."""
        tags = {tag: [r.ratios[tag] for r in self.records if tag in r.ratios] for tag in self.records[0].ratios}
        return ', '.join(f'{tag.partition("/")[2]} {statistics.fmean(values):.2f}' for tag, values in tags.items())


def sum_up(records: Sequence[Record], best: bool = False) -> list[Group]:
    """Put runs together that differ in their seed alone.

    Args:
        records: Of a table.
        best: Of runs that differ in their rate too, those at the rate whose mean is highest alone, among the rates that
            have the most seeds: one seed may be high by chance.

    Returns:
        In the order of set, norm and rate, sets and norms as they come first in the table.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(replace(record.run, seed=0).key, []).append(record)
    found = [Group(tuple(sorted(some, key=lambda record: record.run.seed))) for some in groups.values()]
    if best:
        leading: dict[str, Group] = {}
        for group in found:
            alike = replace(group.records[0].run, seed=0, rate=0.0).key
            leading[alike] = max(leading.get(alike, group), group, key=lambda g: (len(g.values), g.mean))
        found = list(leading.values())
    sets = list(dict.fromkeys(record.run.group for record in records))
    norms = list(dict.fromkeys(record.run.norm for record in records))

    def place(group: Group) -> tuple:
        run = group.records[0].run
        return sets.index(run.group), norms.index(run.norm), run.rate

    return sorted(found, key=place)


def of_sets(groups: Sequence[Group], sets: Sequence[str]) -> dict[str, list[Group]]:
    """Groups by set, in the order of ``sets``; all sets if that is empty.

    Raises:
        UsageError: If no run of one of them is done, or none at all.
    """
    present: dict[str, list[Group]] = {}
    for group in groups:
        present.setdefault(group.records[0].run.group, []).append(group)
    missing = [name for name in sets if name not in present]
    if missing or not present:
        raise UsageError(
            f'no run of {", ".join(missing) or "the plan"} is done; there are runs of: {", ".join(present) or "none"}'
        )
    return {name: present[name] for name in sets or present}


def markdown(groups: Sequence[Group], metrics: Mapping[str, str]) -> str:
    """A table: set, norm, rate, metric (``metrics``: its name by set), its value, the loss of training, ratios."""
    lines = [
        '| set | norm | rate | metric | at the end | loss | mean ratios |',
        '| --- | --- | ---: | --- | ---: | ---: | --- |',
    ]
    for group in groups:
        run = group.records[0].run
        cells = [
            run.group,
            run.norm,
            f'{run.rate:g}',
            metrics[run.group],
            group.here(),
            f'{group.loss:.3f}',
            group.ratios(),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    note = 'Mean ± standard deviation (number of seeds), a value alone of one seed; loss: of training, its last tenth.'
    if any(group.over_images is not None for group in groups):
        note += ' Images ±: standard error of the mean over the validation images, by bootstrap.'
    return '\n'.join([*lines, '', note]) + '\n'
