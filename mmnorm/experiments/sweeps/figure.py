"""Figures of a sweep: the metric by rate, or by norm, and losses and metric over training."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...analysis.figures.style import SERIES, new_figure, paper_style
from .summary import Group, of_sets, sum_up
from .table import Record


def rates_figure(records: Sequence[Record], metrics: Mapping[str, str], sets: Sequence[str] = ()) -> Figure:
    """The metric by rate: a panel for each set, a line through the means of each norm, a point for each run.

    Raises:
        UsageError: If there is nothing to draw.
    """

    def draw(axes: Axes, groups: Sequence[Group], color: str) -> None:
        rates = [group.records[0].run.rate for group in groups]
        axes.plot(rates, [group.mean for group in groups], color=color, label=groups[0].records[0].run.norm)
        for rate, group in zip(rates, groups, strict=True):
            axes.plot([rate] * len(group.values), group.values, '.', color=color, markersize=4)
        axes.set_xscale('log')

    return _panels(sum_up(records), sets, draw, 'rate', metrics)


def norms_figure(records: Sequence[Record], metrics: Mapping[str, str], sets: Sequence[str] = ()) -> Figure:
    """The metric of each norm at its best rate: a point for each seed, mean and standard deviation beside them.

    Raises:
        UsageError: If there is nothing to draw.
    """

    def draw(axes: Axes, groups: Sequence[Group], color: str) -> None:
        for group in groups:
            name = group.records[0].run.norm
            axes.plot([name] * len(group.values), group.values, '.', color=color, markersize=4, alpha=0.6)
            axes.errorbar([name], [group.mean], group.spread or 0, fmt='_', color=color, capsize=4, markersize=14)
        axes.tick_params('x', rotation=20)

    return _panels(sum_up(records, best=True), sets, draw, '', metrics)


def curves_figure(records: Sequence[Record], metrics: Mapping[str, str], sets: Sequence[str] = ()) -> Figure:
    """Losses over training, averaged over seeds, of each norm at its best rate.

    Raises:
        UsageError: If there is nothing to draw.
    """
    return _over_training(records, 'loss', defaultdict(lambda: 'loss'), sets)


def validations_figure(records: Sequence[Record], metrics: Mapping[str, str], sets: Sequence[str] = ()) -> Figure:
    """The metric over training, averaged over seeds, of each norm at its best rate.

    Raises:
        UsageError: If there is nothing to draw.
    """
    return _over_training(records, 'validation', metrics, sets)


def _over_training(records: Sequence[Record], curve: str, ylabels: Mapping[str, str], sets: Sequence[str]) -> Figure:
    def draw(axes: Axes, groups: Sequence[Group], color: str) -> None:
        for group in groups:
            curves = [dict(getattr(record, curve)) for record in group.records]
            steps = [step for step in curves[0] if all(step in curve for curve in curves)]
            means = [statistics.fmean(curve[step] for curve in curves) for step in steps]
            axes.plot(steps, means, color=color, label=f'{group.records[0].run.norm} at {group.records[0].run.rate:g}')

    return _panels(sum_up(records, best=True), sets, draw, 'iteration', ylabels)


def _panels(groups: Sequence[Group], sets: Sequence[str], draw, xlabel: str, ylabels: Mapping[str, str]) -> Figure:
    shown = of_sets(groups, sets)
    norms = list(dict.fromkeys(group.records[0].run.norm for group in groups))
    with paper_style():
        figure = new_figure(2.6 * len(shown))
        for axes, (name, of_set) in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown.items(), strict=True):
            for index, norm in enumerate(norms):
                of_norm = [group for group in of_set if group.records[0].run.norm == norm]
                if of_norm:
                    draw(axes, of_norm, SERIES[index % len(SERIES)])
            axes.set_title(name)
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabels[name])
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
    return figure
