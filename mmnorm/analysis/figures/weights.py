"""Importance of the normalizers along the layers and by network part: SN paper (1806.10779), Fig. 3, 1c and 4."""

import numpy as np
from matplotlib.figure import Figure

from ...errors import UsageError
from ..network_parts import part_of
from ..record_file import LayerRecord, Record
from .style import (
    COLORS,
    layer_axis,
    mark_convs,
    new_figure,
    normalizer_legend,
    normalizers_of,
    paper_style,
    share,
    stack_bars,
)

_TITLES = {'mean': 'mean weights', 'variance': 'variance weights', 'ratio': 'average ratios'}


def weights_figure(record: Record) -> Figure:
    """SN paper, Fig. 3: the weights of mean and variance of each layer, and what convolution is before it.

    For a model with EN, and none of SN, its average ratios.

    Raises:
        UsageError: If there is neither SN nor EN.
    """
    layers = _weighted(record)
    kinds = list(layers[0].weights)
    with paper_style():
        figure = new_figure(0.8 + 1.25 * len(kinds))
        ratios = [0.12] + [1] * len(kinds)
        marks, *panels = figure.subplots(len(ratios), sharex=True, gridspec_kw=dict(height_ratios=ratios))
        for panel, kind in zip(panels, kinds, strict=True):
            stack_bars(panel, layers, [layer.weights[kind] for layer in layers])
            panel.set_ylim(0, 1)
            panel.set_ylabel(_TITLES[kind])
            layer_axis(panel, layers, label=panel is panels[-1])
        convs = mark_convs(marks, layers)
        handles = normalizer_legend(normalizers_of(layers)) + convs
        figure.legend(handles=handles, loc='outside upper center', ncols=len(handles), columnspacing=1.2)
    return figure


def parts_figure(*records: Record) -> Figure:
    """SN paper, Fig. 1c and 4: the same, averaged over the layers of each part of the network.

    Args:
        *records: Of one network or several, e.g. trained with different batches; their titles stand before the parts.

    Raises:
        UsageError: If there is neither SN nor EN, or SN in one and EN in another.
    """
    parts: dict[str, list[LayerRecord]] = {}
    for record in records:
        for layer in _weighted(record):
            title = f'{record.title}: ' if len(records) > 1 else ''
            parts.setdefault(f'{title}{part_of(layer.name)}', []).append(layer)
    layers = [layer for members in parts.values() for layer in members]
    kinds = list(layers[0].weights)
    if len({layer.learns for layer in layers}) > 1:
        raise UsageError('weights of SN and ratios of EN are not the same thing; give checkpoints of one of them')
    normalizers = normalizers_of(layers)
    with paper_style():
        figure = new_figure(0.75 + 0.3 * len(parts))
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for panel, kind in zip(panels, kinds, strict=True):
            left = np.zeros(len(parts))
            for normalizer in normalizers:
                averages = np.array(
                    [np.mean([share(x, x.weights[kind], normalizer) for x in members]) for members in parts.values()]
                )
                panel.barh(range(len(parts)), averages, 0.75, left=left, color=COLORS[normalizer], linewidth=0)
                for row, (begin, width) in enumerate(zip(left, averages, strict=True)):
                    if width > 0.09:
                        color = 'black' if normalizer in ('LN', 'GN') else 'white'
                        style = dict(ha='center', va='center', fontsize=6.5, color=color)
                        panel.text(begin + width / 2, row, f'{width:.2f}', **style)
                left += averages
            panel.set_xlim(0, 1)
            panel.set_xlabel(_TITLES[kind])
        labels = [f'{part} ({len(members)})' for part, members in parts.items()]
        panels[0].set_yticks(range(len(parts)), labels)
        panels[0].invert_yaxis()
        handles = normalizer_legend(normalizers)
        figure.legend(handles=handles, loc='outside upper center', ncols=len(handles))
    return figure


def _weighted(record: Record) -> list[LayerRecord]:
    layers = record.that_learn('weights', 'ratios')
    return [layer for layer in layers if layer.learns == 'weights'] or layers
