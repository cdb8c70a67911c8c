"""What came of runs, beside the papers' figures: a table with mean and spread over seeds, bars, and curves."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..analysis.figures.style import SERIES, new_figure, paper_style
from ..errors import UsageError
from .catalogue import Catalogue, Experiment, Metric
from .folders import RunFolder, run_folder, seeds_of

# What a classifier reports of the batches of training, by what it reports of validation.
_TRAINING = {'accuracy/top1': 'accuracy_top-1'}


@dataclass(frozen=True)
class Cell:
    """A figure of a row.

    Attributes:
        metric: Which.
        paper: What the paper has: a number, or text, or None.
        values: What the runs have that have ended, one a seed.
        under_way: What those have that have not.
    """

    metric: Metric
    paper: float | str | None
    values: tuple[float, ...]
    under_way: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, of a sample; None for less than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """The mean less the paper's figure."""
        if self.mean is None or not isinstance(self.paper, int | float):
            return None
        return self.mean - self.paper

    def here(self) -> str:
        """As text: '76.9', or '76.9 ± 0.1 (3)' for three seeds; '(under way: 60.1)' for a run that has not ended."""
        words = []
        if self.mean is not None:
            spread = '' if self.spread is None else f' ± {self.spread:.2f} ({len(self.values)})'
            words.append(f'{self.mean:.2f}{spread}')
        if self.under_way:
            words.append(f'(under way: {", ".join(f"{value:.2f}" for value in self.under_way)})')
        return ' '.join(words)


@dataclass(frozen=True)
class Line:
    """A row with its figures."""

    experiment: Experiment
    cells: tuple[Cell, ...]


def gather(catalogue: Catalogue, rows: Sequence[Experiment], root: Path, code: bool = False) -> list[Line]:
    """Collect what the runs of these rows have left below ``root``."""
    lines = []
    for row in rows:
        source = catalogue.run_of(row)
        folders = [run_folder(root, source, seed, code) for seed in seeds_of(root, source, code)]
        ended = [folder for folder in folders if folder.ended(source)]
        under_way = [folder for folder in folders if folder not in ended]
        names = [name for name in (row.paper or source.paper) if name != 'note'] or _reported(catalogue, folders)
        cells = []
        for name in names:
            metric = catalogue.metrics[name]
            values = (_figures(metric, some) for some in (ended, under_way))
            cells.append(Cell(metric, row.paper.get(name), *values))
        lines.append(Line(row, tuple(cells)))
    return lines


def _drawable(catalogue: Catalogue, row: Experiment) -> list[Metric]:
    """The figures of a row that are logged over training."""
    metrics = [catalogue.metrics[name] for name in row.paper if name != 'note']
    return [metric for metric in metrics if metric.log and not metric.tta]


def _figures(metric: Metric, folders: Sequence[RunFolder]) -> tuple[float, ...]:
    values = [folder.figure(metric) for folder in folders]
    return tuple(value for value in values if value is not None)


def _reported(catalogue: Catalogue, folders: Sequence[RunFolder]) -> list[str]:
    """The metrics that runs report, of a row that no paper has: of accuracy and error, the one that comes first."""
    names: dict[tuple, str] = {}
    for name, metric in catalogue.metrics.items():
        if _figures(metric, folders):
            names.setdefault((metric.log, metric.tta), name)
    return list(names.values())


def markdown(catalogue: Catalogue, lines: Sequence[Line]) -> str:
    """A table: row, figure, the paper's, what is here, the difference."""
    text = ['| experiment | row | figure | paper | here | difference |', '| --- | --- | --- | ---: | ---: | ---: |']
    for line in lines:
        for cell in line.cells:
            paper = '' if cell.paper is None else str(cell.paper)
            difference = '' if cell.difference is None else f'{cell.difference:+.2f}'
            row = line.experiment
            text.append(f'| {row.id} | {row.row} | {cell.metric.label} | {paper} | {cell.here()} | {difference} |')
    seeds = 'Here: mean ± standard deviation (number of seeds), a value alone of one seed; empty where nothing was run.'
    sources = sorted({line.experiment.source for line in lines})
    papers = ', '.join(f'{s}: {catalogue.papers[s]["title"]}, {catalogue.papers[s]["version"]}' for s in sources)
    return '\n'.join([*text, '', f'{seeds} {papers}.']) + '\n'


