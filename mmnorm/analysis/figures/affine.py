"""The omega and beta that ILM (1904.03516) predicts: their distribution along the layers, and against the base's."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...errors import UsageError
from ..histogram import quantiles
from ..record_file import LayerRecord, Record
from .style import SERIES, layer_axis, new_figure, paper_style

_SYMBOLS = {'omega': r'$\omega$', 'beta': r'$\beta$'}
_OWN = {'omega': r'$B_\omega$', 'beta': r'$B_\beta$'}
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def affine_figure(
    record: Record, base: Mapping[str, np.ndarray] | None = None, base_title: str = 'base network'
) -> Figure:
    """Distribution of the predicted omega and beta of each layer, over samples and channels.

    Boxes are quartiles, lines the 5th to 95th percentile. Beside them what a norm without prediction has: the gamma
    and beta of ``base``, or else B_omega and B_beta, the part of ILM that does not depend on the sample. The last
    panel is the standard deviation over samples, averaged over channels: how much of it is of the instance.

    Args:
        record: With ILM.
        base: Weights of the network with the base normalizer alone (a state dict), names as in the record except for
            bn1, gn1 and such.
        base_title: Its name in the legend.

    Raises:
        UsageError: If there is no ILM, or ``base`` has no layer in common with the record.
    """
    layers = record.that_learn('affine')
    plain = _base_values(layers, base)
    with paper_style():
        figure = new_figure(4.3)
        panels = figure.subplots(3, sharex=True, gridspec_kw=dict(height_ratios=[1.3, 1.3, 0.8]))
        x = np.arange(1, len(layers) + 1)
        for panel, name in zip(panels, _SYMBOLS, strict=False):
            boxes = [quantiles(v.values[f'{name}_counts'], v.values[f'{name}_edges'], _QUANTILES) for v in layers]
            others = [np.quantile(v, _QUANTILES) if v is not None else np.full(5, np.nan) for v in plain[name]]
            span = np.nanmax(boxes + others) - np.nanmin(boxes + others)
            _boxes(panel, x - 0.2, boxes, SERIES[0], span)
            _boxes(panel, x + 0.2, others, SERIES[1], span)
            panel.set_ylabel(_SYMBOLS[name])
            layer_axis(panel, layers, label=False)
        handles: list[Artist] = [
            Patch(color=SERIES[0], label=r'ILM: predicted $\omega$, $\beta$'),
            Patch(
                color=SERIES[1],
                label=rf'{base_title}: $\gamma$, $\beta$' if base is not None else r'ILM: $B_\omega$, $B_\beta$ alone',
            ),
        ]
        for index, name in enumerate(_SYMBOLS):
            deviation = [layer.values[f'{name}_std'].mean() for layer in layers]
            style: dict[str, Any] = dict(color=SERIES[2 + index], marker='os'[index], markersize=2.5)
            panels[2].plot(x, deviation, **style)
            handles.append(Line2D([], [], label=f'std of {_SYMBOLS[name]}', **style))
        panels[2].set_ylabel('std over\nsamples')
        panels[2].set_ylim(bottom=0)
        layer_axis(panels[2], layers)
        figure.legend(handles=handles, loc='outside upper center', ncols=len(handles))
    return figure


def _boxes(axes: Axes, x: np.ndarray, rows: list[np.ndarray], color: str, span: float) -> None:
    low, first, middle, third, high = np.array(rows).T
    axes.vlines(x, low, high, color=color, linewidth=0.7)
    # With an edge, a box that has no height is a line.
    axes.bar(x, third - first, 0.34, bottom=first, color=color, edgecolor=color, linewidth=0.9)
    tall = third - first > 0.04 * span
    axes.hlines(middle[tall], x[tall] - 0.17, x[tall] + 0.17, color='white', linewidth=0.9)


def _base_values(layers: list[LayerRecord], base: Mapping[str, np.ndarray] | None) -> dict[str, list]:
    if base is None:
        return {name: [layer.values[f'base_{name}'] for layer in layers] for name in _SYMBOLS}
    known = {_without_abbreviation(key): np.asarray(value) for key, value in base.items()}
    values = {}
    for name, parameter in {'omega': 'weight', 'beta': 'bias'}.items():
        found = [known.get(_without_abbreviation(f'{layer.name}.{parameter}')) for layer in layers]
        fits = zip(found, layers, strict=True)
        values[name] = [v if v is not None and v.shape == (layer.channels,) else None for v, layer in fits]
    if all(value is None for value in values['omega']):
        raise UsageError(
            f'the base has no layer in common with the record: expected e.g. {layers[0].name}.weight of '
            f'{layers[0].channels} values, it has {", ".join(list(base)[:3])}, ...'
        )
    return values


def _without_abbreviation(key: str) -> str:
    """Norms that stand in each other's place are called bn1, gn1, in1 or ln1."""
    return re.sub(r'(^|\.|_)(bn|gn|in|ln)(?=\d*\.)', r'\1norm', key)
