"""Ratios of single classes over training: EN paper (2003.08761), Fig. 1a and 6."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...errors import UsageError
from ..class_names import choose_classes
from ..history import steps_of
from ..record_file import Record
from .ratios import class_label, some_layers
from .style import SERIES, SERIES_MARKERS, new_figure, normalizers_of, paper_style, share, short_name


def class_dynamics_figure(
    records: list[Record], names: list[str] | None = None, classes: list[str] | None = None, count: int = 6
) -> Figure:
    """EN paper, Fig. 6: average ratios of classes over training; a row for each layer, a column for each normalizer.

    Args:
        records: With labels, in the order of training.
        names: Layers; ``count`` of them, evenly taken by depth, by default.
        classes: Names or numbers of classes; at most 7, evenly taken, by default.
        count: Number of layers.

    Raises:
        UsageError: If there is but one point in time, a record has no labels, or a layer or class does not exist.
    """
    if len(records) < 2:
        raise UsageError('dynamics need at least two points in time; give more checkpoints, or a longer run')
    layers = some_layers(records[0].per_sample(names), len(names) if names else count)
    chosen = choose_classes(records[0], classes, len(SERIES))
    steps, unit = steps_of([record.title for record in records])
    normalizers = normalizers_of(layers)
    with paper_style():
        figure = new_figure(0.7 + 1.05 * len(layers))
        grid = figure.subplots(len(layers), len(normalizers), sharex=True, squeeze=False)
        for row, layer in zip(grid, layers, strict=True):
            own = [record.per_sample([layer.name])[0] for record in records]
            for axes, normalizer in zip(row, normalizers, strict=True):
                for index, label in enumerate(chosen):
                    averages = [
                        share(one, one.values['ratios'][record.labels == label].mean(0, dtype=np.float64), normalizer)
                        for record, one in zip(records, own, strict=True)
                    ]
                    axes.plot(steps, averages, markersize=2.5, linewidth=1, **_style(index))
                axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            row[0].set_ylabel(short_name(layer.name), fontsize=6.5)
        for axes, normalizer in zip(grid[0], normalizers, strict=True):
            axes.set_title(f'ratio of {normalizer}')
        for axes in grid[-1]:
            axes.set_xlabel(unit)
        handles = [
            Line2D([], [], label=class_label(records[0], label), markersize=3, **_style(index))
            for index, label in enumerate(chosen)
        ]
        figure.legend(handles=handles, loc='outside upper center', ncols=min(len(handles), 4))
    return figure


def _style(index: int) -> dict:
    return dict(color=SERIES[index % len(SERIES)], marker=SERIES_MARKERS[index % len(SERIES_MARKERS)])