def bars_figure(lines: Sequence[Line]) -> Figure:
    """The first figure of each row: the paper's as an outline, what is here filled, with its spread.

    Rows whose first figures are not the same kind have panels of their own.

    Raises:
        UsageError: If no row has a number.
    """
    panels: dict[Metric, list[tuple[Experiment, Cell]]] = {}
    for line in lines:
        cell = next((c for c in line.cells if isinstance(c.paper, int | float) or c.values), None)
        if cell is not None:
            panels.setdefault(cell.metric, []).append((line.experiment, cell))
    if not panels:
        raise UsageError('there is nothing to draw: no row has a figure, of the paper or of a run')
    one_table = len({row.table.id for shown in panels.values() for row, _ in shown}) == 1
    with paper_style():
        figure = new_figure(0.4 + sum(0.5 + 0.22 * len(shown) for shown in panels.values()))
        heights = [len(shown) for shown in panels.values()]
        grid = figure.subplots(len(panels), squeeze=False, gridspec_kw={'height_ratios': heights})[:, 0]
        for axes, (metric, shown) in zip(grid, panels.items(), strict=True):
            names = [row.row if one_table else f'{row.table.id}: {row.row}' for row, _ in shown]
            _bars(axes, names, [cell for _, cell in shown])
            axes.set_xlabel(metric.label)
        handles = [Patch(fill=False, edgecolor='0.2', label='paper'), Patch(color=SERIES[0], label='here')]
        figure.legend(handles=handles, loc='outside upper center', ncols=2)
    return figure


def _bars(axes: Axes, names: Sequence[str], cells: Sequence[Cell]) -> None:
    for index, cell in enumerate(cells):
        if isinstance(cell.paper, int | float):
            axes.barh(index, cell.paper, 0.75, fill=False, edgecolor='0.2', linewidth=0.8)
        if cell.mean is not None:
            axes.barh(index, cell.mean, 0.45, xerr=cell.spread, color=SERIES[0], error_kw=dict(lw=0.8, capsize=2))
    axes.set_yticks(range(len(cells)), names)
    axes.set_ylim(len(cells) - 0.4, -0.6)
    numbers = [v for cell in cells for v in (cell.paper, cell.mean) if isinstance(v, int | float)]
    low, high = min(numbers), max(numbers)
    margin = 0.15 * (high - low) or 1
    axes.set_xlim(max(0.0, low - margin) if low >= 0 else low - margin, high + margin / 2)


def curves_figure(
    catalogue: Catalogue, rows: Sequence[Experiment], root: Path, code: bool = False, training: bool = False
) -> Figure:
    """The first figure of each row over training, of its first seed; ``training``: that of the training data too.

    Raises:
        UsageError: If no run has logged any.
    """
    named = [metric for row in rows for metric in _drawable(catalogue, catalogue.run_of(row))]
    drawn = []
    for row in rows:
        source = catalogue.run_of(row)
        for seed in seeds_of(root, source, code)[:1]:
            folder = run_folder(root, source, seed, code)
            # A row that the paper has no figure of is drawn as the others are.
            metrics = _drawable(catalogue, source) or named or list(catalogue.metrics.values())
            metric = next((metric for metric in metrics if metric.log and folder.curve(metric.log)), None)
            if metric is not None and metric.log is not None:
                drawn.append((row, metric, metric.log, folder))
    if not drawn:
        raise UsageError(f'no run of {", ".join(row.id for row in rows)} has been evaluated below {root}')
    with paper_style():
        figure = new_figure(3.0)
        axes = figure.subplots()
        for index, (row, metric, key, folder) in enumerate(drawn):
            color = SERIES[index % len(SERIES)]
            steps, values = zip(*folder.curve(key), strict=True)
            axes.plot(steps, [metric.convert(value) for value in values], color=color, label=row.row)
            train = folder.training_curve(_TRAINING[key]) if training and key in _TRAINING else []
            if train:
                steps, values = zip(*train, strict=True)
                converted = [metric.convert(value) for value in values]
                axes.plot(steps, converted, color=color, linestyle='--', linewidth=0.8)
        axes.set_ylabel(drawn[0][1].label)
        axes.set_xlabel(drawn[0][3].unit + ('; dashed: training' if training else ''))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return figure
