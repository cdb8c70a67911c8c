"""Losses, or rewards, over training, of several runs: SN paper (1806.10779), Fig. 6."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...errors import UsageError
from ..losses import Losses
from .style import SERIES, SERIES_MARKERS, new_figure, paper_style

# A loss that falls by more than this is seen on a logarithmic scale.
_SPAN = 20
_COLUMNS = 3


def losses_figure(runs: Sequence[Losses], names: Sequence[str] | None = None, smooth: int = 1) -> Figure:
    """SN paper, Fig. 6: a panel for each loss, a line for each run.

    Args:
        runs: The runs.
        names: Losses, as they are logged; all that the runs have by default.
        smooth: Each point is the average of so many, the last of them its own.

    Raises:
        UsageError: If no run has a loss of such a name, or a run has but one point.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.values))
    for name in names or ():
        if name not in known:
            raise UsageError(f'no loss is called {name!r}; there are {", ".join(known)}')
    if smooth < 1:
        raise UsageError(f'--smooth: expected at least 1, got {smooth}')
    if max(len(values) for run in runs for values in run.values.values()) < 2:
        raise UsageError('curves need at least two points in time; log more often (default_hooks.logger.interval)')
    shown = list(names or known)
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    styles: list[dict[str, Any]] = [
        dict(color=SERIES[i % len(SERIES)], marker=SERIES_MARKERS[i % len(SERIES_MARKERS)]) for i in range(len(runs))
    ]
    with paper_style():
        figure = new_figure(0.4 + 1.7 * rows)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, shown, strict=False):
            for run, style in zip(runs, styles, strict=True):
                if name in run.values:
                    values = _average(run.values[name], smooth)
                    every = max(1, len(values) // 6)
                    axes.plot(run.steps[name], values, markevery=every, markersize=2.5, linewidth=1, **style)
            present = np.concatenate([run.values[name] for run in runs if name in run.values])
            if present.min() > 0 and present.max() > _SPAN * present.min():
                axes.set_yscale('log')
            axes.set_title(name.replace('_', ' '))
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.set_xlabel('iteration')
        for axes in list(grid.flat)[len(shown) :]:
            axes.axis('off')
        handles = [
            Line2D([], [], label=run.title, markersize=3, **style) for run, style in zip(runs, styles, strict=True)
        ]
        figure.legend(handles=handles, loc='outside upper center', ncols=min(len(handles), 6))
    return figure


def _average(values: np.ndarray, smooth: int) -> np.ndarray:
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - smooth, 0)
    return (total[ends] - total[begins]) / (ends - begins)
