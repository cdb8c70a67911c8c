"""Learning dynamics of the ratios: EN paper (2003.08761), Fig. 1a and 5."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...errors import UsageError
from ..class_names import some_of
from ..history import Curve, History
from .style import COLORS, MARKERS, SERIES, new_figure, paper_style, short_name

_LABELS = {'omega': r'$\omega$', 'beta': r'$\beta$'}


def dynamics_figure(history: History, names: list[str] | None = None, count: int = 7) -> Figure:
    """EN paper, Fig. 1a (average over all layers, first panel) and Fig. 5 (single layers) over training.

    For SN the weights, those of the variance dashed; for ILM the average omega and beta.

    Args:
        history: Of a run.
        names: Layers; ``count`` of them, evenly taken by depth, by default.
        count: Number of layers.

    Raises:
        UsageError: If a layer does not exist, or there is but one point in time.
    """
    if max(len(curve.steps) for curve in history.curves) < 2:
        raise UsageError('dynamics need at least two points in time; give more checkpoints, or a longer run')
    norm, learns = history.curves[0].norm, history.curves[0].learns
    alike = [curve for curve in history.curves if curve.norm == norm]
    curves = history.select(names) if names else some_of(alike, count)
    panels_of = [('average over layers', _average(alike)), *((short_name(curve.name), curve) for curve in curves)]
    columns = min(4, len(panels_of))
    rows = -(-len(panels_of) // columns)
    with paper_style():
        figure = new_figure(0.6 + 1.35 * rows)
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False, sharey=learns != 'affine')
        for axes, (title, curve) in zip(grid.flat, panels_of, strict=False):
            _draw(axes, curve)
            axes.set_title(title, fontsize=6.5)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for axes in grid.flat[len(panels_of) :]:
            axes.axis('off')
        for column in range(columns):
            last = max(row for row in range(rows) if row * columns + column < len(panels_of))
            grid[last, column].set_xlabel(history.unit)
            grid[last, column].tick_params(labelbottom=True)
        for axes in grid[:, 0]:
            axes.set_ylabel({'weights': 'weight', 'ratios': 'ratio', 'affine': 'average'}[learns])
        handles = _legend(panels_of[0][1])
        figure.legend(handles=handles, loc='outside upper center', ncols=len(handles))
    return figure


def _average(curves: list[Curve]) -> Curve:
    """Over the layers that have values at the steps of the first, for what any of them has."""
    first = curves[0]
    alike = [curve for curve in curves if np.array_equal(curve.steps, first.steps)]
    tags = dict.fromkeys(tag for curve in alike for tag in curve.values)
    zeros = np.zeros(len(first.steps))
    # A normalizer that is not in the pool has no importance there.
    values = {tag: np.mean([curve.values.get(tag, zeros) for curve in alike], axis=0) for tag in tags}
    return Curve('', first.norm, first.steps, values)


def _style(tag: str) -> dict:
    moment, _, normalizer = tag.rpartition('_')
    if normalizer in COLORS:
        dashed = moment == 'var'
        marker = MARKERS[normalizer]
        fill = {'markerfacecolor': 'white'} if dashed else {}
        return dict(color=COLORS[normalizer], linestyle='--' if dashed else '-', marker=marker, **fill)
    return dict(color=SERIES[list(_LABELS).index(tag)], marker='os'[list(_LABELS).index(tag)])


def _draw(axes: Axes, curve: Curve) -> None:
    every = max(1, len(curve.steps) // 8)
    for tag, values in curve.values.items():
        axes.plot(curve.steps, values, markevery=every, markersize=2.5, linewidth=1, **_style(tag))


def _legend(curve: Curve) -> list[Line2D]:
    words = {'mean': 'mean, ', 'var': 'variance, ', '': ''}
    handles = []
    for tag in curve.values:
        moment, _, normalizer = tag.rpartition('_')
        label = _LABELS.get(tag) or words[moment] + normalizer
        handles.append(Line2D([], [], label=label, markersize=3, **_style(tag)))
    return handles
